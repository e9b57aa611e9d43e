// SPDX-License-Identifier: Apache-2.0
// Forwarding inside a segment.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

Packet body() {
    return Udp{} / Payload{"same segment"};
}

}  // namespace

TEST_CASE("from a tunnel to a port of the segment") {
    World world;
    const Packet packet = world.remote_to_vm() / body();
    SECTION("on the underlay") {
        const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
        const auto result = world.programs.run(hook, world.from_peer(kTenantVni, packet).bytes());
        check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
    SECTION("on the tunnel device") {
        world.on_tunnel(kTenant);
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
}

TEST_CASE("frames of one segment are not looked up in another") {
    World world;
    world.on_tunnel(kExternal);
    expect_left(world, FL_HOOK_TC_TUNNEL, world.remote_to_vm() / body(), FL_REASON_UNKNOWN_MAC);
}

TEST_CASE("from a port into the tunnel of its segment") {
    World world;
    world.on_port();
    const Packet packet = world.vm_to_remote() / body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
               world.to_peer(kTenantVni, packet));
}

TEST_CASE("from a port to another port of the segment") {
    World world;
    world.on_port();
    world.set_fdb(kTenant, world.neighbour_mac, world.port_out(kNeighbourPort));
    const Packet packet =
        Eth{.dst = world.neighbour_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour} / body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
}

TEST_CASE("only the first byte says that a MAC is multicast, and only all zeros are none") {
    World world;
    world.on_host(kTenant);
    const auto* address = GENERATE("02:01:01:01:01:01", "02:00:00:00:00:00", "00:00:02:00:00:00", "00:00:00:00:00:02");
    SECTION("as the source") {
        const Packet packet = Eth{.dst = world.vm_mac, .src = mac(address)} / Ip4{.src = world.remote} / body();
        check_sent(world.programs.run(FL_HOOK_TC_HOST, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
    SECTION("as the destination") {
        world.set_fdb(kTenant, mac(address), world.port_out(kVmPort));
        const Packet packet = Eth{.dst = mac(address), .src = world.remote_mac} / Ip4{.src = world.remote} / body();
        check_sent(world.programs.run(FL_HOOK_TC_HOST, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
}

TEST_CASE("other protocols are carried by MAC") {
    World world;
    world.on_port();
    const Eth eth{.dst = world.remote_mac, .src = world.vm_mac};
    SECTION("IPv6 into a tunnel, with its congestion bits outside") {
        const std::uint8_t traffic_class = GENERATE(0x00, 0xba, 0xbb);
        const std::uint8_t outer = (traffic_class & 3) != 0 ? 2 : 0;
        const Packet packet = eth / Ip6{.traffic_class = traffic_class} / Udp{.checksum = 0xbeef} / Payload{"six"};
        check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
                   world.to_peer(kTenantVni, packet, outer));
    }
    SECTION("anything to a port") {
        world.on_host(kTenant);
        const Packet packet = Eth{.dst = world.vm_mac, .src = world.remote_mac} / Payload{"no IP at all"};
        check_sent(world.programs.run(FL_HOOK_TC_HOST, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
    SECTION("adjust_room does not encapsulate what is not IP: Linux does") {
        expect_left(world, FL_HOOK_TC_PORT, eth / Payload{"no IP at all"}, FL_REASON_ENCAP_REFUSED);
    }
    SECTION("nor ARP, which is not counted as traffic that should have been fast") {
        const Arp probe{.sender_mac = world.vm_mac, .sender_ip = world.fixed, .target_ip = ip("10.1.0.99")};
        expect_left(world, FL_HOOK_TC_PORT, eth / probe, FL_REASON_ARP_OTHER);
    }
    SECTION("on the underlay the tunnel device takes them, which sets skb->protocol right") {
        const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
        const Packet packet = Eth{.dst = world.vm_mac, .src = world.remote_mac} / Ip6{} / Udp{};
        expect_left(world, hook, world.from_peer(kTenantVni, packet), FL_REASON_TO_TUNNEL_DEV);
    }
}

TEST_CASE("the host's own stack is a member of the segment") {
    World world;
    SECTION("frames for its MAC go up") {
        world.on_port();
        world.set_fdb(kTenant, world.remote_mac, world.host_out());
        const Packet packet = world.vm_to_remote() / body();
        check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_TO_HOST, packet);
    }
    SECTION("and through XDP") {
        world.set_fdb(kTenant, world.vm_mac, world.host_out());
        const Packet packet = world.remote_to_vm() / body();
        const auto result = world.programs.run(FL_HOOK_XDP_UNDERLAY, world.from_peer(kTenantVni, packet).bytes());
        check_sent(result, kXdpPass, FL_REASON_L2_TO_HOST, packet);
        REQUIRE(result.meta);
        CHECK(result.meta->kind == FL_OUT_HOST);
    }
    SECTION("what it sends goes into the tunnel") {
        world.on_host(kTenant);
        const Packet packet = world.vm_to_remote() / body();
        check_sent(world.programs.run(FL_HOOK_TC_HOST, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
                   world.to_peer(kTenantVni, packet));
    }
}

TEST_CASE("a frame never goes back where it came from") {
    World world;
    const Packet packet = world.vm_to_remote() / body();
    SECTION("port to the same port") {
        world.on_port();
        world.set_fdb(kTenant, world.remote_mac, world.port_out(kThisDevice));
        expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_SAME_PORT);
    }
    SECTION("tunnel to the same tunnel device") {
        world.on_tunnel(kTenant);
        fl_out back = world.tunnel_out(kTenantVni);
        back.port = kThisDevice;
        world.set_fdb(kTenant, world.remote_mac, back);
        expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_SAME_PORT);
        world.set_fdb(kTenant, world.remote_mac, world.tunnel_out(kTenantVni));
        for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
            expect_left(world, hook, world.from_peer(kTenantVni, packet), FL_REASON_SAME_PORT);
    }
    SECTION("host to host") {
        world.on_host(kTenant);
        fl_out host = world.host_out();
        host.port = kThisDevice;
        world.set_fdb(kTenant, world.remote_mac, host);
        expect_left(world, FL_HOOK_TC_HOST, packet, FL_REASON_SAME_PORT);
    }
}

TEST_CASE("broadcast and multicast are flooded by Linux") {
    World world;
    const auto* destination = GENERATE("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "33:33:00:00:00:01");
    const Packet packet = Eth{.dst = mac(destination), .src = world.remote_mac} / Ip4{.src = world.remote} / body();
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(world, hook, world.from_peer(kTenantVni, packet), FL_REASON_FLOOD);
    world.on_tunnel(kTenant);
    expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_FLOOD);
    world.on_host(kTenant);
    expect_left(world, FL_HOOK_TC_HOST, packet, FL_REASON_FLOOD);
}

TEST_CASE("a VM's DHCP request is flooded although its source is not yet its own") {
    World world;
    world.on_port();
    const Packet packet = Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.vm_mac} /
                          Ip4{.src = ip("0.0.0.0"), .dst = ip("255.255.255.255")} / Udp{.src = 68, .dst = 67};
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_FLOOD);
}

TEST_CASE("unknown MACs are Linux's") {
    World world;
    world.on_port();
    const Packet packet =
        Eth{.dst = world.neighbour_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour} / body();
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_UNKNOWN_MAC);
    world.set_fdb(kTenant, world.neighbour_mac, fl_out{});
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_UNKNOWN_MAC);
}

TEST_CASE("frames over the exit's MTU are Linux's, whatever they carry") {
    World world;
    world.on_port();
    const Eth eth{.dst = world.remote_mac, .src = world.vm_mac};
    const auto of_size = [&](std::size_t size) {
        return Packet(eth / Ip4{.src = world.fixed, .dst = world.remote} / Payload::counting(size - 20));
    };
    CHECK(world.programs.run(FL_HOOK_TC_PORT, of_size(kMtu).bytes()).reason == FL_REASON_L2_FORWARD);
    expect_left(world, FL_HOOK_TC_PORT, of_size(kMtu + 1), FL_REASON_MTU);
    expect_left(world, FL_HOOK_TC_PORT, eth / Payload::counting(kMtu + 1), FL_REASON_MTU);

    world.on_host(kTenant);
    const Packet six = Eth{.dst = world.vm_mac, .src = world.remote_mac} / Ip6{} / Tcp{} / Payload::counting(3000);
    const auto run = [&](std::uint32_t gso_size) {
        return world.programs.run(FL_HOOK_TC_HOST, six.bytes(), {.gso_size = gso_size}).reason;
    };
    CHECK(run(kMtu - 60) == FL_REASON_L2_FORWARD);
    CHECK(run(kMtu - 59) == FL_REASON_MTU);
}

TEST_CASE("the segments of a GSO packet are known from as little of its headers as it takes") {
    World world;
    world.on_host(kTenant);
    const Eth eth{.dst = world.vm_mac, .src = world.remote_mac};
    const auto run = [&](const Packet& packet, std::uint32_t gso_size) {
        return world.programs.run(FL_HOOK_TC_HOST, packet.bytes(), {.gso_size = gso_size}).reason;
    };
    Payload tcp{Bytes(13)};
    tcp.bytes[12] = 0x50;  // data offset: 20 bytes
    const Payload cut{Bytes(12)};
    const Ip4 ip{.protocol = 6};
    CHECK(run(eth / ip / tcp, kMtu - 40) == FL_REASON_L2_FORWARD);
    CHECK(run(eth / ip / tcp, kMtu - 39) == FL_REASON_MTU);
    // Whose headers nobody knows is larger than any MTU.
    CHECK(run(eth / ip / cut, 100) == FL_REASON_MTU);
    CHECK(run(eth / Ip6{.next_header = 6} / cut, 100) == FL_REASON_MTU);
    CHECK(run(eth / Ip4{.protocol = 6, .options = Bytes(4, 1)} / Tcp{} / Payload::counting(300), 100) == FL_REASON_MTU);
    CHECK(run(eth / Payload::counting(300), 100) == FL_REASON_MTU);
}

TEST_CASE("a port sends only from its own addresses") {
    World world;
    world.on_port();
    SECTION("another MAC") {
        const Packet packet = Eth{.dst = world.remote_mac, .src = world.neighbour_mac} /
                              Ip4{.src = world.fixed, .dst = world.remote} / body();
        expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_NOT_OWN_ADDRESS);
    }
    SECTION("another IP") {
        const Packet packet = Eth{.dst = world.remote_mac, .src = world.vm_mac} /
                              Ip4{.src = world.neighbour, .dst = world.remote} / body();
        expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_NOT_OWN_ADDRESS);
    }
    SECTION("a port without the check may") {
        world.on_unchecked_port();
        const Packet packet = Eth{.dst = world.remote_mac, .src = world.neighbour_mac} /
                              Ip4{.src = world.neighbour, .dst = world.remote} / body();
        check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
                   world.to_peer(kTenantVni, packet));
    }
}
