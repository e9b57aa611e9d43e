// SPDX-License-Identifier: Apache-2.0
// Packets for a floating IP at every hook where they can enter.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

Packet udp_body() {
    return Udp{.dst = 5353} / Payload{"which floating IP is this?"};
}

}  // namespace

TEST_CASE("tc on the underlay takes the outer header off, translates and delivers") {
    World world;
    const auto result =
        world.programs.run(FL_HOOK_TC_UNDERLAY, world.from_peer(kExternalVni, world.to_fip() / udp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / udp_body());
}

TEST_CASE("tc on the underlay keeps skb->csum right when it takes the outer header off") {
    World world;
    const Packet packet = world.from_peer(kExternalVni, world.to_fip() / udp_body());
    REQUIRE_CHECKSUM_COMPLETE(world.programs);
    const auto result = world.programs.run(FL_HOOK_TC_UNDERLAY, packet.bytes(), {.checksum_complete = true});
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / udp_body());
}

TEST_CASE("tc on the tunnel device translates what the kernel has decapsulated") {
    World world;
    world.on_tunnel(kExternal);
    const Packet body = Tcp{.dst = 22, .flags = 0x18} / Payload{"SSH-2.0"};
    const auto result = world.programs.run(FL_HOOK_TC_TUNNEL, (world.to_fip() / body).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / body);
}

TEST_CASE("a port of the external segment and the host itself reach a floating IP, too") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_TC_PORT, FL_HOOK_TC_HOST);
    world.on_host(kExternal);
    if (hook == FL_HOOK_TC_PORT) {
        world.on_external_port();
    }
    const auto result = world.programs.run(hook, (world.to_fip() / udp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / udp_body());
}

TEST_CASE("a port in another namespace is reached through its peer") {
    World world;
    fl_next next = world.next_to_vm();
    next.out.flags = FL_OUT_PEER;
    world.set_fip_in(next);
    const auto result =
        world.programs.run(FL_HOOK_TC_UNDERLAY, world.from_peer(kExternalVni, world.to_fip() / udp_body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm() / udp_body());
}

TEST_CASE("XDP hands a finished frame up with its destination in the metadata") {
    World world;
    fl_next next = world.next_to_vm();
    const bool host = GENERATE(false, true);
    if (host) next.out = world.host_out();
    next.out.flags = FL_OUT_PEER;
    world.set_fip_in(next);
    const auto result =
        world.programs.run(FL_HOOK_XDP_UNDERLAY, world.from_peer(kExternalVni, world.to_fip() / udp_body()).bytes());
    check_sent(result, kXdpPass, FL_REASON_FIP_IN, world.to_vm() / udp_body());
    REQUIRE(result.meta);
    CHECK(result.meta->magic == FL_META_MAGIC);
    CHECK(result.meta->kind == (host ? FL_OUT_HOST : FL_OUT_PORT));
    CHECK(result.meta->ifindex == next.out.ifindex);
    CHECK(result.meta->flags == FL_OUT_PEER);
}

TEST_CASE("XDP redirects to a port that it may send to") {
    World world;
    fl_next next = world.next_to_vm();
    next.out.flags = FL_OUT_XDP;
    world.set_fip_in(next);
    const Bytes frame = world.from_peer(kExternalVni, world.to_fip() / udp_body()).bytes();

    SECTION("that is in fl_devs") {
        world.programs.put("fl_devs", kVmPort, kThisDevice);
        const auto result = world.programs.run(FL_HOOK_XDP_UNDERLAY, frame);
        check_sent(result, kXdpRedirect, FL_REASON_FIP_IN, world.to_vm() / udp_body());
        CHECK_FALSE(result.meta);
    }
    SECTION("and passes it up when the device is not there") {
        const auto result = world.programs.run(FL_HOOK_XDP_UNDERLAY, frame);
        check_sent(result, kXdpPass, FL_REASON_FIP_IN, world.to_vm() / udp_body());
        CHECK(result.meta);
    }
}

TEST_CASE("from tunnel to tunnel the outer header is replaced") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    fl_next next = world.next_to_vm();
    next.out = world.tunnel_out(kTenantVni);
    Ip4 fields;
    const std::uint8_t ecn = GENERATE(0, 1, 2, 3);
    fields.tos = static_cast<std::uint8_t>(0xb8 | ecn);
    const Bytes frame = world.from_peer(kExternalVni, world.to_fip(fields) / udp_body()).bytes();
    // RFC 6040: congestion experienced is not copied to the outer header.
    const std::uint8_t outer_ecn = ecn == 3 ? 2 : ecn;
    const Packet expected = world.to_peer(kTenantVni, world.to_vm(fields) / udp_body(), outer_ecn);

    SECTION("and the frame goes back out of the device that it came from") {
        next.out.ifindex = kThisDevice;
        world.set_fip_in(next);
        check_sent(world.programs.run(hook, frame), hook == FL_HOOK_XDP_UNDERLAY ? kXdpTx : kTcRedirect,
                   FL_REASON_FIP_IN, expected);
    }
    SECTION("or out of another one") {
        world.set_fip_in(next);
        world.programs.put("fl_devs", kUnderlay, kThisDevice);
        check_sent(world.programs.run(hook, frame), hook == FL_HOOK_XDP_UNDERLAY ? kXdpRedirect : kTcRedirect,
                   FL_REASON_FIP_IN, expected);
    }
}

TEST_CASE("XDP leaves to tc what goes out of a device that it has no redirect to") {
    World world;
    fl_next next = world.next_to_vm();
    next.out = world.tunnel_out(kTenantVni);
    world.set_fip_in(next);
    const Bytes frame = world.from_peer(kExternalVni, world.to_fip() / udp_body()).bytes();
    check_left(FL_HOOK_XDP_UNDERLAY, world.programs.run(FL_HOOK_XDP_UNDERLAY, frame), FL_REASON_TO_TC, frame);
}

TEST_CASE("TCP from a tunnel is decapsulated by the kernel's tunnel device") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    expect_left(world, hook, world.from_peer(kExternalVni, world.to_fip() / Tcp{} / Payload{"x"}),
                FL_REASON_TO_TUNNEL_DEV);
}

TEST_CASE("GSO packets from a tunnel are decapsulated by the kernel's tunnel device") {
    World world;
    expect_left(world, FL_HOOK_TC_UNDERLAY, world.from_peer(kExternalVni, world.to_fip() / udp_body()),
                FL_REASON_TO_TUNNEL_DEV, {.gso_size = 10});
}

TEST_CASE("a floating IP's packet for another MAC is not routed") {
    World world;
    world.on_tunnel(kExternal);
    const Packet packet =
        Eth{.dst = world.client_mac, .src = world.fg_mac} / Ip4{.src = world.client, .dst = world.fip} / udp_body();
    fl_out back = world.tunnel_out(kExternalVni);
    back.port = kThisDevice;
    world.set_fdb(kExternal, world.client_mac, back);
    expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_SAME_PORT);
}

TEST_CASE("a floating IP that is not in the tables is the router's business") {
    World world;
    world.on_tunnel(kExternal);
    const Packet packet = Eth{.dst = world.fg_mac, .src = world.client_mac} /
                          Ip4{.src = world.client, .dst = world.neighbour_fip} / udp_body();
    expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_TO_ROUTER);
}

TEST_CASE("per floating IP, packets and IPv4 bytes are counted where BPF carried them") {
    World world;
    world.on_tunnel(kExternal);
    const Bytes frame = (world.to_fip() / udp_body()).bytes();
    (void)world.programs.run(FL_HOOK_TC_TUNNEL, frame);
    const auto stat = world.programs.fip_stat(fip_stat_key(world.fip));
    CHECK(stat.in_packets == 2);  // run() runs both variants
    CHECK(stat.in_bytes == 2 * (frame.size() - 14));
    CHECK(stat.out_packets == 0);

    Ip4 dying;
    dying.ttl = 1;
    expect_left(world, FL_HOOK_TC_TUNNEL, world.to_fip(dying) / udp_body(), FL_REASON_TTL);
    CHECK(world.programs.fip_stat(fip_stat_key(world.fip)).in_packets == 2);
}

TEST_CASE("a used row is stamped with the time") {
    World world;
    world.on_tunnel(kExternal);
    fl_fip_key key{.segment = kExternal, .fip = {172, 24, 5, 11}};
    REQUIRE(world.programs.get<fl_fip_in>("fl_fip_in", key)->next.last_use == 0);
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    (void)world.programs.run(FL_HOOK_TC_TUNNEL, (world.to_fip() / udp_body()).bytes());
    const auto stamp = world.programs.get<fl_fip_in>("fl_fip_in", key)->next.last_use;
    CHECK(stamp >= now.tv_sec);
    CHECK(stamp <= now.tv_sec + 2);
}
