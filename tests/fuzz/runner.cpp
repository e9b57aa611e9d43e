// SPDX-License-Identifier: Apache-2.0
#include "fuzz/runner.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/pkt_cls.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "core/reasons.hpp"
#include "support/conntrack.hpp"
#include "support/run_process.hpp"

#ifndef BPF_F_TEST_SKB_CHECKSUM_COMPLETE
#define BPF_F_TEST_SKB_CHECKSUM_COMPLETE (1U << 2)
#endif

namespace fiplane::test {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error(what + ": " + std::strerror(errno));
}

/// Per-CPU counters and redirect state are then one CPU's.
void stay_on_this_cpu() {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) fail("cannot stay on one CPU");
}

/// Trimming padding turns CHECKSUM_COMPLETE into CHECKSUM_NONE (__skb_trim_rcsum), but a test run compares skb->csum
/// regardless.
bool may_be_trimmed(const Input& input) {
    if (input.hook == FL_HOOK_TC_ROUTER && Judge::unpadded(input).size() != input.frame.size()) return true;
    if (input.frame.size() < kEthSize + kIpSize) return false;
    const std::size_t base = input.hook == FL_HOOK_TC_UNDERLAY ? outer_size(input.frame) : 0;
    return input.frame.size() > base + kEthSize + 28 && read16(input.frame, base + 12) == kTypeArp;
}

int program_fd(bpf_object* object) {
    return bpf_program__fd(bpf_object__next_program(object, nullptr));
}

fl_record* map_record(bpf_object* object) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        if (!bpf_map__is_internal(map) || !std::string_view(bpf_map__name(map)).ends_with(".bss")) continue;
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        void* record = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
        if (record == MAP_FAILED) fail("cannot map the record of a traced object");
        return static_cast<fl_record*>(record);
    }
    throw std::runtime_error("a traced object has no record");
}

}  // namespace

Runner::Runner(const Cloud& overlay, const Cloud& routers)
    : routers_(routers), values_(static_cast<std::size_t>(libbpf_num_possible_cpus())) {
    load_conntrack_modules();
    stay_on_this_cpu();
    if (unshare(CLONE_NEWNET) != 0) fail("cannot make a network namespace");
    overlay.make_devices();
    routers.make_devices();
    for (std::size_t hook = 0; hook < programs_.size(); ++hook) {
        const std::string_view name = hook_name(static_cast<fl_hook>(hook));
        programs_[hook].shipped = program_fd(objects_.load(fmt::format(FIPLANE_BPF_OBJECTS "/{}.bpf.o", name)));
        bpf_object* traced = objects_.load(fmt::format(FIPLANE_BPF_TRACED "/{}_traced.bpf.o", name));
        programs_[hook].traced = program_fd(traced);
        programs_[hook].record = map_record(traced);
    }
    overlay.write_tables(objects_);
    routers.write_tables(objects_);
    values_.resize(values_.size() * std::tuple_size_v<CounterTable>);
    probe_checksum_flag();
}

Runner::~Runner() {
    for (const Program& program : programs_) {
        if (program.record != nullptr) munmap(program.record, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
    }
}

/// Older kernels refuse the flag.
void Runner::probe_checksum_flag() {
    const Input input{.hook = FL_HOOK_TC_HOST, .frame = Bytes(64)};
    Run run;
    checks_skb_csum_ = true;
    checks_skb_csum_ = run_once(programs_[FL_HOOK_TC_HOST].shipped, input, shipped_out_, run) == 0;
}

int Runner::run_once(int program, const Input& input, std::array<std::uint8_t, kBuffer>& buffer, Run& out) {
    const bool xdp = input.hook == FL_HOOK_XDP_UNDERLAY;
    const auto size = static_cast<std::uint32_t>(input.frame.size());
    __sk_buff skb{};
    skb.gso_size = input.gso_size;
    skb.ifindex = input.device;
    skb.mark = input.mark;
    if (input.hook == FL_HOOK_TC_ROUTER) {
        const RouterPort* port = routers_.router_port(input.device);
        skb.ifindex = port != nullptr ? port->ifindex : kUnderlayDevice;
        skb.cb[0] = input.device;
    }
    xdp_md md_in{};
    xdp_md md_out{};
    md_in.data_end = size;
    LIBBPF_OPTS(bpf_test_run_opts, opts);
    opts.data_in = input.frame.data();
    opts.data_size_in = size;
    opts.data_out = buffer.data();
    opts.data_size_out = buffer.size();
    if (xdp) {
        opts.ctx_in = &md_in;
        opts.ctx_out = &md_out;
        opts.ctx_size_in = opts.ctx_size_out = sizeof(xdp_md);
    } else {
        opts.ctx_in = opts.ctx_out = &skb;
        opts.ctx_size_in = opts.ctx_size_out = sizeof(skb);
        if (checks_skb_csum_ && !may_be_trimmed(input)) opts.flags = BPF_F_TEST_SKB_CHECKSUM_COMPLETE;
    }
    opts.repeat = 1;
    const int error = bpf_prog_test_run_opts(program, &opts);
    if (error != 0) return error;
    out.action = static_cast<int>(opts.retval);
    out.frame = View(buffer).first(opts.data_size_out);
    out.mark = xdp ? 0 : skb.mark;
    out.meta.reset();
    if (xdp && md_out.data != 0) {
        if (md_out.data != sizeof(fl_meta)) return -EPROTO;
        std::memcpy(&out.meta.emplace(), buffer.data(), sizeof(fl_meta));
        out.frame = out.frame.subspan(sizeof(fl_meta));
    }
    return 0;
}

std::optional<std::string> Runner::run(const Input& input, Outcome& outcome) {
    const Program& program = programs_[input.hook];
    Run shipped;
    Run traced;
    std::memset(program.record, 0, sizeof(*program.record));
    const int error = run_once(program.traced, input, traced_out_, traced);
    outcome.record = *program.record;
    for (const int each : {error, run_once(program.shipped, input, shipped_out_, shipped)}) {
        if (each == -EBADMSG) return "skb->csum does not match the frame";
        if (each != 0) return fmt::format("the test run failed: {}", std::strerror(-each));
    }
    outcome.action = shipped.action;
    outcome.frame = shipped.frame;
    outcome.meta = shipped.meta;
    outcome.mark = shipped.mark;
    if (traced.action != shipped.action) return "the traced program gives another action";
    if (traced.meta.has_value() != shipped.meta.has_value() ||
        (traced.meta && std::memcmp(&*traced.meta, &*shipped.meta, sizeof(fl_meta)) != 0))
        return "the traced program gives other metadata";
    if (traced.mark != shipped.mark) return "the traced program leaves another mark";
    // With the first of the two runs its flow has gone.
    outcome.fin_put_off = input.hook == FL_HOOK_TC_ROUTER && shipped.action == TC_ACT_UNSPEC &&
                          Judge::is_put_off(shipped.frame, traced.frame);
    if (outcome.fin_put_off) return std::nullopt;
    const bool tunnelled = shipped.action == (input.hook == FL_HOOK_XDP_UNDERLAY ? int{XDP_TX} : TC_ACT_REDIRECT) &&
                           shipped.frame.size() >= kGreOuterSize &&
                           (outcome.record.via == FL_VIA_NONE || outcome.record.ifindex == kUnderlayDevice);
    if (!Judge::same_but_choices(shipped.frame, traced.frame, tunnelled))
        return "the program with poisoned headroom gives another frame: a byte is never written";
    return std::nullopt;
}

void Runner::forget_flows() {
    const bpf_map* flows = objects_.map("fl_flows");
    fl_flow_key key{};
    while (bpf_map__get_next_key(flows, nullptr, &key, sizeof(key)) == 0)
        objects_.remove("fl_flows", &key);
    std::uint64_t tracked = 0;
    if (!(std::ifstream("/proc/sys/net/netfilter/nf_conntrack_count") >> tracked))
        throw std::runtime_error("cannot read how many connections are tracked");
    if (tracked != 0 && run_process({"conntrack", "-F"}).exit_status != 0)
        throw std::runtime_error("cannot empty the connection tracking of this namespace");
}

CounterTable Runner::counters() const {
    std::array<std::uint32_t, std::tuple_size_v<CounterTable>> keys{};
    std::uint32_t next = 0;
    auto count = static_cast<std::uint32_t>(keys.size());
    const int fd = bpf_map__fd(objects_.map("fl_counters"));
    const int error = bpf_map_lookup_batch(fd, nullptr, &next, keys.data(), values_.data(), &count, nullptr);
    if ((error != 0 && error != -ENOENT) || count != keys.size()) throw std::runtime_error("cannot read fl_counters");
    CounterTable out;
    const std::size_t cpus = values_.size() / keys.size();
    for (std::size_t i = 0; i < values_.size(); ++i) {
        CounterRow& row = out[keys[i / cpus]];
        row.packets += values_[i].packets;
        row.bytes += values_[i].bytes;
    }
    return out;
}

}  // namespace fiplane::test
