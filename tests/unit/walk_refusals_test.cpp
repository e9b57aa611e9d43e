// SPDX-License-Identifier: Apache-2.0
// What must stop the walk: one thing changed in a snapshot that is fast otherwise, and the reason that is then given.
#include <catch2/catch_test_macros.hpp>
#include <functional>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

using Change = std::function<void(Snapshot&)>;

NetnsView& router(Snapshot& snapshot) {
    return snapshot.routers.at(kQrouter);
}
NetnsView& fip(Snapshot& snapshot) {
    return snapshot.routers.at(kFipNs);
}
Link& root_link(Snapshot& snapshot, int ifindex) {
    return snapshot.root.links.at(ifindex);
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// The change stops packets for 172.24.5.11 for this reason, and there is no row.
void check_in(const char* what, const Change& change, const std::string& reason, Snapshot snapshot = dvr_snapshot()) {
    INFO(what);
    change(snapshot);
    const Compiled compiled = compile(snapshot, scope());
    const FipReport& report = report_of(compiled, "172.24.5.11");
    CHECK_FALSE(report.fast_in);
    INFO("reason: " << report.reason_in);
    CHECK(contains(report.reason_in, reason));
    CHECK_FALSE(compiled.tables.fip_in.contains(fip_row_key(kBrEx, "172.24.5.11")));
}

/// The change stops what the VM with 172.24.5.11 sends.
void check_out(const char* what, const Change& change, const std::string& reason, Snapshot snapshot = dvr_snapshot()) {
    INFO(what);
    change(snapshot);
    const Compiled compiled = compile(snapshot, scope());
    const FipReport& report = report_of(compiled, "172.24.5.11");
    CHECK_FALSE(report.fast_out);
    INFO("reason: " << report.reason_out);
    CHECK(contains(report.reason_out, reason));
    CHECK_FALSE(compiled.tables.vms.contains(vm_key(kTapA, "10.0.0.11")));
}

/// The change takes a whole segment out.
void check_segment(const char* what, const Change& change, const std::string& reason) {
    INFO(what);
    Snapshot snapshot = dvr_snapshot();
    change(snapshot);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(has_note(compiled, reason));
    CHECK_FALSE(compiled.tables.sources.contains(source_row_key(kBrEx)));
    for (const auto& [key, value] : compiled.tables.fdb)
        CHECK(key.segment != kBrEx);
    CHECK(compiled.tables.fip_in.empty());
    for (const auto& [key, value] : compiled.tables.arp)
        CHECK(key.segment != kBrEx);
    for (const DeviceRole& device : compiled.devices) {
        if (device.ifindex == kBrEx || device.ifindex == kVxlanEx) CHECK(contains(device.refused, reason));
    }
}

void add_forward_rule(NetnsView& view, const std::string& text, std::vector<nf::Statement> statements) {
    add_chain(view, nf::Family::kIp, "filter", "FORWARD", nf::Hook::kForward).rules = {
        rule(text, std::move(statements))};
}

}  // namespace

TEST_CASE("bridges that do more than forward are left alone") {
    check_segment("down", [](Snapshot& s) { root_link(s, kBrEx).admin_up = false; }, "br-ex is down");
    check_segment("carrier", [](Snapshot& s) { root_link(s, kBrEx).running = false; }, "br-ex has no carrier");
    check_segment("VLANs", [](Snapshot& s) { root_link(s, kBrEx).bridge->vlan_filtering = true; }, "filters VLANs");
    check_segment("STP", [](Snapshot& s) { root_link(s, kBrEx).bridge->stp = true; }, "runs STP");
    check_segment(
        "bridge netfilter",
        [](Snapshot& s) {
            add_chain(s.root, nf::Family::kBridge, "f", "forward", nf::Hook::kForward).policy_accept = false;
        },
        "family bridge");
    check_segment(
        "br_netfilter with rules",
        [](Snapshot& s) { add_forward_rule(s.root, "accept", {verdict(nf::VerdictKind::kAccept)}); },
        "bridge-nf-call-iptables is on");
    check_segment(
        "br_netfilter with legacy tables",
        [](Snapshot& s) { s.root.netfilter.opaque = {"iptables-legacy table filter"}; },
        "iptables-legacy table filter cannot be read");
}

TEST_CASE("rules in the root namespace do no harm where bridged packets do not pass them") {
    Snapshot snapshot = dvr_snapshot();
    add_forward_rule(snapshot.root, "drop", {verdict(nf::VerdictKind::kDrop)});
    snapshot.root.sysctls.bridge_nf_call_iptables = false;
    const Compiled compiled = compile(snapshot, scope());
    CHECK(differences(compile(dvr_snapshot(), scope()).tables, compiled.tables) == "");
}

TEST_CASE("ports that are not plainly forwarding stop journeys through them") {
    check_in("state", [](Snapshot& s) { root_link(s, kTapFg).bridge_port->state = 1; }, "not in forwarding state");
    check_in("isolated", [](Snapshot& s) { root_link(s, kTapQr).bridge_port->isolated = true; }, "isolated");
    check_in("target down", [](Snapshot& s) { root_link(s, kTapA).admin_up = false; }, "tapaaaaaaaa-aa is down");
    check_out("no carrier", [](Snapshot& s) { root_link(s, kTapA).running = false; }, "port tapaaaaaaaa-aa stays slow");
}

TEST_CASE("a VLAN device is a port like any other: it takes tags off and puts them on") {
    Snapshot tagged = dvr_snapshot();
    root_link(tagged, kTapA).kind = "vlan";
    root_link(tagged, kTapA).is_tap = false;
    const Compiled compiled = compile(tagged, scope());
    CHECK(compiled.tables.sources.at(source_row_key(kTapA)).role == FL_ROLE_PORT);
    const fl_out& out = compiled.tables.fip_in.at(fip_row_key(kBrEx, "172.24.5.11")).next.out;
    CHECK(hex(out) == hex(out_port(kTapA, 1450, 0)));
}

TEST_CASE("what would be jumped over must have nothing to say") {
    const auto program = [](Link& link) { link.foreign_programs = {"tcx ingress cil_from_netdev"}; };
    check_in("program on fg", [&](Snapshot& s) { program(fip(s).links.at(kFg)); }, "cil_from_netdev");
    check_in("program on rfp", [&](Snapshot& s) { program(router(s).links.at(kRfp)); }, "cil_from_netdev");
    check_in("program on fg's other end", [&](Snapshot& s) { program(root_link(s, kTapFg)); }, "cil_from_netdev");
    check_in("XDP", [](Snapshot& s) { fip(s).links.at(kFpr).xdp_prog_id = 9; }, "has XDP program 9");
    check_in("shaper", [](Snapshot& s) { router(s).links.at(kQr).qdisc = "htb"; }, "has qdisc htb");
    check_in("down", [](Snapshot& s) { router(s).links.at(kQr).admin_up = false; }, "qr-21ab0001-10 is down");
    check_in("IPsec", [](Snapshot& s) { router(s).ipsec_policies.emplace_back(); }, "has IPsec policies");
    check_out("shaper outwards", [](Snapshot& s) { router(s).links.at(kRfp).qdisc = "tbf"; }, "has qdisc tbf");
    check_in(
        "ingress chain",
        [](Snapshot& s) {
            nf::Chain& chain = add_chain(router(s), nf::Family::kNetdev, "q", "in", nf::Hook::kIngress);
            chain.device = "rfp-7b1f3c52-9";
            chain.policy_accept = false;
        },
        "netdev ingress chain");
}

TEST_CASE("a port's own queue and programs are passed by redirect, but not by its shortcuts") {
    Snapshot snapshot = dvr_snapshot();
    root_link(snapshot, kTapA).qdisc = "htb";
    Link& veth = root_link(snapshot, kTapB);
    veth.kind = "veth";
    veth.is_tap = false;
    veth.qdisc = "noqueue";
    veth.peer = PeerInfo{7, std::nullopt};
    Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacA)).out.flags == 0);
    CHECK(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacB)).out.flags == FL_OUT_PEER);
    CHECK(report_of(compiled, "172.24.5.11").fast_in);

    veth.foreign_programs = {"tcx egress shaper"};
    compiled = compile(snapshot, scope());
    CHECK(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacB)).out.flags == 0);
    CHECK_FALSE(compiled.tables.sources.contains(source_row_key(kTapB)));
    CHECK(std::ranges::any_of(compiled.devices, [](const DeviceRole& device) {
        return device.ifindex == kTapB && contains(device.refused, "tcx egress shaper");
    }));
}

TEST_CASE("routing that depends on more than the walk knows") {
    check_in(
        "forwarding", [](Snapshot& s) { fip(s).sysctls.devices["fg-41ab0005-50"].forwarding = false; },
        "forwarding is off on fg-41ab0005-50");
    check_in(
        "rp_filter", [](Snapshot& s) { router(s).sysctls.devices["rfp-7b1f3c52-9"].rp_filter = 1; },
        "rp_filter is 1 on rfp-7b1f3c52-9");
    check_in(
        "multipath",
        [](Snapshot& s) {
            for (Route& route : router(s).routes)
                route.multipath = route.destination == net("10.0.0.0/24");
        },
        "route 10.0.0.0/24 dev qr-21ab0001-10 (table main) is not followed");
    check_in(
        "blackhole", [](Snapshot& s) { add_route(router(s), "10.0.0.11/32", 0).type = RouteType::kBlackhole; },
        "route blackhole 10.0.0.11/32 (table main) is not followed");
    check_in(
        "TOS", [](Snapshot& s) { add_route(router(s), "10.0.0.11/32", kQr).tos = 16; }, "depends on the packet's TOS");
    check_in(
        "TOS with a larger metric",
        [](Snapshot& s) {
            add_route(router(s), "10.0.0.11/32", kQr);
            Route& other = add_route(router(s), "10.0.0.11/32", kQr);
            other.tos = 16;
            other.priority = 10;
        },
        "depends on the packet's TOS");
    check_out(
        "default route with a TOS and a larger metric",
        [](Snapshot& s) {
            Route& other = add_route(router(s), "0.0.0.0/0", kQr, "10.0.0.99", 16);
            other.tos = 16;
            other.priority = 10;
        },
        "depends on the packet's TOS");
    const auto add_inverted = [](Snapshot& s, const char* source, const char* destination, bool lookup) {
        add_rule(router(s), 100, source, "", 100);
        PolicyRule& inverted = router(s).rules.back();
        inverted.destination = net(destination);
        inverted.lookup = lookup;
        inverted.other_selector = inverted.inverted = true;
    };
    const auto not_to = [&](Snapshot& s) { add_inverted(s, "", "10.0.0.0/8", true); };
    const std::string not_to_text = "rule 100: not from all to 10.0.0.0/8 (with further selectors) lookup 100";
    check_out("all destinations but some", not_to, not_to_text + " is not followed");
    // Those are not told apart either.
    check_in("the destinations that it leaves out", not_to, not_to_text + " is not followed");
    const auto not_from = [&](Snapshot& s) { add_inverted(s, "203.0.113.0/24", "0.0.0.0/0", false); };
    const std::string not_from_text = "rule 100: not from 203.0.113.0/24 (with further selectors) (no lookup)";
    check_in("all sources but some, from outside", not_from, not_from_text + " is not followed");
    check_out("all sources but some, from a VM", not_from, not_from_text + " is not followed");
    check_in(
        "all devices but one",
        [](Snapshot& s) {
            add_rule(router(s), 100, "", "rfp-7b1f3c52-9", 100);
            router(s).rules.back().other_selector = router(s).rules.back().inverted = true;
        },
        "rule 100: not from all iif rfp-7b1f3c52-9 (with further selectors) lookup 100 is not followed");
    check_in(
        "selector",
        [](Snapshot& s) {
            add_rule(router(s), 100, "", "", 254);
            router(s).rules.back().other_selector = true;
        },
        "rule 100: from all (with further selectors) lookup main is not followed");
    check_in(
        "source rule", [](Snapshot& s) { add_rule(router(s), 100, "203.0.113.0/24", "", 16); },
        "depends on the source: rule 100: from 203.0.113.0/24 lookup 16");
    check_in("local", [](Snapshot& s) { add_address(router(s), kQr, "10.0.0.11/32"); }, "is delivered locally");
}

TEST_CASE("rules and routes that other packets meet do no harm") {
    Snapshot snapshot = dvr_snapshot();
    add_rule(router(snapshot), 100, "", "tun7", 99);
    add_rule(router(snapshot), 40000, "203.0.113.0/24", "", 99);
    add_rule(router(snapshot), 101, "", "", 99);  // for sockets that are bound to a device
    router(snapshot).rules.back().oifname = "rfp-7b1f3c52-9";
    add_route(router(snapshot), "0.0.0.0/0", 0, {}, 99).type = RouteType::kBlackhole;
    Route worse;
    worse.destination = net("10.0.0.0/24");
    worse.oif = kQr;
    worse.gateway = ip("10.0.0.99");
    worse.priority = 100;
    router(snapshot).routes.insert(router(snapshot).routes.begin(), worse);
    Route& thrown = add_route(router(snapshot), "0.0.0.0/0", 0, {}, 253);
    thrown.type = RouteType::kThrow;
    CHECK(differences(compile(dvr_snapshot(), scope()).tables, compile(snapshot, scope()).tables) == "");
}

TEST_CASE("filters in a router's namespace") {
    const nf::Match about_port = match(nf::Field::kOther, {});
    check_in(
        "dropped", [](Snapshot& s) { add_forward_rule(router(s), "drop", {verdict(nf::VerdictKind::kDrop)}); },
        "netfilter drops it in forward");
    check_in(
        "undecidable",
        [&](Snapshot& s) {
            add_forward_rule(router(s), "tcp dport 22 drop", {about_port, verdict(nf::VerdictKind::kDrop)});
        },
        kQrouter + ": rule `tcp dport 22 drop` in ip filter FORWARD is undecidable");
    check_out(
        "not understood", [](Snapshot& s) { add_forward_rule(fip(s), "meter flood", {nf::Unknown{}}); },
        kFipNs + ": rule `meter flood` in ip filter FORWARD is not understood");
    check_in(
        "source filter",
        [](Snapshot& s) {
            add_forward_rule(router(s), "ip saddr 203.0.113.7 drop",
                             {match(nf::Field::kIpSaddr, {net("203.0.113.7/32")}), verdict(nf::VerdictKind::kDrop)});
        },
        "depends on the source: rule `ip saddr 203.0.113.7 drop`");
    check_in(
        "legacy tables", [](Snapshot& s) { fip(s).netfilter.opaque = {"iptables-legacy table raw"}; },
        "iptables-legacy table raw cannot be read");
}

TEST_CASE("translation that a stateless path cannot copy") {
    const auto snat = [](Snapshot& s) -> nf::Snat& {
        return std::get<nf::Snat>(router(s).netfilter.chains[1].rules[1].statements[0]);
    };
    check_out("random ports", [&](Snapshot& s) { snat(s).random = true; }, "chooses ports at random");
    check_in(
        "invalid packets are not translated in", [](Snapshot& s) { router(s).netfilter.chains[2].rules.clear(); },
        "invalid");
    check_out(
        "invalid packets are not translated out", [](Snapshot& s) { router(s).netfilter.chains[3].rules.clear(); },
        "invalid");
    // Answers would leave with another address, or find nobody.
    check_in(
        "no way back", [](Snapshot& s) { router(s).netfilter.maps["ip fiplane fip_out"].erase(ip("10.0.0.11")); },
        "answers of 10.0.0.11 are not translated back to 172.24.5.11 alone");
    check_in(
        "shared way back",
        [](Snapshot& s) { router(s).netfilter.maps["ip fiplane fip_out"][ip("10.0.0.12")] = ip("172.24.5.11"); },
        "are not translated back");
    check_out(
        "goes back elsewhere",
        [](Snapshot& s) { router(s).netfilter.maps["ip fiplane fip_in"][ip("172.24.5.11")] = ip("10.0.0.14"); },
        kQrouter + ": another address is translated to the source, and only conntrack knows its answers");
    check_out(
        "two floating IPs lead to one VM",
        [](Snapshot& s) { router(s).netfilter.maps["ip fiplane fip_in"][ip("172.24.5.19")] = ip("10.0.0.11"); },
        "another address is translated to the source");
    check_out(
        "a port of another address leads to the VM",
        [](Snapshot& s) {
            nf::Chain& chain = add_chain(router(s), nf::Family::kIp, "forwards", "prerouting", nf::Hook::kPrerouting,
                                         nf::ChainType::kNat, -99);
            chain.rules = {rule("iifname lo dnat to 10.0.0.11:80", {match(nf::Field::kIifname, {std::string("lo")}),
                                                                    nf::Unknown{.dnat = ip("10.0.0.11")}})};
        },
        "another address is translated to the source");
    check_out(
        "a translation that cannot be read",
        [](Snapshot& s) {
            nf::Chain& chain = add_chain(router(s), nf::Family::kIp, "forwards", "prerouting", nf::Hook::kPrerouting,
                                         nf::ChainType::kNat, -99);
            chain.rules = {rule("iifname lo xt target DNAT",
                                {match(nf::Field::kIifname, {std::string("lo")}), nf::Unknown{.may_translate = true}})};
        },
        "translates addresses that cannot be read: iifname lo xt target DNAT");
    const auto other_table = [](const char* floating) {
        return [floating](Snapshot& s) {
            nf::Chain& chain = add_chain(router(s), nf::Family::kIp, "forwards", "prerouting", nf::Hook::kPrerouting,
                                         nf::ChainType::kNat, -100);
            chain.rules = {
                rule("ip daddr one dnat to 10.0.0.77",
                     {match(nf::Field::kIpDaddr, {Prefix::host(ip(floating))}), nf::Dnat{to_address("10.0.0.77")}})};
        };
    };
    check_in("another table translates it otherwise", other_table("172.24.5.11"),
             "chains ip fiplane prerouting and ip forwards prerouting have the same priority");
    Snapshot translates_another = dvr_snapshot();
    other_table("172.24.5.77")(translates_another);
    const Compiled compiled = compile(translates_another, scope());
    CHECK(report_of(compiled, "172.24.5.11").fast_in);
    CHECK(report_of(compiled, "172.24.5.11").fast_out);
    check_in(
        "translated on the way in",
        [](Snapshot& s) {
            router(s).netfilter.chains[1].rules.push_back(rule("snat", {nf::Snat{to_address("10.0.0.1"), false}}));
        },
        "treats packets that conntrack calls invalid in another way");
}

TEST_CASE("neighbours and tables that do not lead on") {
    check_in(
        "unresolved VM",
        [](Snapshot& s) {
            std::erase_if(router(s).neighbours, [](const Neighbour& n) { return n.address == ip("10.0.0.11"); });
        },
        kQrouter + ": neighbour 10.0.0.11 on qr-21ab0001-10 is not resolved");
    check_in(
        "failed VM",
        [](Snapshot& s) {
            for (Neighbour& n : router(s).neighbours)
                n.state = n.address == ip("10.0.0.11") ? kNudFailed : n.state;
        },
        "neighbour 10.0.0.11 on qr-21ab0001-10 is not resolved");
    check_in(
        "MAC of somebody else", [](Snapshot& s) { fip(s).neighbours[0].mac = mac(kQrMac); },
        "has another MAC than rfp-7b1f3c52-9");
    check_in(
        "the router's own MAC",
        [](Snapshot& s) {
            for (Neighbour& n : router(s).neighbours)
                n.mac = n.address == ip("10.0.0.11") ? mac(kQrMac) : n.mac;
        },
        std::string(kQrMac) + " is on the port that it came from");
    check_in(
        "veth ends that do not belong together",
        [](Snapshot& s) { router(s).links.at(kQr).peer = PeerInfo{kTapFg, NetnsName{}}; },
        "qr-21ab0001-10 and tap41ab0005-50 are not the ends of one veth");
    check_in(
        "an address that the bridge does not know",
        [](Snapshot& s) { std::erase_if(s.root.fdb, [](const FdbEntry& e) { return e.mac == mac(kMacA); }); },
        std::string(kMacA) + " is not in the table of brq11111111-11");
    check_in(
        "the leg's MAC is elsewhere",
        [](Snapshot& s) {
            for (FdbEntry& e : s.root.fdb)
                e.ifindex = e.mac == mac(kFgMac) ? kVxlanEx : e.ifindex;
        },
        "the table of br-ex sends fa:16:3e:0c:00:10 elsewhere");
    check_in(
        "no route to it",
        [](Snapshot& s) {
            std::erase_if(fip(s).routes, [](const Route& r) { return r.destination == net("172.24.5.11/32"); });
        },
        "no router port on a segment in scope has a route to it");
    check_out(
        "gateway and everybody else unresolved",
        [](Snapshot& s) {
            std::erase_if(fip(s).neighbours, [](const Neighbour& n) { return n.ifindex == kFg; });
            std::erase_if(fip(s).routes, [](const Route& r) { return r.destination.length == 32; });
        },
        "neighbour 172.24.4.1 on fg-41ab0005-50 is not resolved");
}

TEST_CASE("tunnels whose headers would differ, or that lead nowhere") {
    const auto tunnel = [](const Change& change, const std::string& note) {
        INFO(note);
        Snapshot snapshot = legacy_snapshot();
        change(snapshot);
        const Compiled compiled = compile(snapshot, scope());
        CHECK(has_note(compiled, note));
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
        CHECK_FALSE(compiled.tables.fip_in.contains(fip_row_key(kBrEx, "172.24.5.13")));
        CHECK_FALSE(report_of(compiled, "172.24.5.13").reason_in.empty());
    };
    const auto vxlan = [](Snapshot& s) -> VxlanInfo& { return *root_link(s, kVxlanTenant).vxlan; };
    tunnel([&](Snapshot& s) { vxlan(s).udp_checksum = true; }, "vxlan-200 sends UDP checksums");
    tunnel([&](Snapshot& s) { vxlan(s).ttl = 10; }, "vxlan-200 sends with TTL 10");
    tunnel([&](Snapshot& s) { vxlan(s).tos = 1; }, "vxlan-200 sends with TOS 1");
    tunnel([&](Snapshot& s) { vxlan(s).collect_metadata = true; }, "collect-metadata mode");
    tunnel([&](Snapshot& s) { root_link(s, kVxlanTenant).admin_up = false; }, "vxlan-200 is down");
    tunnel([](Snapshot& s) { root_link(s, kEth0).running = false; }, "eth0 is down");
    tunnel([](Snapshot& s) { std::erase_if(s.root.routes, [](const Route& r) { return r.oif == kEth0; }); },
           "no route to 198.51.100.3/32");
    tunnel([](Snapshot& s) { s.root.neighbours.erase(s.root.neighbours.begin() + 1); },
           "neighbour 198.51.100.3 on eth0 is not resolved");
    tunnel(
        [](Snapshot& s) {
            add_chain(s.root, nf::Family::kInet, "f", "out", nf::Hook::kOutput).rules = {rule(
                "drop udp", {match(nf::Field::kIpProtocol, {std::uint64_t{17}}), verdict(nf::VerdictKind::kDrop)})};
        },
        "root namespace drops tunnel packets to 198.51.100.3");
}

TEST_CASE("an unresolved underlay next hop is asked for") {
    Snapshot snapshot = dvr_snapshot();
    snapshot.root.neighbours.erase(snapshot.root.neighbours.begin() + 1);
    const Compiled compiled = compile(snapshot, scope());
    const auto wanted = std::ranges::find(compiled.keepalives, ip("198.51.100.3"), &Keepalive::address);
    REQUIRE(wanted != compiled.keepalives.end());
    CHECK(wanted->ifindex == kEth0);
    CHECK(wanted->always);
    CHECK(wanted->state == 0);
    CHECK(compiled.tables.fdb.contains(fdb_row_key(kBrEx, kGatewayMac)));
    CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrEx, kRemoteFgMac)));
}

TEST_CASE("peers behind an underlay router, with a smaller MTU on the way") {
    Snapshot snapshot = dvr_snapshot();
    add_route(snapshot.root, "203.0.113.0/24", kEth0, "198.51.100.1").mtu = 1400;
    for (FdbEntry& entry : snapshot.root.fdb) {
        if (entry.destination == ip("198.51.100.3")) entry.destination = ip("203.0.113.3");
    }
    const Compiled compiled = compile(snapshot, scope());
    fl_out wanted = out_tunnel(200, "203.0.113.3", kPeer1Mac);
    wanted.mtu = 1350;
    CHECK(hex(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(wanted));
}

TEST_CASE("which entries of the tables say where a MAC leads") {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    const auto entry = [&](int ifindex, const char* address, std::uint16_t state, std::uint16_t vlan = 0) {
        add_static_fdb(root, ifindex, address);
        root.fdb.back().state = state;
        root.fdb.back().vlan = vlan;
    };
    entry(kTapA, "fe:16:3e:00:01:11", kNudPermanent);         // the tap's own MAC: the host drops what it gets for it
    entry(kTapA, "fa:16:3e:00:09:01", kNudNoarp, 7);          // VLAN 7 is not looked up where VLANs are not filtered
    entry(kTapQr, "fa:16:3e:00:09:03", kNudReachable);        // learned from the router: not its own
    entry(kTapA, "01:00:5e:00:00:01", kNudNoarp);             // a group
    add_static_fdb(root, kVxlanTenant, "fa:16:3e:00:09:04");  // no peer
    add_remote_mac(root, kVxlanTenant, "fa:16:3e:00:09:05", "198.51.100.1");
    add_vxlan_fdb(root, kVxlanTenant, "fa:16:3e:00:09:05", "198.51.100.3");  // two peers
    const Compiled compiled = compile(snapshot, scope());
    CHECK(differences(compile(dvr_snapshot(), scope()).tables, compiled.tables) == "");

    entry(kTapA, "fa:16:3e:00:09:06", kNudReachable);
    root.fdb.back().flags = 0x10;  // NTF_EXT_LEARNED: whoever put it there keeps it
    CHECK(compile(snapshot, scope()).tables.fdb.contains(fdb_row_key(kBrq, "fa:16:3e:00:09:06")));
}

TEST_CASE("a tunnel's MTU is the smaller one of the device and the underlay") {
    Snapshot snapshot = dvr_snapshot();
    root_link(snapshot, kVxlanTenant).mtu = 1200;
    CHECK(compile(snapshot, scope()).tables.fdb.at(fdb_row_key(kBrq, kMacC)).out.mtu == 1200);
}

TEST_CASE("two tunnel devices in one bridge make a relay") {
    Snapshot snapshot = dvr_snapshot();
    CHECK_FALSE(compile(snapshot, scope()).devices.front().wire_to_wire);
    add_vxlan(snapshot.root, 30, 300, kBrEx, false);
    CHECK(compile(snapshot, scope()).devices.front().wire_to_wire);
}

TEST_CASE("tunnels that disagree about the own address: the minority stays slow") {
    Snapshot snapshot = dvr_snapshot();
    snapshot.root.links[30] = root_link(snapshot, kVxlanTenant);
    Link& odd = root_link(snapshot, 30);
    odd.ifindex = 30;
    odd.name = "vxlan-300";
    odd.vxlan->local = ip("198.51.100.99");
    const Compiled compiled = compile(snapshot, scope());
    CHECK(has_note(compiled, "vxlan-300 uses 198.51.100.99:4789, other tunnels 198.51.100.2:4789"));
    CHECK_FALSE(compiled.tables.sources.contains(source_row_key(30)));
    CHECK(differences(compile(dvr_snapshot(), scope()).tables, compiled.tables) == "");
}

TEST_CASE("a VM port with a filter is a source only while the filter is known to admit its own frames") {
    const auto refused = [](const Change& change, const std::string& note) {
        INFO(note);
        Snapshot snapshot = dvr_snapshot();
        change(snapshot);
        const Compiled compiled = compile(snapshot, scope());
        CHECK(has_note(compiled, note));
        CHECK_FALSE(compiled.tables.sources.contains(source_row_key(kTapA)));
        CHECK_FALSE(compiled.tables.vms.contains(vm_key(kTapA, "10.0.0.11")));
        CHECK(compiled.tables.sources.contains(source_row_key(kTapB)));
    };
    refused([](Snapshot& s) { add_static_fdb(s.root, kTapA, "fa:16:3e:00:01:99"); }, "not one static address");
    refused([](Snapshot& s) { add_neighbour(router(s), kQr, "10.0.0.99", kMacA); }, "name exactly one address");
    refused([](Snapshot& s) { s.root.netfilter.chains[0].rules.push_back(rule("limit", {nf::Unknown{}})); },
            "rule `limit` in netdev fiplane tapaaaaaaaa-aa is not understood");
    refused(
        [](Snapshot& s) {
            s.root.netfilter.chains[0].rules.push_back(rule(
                "no v6", {match(nf::Field::kEtherType, {std::uint64_t{0x86dd}}), verdict(nf::VerdictKind::kDrop)}));
        },
        "its ingress chain drops frames of type 0x86dd");

    // On a node without the VM's router the filter itself says which address it admits.
    Snapshot elsewhere = dvr_snapshot();
    std::erase_if(router(elsewhere).neighbours, [](const Neighbour& entry) { return entry.mac == mac(kMacA); });
    const Tables tables = compile(elsewhere, scope()).tables;
    CHECK(hex(tables.sources.at(source_row_key(kTapA))) ==
          hex(compile(dvr_snapshot(), scope()).tables.sources.at(source_row_key(kTapA))));

    Snapshot open = dvr_snapshot();
    open.root.netfilter.chains.erase(open.root.netfilter.chains.begin());
    const Compiled compiled = compile(open, scope());
    CHECK(compiled.tables.sources.at(source_row_key(kTapA)).flags == FL_SRC_LEARNS);
    CHECK(compiled.tables.vms.contains(vm_key(kTapA, "10.0.0.11")));
}

TEST_CASE("ARP is answered only where the answer does not depend on who asks") {
    const auto answered = [](const Change& change, int segment, const char* address) {
        Snapshot snapshot = dvr_snapshot();
        change(snapshot);
        return compile(snapshot, scope()).tables.arp.contains(arp_row_key(segment, address));
    };
    const auto fg = [](Snapshot& s) -> Sysctls::Device& { return fip(s).sysctls.devices["fg-41ab0005-50"]; };
    CHECK(answered([](Snapshot&) {}, kBrEx, "172.24.5.11"));
    CHECK_FALSE(answered([](Snapshot&) {}, kBrEx, "172.24.5.77"));
    CHECK_FALSE(answered([&](Snapshot& s) { fg(s).proxy_arp = false; }, kBrEx, "172.24.5.11"));
    CHECK(answered([&](Snapshot& s) { fg(s).proxy_arp = false; }, kBrEx, "172.24.5.2"));
    CHECK_FALSE(answered([&](Snapshot& s) { fg(s).forwarding = false; }, kBrEx, "172.24.5.11"));
    CHECK_FALSE(answered([&](Snapshot& s) { fg(s).rp_filter = 2; }, kBrEx, "172.24.5.2"));
    // A host on fg's own link answers for itself.
    CHECK_FALSE(answered([](Snapshot& s) { add_route(fip(s), "172.24.5.40/32", kFg); }, kBrEx, "172.24.5.40"));
    // With arp_ignore 1 only the device's own addresses count, with 0 all of the namespace; 2 depends on the asker.
    CHECK_FALSE(answered([](Snapshot&) {}, kBrEx, "169.254.88.135"));
    CHECK(answered([&](Snapshot& s) { fg(s).arp_ignore = 0; }, kBrEx, "169.254.88.135"));
    CHECK_FALSE(answered([&](Snapshot& s) { fg(s).arp_ignore = 2; }, kBrEx, "172.24.5.2"));
    CHECK_FALSE(answered([&](Snapshot& s) { fg(s).arp_ignore = 8; }, kBrEx, "172.24.5.2"));
    // Somebody else on this node answers too.
    CHECK_FALSE(answered([](Snapshot& s) { add_address(s.root, kEth0, "172.24.5.11/32"); }, kBrEx, "172.24.5.11"));
    CHECK_FALSE(
        answered([](Snapshot& s) { add_neighbour(s.root, kVxlanTenant, "10.0.0.1", kMacC); }, kBrq, "10.0.0.1"));
    CHECK_FALSE(answered(
        [](Snapshot& s) { add_chain(fip(s), nf::Family::kArp, "a", "in", nf::Hook::kInput).policy_accept = false; },
        kBrEx, "172.24.5.11"));
}

TEST_CASE("a legacy hairpin needs redirects off and its invalid packets translated") {
    const auto hairpin = [](const Change& change) {
        Snapshot snapshot = legacy_snapshot();
        change(snapshot);
        const Compiled compiled = compile(snapshot, scope());
        REQUIRE(compiled.tables.vms.contains(vm_key(kTapA, "10.0.0.11")));
        const auto domain = compiled.tables.vms.at(vm_key(kTapA, "10.0.0.11")).domain;
        return compiled.tables.dests.contains(dest_row_key(domain, "172.24.5.12"));
    };
    CHECK(hairpin([](Snapshot&) {}));
    CHECK_FALSE(hairpin([](Snapshot& s) { router(s).sysctls.devices["qr-21ab0001-10"].send_redirects = true; }));
    CHECK_FALSE(hairpin([](Snapshot& s) { router(s).netfilter.chains[3].rules.pop_back(); }));
}

TEST_CASE("stateless rules for the external device alone are enough for the ways in and out, not for a hairpin") {
    Snapshot snapshot = legacy_snapshot();
    auto& chains = router(snapshot).netfilter.chains;
    auto& in = chains[2].rules.front().statements;
    in.insert(in.begin(), match(nf::Field::kIifname, {std::string("qg-31ab0003-30")}));
    chains[3].rules.pop_back();
    const Compiled compiled = compile(snapshot, scope());
    CHECK(report_of(compiled, "172.24.5.11").fast_in);
    CHECK(report_of(compiled, "172.24.5.11").fast_out);
    for (const auto& [key, next] : compiled.tables.dests)
        CHECK((next.flags & FL_NEXT_HAIRPIN) == 0);
}

TEST_CASE("packets that a legacy router gets from its tenants are no packets from outside") {
    // On qr- the translated sources are at home: there an unknown source may be one of them.
    const Compiled compiled = compile(legacy_snapshot(), legacy_scope());
    for (const auto& [key, row] : compiled.tables.fip_in)
        CHECK(key.segment == kBrEx);
}
