// SPDX-License-Identifier: Apache-2.0
// Which packets of the underlay are tunnel packets that the programs may judge.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

struct Outer {
    Eth eth;
    Ip4 ip4;
    Udp udp;
    Vxlan vxlan;
};

Outer outer_of(const World& world) {
    return {.eth = {.dst = world.underlay_mac, .src = world.peer_underlay_mac},
            .ip4 = {.src = world.peer_vtep, .dst = world.vtep},
            .udp = {.src = 51515, .dst = 4789, .checksum = 0},
            .vxlan = {.vni = kExternalVni}};
}

Packet packet_of(const World& world, const Outer& outer) {
    return outer.eth / outer.ip4 / outer.udp / outer.vxlan / (world.to_fip() / Udp{} / Payload{"tunnel"});
}

}  // namespace

TEST_CASE("the same packet with nothing wrong is taken") {
    World world;
    const Packet packet = packet_of(world, outer_of(world));
    CHECK(world.programs.run(FL_HOOK_TC_UNDERLAY, packet.bytes()).reason == FL_REASON_FIP_IN);
    CHECK(world.programs.run(FL_HOOK_XDP_UNDERLAY, packet.bytes()).reason == FL_REASON_FIP_IN);
}

TEST_CASE("underlay traffic is none of the programs' business") {
    World world;
    Outer outer = outer_of(world);
    SECTION("another port") {
        outer.udp.dst = 4790;
    }
    SECTION("another address") {
        outer.ip4.dst = ip("10.0.0.9");
    }
    SECTION("another protocol") {
        outer.ip4.protocol = 6;
    }
    SECTION("another ethertype") {
        outer.eth.type = 0x86dd;
    }
    SECTION("a multicast frame") {
        outer.eth.dst = mac("01:00:5e:00:00:01");
    }
    SECTION("a later fragment, which has no ports") {
        outer.ip4.fragment_offset = 185;
    }
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_NOT_OVERLAY);
}

TEST_CASE("frames too short for a tunnel packet are underlay traffic") {
    World world;
    Bytes frame = packet_of(world, outer_of(world)).bytes();
    frame.resize(GENERATE(14UL, 33UL, 34UL, 41UL, 49UL));
    check_left(FL_HOOK_XDP_UNDERLAY, world.programs.run(FL_HOOK_XDP_UNDERLAY, frame), FL_REASON_NOT_OVERLAY, frame);
    if (frame.size() < 34) return;  // tc test runs refuse IPv4 frames without a whole header
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame), FL_REASON_NOT_OVERLAY, frame);
}

TEST_CASE("a tagged frame of the underlay is not this device's") {
    World world;
    const Packet inner = world.to_fip() / Udp{};
    const Packet packet = Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} / Vlan{.id = 5} /
                          Ip4{.src = world.peer_vtep, .dst = world.vtep} / Udp{.dst = 4789, .checksum = 0} /
                          Vxlan{.vni = kExternalVni} / inner;
    expect_left_at_underlay(world, packet, FL_REASON_NOT_OVERLAY);
}

TEST_CASE("a node without a tunnel address has no tunnels") {
    World world;
    fl_config config{};
    config.vxlan_port = 4789;
    world.programs.put("fl_config", std::uint32_t{0}, config);
    Outer outer = outer_of(world);
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_NOT_OVERLAY);
    outer.ip4.dst = ip("0.0.0.0");
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_NOT_OVERLAY);
}

TEST_CASE("only known peers with their own VNIs are accepted") {
    World world;
    Outer outer = outer_of(world);
    SECTION("an unknown source") {
        outer.ip4.src = ip("10.0.0.66");
    }
    SECTION("an unknown VNI") {
        outer.vxlan.vni = 4242;
    }
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_UNKNOWN_PEER);
}

TEST_CASE("a tunnel packet for another host's MAC, which a promiscuous device sees, is not this node's") {
    World world;
    Outer outer = outer_of(world);
    outer.eth.dst = world.peer_underlay_mac;
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_NOT_OVERLAY);
}

TEST_CASE("outer headers that only Linux judges") {
    World world;
    Outer outer = outer_of(world);
    SECTION("options") {
        outer.ip4.options = Bytes(4, 1);
    }
    SECTION("a first fragment") {
        outer.ip4.more_fragments = true;
    }
    SECTION("a wrong header checksum") {
        outer.ip4.checksum = 0x1234;
    }
    SECTION("an IPv4 length shorter than the frame") {
        outer.ip4.total_length = 60;
    }
    SECTION("an IPv4 length longer than the frame") {
        outer.ip4.total_length = 600;
    }
    SECTION("a UDP length that differs") {
        outer.udp.length = 40;
    }
    SECTION("no valid VNI") {
        outer.vxlan.flags = 0;
    }
    SECTION("a group policy") {
        outer.vxlan.flags = 0x88000000;
    }
    SECTION("a reserved byte") {
        outer.vxlan.reserved = 1;
    }
    SECTION("ECT(1), which Linux may copy to the inner header") {
        outer.ip4.tos = 1;
    }
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_TUNNEL_HEADER);
}

TEST_CASE("an outer UDP checksum is verified by Linux") {
    World world;
    Outer outer = outer_of(world);
    outer.udp.checksum.reset();
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_OUTER_CHECKSUM);
}

TEST_CASE("congestion experienced on the underlay is transferred by Linux") {
    World world;
    Outer outer = outer_of(world);
    outer.ip4.tos = 0xbb;
    expect_left_at_underlay(world, packet_of(world, outer), FL_REASON_OUTER_CE);
}

TEST_CASE("ECT(0) on the underlay changes nothing") {
    World world;
    Outer outer = outer_of(world);
    outer.ip4.tos = 2;
    const auto result = world.programs.run(FL_HOOK_TC_UNDERLAY, packet_of(world, outer).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / Udp{} / Payload{"tunnel"});
}

TEST_CASE("GSO packets of the underlay are left before their lengths are looked at") {
    World world;
    Outer outer = outer_of(world);
    outer.ip4.total_length = 0;
    const Bytes frame = packet_of(world, outer).bytes();
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame, {.gso_size = 1400}),
               FL_REASON_TO_TUNNEL_DEV, frame);
}
