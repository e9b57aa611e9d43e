// SPDX-License-Identifier: Apache-2.0
// What is wrong or unusual with a packet that has a proven way: each is left to Linux, unchanged, with its reason.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

Packet body() {
    return Udp{} / Payload{"almost"};
}

/// The packet to the floating IP at each hook where it may come in.
void left_everywhere(World& world, const Packet& packet, fl_reason reason) {
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(world, hook, world.from_peer(kExternalVni, packet), reason);
    world.on_tunnel(kExternal);
    expect_left(world, FL_HOOK_TC_TUNNEL, packet, reason);
    world.on_host(kExternal);
    expect_left(world, FL_HOOK_TC_HOST, packet, reason);
}

Packet from(const World& world, Ipv4 source) {
    return Eth{.dst = world.fg_mac, .src = world.client_mac} / Ip4{.src = source, .dst = world.fip} / body();
}

}  // namespace

TEST_CASE("malformed IPv4 headers") {
    World world;
    SECTION("version") {
        left_everywhere(world, world.to_fip({.version = 5}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("header length below 5") {
        left_everywhere(world, world.to_fip({.header_words = 4}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("header checksum") {
        left_everywhere(world, world.to_fip({.checksum = 0xbad}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("longer than the frame") {
        left_everywhere(world, world.to_fip({.total_length = 100}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("shorter than the frame: padding that Linux cuts off") {
        left_everywhere(world, world.to_fip({.total_length = 30}) / body(), FL_REASON_BAD_IP_HEADER);
    }
    SECTION("options") {
        const std::size_t length = GENERATE(4UL, 8UL, 40UL);
        left_everywhere(world, world.to_fip({.options = Bytes(length, 1)}) / body(), FL_REASON_IP_OPTIONS);
    }
}

TEST_CASE("a header checksum of 0xffff where 0 would be right is accepted, as ip_fast_csum does") {
    World world;
    world.on_tunnel(kExternal);
    // The identification that fills the header's sum up to 0xffff is the checksum of the header without one.
    Ip4 fields;
    fields.id = 0;
    const Bytes without = (world.to_fip(fields) / body()).bytes();
    fields.id = word_at(without, 24);
    const Bytes frame = (world.to_fip(fields) / body()).bytes();
    REQUIRE((frame.at(24) == 0 && frame.at(25) == 0));
    const Packet expected = world.to_vm(fields) / body();
    fields.checksum = GENERATE(std::uint16_t{0}, std::uint16_t{0xffff});
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, (world.to_fip(fields) / body()).bytes()), kTcRedirect,
               FL_REASON_FIP_IN, expected);
}

TEST_CASE("source addresses that are never routed") {
    World world;
    const auto* source = GENERATE("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255");
    left_everywhere(world, from(world, ip(source)), FL_REASON_HOST_SOURCE);
}

TEST_CASE("source MACs that no station has") {
    World world;
    const auto* source = GENERATE("00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff");
    left_everywhere(world,
                    Eth{.dst = world.fg_mac, .src = mac(source)} / Ip4{.src = world.client, .dst = world.fip} / body(),
                    FL_REASON_HOST_SOURCE);
}

TEST_CASE("TTL: as many hops as the slow path has must remain") {
    World world;
    Ip4 fields;
    SECTION("one too few") {
        fields.ttl = GENERATE(std::uint8_t{0}, std::uint8_t{1}, std::uint8_t{2});
        left_everywhere(world, world.to_fip(fields) / body(), FL_REASON_TTL);
    }
    SECTION("just enough") {
        fields.ttl = 3;
        world.on_tunnel(kExternal);
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, (world.to_fip(fields) / body()).bytes()), kTcRedirect,
                   FL_REASON_FIP_IN, world.to_vm(fields) / body());
    }
}

TEST_CASE("MTU of the way, by the size on the wire") {
    World world;
    world.on_tunnel(kExternal);
    const auto sized = [&](std::size_t size) { return world.to_fip() / Udp{} / Payload::counting(size - 28); };
    SECTION("the largest that fits") {
        const auto result = world.programs.run(FL_HOOK_TC_TUNNEL, sized(kMtu).bytes());
        CHECK(result.reason == FL_REASON_FIP_IN);
    }
    SECTION("one byte more") {
        left_everywhere(world, sized(kMtu + 1), FL_REASON_MTU);
    }
    SECTION("the exit's own MTU counts, too") {
        fl_next next = world.next_to_vm();
        next.out.mtu = 1000;
        world.set_fip_in(next);
        left_everywhere(world, sized(1001), FL_REASON_MTU);
    }
    SECTION("of a GSO packet the segments count") {
        const Bytes frame = (world.to_fip() / Tcp{} / Payload::counting(3000)).bytes();
        CHECK(world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.gso_size = kMtu - 40}).reason == FL_REASON_FIP_IN);
        CHECK(world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.gso_size = kMtu - 39}).reason == FL_REASON_MTU);
    }
    SECTION("of a UDP GSO packet, too") {
        const Bytes frame = sized(3000).bytes();
        CHECK(world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.gso_size = kMtu - 28}).reason == FL_REASON_FIP_IN);
        CHECK(world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.gso_size = kMtu - 27}).reason == FL_REASON_MTU);
    }
    SECTION("of a GSO packet of another protocol nobody knows the segments") {
        const Bytes frame = (world.to_fip({.protocol = 132}) / Payload::counting(3000)).bytes();
        CHECK(world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.gso_size = 100}).reason == FL_REASON_MTU);
    }
}

TEST_CASE("a row without an exit is Linux's") {
    World world;
    fl_next next = world.next_to_vm();
    next.out.kind = GENERATE(FL_OUT_NONE, FL_OUT_ROUTER);
    world.set_fip_in(next);
    left_everywhere(world, world.to_fip() / body(), FL_REASON_NO_DEST);
}

TEST_CASE("frames that end inside a header") {
    World world;
    const Bytes frame = (world.to_fip() / body()).bytes();
    // Test runs refuse a plain frame that claims to be IPv4 and has no whole header; in a tunnel packet they take it.
    for (const std::size_t length : {0UL, 13UL, 14UL, 20UL, 33UL}) {
        const Payload cut(Bytes(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(length)));
        for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
            expect_left(world, hook, world.from_peer(kExternalVni, cut), FL_REASON_SHORT_FRAME);
    }
}

TEST_CASE("tagged frames inside a segment") {
    World world;
    const auto tag = GENERATE(std::uint16_t{0x8100}, std::uint16_t{0x88a8});
    left_everywhere(world,
                    Eth{.dst = world.fg_mac, .src = world.client_mac, .type = tag} / Vlan{.id = 7} /
                        Ip4{.src = world.client, .dst = world.fip} / body(),
                    FL_REASON_VLAN_TAG);
}

TEST_CASE("a device that is no source, or another kind of one") {
    World world;
    const auto check_no_source = [&](fl_hook hook) {
        expect_left(world, hook, world.to_fip() / body(), FL_REASON_NO_SOURCE);
    };
    for (const fl_hook hook : {FL_HOOK_TC_TUNNEL, FL_HOOK_TC_PORT, FL_HOOK_TC_HOST})
        check_no_source(hook);
    world.on_tunnel(kExternal);
    check_no_source(FL_HOOK_TC_PORT);
    check_no_source(FL_HOOK_TC_HOST);
    world.on_host(kExternal);
    check_no_source(FL_HOOK_TC_TUNNEL);
}

TEST_CASE("a TCP SYN that offers more than a rule allows is left to Linux") {
    World world;
    fl_next next = world.next_to_vm();
    next.mss = 1410;
    world.set_fip_in(next);
    const auto syn = [&](const Bytes& options, std::uint8_t flags = 0x02) {
        return Packet(world.to_fip() / Tcp{.flags = flags, .options = options} / Payload{"data"});
    };
    const auto carried = [&](const Packet& packet, const Packet& expected) {
        world.on_tunnel(kExternal);
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_FIP_IN, expected);
    };
    const auto arrived = [&](const Bytes& options, std::uint8_t flags = 0x02) {
        return Packet(world.to_vm() / Tcp{.flags = flags, .options = options} / Payload{"data"});
    };
    const Bytes mss_1410{2, 4, 0x05, 0x82};
    const Bytes mss_1411{2, 4, 0x05, 0x83};
    SECTION("as much, or no option at all") {
        for (const Bytes& options : {mss_1410, Bytes{}})
            carried(syn(options), arrived(options));
    }
    SECTION("one byte more, in SYN and SYN-ACK") {
        left_everywhere(world, syn(mss_1411), FL_REASON_MSS);
        left_everywhere(world, syn(mss_1411, 0x12), FL_REASON_MSS);
    }
    SECTION("only Linux looks behind another option") {
        left_everywhere(world, syn({1, 1, 4, 2, 2, 4, 0x05, 0x82}), FL_REASON_MSS);
        left_everywhere(world, syn({2, 5, 0, 0, 1, 1, 1, 1}), FL_REASON_MSS);
    }
    SECTION("what is no SYN may look like one that offers") {
        carried(syn(mss_1411, 0x10), arrived(mss_1411, 0x10));
    }
    SECTION("where no rule says so everything goes") {
        world.set_fip_in(world.next_to_vm());
        carried(syn(mss_1411), arrived(mss_1411));
    }
}
