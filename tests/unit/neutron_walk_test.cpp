// SPDX-License-Identifier: Apache-2.0
// The walk through routers that a Neutron L3 agent built, on an L2 that is not ours.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <set>

#include "../support/snapshot_builder.hpp"
#include "core/compile.hpp"
#include "core/hash.hpp"
#include "core/world.hpp"
#include "neutron_rules.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

const std::string kFip = "fip-e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102";
const std::string kRouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const std::string kSnat = "snat-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
constexpr int kRfp = 2;
constexpr int kQr = 8;
constexpr int kFpr = 2;
constexpr int kFg = 10;
constexpr int kQg = 3;
constexpr int kGreen = 9;
constexpr std::uint32_t kFprTable = 2852018311;  // 169.254.88.135
constexpr std::uint32_t kRedirectTable = 168427777;
constexpr const char* kVm = "fa:16:3e:00:01:11";
constexpr const char* kOther = "fa:16:3e:00:01:12";
constexpr const char* kGateway = "fa:16:3e:ff:00:01";

Scope following() {
    Scope scope;
    scope.follows = true;
    return scope;
}

/// One subnet, a VM with a floating IP and one without; the SNAT port is on another node.
Snapshot distributed(const std::string& rules = distributed_rules("0x4000000")) {
    Snapshot out;
    out.root = make_netns("");
    NetnsView& fip = out.routers[kFip] = make_netns(kFip);
    NetnsView& router = out.routers[kRouter] = make_netns(kRouter);
    add_veth(router, kRfp, "rfp-1", "d6:8a:be:fe:2d:c4", fip, kFpr, "fpr-1", "fe:64:45:f7:54:74");
    router.links[kRfp].mtu = fip.links[kFpr].mtu = 1500;
    add_link(router, kQr, "qr-1", "tun", "fa:16:3e:0a:00:01");
    add_link(fip, kFg, "fg-1", "tun", "fa:16:3e:0c:00:10", 1500);

    add_address(router, kRfp, "169.254.88.134/31");
    add_address(router, kQr, "10.10.1.1/24");
    add_rule(router, 39145, "10.10.1.11/32", "", 16);
    add_rule(router, kRedirectTable, "10.10.1.1/24", "", kRedirectTable);
    std::ranges::stable_sort(router.rules, {}, &PolicyRule::priority);
    add_route(router, "0.0.0.0/0", kRfp, "169.254.88.135", 16);
    add_route(router, "0.0.0.0/0", kQr, "10.10.1.3", kRedirectTable);
    add_neighbour(router, kRfp, "169.254.88.135", "fe:64:45:f7:54:74");
    add_neighbour(router, kQr, "10.10.1.3", "fa:16:3e:0b:00:01");
    add_neighbour(router, kQr, "10.10.1.11", kVm);
    add_neighbour(router, kQr, "10.10.1.12", kOther);
    add_iptables(router, rules);
    set_sysctls(router, false);

    add_address(fip, kFpr, "169.254.88.135/31");
    add_address(fip, kFg, "203.0.113.10/24");
    add_rule(fip, kFprTable, "", "fpr-1", kFprTable);
    add_route(fip, "0.0.0.0/0", kFg, "203.0.113.1", kFprTable);
    add_route(fip, "203.0.113.101/32", kFpr, "169.254.88.134");
    add_neighbour(fip, kFpr, "169.254.88.134", "d6:8a:be:fe:2d:c4");
    add_neighbour(fip, kFg, "203.0.113.1", kGateway, kNudReachable);
    add_iptables(fip, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CT --notrack\nCOMMIT\n");
    set_sysctls(fip, true);
    fip.netnsids[kRouter] = 3;
    router.netnsids[kFip] = 0;
    return out;
}

/// Two subnets and a gateway of its own.
Snapshot legacy() {
    Snapshot out;
    out.root = make_netns("");
    NetnsView& router = out.routers[kRouter] = make_netns(kRouter);
    add_link(router, kQg, "qg-1", "tun", "fa:16:3e:0d:00:10", 1500);
    add_link(router, kQr, "qr-1", "tun", "fa:16:3e:0a:00:01");
    add_link(router, kGreen, "qr-2", "tun", "fa:16:3e:0a:00:02");
    add_address(router, kQg, "203.0.113.10/24");
    add_address(router, kQg, "203.0.113.101/32");
    add_address(router, kQr, "10.10.1.1/24");
    add_address(router, kGreen, "10.10.2.1/24");
    add_route(router, "0.0.0.0/0", kQg, "203.0.113.1");
    add_neighbour(router, kQg, "203.0.113.1", kGateway, kNudReachable);
    add_neighbour(router, kQr, "10.10.1.11", kVm, kNudReachable);
    add_neighbour(router, kGreen, "10.10.2.12", kOther, kNudReachable);
    add_iptables(router, legacy_rules());
    set_sysctls(router, false);
    return out;
}

Mac mac_at(const std::uint8_t* wire) {
    Mac out;
    std::copy_n(wire, out.bytes.size(), out.bytes.begin());
    return out;
}

FipReport report_of(const Compiled& compiled, const char* fip) {
    const auto found = std::ranges::find(compiled.fips, ip(fip), &FipReport::fip);
    REQUIRE(found != compiled.fips.end());
    INFO(found->reason_in << " | " << found->reason_out);
    return *found;
}

/// The row for a destination in the domain of a VM; null if there is none.
const fl_next* way(const Compiled& compiled, const char* from, const char* to) {
    for (const auto& [key, vm] : compiled.tables.vms) {
        if (Ipv4::from_bytes(key.fixed) != ip(from)) continue;
        fl_dest_key dest{};
        dest.domain = vm.domain;
        copy_bytes(dest.ip, ip(to));
        if (const auto row = compiled.tables.dests.find(dest); row != compiled.tables.dests.end()) return &row->second;
        const fl_next* best = nullptr;
        int length = -1;
        for (const auto& [prefix, next] : compiled.tables.routes) {
            const Prefix route{Ipv4::from_bytes(prefix.ip), static_cast<std::uint8_t>(prefix.prefixlen - 32)};
            if (prefix.domain != vm.domain || !route.contains(Prefix::host(ip(to))) || route.length <= length) continue;
            best = &next;
            length = route.length;
        }
        return best != nullptr && best->out.kind == FL_OUT_PORT ? best : nullptr;
    }
    return nullptr;
}

std::uint32_t number(const std::string& name) {
    return 0x80000000 | hash_of(name);
}

/// Index and flags of the row for a packet that comes out of `device` and is to leave by `target`.
std::pair<int, std::uint32_t> crossing(const Compiled& compiled, const std::string& device, const std::string& target) {
    const auto row = compiled.tables.crossings.find({number(device), number(target)});
    if (row == compiled.tables.crossings.end()) return {0, 0};
    return {static_cast<int>(row->second.ifindex), row->second.flags};
}

}  // namespace

TEST_CASE("floating IPs of a distributed router that is followed are fast both ways", "[neutron]") {
    const Snapshot snapshot = distributed();
    const Compiled compiled = compile(snapshot, following());
    const FipReport report = report_of(compiled, "203.0.113.101");
    CHECK(report.reason_in.empty());
    CHECK(report.reason_out.empty());
    CHECK(report.fast_in);
    CHECK(report.fast_out);
    CHECK(report.segment == "fg-1");
    CHECK(report.router == kRouter);

    REQUIRE(compiled.tables.fip_in.size() == 1);
    const fl_fip_in& in = compiled.tables.fip_in.begin()->second;
    CHECK(mac_at(in.router_mac) == mac("fa:16:3e:0c:00:10"));
    CHECK(Ipv4::from_bytes(in.next.dnat) == ip("10.10.1.11"));
    CHECK(mac_at(in.next.dmac) == mac(kVm));
    CHECK(mac_at(in.next.smac) == mac("fa:16:3e:0a:00:01"));
    CHECK(in.next.hops == 2);
    CHECK(in.next.mtu == 1450);
    // From fpr- over the veth, and where it comes out on to qr-.
    CHECK(in.next.out.ifindex == kFpr);
    CHECK(in.next.out.flags == FL_OUT_CROSS);
    CHECK(crossing(compiled, kRouter + "/rfp-1", kRouter + "/qr-1") == std::pair(kQr, 0U));
    CHECK(in.next.router == number(kRouter));
    CHECK(in.netnsid == 3);

    const fl_next* out = way(compiled, "10.10.1.11", "198.51.100.7");
    REQUIRE(out != nullptr);
    CHECK(mac_at(out->dmac) == mac(kGateway));
    CHECK(mac_at(out->smac) == mac("fa:16:3e:0c:00:10"));
    CHECK(out->flags == FL_NEXT_SNAT);
    CHECK(out->hops == 2);
    CHECK(out->out.ifindex == kRfp);
    CHECK(out->out.flags == FL_OUT_CROSS);
    CHECK(crossing(compiled, kFip + "/fpr-1", kFip + "/fg-1") == std::pair(kFg, 0U));
    CHECK(compiled.tables.crossings.size() == 2);
}

TEST_CASE("a VM without a floating IP goes to the SNAT port, and back to itself through the fip namespace",
          "[neutron]") {
    const Snapshot snapshot = distributed();
    const Compiled compiled = compile(snapshot, following());
    const fl_next* out = way(compiled, "10.10.1.12", "198.51.100.7");
    REQUIRE(out != nullptr);
    CHECK(mac_at(out->dmac) == mac("fa:16:3e:0b:00:01"));
    CHECK(out->flags == 0);
    CHECK(out->hops == 1);
    // Its own floating IP: out by rfp-, turned in the fip namespace, in by rfp-.
    const fl_next* turned = way(compiled, "10.10.1.11", "203.0.113.101");
    REQUIRE(turned != nullptr);
    CHECK(turned->flags == (FL_NEXT_SNAT | FL_NEXT_HAIRPIN));
    CHECK(turned->hops == 3);
    CHECK(Ipv4::from_bytes(turned->dnat) == ip("10.10.1.11"));
    // Nothing is left of that way but the place where it ends.
    CHECK(turned->out.ifindex == kQr);
    CHECK(turned->out.flags == 0);
    // The metadata service is Linux's.
    CHECK(way(compiled, "10.10.1.11", "169.254.169.254") == nullptr);
}

TEST_CASE("a router's floating IPs share one table of destinations, however many rules there are", "[neutron]") {
    constexpr int kFloatingIps = 600;  // more than one evaluation may have ways
    std::string dnat;
    std::string snat;
    std::string rules = distributed_rules("0x4000000");
    for (int i = 0; i < kFloatingIps; ++i) {
        const std::string fip = Ipv4{ip("198.18.0.0").value + static_cast<std::uint32_t>(i)}.str();
        const std::string fixed = Ipv4{ip("10.20.0.10").value + static_cast<std::uint32_t>(i)}.str();
        dnat += "-A neutron-l3-agent-PREROUTING -d " + fip + "/32 -i rfp-1 -j DNAT --to-destination " + fixed + "\n";
        snat += "-A neutron-l3-agent-float-snat -s " + fixed + "/32 -j SNAT --to-source " + fip + " --random-fully\n";
    }
    rules.insert(rules.find("-A neutron-l3-agent-PREROUTING -d 203.0.113.101"), dnat);
    rules.insert(rules.find("-A neutron-l3-agent-float-snat -s 10.10.1.11"), snat);
    Snapshot snapshot = distributed(rules);
    NetnsView& router = snapshot.routers.at(kRouter);
    NetnsView& fip = snapshot.routers.at(kFip);
    add_address(router, kQr, "10.20.0.1/16");
    for (int i = 0; i < kFloatingIps; ++i) {
        const auto number = static_cast<std::uint32_t>(i);
        const std::string fixed = Ipv4{ip("10.20.0.10").value + number}.str();
        add_rule(router, 40000 + number, fixed + "/32", "", 16);
        add_neighbour(router, kQr, fixed, kOther);
        add_route(fip, Ipv4{ip("198.18.0.0").value + number}.str() + "/32", kFpr, "169.254.88.134");
    }
    std::ranges::stable_sort(router.rules, {}, &PolicyRule::priority);
    const Compiled compiled = compile(snapshot, following());
    CHECK(std::ranges::count_if(compiled.fips, [](const FipReport& report) {
              return report.fast_in && report.fast_out;
          }) == kFloatingIps + 1);
    std::set<std::uint32_t> domains;
    for (const auto& [key, vm] : compiled.tables.vms) {
        if (!Ipv4::from_bytes(vm.fip).is_unset()) domains.insert(vm.domain);
    }
    CHECK(domains.size() == 2);  // 10.10.1.0/24 alone is redirected to the SNAT port
    CHECK(compiled.tables.dests.size() < 8UL * kFloatingIps);
}

TEST_CASE("the agent gateway port answers for floating IPs and for itself, nobody else", "[neutron]") {
    const Snapshot snapshot = distributed();
    const Compiled compiled = compile(snapshot, following());
    std::set<std::string> answered;
    for (const auto& [key, row] : compiled.tables.arp) {
        if (mac_at(row.mac) == mac("fa:16:3e:0c:00:10")) answered.insert(Ipv4::from_bytes(key.ip).str());
    }
    CHECK(answered == std::set<std::string>{"203.0.113.10", "203.0.113.101"});
}

TEST_CASE("floating IPs and networks of a legacy router that is followed", "[neutron]") {
    const Snapshot snapshot = legacy();
    const Compiled compiled = compile(snapshot, following());
    const FipReport report = report_of(compiled, "203.0.113.101");
    CHECK(report.reason_in.empty());
    CHECK(report.reason_out.empty());
    CHECK(report.segment == "qg-1");
    const fl_next* out = way(compiled, "10.10.1.11", "198.51.100.7");
    REQUIRE(out != nullptr);
    CHECK(out->hops == 1);
    CHECK(out->flags == FL_NEXT_SNAT);
    CHECK(out->out.ifindex == kQg);
    const fl_next* east_west = way(compiled, "10.10.2.12", "10.10.1.11");
    REQUIRE(east_west != nullptr);
    CHECK(east_west->flags == 0);
    CHECK(east_west->out.ifindex == kQr);
    // Without a floating IP it is translated to the gateway's address, for which only conntrack knows the way back.
    CHECK(way(compiled, "10.10.2.12", "198.51.100.7") == nullptr);
}

TEST_CASE("what a router translates is known whether its packets are carried or not", "[neutron]") {
    Snapshot snapshot = distributed();
    const auto fixed_of = [&](const char* fip) {
        const Compiled compiled = compile(snapshot, following());
        fl_translated_key key{.router = number(kRouter), .fip = {}};
        copy_bytes(key.fip, ip(fip));
        CHECK(compiled.tables.translated.size() == 1);
        const auto row = compiled.tables.translated.find(key);
        REQUIRE(row != compiled.tables.translated.end());
        return Ipv4::from_bytes(row->second.fixed);
    };
    CHECK(fixed_of("203.0.113.101") == ip("10.10.1.11"));
    snapshot.routers.at(kRouter).links.at(kQr).admin_up = false;
    CHECK(fixed_of("203.0.113.101") == ip("10.10.1.11"));
    snapshot.routers.at(kRouter).netfilter = {};
    CHECK(compile(snapshot, following()).tables.translated.empty());
}

TEST_CASE("what somebody adds to a router's rules makes what it is about slow", "[neutron]") {
    const auto with = [](const std::string& table, const std::string& rule) {
        std::string rules = distributed_rules("0x4000000");
        const std::size_t at = rules.find("COMMIT", rules.find("*" + table));
        return rules.insert(at, rule + "\n");
    };
    const auto reason = [&](const Snapshot& snapshot) {
        const FipReport report = report_of(compile(snapshot, following()), "203.0.113.101");
        return report.reason_in + " | " + report.reason_out;
    };
    CHECK(reason(distributed(with("filter", "-A FORWARD -d 10.10.1.11/32 -j DROP"))) ==
          kRouter + ": netfilter drops it in forward: rule `-d 10.10.1.11/32 -j DROP` in ip filter FORWARD | ");
    CHECK(reason(distributed(with("filter", "-A FORWARD -s 10.10.1.11/32 -p tcp -m tcp --dport 25 -j DROP")))
              .find("-p tcp -m tcp --dport 25 -j DROP` in ip filter FORWARD is undecidable") != std::string::npos);
    CHECK(reason(distributed(with("filter", "-A FORWARD -d 10.10.1.99/32 -j DROP"))) == " | ");
    CHECK(reason(distributed(with("mangle", "-A PREROUTING -i rfp-1 -j MARK --set-xmark 0x1/0xffffffff"))) ==
          kRouter +
              ": netfilter drops it in forward: rule `-o qr-1 -m mark ! --mark 0x4000000/0xffff0000 -j DROP` in ip "
              "filter neutron-l3-agent-scope | ");
    CHECK(reason(distributed(
                     with("nat", "-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.10.1.11:80")))
              .find("8080") != std::string::npos);
    // Rules that only tell of packets, or count them.
    for (const char* rule :
         {"-A FORWARD -d 10.10.1.11/32 -j LOG --log-prefix \"seen \"", "-A FORWARD -d 10.10.1.11/32 -o qr-1",
          "-A FORWARD -d 10.10.1.11/32 -j NFLOG --nflog-group 5"}) {
        INFO(rule);
        CHECK(reason(distributed(with("filter", rule))).contains(std::string(rule).substr(11)));
        CHECK(report_of(compile(distributed(with("filter", rule)), following()), "203.0.113.101").fast_out);
    }
    CHECK(reason(distributed(with("filter", "-A FORWARD -d 10.10.1.99/32 -o qr-1"))) == " | ");
}

TEST_CASE("sources that a rule treats apart are left to Linux, and nobody else", "[neutron]") {
    const auto compiled_with = [](const std::string& rule) {
        std::string rules = distributed_rules("0x4000000");
        rules.insert(rules.find("COMMIT", rules.find("*filter")), rule + "\n");
        return compile(distributed(rules), following());
    };
    const Compiled compiled = compiled_with("-A FORWARD -s 198.51.100.0/24 -j DROP");
    CHECK(report_of(compiled, "203.0.113.101").fast_in);
    const fl_fip_in& in = compiled.tables.fip_in.begin()->second;
    CHECK((in.next.flags & FL_NEXT_EXCEPT) != 0);
    const auto left_out = [&](const char* sources) {
        const Prefix prefix = *Prefix::parse(sources);
        fl_sender_key key{};
        key.prefixlen = FL_SENDER_KEY_BITS + prefix.length;
        key.segment = number(kFip + "/fg-1");
        std::ranges::copy(in.router_mac, key.router_mac);
        copy_bytes(key.ip, prefix.address);
        const auto row = compiled.tables.senders.find(key);
        return row != compiled.tables.senders.end() && row->second.domain == 0;
    };
    CHECK(left_out("198.51.100.0/24"));
    // Linux takes its own addresses for forged.
    CHECK(left_out("203.0.113.10/32"));
    CHECK(compiled.notes == std::vector{"packets from 198.51.100.0/24 to floating IPs by way of fg-1 stay slow: " +
                                        kRouter + ": a netfilter rule or map knows the source"});
    // Nothing is excepted where nobody is treated apart, and all is slow where everybody is.
    CHECK(compile(distributed(), following()).tables.senders.empty());
    const Compiled slow = compiled_with(
        "-A FORWARD -p udp -m udp --dport 53 -s 198.51.100.0/24 -j ACCEPT\n"
        "-A FORWARD ! -s 198.51.100.0/24 -d 10.10.1.11/32 -p udp -j DROP");
    CHECK_FALSE(report_of(slow, "203.0.113.101").fast_in);
    CHECK(slow.tables.senders.empty());
}

TEST_CASE("a router's links and neighbours that are not as they should be", "[neutron]") {
    const auto reasons = [](const Snapshot& snapshot) {
        const FipReport report = report_of(compile(snapshot, following()), "203.0.113.101");
        return std::pair(report.reason_in, report.reason_out);
    };
    Snapshot snapshot = distributed();
    snapshot.routers.at(kRouter).links.at(kRfp).qdisc = "htb";
    CHECK(reasons(snapshot) == std::pair(kRouter + ": rfp-1 has qdisc htb", kRouter + ": rfp-1 has qdisc htb"));
    snapshot = distributed();
    snapshot.routers.at(kFip).neighbours[1].state = kNudFailed;
    // Other floating IPs of the node are reached without the gateway.
    const Compiled without_gateway = compile(snapshot, following());
    CHECK(report_of(without_gateway, "203.0.113.101").fast_in);
    CHECK(way(without_gateway, "10.10.1.11", "198.51.100.7") == nullptr);
    CHECK(report_of(without_gateway, "203.0.113.101").reason_outside.starts_with(kFip + ": neighbour "));
    // Without the floating IP's way out they would leave as they are, by the port of the SNAT router.
    snapshot = distributed();
    std::erase_if(snapshot.routers.at(kRouter).routes,
                  [](const Route& route) { return route.table == 16 && route.destination.length == 0; });
    const FipReport astray = report_of(compile(snapshot, following()), "203.0.113.101");
    CHECK(astray.reason_out == "packets to the world leave by qr-1 as 10.10.1.11, not as 203.0.113.101");
    CHECK_FALSE(astray.steps_out.empty());
    snapshot = distributed();
    snapshot.routers.at(kRouter).netfilter.not_shown = "cannot run iptables-nft-save: No such file or directory";
    CHECK(compile(snapshot, following()).notes ==
          std::vector{kRouter + ": rules of iptables are not understood, floating IPs among them: cannot run "
                                "iptables-nft-save: No such file or directory"});
    snapshot = distributed();
    snapshot.routers.at(kRouter).links.at(kQr).admin_up = false;
    CHECK(reasons(snapshot).first == kRouter + ": qr-1 is down");
    // A port, or a veth on the way, to which no program came: nobody would meet the answers there.
    const std::string no_program = " has no program: Too many open files";
    for (const auto& [netns, ifindex, name] : {std::tuple(kRouter, kQr, "qr-1"), std::tuple(kRouter, kRfp, "rfp-1"),
                                               std::tuple(kFip, kFpr, "fpr-1"), std::tuple(kFip, kFg, "fg-1")}) {
        INFO(name);
        snapshot = distributed();
        snapshot.routers.at(netns).links.at(ifindex).unserved = "Too many open files";
        const Compiled narrowed = compile(snapshot, following());
        CHECK(narrowed.tables.fip_in.empty());
        CHECK(way(narrowed, "10.10.1.11", "198.51.100.7") == nullptr);
        CHECK(reasons(snapshot).first.contains(name + no_program));
        // The row says still with which translation flows go to Linux.
        CHECK(std::ranges::any_of(narrowed.tables.vms, [](const auto& row) {
            return Ipv4::from_bytes(row.first.fixed) == ip("10.10.1.11") &&
                   Ipv4::from_bytes(row.second.fip) == ip("203.0.113.101");
        }));
    }
    snapshot = distributed();
    snapshot.routers.erase(kFip);
    CHECK(reasons(snapshot).first == "no router port on a segment in scope has a route to it");
}

TEST_CASE("nothing is carried past a namespace that cannot be read, and its flows go over as they were", "[neutron]") {
    const Compiled current = compile(distributed(), following());
    REQUIRE(current.unread.empty());
    const std::string why = "cannot list the nftables ruleset: Too many open files";
    for (const std::string& name : {kRouter, kFip}) {
        INFO(name);
        Snapshot snapshot = distributed();
        snapshot.routers.at(name).unread = why;
        const Compiled compiled = compile(snapshot, following());
        const FipReport report = report_of(compiled, "203.0.113.101");
        const std::string reason = name + ": what is known of it may be out of date: " + why;
        CHECK(report.reason_in == reason);
        CHECK(report.reason_out == reason);
        CHECK_FALSE(report.fast_in);
        CHECK_FALSE(report.fast_out);
        CHECK(compiled.unread == std::set<NetnsName>{name});
        CHECK(std::ranges::any_of(compiled.notes, [&](const auto& note) { return note.starts_with(name + ": "); }));

        const Tables& tables = compiled.tables;
        CHECK(tables.fip_in.empty());
        CHECK(tables.crossings.empty());
        CHECK(way(compiled, "10.10.1.11", "198.51.100.7") == nullptr);
        const std::uint32_t port = number(name + (name == kRouter ? "/qr-1" : "/fg-1"));
        CHECK(std::ranges::any_of(current.tables.arp, [&](const auto& row) { return row.first.segment == port; }));
        CHECK(std::ranges::none_of(tables.arp, [&](const auto& row) { return row.first.segment == port; }));
        // What does not pass the namespace is as it was.
        CHECK((way(compiled, "10.10.1.12", "198.51.100.7") != nullptr) == (name == kFip));
        if (name == kRouter) CHECK((tables.dests.empty() && tables.routes.empty()));

        // Programs stay where they are, and know with which translation a flow that they carried is Linux's.
        CHECK(compiled.devices == current.devices);
        const auto same_source = [](const auto& a, const auto& b) { return a.first.ifindex == b.first.ifindex; };
        CHECK(std::ranges::equal(tables.sources, current.tables.sources, same_source));
        const auto vm = std::ranges::find_if(
            tables.vms, [](const auto& row) { return Ipv4::from_bytes(row.first.fixed) == ip("10.10.1.11"); });
        REQUIRE(vm != tables.vms.end());
        CHECK(Ipv4::from_bytes(vm->second.fip) == ip("203.0.113.101"));
        CHECK(vm->second.domain == 0);
    }
}

TEST_CASE("the SNAT namespace of an edge node forwards nothing in BPF that conntrack alone can answer", "[neutron]") {
    Snapshot snapshot = distributed();
    NetnsView& snat = snapshot.routers[kSnat] = make_netns(kSnat);
    add_link(snat, kQg, "qg-9", "tun", "fa:16:3e:0d:00:20", 1500);
    add_link(snat, kQr, "sg-9", "tun", "fa:16:3e:0b:00:01");
    add_address(snat, kQg, "203.0.113.20/24");
    add_address(snat, kQr, "10.10.1.3/24");
    add_route(snat, "0.0.0.0/0", kQg, "203.0.113.1");
    add_neighbour(snat, kQg, "203.0.113.1", kGateway, kNudReachable);
    add_neighbour(snat, kQr, "10.10.1.12", kOther, kNudReachable);
    add_iptables(snat,
                 "*nat\n:POSTROUTING ACCEPT [0:0]\n"
                 "-A POSTROUTING -o qg-9 -j SNAT --to-source 203.0.113.20 --random-fully\nCOMMIT\n");
    set_sysctls(snat, false);
    const Compiled compiled = compile(snapshot, following());
    for (const auto& [key, next] : compiled.tables.routes)
        CHECK((next.out.ifindex != kQg || next.out.kind == FL_OUT_NONE));
    CHECK(report_of(compiled, "203.0.113.101").fast_out);
}

TEST_CASE("fl_crossings keeps room for the rows that will replace its rows", "[neutron]") {
    Snapshot snapshot;
    snapshot.root = make_netns("");
    const Scope scope = following();
    World world(snapshot, scope);
    Table<fl_crossing_key, fl_crossing> half;
    for (std::uint32_t device = 1; device <= FL_MAX_CROSSINGS / 2; ++device)
        half.emplace(fl_crossing_key{device, 1}, fl_crossing{1, 0});
    REQUIRE(world.add_crossings(half));
    CHECK(world.add_crossings(half));
    CHECK_FALSE(world.add_crossings({{fl_crossing_key{1, 1}, {1, 0}}, {fl_crossing_key{1, 2}, {1, 0}}}));
    CHECK(world.out.tables.crossings.size() == half.size());
}
