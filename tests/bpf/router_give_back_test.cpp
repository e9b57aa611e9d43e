// SPDX-License-Identifier: Apache-2.0
// Flows of a router that the programs carry go to Linux with the first packet that only Linux can carry.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/router_world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr std::uint16_t kInside = 40000, kOutside = 443;

struct Flow {
    std::uint8_t protocol = 0;
    Packet out, in;
};

Flow tcp() {
    return {6, Tcp{.src = kInside, .dst = kOutside, .flags = 0x10} / Payload{"GET /"},
            Tcp{.src = kOutside, .dst = kInside, .flags = 0x10} / Payload{"200"}};
}

Flow udp() {
    return {17, Udp{.src = kInside, .dst = kOutside} / Payload{"question"},
            Udp{.src = kOutside, .dst = kInside} / Payload{"answer"}};
}

Flow any_flow() {
    return GENERATE(tcp(), udp());
}

}  // namespace

TEST_CASE("a packet that must go to Linux takes its flow along") {
    RouterWorld world;
    const Flow flow = any_flow();
    const fl_flow_key key = world.flow_key(flow.protocol, kInside, kOutside);
    world.remember(key, world.fip);
    const bool out = GENERATE(true, false);
    const auto gives_back = [&](const Ip4& fields, const Packet& body, fl_reason reason) {
        world.given_back(out ? kRouterPort : kGatewayPort, (out ? world.from_vm(fields) : world.to_fip(fields)) / body,
                         reason);
    };
    const Packet body = out ? flow.out : flow.in;
    SECTION("with an expiring TTL") {
        gives_back({.ttl = 2}, body, FL_REASON_TTL);
    }
    SECTION("too large") {
        gives_back({}, body / Payload::counting(kMtu), FL_REASON_MTU);
    }
    SECTION("with IP options") {
        gives_back({.options = Bytes(GENERATE(4UL, 40UL), 1)}, body, FL_REASON_IP_OPTIONS);
    }
    SECTION("the first fragment") {
        gives_back({.more_fragments = true}, body, FL_REASON_FRAGMENT);
    }
    SECTION("after the last time that somebody vouched for the tables") {
        world.vouch(-1);
        gives_back({}, body, FL_REASON_LEASE);
    }
    SECTION("without a way any more") {
        if (out) {
            world.set_host(world.fixed, world.fip, 0);
        } else {
            fl_next next = world.in_across();
            next.out.kind = FL_OUT_NONE;
            world.set_in(next);
        }
        gives_back({}, body, FL_REASON_NO_DEST);
    }
    SECTION("but not a fragment behind the first, whatever its payload looks like") {
        const Ip4 later{.fragment_offset = 3, .protocol = flow.protocol};
        const Payload payload(body.bytes());
        world.left(out ? kRouterPort : kGatewayPort, (out ? world.from_vm(later) : world.to_fip(later)) / payload,
                   FL_REASON_FRAGMENT);
        CHECK(world.flows() == 1);
    }
}

TEST_CASE("a TCP SYN that offers too much takes its flow to Linux") {
    RouterWorld world;
    world.remember(world.flow_key(6, kInside, kOutside), world.fip);
    fl_next next = world.out_across();
    next.mss = 1410;
    world.set_dest(world.client, next);
    const Packet syn = Tcp{.src = kInside, .dst = kOutside, .flags = 0x02, .options = {2, 4, 0x05, 0x83}} / Payload{};
    world.given_back(kRouterPort, world.from_vm() / syn, FL_REASON_MSS);
}

TEST_CASE("with another floating IP a flow goes to Linux, too") {
    RouterWorld world;
    world.remember(world.flow_key(17, kInside, kOutside), world.fip);
    world.set_host(world.fixed, world.neighbour_fip, 0);
    world.given_back(kRouterPort, world.from_vm() / udp().out, FL_REASON_NO_DEST);
    CHECK(tracked(world.scratch.netns()).empty());
}

TEST_CASE("what no row with a floating IP is about is of no flow, though it looks like one's") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(6, kInside, kOutside);
    world.remember(key, world.fip);
    const Packet fin = Tcp{.src = kInside, .dst = kOutside, .flags = 0x11} / Payload{};
    const auto passes = [&](std::uint32_t port, const Packet& packet) {
        const RunOptions options{.device = port, .once = true};
        check_left(FL_HOOK_TC_ROUTER, world.programs.run(FL_HOOK_TC_ROUTER, packet.bytes(), options), FL_REASON_NO_DEST,
                   packet.bytes());
        CHECK(world.flow(key).has_value());
        CHECK(tracked(world.scratch.netns()).empty());
    };
    SECTION("the host has no floating IP any more") {
        world.set_host(world.fixed, {}, 0);
        passes(kRouterPort, world.from_vm() / fin);
    }
    SECTION("the host is not known any more") {
        world.programs.erase("fl_vms", fl_vm_key{.port = kRouterPort,
                                                 .fixed = {10, 1, 0, 5},
                                                 .router_mac = {0xfa, 0x16, 0x3e, 0x00, 0x00, 0x01},
                                                 .pad = {}});
        passes(kRouterPort, world.from_vm() / fin);
    }
    SECTION("it is addressed to somebody else") {
        passes(kRouterPort, Eth{.dst = world.neighbour_mac, .src = world.vm_mac} /
                                Ip4{.src = world.fixed, .dst = world.client} / fin);
    }
    SECTION("it comes in by another port of the router") {
        world.put_source(kVethAtRouter, FL_ROLE_ROUTER, kVethAtRouter, 0, kTranslator);
        passes(kVethAtRouter, world.from_vm() / fin);
    }
}

TEST_CASE("from a source that a rule names by now a packet takes its flow along") {
    RouterWorld world;
    world.remember(world.flow_key(17, kInside, kOutside), world.fip);
    world.except(world.client);
    world.given_back(kGatewayPort, world.to_fip() / udp().in, FL_REASON_NO_DEST);
}

TEST_CASE("a FIN that goes to Linux with its flow comes as an ACK first, from which conntrack learns") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(6, kInside, kOutside);
    world.remember(key, world.fip);
    world.vouch(-1);
    const bool complete = GENERATE(false, true);
    if (complete) REQUIRE_CHECKSUM_COMPLETE(world.programs);
    const bool out = GENERATE(true, false);
    const std::uint8_t more = GENERATE(0x00, 0x08);  // PSH
    const auto with = [&](std::uint8_t flags) {
        const Packet body =
            Tcp{.src = out ? kInside : kOutside, .dst = out ? kOutside : kInside, .flags = flags} / Payload{"the rest"};
        return (out ? world.from_vm() : world.to_fip()) / body;
    };
    const RunOptions options{.device = out ? kRouterPort : kGatewayPort, .once = true, .checksum_complete = complete};
    const auto fin = static_cast<std::uint8_t>(0x11 | more);
    const auto result = world.programs.run(FL_HOOK_TC_ROUTER, with(fin).bytes(), options);
    check_left(FL_HOOK_TC_ROUTER, result, FL_REASON_LEASE, with(fin & ~0x01U).bytes());
    CHECK(world.flows() == 0);
    CHECK(tracked(world.scratch.netns()).size() == 1);
    // It is sent again, and then it is Linux's alone.
    world.left(options.device, with(fin), FL_REASON_LEASE);
}

TEST_CASE("of a TCP packet that conntrack cannot place it is told nothing") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(6, kInside, kOutside);
    world.remember(key, world.fip);
    world.vouch(-1);
    const std::uint8_t flags = GENERATE(0x04, 0x14, 0x12, 0x01, 0x15);  // RST, with ACK, SYN-ACK, a FIN alone, with RST
    const Tcp tcp{.src = kInside, .dst = kOutside, .flags = flags};
    world.given_back(kRouterPort, world.from_vm() / tcp / Payload{}, FL_REASON_LEASE);
    CHECK(tracked(world.scratch.netns()).empty());
}
