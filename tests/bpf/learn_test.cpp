// SPDX-License-Identifier: Apache-2.0
// What a bridge or a tunnel device would learn from a frame, it gets to see.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <ctime>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

Packet body() {
    return Udp{} / Payload{"learned"};
}

fl_out on(fl_out out, std::uint32_t port) {
    out.port = port;
    return out;
}

/// The MAC has a row, and frames from it by this port or through the tunnel teach nothing.
void check_fresh(const World& world, std::uint32_t segment, const Mac& address) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const auto stamp = world.last_use_of(segment, address);
    REQUIRE(stamp);
    CHECK(*stamp + 2 >= now.tv_sec);
    CHECK(*stamp <= now.tv_sec);
}

/// Both underlay programs know the tunnel of this segment as one that learns.
void learn_behind(World& world, std::uint32_t segment, std::uint32_t vni, std::uint32_t flags = FL_SRC_LEARNS) {
    world.put_tunnel(vni, world.peer_vtep, world.tunnel_row(segment, tunnel_device(segment), flags));
}

}  // namespace

TEST_CASE("on a port that learns a MAC that is known there is fast, and its row is stamped") {
    World world;
    world.on_learning_port();
    world.set_fdb(kTenant, world.vm_mac, world.port_out(kThisDevice));
    const Packet packet = world.vm_to_remote() / body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
               world.to_peer(kTenantVni, packet));
    check_fresh(world, kTenant, world.vm_mac);
    // What goes to a MAC keeps no entry of a bridge alive.
    CHECK(world.last_use_of(kTenant, world.remote_mac) == 0U);
}

TEST_CASE("a MAC whose own frames go elsewhere is known as a source all the same") {
    World world;
    world.on_learning_port();
    world.set_fdb(kTenant, world.vm_mac, on({}, kThisDevice));
    const Packet packet = world.vm_to_remote() / body();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
               world.to_peer(kTenantVni, packet));
    check_fresh(world, kTenant, world.vm_mac);
    world.set_fdb(kTenant, world.neighbour_mac, on({}, kNeighbourPort));
    expect_left(world, FL_HOOK_TC_PORT, Eth{.dst = world.neighbour_mac, .src = world.vm_mac} / Ip4{} / body(),
                FL_REASON_UNKNOWN_MAC);
}

TEST_CASE("a frame from a MAC that is not known on a port that learns is Linux's") {
    World world;
    world.on_learning_port();
    const auto where = GENERATE(0, 1, 2);
    if (where == 0) world.programs.erase("fl_fdb", fl_fdb_key{kTenant, {0xfa, 0x16, 0x3e, 0, 0, 5}, {}});
    if (where == 1) world.set_fdb(kTenant, world.vm_mac, world.port_out(kNeighbourPort));
    if (where == 2) world.set_fdb(kTenant, world.vm_mac, world.tunnel_out(kTenantVni));
    world.set_arp(kTenant, ip("10.1.0.1"), world.qr_mac);
    const Arp question{.sender_mac = world.vm_mac, .sender_ip = world.fixed, .target_ip = ip("10.1.0.1")};
    const Packet packet =
        GENERATE_COPY(Packet(world.vm_to_remote() / body()), Packet(world.from_vm() / body()),
                      Packet(Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.vm_mac} / question),
                      Packet(Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.vm_mac} / Ip4{} / body()),
                      Packet(Eth{.dst = world.remote_mac, .src = world.vm_mac} / Payload{"no IP"}));
    expect_left(world, FL_HOOK_TC_PORT, packet, FL_REASON_LEARN);
    if (where != 0) CHECK(world.last_use_of(kTenant, world.vm_mac) == 0U);
}

TEST_CASE("a frame behind a tunnel device that the bridge learns from") {
    World world;
    world.on_tunnel(kTenant, FL_SRC_LEARNS);
    const Packet packet = world.remote_to_vm() / body();
    SECTION("its MAC is known on another port") {
        expect_left(world, FL_HOOK_TC_TUNNEL, packet, FL_REASON_LEARN);
    }
    SECTION("or here") {
        world.set_fdb(kTenant, world.remote_mac, on(world.tunnel_out(kTenantVni), kThisDevice));
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
        check_fresh(world, kTenant, world.remote_mac);
    }
    SECTION("behind which peer the device has seen itself") {
        world.set_fdb(kTenant, world.remote_mac, on({}, kThisDevice));
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
    }
}

TEST_CASE("a frame to a floating IP teaches where its sender is, too") {
    World world;
    world.on_tunnel(kExternal, FL_SRC_LEARNS);
    expect_left(world, FL_HOOK_TC_TUNNEL, world.to_fip() / body(), FL_REASON_LEARN);
    world.set_fdb(kExternal, world.client_mac, on(world.tunnel_out(kExternalVni), kThisDevice));
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, (world.to_fip() / body()).bytes()), kTcRedirect, FL_REASON_FIP_IN,
               world.to_vm() / body());
    check_fresh(world, kExternal, world.client_mac);
}

TEST_CASE("a tunnel packet whose sender is known behind its peer is fast") {
    World world;
    learn_behind(world, kTenant, kTenantVni);
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    const Packet packet = world.remote_to_vm() / body();
    const auto result = world.programs.run(hook, world.from_peer(kTenantVni, packet).bytes());
    check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_L2_FORWARD, packet);
    check_fresh(world, kTenant, world.remote_mac);
}

TEST_CASE("a tunnel packet that the bridge or the tunnel device would learn from goes to the device") {
    World world;
    learn_behind(world, kTenant, kTenantVni);
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    const Packet packet = world.remote_to_vm() / body();
    const auto left = [&] {
        expect_left(world, hook, world.from_peer(kTenantVni, packet), FL_REASON_LEARN);
        CHECK(world.last_use_of(kTenant, world.remote_mac).value_or(0) == 0U);
    };
    SECTION("no row") {
        world.programs.erase("fl_fdb", fl_fdb_key{kTenant, {0xfa, 0x16, 0x3e, 0, 0, 6}, {}});
        left();
    }
    SECTION("on another port") {
        world.set_fdb(kTenant, world.remote_mac, world.port_out(kNeighbourPort));
        left();
    }
    SECTION("behind another peer") {
        fl_out elsewhere = world.tunnel_out(kTenantVni);
        elsewhere.remote[3] = 3;
        world.set_fdb(kTenant, world.remote_mac, elsewhere);
        left();
    }
    SECTION("behind a peer that is not known") {
        world.set_fdb(kTenant, world.remote_mac, on({}, tunnel_device(kTenant)));
        left();
    }
    SECTION("and so does an ARP question that would be answered") {
        world.set_fdb(kTenant, world.remote_mac, world.port_out(kNeighbourPort));
        world.set_arp(kTenant, world.fixed, world.vm_mac);
        const Arp question{.sender_mac = world.remote_mac, .sender_ip = world.remote, .target_ip = world.fixed};
        const Packet asked = Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.remote_mac} / question;
        expect_left(world, hook, world.from_peer(kTenantVni, asked), FL_REASON_LEARN);
    }
}

TEST_CASE("where Linux learns nothing no source is looked up") {
    World world;
    SECTION("a port") {
        world.on_unchecked_port();
        world.set_fdb(kTenant, world.vm_mac, world.port_out(kNeighbourPort));
        const Packet packet = world.vm_to_remote() / body();
        check_sent(world.programs.run(FL_HOOK_TC_PORT, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
                   world.to_peer(kTenantVni, packet));
        CHECK(world.last_use_of(kTenant, world.vm_mac) == 0U);
    }
    SECTION("a tunnel") {
        const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
        world.set_fdb(kTenant, world.remote_mac, world.port_out(kNeighbourPort));
        const Packet packet = world.remote_to_vm() / body();
        CHECK(world.programs.run(hook, world.from_peer(kTenantVni, packet).bytes()).reason == FL_REASON_L2_FORWARD);
        CHECK(world.last_use_of(kTenant, world.remote_mac) == 0U);
    }
}
