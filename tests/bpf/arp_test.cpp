// SPDX-License-Identifier: Apache-2.0
// ARP requests that this node answers, and everything about ARP that it does not.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <set>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

const Mac kBroadcast = mac("ff:ff:ff:ff:ff:ff");

struct Request {
    Eth eth;
    Arp arp;
    [[nodiscard]] Packet packet() const { return eth / arp; }
};

/// The client asks for the floating IP.
Request request_for_fip(const World& world) {
    return {.eth = {.dst = kBroadcast, .src = world.client_mac},
            .arp = {.operation = 1, .sender_mac = world.client_mac, .sender_ip = world.client, .target_ip = world.fip}};
}

/// The VM asks for its neighbour behind node b.
Request request_from_vm(const World& world) {
    return {.eth = {.dst = kBroadcast, .src = world.vm_mac},
            .arp = {.operation = 1, .sender_mac = world.vm_mac, .sender_ip = world.fixed, .target_ip = world.remote}};
}

/// The outer source port of the answer to a question that came with this one.
std::uint16_t answered_from(const World& world, std::uint16_t port) {
    const Packet packet = Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} /
                          Ip4{.src = world.peer_vtep, .dst = world.vtep} /
                          Udp{.src = port, .dst = 4789, .checksum = 0} / Vxlan{.vni = kExternalVni} /
                          request_for_fip(world).packet();
    const auto result = world.programs.run(FL_HOOK_TC_UNDERLAY, packet.bytes());
    check_sent(result, kTcRedirect, FL_REASON_ARP_REPLY, world.to_peer(kExternalVni, world.fip_is_at()));
    return word_at(result.frame, 34);
}

}  // namespace

TEST_CASE("a request from a tunnel is answered into the tunnel") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    const std::size_t padding = GENERATE(0UL, 18UL);
    const Packet packet = request_for_fip(world).packet().with(Payload(Bytes(padding, 0)));
    const auto result = world.programs.run(hook, world.from_peer(kExternalVni, packet).bytes());
    check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpTx : kTcRedirect, FL_REASON_ARP_REPLY,
               world.to_peer(kExternalVni, world.fip_is_at()));
}

TEST_CASE("a request on a plain hook is answered there, without padding") {
    World world;
    const std::size_t padding = GENERATE(0UL, 18UL);
    const Packet packet = request_for_fip(world).packet().with(Payload(Bytes(padding, 0)));
    const fl_hook hook = GENERATE(FL_HOOK_TC_TUNNEL, FL_HOOK_TC_HOST);
    hook == FL_HOOK_TC_TUNNEL ? world.on_tunnel(kExternal) : world.on_host(kExternal);
    check_sent(world.programs.run(hook, packet.bytes()), kTcRedirect, FL_REASON_ARP_REPLY, world.fip_is_at());
}

TEST_CASE("a VM's request for a remote neighbour is answered at its port") {
    World world;
    world.on_port();
    const Packet expected = Eth{.dst = world.vm_mac, .src = world.remote_mac} / Arp{.operation = 2,
                                                                                    .sender_mac = world.remote_mac,
                                                                                    .sender_ip = world.remote,
                                                                                    .target_mac = world.vm_mac,
                                                                                    .target_ip = world.fixed};
    const auto result = world.programs.run(FL_HOOK_TC_PORT, request_from_vm(world).packet().bytes());
    check_sent(result, kTcRedirect, FL_REASON_ARP_REPLY, expected);
}

TEST_CASE("skb->csum is right in an answer") {
    World world;
    const bool plain = GENERATE(true, false);
    // Without padding: trimming makes the packet CHECKSUM_NONE, and the test run would compare a dead skb->csum.
    const Packet packet = request_for_fip(world).packet();
    world.on_tunnel(kExternal);
    REQUIRE_CHECKSUM_COMPLETE(world.programs);
    const RunOptions complete{.checksum_complete = true};
    if (plain) {
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes(), complete), kTcRedirect, FL_REASON_ARP_REPLY,
                   world.fip_is_at());
    } else {
        check_sent(world.programs.run(FL_HOOK_TC_UNDERLAY, world.from_peer(kExternalVni, packet).bytes(), complete),
                   kTcRedirect, FL_REASON_ARP_REPLY, world.to_peer(kExternalVni, world.fip_is_at()));
    }
}

TEST_CASE("a router whose answers do not cross tunnels is asked from one") {
    World world;
    const Packet request = request_for_fip(world).packet();
    fl_arp_key key{.segment = kExternal, .ip = {}};
    std::ranges::copy(world.fip.bytes(), key.ip);
    fl_arp row{.mac = {}, .flags = FL_ARP_NO_TUNNEL, .pad = 0};
    std::ranges::copy(world.fg_mac.bytes, row.mac);
    world.programs.put("fl_arp", key, row);
    world.on_tunnel(kExternal);
    SECTION("Linux floods the question and swallows the answer") {
        expect_left(world, FL_HOOK_TC_TUNNEL, request, FL_REASON_ARP_OTHER);
        for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
            expect_left(world, hook, world.from_peer(kExternalVni, request), FL_REASON_ARP_OTHER);
    }
    SECTION("others on the segment are answered") {
        world.on_host(kExternal);
        check_sent(world.programs.run(FL_HOOK_TC_HOST, request.bytes()), kTcRedirect, FL_REASON_ARP_REPLY,
                   world.fip_is_at());
    }
}

TEST_CASE("an answer into a tunnel keeps a source port that Linux could have chosen, and no other") {
    World world;
    const std::uint16_t port = GENERATE(std::uint16_t{0}, std::uint16_t{53}, std::uint16_t{32767}, std::uint16_t{32768},
                                        std::uint16_t{60998}, std::uint16_t{60999}, std::uint16_t{65535});
    const std::uint16_t sent = answered_from(world, port);
    if (port >= 32768 && port <= 60998) {
        CHECK(sent == port);
    } else {
        CHECK((sent >= 32768 && sent <= 60998));
    }
}

TEST_CASE("ports that an answer cannot keep become many others") {
    World world;
    std::set<std::uint16_t> ports;
    for (std::uint16_t port = 1; port <= 50; ++port)
        ports.insert(answered_from(world, port));
    CHECK(ports.size() > 25);
}

TEST_CASE("a unicast request is answered for the MAC that it was sent to") {
    World world;
    world.on_tunnel(kExternal);
    Request request = request_for_fip(world);
    SECTION("the answer's own") {
        request.eth.dst = world.fg_mac;
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, request.packet().bytes()), kTcRedirect, FL_REASON_ARP_REPLY,
                   world.fip_is_at());
    }
    SECTION("another") {
        request.eth.dst = world.vm_mac;
        world.set_fdb(kExternal, world.vm_mac, world.port_out(kVmPort));
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, request.packet().bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
                   request.packet());
    }
}

TEST_CASE("requests that are not answered") {
    World world;
    Request request = request_for_fip(world);
    SECTION("an address that nobody here owns") {
        request.arp.target_ip = world.neighbour_fip;
    }
    SECTION("a probe") {
        request.arp.sender_ip = {};
    }
    SECTION("gratuitous") {
        request.arp.sender_ip = world.fip;
    }
    SECTION("a reply") {
        request.arp.operation = 2;
    }
    SECTION("RARP") {
        request.arp.operation = 3;
    }
    SECTION("not Ethernet") {
        request.arp.hardware = 6;
    }
    SECTION("not IPv4") {
        request.arp.protocol = 0x86dd;
    }
    SECTION("hardware address length") {
        request.arp.hardware_length = 8;
    }
    SECTION("protocol address length") {
        request.arp.protocol_length = 16;
    }
    SECTION("a sender that is not the frame's") {
        request.arp.sender_mac = world.vm_mac;
    }
    SECTION("a multicast sender") {
        request.arp.sender_ip = ip("224.0.0.1");
    }
    SECTION("to a multicast MAC") {
        request.eth.dst = mac("01:00:5e:00:00:01");
    }
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(world, hook, world.from_peer(kExternalVni, request.packet()), FL_REASON_ARP_OTHER);
    world.on_tunnel(kExternal);
    expect_left(world, FL_HOOK_TC_TUNNEL, request.packet(), FL_REASON_ARP_OTHER);
}

TEST_CASE("ARP that ends too early") {
    World world;
    world.on_tunnel(kExternal);
    Bytes frame = request_for_fip(world).packet().bytes();
    frame.resize(41);
    expect_left(world, FL_HOOK_TC_TUNNEL, Payload(frame), FL_REASON_SHORT_FRAME);
}

TEST_CASE("unicast ARP for a router is Linux's") {
    World world;
    world.on_tunnel(kExternal);
    const Packet packet = Eth{.dst = world.fg_mac, .src = world.client_mac} / Arp{.operation = 2,
                                                                                  .sender_mac = world.client_mac,
                                                                                  .sender_ip = world.client,
                                                                                  .target_mac = world.fg_mac,
                                                                                  .target_ip = world.fip};
    expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_ARP_OTHER);
}

TEST_CASE("a unicast reply is forwarded by its MAC") {
    World world;
    world.on_tunnel(kTenant);
    const Packet packet = Eth{.dst = world.vm_mac, .src = world.remote_mac} / Arp{.operation = 2,
                                                                                  .sender_mac = world.remote_mac,
                                                                                  .sender_ip = world.remote,
                                                                                  .target_mac = world.vm_mac,
                                                                                  .target_ip = world.fixed};
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(world, hook, world.from_peer(kTenantVni, packet), FL_REASON_TO_TUNNEL_DEV);
}

TEST_CASE("ARP of a VM port") {
    World world;
    world.on_port();
    Request request = request_from_vm(world);
    SECTION("for its own address is a conflict probe, which only another owner may answer") {
        world.set_arp(kTenant, world.fixed, world.remote_mac);
        request.arp.target_ip = world.fixed;
        request.arp.sender_ip = {};
        expect_left(world, FL_HOOK_TC_PORT, request.packet(), FL_REASON_ARP_OTHER);
        request.arp.sender_ip = world.fixed;
        expect_left(world, FL_HOOK_TC_PORT, request.packet(), FL_REASON_ARP_OTHER);
    }
    SECTION("with a sender that is not its own") {
        request.arp.sender_ip = world.neighbour;
        expect_left(world, FL_HOOK_TC_PORT, request.packet(), FL_REASON_NOT_OWN_ADDRESS);
    }
    SECTION("with a sender MAC that is not its own") {
        request.arp.sender_mac = world.neighbour_mac;
        expect_left(world, FL_HOOK_TC_PORT, request.packet(), FL_REASON_NOT_OWN_ADDRESS);
    }
    SECTION("with a frame source that is not its own") {
        request.eth.src = world.neighbour_mac;
        expect_left(world, FL_HOOK_TC_PORT, request.packet(), FL_REASON_NOT_OWN_ADDRESS);
    }
    SECTION("of a port without the check, with a sender that is another's") {
        world.on_unchecked_port();
        request.eth.src = request.arp.sender_mac = world.neighbour_mac;
        request.arp.sender_ip = world.neighbour;
        const Packet answer =
            Eth{.dst = world.neighbour_mac, .src = world.remote_mac} / Arp{.operation = 2,
                                                                           .sender_mac = world.remote_mac,
                                                                           .sender_ip = world.remote,
                                                                           .target_mac = world.neighbour_mac,
                                                                           .target_ip = world.neighbour};
        check_sent(world.programs.run(FL_HOOK_TC_PORT, request.packet().bytes()), kTcRedirect, FL_REASON_ARP_REPLY,
                   answer);
    }
}
