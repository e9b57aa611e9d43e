// SPDX-License-Identifier: Apache-2.0
// The node of a legacy router: what VMs on other nodes send through it, by the tunnel of their network.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

fl_hook underlay_hook() {
    return GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
}

/// The VM behind node b has floating IP 172.24.5.13; one hop to the client, which is behind node b, too.
struct RouterNode : World {
    Ipv4 remote_fip = ip("172.24.5.13");

    explicit RouterNode(fl_tunnel_type type = FL_TUNNEL_VXLAN, std::uint32_t flags = FL_SRC_ROUTED) : World(type) {
        programs.put_fip_stat_row(fip_stat_key(remote_fip));
        set_vm(tunnel_device(kTenant), remote, remote_mac, remote_fip);
        set_vm(kThisDevice, remote, remote_mac, remote_fip);
        put_tunnel(kTenantVni, peer_vtep, tunnel_row(kTenant, tunnel_device(kTenant), flags));
        fl_next out = next_to_client();
        out.hops = 1;
        out.out.ifindex = kThisDevice;
        set_dest(client, out);
    }

    [[nodiscard]] Packet question(const Packet& body, std::uint8_t ttl = 64) const {
        return Eth{.dst = qr_mac, .src = remote_mac} / Ip4{.src = remote, .dst = client, .ttl = ttl} / body;
    }

    [[nodiscard]] Packet translated(const Packet& body, std::uint8_t ttl = 63) const {
        return Eth{.dst = client_mac, .src = fg_mac} / Ip4{.src = remote_fip, .dst = client, .ttl = ttl} / body;
    }
};

Packet udp() {
    return Udp{.src = 5000, .dst = 53} / Payload{"from elsewhere"};
}

}  // namespace

TEST_CASE("out of a remote VM, through the router here, into the external network's tunnel") {
    const fl_tunnel_type type = GENERATE(FL_TUNNEL_VXLAN, FL_TUNNEL_GRE);
    RouterNode node(type);
    SECTION("on the underlay, in place") {
        const fl_hook hook = underlay_hook();
        const auto result = node.programs.run(hook, node.from_peer(kTenantVni, node.question(udp())).bytes());
        check_sent(result, sent_back(hook), FL_REASON_FIP_OUT, node.to_peer(kExternalVni, node.translated(udp())));
        CHECK(node.programs.fip_stat(fip_stat_key(node.remote_fip)).out_packets == 2);  // run() runs both variants
    }
    SECTION("behind the tunnel device") {
        node.on_tunnel(kTenant, FL_SRC_ROUTED);
        const Packet body = Tcp{.dst = 443, .flags = 0x10} / Payload{"GET /"};
        check_sent(node.programs.run(FL_HOOK_TC_TUNNEL, node.question(body).bytes()), kTcRedirect, FL_REASON_FIP_OUT,
                   node.to_peer(kExternalVni, node.translated(body)));
    }
}

TEST_CASE("TCP of a remote VM goes from wire to wire in XDP, and by the tunnel device at tc") {
    RouterNode node;
    const Packet body = Tcp{.dst = 443, .flags = 0x10} / Payload{"GET /"};
    const Bytes frame = node.from_peer(kTenantVni, node.question(body)).bytes();
    check_sent(node.programs.run(FL_HOOK_XDP_UNDERLAY, frame), kXdpTx, FL_REASON_FIP_OUT,
               node.to_peer(kExternalVni, node.translated(body)));
    check_left(FL_HOOK_TC_UNDERLAY, node.programs.run(FL_HOOK_TC_UNDERLAY, frame), FL_REASON_TO_TUNNEL_DEV, frame);
}

TEST_CASE("a remote VM reaches the floating IP of a VM here, with its own as the sender") {
    RouterNode node;
    fl_next turn = node.next_to_vm();
    turn.hops = 1;
    turn.flags = FL_NEXT_SNAT | FL_NEXT_HAIRPIN;
    node.set_dest(node.fip, turn);
    const fl_hook hook = underlay_hook();
    const Packet question = Eth{.dst = node.qr_mac, .src = node.remote_mac} / Ip4{.src = node.remote, .dst = node.fip};
    const Packet expected =
        Eth{.dst = node.vm_mac, .src = node.qr_mac} / Ip4{.src = node.remote_fip, .dst = node.fixed, .ttl = 63};
    const auto result = node.programs.run(hook, node.from_peer(kTenantVni, question / udp()).bytes());
    check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_FIP_HAIRPIN, expected / udp());
}

TEST_CASE("a remote VM reaches another network of its router") {
    RouterNode node;
    fl_next routed = node.next_to_vm();
    routed.hops = 1;
    routed.dnat[0] = routed.dnat[1] = routed.dnat[2] = routed.dnat[3] = 0;
    node.set_dest(node.neighbour, routed);
    const fl_hook hook = underlay_hook();
    const Packet question =
        Eth{.dst = node.qr_mac, .src = node.remote_mac} / Ip4{.src = node.remote, .dst = node.neighbour};
    const Packet expected =
        Eth{.dst = node.vm_mac, .src = node.qr_mac} / Ip4{.src = node.remote, .dst = node.neighbour, .ttl = 63};
    const auto result = node.programs.run(hook, node.from_peer(kTenantVni, question / udp()).bytes());
    check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_ROUTED, expected / udp());
}

TEST_CASE("what the router here does not serve is left to Linux") {
    RouterNode node;
    Packet packet = node.question(udp());
    SECTION("another sender's MAC") {
        packet =
            Eth{.dst = node.qr_mac, .src = node.neighbour_mac} / Ip4{.src = node.remote, .dst = node.client} / udp();
    }
    SECTION("another sender's address") {
        packet =
            Eth{.dst = node.qr_mac, .src = node.remote_mac} / Ip4{.src = node.neighbour, .dst = node.client} / udp();
    }
    SECTION("an expiring TTL") {
        packet = node.question(udp(), 1);
    }
    SECTION("an unknown destination") {
        packet =
            Eth{.dst = node.qr_mac, .src = node.remote_mac} / Ip4{.src = node.remote, .dst = ip("192.0.2.1")} / udp();
    }
    SECTION("another network's tunnel") {
        const Bytes frame = node.from_peer(kExternalVni, packet).bytes();
        const auto result = node.programs.run(FL_HOOK_TC_UNDERLAY, frame);
        check_left(FL_HOOK_TC_UNDERLAY, result, FL_REASON_TO_TUNNEL_DEV, frame);
        return;
    }
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(node, hook, node.from_peer(kTenantVni, packet), FL_REASON_TO_ROUTER);
}

TEST_CASE("tunnels without the mark are not asked for routers") {
    RouterNode node(FL_TUNNEL_VXLAN, 0);
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        expect_left(node, hook, node.from_peer(kTenantVni, node.question(udp())), FL_REASON_TO_ROUTER);
    node.on_tunnel(kTenant);
    expect_left(node, FL_HOOK_TC_TUNNEL, node.question(udp()), FL_REASON_TO_ROUTER);
}
