// SPDX-License-Identifier: Apache-2.0
// What tunnels over IPv6 need of Linux: addresses, ways to peers, vxlan devices and their tables.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "functional/linux_witness.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"
#include "linux/unique_fd.hpp"
#include "support/packet.hpp"

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
        // The kernel makes the address's own route in a work queue (addrconf_dad_work).
        for (int i = 0; i < 500 && way("2001:db8::1").type != RouteType::kLocal; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
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
    CHECK(std::ranges::count(addresses, Ipv6Address{bench.a, address("2001:db8::1"), false}) == 1);
    CHECK(std::ranges::count(addresses, Ipv6Address{1, address("::1"), false}) == 1);
    must(write_sysctl(bench.netns(), "ipv6/conf/a/dad_transmits", "100"));  // a second each: stays tentative
    bench.run({"ip", "address", "add", "2001:db8::5/64", "dev", "a"});
    CHECK(std::ranges::count(must(bench.rtnl.ipv6_addresses()), Ipv6Address{bench.a, address("2001:db8::5"), true}) ==
          1);
}

TEST_CASE("IPv6 rules that look at more than addresses and devices are noticed", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    CHECK_FALSE(must(bench.rtnl.has_other_ipv6_rules()));
    bench.run({"ip", "-6", "rule", "add", "from", "2001:db8::1", "iif", "a", "lookup", "77"});
    CHECK_FALSE(must(bench.rtnl.has_other_ipv6_rules()));
    bench.run({"ip", "-4", "rule", "add", "ipproto", "udp", "lookup", "77"});
    CHECK_FALSE(must(bench.rtnl.has_other_ipv6_rules()));
    bench.run({"ip", "-6", "rule", "add", "ipproto", "udp", "dport", "4789", "lookup", "77"});
    CHECK(must(bench.rtnl.has_other_ipv6_rules()));
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

TEST_CASE("a path MTU that the kernel was told of counts, although no route says it", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Ipv6Bench bench;
    bench.run({"ip", "route", "add", "2001:db8:1::/48", "via", "2001:db8::9"});
    CHECK(bench.way("2001:db8:1::2").mtu == 0);
    // Only who sends is told: the packet that was too big is this socket's.
    const auto inside = NetnsGuard::enter(bench.netns());
    REQUIRE(inside);
    const UniqueFd sender(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 local{};
    local.sin6_family = AF_INET6;
    local.sin6_port = htons(5000);
    std::ranges::copy(address("2001:db8::1").bytes(), std::begin(local.sin6_addr.s6_addr));
    REQUIRE(bind(sender.get(), reinterpret_cast<const sockaddr*>(&local), sizeof(local)) == 0);

    const Ip6 sent{.src = address("2001:db8::1"), .dst = address("2001:db8:1::2")};
    const Ip6 back{.src = address("2001:db8::9"), .dst = address("2001:db8::1"), .next_header = 58};
    const Bytes quoted = (sent / Udp{.src = 5000, .dst = 9}).bytes();
    Bytes message = {2, 0, 0, 0, 0, 0, 0x05, 0x50};  // packet too big: 1360
    message.insert(message.end(), quoted.begin(), quoted.end());
    Bytes covered;
    for (const IpAddress& end : {back.src, back.dst})
        covered.insert(covered.end(), end.bytes().begin(), end.bytes().end());
    covered.insert(covered.end(), {0, 0, 0, static_cast<std::uint8_t>(message.size()), 0, 0, 0, 58});
    covered.insert(covered.end(), message.begin(), message.end());
    const std::uint16_t checksum = internet_checksum(covered);
    message[2] = static_cast<std::uint8_t>(checksum >> 8);
    message[3] = static_cast<std::uint8_t>(checksum);
    const Packet packet = Eth{.dst = bench.link("a").mac, .src = bench.link("b").mac} / back / Payload{message};

    const UniqueFd wire(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = bench.b;
    const Bytes frame = packet.bytes();
    REQUIRE(sendto(wire.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) ==
            static_cast<ssize_t>(frame.size()));
    for (int i = 0; i < 100 && bench.way("2001:db8:1::2").mtu == 0; ++i)
        usleep(10'000);
    CHECK(bench.way("2001:db8:1::2").mtu == 1360);
    CHECK(bench.way("2001:db8:1::3").mtu == 0);
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
    // An IPv4 address that Linux would send from over IPv6.
    bench.run({"ip", "link", "add", "vm", "type", "vxlan", "id", "3", "local", "::ffff:192.0.2.1", "dstport", "4791"});
    CHECK(bench.link("vm").vxlan.value().local.is_unset());
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
