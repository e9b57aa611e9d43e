// SPDX-License-Identifier: Apache-2.0
// Packets that cross a router between other routers: who sends them, VMs that are behind another router than the one
// that has their floating IP, and what conntrack alone would know.
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kFarMac = "fa:16:3e:0d:00:99";  // 172.24.5.99, a router behind node 3
constexpr const char* kPeer1 = "198.51.100.1";
constexpr const char* kPeer3 = "198.51.100.3";
const std::string kNorthSouth = "qrouter-99999999-9a0e-4c1d-8f53-2f6d8e4a1b99";

NetnsView& router(Snapshot& snapshot) {
    return snapshot.routers.at(kQrouter);
}

/// The legacy router, and 10.9.0.0/24 behind another one on its external network.
Snapshot with_far_network() {
    Snapshot snapshot = legacy_snapshot();
    add_remote_mac(snapshot.root, kVxlanEx, kFarMac, kPeer3);
    add_route(router(snapshot), "10.9.0.0/24", kQg, "172.24.5.99");
    add_neighbour(router(snapshot), kQg, "172.24.5.99", kFarMac, kNudReachable);
    return snapshot;
}

nf::Chain& forward_chain(Snapshot& snapshot) {
    return add_chain(router(snapshot), nf::Family::kIp, "t", "forward", nf::Hook::kForward);
}

/// Domain of a source prefix at the router's external port; none: there is no row.
std::optional<std::uint32_t> senders(const Compiled& compiled, const char* prefix) {
    const auto found = compiled.tables.senders.find(sender_key(kBrEx, kQgMac, prefix));
    return found == compiled.tables.senders.end() ? std::nullopt : std::optional(found->second.domain);
}

bool reaches(const Compiled& compiled, std::uint32_t domain, const char* address) {
    return compiled.tables.dests.contains(dest_row_key(domain, address));
}

bool note_begins(const Compiled& compiled, const std::string& start) {
    return std::ranges::any_of(compiled.notes, [&](const std::string& note) { return note.starts_with(start); });
}

}  // namespace

TEST_CASE("a router takes what comes from another router's network") {
    const Compiled compiled = compile(with_far_network(), legacy_scope());
    const auto domain = senders(compiled, "10.9.0.0/24");
    REQUIRE(domain);
    REQUIRE(*domain != 0);
    CHECK(hex(compiled.tables.dests.at(dest_row_key(*domain, "10.0.0.14"))) ==
          hex(journey(kMacD, kQrMac, 1, out_port(kTapD))));
    // Answers of a VM with a floating IP would be translated, were it not for conntrack.
    CHECK_FALSE(reaches(compiled, *domain, "10.0.0.11"));
    // Those beyond the default route share the rows.
    CHECK(senders(compiled, "0.0.0.0/0") == domain);
    CHECK(senders(compiled, "172.24.5.3/32") == 0U);
    // The way back, for the VM.
    const fl_vm& d = compiled.tables.vms.at(vm_key(kTapD, "10.0.0.14"));
    CHECK(hex(compiled.tables.routes.at(route_row_key(d.domain, "10.9.0.0/24"))) ==
          hex(journey(kFarMac, kQgMac, 1, out_tunnel(100, kPeer3, kPeer3Mac))));
    CHECK(compiled.devices.front().wire_to_wire);
    CHECK(note_begins(compiled,
                      kQrouter + ": what 1 hosts without a floating IP send to qr-21ab0001-10 is left to Linux"));
}

TEST_CASE("sources that a rule of the router knows are left to Linux") {
    Snapshot snapshot = with_far_network();
    SECTION("by policy routing") {
        add_rule(router(snapshot), 100, "10.9.0.7/32", "", 77);
    }
    SECTION("by a filter") {
        forward_chain(snapshot).rules = {
            rule("ip saddr 10.9.0.7 drop",
                 {match(nf::Field::kIpSaddr, {net("10.9.0.7/32")}), verdict(nf::VerdictKind::kDrop)})};
    }
    SECTION("by a translation to it that conntrack answers") {
        add_chain(router(snapshot), nf::Family::kIp, "forwards", "prerouting", nf::Hook::kPrerouting,
                  nf::ChainType::kNat)
            .rules = {rule("iifname nowhere dnat to 10.9.0.7",
                           {match(nf::Field::kIifname, {std::string("nowhere")}), nf::Dnat{to_address("10.9.0.7")}})};
    }
    SECTION("by a reverse path that leads nowhere") {
        add_route(router(snapshot), "10.9.0.7/32", kQg).type = RouteType::kBlackhole;
        for (auto& [name, device] : router(snapshot).sysctls.devices)
            device.rp_filter = 2;
    }
    const Compiled compiled = compile(snapshot, legacy_scope());
    CHECK(senders(compiled, "10.9.0.7/32") == 0U);
    CHECK_FALSE(note_begins(compiled, "packets from"));
    const auto domain = senders(compiled, "10.9.0.0/24");
    REQUIRE(domain.value_or(0) != 0);
    CHECK(reaches(compiled, *domain, "10.0.0.14"));
}

TEST_CASE("rp_filter asks for the way back to the senders, not to everybody") {
    Snapshot snapshot = legacy_snapshot();
    add_route(router(snapshot), "10.9.0.0/24", kQr, "10.0.0.13");
    for (auto& [name, device] : router(snapshot).sysctls.devices)
        device.rp_filter = 1;
    const Compiled compiled = compile(snapshot, legacy_scope());
    const auto row = compiled.tables.senders.find(sender_key(kBrq, kQrMac, "10.9.0.0/24"));
    REQUIRE(row != compiled.tables.senders.end());
    CHECK(row->second.domain != 0);
}

TEST_CASE("a prefix of which a filter knows all stays with Linux, and the note says why") {
    Snapshot snapshot = with_far_network();
    forward_chain(snapshot).rules = {
        rule("ip saddr 10.9.0.0/16 drop",
             {match(nf::Field::kIpSaddr, {net("10.9.0.0/16")}), verdict(nf::VerdictKind::kDrop)})};
    const Compiled compiled = compile(snapshot, legacy_scope());
    CHECK(senders(compiled, "10.9.0.0/24") == 0U);
    CHECK(senders(compiled, "10.9.0.0/16") == 0U);
    CHECK(senders(compiled, "0.0.0.0/0").value_or(0) != 0);
    CHECK(note_begins(compiled, "packets from 10.9.0.0/24 to qg-31ab0003-30 stay slow: " + kQrouter));
}

TEST_CASE("where answers would be translated a question is conntrack's") {
    Snapshot snapshot = with_far_network();
    nf::Chain& postrouting = router(snapshot).netfilter.chains[1];
    REQUIRE(postrouting.name == "postrouting");
    SECTION("all of them") {
        postrouting.rules.push_back(rule(
            "oifname qg snat to 172.24.5.3",
            {match(nf::Field::kOifname, {std::string("qg-31ab0003-30")}), nf::Snat{to_address("172.24.5.3"), false}}));
    }
    SECTION("the VM's") {
        postrouting.rules.push_back(
            rule("ip saddr 10.0.0.14 snat to 172.24.5.3",
                 {match(nf::Field::kIpSaddr, {net("10.0.0.14/32")}), nf::Snat{to_address("172.24.5.3"), false}}));
    }
    SECTION("in a way that is not understood") {
        postrouting.rules.push_back(rule("masquerade", {nf::Unknown{}}));
    }
    const Compiled compiled = compile(snapshot, legacy_scope());
    const auto domain = senders(compiled, "10.9.0.0/24");
    CHECK((!domain || !reaches(compiled, *domain, "10.0.0.14")));
}

TEST_CASE("a distributed router's edge sends nobody back") {
    // Behind fg- there is the world, and a default route leads back there.
    const Compiled compiled = compile(dvr_snapshot(), scope());
    CHECK(compiled.tables.senders.empty());
}

TEST_CASE("a gateway inside a distributed router's network is served by its own node") {
    Snapshot snapshot = dvr_snapshot();
    const auto* gateway = "10.0.0.14";
    SECTION("here") {}
    SECTION("elsewhere") {
        gateway = "10.0.0.13";
    }
    add_route(router(snapshot), "10.9.0.0/24", kQr, gateway);
    const Compiled compiled = compile(snapshot, scope());
    const auto row = compiled.tables.senders.find(sender_key(kBrq, kQrMac, "10.9.0.0/24"));
    CHECK((row != compiled.tables.senders.end()) == (gateway == std::string("10.0.0.14")));
    if (row != compiled.tables.senders.end()) CHECK(row->second.domain != 0);
}

TEST_CASE("a floating IP of a VM behind another router") {
    Snapshot snapshot = legacy_snapshot();
    add_address(router(snapshot), kQg, "172.24.5.20/32");
    add_route(router(snapshot), "10.9.0.0/24", kQr, "10.0.0.13");
    router(snapshot).netfilter.maps["ip fiplane fip_in"][ip("172.24.5.20")] = ip("10.9.0.5");
    router(snapshot).netfilter.maps["ip fiplane fip_out"][ip("10.9.0.5")] = ip("172.24.5.20");
    const Compiled compiled = compile(snapshot, legacy_scope());
    const FipReport& report = report_of(compiled, "172.24.5.20");
    CHECK(report.reason_in == "");
    CHECK(report.reason_out == "");
    CHECK(hex(compiled.tables.fip_in.at(fip_row_key(kBrEx, "172.24.5.20"))) ==
          hex(fip_row(kQgMac, journey(kMacC, kQrMac, 1, out_tunnel(200, kPeer3, kPeer3Mac), 0, "10.9.0.5"))));
    // Its answers come from its router, by the tunnel that this is behind.
    const auto row = compiled.tables.vms.find(vm_key(kVxlanTenant, "10.9.0.5"));
    REQUIRE(row != compiled.tables.vms.end());
    CHECK(hex(row->second) == hex(vm_row(kMacC, "172.24.5.20", row->second.domain)));
    CHECK(hex(compiled.tables.routes.at(route_row_key(row->second.domain, "0.0.0.0/0"))) ==
          hex(journey(kGatewayMac, kQgMac, 1, out_tunnel(100, kPeer1, kPeer1Mac), FL_NEXT_SNAT)));

    // Others behind that router are not translated, and nothing is known of any without its MAC.
    const auto others = compiled.tables.senders.find(sender_key(kBrq, kQrMac, "10.9.0.0/24"));
    REQUIRE(others != compiled.tables.senders.end());
    CHECK(others->second.domain != row->second.domain);
    CHECK(compiled.tables.senders.at(sender_key(kBrq, kQrMac, "10.9.0.5/32")).domain == 0);
    std::erase_if(router(snapshot).neighbours, [](const Neighbour& neighbour) { return neighbour.mac == mac(kMacC); });
    CHECK_FALSE(compile(snapshot, legacy_scope()).tables.vms.contains(vm_key(kVxlanTenant, "10.9.0.5")));
}

namespace {

constexpr int kBrOut = 50, kVxlanOut = 51, kTapNs = 52, kTapNsOut = 53;
constexpr int kNsIn = 2, kNsOut = 3;
constexpr const char* kNsMac = "fa:16:3e:0d:00:50";
constexpr const char* kNsOutMac = "fa:16:3e:0d:00:51";
constexpr const char* kWorldMac = "fa:16:3e:00:03:01";

/// A second router on this node, between the first one's external network and the world. It has the floating IPs
/// 203.0.113.14 of d and 203.0.113.12 of b, which the first one does not translate any more.
Snapshot with_north_south() {
    Snapshot snapshot = legacy_snapshot();
    NetnsView north_south = make_netns(kNorthSouth);
    NetnsView& root = snapshot.root;
    add_bridge(root, kBrOut, "br-out", "fa:16:3e:00:03:00");
    add_vxlan(root, kVxlanOut, 300, kBrOut, false);
    add_remote_mac(root, kVxlanOut, kWorldMac, kPeer1);
    enslave(add_veth(root, kTapNs, "tap50ab0001-10", "fe:16:3e:0d:00:50", north_south, kNsIn, "qr-50ab0001-10", kNsMac),
            kBrEx);
    add_static_fdb(root, kTapNs, kNsMac);
    enslave(add_veth(root, kTapNsOut, "tap51ab0001-10", "fe:16:3e:0d:00:51", north_south, kNsOut, "qg-51ab0001-10",
                     kNsOutMac),
            kBrOut);
    add_static_fdb(root, kTapNsOut, kNsOutMac);

    NetnsView& first = router(snapshot);
    std::erase_if(first.routes, [](const Route& route) { return route.destination.length == 0; });
    add_route(first, "0.0.0.0/0", kQg, "172.24.5.50");
    add_neighbour(first, kQg, "172.24.5.50", kNsMac, kNudReachable);
    first.netfilter = {};

    add_address(north_south, kNsIn, "172.24.5.50/23");
    add_neighbour(north_south, kNsIn, "172.24.5.3", kQgMac, kNudReachable);
    add_route(north_south, "10.0.0.0/24", kNsIn, "172.24.5.3");
    add_address(north_south, kNsOut, "203.0.113.1/24");
    add_address(north_south, kNsOut, "203.0.113.14/32");
    add_address(north_south, kNsOut, "203.0.113.12/32");
    add_route(north_south, "0.0.0.0/0", kNsOut, "203.0.113.254");
    add_neighbour(north_south, kNsOut, "203.0.113.254", kWorldMac, kNudReachable);
    add_nat(north_south, "qg-51ab0001-10", false);
    north_south.netfilter.maps["ip fiplane fip_in"] = {{ip("203.0.113.14"), ip("10.0.0.14")},
                                                       {ip("203.0.113.12"), ip("10.0.0.12")}};
    north_south.netfilter.maps["ip fiplane fip_out"] = {{ip("10.0.0.14"), ip("203.0.113.14")},
                                                        {ip("10.0.0.12"), ip("203.0.113.12")}};
    set_sysctls(north_south, false);
    snapshot.routers.emplace(kNorthSouth, north_south);
    return snapshot;
}

Scope north_south_scope() {
    return {{"br-ex", "brq11111111-11", "br-out"}};
}

fl_out out_to_world() {
    fl_out out = out_tunnel(300, kPeer1, kPeer1Mac);
    out.port = kVxlanOut;
    return out;
}

}  // namespace

TEST_CASE("a floating IP on a router behind the VM's own") {
    const Compiled compiled = compile(with_north_south(), north_south_scope());
    const FipReport& report = report_of(compiled, "203.0.113.14");
    CHECK(report.router == kNorthSouth);
    CHECK(report.reason_in == "");
    CHECK(report.reason_out == "");
    CHECK(report.steps_out.back().text == "br-out: out of vxlan-300");
    CHECK(hex(compiled.tables.fip_in.at(fip_row_key(kBrOut, "203.0.113.14"))) ==
          hex(fip_row(kNsOutMac, journey(kMacD, kQrMac, 2, out_port(kTapD), 0, "10.0.0.14"))));
    const auto d = compiled.tables.vms.find(vm_key(kTapD, "10.0.0.14"));
    const auto b = compiled.tables.vms.find(vm_key(kTapB, "10.0.0.12"));
    REQUIRE(d != compiled.tables.vms.end());
    REQUIRE(b != compiled.tables.vms.end());
    CHECK(hex(d->second) == hex(vm_row(kMacD, "203.0.113.14", d->second.domain)));
    CHECK(hex(b->second) == hex(vm_row(kMacB, "203.0.113.12", d->second.domain)));
    CHECK(hex(compiled.tables.routes.at(route_row_key(d->second.domain, "0.0.0.0/0"))) ==
          hex(journey(kWorldMac, kNsOutMac, 2, out_to_world(), FL_NEXT_SNAT)));

    // Where no rule translates there is nothing to say about VMs without a floating IP.
    CHECK_FALSE(note_begins(compiled, kQrouter + ": what"));

    // a has no floating IP at all: it reaches the world by its own address.
    const fl_vm& a = compiled.tables.vms.at(vm_key(kTapA, "10.0.0.11"));
    CHECK(a.domain != d->second.domain);
    CHECK(hex(a) == hex(vm_row(kMacA, "0.0.0.0", a.domain)));
}

TEST_CASE("who asks through the translating router for a floating IP hears from that") {
    // x, behind another leg of the second router, has asked for d's floating IP, which only that router's conntrack
    // knows.
    Snapshot snapshot = with_north_south();
    NetnsView& north_south = snapshot.routers.at(kNorthSouth);
    add_bridge(snapshot.root, 60, "br-x", "fa:16:3e:00:04:00");
    enslave(add_veth(snapshot.root, 61, "tap60ab0001-10", "fe:16:3e:0d:00:60", north_south, 4, "qr-60ab0001-10",
                     "fa:16:3e:0d:00:60"),
            60);
    add_static_fdb(snapshot.root, 61, "fa:16:3e:0d:00:60");
    enslave(add_link(snapshot.root, 62, "tapxxxxxxxx-xx", "tun", "fe:16:3e:00:04:05"), 60);
    add_static_fdb(snapshot.root, 62, "fa:16:3e:00:04:05");
    add_address(north_south, 4, "10.5.0.1/24");
    add_neighbour(north_south, 4, "10.5.0.5", "fa:16:3e:00:04:05");
    set_sysctls(north_south, false);
    Scope scope = north_south_scope();
    scope.bridges.insert("br-x");
    const Compiled compiled = compile(snapshot, scope);
    const fl_vm& d = compiled.tables.vms.at(vm_key(kTapD, "10.0.0.14"));
    CHECK(hex(d) == hex(vm_row(kMacD, "203.0.113.14", d.domain)));
    CHECK_FALSE(reaches(compiled, d.domain, "10.5.0.5"));
    CHECK(reaches(compiled, d.domain, "10.0.0.11"));
    // a has no floating IP anywhere: nobody asks x for one on its behalf.
    CHECK(reaches(compiled, compiled.tables.vms.at(vm_key(kTapA, "10.0.0.11")).domain, "10.5.0.5"));
}

TEST_CASE("a rule behind the VM's own router tells VMs with a floating IP there apart") {
    Snapshot snapshot = with_north_south();
    nf::Chain& chain = add_chain(snapshot.routers.at(kNorthSouth), nf::Family::kIp, "t", "forward", nf::Hook::kForward);
    chain.rules = {rule("ip saddr 10.0.0.12 drop",
                        {match(nf::Field::kIpSaddr, {net("10.0.0.12/32")}), verdict(nf::VerdictKind::kDrop)})};
    const Compiled compiled = compile(snapshot, north_south_scope());
    CHECK(report_of(compiled, "203.0.113.14").fast_out);
    const FipReport& dropped = report_of(compiled, "203.0.113.12");
    CHECK_FALSE(dropped.fast_out);
    const auto b = compiled.tables.vms.find(vm_key(kTapB, "10.0.0.12"));
    if (b != compiled.tables.vms.end())
        CHECK_FALSE(compiled.tables.routes.contains(route_row_key(b->second.domain, "0.0.0.0/0")));
}

TEST_CASE("a way back out of the leg does not cost senders their way in") {
    // 10.9.0.0/24 is behind the first router's external leg, like its default route. The second router has a floating
    // IP for 10.9.0.14, which it knows on the way to the world; on the way to d nobody does.
    Snapshot snapshot = with_north_south();
    add_remote_mac(snapshot.root, kVxlanEx, kFarMac, kPeer3);
    NetnsView& first = router(snapshot);
    add_route(first, "10.9.0.0/24", kQg, "172.24.5.99");
    add_neighbour(first, kQg, "172.24.5.99", kFarMac, kNudReachable);
    NetnsView& north_south = snapshot.routers.at(kNorthSouth);
    north_south.netfilter.maps["ip fiplane fip_in"][ip("203.0.113.20")] = ip("10.9.0.14");
    north_south.netfilter.maps["ip fiplane fip_out"][ip("10.9.0.14")] = ip("203.0.113.20");
    const Compiled compiled = compile(snapshot, north_south_scope());
    const auto domain = senders(compiled, "10.9.0.0/24");
    REQUIRE(domain.value_or(0) != 0);
    CHECK_FALSE(senders(compiled, "10.9.0.14/32"));
    CHECK(reaches(compiled, *domain, "10.0.0.14"));
    CHECK_FALSE(compiled.tables.routes.contains(route_row_key(*domain, "0.0.0.0/0")));
}
