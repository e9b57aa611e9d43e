// SPDX-License-Identifier: Apache-2.0
// Packets that pass several nodes: what one node's program sends is what the next one's receives.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

/// A world with the tunnel's ends exchanged: this node is node b, where the client is a VM on port kVmPort.
struct NodeB : World {
    NodeB() {
        fl_config config{};
        config.layout = FL_ABI_LAYOUT;
        config.vxlan_port = 4789;
        copy_bytes(config.vtep, IpAddress(peer_vtep));
        programs.put("fl_config", std::uint32_t{0}, config);
        for (const auto& [vni, segment] : {std::pair{kExternalVni, kExternal}, {kTenantVni, kTenant}}) {
            fl_tunnel row = tunnel_row(segment, tunnel_device(segment));
            std::ranges::copy(peer_underlay_mac.bytes, row.mac);
            put_tunnel(vni, vtep, row);
        }
        programs.erase("fl_fip_in", fl_fip_key{.segment = kExternal, .fip = {172, 24, 5, 11}});
        set_fdb(kExternal, client_mac, port_out(kVmPort));
        fl_out back = tunnel_out(kExternalVni);
        copy_bytes(back.remote, IpAddress(vtep));
        std::swap(back.outer_dmac, back.outer_smac);
        set_fdb(kExternal, fg_mac, back);
    }
};

}  // namespace

TEST_CASE("a VM's packet reaches the client on the other node, and the answer comes back to the VM") {
    const Packet question = Udp{.src = 5000, .dst = 53} / Payload{"question"};
    const Packet answer = Udp{.src = 53, .dst = 5000} / Payload{"answer"};
    Bytes wire;
    {
        World node_a;
        node_a.on_port();
        const auto sent = node_a.programs.run(FL_HOOK_TC_PORT, (node_a.from_vm() / question).bytes());
        REQUIRE(sent.reason == FL_REASON_FIP_OUT);
        wire = sent.frame;
    }
    {
        NodeB node_b;
        const auto got = node_b.programs.run(FL_HOOK_TC_UNDERLAY, wire);
        check_sent(got, kTcRedirect, FL_REASON_L2_FORWARD, node_b.from_fip() / question);

        node_b.on_external_port();
        const auto back = node_b.programs.run(FL_HOOK_TC_PORT, (node_b.to_fip() / answer).bytes());
        REQUIRE(back.reason == FL_REASON_L2_FORWARD);
        wire = back.frame;
    }
    World node_a;
    check_sent(node_a.programs.run(FL_HOOK_TC_UNDERLAY, wire), kTcRedirect, FL_REASON_FIP_IN, node_a.to_vm() / answer);
    check_sent(node_a.programs.run(FL_HOOK_XDP_UNDERLAY, wire), kXdpPass, FL_REASON_FIP_IN, node_a.to_vm() / answer);
}

TEST_CASE("XDP and tc give the same frame, byte for byte") {
    World world;
    fl_next next = world.next_to_vm();
    next.out = world.tunnel_out(kTenantVni);
    next.out.ifindex = kThisDevice;
    world.set_fip_in(next);
    for (const Packet& body : {Packet(Udp{} / Payload{"same"}), Packet(Icmp{} / Payload::counting(99))}) {
        const Bytes frame = world.from_peer(kExternalVni, world.to_fip() / body).bytes();
        const auto xdp = world.programs.run(FL_HOOK_XDP_UNDERLAY, frame);
        const auto tc = world.programs.run(FL_HOOK_TC_UNDERLAY, frame);
        CHECK(xdp.action == kXdpTx);
        check_sent(tc, kTcRedirect, FL_REASON_FIP_IN, Payload(xdp.frame));
    }
}
