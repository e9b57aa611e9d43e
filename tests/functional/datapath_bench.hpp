// SPDX-License-Identifier: Apache-2.0
// A node for datapath tests: a network namespace, a bpffs of its own, a pair of veth devices; and witnesses that ask
// the kernel directly, not through the code under test.
#pragma once

#include <bpf/bpf.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <optional>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/tables.hpp"
#include "datapath/datapath.hpp"
#include "linux/netns.hpp"
#include "linux/unique_fd.hpp"
#include "support/run_process.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {

template <typename T>
T need(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message());
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// The calling thread lives in it until it is destroyed.
class DatapathBench {
  public:
    DatapathBench() : inside_(need(NetnsGuard::enter(scratch_.netns()))) {
        char pattern[] = "/tmp/fl-datapath-XXXXXX";
        if (mkdtemp(pattern) == nullptr) throw std::runtime_error("mkdtemp");
        bpffs_ = pattern;
        if (mount("bpf", bpffs_.c_str(), "bpf", 0, nullptr) != 0) throw std::runtime_error("mount bpffs");
    }
    ~DatapathBench() {
        umount2(bpffs_.c_str(), MNT_DETACH);
        rmdir(bpffs_.c_str());
    }
    DatapathBench(const DatapathBench&) = delete;
    DatapathBench& operator=(const DatapathBench&) = delete;

    [[nodiscard]] const std::string& bpffs() const { return bpffs_; }
    [[nodiscard]] std::string pin_dir() const { return bpffs_ + "/fiplane"; }
    [[nodiscard]] DatapathOptions options(XdpMode xdp = XdpMode::kAuto, std::uint32_t max_floating_ips = 64) const {
        return {pin_dir(), xdp, max_floating_ips};
    }
    [[nodiscard]] Datapath open(XdpMode xdp = XdpMode::kAuto) const { return need(Datapath::open(options(xdp))); }

    static void ip(const std::vector<std::string>& arguments) {
        std::vector<std::string> command{"ip"};
        std::copy(arguments.begin(), arguments.end(), std::back_inserter(command));
        const auto done = run_process(command);
        INFO(done.err);
        REQUIRE(done.exit_status == 0);
    }
    /// A veth pair, both ends here and up; the index of the first.
    static int veth(const std::string& name) {
        ip({"link", "add", name, "type", "veth", "peer", "name", name + "p"});
        ip({"link", "set", name, "up"});
        ip({"link", "set", name + "p", "up"});
        return index_of(name);
    }
    static int index_of(const std::string& name) { return static_cast<int>(if_nametoindex(name.c_str())); }

    /// A pinned map, opened by path.
    [[nodiscard]] UniqueFd map(const std::string& name) const {
        return UniqueFd(bpf_obj_get((pin_dir() + "/maps/" + name).c_str()));
    }
    [[nodiscard]] std::uint32_t map_id(const std::string& name) const {
        const auto fd = map(name);
        bpf_map_info info{};
        std::uint32_t length = sizeof(info);
        return bpf_map_get_info_by_fd(fd.get(), &info, &length) == 0 ? info.id : 0;
    }
    template <typename V, typename K>
    [[nodiscard]] std::optional<V> row(const std::string& map_name, const K& key) const {
        V value{};
        const auto fd = map(map_name);
        if (bpf_map_lookup_elem(fd.get(), &key, &value) != 0) return std::nullopt;
        return value;
    }
    template <typename K, typename V>
    void put_row(const std::string& map_name, const K& key, const V& value) const {
        const auto fd = map(map_name);
        REQUIRE(bpf_map_update_elem(fd.get(), &key, &value, 0) == 0);
    }

  private:
    ScratchNetns scratch_{"dp"};
    NetnsGuard inside_;
    std::string bpffs_;
};

/// Whether the running kernel has tcx: Linux 6.6 and later. Else programs of tc are clsact filters.
inline bool has_tcx() {
    utsname name{};
    int major = 0, minor = 0;
    REQUIRE(uname(&name) == 0);
    REQUIRE(std::sscanf(name.release, "%d.%d", &major, &minor) == 2);
    return std::pair(major, minor) >= std::pair(6, 6);
}

/// How Datapath says that a tc program is attached on this kernel.
inline std::string tc_mode() {
    return has_tcx() ? "tcx" : "clsact";
}

enum class TcHook : std::uint8_t { kIngress, kEgress };

/// Program and link ids at a tcx hook, asked of the kernel.
struct TcxIds {
    std::vector<std::uint32_t> programs;
    std::vector<std::uint32_t> links;
};
inline TcxIds tcx_ids(int ifindex, TcHook hook) {
    std::uint32_t programs[64] = {};
    std::uint32_t links[64] = {};
    struct bpf_prog_query_opts options{};
    options.sz = sizeof(options);
    options.prog_ids = programs;
    options.link_ids = links;
    options.count = 64;
    const auto type = hook == TcHook::kIngress ? BPF_TCX_INGRESS : BPF_TCX_EGRESS;
    if (bpf_prog_query_opts(ifindex, type, &options) != 0) return {};
    return {{programs, programs + options.count}, {links, links + options.count}};
}

/// Ids of the programs that clsact filters run, as iproute2 shows them.
inline std::vector<std::uint32_t> clsact_programs(int ifindex, TcHook hook) {
    std::array<char, IF_NAMESIZE> device{};
    if (if_indextoname(static_cast<unsigned>(ifindex), device.data()) == nullptr) return {};
    const char* side = hook == TcHook::kIngress ? "ingress" : "egress";
    const auto shown = run_process({"tc", "filter", "show", "dev", device.data(), side}).out;
    std::vector<std::uint32_t> ids;
    const std::regex pattern(" id ([0-9]+) ");
    for (std::sregex_iterator at(shown.begin(), shown.end(), pattern), end; at != end; ++at)
        ids.push_back(static_cast<std::uint32_t>(std::stoul((*at)[1])));
    return ids;
}

/// Ids of the programs that tc runs at a device, in the way that this kernel has.
inline std::vector<std::uint32_t> tc_programs(int ifindex, TcHook hook = TcHook::kIngress) {
    return has_tcx() ? tcx_ids(ifindex, hook).programs : clsact_programs(ifindex, hook);
}

/// What stays the same as long as an attachment is not let go: the link; with clsact there is only the program.
inline std::vector<std::uint32_t> tc_identity(int ifindex, TcHook hook = TcHook::kIngress) {
    return has_tcx() ? tcx_ids(ifindex, hook).links : clsact_programs(ifindex, hook);
}

/// "xdp" (native), "xdpgeneric" or "" as iproute2 shows a device.
inline std::string xdp_shown(const std::string& device) {
    const auto shown = run_process({"ip", "-o", "link", "show", device}).out;
    if (shown.find(" xdpgeneric ") != std::string::npos) return "xdpgeneric";
    return shown.find(" xdp ") != std::string::npos || shown.find(" xdp/") != std::string::npos ? "xdp" : "";
}

/// A program that lets everything pass and is nobody's: r0 = `verdict`; exit.
inline UniqueFd other_program(bpf_prog_type type, const char* name, std::int32_t verdict) {
    bpf_insn code[2] = {};
    code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[0].dst_reg = BPF_REG_0;
    code[0].imm = verdict;
    code[1].code = BPF_JMP | BPF_EXIT;
    return UniqueFd(bpf_prog_load(type, name, "GPL", code, 2, nullptr));
}

inline std::uint32_t program_id(const UniqueFd& program) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof(info);
    return bpf_prog_get_info_by_fd(program.get(), &info, &length) == 0 ? info.id : 0;
}

// Rows, told apart by one number.

inline fl_fip_key fip_key(std::uint8_t last, std::uint32_t segment = 7) {
    return {.segment = segment, .fip = {172, 24, 5, last}};
}
inline fl_dest_key dest_key(std::uint8_t last, std::uint32_t domain = 0xd0) {
    return {.domain = domain, .ip = {10, 0, 0, last}};
}
inline fl_next next_to(std::uint8_t last, std::uint32_t out_ifindex = 99) {
    fl_next next{};
    next.dmac[5] = last;
    next.dnat[0] = 10;
    next.dnat[3] = last;
    next.hops = 2;
    next.mtu = 1450;
    next.out.kind = FL_OUT_PORT;
    next.out.ifindex = out_ifindex;
    next.out.mtu = 1450;
    return next;
}
inline fl_fip_in fip_in_to(std::uint8_t last) {
    fl_fip_in value{};
    value.router_mac[0] = 0xfa;
    value.next = next_to(last);
    return value;
}
inline fl_vm vm_of(std::uint8_t last) {
    fl_vm value{};
    value.mac[5] = last;
    value.fip[0] = 172;
    value.fip[1] = 24;
    value.fip[2] = 5;
    value.fip[3] = last;
    value.domain = 0xd0;
    return value;
}

/// One row in every table, and `fips` floating IPs.
inline Tables some_tables(std::uint8_t fips = 3) {
    Tables tables;
    tables.config.layout = FL_ABI_LAYOUT;
    tables.config.vxlan_port = 4789;
    tables.config.vtep[0] = 192;
    tables.config.vtep[3] = 1;
    tables.sources[{.ifindex = 5, .vlan = 0, .pad = {}}] = {.role = FL_ROLE_PORT,
                                                            .segment = 7,
                                                            .mac = {0xfa},
                                                            .pad = {},
                                                            .ip = {10},
                                                            .flags = FL_SRC_CHECK,
                                                            .port = 5,
                                                            .router = 0};
    tables.tunnels[{.type = FL_TUNNEL_VXLAN, .id = 100, .peer = {192, 0, 2, 2}}] = {
        .segment = 7, .ifindex = 8, .mac = {}, .outer_len = 50, .type = FL_TUNNEL_VXLAN, .flags = 0, .peer = {}};
    tables.fdb[{.segment = 7, .mac = {0xfa, 1}, .pad = {}}].out = next_to(1).out;
    tables.arp[{.segment = 7, .ip = {172, 24, 5, 1}}] = {.mac = {0xfa, 2}, .flags = 0, .pad = 0};
    tables.senders[{
        .prefixlen = FL_SENDER_KEY_BITS + 16, .segment = 7, .router_mac = {0xfa}, .pad = {}, .ip = {10, 9}}] = {
        .domain = 0xd0};
    tables.routes[{.prefixlen = 32 + 24, .domain = 0xd0, .ip = {10, 0, 0, 0}}] = next_to(200);
    for (std::uint8_t i = 1; i <= fips; ++i) {
        tables.dests[dest_key(i)] = next_to(i);
        tables.fip_in[fip_key(i)] = fip_in_to(i);
        tables.vms[{.port = 5, .fixed = {10, 0, 0, i}, .router_mac = {}, .pad = {}}] = vm_of(i);
    }
    return tables;
}

template <typename K, typename V>
bool same_table(const Table<K, V>& a, const Table<K, V>& b) {
    return diff(a, b).empty();
}

inline bool same_tables(const Tables& a, const Tables& b) {
    return same_bytes(a.config, b.config) && same_table(a.sources, b.sources) && same_table(a.tunnels, b.tunnels) &&
           same_table(a.fdb, b.fdb) && same_table(a.arp, b.arp) && same_table(a.fip_in, b.fip_in) &&
           same_table(a.vms, b.vms) && same_table(a.senders, b.senders) && same_table(a.dests, b.dests) &&
           same_table(a.routes, b.routes);
}

}  // namespace fiplane::test
