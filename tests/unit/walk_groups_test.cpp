// SPDX-License-Identifier: Apache-2.0
// Several sources, routers and floating IPs together: domains, shadowing, conflicts, determinism, size.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <random>
#include <set>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

NetnsView& router(Snapshot& snapshot) {
    return snapshot.routers.at(kQrouter);
}
NetnsView& fip(Snapshot& snapshot) {
    return snapshot.routers.at(kFipNs);
}

const fl_vm* out_of(const Compiled& compiled, int port, const char* fixed, const char* router_mac = kQrMac) {
    const auto found = compiled.tables.vms.find(vm_key(port, fixed, router_mac));
    return found == compiled.tables.vms.end() ? nullptr : &found->second;
}

/// What fl_dests and fl_routes together say for an address, as the programs ask them: null or FL_OUT_NONE is Linux.
const fl_next* lookup(const Tables& tables, std::uint32_t domain, const char* address) {
    const auto host = tables.dests.find(dest_row_key(domain, address));
    if (host != tables.dests.end()) return &host->second;
    for (int length = 32; length >= 0; --length) {
        const Prefix prefix = Prefix{ip(address), static_cast<std::uint8_t>(length)}.network();
        const auto route = tables.routes.find(route_row_key(domain, prefix.str()));
        if (route != tables.routes.end()) return &route->second;
    }
    return nullptr;
}

bool is_fast(const fl_next* next) {
    return next != nullptr && next->out.kind != FL_OUT_NONE;
}

/// A second subnet 10.0.1.0/24 of the router on a second tenant bridge, with one VM that has a floating IP.
Snapshot two_subnets() {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    add_bridge(root, 40, "brq22222222-22", "fa:16:3e:00:02:00");
    enslave(add_veth(root, 41, "tap22ab0002-20", "fe:16:3e:0a:00:02", router(snapshot), 5, "qr-22ab0002-20",
                     "fa:16:3e:0a:00:02"),
            40);
    add_static_fdb(root, 41, "fa:16:3e:0a:00:02");
    enslave(add_link(root, 42, "tapeeeeeeee-ee", "tun", "fe:16:3e:00:02:15"), 40);
    add_static_fdb(root, 42, "fa:16:3e:00:02:15");
    add_address(router(snapshot), 5, "10.0.1.1/24");
    add_neighbour(router(snapshot), 5, "10.0.1.15", "fa:16:3e:00:02:15");
    add_rule(router(snapshot), 50000, "10.0.1.15/32", "", 16);
    router(snapshot).netfilter.maps["ip fiplane fip_in"][ip("172.24.5.15")] = ip("10.0.1.15");
    router(snapshot).netfilter.maps["ip fiplane fip_out"][ip("10.0.1.15")] = ip("172.24.5.15");
    add_route(fip(snapshot), "172.24.5.15/32", kFpr, "169.254.88.134");
    set_sysctls(router(snapshot), false);
    return snapshot;
}

Scope wide_scope() {
    return {{"br-ex", "brq11111111-11", "brq22222222-22"}};
}

/// `count` further floating IPs 172.25.x.y of VMs 10.1.x.y on the same router.
void add_many(Snapshot& snapshot, int count) {
    NetnsView& q = router(snapshot);
    add_route(q, "10.1.0.0/16", kQr);
    for (int i = 0; i < count; ++i) {
        const std::string fixed = fmt::format("10.1.{}.{}", i / 200, i % 200 + 1);
        const std::string floating = fmt::format("172.25.{}.{}", i / 200, i % 200 + 1);
        const std::string address = fmt::format("fa:16:3e:77:{:02x}:{:02x}", i / 256, i % 256);
        const int port = 1000 + i;
        enslave(add_link(snapshot.root, port, fmt::format("tap{:08x}-00", i), "tun", "fe" + address.substr(2)), kBrq);
        add_static_fdb(snapshot.root, port, address);
        add_neighbour(q, kQr, fixed, address);
        add_rule(q, static_cast<std::uint32_t>(40000 + i), fixed + "/32", "", 16);
        q.netfilter.maps["ip fiplane fip_in"][ip(floating)] = ip(fixed);
        q.netfilter.maps["ip fiplane fip_out"][ip(fixed)] = ip(floating);
        add_route(fip(snapshot), floating + "/32", kFpr, "169.254.88.134");
    }
}

std::string report_text(const Compiled& compiled) {
    std::string text;
    for (const FipReport& report : compiled.fips) {
        text += fmt::format("{} {} {} {} {} {} {} {} {}\n", report.fip.str(), report.fixed.str(), report.router,
                            report.segment, report.port, report.fast_in, report.fast_out, report.reason_in,
                            report.reason_out);
        for (const WalkStep& step : report.steps_in)
            text += step.netns + ": " + step.text + "\n";
        for (const WalkStep& step : report.steps_out)
            text += step.netns + ": " + step.text + "\n";
    }
    for (const std::string& note : compiled.notes)
        text += note + "\n";
    for (const Keepalive& keepalive : compiled.keepalives) {
        text += fmt::format("{} {} {}\n", keepalive.netns, keepalive.ifindex, keepalive.address.str());
        for (const fl_dest_key& key : keepalive.dests)
            text += hex(key) + "\n";
    }
    return text;
}

void shuffle(NetnsView& view, std::mt19937& random) {
    std::ranges::shuffle(view.addresses, random);
    std::ranges::shuffle(view.routes, random);
    std::ranges::shuffle(view.rules, random);  // all priorities differ, and those give the order
    std::ranges::shuffle(view.neighbours, random);
    std::ranges::shuffle(view.fdb, random);
}

}  // namespace

TEST_CASE("the same snapshot gives the same bytes, in whatever order its objects come") {
    const Snapshot whole = two_subnets();
    const Compiled first = compile(whole, wide_scope());
    CHECK(differences(first.tables, compile(whole, wide_scope()).tables) == "");
    std::mt19937 random(4711);  // fixed: a failure must be repeatable
    for (int i = 0; i < 20; ++i) {
        Snapshot shuffled = whole;
        shuffle(shuffled.root, random);
        for (auto& [name, view] : shuffled.routers)
            shuffle(view, random);
        const Compiled again = compile(shuffled, wide_scope());
        CHECK(differences(first.tables, again.tables) == "");
        CHECK(report_text(first) == report_text(again));
        CHECK(first.devices == again.devices);
    }
}

TEST_CASE("sources of one leg share a domain, legs do not") {
    const Compiled compiled = compile(two_subnets(), wide_scope());
    const fl_vm* a = out_of(compiled, kTapA, "10.0.0.11");
    const fl_vm* b = out_of(compiled, kTapB, "10.0.0.12");
    const fl_vm* e = out_of(compiled, 42, "10.0.1.15", "fa:16:3e:0a:00:02");
    REQUIRE(a != nullptr);
    REQUIRE(b != nullptr);
    REQUIRE(e != nullptr);
    CHECK(a->domain == b->domain);
    CHECK(a->domain != e->domain);

    // East-west between the subnets: one router, no translation.
    const fl_next* to_e = lookup(compiled.tables, a->domain, "10.0.1.15");
    REQUIRE(to_e != nullptr);
    CHECK(hex(*to_e) == hex(journey("fa:16:3e:00:02:15", "fa:16:3e:0a:00:02", 1, out_port(42))));
    const fl_next* to_a = lookup(compiled.tables, e->domain, "10.0.0.11");
    REQUIRE(to_a != nullptr);
    CHECK(hex(*to_a) == hex(journey(kMacA, kQrMac, 1, out_port(kTapA))));
    // And by floating IP from one subnet to the other: out and in again.
    const fl_next* hairpin = lookup(compiled.tables, e->domain, "172.24.5.11");
    REQUIRE(hairpin != nullptr);
    CHECK(hairpin->hops == 3);
    CHECK(hairpin->flags == (FL_NEXT_SNAT | FL_NEXT_HAIRPIN));
}

TEST_CASE("a source that other rules select has a domain of its own") {
    Snapshot snapshot = dvr_snapshot();
    // b leaves by another table, which leads nowhere.
    for (PolicyRule& rule : router(snapshot).rules)
        rule.table = rule.priority == 71189 ? 17 : rule.table;
    Compiled compiled = compile(snapshot, scope());
    CHECK(out_of(compiled, kTapA, "10.0.0.11") != nullptr);
    CHECK(out_of(compiled, kTapB, "10.0.0.12") == nullptr);
    CHECK(report_of(compiled, "172.24.5.12").reason_out.find("no route to 0.0.0.0/0") != std::string::npos);

    // With a route there, but not to everywhere.
    add_route(router(snapshot), "203.0.113.0/24", kRfp, "169.254.88.135", 17);
    compiled = compile(snapshot, scope());
    const fl_vm* a = out_of(compiled, kTapA, "10.0.0.11");
    const fl_vm* b = out_of(compiled, kTapB, "10.0.0.12");
    REQUIRE(a != nullptr);
    REQUIRE(b != nullptr);
    CHECK(a->domain != b->domain);
    CHECK(is_fast(lookup(compiled.tables, a->domain, "192.0.2.1")));
    CHECK_FALSE(is_fast(lookup(compiled.tables, b->domain, "192.0.2.1")));
    CHECK(is_fast(lookup(compiled.tables, b->domain, "203.0.113.9")));
}

TEST_CASE("whatever anybody on the way treats apart is not swallowed by a wider prefix") {
    Snapshot snapshot = dvr_snapshot();
    add_route(fip(snapshot), "198.18.0.0/15", 0).type = RouteType::kBlackhole;
    add_route(router(snapshot), "192.0.2.0/25", 0, {}, 16).type = RouteType::kUnreachable;
    nf::Chain& forward = add_chain(fip(snapshot), nf::Family::kIp, "f", "forward", nf::Hook::kForward);
    forward.rules = {rule("ip daddr 203.0.113.7 drop",
                          {match(nf::Field::kIpDaddr, {net("203.0.113.7/32")}), verdict(nf::VerdictKind::kDrop)})};
    add_rule(fip(snapshot), 99, "", "", 98);
    fip(snapshot).rules.back().destination = net("203.0.114.0/24");
    add_route(fip(snapshot), "0.0.0.0/0", 0, {}, 98).type = RouteType::kProhibit;
    const Compiled compiled = compile(snapshot, scope());
    const fl_vm* a = out_of(compiled, kTapA, "10.0.0.11");
    REQUIRE(a != nullptr);
    for (const char* slow : {"198.18.5.5", "198.19.255.255", "192.0.2.127", "203.0.113.7", "203.0.114.1", "127.0.0.1",
                             "224.0.0.5", "239.1.1.1", "0.1.2.3", "255.255.255.255", "10.0.0.200", "172.24.5.200",
                             "172.24.5.2", "169.254.88.134", "10.0.0.1"}) {
        INFO(slow);
        CHECK_FALSE(is_fast(lookup(compiled.tables, a->domain, slow)));
    }
    for (const char* fast : {"198.17.255.255", "198.20.0.0", "192.0.2.128", "203.0.113.6", "203.0.113.8", "203.0.115.1",
                             "8.8.8.8", "172.24.6.1", "10.0.1.1", "1.0.0.0", "126.255.255.255", "223.255.255.255"}) {
        INFO(fast);
        CHECK(is_fast(lookup(compiled.tables, a->domain, fast)));
    }
}

TEST_CASE("what a shared journey assumes of its source is checked for each source") {
    Snapshot snapshot = dvr_snapshot();
    // The fip namespace sends packets from b's floating IP another way: a's are not concerned.
    add_rule(fip(snapshot), 50, "172.24.5.12/32", "", 77);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(out_of(compiled, kTapA, "10.0.0.11") != nullptr);
    CHECK(out_of(compiled, kTapB, "10.0.0.12") == nullptr);
    const FipReport& b = report_of(compiled, "172.24.5.12");
    CHECK(b.reason_out == kFipNs + ": a policy rule selects the source");
    // From outside anybody may come, and nobody may be sure not to be 172.24.5.12.
    CHECK(report_of(compiled, "172.24.5.11").reason_in ==
          kFipNs + ": depends on the source: rule 50: from 172.24.5.12/32 lookup 77");

    Snapshot martian = dvr_snapshot();
    add_address(fip(martian), kFpr, "172.24.5.12/32");
    const Compiled second = compile(martian, scope());
    CHECK(out_of(second, kTapA, "10.0.0.11") != nullptr);
    CHECK(out_of(second, kTapB, "10.0.0.12") == nullptr);
    CHECK(report_of(second, "172.24.5.12").reason_out == kFipNs + ": the source is an address of the namespace itself");

    Snapshot filtered = dvr_snapshot();
    add_chain(fip(filtered), nf::Family::kIp, "f", "forward", nf::Hook::kForward).rules = {
        rule("ip saddr 172.24.5.12 drop",
             {match(nf::Field::kIpSaddr, {net("172.24.5.12/32")}), verdict(nf::VerdictKind::kDrop)})};
    const Compiled fourth = compile(filtered, scope());
    CHECK(out_of(fourth, kTapA, "10.0.0.11") != nullptr);
    CHECK(out_of(fourth, kTapB, "10.0.0.12") == nullptr);
    CHECK(report_of(fourth, "172.24.5.12").reason_out == kFipNs + ": a netfilter rule or map knows the source");

    Snapshot redirect = dvr_snapshot();
    add_route(fip(redirect), "172.24.5.12/32", kFpr).priority = 5;
    const Compiled third = compile(redirect, scope());
    CHECK(out_of(third, kTapB, "10.0.0.12") == nullptr);
    CHECK(report_of(third, "172.24.5.12").reason_out == kFipNs + ": Linux would send ICMP redirects to the source");
}

TEST_CASE("rp_filter is no obstacle for a source whose way back is the one that it came by") {
    Snapshot snapshot = dvr_snapshot();
    router(snapshot).sysctls.devices["qr-21ab0001-10"].rp_filter = 1;
    CHECK(out_of(compile(snapshot, scope()), kTapA, "10.0.0.11") != nullptr);
    // In the fip namespace FIPs are routed to fpr: strict filtering holds there too.
    fip(snapshot).sysctls.devices["fpr-7b1f3c52-9"].rp_filter = 1;
    CHECK(out_of(compile(snapshot, scope()), kTapA, "10.0.0.11") != nullptr);
    // A route that takes answers for a another way makes it look forged.
    add_route(router(snapshot), "10.0.0.11/32", kRfp, "169.254.88.135");
    CHECK(out_of(compile(snapshot, scope()), kTapA, "10.0.0.11") == nullptr);
}

TEST_CASE("two routers with the same floating IP: the way in is nobody's proof, the way out each one's own") {
    Snapshot snapshot = legacy_snapshot();
    NetnsView twin = router(snapshot);
    twin.name = "qrouter-twin";
    const auto rename = [&](int root_port, const std::string& name, int leg, const char* address, int bridge) {
        twin.links.at(leg).mac = mac(address);
        twin.links.at(leg).peer = PeerInfo{root_port, NetnsName{}};
        Link& link = add_link(snapshot.root, root_port, name, "veth", "fe:16:3e:0f:00:01");
        link.peer = PeerInfo{leg, twin.name};
        enslave(link, bridge);
        add_static_fdb(snapshot.root, root_port, address);
    };
    rename(50, "tapqr-twin", kQr, "fa:16:3e:0f:00:03", kBrq);
    rename(51, "tapqg-twin", kQg, "fa:16:3e:0f:00:04", kBrEx);
    snapshot.routers.emplace(twin.name, twin);
    const Compiled compiled = compile(snapshot, legacy_scope());
    CHECK(compiled.tables.fip_in.empty());
    const fl_vm* first = out_of(compiled, kTapA, "10.0.0.11");
    const fl_vm* second = out_of(compiled, kTapA, "10.0.0.11", "fa:16:3e:0f:00:03");
    REQUIRE(first != nullptr);
    REQUIRE(second != nullptr);
    CHECK(first->domain != second->domain);
    CHECK(hex(vm_row(kMacA, "172.24.5.11", second->domain)) == hex(*second));
    // Each leaves by its own router's legs.
    const fl_next* by_first = lookup(compiled.tables, first->domain, "172.24.4.1");
    const fl_next* by_second = lookup(compiled.tables, second->domain, "172.24.4.1");
    REQUIRE((is_fast(by_first) && is_fast(by_second)));
    CHECK(std::ranges::equal(by_first->smac, mac(kQgMac).bytes));
    CHECK(std::ranges::equal(by_second->smac, mac("fa:16:3e:0f:00:04").bytes));
    CHECK_FALSE(compiled.tables.arp.contains(arp_row_key(kBrEx, "172.24.5.11")));
    REQUIRE(compiled.fips.size() == 6);
    for (const FipReport& report : compiled.fips) {
        CHECK_FALSE(report.fast_in);
        CHECK_FALSE(report.reason_in.empty());
        CHECK(report.fast_out);
    }
}

TEST_CASE("one router's external leg leads to another's on the same segment") {
    Snapshot snapshot = legacy_snapshot();
    // A second legacy router for a tenant of its own, with the external bridge in common.
    NetnsView second = make_netns("qrouter-second");
    NetnsView& root = snapshot.root;
    add_bridge(root, 60, "brq33333333-33", "fa:16:3e:00:03:00");
    enslave(add_veth(root, 61, "tapqr2", "fe:16:3e:0b:00:01", second, kQr, "qr-2", "fa:16:3e:0b:00:01"), 60);
    enslave(add_veth(root, 62, "tapqg2", "fe:16:3e:0b:00:02", second, kQg, "qg-31ab0003-30", "fa:16:3e:0b:00:02"),
            kBrEx);
    enslave(add_link(root, 63, "tapffffffff-ff", "tun", "fe:16:3e:00:03:21"), 60);
    add_static_fdb(root, 61, "fa:16:3e:0b:00:01");
    add_static_fdb(root, 62, "fa:16:3e:0b:00:02");
    add_static_fdb(root, 63, "fa:16:3e:00:03:21");
    add_address(second, kQr, "10.9.0.1/24");
    add_address(second, kQg, "172.24.5.4/23");
    add_address(second, kQg, "172.24.5.21/32");
    add_neighbour(second, kQr, "10.9.0.21", "fa:16:3e:00:03:21");
    add_nat(second, "qg-31ab0003-30", false);
    second.netfilter.maps["ip fiplane fip_in"] = {{ip("172.24.5.21"), ip("10.9.0.21")}};
    second.netfilter.maps["ip fiplane fip_out"] = {{ip("10.9.0.21"), ip("172.24.5.21")}};
    set_sysctls(second, false);
    snapshot.routers.emplace(second.name, second);
    add_neighbour(router(snapshot), kQg, "172.24.5.21", "fa:16:3e:0b:00:02", kNudReachable);
    const Compiled compiled = compile(snapshot, {{"br-ex", "brq11111111-11", "brq33333333-33"}});
    const fl_vm* a = out_of(compiled, kTapA, "10.0.0.11");
    REQUIRE(a != nullptr);
    const fl_next* next = lookup(compiled.tables, a->domain, "172.24.5.21");
    REQUIRE(next != nullptr);
    CHECK(hex(*next) == hex(journey("fa:16:3e:00:03:21", "fa:16:3e:0b:00:01", 2, out_port(63),
                                    FL_NEXT_SNAT | FL_NEXT_HAIRPIN, "10.9.0.21")));
}

TEST_CASE("the smallest MTU on the way is the journey's") {
    Snapshot snapshot = dvr_snapshot();
    router(snapshot).links.at(kRfp).mtu = 1400;  // on the way in only the receiving end is so small
    add_route(fip(snapshot), "172.24.5.12/32", kFpr, "169.254.88.134").mtu = 1300;
    std::erase_if(fip(snapshot).routes,
                  [](const Route& r) { return r.destination == net("172.24.5.12/32") && r.mtu == 0; });
    const Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.tables.fip_in.at(fip_row_key(kBrEx, "172.24.5.11")).next.mtu == 1400);
    CHECK(compiled.tables.fip_in.at(fip_row_key(kBrEx, "172.24.5.12")).next.mtu == 1300);
}

TEST_CASE("Neutron's own rules: random ports are named as the reason") {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& q = router(snapshot);
    q.netfilter = {};
    using F = nf::Field;
    const auto jump = [](const char* chain) { return rule("", {verdict(nf::VerdictKind::kJump, chain)}); };
    add_chain(q, nf::Family::kIp, "nat", "PREROUTING", nf::Hook::kPrerouting, nf::ChainType::kNat, -100).rules = {
        jump("W-PREROUTING")};
    add_chain(q, nf::Family::kIp, "nat", "POSTROUTING", nf::Hook::kPostrouting, nf::ChainType::kNat, 100).rules = {
        jump("W-POSTROUTING"), jump("W-float-snat")};
    add_chain(q, nf::Family::kIp, "nat", "W-PREROUTING").rules = {
        rule("-d 172.24.5.11/32 -i rfp -j DNAT",
             {match(F::kIpDaddr, {net("172.24.5.11/32")}), match(F::kIifname, {std::string("rfp-7b1f3c52-9")}),
              nf::Dnat{to_address("10.0.0.11")}}),
        rule("-d 169.254.169.254/32 -i qr-+ -j REDIRECT", {match(F::kIpDaddr, {net("169.254.169.254/32")}),
                                                           match(F::kIifname, {std::string("qr-*")}), nf::Unknown{}})};
    add_chain(q, nf::Family::kIp, "nat", "W-POSTROUTING").rules = {
        rule("! -o rfp ! DNAT accept",
             {match(F::kOifname, {std::string("rfp-7b1f3c52-9")}, true),
              match(F::kCtStatus, {std::string("dnat")}, true), verdict(nf::VerdictKind::kAccept)})};
    add_chain(q, nf::Family::kIp, "nat", "W-float-snat").rules = {
        rule("-s 10.0.0.11/32 -j SNAT --random-fully",
             {match(F::kIpSaddr, {net("10.0.0.11/32")}), nf::Snat{to_address("172.24.5.11"), true}})};
    const Compiled compiled = compile(snapshot, scope());
    REQUIRE(compiled.fips.size() == 1);
    CHECK_FALSE(compiled.fips[0].fast_in);
    CHECK(compiled.fips[0].fixed == ip("10.0.0.11"));
    CHECK(compiled.fips[0].reason_out ==
          kQrouter + ": rule `-s 10.0.0.11/32 -j SNAT --random-fully` in ip nat W-float-snat chooses ports at random");
}

TEST_CASE("thousands of floating IPs cost a row or two each") {
    constexpr int kCount = 2000;
    Snapshot snapshot = dvr_snapshot();
    add_many(snapshot, kCount);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.tables.fip_in.size() == kCount + 2);
    CHECK(compiled.tables.vms.size() == kCount + 3);
    std::set<std::uint32_t> domains;
    for (const auto& [key, row] : compiled.tables.vms) {
        if (!Ipv4::from_bytes(row.fip).is_unset()) domains.insert(row.domain);
    }
    CHECK(domains.size() == 1);
    // One row for each floating and each fixed address, and the few of the plain snapshot; and for the one VM without a
    // floating IP each fixed address once more.
    CHECK(compiled.tables.dests.size() == 2 * kCount + 9 + kCount + 4);
    const fl_next* next = lookup(compiled.tables, *domains.begin(), "172.25.9.200");
    REQUIRE(is_fast(next));
    CHECK(Ipv4::from_bytes(next->dnat) == ip("10.1.9.200"));
}

TEST_CASE("nothing in scope: empty tables, and it is said") {
    const Compiled compiled = compile(dvr_snapshot(), {{"br-none"}});
    CHECK(compiled.tables.sources.empty());
    CHECK(compiled.tables.fip_in.empty());
    CHECK(compiled.devices.empty());
    CHECK(IpAddress::from_bytes(compiled.tables.config.vtep).is_unset());
    CHECK(compiled.notes == std::vector<std::string>{"bridge br-none does not exist"});
    CHECK(compile({}, {}).tables.sources.empty());
}
