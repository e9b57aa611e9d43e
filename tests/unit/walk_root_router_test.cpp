// SPDX-License-Identifier: Apache-2.0
// The node's own namespace as a router, as nova-network has it: its bridges are the legs.
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"
#include "walk_scenario.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kFlatMac = "fa:16:3e:00:01:00";
constexpr const char* kFip = "172.24.5.11";
constexpr const char* kFixed = "10.0.0.11";

/// br-ex and the tenant's bridge with addresses of the node, VM a with a floating IP, b without; another node behind
/// the external tunnel.
Snapshot nova() {
    Snapshot snapshot;
    NetnsView& root = snapshot.root = make_netns("");
    add_link(root, kEth0, "eth0", "", kEthMac, 1500);
    add_address(root, kEth0, "198.51.100.2/24");
    add_neighbour(root, kEth0, "198.51.100.1", kPeer1Mac, kNudReachable);
    add_bridge(root, kBrEx, "br-ex", kBrExMac);
    add_address(root, kBrEx, "172.24.4.2/23");
    add_address(root, kBrEx, std::string(kFip) + "/32");
    add_vxlan(root, kVxlanEx, 100, kBrEx, false);
    add_remote_mac(root, kVxlanEx, kGatewayMac, "198.51.100.1");
    add_neighbour(root, kBrEx, "172.24.4.1", kGatewayMac, kNudReachable);
    add_bridge(root, kBrq, "brq11111111-11", kFlatMac);
    add_address(root, kBrq, "10.0.0.1/24");
    add_vm(root, kTapA, "tapaaaaaaaa-aa", kMacA, kFixed);
    add_vm(root, kTapB, "tapbbbbbbbb-bb", kMacB, "10.0.0.12");
    add_neighbour(root, kBrq, kFixed, kMacA, kNudReachable);
    add_neighbour(root, kBrq, "10.0.0.12", kMacB, kNudReachable);
    set_sysctls(root, false);

    using F = nf::Field;
    const auto in = from_map("fip_in", F::kIpDaddr);
    const auto out = from_map("fip_out", F::kIpSaddr);
    const nf::Match to_external = match(F::kOifname, {std::string("br-ex")});
    const nf::Match to_flat = match(F::kOifname, {std::string("brq11111111-11")});
    const nf::Match invalid = match(F::kCtState, {std::string("invalid")});
    const auto base = [&](const char* name, nf::Hook hook, nf::ChainType type, int priority) -> nf::Chain& {
        return add_chain(root, nf::Family::kIp, "fiplane", name, hook, type, priority);
    };
    base("prerouting", nf::Hook::kPrerouting, nf::ChainType::kNat, -100).rules = {
        rule("dnat to ip daddr map @fip_in", {nf::Dnat{in}})};
    base("output", nf::Hook::kOutput, nf::ChainType::kNat, -100).rules = {
        rule("dnat to ip daddr map @fip_in", {nf::Dnat{in}})};
    base("postrouting", nf::Hook::kPostrouting, nf::ChainType::kNat, 100).rules = {
        rule("oifname != br-ex ct status ! dnat accept",
             {match(F::kOifname, {std::string("br-ex")}, true), match(F::kCtStatus, {std::string("dnat")}, true),
              verdict(nf::VerdictKind::kAccept)}),
        rule("snat to ip saddr map @fip_out", {nf::Snat{out, false}}),
        rule("oifname br-ex ip saddr 10.0.0.0/24 snat to 172.24.4.2",
             {to_external, match(F::kIpSaddr, {net("10.0.0.0/24")}), nf::Snat{to_address("172.24.4.2"), false}}),
        rule("oifname flat ip saddr 10.0.0.0/24 snat to 10.0.0.1",
             {to_flat, match(F::kIpSaddr, {net("10.0.0.0/24")}), nf::Snat{to_address("10.0.0.1"), false}}),
        rule("oifname flat ip saddr fips snat to 10.0.0.1",
             {to_flat, match(F::kIpSaddr, {Prefix::host(ip(kFip))}), nf::Snat{to_address("10.0.0.1"), false}})};
    base("invalid_in", nf::Hook::kPrerouting, nf::ChainType::kFilter, -150).rules = {
        rule("set daddr", {invalid, nf::SetAddress{F::kIpDaddr, in}, nf::SetMark{0x464c}})};
    base("invalid_out", nf::Hook::kPostrouting, nf::ChainType::kFilter, -150).rules = {
        rule("set saddr", {to_external, invalid, nf::SetAddress{F::kIpSaddr, out}}),
        rule("set saddr marked",
             {invalid, match(F::kMark, {std::uint64_t{0x464c}}), nf::SetAddress{F::kIpSaddr, out}})};
    root.netfilter.maps["ip fiplane fip_in"] = {{ip(kFip), ip(kFixed)}};
    root.netfilter.maps["ip fiplane fip_out"] = {{ip(kFixed), ip(kFip)}};
    return snapshot;
}

Scope nova_scope() {
    return {.bridges = {"br-ex", "brq11111111-11"}, .distributed_routers = {NetnsName{}}, .root_is_router = true};
}

const fl_next* to(const Compiled& compiled, std::uint32_t domain, const char* address) {
    const auto found = compiled.tables.dests.find(dest_row_key(domain, address));
    return found == compiled.tables.dests.end() ? nullptr : &found->second;
}

std::uint32_t flat_domain(const Compiled& compiled, int port, const char* fixed) {
    const auto found = compiled.tables.vms.find(vm_key(port, fixed, kFlatMac));
    REQUIRE(found != compiled.tables.vms.end());
    return found->second.domain;
}

}  // namespace

TEST_CASE("the node translates its floating IPs from bridge to bridge, one hop") {
    const Compiled compiled = compile(nova(), nova_scope());
    const auto in = compiled.tables.fip_in.find(fip_row_key(kBrEx, kFip));
    REQUIRE(in != compiled.tables.fip_in.end());
    CHECK(hex(in->second) == hex(fip_row(kBrExMac, journey(kMacA, kFlatMac, 1, out_port(kTapA), 0, kFixed))));

    const std::uint32_t a = flat_domain(compiled, kTapA, kFixed);
    CHECK(hex(*to(compiled, a, "172.24.4.1")) ==
          hex(journey(kGatewayMac, kBrExMac, 1, out_tunnel(100, "198.51.100.1", kPeer1Mac), FL_NEXT_SNAT)));
    // Its own floating IP: turned round, with both addresses changed.
    CHECK(hex(*to(compiled, a, kFip)) ==
          hex(journey(kMacA, kFlatMac, 1, out_port(kTapA), FL_NEXT_SNAT | FL_NEXT_HAIRPIN, kFixed)));
    const FipReport& report = report_of(compiled, kFip);
    CHECK(report.fast_in);
    CHECK(report.fast_out);
    CHECK(report.router.empty());
}

TEST_CASE("what is for the node goes up into its stack, whatever it answers") {
    const Compiled compiled = compile(nova(), nova_scope());
    for (const auto& [port, fixed] : {std::pair{kTapA, kFixed}, std::pair{kTapB, "10.0.0.12"}}) {
        const std::uint32_t domain = flat_domain(compiled, port, fixed);
        for (const char* own : {"10.0.0.1", "172.24.4.2"}) {
            const fl_next* next = to(compiled, domain, own);
            REQUIRE(next != nullptr);
            CHECK(next->flags == FL_NEXT_LOCAL);
            CHECK(next->out.kind == FL_OUT_HOST);
        }
    }
}

TEST_CASE("without a floating IP a VM is carried as far as nothing is translated") {
    const Compiled compiled = compile(nova(), nova_scope());
    const std::uint32_t b = flat_domain(compiled, kTapB, "10.0.0.12");
    CHECK(to(compiled, b, "172.24.4.1") == nullptr);  // central SNAT
    CHECK(to(compiled, b, kFip) == nullptr);          // conntrack brings the answer back
    CHECK(to(compiled, b, kFixed) != nullptr);
}

TEST_CASE("a node that is no router has no legs of its own") {
    Scope scope = nova_scope();
    scope.root_is_router = false;
    const Compiled compiled = compile(nova(), scope);
    CHECK(compiled.tables.fip_in.empty());
    CHECK(compiled.tables.vms.empty());
    CHECK(compiled.fips.empty());
}

TEST_CASE("a filter of the host's own stops what it forwards, by name") {
    Snapshot snapshot = nova();
    nf::Chain& forward =
        add_chain(snapshot.root, nf::Family::kIp, "filter", "FORWARD", nf::Hook::kForward, nf::ChainType::kFilter);
    forward.policy_accept = false;
    const Compiled compiled = compile(snapshot, nova_scope());
    CHECK(compiled.tables.fip_in.empty());
    CHECK(report_of(compiled, kFip).reason_in ==
          "root namespace: netfilter drops it in forward: policy of ip filter FORWARD");
}
