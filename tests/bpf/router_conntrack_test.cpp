// SPDX-License-Identifier: Apache-2.0
// Whose a flow is by Linux's own connection tracking, and what that is told of a flow that goes over to Linux.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/router_world.hpp"
#include "support/run_process.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr std::uint16_t kInside = 40000, kOutside = 443;

struct Protocol {
    std::string name;
    std::uint8_t number = 0;
    Packet out, in;
};

Protocol any_protocol() {
    return GENERATE(Protocol{"tcp", 6, Tcp{.src = kInside, .dst = kOutside, .flags = 0x10},
                             Tcp{.src = kOutside, .dst = kInside, .flags = 0x10}},
                    Protocol{"udp", 17, Udp{.src = kInside, .dst = kOutside}, Udp{.src = kOutside, .dst = kInside}});
}

/// The VM's flow to the client as Linux has begun it: `port` is what Linux has chosen outside.
Tracked from_inside(const RouterWorld& world, const std::string& protocol, std::uint16_t port) {
    return {.protocol = protocol,
            .from = {world.fixed, kInside},
            .to = {world.client, kOutside},
            .answer_from = {world.client, kOutside},
            .answer_to = {world.fip, port}};
}

/// The client's flow to the VM.
Tracked from_outside(const RouterWorld& world, const std::string& protocol) {
    return {.protocol = protocol,
            .from = {world.client, kOutside},
            .to = {world.fip, kInside},
            .answer_from = {world.fixed, kInside},
            .answer_to = {world.client, kOutside}};
}

/// The VM's packets to its neighbour's floating IP turn round; with `one_entry` one namespace translates both ends.
fl_next set_turn(RouterWorld& world, bool one_entry = true) {
    fl_next turn = world.hairpin();
    if (one_entry) turn.flags |= FL_NEXT_ONE_ENTRY;
    world.set_turn(turn);
    return turn;
}

Packet to_neighbour(const RouterWorld& world, const Packet& body, std::uint8_t ttl = 64) {
    return Eth{.dst = world.qr_mac, .src = world.vm_mac} /
           Ip4{.src = world.fixed, .dst = world.neighbour_fip, .ttl = ttl} / body;
}

/// Nothing to the neighbour's floating IP is carried any more.
void leave_to_linux(RouterWorld& world) {
    fl_next none{};
    none.out.kind = FL_OUT_NONE;
    world.set_dest(world.neighbour_fip, none);
}

}  // namespace

TEST_CASE("a flow that Linux has begun stays Linux's") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    SECTION("from inside") {
        track(world.scratch.netns(), from_inside(world, protocol.name, kInside));
        world.left(kGatewayPort, world.to_fip() / protocol.in, FL_REASON_LINUX_FLOW);
        world.left(kRouterPort, world.from_vm() / protocol.out, FL_REASON_LINUX_FLOW);
    }
    SECTION("from inside, with another port outside") {
        track(world.scratch.netns(), from_inside(world, protocol.name, kInside + 1));
        world.left(kRouterPort, world.from_vm() / protocol.out, FL_REASON_LINUX_FLOW);
    }
    SECTION("from outside") {
        track(world.scratch.netns(), from_outside(world, protocol.name));
        world.left(kGatewayPort, world.to_fip() / protocol.in, FL_REASON_LINUX_FLOW);
        world.left(kRouterPort, world.from_vm() / protocol.out, FL_REASON_LINUX_FLOW);
    }
    CHECK(world.flows() == 0);
}

TEST_CASE("no flow gets a port outside that Linux has given to another one") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    Tracked other = from_inside(world, protocol.name, kInside);
    other.from.port = 5;
    track(world.scratch.netns(), other);
    world.left(kRouterPort, world.from_vm() / protocol.out, FL_REASON_LINUX_FLOW);
    // What comes in for that port is the other's answer.
    world.left(kGatewayPort, world.to_fip() / protocol.in, FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 0);
}

TEST_CASE("what comes in takes no flow away that Linux has begun inside, with another port outside") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    track(world.scratch.netns(), from_inside(world, protocol.name, kInside + 1));
    world.left(kGatewayPort, world.to_fip() / protocol.in, FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 0);
}

TEST_CASE("no flow between floating IPs of a router gets a port that Linux has given to another one") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    set_turn(world);
    track(world.scratch.netns(), {.protocol = protocol.name,
                                  .from = {world.fixed, 5},
                                  .to = {world.neighbour_fip, kOutside},
                                  .answer_from = {world.neighbour, kOutside},
                                  .answer_to = {world.fip, kInside}});
    world.left(kRouterPort, to_neighbour(world, protocol.out), FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 0);
}

TEST_CASE("flows of others, and of another protocol, hinder none") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    track(world.scratch.netns(), from_inside(world, protocol.name == "tcp" ? "udp" : "tcp", kInside));
    Tracked other = from_inside(world, protocol.name, kInside + 1);
    other.to.port = other.answer_from.port = kOutside + 1;
    track(world.scratch.netns(), other);
    CHECK(world.run(kRouterPort, world.from_vm() / protocol.out).reason == FL_REASON_FIP_OUT);
    CHECK(world.flows() == 1);
}

TEST_CASE("a flow of the programs stays theirs, whatever conntrack knows by then") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    world.remember(world.flow_key(protocol.number, kInside, kOutside), world.fip);
    track(world.scratch.netns(), from_inside(world, protocol.name, kInside + 1));
    CHECK(world.run(kRouterPort, world.from_vm() / protocol.out).reason == FL_REASON_FIP_OUT);
    CHECK(world.run(kGatewayPort, world.to_fip() / protocol.in).reason == FL_REASON_FIP_IN);
}

TEST_CASE("of what is not translated conntrack is not asked") {
    RouterWorld world;
    world.set_dest(world.client, world.next_to_neighbour());
    const Protocol protocol = any_protocol();
    track(world.scratch.netns(), from_inside(world, protocol.name, kInside));
    CHECK(world.run(kRouterPort, world.from_vm() / protocol.out).reason == FL_REASON_ROUTED);
}

TEST_CASE("conntrack of the namespace that translates is asked") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    const ScratchNetns translator("translator");
    const Packet packet = world.to_fip() / protocol.in;
    SECTION("which the gateway's knows by an id") {
        const auto named = run_process({"ip", "netns", "set", translator.name(), "7"});
        INFO(named.err);
        REQUIRE(named.exit_status == 0);
        world.set_in(world.in_across(), 7);
        // The gateway's own is not.
        track(world.scratch.netns(), from_outside(world, protocol.name));
        SECTION("and has no such flow") {
            CHECK(world.run(kGatewayPort, packet).reason == FL_REASON_FIP_IN);
            CHECK(world.flow(world.flow_key(protocol.number, kInside, kOutside)));
        }
        SECTION("and has the flow") {
            track(translator.netns(), from_outside(world, protocol.name));
            world.left(kGatewayPort, packet, FL_REASON_LINUX_FLOW);
        }
    }
    SECTION("or cannot be") {
        world.set_in(world.in_across(), 8);
        world.left(kGatewayPort, packet, FL_REASON_LINUX_FLOW);
        CHECK(world.flows() == 0);
    }
}

TEST_CASE("a flow that goes to Linux from inside is in conntrack, with its port") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    CHECK(world.run(kRouterPort, world.from_vm() / protocol.out).reason == FL_REASON_FIP_OUT);
    CHECK(tracked(world.scratch.netns()).empty());
    fl_reason reason = FL_REASON_TTL;
    Packet packet = world.from_vm({.ttl = 1}) / protocol.out;
    SECTION("for its TTL") {}
    SECTION("for IP options, behind which its ports are") {
        reason = FL_REASON_IP_OPTIONS;
        packet = world.from_vm({.options = Bytes(GENERATE(4UL, 40UL), 1)}) / protocol.out;
    }
    SECTION("as a fragment") {
        reason = FL_REASON_FRAGMENT;
        packet = world.from_vm({.more_fragments = true}) / protocol.out;
    }
    SECTION("for want of a way") {
        reason = FL_REASON_NO_DEST;
        world.set_host(world.fixed, world.fip, 0);
    }
    SECTION("for want of somebody who vouches") {
        reason = FL_REASON_LEASE;
        world.vouch(-1);
    }
    if (reason == FL_REASON_NO_DEST || reason == FL_REASON_LEASE) packet = world.from_vm() / protocol.out;
    world.given_back(kRouterPort, packet, reason);
    CHECK(tracked(world.scratch.netns()) == std::vector{from_inside(world, protocol.name, kInside).str()});

    // From then on it is Linux's.
    world.vouch(1000);
    world.set_host(world.fixed, world.fip);
    world.left(kRouterPort, world.from_vm() / protocol.out, FL_REASON_LINUX_FLOW);
    world.left(kGatewayPort, world.to_fip() / protocol.in, FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 0);
}

TEST_CASE("where one namespace translates both addresses conntrack has both in one entry") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    const bool one_entry = GENERATE(true, false);
    set_turn(world, one_entry);
    CHECK(world.run(kRouterPort, to_neighbour(world, protocol.out)).reason == FL_REASON_FIP_HAIRPIN);
    world.given_back(kRouterPort, to_neighbour(world, protocol.out, 1), FL_REASON_TTL,
                     1);  // the answers have a row of their own
    Tracked expected = from_inside(world, protocol.name, kInside);
    expected.to.address = world.neighbour_fip;
    expected.answer_from.address = one_entry ? world.neighbour : world.neighbour_fip;
    CHECK(tracked(world.scratch.netns()) == std::vector{expected.str()});
}

TEST_CASE("a flow takes no translation along that is gone") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    fl_next turn = set_turn(world);
    CHECK(world.run(kRouterPort, to_neighbour(world, protocol.out)).reason == FL_REASON_FIP_HAIRPIN);
    fl_reason reason = FL_REASON_TTL;
    SECTION("with the floating IP") {
        world.set_translated(world.neighbour_fip, {});
    }
    SECTION("to another VM") {
        world.set_translated(world.neighbour_fip, world.client);
    }
    SECTION("to another VM, of which only the journey knows yet") {
        std::ranges::copy(world.client.bytes(), turn.dnat);
        world.set_dest(world.neighbour_fip, turn);
    }
    SECTION("with the floating IP and its rows") {
        reason = FL_REASON_NO_DEST;
        world.set_translated(world.neighbour_fip, {});
        leave_to_linux(world);
    }
    world.given_back(kRouterPort, to_neighbour(world, protocol.out, 1), reason,
                     1);  // the answers have a row of their own
    CHECK(tracked(world.scratch.netns()).empty());
}

TEST_CASE("a flow to a floating IP that is left to Linux takes its translation along") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    set_turn(world);
    const Packet packet = to_neighbour(world, protocol.out);
    CHECK(world.run(kRouterPort, packet).reason == FL_REASON_FIP_HAIRPIN);
    leave_to_linux(world);
    world.given_back(kRouterPort, packet, FL_REASON_NO_DEST, 1);
    Tracked expected = from_inside(world, protocol.name, kInside);
    expected.to.address = world.neighbour_fip;
    expected.answer_from.address = world.neighbour;
    CHECK(tracked(world.scratch.netns()) == std::vector{expected.str()});
}

TEST_CASE("a flow that goes to Linux from outside takes its translation along, whoever opened it") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    SECTION("the client") {
        CHECK(world.run(kGatewayPort, world.to_fip() / protocol.in).reason == FL_REASON_FIP_IN);
    }
    SECTION("the VM") {
        world.remember(world.flow_key(protocol.number, kInside, kOutside), world.fip);
    }
    world.given_back(kGatewayPort, world.to_fip({.ttl = 1}) / protocol.in, FL_REASON_TTL);
    CHECK(tracked(world.scratch.netns()) == std::vector{from_outside(world, protocol.name).str()});
}

TEST_CASE("a flow whose first packet is Linux's begins there, with the port that Linux likes") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    world.left(kRouterPort, world.from_vm({.ttl = 1}) / protocol.out, FL_REASON_TTL);
    world.left(kGatewayPort, world.to_fip({.ttl = 1}) / protocol.in, FL_REASON_TTL);
    CHECK(world.flows() == 0);
    CHECK(tracked(world.scratch.netns()).empty());
}

TEST_CASE("an entry that conntrack has already stays as it is") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    world.remember(world.flow_key(protocol.number, kInside, kOutside), world.fip);
    const Tracked known = from_inside(world, protocol.name, kInside + 1);
    track(world.scratch.netns(), known);
    world.given_back(kRouterPort, world.from_vm({.ttl = 1}) / protocol.out, FL_REASON_TTL);
    CHECK(tracked(world.scratch.netns()) == std::vector{known.str()});
}

TEST_CASE("a flow whose port outside is another one's by now gets no third one") {
    RouterWorld world;
    const Protocol protocol = any_protocol();
    world.remember(world.flow_key(protocol.number, kInside, kOutside), world.fip);
    Tracked other = from_inside(world, protocol.name, kInside);
    other.from.port = 5;
    track(world.scratch.netns(), other);
    world.given_back(kRouterPort, world.from_vm({.ttl = 1}) / protocol.out, FL_REASON_TTL);
    CHECK(tracked(world.scratch.netns()) == std::vector{other.str()});
}
