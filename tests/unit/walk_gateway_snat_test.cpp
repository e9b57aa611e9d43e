// SPDX-License-Identifier: Apache-2.0
// A router whose own address stands for VMs without a floating IP: what the walk leaves to Linux because of it, and
// that nothing else changes.
#include <catch2/catch_test_macros.hpp>

#include "core/compile.hpp"
#include "walk_expect.hpp"

namespace fiplane::test {
namespace {

const NetnsName kSnatNs = "snat-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";

/// Behind the rule of the map, as Neutron has them (l3/router_info.py).
void add_gateway_nat(NetnsView& qrouter, const std::string& external, const char* address) {
    using F = nf::Field;
    nf::AddressSource to;
    to.address = ip(address);
    const auto chain = std::ranges::find(qrouter.netfilter.chains, "postrouting", &nf::Chain::name);
    REQUIRE(chain != qrouter.netfilter.chains.end());
    chain->rules.push_back(
        rule("oifname external snat to gateway fully-random", {match(F::kOifname, {external}), nf::Snat{to, true}}));
    chain->rules.push_back(
        rule("iifname != external ct status dnat snat to gateway fully-random",
             {match(F::kIifname, {external}, true), match(F::kCtStatus, {std::string("dnat")}), nf::Snat{to, true}}));
}

Snapshot with_gateway_nat() {
    Snapshot snapshot = legacy_snapshot();
    add_gateway_nat(snapshot.routers.at(kQrouter), "qg-31ab0003-30", "172.24.5.3");
    return snapshot;
}

}  // namespace

TEST_CASE("M9: only what VMs without a floating IP send beyond the gateway becomes Linux's") {
    Tables wanted = compile(legacy_snapshot(), legacy_scope()).tables;
    const Compiled compiled = compile(with_gateway_nat(), legacy_scope());
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    // Its ways to the router's networks stay, and all that VMs with a floating IP have.
    wanted.dests.erase(dest_row_key(fixed, "172.24.4.1"));
    std::erase_if(wanted.routes, [&](const auto& row) { return row.first.domain == fixed; });
    // Nobody outside reaches it by its own address: its answers would have another, were it not for conntrack.
    const std::uint32_t outside = wanted.senders.at(sender_key(kBrEx, kQgMac, "0.0.0.0/0")).domain;
    wanted.senders.clear();
    std::erase_if(wanted.dests, [&](const auto& row) { return row.first.domain == outside; });
    CHECK(differences(wanted, compiled.tables) == "");
    for (const char* address : {"172.24.5.11", "172.24.5.12", "172.24.5.13"}) {
        const FipReport& report = report_of(compiled, address);
        INFO(report.reason_in << report.reason_out);
        CHECK(report.fast_in);
        CHECK(report.fast_out);
    }
}

namespace {

constexpr const char* kSgMac = "fa:16:3e:0b:00:01";

/// What a distributed router's instance has of its SNAT port, behind the tunnel to node 3 or on this node.
void add_redirect(NetnsView& qrouter) {
    add_neighbour(qrouter, kQr, "10.0.0.3", kSgMac);
    add_rule(qrouter, 167772161, "10.0.0.1/24", "", 167772161);
    add_route(qrouter, "0.0.0.0/0", kQr, "10.0.0.3", 167772161);
}

/// The same rows: a domain's number is a hash of the rules for its sources as well.
Tables renumbered(const Tables& tables, const std::map<std::uint32_t, std::uint32_t>& numbers) {
    Tables out = tables;
    out.dests.clear();
    out.routes.clear();
    for (auto& [key, row] : out.vms)
        row.domain = numbers.at(row.domain);
    const auto with_number = [&](auto key) {
        key.domain = numbers.at(key.domain);
        return key;
    };
    for (const auto& [key, row] : tables.dests)
        out.dests.emplace(with_number(key), row);
    for (const auto& [key, row] : tables.routes)
        out.routes.emplace(with_number(key), row);
    return out;
}

}  // namespace

TEST_CASE("M9: a distributed router's VMs without a floating IP reach the SNAT port's node in BPF") {
    Snapshot snapshot = dvr_snapshot();
    add_redirect(snapshot.routers.at(kQrouter));
    add_remote_mac(snapshot.root, kVxlanTenant, kSgMac, "198.51.100.3");
    const Compiled before = compile(dvr_snapshot(), scope());
    const Compiled compiled = compile(snapshot, scope());
    const std::uint32_t domain = domain_of(compiled, kTapA, "10.0.0.11");
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    Tables wanted = renumbered(before.tables, {{domain_of(before, kTapA, "10.0.0.11"), domain},
                                               {domain_of(before, kTapD, "10.0.0.14"), fixed}});
    const fl_out remote = out_tunnel(200, "198.51.100.3", kPeer3Mac);
    const fl_next to_snat = journey(kSgMac, kQrMac, 1, remote);
    wanted.fdb[fdb_row_key(kBrq, kSgMac)].out = remote;
    wanted.dests[dest_row_key(domain, "10.0.0.3")] = to_snat;
    wanted.dests[dest_row_key(fixed, "10.0.0.3")] = to_snat;
    // Floating IPs of this node, too: they are reached from outside only.
    wanted.dests[dest_row_key(fixed, "172.24.5.11")] = to_snat;
    wanted.dests[dest_row_key(fixed, "172.24.5.12")] = to_snat;
    wanted.routes[route_row_key(fixed, "0.0.0.0/0")] = to_snat;
    for (const char* shadow :
         {"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "10.0.0.0/24", "169.254.88.134/31"})
        wanted.routes[route_row_key(fixed, shadow)] = {};
    CHECK(differences(wanted, compiled.tables) == "");
}

TEST_CASE("M9: on the SNAT port's own node they are Linux's, and east-west stays in BPF") {
    Snapshot snapshot = dvr_snapshot();
    add_redirect(snapshot.routers.at(kQrouter));
    NetnsView snat = make_netns(kSnatNs);
    enslave(add_veth(snapshot.root, 60, "tapsg", "fe:16:3e:0b:00:01", snat, 2, "sg-51ab0006-60", kSgMac), kBrq);
    enslave(add_veth(snapshot.root, 61, "tapqg", "fe:16:3e:0d:00:10", snat, 3, "qg-31ab0003-30", kQgMac), kBrEx);
    add_static_fdb(snapshot.root, 60, kSgMac);
    add_static_fdb(snapshot.root, 61, kQgMac);
    add_address(snat, 2, "10.0.0.3/24");
    add_address(snat, 3, "172.24.5.3/23");
    add_route(snat, "0.0.0.0/0", 3, "172.24.4.1");
    add_neighbour(snat, 3, "172.24.4.1", kGatewayMac, kNudReachable);
    for (const auto& [address, mac] : {std::pair{"10.0.0.13", kMacC}, {"10.0.0.14", kMacD}})
        add_neighbour(snat, 2, address, mac);
    add_chain(snat, nf::Family::kIp, "fiplane", "postrouting", nf::Hook::kPostrouting, nf::ChainType::kNat, 100);
    add_gateway_nat(snat, "qg-31ab0003-30", "172.24.5.3");
    set_sysctls(snat, false);
    snapshot.routers.emplace(kSnatNs, snat);
    Scope here = scope();
    here.distributed_routers.insert(kSnatNs);

    const Compiled compiled = compile(snapshot, here);
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    const Tables& tables = compiled.tables;
    CHECK(tables.dests.contains(dest_row_key(fixed, "10.0.0.13")));
    const auto world = tables.routes.find(route_row_key(fixed, "0.0.0.0/0"));
    CHECK((world == tables.routes.end() || world->second.out.kind == FL_OUT_NONE));
    CHECK_FALSE(tables.dests.contains(dest_row_key(fixed, "172.24.4.1")));
    // What VMs on other nodes send to the port comes with the router's MAC: no row would ever be asked for.
    CHECK(std::ranges::none_of(tables.vms, [](const auto& row) { return row.first.port == kVxlanTenant; }));
    CHECK(report_of(compiled, "172.24.5.11").fast_out);
    CHECK(report_of(compiled, "172.24.5.11").fast_in);
}

}  // namespace fiplane::test
