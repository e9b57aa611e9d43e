// SPDX-License-Identifier: Apache-2.0
// Routers that somebody else built: journeys from port to port, and across the veths between their namespaces.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/router_world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

const Mac kBroadcast = mac("ff:ff:ff:ff:ff:ff");

Packet body() {
    return Tcp{.dst = 443, .flags = 0x10} / Payload{"GET /"};
}

void set_crossing(RouterWorld& world, std::uint32_t device, std::uint32_t target, const fl_crossing& row) {
    world.programs.put("fl_crossings", fl_crossing_key{.device = device, .target = target}, row);
}

/// A packet of the VM behind the router to one of its other networks.
Packet to_neighbour(const RouterWorld& world, std::uint8_t ttl = 64) {
    return Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour, .ttl = ttl} /
           body();
}

Packet at_neighbour(const RouterWorld& world) {
    return Eth{.dst = world.neighbour_mac, .src = world.qr_mac} /
           Ip4{.src = world.fixed, .dst = world.neighbour, .ttl = 63} / body();
}

}  // namespace

TEST_CASE("a packet for a floating IP crosses from the gateway's namespace into the router's") {
    RouterWorld world;
    const auto result = world.run(kGatewayPort, world.to_fip() / body());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / body());
    CHECK(result.mark == kRouterPort);
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).in_packets == 2);  // run() runs both variants
}

TEST_CASE("a packet for a floating IP leaves by another port of the same namespace without a mark") {
    RouterWorld world;
    fl_next next = world.next_to_vm();
    next.hops = 1;
    next.out = world.here(kRouterDevice);
    world.set_in(next);
    const auto result = world.run(kGatewayPort, world.to_fip() / body());
    const Packet expected = Eth{.dst = world.vm_mac, .src = world.qr_mac} /
                            Ip4{.src = world.client, .dst = world.fixed, .ttl = 63} / body();
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, expected);
    CHECK(result.mark == 0);
}

TEST_CASE("what a VM with a floating IP sends crosses to the gateway's namespace") {
    RouterWorld world;
    const auto result = world.run(kRouterPort, world.from_vm() / body());
    check_sent(result, kTcRedirect, FL_REASON_FIP_OUT, world.from_fip() / body());
    CHECK(result.mark == kGatewayPort);
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).out_packets == 2);  // run() runs both variants
}

TEST_CASE("what a VM with a floating IP sends leaves a legacy router by its gateway port") {
    RouterWorld world;
    fl_next next = world.next_to_client();
    next.hops = 1;
    next.out = world.here(kGatewayDevice);
    world.set_dest(world.client, next);
    const auto result = world.run(kRouterPort, world.from_vm() / body());
    const Packet expected = Eth{.dst = world.client_mac, .src = world.fg_mac} /
                            Ip4{.src = world.fip, .dst = world.client, .ttl = 63} / body();
    check_sent(result, kTcRedirect, FL_REASON_FIP_OUT, expected);
    CHECK(result.mark == 0);
}

TEST_CASE("between floating IPs of one router both addresses change") {
    RouterWorld world;
    world.set_turn(world.hairpin());
    const Packet packet =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour_fip} / body();
    const Packet expected = Eth{.dst = world.neighbour_mac, .src = world.qr_mac} /
                            Ip4{.src = world.fip, .dst = world.neighbour, .ttl = 63} / body();
    const auto result = world.run(kRouterPort, packet);
    check_sent(result, kTcRedirect, FL_REASON_FIP_HAIRPIN, expected);
    CHECK(result.mark == 0);
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).out_packets == 2);  // run() runs both variants
    CHECK(world.programs.fip_stat(fip_stat_key(world.neighbour_fip)).in_packets == 2);
}

TEST_CASE("between a router's networks nothing is translated, with a floating IP or without") {
    RouterWorld world;
    world.set_host(world.fixed, GENERATE(true, false) ? world.fip : Ipv4{});
    world.set_dest(world.neighbour, world.next_to_neighbour());
    const auto result = world.run(kRouterPort, to_neighbour(world));
    check_sent(result, kTcRedirect, FL_REASON_ROUTED, at_neighbour(world));
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).out_packets == 0);
}

TEST_CASE("a router takes its hosts' packets from any MAC, as Linux does") {
    RouterWorld world;
    const Packet packet = Eth{.dst = world.qr_mac, .src = mac("fa:16:3e:99:99:99")} /
                          Ip4{.src = world.fixed, .dst = world.client} / body();
    check_sent(world.run(kRouterPort, packet), kTcRedirect, FL_REASON_FIP_OUT, world.from_fip() / body());
}

TEST_CASE("a frame for another MAC than the port's is Linux's, which drops it") {
    RouterWorld world;
    SECTION("by the router's port") {
        world.left(kRouterPort,
                   Eth{.dst = world.neighbour_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.client} /
                       body(),
                   FL_REASON_NO_DEST);
    }
    SECTION("by the gateway's port") {
        world.left(
            kGatewayPort,
            Eth{.dst = world.vm_mac, .src = world.client_mac} / Ip4{.src = world.client, .dst = world.fip} / body(),
            FL_REASON_NO_DEST);
    }
}

TEST_CASE("padding behind a short packet is cut off, as ip_rcv does") {
    RouterWorld world;
    const Packet ack = Tcp{.src = 443, .dst = 40000, .flags = 0x10} / Payload{};
    const Packet rst = Tcp{.src = 443, .dst = 40000, .flags = 0x14} / Payload{};
    const auto padded = [](const Packet& packet, std::size_t size = 60) {
        Bytes bytes = packet.bytes();
        bytes.resize(size, 0xa5);
        return bytes;
    };
    const auto run = [&](std::uint32_t port, const Bytes& frame, bool once = false) {
        return world.programs.run(FL_HOOK_TC_ROUTER, frame, {.device = port, .once = once});
    };
    SECTION("of a flow's packets, its end too") {
        check_sent(run(kGatewayPort, padded(world.to_fip() / ack)), kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / ack);
        check_sent(run(kGatewayPort, padded(world.to_fip() / rst)), kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / rst);
    }
    SECTION("of an echo's answer") {
        const Packet echo = Icmp{.type = 8, .rest = 0x01020001} / Payload{"ping"};
        const Packet answer = Icmp{.type = 0, .rest = 0x01020001} / Payload{"ping"};
        check_sent(run(kRouterPort, padded(world.from_vm() / echo)), kTcRedirect, FL_REASON_FIP_OUT,
                   world.from_fip() / echo);
        check_sent(run(kGatewayPort, padded(world.to_fip() / answer)), kTcRedirect, FL_REASON_FIP_IN,
                   world.to_vm() / answer);
    }
    SECTION("of any length") {
        const std::size_t size = GENERATE(55, 1400);
        check_sent(run(kGatewayPort, padded(world.to_fip() / ack, size)), kTcRedirect, FL_REASON_FIP_IN,
                   world.to_vm() / ack);
    }
    SECTION("and what goes to Linux has none either") {
        const Packet packet = world.to_fip({.ttl = 1}) / ack;
        check_left(FL_HOOK_TC_ROUTER, run(kGatewayPort, padded(packet), true), FL_REASON_TTL, packet.bytes());
    }
    SECTION("but stays where the header is wrong") {
        const Bytes frame = padded(world.to_fip({.checksum = 0xbad}) / ack);
        check_left(FL_HOOK_TC_ROUTER, run(kGatewayPort, frame), FL_REASON_BAD_IP_HEADER, frame);
        const Bytes short_length = (world.to_fip({.total_length = 19}) / ack).bytes();
        check_left(FL_HOOK_TC_ROUTER, run(kGatewayPort, short_length), FL_REASON_BAD_IP_HEADER, short_length);
    }
}

TEST_CASE("what is not IPv4 and not unicast is Linux's") {
    RouterWorld world;
    SECTION("IPv6") {
        world.left(kRouterPort, Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip6{} / Udp{}, FL_REASON_NOT_IPV4);
    }
    SECTION("multicast and broadcast") {
        const Mac to = GENERATE(kBroadcast, mac("01:00:5e:00:00:01"));
        world.left(kRouterPort, Eth{.dst = to, .src = world.vm_mac} / Ip4{.src = world.fixed} / Udp{}, FL_REASON_FLOOD);
    }
    SECTION("tagged") {
        world.left(kRouterPort,
                   Eth{.dst = world.qr_mac, .src = world.vm_mac} / Vlan{.id = 7} / Ip4{.src = world.fixed} / Udp{},
                   FL_REASON_VLAN_TAG);
    }
    SECTION("a source MAC that no station has") {
        world.left(kRouterPort, Eth{.dst = world.qr_mac, .src = kBroadcast} / Ip4{.src = world.fixed} / Udp{},
                   FL_REASON_HOST_SOURCE);
    }
    SECTION("a source address that is never routed") {
        world.left(kRouterPort, Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = ip("127.0.0.1")} / Udp{},
                   FL_REASON_HOST_SOURCE);
    }
    SECTION("malformed") {
        world.left(kRouterPort, world.from_vm({.checksum = 0xbad}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("a transport header that is cut off") {
        world.left(kRouterPort, world.from_vm({.protocol = 17}) / Payload::counting(7), FL_REASON_L4_SHORT);
        world.left(kRouterPort, world.from_vm({.protocol = 6}) / Payload::counting(19), FL_REASON_LINUX_FLOW);
    }
}

TEST_CASE("a finished packet that comes out of a veth goes on by its mark") {
    RouterWorld world;
    const Packet packet = world.to_vm() / body();
    const std::uint32_t mark = GENERATE(0x80000000U, std::uint32_t{kRouterPort}, 0xffffffffU);
    SECTION("out of its port, as any packet") {
        set_crossing(world, kVethAtRouter, mark, {.ifindex = kRouterDevice, .flags = 0});
        const auto result = world.run(kVethAtRouter, packet, mark);
        check_sent(result, kTcRedirect, FL_REASON_CROSSED, packet);
        CHECK(result.mark == 0);
    }
    SECTION("into the next veth") {
        set_crossing(world, kVethAtRouter, mark, {.ifindex = kVethDevice, .flags = FL_OUT_CROSS});
        const auto result = world.run(kVethAtRouter, packet, mark);
        check_sent(result, kTcRedirect, FL_REASON_CROSSED, packet);
        CHECK(result.mark == mark);
    }
    SECTION("nowhere, where the way is gone: Linux would translate it once more") {
        set_crossing(world, kVethAtGateway, mark, {.ifindex = kRouterDevice, .flags = 0});
        set_crossing(world, kVethAtRouter, mark ^ 1, {.ifindex = kRouterDevice, .flags = 0});
        const auto result = world.run(kVethAtRouter, packet, mark);
        check_sent(result, kTcDrop, FL_REASON_DROP_REWRITE, packet);
    }
    SECTION("however long ago somebody vouched for the tables, for it is finished") {
        world.vouch(-1);
        set_crossing(world, kVethAtRouter, mark, {.ifindex = kRouterDevice, .flags = 0});
        check_sent(world.run(kVethAtRouter, packet, mark), kTcRedirect, FL_REASON_CROSSED, packet);
    }
}

TEST_CASE("what Linux sends between routers is Linux's") {
    RouterWorld world;
    const Packet packet = world.to_fip() / body();
    const std::uint32_t mark = GENERATE(0U, 1U, 0x7fffffffU);
    SECTION("out of a veth, which is no source") {
        world.left(kVethAtRouter, packet, FL_REASON_BETWEEN_ROUTERS, mark);
    }
    SECTION("out of a device of another role") {
        world.set_port(kGatewayPort, GENERATE(FL_ROLE_NONE, FL_ROLE_PORT, FL_ROLE_TUNNEL, FL_ROLE_HOST));
        world.left(kGatewayPort, packet, FL_REASON_BETWEEN_ROUTERS, mark);
    }
}

TEST_CASE("a mark that means something to the router's rules leaves the packet to them") {
    RouterWorld world;
    const std::uint32_t mark = GENERATE(1U, 0x4000000U, 0x7fffffffU, 0x80000005U);
    world.left(kGatewayPort, world.to_fip() / body(), FL_REASON_NO_SOURCE, mark);
    world.left(kRouterPort, world.from_vm() / body(), FL_REASON_NO_SOURCE, mark);
    CHECK(world.flows() == 0);
}

TEST_CASE("tables that nobody vouches for are not used") {
    RouterWorld world;
    world.set_dest(world.neighbour, world.next_to_neighbour());
    SECTION("no longer, or only this second") {
        world.vouch(GENERATE(0, -1, -100'000));
    }
    SECTION("never") {
        auto config = world.programs.get<fl_config>("fl_config", std::uint32_t{0}).value();
        config.lease_end = 0;
        world.programs.put("fl_config", std::uint32_t{0}, config);
    }
    world.left(kGatewayPort, world.to_fip() / body(), FL_REASON_LEASE);
    world.left(kRouterPort, world.from_vm() / body(), FL_REASON_LEASE);
    world.left(kRouterPort, to_neighbour(world), FL_REASON_LEASE);
    world.left(kGatewayPort, world.who_has_fip(), FL_REASON_ARP_OTHER);
    CHECK(world.flows() == 0);
}

TEST_CASE("ARP of a router's port is answered for as long as somebody vouches for the tables") {
    RouterWorld world;
    const auto result = world.run(kGatewayPort, world.who_has_fip());
    check_sent(result, kTcRedirect, FL_REASON_ARP_REPLY, world.fip_is_at());
    CHECK(result.mark == 0);
    SECTION("but not for who is not in the tables") {
        const Packet other =
            Eth{.dst = kBroadcast, .src = world.client_mac} /
            Arp{.sender_mac = world.client_mac, .sender_ip = world.client, .target_ip = world.neighbour_fip};
        world.left(kGatewayPort, other, FL_REASON_ARP_OTHER);
    }
    SECTION("nor a question that ends too early") {
        Bytes cut = world.who_has_fip().bytes();
        cut.resize(41);
        world.left(kGatewayPort, Payload(cut), FL_REASON_SHORT_FRAME);
    }
    SECTION("and answers are Linux's") {
        const Packet answer = Eth{.dst = world.fg_mac, .src = world.client_mac} / Arp{.operation = 2,
                                                                                      .sender_mac = world.client_mac,
                                                                                      .sender_ip = world.client,
                                                                                      .target_mac = world.fg_mac,
                                                                                      .target_ip = world.fip};
        world.left(kGatewayPort, answer, FL_REASON_ARP_OTHER);
    }
}

TEST_CASE("skb->csum is right after a translation in a router") {
    RouterWorld world;
    REQUIRE_CHECKSUM_COMPLETE(world.programs);
    const RunOptions in{.device = kGatewayPort, .checksum_complete = true};
    const RunOptions out{.device = kRouterPort, .checksum_complete = true};
    check_sent(world.programs.run(FL_HOOK_TC_ROUTER, (world.to_fip() / body()).bytes(), in), kTcRedirect,
               FL_REASON_FIP_IN, world.to_vm() / body());
    check_sent(world.programs.run(FL_HOOK_TC_ROUTER, (world.from_vm() / body()).bytes(), out), kTcRedirect,
               FL_REASON_FIP_OUT, world.from_fip() / body());
}
