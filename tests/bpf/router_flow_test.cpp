// SPDX-License-Identifier: Apache-2.0
// fl_flows: which flows of a router are the programs', and what the rows say.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <ctime>

#include "bpf/router_world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr std::uint8_t kIcmp = 1, kTcp = 6, kUdp = 17, kGre = 47;
constexpr std::uint8_t kFin = 0x01, kSyn = 0x02, kRst = 0x04, kAck = 0x10;
constexpr std::uint8_t kEchoReply = 0, kUnreachable = 3, kTimeExceeded = 11, kEcho = 8;

// Ports of the flow between the VM and the client, and the id of its echo.
constexpr std::uint16_t kInside = 40000, kOutside = 443, kId = 0x0102;

constexpr std::uint32_t kOtherRouterPort = 0x80000005;

/// One way of a flow: its transport header with a payload.
struct Way {
    std::uint8_t protocol = 0;
    Packet out, in;
    [[nodiscard]] std::uint16_t inside_port() const { return protocol == kIcmp ? kId : kInside; }
    [[nodiscard]] std::uint16_t outside_port() const { return protocol == kIcmp ? kId : kOutside; }
};

Packet tcp_out(std::uint8_t flags = kAck) {
    return Tcp{.src = kInside, .dst = kOutside, .flags = flags} / Payload{"GET /"};
}

Packet tcp_in(std::uint8_t flags = kAck) {
    return Tcp{.src = kOutside, .dst = kInside, .flags = flags} / Payload{"200"};
}

Packet udp_out() {
    return Udp{.src = kInside, .dst = kOutside} / Payload{"question"};
}

Packet udp_in() {
    return Udp{.src = kOutside, .dst = kInside} / Payload{"answer"};
}

Packet echo(std::uint8_t type, std::uint16_t sequence = 1) {
    return Icmp{.type = type, .rest = std::uint32_t{kId} << 16 | sequence} / Payload{"ping"};
}

Way tcp() {
    return {kTcp, tcp_out(), tcp_in()};
}

Way udp() {
    return {kUdp, udp_out(), udp_in()};
}

/// `rows`: in all.
void check_row(const RouterWorld& world, const fl_flow_key& key, std::uint32_t flags, Ipv4 fip, Ipv4 dnat = {},
               std::size_t rows = 1) {
    REQUIRE(world.flows() == rows);
    const auto row = world.flow(key);
    REQUIRE(row);
    CHECK(std::ranges::equal(row->fip, fip.bytes()));
    CHECK(std::ranges::equal(row->dnat, dnat.bytes()));
    CHECK(row->flags == flags);
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    CHECK(row->last_use <= now.tv_sec);
    CHECK(row->last_use + 2 >= now.tv_sec);
}

void goes_out(RouterWorld& world, const Packet& body) {
    check_sent(world.run(kRouterPort, world.from_vm() / body), kTcRedirect, FL_REASON_FIP_OUT, world.from_fip() / body);
}

void comes_in(RouterWorld& world, const Packet& body) {
    check_sent(world.run(kGatewayPort, world.to_fip() / body), kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / body);
}

}  // namespace

TEST_CASE("the first packet of a flow makes its row, and all others use it") {
    RouterWorld world;
    SECTION("from inside") {
        const Way way = GENERATE(tcp(), udp(), Way{kIcmp, echo(kEcho), echo(kEchoReply)});
        const fl_flow_key key = world.flow_key(way.protocol, way.inside_port(), way.outside_port());
        goes_out(world, way.out);
        goes_out(world, way.out);
        check_row(world, key, FL_FLOW_FROM_INSIDE | FL_FLOW_UNANSWERED, world.fip);
        comes_in(world, way.in);
        check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip);
        goes_out(world, way.out);
        check_row(world, key, FL_FLOW_FROM_INSIDE | (way.protocol == kIcmp ? FL_FLOW_UNANSWERED : 0), world.fip);
    }
    SECTION("from outside") {
        const Way way = GENERATE(tcp(), udp(), Way{kIcmp, echo(kEchoReply), echo(kEcho)});
        const fl_flow_key key = world.flow_key(way.protocol, way.inside_port(), way.outside_port());
        comes_in(world, way.in);
        comes_in(world, way.in);
        check_row(world, key, FL_FLOW_UNANSWERED, world.fip);
        goes_out(world, way.out);
        check_row(world, key, 0, world.fip);
        comes_in(world, way.in);
        check_row(world, key, way.protocol == kIcmp ? FL_FLOW_UNANSWERED : 0, world.fip);  // each echo begins one
    }
}

TEST_CASE("flows that differ in one thing have a row each") {
    RouterWorld world;
    goes_out(world, tcp_out());
    goes_out(world, udp_out());
    goes_out(world, Tcp{.src = kInside + 1, .dst = kOutside} / Payload{});
    goes_out(world, Tcp{.src = kInside, .dst = kOutside + 1} / Payload{});
    goes_out(world, Icmp{.rest = 7 << 16});
    goes_out(world, Icmp{.rest = 8 << 16});
    CHECK(world.flows() == 6);
    world.set_host(world.neighbour, world.neighbour_fip);
    fl_next to_neighbour = world.in_across();
    std::ranges::copy(world.neighbour.bytes(), to_neighbour.dnat);
    world.set_in_of(world.neighbour_fip, to_neighbour);
    const Packet other =
        Eth{.dst = world.qr_mac, .src = world.neighbour_mac} / Ip4{.src = world.neighbour, .dst = world.client};
    CHECK(world.run(kRouterPort, other / tcp_out()).reason == FL_REASON_FIP_OUT);
    CHECK(world.flows() == 7);
}

TEST_CASE("a row is stamped with each packet's time") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(kUdp, kInside, kOutside);
    world.remember(key, world.fip);
    REQUIRE(world.flow(key)->last_use == 1);
    SECTION("from inside") {
        goes_out(world, udp_out());
    }
    SECTION("from outside") {
        comes_in(world, udp_in());
    }
    check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip);
}

TEST_CASE("a FIN or RST says in the row that TCP closes") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(kTcp, kInside, kOutside);
    const std::uint8_t flags =
        GENERATE(kRst, static_cast<std::uint8_t>(kFin | kAck), static_cast<std::uint8_t>(kRst | kAck));
    SECTION("of a known flow, from inside") {
        world.remember(key, world.fip);
        goes_out(world, tcp_out());
        check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip);
        goes_out(world, tcp_out(flags));
        check_row(world, key, FL_FLOW_FROM_INSIDE | FL_FLOW_CLOSING, world.fip);
        goes_out(world, tcp_out());
        check_row(world, key, FL_FLOW_FROM_INSIDE | FL_FLOW_CLOSING, world.fip);
    }
    SECTION("of a known flow, from outside") {
        comes_in(world, tcp_in(kSyn));
        check_row(world, key, FL_FLOW_UNANSWERED, world.fip);
        comes_in(world, tcp_in(flags));
        check_row(world, key, FL_FLOW_UNANSWERED | FL_FLOW_CLOSING, world.fip);
    }
}

TEST_CASE("a TCP flow begins with what conntrack takes for a beginning") {
    RouterWorld world;
    SECTION("a SYN, or an ACK of a connection that was there before") {
        const std::uint8_t flags = GENERATE(kSyn, kAck, static_cast<std::uint8_t>(kAck | 0x08));
        goes_out(world, tcp_out(flags));
        CHECK(world.flows() == 1);
    }
    SECTION("and none of what is invalid to it") {
        const std::uint8_t flags =
            GENERATE(kFin, kRst, static_cast<std::uint8_t>(kFin | kAck), static_cast<std::uint8_t>(kRst | kAck),
                     static_cast<std::uint8_t>(kSyn | kAck), static_cast<std::uint8_t>(kSyn | kFin), std::uint8_t{0});
        world.left(kRouterPort, world.from_vm() / tcp_out(flags), FL_REASON_LINUX_FLOW);
        world.left(kGatewayPort, world.to_fip() / tcp_in(flags), FL_REASON_LINUX_FLOW);
        CHECK(world.flows() == 0);
    }
}

TEST_CASE("what is malformed for conntrack belongs to no flow, not to a known one either") {
    RouterWorld world;
    goes_out(world, udp_out());
    goes_out(world, tcp_out());
    const auto is_linux = [&](const Packet& out, const Packet& in) {
        world.left(kRouterPort, world.from_vm() / out, FL_REASON_LINUX_FLOW);
        world.left(kGatewayPort, world.to_fip() / in, FL_REASON_LINUX_FLOW);
    };
    SECTION("UDP that is longer than its packet, or shorter than its header") {
        const std::uint16_t length = GENERATE(0, 7, 200, 0xffff);
        is_linux(Udp{.src = kInside, .dst = kOutside, .length = length} / Payload{"question"},
                 Udp{.src = kOutside, .dst = kInside, .length = length} / Payload{"answer"});
    }
    SECTION("TCP with flags that mean nothing") {
        const std::uint8_t flags = GENERATE(std::uint8_t{0}, kFin, static_cast<std::uint8_t>(kSyn | kFin),
                                            static_cast<std::uint8_t>(kSyn | kRst), std::uint8_t{0x08});
        is_linux(tcp_out(flags), tcp_in(flags));
    }
    SECTION("TCP whose header is longer than its packet, or shorter than a header") {
        for (const std::uint8_t words : {0, 4, 15}) {
            Bytes frame = (world.from_vm() / tcp_out()).bytes();
            frame[46] = static_cast<std::uint8_t>(words << 4);
            world.left(kRouterPort, Payload(frame), FL_REASON_LINUX_FLOW);
        }
    }
    CHECK(world.flows() == 2);
}

TEST_CASE("a UDP payload is no TCP flag") {
    RouterWorld world;
    goes_out(world, Udp{.src = kInside, .dst = kOutside} / Payload(Bytes(32, 0xff)));
    check_row(world, world.flow_key(kUdp, kInside, kOutside), FL_FLOW_FROM_INSIDE | FL_FLOW_UNANSWERED, world.fip);
}

TEST_CASE("a row says what the destination becomes where the same namespace translates it") {
    RouterWorld world;
    fl_next turn = world.hairpin();
    const bool one_entry = GENERATE(true, false);
    if (one_entry) turn.flags |= FL_NEXT_ONE_ENTRY;
    world.set_turn(turn);
    const Packet packet =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour_fip} / udp_out();
    CHECK(world.run(kRouterPort, packet).reason == FL_REASON_FIP_HAIRPIN);
    fl_flow_key key = world.flow_key(kUdp, kInside, kOutside);
    std::ranges::copy(world.neighbour_fip.bytes(), key.outside);
    check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip, one_entry ? world.neighbour : Ipv4{}, 2);
    // The answers come from inside, too, and are another flow to whoever has the other floating IP.
    fl_flow_key answers = world.flow_key(kUdp, kOutside, kInside);
    std::ranges::copy(world.neighbour.bytes(), answers.inside);
    std::ranges::copy(world.fip.bytes(), answers.outside);
    check_row(world, answers, 0, world.neighbour_fip, one_entry ? world.fixed : Ipv4{}, 2);
}

TEST_CASE("what is not translated has no flow") {
    RouterWorld world;
    world.set_dest(world.neighbour, world.next_to_neighbour());
    const Packet body = GENERATE(tcp_out(), udp_out(), echo(kEcho), echo(kEchoReply));
    const Packet packet =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour} / body;
    CHECK(world.run(kRouterPort, packet).reason == FL_REASON_ROUTED);
    CHECK(world.flows() == 0);
}

TEST_CASE("protocols without ports are carried without a row") {
    RouterWorld world;
    SECTION("GRE") {
        const Packet out = world.from_vm({.protocol = kGre}) / Payload::counting(20);
        const Packet in = world.to_fip({.protocol = kGre}) / Payload::counting(20);
        CHECK(world.run(kRouterPort, out).reason == FL_REASON_FIP_OUT);
        CHECK(world.run(kGatewayPort, in).reason == FL_REASON_FIP_IN);
    }
    SECTION("but not those whose ports or ids Linux may have chosen, and about which it cannot be asked") {
        const std::uint8_t protocol = GENERATE(33, 132, 136);  // DCCP, SCTP, UDP-Lite
        world.left(kRouterPort, world.from_vm({.protocol = protocol}) / Payload::counting(20), FL_REASON_LINUX_FLOW);
        world.left(kGatewayPort, world.to_fip({.protocol = protocol}) / Payload::counting(20), FL_REASON_LINUX_FLOW);
        world.left(kRouterPort, world.from_vm() / Icmp{.type = 13}, FL_REASON_LINUX_FLOW);
        world.left(kGatewayPort, world.to_fip() / Icmp{.type = 14}, FL_REASON_LINUX_FLOW);
    }
    CHECK(world.flows() == 0);
}

TEST_CASE("an echo reply whose request is not known belongs to Linux, which knows it") {
    RouterWorld world;
    world.left(kGatewayPort, world.to_fip() / echo(kEchoReply), FL_REASON_LINUX_FLOW);
    world.left(kRouterPort, world.from_vm() / echo(kEchoReply), FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 0);
    // Another id's row is none of it.
    goes_out(world, Icmp{.rest = 7 << 16});
    world.left(kGatewayPort, world.to_fip() / echo(kEchoReply), FL_REASON_LINUX_FLOW);
}

TEST_CASE("an echo between two floating IPs of the node comes back") {
    RouterWorld world;
    // The neighbour's packets come in by the same port, or by another router's.
    const std::uint32_t port = GENERATE(kRouterPort, kOtherRouterPort);
    world.set_port(kOtherRouterPort);
    world.set_turn(world.hairpin(), port);
    const Packet asked =
        Eth{.dst = world.qr_mac, .src = world.vm_mac} / Ip4{.src = world.fixed, .dst = world.neighbour_fip};
    const Packet answered =
        Eth{.dst = world.qr_mac, .src = world.neighbour_mac} / Ip4{.src = world.neighbour, .dst = world.fip};

    // Linux knows of a request that it has carried itself.
    world.left(port, answered / echo(kEchoReply), FL_REASON_LINUX_FLOW);
    check_sent(world.run(kRouterPort, asked / echo(kEcho)), kTcRedirect, FL_REASON_FIP_HAIRPIN,
               Eth{.dst = world.neighbour_mac, .src = world.qr_mac} /
                   Ip4{.src = world.fip, .dst = world.neighbour, .ttl = 63} / echo(kEcho));
    check_sent(world.run(port, answered / echo(kEchoReply)), kTcRedirect, FL_REASON_FIP_HAIRPIN,
               Eth{.dst = world.vm_mac, .src = world.qr_mac} /
                   Ip4{.src = world.neighbour_fip, .dst = world.fixed, .ttl = 63} / echo(kEchoReply));
    CHECK(world.flows() == 2);
    // An answer of whose request the row is gone belongs to Linux, until the next request.
    fl_flow_key answers = world.flow_key(kIcmp, kId, kId);
    answers.router = namespace_of(port);
    std::ranges::copy(world.neighbour.bytes(), answers.inside);
    std::ranges::copy(world.fip.bytes(), answers.outside);
    world.programs.erase("fl_flows", answers);
    world.left(port, answered / echo(kEchoReply), FL_REASON_LINUX_FLOW);
    CHECK(world.run(kRouterPort, asked / echo(kEcho)).reason == FL_REASON_FIP_HAIRPIN);
    CHECK(world.run(port, answered / echo(kEchoReply)).reason == FL_REASON_FIP_HAIRPIN);
}

TEST_CASE("a flow begins only where its answers have rows") {
    RouterWorld world;
    SECTION("from inside, without the floating IP's row") {
        fl_fip_key key{.segment = kGatewayPort, .fip = {}};
        std::ranges::copy(world.fip.bytes(), key.fip);
        world.programs.erase("fl_fip_in", key);
        world.left(kRouterPort, world.from_vm() / udp_out(), FL_REASON_LINUX_FLOW);
    }
    SECTION("from outside, without the VM's row, or with one that carries nothing") {
        world.set_host(world.fixed, world.fip, GENERATE(0, 9));
        world.left(kGatewayPort, world.to_fip() / udp_in(), FL_REASON_LINUX_FLOW);
    }
    SECTION("from outside, where the VM has another floating IP") {
        world.set_host(world.fixed, world.neighbour_fip);
        world.left(kGatewayPort, world.to_fip() / udp_in(), FL_REASON_LINUX_FLOW);
    }
    SECTION("between floating IPs, where the other one's way back is missing") {
        world.set_dest(world.neighbour_fip, world.hairpin());
        const Packet packet = Eth{.dst = world.qr_mac, .src = world.vm_mac} /
                              Ip4{.src = world.fixed, .dst = world.neighbour_fip} / udp_out();
        world.left(kRouterPort, packet, FL_REASON_LINUX_FLOW);
    }
    CHECK(world.flows() == 0);
}

TEST_CASE("a SYN or an echo asks for its answers' rows again") {
    RouterWorld world;
    const Way way = GENERATE(Way{kTcp, tcp_out(kSyn), tcp_in(kSyn)}, Way{kIcmp, echo(kEcho), echo(kEcho)});
    const fl_flow_key key = world.flow_key(way.protocol, way.inside_port(), way.outside_port());
    world.remember(key, world.fip);
    const auto left = [&](std::uint32_t port, const Packet& packet) {
        check_left(FL_HOOK_TC_ROUTER,
                   world.programs.run(FL_HOOK_TC_ROUTER, packet.bytes(), {.device = port, .once = true}),
                   FL_REASON_LINUX_FLOW, packet.bytes());
        CHECK_FALSE(world.flow(key));
    };
    SECTION("and is carried with them") {
        goes_out(world, way.out);
        CHECK(world.flow(key));
    }
    SECTION("from inside, without the floating IP's row") {
        fl_fip_key gone{.segment = kGatewayPort, .fip = {}};
        std::ranges::copy(world.fip.bytes(), gone.fip);
        world.programs.erase("fl_fip_in", gone);
        left(kRouterPort, world.from_vm() / way.out);
    }
    SECTION("from inside, where a rule names who answers by now") {
        world.except(world.client);
        left(kRouterPort, world.from_vm() / way.out);
    }
    SECTION("from outside, without the VM's row") {
        world.set_host(world.fixed, world.fip, 0);
        left(kGatewayPort, world.to_fip() / way.in);
    }
}

TEST_CASE("a SYN makes of an old connection's row a new one's") {
    RouterWorld world;
    const fl_flow_key key = world.flow_key(kTcp, kInside, kOutside);
    goes_out(world, tcp_out());
    comes_in(world, tcp_in());
    goes_out(world, tcp_out(kFin | kAck));
    check_row(world, key, FL_FLOW_FROM_INSIDE | FL_FLOW_CLOSING, world.fip);
    comes_in(world, tcp_in(kSyn));
    check_row(world, key, FL_FLOW_UNANSWERED, world.fip);
}

TEST_CASE("sources that Linux has to look at") {
    RouterWorld world;
    SECTION("are those that have a row") {
        world.except(world.client);
        world.left(kGatewayPort, world.to_fip() / udp_in(), FL_REASON_NO_DEST);
        // Their answers would be Linux's, so what asks them is.
        world.left(kRouterPort, world.from_vm() / udp_out(), FL_REASON_LINUX_FLOW);
    }
    SECTION("and no others") {
        world.except({world.client.value ^ 1});
        comes_in(world, udp_in());
        goes_out(world, udp_out());
    }
}

TEST_CASE("an ICMP error belongs to the flow that it quotes") {
    RouterWorld world;
    const Icmp icmp{.type = GENERATE(kUnreachable, kTimeExceeded), .code = 1, .rest = 0};
    // The quoted packet went the other way.
    const Way way = GENERATE(tcp(), udp(), Way{kIcmp, echo(kEcho), echo(kEcho)});
    const auto quoted = [](Ipv4 from, Ipv4 to, const Packet& body) {
        return quote(Ip4{.src = from, .dst = to, .ttl = 3} / body, 28);
    };
    const fl_flow_key key = world.flow_key(way.protocol, way.inside_port(), way.outside_port());

    SECTION("from outside") {
        const Packet sent = world.to_fip() / icmp / quoted(world.fip, world.client, way.out);
        world.left(kGatewayPort, sent, FL_REASON_LINUX_FLOW);
        world.remember(key, world.fip);
        check_sent(world.run(kGatewayPort, sent), kTcRedirect, FL_REASON_FIP_IN,
                   world.to_vm() / icmp / quoted(world.fixed, world.client, way.out));
        check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip);
    }
    SECTION("from inside") {
        const Packet sent = world.from_vm() / icmp / quoted(world.client, world.fixed, way.in);
        world.left(kRouterPort, sent, FL_REASON_LINUX_FLOW);
        world.remember(key, world.fip);
        check_sent(world.run(kRouterPort, sent), kTcRedirect, FL_REASON_FIP_OUT,
                   world.from_fip() / icmp / quoted(world.client, world.fip, way.in));
        check_row(world, key, FL_FLOW_FROM_INSIDE, world.fip);
    }
    SECTION("which one that differs is not") {
        fl_flow_key other = key;
        SECTION("in its port or id inside") {
            ++other.inside_port;
        }
        SECTION("in its port or id outside") {
            ++other.outside_port;
        }
        SECTION("in its router") {
            other.router = namespace_of(kGatewayPort);
        }
        world.remember(other, world.fip);
        world.left(kGatewayPort, world.to_fip() / icmp / quoted(world.fip, world.client, way.out),
                   FL_REASON_LINUX_FLOW);
        world.left(kRouterPort, world.from_vm() / icmp / quoted(world.client, world.fixed, way.in),
                   FL_REASON_LINUX_FLOW);
        CHECK(world.flows() == 1);
    }
}

TEST_CASE("an ICMP error that Linux must judge leaves the flow where it is") {
    RouterWorld world;
    world.remember(world.flow_key(kUdp, kInside, kOutside), world.fip);
    const Icmp icmp{.type = kUnreachable, .code = 1, .rest = 0};
    // A packet that the floating IP has not sent.
    const auto lie = quote(Ip4{.src = world.neighbour_fip, .dst = world.client} / udp_out(), 28);
    world.left(kGatewayPort, world.to_fip() / icmp / lie, FL_REASON_ICMP_INNER);
    const auto options = quote(Ip4{.src = world.fip, .dst = world.client, .options = Bytes(4, 1)} / udp_out(), 36);
    world.left(kGatewayPort, world.to_fip() / icmp / options, FL_REASON_LINUX_FLOW);
    CHECK(world.flows() == 1);
}
