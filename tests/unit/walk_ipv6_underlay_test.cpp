// SPDX-License-Identifier: Apache-2.0
// VXLAN over IPv6: the ways that the kernel told, and what keeps a tunnel slow.
#include <linux/neighbour.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <functional>
#include <string>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kLocal = "2001:db8::2";
constexpr const char* kFirst = "2001:db8::1";
constexpr const char* kThird = "2001:db8::3";

IpAddress end(const char* text) {
    return IpAddress::parse(text).value();
}

void add_way(NetnsView& root, const char* peer, const char* lladdr) {
    Ipv6Way way;
    way.local = end(kLocal);
    way.peer = end(peer);
    way.type = RouteType::kUnicast;
    way.oif = kEth0;
    way.mtu = 1500;
    way.mac = mac(lladdr);
    way.state = NUD_REACHABLE;
    way.has_local = true;
    root.ipv6_ways.push_back(way);
}

/// The DVR scenario with its tunnels over IPv6.
Snapshot ipv6_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    for (auto& [ifindex, link] : root.links) {
        if (!link.vxlan) continue;
        link.vxlan->local = end(kLocal);
        link.vxlan->sends_no_checksum6 = link.vxlan->takes_no_checksum6 = true;
        link.vxlan->ttl = 64;
    }
    for (FdbEntry& entry : root.fdb) {
        if (entry.destination) entry.destination = end(*entry.destination == ip("198.51.100.1") ? kFirst : kThird);
    }
    add_way(root, kFirst, kPeer1Mac);
    add_way(root, kThird, kPeer3Mac);
    return snapshot;
}

VxlanInfo& tenant_vxlan(Snapshot& snapshot) {
    return *snapshot.root.links.at(kVxlanTenant).vxlan;
}

Ipv6Way& third_way(Snapshot& snapshot) {
    return snapshot.root.ipv6_ways.back();
}

/// Nothing goes to the third node, and a sentence says why.
void expect_refused(const std::string& why, const std::function<void(Snapshot&)>& change) {
    Snapshot snapshot = ipv6_snapshot();
    change(snapshot);
    const Compiled compiled = compile(snapshot, scope());
    INFO(why);
    CHECK(has_note(compiled, why));
    const auto row = compiled.tables.fdb.find(fdb_row_key(kBrq, kMacC));
    CHECK((row == compiled.tables.fdb.end() || row->second.out.kind == FL_OUT_NONE));
}

}  // namespace

TEST_CASE("tunnels over IPv6 have rows with their ends in full") {
    const Compiled compiled = compile(ipv6_snapshot(), scope());
    const Tables& tables = compiled.tables;
    fl_config config{};
    config.layout = FL_ABI_LAYOUT;
    put_end(config.vtep, kLocal);
    config.vxlan_port = 4789;
    CHECK(hex(tables.config) == hex(config));

    fl_out out = out_tunnel(200, kThird, kPeer3Mac);
    out.tunnel = FL_TUNNEL_VXLAN6;
    out.mtu = 1430;
    CHECK(hex(tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(out));

    fl_tunnel_key key{};
    key.type = FL_TUNNEL_VXLAN6;
    key.id = 200;
    put_end(key.peer, kThird);
    fl_tunnel row{};
    row.segment = kBrq;
    row.ifindex = kVxlanTenant;
    put(row.mac, kEthMac);
    row.outer_len = 70;
    row.type = FL_TUNNEL_VXLAN6;
    put_end(row.peer, kThird);
    REQUIRE(tables.tunnels.contains(key));
    CHECK(hex(tables.tunnels.at(key)) == hex(row));
    CHECK(tables.tunnels.size() == compile(dvr_snapshot(), scope()).tables.tunnels.size());
    CHECK(compiled.fips.size() == compile(dvr_snapshot(), scope()).fips.size());
    for (const FipReport& report : compiled.fips)
        CHECK((report.fast_in && report.fast_out));
}

TEST_CASE("the next hop of an IPv6 way is kept alive, and the way's MTU counts") {
    Snapshot snapshot = ipv6_snapshot();
    Ipv6Way& way = third_way(snapshot);
    way.gateway = end("fe80::9");
    way.mtu = 1400;
    const Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacC)).out.mtu == 1330);
    const auto kept = std::ranges::find(compiled.keepalives, end("fe80::9"), &Keepalive::address);
    REQUIRE(kept != compiled.keepalives.end());
    CHECK(kept->ifindex == kEth0);
    CHECK(kept->always);
    CHECK(std::ranges::find(compiled.keepalives, end(kThird), &Keepalive::address) == compiled.keepalives.end());
}

TEST_CASE("vxlan devices whose IPv6 headers would differ") {
    expect_refused("sends UDP checksums over IPv6", [](Snapshot& s) { tenant_vxlan(s).sends_no_checksum6 = false; });
    expect_refused("drops packets without a UDP checksum",
                   [](Snapshot& s) { tenant_vxlan(s).takes_no_checksum6 = false; });
    expect_refused("has no TTL of its own", [](Snapshot& s) { tenant_vxlan(s).ttl = 0; });
    expect_refused("sends with TTL 255", [](Snapshot& s) { tenant_vxlan(s).ttl = 255; });
    expect_refused("copies the inner packet's TTL", [](Snapshot& s) { tenant_vxlan(s).inherits_ttl = true; });
    expect_refused("sets a flow label", [](Snapshot& s) { tenant_vxlan(s).flow_label = 1; });
    expect_refused("sets a flow label", [](Snapshot& s) { tenant_vxlan(s).inherits_flow_label = true; });
    expect_refused("extensions of the header", [](Snapshot& s) { tenant_vxlan(s).extensions = true; });
    expect_refused("has a link-local address", [](Snapshot& s) { tenant_vxlan(s).local = end("fe80::2"); });
    expect_refused("uses [2001:db8::9]:4789, other tunnels [2001:db8::2]:4789",
                   [](Snapshot& s) { tenant_vxlan(s).local = end("2001:db8::9"); });
}

TEST_CASE("ways to an IPv6 peer that are not followed") {
    const auto way = [](const std::function<void(Ipv6Way&)>& change) {
        return [change](Snapshot& s) { change(third_way(s)); };
    };
    expect_refused("2001:db8::3 of vxlan-200: no IPv6 route",
                   way([](Ipv6Way& w) { w.type = RouteType::kUnreachable; }));
    expect_refused("its IPv6 route is not followed", way([](Ipv6Way& w) { w.type = RouteType::kLocal; }));
    expect_refused("several next hops", way([](Ipv6Way& w) { w.multipath = true; }));
    expect_refused("neighbour 2001:db8::3 on eth0 is not resolved", way([](Ipv6Way& w) { w.state = NUD_FAILED; }));
    expect_refused("the route's device is not known", way([](Ipv6Way& w) { w.oif = 4711; }));
    expect_refused("its IPv6 route is not known yet", [](Snapshot& s) { s.root.ipv6_ways.pop_back(); });
    expect_refused("2001:db8::2 is no address of this node", way([](Ipv6Way& w) { w.has_local = false; }));
    expect_refused("an IPv6 policy rule looks at more", way([](Ipv6Way& w) { w.other_rules = true; }));
    expect_refused("MTU of eth0 is too small", way([](Ipv6Way& w) { w.mtu = 70; }));
    expect_refused("eth0 is down", [](Snapshot& s) { s.root.links.at(kEth0).running = false; });
}

TEST_CASE("netfilter of IPv6 counts for tunnels over IPv6, that of IPv4 does not") {
    const auto output = [](Snapshot& s, nf::Family family) {
        nf::Chain& chain = add_chain(s.root, family, "filter", "OUTPUT", nf::Hook::kOutput);
        chain.rules = {rule("drop", {verdict(nf::VerdictKind::kDrop)})};
    };
    expect_refused("root namespace drops tunnel packets to 2001:db8::3",
                   [&](Snapshot& s) { output(s, nf::Family::kIp6); });
    expect_refused("root namespace drops tunnel packets to 2001:db8::3",
                   [&](Snapshot& s) { output(s, nf::Family::kInet); });
    expect_refused("ip6tables-legacy table filter cannot be read",
                   [&](Snapshot& s) { s.root.netfilter.opaque_ipv6.emplace_back("ip6tables-legacy table filter"); });
    Snapshot snapshot = ipv6_snapshot();
    output(snapshot, nf::Family::kIp);
    snapshot.root.sysctls.bridge_nf_call_iptables = false;
    snapshot.root.netfilter.opaque_ipv4.emplace_back("iptables-legacy table filter");
    CHECK(compile(snapshot, scope()).tables.fdb.at(fdb_row_key(kBrq, kMacC)).out.kind == FL_OUT_TUNNEL);
    // And the other way round.
    Snapshot four = dvr_snapshot();
    output(four, nf::Family::kIp6);
    four.root.netfilter.opaque_ipv6.emplace_back("ip6tables-legacy table filter");
    CHECK(compile(four, scope()).tables.fdb.at(fdb_row_key(kBrq, kMacC)).out.kind == FL_OUT_TUNNEL);
}

TEST_CASE("a peer of the other IP version is left to Linux") {
    expect_refused("tunnel peer 198.51.100.3 of vxlan-200: it is of another IP version", [](Snapshot& s) {
        for (FdbEntry& entry : s.root.fdb) {
            if (entry.destination == end(kThird)) entry.destination = ip("198.51.100.3");
        }
    });
}
