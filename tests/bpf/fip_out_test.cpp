// SPDX-License-Identifier: Apache-2.0
// What a VM with a floating IP sends to its router.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <set>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

Packet tcp_body() {
    return Tcp{.dst = 443, .flags = 0x10} / Payload{"GET /"};
}

fl_route_key route_key(std::uint32_t length, std::array<std::uint8_t, 4> address) {
    return {.prefixlen = 32 + length, .domain = kDomain, .ip = {address[0], address[1], address[2], address[3]}};
}

}  // namespace

TEST_CASE("the VM's packet leaves from its floating IP through the tunnel") {
    World world;
    world.on_port();
    Ip4 fields;
    fields.tos = GENERATE(std::uint8_t{0x00}, std::uint8_t{0x01}, std::uint8_t{0x02}, std::uint8_t{0xbb});
    const std::uint8_t outer = (fields.tos & 3) == 3 ? 2 : fields.tos & 3;
    const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm(fields) / tcp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_OUT,
               world.to_peer(kExternalVni, world.from_fip(fields) / tcp_body(), outer));

    const auto stat = world.programs.fip_stat(fip_stat_key(world.fip));
    CHECK(stat.out_packets == 2);  // run() runs both variants
    CHECK(stat.out_bytes == 2 * (20 + tcp_body().bytes().size()));
    CHECK(stat.in_packets == 0);
}

TEST_CASE("flows get different outer source ports, one flow always the same; packets get different IDs") {
    World world;
    world.on_port();
    const auto outer_word = [&](std::uint16_t sport, std::size_t at) {
        const auto frame = (world.from_vm() / Udp{.src = sport} / Payload{"flow"}).bytes();
        const auto result = world.programs.run(FL_HOOK_TC_PORT, frame);
        return word_at(result.frame, at);
    };
    constexpr std::size_t kSourcePort = 34, kId = 18;
    std::set<int> ports, ids;
    for (std::uint16_t sport = 1000; sport < 1064; ++sport) {
        ports.insert(outer_word(sport, kSourcePort));
        ids.insert(outer_word(1000, kId));
    }
    CHECK(ports.size() > 32);
    CHECK(ids.size() > 32);
    // All of Linux's range is used.
    CHECK(*ports.begin() < 46883);
    CHECK(*ports.rbegin() > 46883);
    CHECK(outer_word(1000, kSourcePort) == outer_word(1000, kSourcePort));
}

TEST_CASE("the VM's packet to the host's own address goes up into the host") {
    World world;
    world.on_port();
    fl_next next = world.next_to_client();
    next.out = world.host_out();
    world.set_dest(world.client, next);
    const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / tcp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_OUT, world.from_fip() / tcp_body());
}

TEST_CASE("between networks of one router nothing is translated") {
    World world;
    world.on_port();
    fl_next next = world.next_to_client();
    next.flags = 0;
    next.hops = 1;
    world.set_dest(world.client, next);
    const Packet expected = Eth{.dst = world.client_mac, .src = world.fg_mac} /
                            Ip4{.src = world.fixed, .dst = world.client, .ttl = 63} / tcp_body();
    const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / tcp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_ROUTED, world.to_peer(kExternalVni, expected));
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).out_packets == 0);
}

TEST_CASE("a VM without a floating IP is routed between the router's networks") {
    World world;
    world.on_port();
    world.set_vm(kThisDevice, world.fixed, world.vm_mac, {});
    fl_next next = world.next_to_client();
    next.flags = 0;
    next.hops = 1;
    world.set_dest(world.client, next);
    const Packet expected = Eth{.dst = world.client_mac, .src = world.fg_mac} /
                            Ip4{.src = world.fixed, .dst = world.client, .ttl = 63} / tcp_body();
    const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / tcp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_ROUTED, world.to_peer(kExternalVni, expected));

    const Packet outside =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = ip("198.51.100.9")} / tcp_body();
    expect_left(world, FL_HOOK_TC_PORT, outside, FL_REASON_NO_DEST);
}

TEST_CASE("a VM's packets go by the rules of the router that they are addressed to") {
    World world;
    world.on_port();
    const Mac other_router = mac("fa:16:3e:00:00:e1");
    constexpr std::uint32_t kOtherDomain = 8;
    fl_vm_key key{.port = kThisDevice, .fixed = {10, 1, 0, 5}, .router_mac = {}, .pad = {}};
    std::ranges::copy(other_router.bytes, key.router_mac);
    fl_vm row{.mac = {}, .pad = {}, .fip = {}, .domain = kOtherDomain};
    std::ranges::copy(world.vm_mac.bytes, row.mac);
    world.programs.put("fl_vms", key, row);
    fl_next next = world.next_to_vm();
    next.hops = 1;
    std::ranges::fill(next.dnat, 0);
    std::ranges::copy(world.neighbour_mac.bytes, next.dmac);
    std::ranges::copy(other_router.bytes, next.smac);
    next.out = world.port_out(kNeighbourPort);
    fl_dest_key dest{.domain = kOtherDomain, .ip = {}};
    std::ranges::copy(world.client.bytes(), dest.ip);
    world.programs.put("fl_dests", dest, next);

    const Packet packet =
        Eth{.dst = other_router, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.client} / tcp_body();
    const Packet expected = Eth{.dst = world.neighbour_mac, .src = other_router} /
                            Ip4{.src = world.fixed, .dst = world.client, .ttl = 63} / tcp_body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_ROUTED, expected);
    check_sent(world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / tcp_body()).bytes()), kTcRedirect,
               FL_REASON_FIP_OUT, world.to_peer(kExternalVni, world.from_fip() / tcp_body()));
}

TEST_CASE("from one floating IP to another on the same node both addresses change") {
    World world;
    world.on_port();
    fl_next next = world.next_to_vm();
    next.flags = FL_NEXT_SNAT | FL_NEXT_HAIRPIN;
    next.hops = 3;
    next.out = world.port_out(kNeighbourPort);
    for (std::size_t i = 0; i < 4; ++i)
        next.dnat[i] = world.neighbour.bytes()[i];
    for (std::size_t i = 0; i < 6; ++i)
        next.dmac[i] = world.neighbour_mac.bytes[i];
    world.set_dest(world.neighbour_fip, next);

    const Packet packet = Eth{.dst = world.qr_mac, .src = world.vm_mac} /
                          Ip4{.src = world.fixed, .dst = world.neighbour_fip} / tcp_body();
    const Packet expected = Eth{.dst = world.neighbour_mac, .src = world.qr_mac} /
                            Ip4{.src = world.fip, .dst = world.neighbour, .ttl = 61} / tcp_body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_FIP_HAIRPIN, expected);
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).out_packets == 2);
    CHECK(world.programs.fip_stat(fip_stat_key(world.neighbour_fip)).in_packets == 2);
}

TEST_CASE("prefixes are asked after addresses, the longest first") {
    World world;
    world.on_port();
    fl_next gateway = world.next_to_client();
    gateway.hops = 1;
    world.programs.put("fl_routes", route_key(0, {0, 0, 0, 0}), gateway);
    fl_next left{};
    world.programs.put("fl_routes", route_key(16, {203, 0, 0, 0}), left);
    const auto packet_to = [&](const char* address) {
        return Packet(Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = ip(address)} /
                      tcp_body());
    };

    SECTION("the default route takes what no other row knows") {
        const Packet expected = Eth{.dst = world.client_mac, .src = world.fg_mac} /
                                Ip4{.src = world.fip, .dst = ip("198.51.100.9"), .ttl = 63} / tcp_body();
        check_sent(world.programs.run(FL_HOOK_TC_PORT, packet_to("198.51.100.9").bytes()), kTcRedirect,
                   FL_REASON_FIP_OUT, world.to_peer(kExternalVni, expected));
    }
    SECTION("a known address has its own row") {
        const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / tcp_body()).bytes());
        check_sent(result, kTcRedirect, FL_REASON_FIP_OUT, world.to_peer(kExternalVni, world.from_fip() / tcp_body()));
    }
    SECTION("a prefix can be left to Linux") {
        expect_left(world, FL_HOOK_TC_PORT, packet_to("203.0.113.9"), FL_REASON_NO_DEST);
    }
    SECTION("addresses that are never routed are not, whatever the prefix") {
        const auto* address = GENERATE("0.0.0.1", "127.0.0.1", "224.0.0.5", "255.255.255.255");
        expect_left(world, FL_HOOK_TC_PORT, packet_to(address), FL_REASON_NO_DEST);
    }
}

TEST_CASE("without a proven next hop Linux routes") {
    World world;
    world.on_port();
    const Packet packet =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = ip("198.51.100.9")} / tcp_body();
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_NO_DEST);
}

TEST_CASE("a VM that is not in the tables, or another router's MAC, is the router's business") {
    World world;
    world.on_port();
    SECTION("another router") {
        world.set_fdb(kTenant, world.fg_mac, world.router_out());
        const Packet packet =
            Eth{.dst = world.fg_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.client} / tcp_body();
        expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_TO_ROUTER);
    }
    SECTION("not in the tables") {
        world.remove_vm(kThisDevice, world.fixed);
        expect_left(world, FL_HOOK_TC_PORT, world.from_vm() / tcp_body(), FL_REASON_TO_ROUTER);
    }
}

TEST_CASE("a malformed packet of the VM is the router's business") {
    World world;
    world.on_port();
    expect_left(world, FL_HOOK_TC_PORT, world.from_vm({.checksum = 0x1234}) / Udp{}, FL_REASON_BAD_IP_HEADER);
    expect_left(world, FL_HOOK_TC_PORT, world.from_vm({.total_length = 27}) / Udp{}, FL_REASON_BAD_IP_HEADER);
}

TEST_CASE("only IPv4 is routed") {
    World world;
    world.on_port();
    const Packet packet = Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip6{} / Udp{} / Payload{"six"};
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_NOT_IPV4);
}

TEST_CASE("what the kernel refuses to encapsulate is left to Linux unchanged") {
    World world;
    world.on_port();
    // A test run's GSO packet has no GSO type, which bpf_skb_adjust_room takes for one that it does not know.
    expect_left(world, FL_HOOK_TC_PORT, world.from_vm() / tcp_body(), FL_REASON_ENCAP_REFUSED, {.gso_size = 100});
}
