// SPDX-License-Identifier: Apache-2.0
// Packets of hosts behind another router, addressed to a router of this node: nothing is translated.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

/// The client's router behind node b sends for 10.9.0.0/16 to the router port fg- of this node, which leads to the VM.
struct Transit : World {
    Ipv4 sender = ip("10.9.0.7");

    Transit() {
        set_senders(kExternal, fg_mac, {ip("10.9.0.0"), 16});
        set_dest(fixed, routed(next_to_vm()));
        set_fip_in(next_to_vm());
    }

    [[nodiscard]] static fl_next routed(fl_next next) {
        std::ranges::fill(next.dnat, 0);
        next.hops = 1;
        return next;
    }

    [[nodiscard]] Packet question(Ipv4 source, Ipv4 destination, std::uint8_t ttl = 64) const {
        return Eth{.dst = fg_mac, .src = client_mac} / Ip4{.src = source, .dst = destination, .ttl = ttl} / udp();
    }

    [[nodiscard]] Packet arrived() const {
        return Eth{.dst = vm_mac, .src = qr_mac} / Ip4{.src = sender, .dst = fixed, .ttl = 63} / udp();
    }

    static Packet udp() { return Udp{.src = 5000, .dst = 53} / Payload{"from beyond"}; }
};

}  // namespace

TEST_CASE("who is behind another router reaches a VM by its own address") {
    Transit world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    const Packet packet = world.from_peer(kExternalVni, world.question(world.sender, world.fixed));
    check_sent(world.programs.run(hook, packet.bytes()), hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect,
               FL_REASON_ROUTED, world.arrived());
}

TEST_CASE("behind a tunnel or VLAN device it is the same") {
    Transit world;
    world.on_tunnel(kExternal);
    const Packet packet = world.question(world.sender, world.fixed);
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_ROUTED, world.arrived());
}

TEST_CASE("from one router behind a tunnel to another, in place") {
    Transit world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
    fl_next next = Transit::routed(world.next_to_client());
    next.flags = 0;
    next.out.ifindex = kThisDevice;
    world.set_dest(ip("203.0.113.5"), next);
    const Packet expected = Eth{.dst = world.client_mac, .src = world.fg_mac} /
                            Ip4{.src = world.sender, .dst = ip("203.0.113.5"), .ttl = 63} / Transit::udp();
    const Packet packet = world.from_peer(kExternalVni, world.question(world.sender, ip("203.0.113.5")));
    check_sent(world.programs.run(hook, packet.bytes()), sent_back(hook), FL_REASON_ROUTED,
               world.to_peer(kExternalVni, expected));
}

TEST_CASE("which senders are routed, the longest prefix says") {
    Transit world;
    world.on_tunnel(kExternal);
    const auto left = [&](const char* source, fl_reason reason) {
        expect_left(world, FL_HOOK_TC_TUNNEL, world.question(ip(source), world.fixed), reason);
    };
    SECTION("nobody else") {
        left("10.8.255.255", FL_REASON_TO_ROUTER);
        left("10.10.0.0", FL_REASON_TO_ROUTER);
    }
    SECTION("not those that the router's rules know") {
        world.set_senders(kExternal, world.fg_mac, {ip("10.9.0.7"), 32}, 0);
        left("10.9.0.7", FL_REASON_TO_ROUTER);
        const Packet expected = Eth{.dst = world.vm_mac, .src = world.qr_mac} /
                                Ip4{.src = ip("10.9.0.8"), .dst = world.fixed, .ttl = 63} / Transit::udp();
        check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, world.question(ip("10.9.0.8"), world.fixed).bytes()),
                   kTcRedirect, FL_REASON_ROUTED, expected);
    }
    SECTION("not for another router of the segment") {
        const Mac other = mac("fa:16:3e:00:00:fa");
        world.set_fdb(kExternal, other, world.router_out());
        expect_left(
            world, FL_HOOK_TC_TUNNEL,
            Eth{.dst = other, .src = world.client_mac} / Ip4{.src = world.sender, .dst = world.fixed} / Transit::udp(),
            FL_REASON_TO_ROUTER);
    }
    SECTION("nor in another segment") {
        world.set_fdb(kTenant, world.fg_mac, world.router_out());
        world.on_tunnel(kTenant);
        left("10.9.0.7", FL_REASON_TO_ROUTER);
    }
    SECTION("never a source that Linux takes for a martian") {
        world.set_senders(kExternal, world.fg_mac, {ip("0.0.0.0"), 0});
        left("127.0.0.1", FL_REASON_HOST_SOURCE);
        left("224.0.0.5", FL_REASON_HOST_SOURCE);
    }
}

TEST_CASE("a sender's packet meets what every routed packet meets") {
    Transit world;
    world.on_tunnel(kExternal);
    const auto left = [&](const Packet& packet, fl_reason reason) {
        expect_left(world, FL_HOOK_TC_TUNNEL, packet, reason);
    };
    left(world.question(world.sender, ip("10.1.0.99")), FL_REASON_NO_DEST);
    left(world.question(world.sender, world.fixed, 1), FL_REASON_TTL);
    left(Eth{.dst = world.fg_mac, .src = world.client_mac} /
             Ip4{.src = world.sender, .dst = world.fixed, .checksum = 0x1234} / Transit::udp(),
         FL_REASON_BAD_IP_HEADER);
}

TEST_CASE("a floating IP's packets go its way, whoever sends them") {
    Transit world;
    world.on_tunnel(kExternal);
    const Packet expected = Eth{.dst = world.vm_mac, .src = world.qr_mac} /
                            Ip4{.src = world.sender, .dst = world.fixed, .ttl = 62} / Transit::udp();
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, world.question(world.sender, world.fip).bytes()), kTcRedirect,
               FL_REASON_FIP_IN, expected);
}

TEST_CASE("what is not addressed to a router is forwarded, whoever sends it") {
    Transit world;
    world.on_tunnel(kTenant);
    world.set_senders(kTenant, world.vm_mac, {ip("10.9.0.0"), 16});
    const Packet packet = Eth{.dst = world.vm_mac, .src = world.remote_mac} /
                          Ip4{.src = world.sender, .dst = world.client} / Transit::udp();
    check_sent(world.programs.run(FL_HOOK_TC_TUNNEL, packet.bytes()), kTcRedirect, FL_REASON_L2_FORWARD, packet);
}
