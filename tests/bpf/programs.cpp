// SPDX-License-Identifier: Apache-2.0
#include "bpf/programs.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstring>
#include <map>
#include <stdexcept>

#include "bpf/coverage.hpp"
#include "core/reasons.hpp"
#include "support/bpf_objects.hpp"
#include "support/conntrack.hpp"
#include "support/frame_diff.hpp"

#ifndef BPF_F_TEST_SKB_CHECKSUM_COMPLETE
#define BPF_F_TEST_SKB_CHECKSUM_COMPLETE (1U << 2)
#endif

namespace fiplane::test {
namespace {

using Counters = std::map<std::uint32_t, fl_counter>;

}  // namespace

struct Programs::Impl {
    BpfObjects loaded;
    std::vector<std::array<bpf_object*, 2>> objects;

    [[nodiscard]] const bpf_map* map(const std::string& name) const { return loaded.map(name); }

    /// Rows that are not zero, summed over CPUs.
    [[nodiscard]] Counters counters() const {
        const auto cpus = static_cast<std::size_t>(libbpf_num_possible_cpus());
        std::vector<fl_counter> values(cpus);
        Counters out;
        for (std::uint32_t index = 0; index < std::uint32_t{FL_HOOK_COUNT} * FL_REASON_COUNT; ++index) {
            if (bpf_map__lookup_elem(map("fl_counters"), &index, sizeof(index), values.data(),
                                     cpus * sizeof(fl_counter), 0) != 0)
                throw std::runtime_error("cannot read fl_counters");
            fl_counter sum{};
            for (const auto& value : values) {
                sum.packets += value.packets;
                sum.bytes += value.bytes;
            }
            if (sum.packets != 0) out.emplace(index, sum);
        }
        return out;
    }

    [[nodiscard]] RunResult run_once(fl_hook hook, int variant, const Bytes& frame, const RunOptions& options) const {
        const bool xdp = hook == FL_HOOK_XDP_UNDERLAY;
        const bpf_program* program =
            bpf_object__next_program(objects[hook][static_cast<std::size_t>(variant)], nullptr);
        Bytes out(frame.size() + 256);
        __sk_buff skb{};
        skb.gso_size = options.gso_size;
        skb.ifindex = options.ifindex;
        skb.cb[0] = options.device;
        skb.mark = options.mark;
        xdp_md md_in{};
        xdp_md md_out{};
        md_in.data_end = static_cast<std::uint32_t>(frame.size());
        LIBBPF_OPTS(bpf_test_run_opts, opts);
        opts.data_in = frame.data();
        opts.data_size_in = static_cast<std::uint32_t>(frame.size());
        opts.data_out = out.data();
        opts.data_size_out = static_cast<std::uint32_t>(out.size());
        opts.ctx_in = xdp ? static_cast<const void*>(&md_in) : &skb;
        opts.ctx_size_in = xdp ? sizeof(md_in) : sizeof(skb);
        opts.ctx_out = xdp ? static_cast<void*>(&md_out) : &skb;
        opts.ctx_size_out = opts.ctx_size_in;
        opts.repeat = options.repeat;
        if (options.checksum_complete) opts.flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE;
        const int error = bpf_prog_test_run_opts(bpf_program__fd(program), &opts);
        if (error != 0) {
            throw std::runtime_error(fmt::format("test run of {} failed: {}{}", bpf_program__name(program),
                                                 std::strerror(-error),
                                                 error == -EBADMSG ? " (skb->csum does not match the frame)" : ""));
        }
        out.resize(opts.data_size_out);

        RunResult result{
            .action = static_cast<int>(opts.retval), .mark = xdp ? 0 : skb.mark, .duration_ns = opts.duration};
        if (xdp && md_out.data != 0) {
            fl_meta meta{};
            if (md_out.data != sizeof(meta)) throw std::runtime_error("metadata of an unexpected size");
            std::memcpy(&meta, out.data(), sizeof(meta));
            result.meta = meta;
            out.erase(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(sizeof(meta)));
        }
        result.frame = std::move(out);
        return result;
    }

    /// Which one reason rose by this frame between two readings.
    [[nodiscard]] static fl_reason counted(fl_hook hook, const Bytes& frame, const Counters& before,
                                           const Counters& after) {
        std::vector<std::uint32_t> rose;
        for (const auto& [index, row] : after) {
            const auto old = before.find(index);
            const fl_counter was = old == before.end() ? fl_counter{} : old->second;
            if (row.packets == was.packets && row.bytes == was.bytes) continue;
            rose.push_back(index);
            CHECK(row.packets == was.packets + 1);
            CHECK(row.bytes == was.bytes + frame.size());
        }
        REQUIRE(rose.size() == 1);
        CHECK(rose[0] / FL_REASON_COUNT == static_cast<std::uint32_t>(hook));
        return static_cast<fl_reason>(rose[0] % FL_REASON_COUNT);
    }
};

Programs::Programs() : impl_(std::make_unique<Impl>()) {
    load_conntrack_modules();
    for (std::size_t hook = 0; hook < FL_HOOK_COUNT; ++hook) {
        const std::string_view name = hook_name(static_cast<fl_hook>(hook));
        bpf_object* shipped = impl_->loaded.load(fmt::format(FIPLANE_BPF_OBJECTS "/{}.bpf.o", name));
        impl_->objects.push_back(
            {shipped, impl_->loaded.load(fmt::format(FIPLANE_BPF_POISONED "/{}_poisoned.bpf.o", name))});
    }
}

Programs::~Programs() = default;

Programs& Programs::loaded() {
    static Programs programs;
    return programs;
}

void Programs::clear() {
    put("fl_config", std::uint32_t{0}, fl_config{});
    for (const auto& [name, map] : impl_->loaded.maps()) {
        if (name == "fl_config" || name == "fl_counters") continue;
        Bytes key(bpf_map__key_size(map));
        while (bpf_map__get_next_key(map, nullptr, key.data(), key.size()) == 0)
            remove(name, key.data());
    }
}

RunResult Programs::run(fl_hook hook, const Bytes& frame, const RunOptions& options) {
    const Counters start = impl_->counters();
    RunResult shipped = impl_->run_once(hook, 0, frame, options);
    const Counters middle = impl_->counters();
    shipped.reason = Impl::counted(hook, frame, start, middle);
    note_covered(hook, shipped.reason);
    if (options.once) return shipped;
    const RunResult poisoned = impl_->run_once(hook, 1, frame, options);
    const fl_reason poisoned_reason = Impl::counted(hook, frame, middle, impl_->counters());

    INFO("reason " << reason_name(shipped.reason));
    CHECK(shipped.action == poisoned.action);
    CHECK(shipped.reason == poisoned_reason);
    CHECK(shipped.mark == poisoned.mark);
    const auto difference = frame_difference(shipped.frame, poisoned.frame, Freedom::kOuterPortAndId);
    if (difference) FAIL_CHECK("the program with poisoned headroom gives another frame:\n" << *difference);
    return shipped;
}

std::uint32_t Programs::run_for_time(fl_hook hook, const Bytes& frame, int repeat) {
    return impl_->run_once(hook, 0, frame, {.repeat = repeat}).duration_ns;
}

std::size_t Programs::rows(const std::string& map) const {
    const bpf_map* target = impl_->map(map);
    Bytes key(bpf_map__key_size(target));
    std::size_t count = 0;
    for (const void* at = nullptr; bpf_map__get_next_key(target, at, key.data(), key.size()) == 0; at = key.data())
        ++count;
    return count;
}

void Programs::put_fip_stat_row(const fl_fip_stat_key& key) {
    const std::vector<fl_fip_stat> zero(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    REQUIRE(bpf_map__update_elem(impl_->map("fl_fip_stats"), &key, sizeof(key), zero.data(),
                                 zero.size() * sizeof(fl_fip_stat), 0) == 0);
}

fl_fip_stat Programs::fip_stat(const fl_fip_stat_key& key) const {
    std::vector<fl_fip_stat> values(static_cast<std::size_t>(libbpf_num_possible_cpus()));
    REQUIRE(bpf_map__lookup_elem(impl_->map("fl_fip_stats"), &key, sizeof(key), values.data(),
                                 values.size() * sizeof(fl_fip_stat), 0) == 0);
    fl_fip_stat sum{};
    for (const auto& value : values) {
        sum.in_packets += value.in_packets;
        sum.in_bytes += value.in_bytes;
        sum.out_packets += value.out_packets;
        sum.out_bytes += value.out_bytes;
    }
    return sum;
}

std::uint64_t Programs::packets(fl_hook hook, fl_reason reason) const {
    const Counters all = impl_->counters();
    const auto row = all.find(std::uint32_t{hook} * FL_REASON_COUNT + reason);
    return row == all.end() ? 0 : row->second.packets;
}

bool Programs::can_test_checksum_complete() const {
    const Bytes frame(64);
    LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame.data(), .data_size_in = static_cast<__u32>(frame.size()),
                .flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE);
    const int error = bpf_prog_test_run_opts(bpf_program__fd(program(FL_HOOK_TC_TUNNEL)), &opts);
    REQUIRE((error == 0 || error == -EINVAL));
    return error == 0;
}

bpf_object* Programs::object(fl_hook hook) const {
    return impl_->objects[hook][0];
}

bpf_program* Programs::program(fl_hook hook) const {
    return bpf_object__next_program(object(hook), nullptr);
}

Programs::Size Programs::size(fl_hook hook) const {
    bpf_prog_info info{};
    std::uint32_t length = sizeof(info);
    REQUIRE(bpf_prog_get_info_by_fd(bpf_program__fd(program(hook)), &info, &length) == 0);
    return {.verified = info.verified_insns,
            .instructions = info.xlated_prog_len / static_cast<std::uint32_t>(sizeof(bpf_insn))};
}

void Programs::update(const std::string& map, const void* key, const void* value) {
    impl_->loaded.update(map, key, value);
}

void Programs::remove(const std::string& map, const void* key) {
    impl_->loaded.remove(map, key);
}

bool Programs::lookup(const std::string& map, const void* key, void* value) const {
    return impl_->loaded.lookup(map, key, value);
}

}  // namespace fiplane::test
