// SPDX-License-Identifier: Apache-2.0
// What tunnels over IPv6 need of Linux: addresses, ways to peers, vxlan devices and their tables.
#include <linux/neighbour.h>

#include <algorithm>

#include "functional/linux_witness.hpp"
#include "linux/nft.hpp"

namespace fiplane::test {
namespace {

const Mac kMac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x06}};

IpAddress address(const char* text) {
    return IpAddress::parse(text).value();
}

/// A namespace with a veth pair up; "a" has 2001:db8::1/64.
struct Ipv6Bench : Bench {
    int a = 0;
    int b = 0;
    Ipv6Bench() {
        must(rtnl.add_veth({.name = "a", .peer_name = "b"}));
        a = link("a").ifindex;
        b = link("b").ifindex;
        must(rtnl.change_link(a, "a", {.up = true}));
        must(rtnl.change_link(b, "b", {.up = true}));
        run({"ip", "address", "add", "2001:db8::1/64", "dev", "a", "nodad"});
    }
    Ipv6Way way(const char* peer, int bound_to = 0) {
        return must(rtnl.ipv6_way(address("2001:db8::1"), address(peer), bound_to));
    }
};

}  // namespace

TEST_CASE("IPv6 addresses are read with their devices", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    const auto addresses = must(bench.rtnl.ipv6_addresses());
    CHECK(std::ranges::count(addresses, std::pair{bench.a, address("2001:db8::1")}) == 1);
    CHECK(std::ranges::count(addresses, std::pair{1, address("::1")}) == 1);
}

TEST_CASE("the kernel's way to an IPv6 peer is asked for", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    Ipv6Way way = bench.way("2001:db8::2");
    CHECK(way.local == address("2001:db8::1"));
    CHECK(way.peer == address("2001:db8::2"));
    CHECK(way.type == RouteType::kUnicast);
    CHECK(way.oif == bench.a);
    CHECK_FALSE(way.gateway);
    CHECK_FALSE(way.multipath);
    CHECK(way.mtu == 0);
    CHECK(way.state == 0);
    CHECK(bench.way("2001:db8:1::2").type == RouteType::kUnreachable);
    CHECK(bench.way("2001:db8::1").type == RouteType::kLocal);

    bench.run({"ip", "neighbour", "add", "2001:db8::2", "lladdr", kMac.str(), "dev", "a", "nud", "permanent"});
    way = bench.way("2001:db8::2");
    CHECK(way.mac == kMac);
    CHECK(way.state == NUD_PERMANENT);

    SECTION("by a gateway, with an MTU of the route's") {
        bench.run({"ip", "route", "add", "2001:db8:1::/48", "via", "fe80::9", "dev", "a", "mtu", "1400"});
        bench.run({"ip", "neighbour", "add", "fe80::9", "lladdr", kMac.str(), "dev", "a"});
        way = bench.way("2001:db8:1::2");
        CHECK(way.type == RouteType::kUnicast);
        CHECK(way.gateway == address("fe80::9"));
        CHECK(way.mtu == 1400);
        CHECK(way.mac == kMac);
    }
    SECTION("of several next hops, with none of which a flow of ours may be told") {
        bench.run({"ip", "route", "add", "2001:db8:1::/48", "nexthop", "via", "2001:db8::8", "nexthop", "via",
                   "2001:db8::9"});
        CHECK(bench.way("2001:db8:1::2").multipath);
    }
    SECTION("refused by a route") {
        bench.run({"ip", "route", "add", "unreachable", "2001:db8:1::/48"});
        CHECK(bench.way("2001:db8:1::2").type != RouteType::kUnicast);
        bench.run({"ip", "route", "add", "blackhole", "2001:db8:2::/48"});
        CHECK(bench.way("2001:db8:2::2").type != RouteType::kUnicast);
    }
    SECTION("by a rule that looks at the source") {
        bench.run({"ip", "-6", "route", "add", "2001:db8:1::/48", "via", "2001:db8::9", "table", "77"});
        bench.run({"ip", "-6", "rule", "add", "from", "2001:db8::1", "lookup", "77"});
        CHECK(bench.way("2001:db8:1::2").gateway == address("2001:db8::9"));
        CHECK(must(bench.rtnl.ipv6_way(address("2001:db8::7"), address("2001:db8:1::2"), 0)).type ==
              RouteType::kUnreachable);
    }
    SECTION("bound to a device that has no route there: IPv6 takes another one (net/ipv6/route.c, rt6_device_match)") {
        CHECK(bench.way("2001:db8::2", bench.b).oif == bench.a);
    }
}

TEST_CASE("an IPv6 neighbour is resolved when it is asked for", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    CHECK(bench.way("2001:db8::2").state == 0);
    must(bench.rtnl.use_neighbour(bench.a, address("2001:db8::2")));
    CHECK(bench.way("2001:db8::2").state != 0);
}

TEST_CASE("a vxlan device over IPv6 sends and takes packets without UDP checksums", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    must(bench.rtnl.add_vxlan(
        {.name = "vx", .vni = 71, .local = address("2001:db8::1"), .underlay_ifindex = bench.a, .mtu = 1430}));
    const Link link = bench.link("vx");
    REQUIRE(link.vxlan);
    CHECK(link.vxlan->local == address("2001:db8::1"));
    CHECK_FALSE(link.vxlan->remote);
    CHECK(link.vxlan->sends_no_checksum6);
    CHECK(link.vxlan->takes_no_checksum6);
    CHECK(link.vxlan->ttl == 64);
    CHECK(link.mtu == 1430);
    const auto data = bench.ask({"ip", "-j", "-d", "link", "show", "vx"})[0]["linkinfo"]["info_data"];
    CHECK(data["local6"] == "2001:db8::1");
    CHECK(data["udp_zero_csum6_tx"] == true);
    CHECK(data["udp_zero_csum6_rx"] == true);
    CHECK(data["ttl"] == 64);

    const int vx = link.ifindex;
    const auto entries = [&](const Mac& mac) {
        std::vector<std::string> out;
        for (const FdbEntry& entry : must(bench.rtnl.fdb())) {
            if (entry.mac == mac && entry.ifindex == vx && entry.destination) out.push_back(entry.destination->str());
        }
        std::ranges::sort(out);
        return out;
    };
    must(bench.rtnl.set_fdb(vx, kMac, address("2001:db8::2")));
    must(bench.rtnl.set_fdb(vx, kMac, address("2001:db8::3")));
    must(bench.rtnl.set_fdb(vx, Mac{}, address("2001:db8::2")));
    must(bench.rtnl.set_fdb(vx, Mac{}, address("2001:db8::3")));
    CHECK(entries(kMac) == std::vector<std::string>{"2001:db8::3"});
    CHECK(entries(Mac{}) == std::vector<std::string>{"2001:db8::2", "2001:db8::3"});
    must(bench.rtnl.remove_fdb(vx, Mac{}, address("2001:db8::2")));
    CHECK(entries(Mac{}) == std::vector<std::string>{"2001:db8::3"});
}

TEST_CASE("what else a vxlan device may do is read", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    bench.run({"ip", "link", "add", "v6", "type", "vxlan", "id", "1", "local", "2001:db8::1", "remote", "2001:db8::2",
               "dstport", "4789", "flowlabel", "0x12345"});
    const VxlanInfo six = bench.link("v6").vxlan.value();
    CHECK(six.remote == address("2001:db8::2"));
    CHECK_FALSE(six.sends_no_checksum6);
    CHECK_FALSE(six.takes_no_checksum6);
    CHECK(six.flow_label == 0x12345);
    CHECK_FALSE(six.extensions);
    bench.run({"ip", "link", "add", "v4", "type", "vxlan", "id", "2", "local", "192.0.2.1", "dstport", "4790", "ttl",
               "inherit", "df", "set", "gbp"});
    const VxlanInfo four = bench.link("v4").vxlan.value();
    CHECK(four.local == address("192.0.2.1"));
    CHECK(four.inherits_ttl);
    CHECK(four.df == 1);
    CHECK(four.extensions);
}

TEST_CASE("a set of IPv6 addresses is read", "[linux][nft]") {
    REQUIRE_ROOT();
    Bench bench;
    must(run_nft(bench.netns(),
                 "add table inet t\nadd set inet t peers { type ipv6_addr; }\n"
                 "add element inet t peers { 2001:db8::1, 2001:db8::2 }\n"));
    const auto ruleset = must(read_ruleset(bench.netns()));
    const auto found = ruleset.sets.find(nf::Ruleset::scoped_name(nf::Family::kInet, "t", "peers"));
    REQUIRE(found != ruleset.sets.end());
    std::vector<nf::Value> members = found->second;
    std::ranges::sort(members);
    CHECK(members == std::vector<nf::Value>{address("2001:db8::1"), address("2001:db8::2")});
}

}  // namespace fiplane::test
