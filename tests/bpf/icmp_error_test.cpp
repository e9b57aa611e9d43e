// SPDX-License-Identifier: Apache-2.0
// ICMP errors: the quoted packet is the mirror image of the flow's and is translated with the error.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr std::uint8_t kUnreachable = 3, kSourceQuench = 4, kRedirect = 5, kTimeExceeded = 11, kParameter = 12;

/// The packet that a router in front of the client complains about: from the floating IP, or, as the VM knows it, from
/// its fixed address.
Packet complained(const World& world, Ipv4 source, const Packet& body) {
    return Ip4{.src = source, .dst = world.client, .ttl = 3} / body;
}

std::vector<Packet> quoted_bodies() {
    return {Udp{.src = 33434} / Payload{"quoted"}, Udp{.checksum = 0} / Payload{"quoted"},
            Tcp{.dst = 25} / Payload{"quoted"}, Packet(Icmp{} / Payload{"quoted"}), Packet(Payload::counting(12))};
}

}  // namespace

TEST_CASE("an error for the floating IP quotes what the VM has sent") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY, FL_HOOK_TC_TUNNEL);
    const Icmp icmp{.type = GENERATE(kUnreachable, kSourceQuench, kTimeExceeded, kParameter), .code = 1, .rest = 1400};
    // The router stands between: its own address is the error's source.
    for (const Packet& body : quoted_bodies()) {
        for (const std::size_t length : {28UL, 40UL, 46UL}) {
            const Packet sent = world.to_fip() / icmp / quote(complained(world, world.fip, body), length);
            Packet expected = world.to_vm() / icmp / quote(complained(world, world.fixed, body), length);
            if (hook == FL_HOOK_TC_TUNNEL) {
                world.on_tunnel(kExternal);
                check_sent(world.programs.run(hook, sent.bytes()), kTcRedirect, FL_REASON_FIP_IN, expected);
            } else {
                check_sent(world.programs.run(hook, world.from_peer(kExternalVni, sent).bytes()),
                           hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_FIP_IN, expected);
            }
        }
    }
}

TEST_CASE("an error from the VM quotes what it has received") {
    World world;
    world.on_port();
    const Icmp icmp{.type = kUnreachable, .code = 3, .rest = 0};
    for (const Packet& body : quoted_bodies()) {
        const Packet as_vm_got_it = Ip4{.src = world.client, .dst = world.fixed, .ttl = 60} / body;
        const Packet as_client_sent_it = Ip4{.src = world.client, .dst = world.fip, .ttl = 60} / body;
        const Packet sent = world.from_vm() / icmp / quote(as_vm_got_it, 48);
        const Packet expected = world.from_fip() / icmp / quote(as_client_sent_it, 48);
        check_sent(world.programs.run(FL_HOOK_TC_PORT, sent.bytes()), kTcRedirect, FL_REASON_FIP_OUT,
                   world.to_peer(kExternalVni, expected));
    }
}

TEST_CASE("a quoted UDP checksum that becomes zero is written as 0xffff") {
    World world;
    world.on_tunnel(kExternal);
    const auto quoted = [&](Ipv4 source, std::uint16_t word) {
        const Bytes data = {static_cast<std::uint8_t>(word >> 8), static_cast<std::uint8_t>(word)};
        return quote(complained(world, source, Udp{.src = 33434} / Payload{data}), 30);
    };
    // Adding the checksum of a payload of zeros leaves nothing to sum up.
    const Bytes zeros = quoted(world.fixed, 0).bytes;
    const auto word = word_at(zeros, 26);
    const Payload translated = quoted(world.fixed, word);
    REQUIRE((translated.bytes.at(26) == 0xff && translated.bytes.at(27) == 0xff));
    const Icmp icmp{.type = kUnreachable, .code = 3, .rest = 0};
    const Packet sent = world.to_fip() / icmp / quoted(world.fip, word);
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, sent.bytes()), kTcRedirect, FL_REASON_FIP_IN,
               world.to_vm() / icmp / translated);
}

TEST_CASE("an error between two floating IPs of the node changes all four addresses") {
    World world;
    world.on_port();
    fl_next next = world.next_to_vm();
    next.flags = FL_NEXT_SNAT | FL_NEXT_HAIRPIN;
    for (std::size_t i = 0; i < 4; ++i)
        next.dnat[i] = world.neighbour.bytes()[i];
    world.set_dest(world.neighbour_fip, next);
    const Icmp icmp{.type = kUnreachable, .code = 3, .rest = 0};
    const Packet body = Udp{} / Payload{"hairpin"};
    const Packet sent = Eth{.dst = world.qr_mac, .src = world.vm_mac} /
                        Ip4{.src = world.fixed, .dst = world.neighbour_fip} / icmp /
                        quote(Ip4{.src = world.neighbour_fip, .dst = world.fixed} / body, 35);
    const Packet expected = Eth{.dst = world.vm_mac, .src = world.qr_mac} /
                            Ip4{.src = world.fip, .dst = world.neighbour, .ttl = 62} / icmp /
                            quote(Ip4{.src = world.neighbour, .dst = world.fip} / body, 35);
    check_sent(world.programs.run(FL_HOOK_TC_PORT, sent.bytes()), kTcRedirect, FL_REASON_FIP_HAIRPIN, expected);
}

TEST_CASE("skb->csum is right after an error is translated") {
    World world;
    world.on_tunnel(kExternal);
    const Icmp icmp{.type = kTimeExceeded, .rest = 0};
    const Packet body = Tcp{} / Payload{"quoted"};
    const Packet sent = world.to_fip() / icmp / quote(complained(world, world.fip, body), 46);
    REQUIRE_CHECKSUM_COMPLETE(world.programs);
    const auto result = world.programs.run(FL_HOOK_TC_TUNNEL, sent.bytes(), {.checksum_complete = true});
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN,
               world.to_vm() / icmp / quote(complained(world, world.fixed, body), 46));
}

TEST_CASE("an error that does not fit its translation is left to Linux") {
    World world;
    world.on_tunnel(kExternal);
    const Icmp icmp{.type = kUnreachable, .code = 1, .rest = 0};
    const Packet body = Udp{} / Payload{"quoted"};
    const auto left = [&](const Packet& packet) {
        expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_ICMP_INNER);
    };

    SECTION("it quotes another source") {
        left(world.to_fip() / icmp / quote(complained(world, world.neighbour_fip, body), 40));
    }
    SECTION("it quotes less than a header and 8 bytes") {
        left(world.to_fip() / icmp / quote(complained(world, world.fip, body), 27));
    }
    SECTION("it quotes less than a header") {
        left(world.to_fip() / icmp / quote(complained(world, world.fip, body), 19));
    }
    SECTION("the quoted header has options") {
        left(world.to_fip() / icmp /
             quote(Ip4{.src = world.fip, .dst = world.client, .options = Bytes(4, 1)} / body, 40));
    }
    SECTION("it quotes a later fragment") {
        left(world.to_fip() / icmp /
             quote(Ip4{.src = world.fip, .dst = world.client, .fragment_offset = 1, .protocol = 17} /
                       Payload::counting(20),
                   40));
    }
    SECTION("it quotes an ICMP error") {
        left(world.to_fip() / icmp / quote(complained(world, world.fip, Icmp{.type = kUnreachable}), 28));
    }
    SECTION("it quotes a protocol whose checksum only Linux updates") {
        left(world.to_fip() / icmp /
             quote(Ip4{.src = world.fip, .dst = world.client, .protocol = 136} / Payload::counting(20), 40));
    }
    SECTION("it is a redirect, which Linux does not translate") {
        left(world.to_fip() / Icmp{.type = kRedirect} / quote(complained(world, world.fip, body), 36));
    }
}
