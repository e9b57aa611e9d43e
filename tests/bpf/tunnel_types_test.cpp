// SPDX-License-Identifier: Apache-2.0
// What each tunnel type does by itself: headers in both directions, relaying, isolated ports.
#include <sys/utsname.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstdio>
#include <utility>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

fl_tunnel_type any_type() {
    return GENERATE(FL_TUNNEL_VXLAN, FL_TUNNEL_GENEVE, FL_TUNNEL_GRE, FL_TUNNEL_VXLAN6);
}

fl_hook underlay_hook() {
    return GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY);
}

/// tc takes outer IPv6 headers off an IPv4 packet since Linux 6.3 (BPF_F_ADJ_ROOM_DECAP_L3_IPV4); before, it leaves
/// them to the kernel's tunnel device.
bool takes_headers_off(fl_tunnel_type type, fl_hook hook) {
    utsname system{};
    int major = 0, minor = 0;
    REQUIRE(uname(&system) == 0);
    REQUIRE(std::sscanf(system.release, "%d.%d", &major, &minor) == 2);
    return type != FL_TUNNEL_VXLAN6 || hook == FL_HOOK_XDP_UNDERLAY || std::pair(major, minor) >= std::pair(6, 3);
}

/// A packet for the floating IP comes to the VM.
void check_unwrapped(const World& world, fl_hook hook, const Bytes& frame, const Packet& payload) {
    const auto result = world.programs.run(hook, frame);
    if (takes_headers_off(world.tunnel, hook)) {
        check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_FIP_IN,
                   world.to_vm() / payload);
    } else {
        check_left(hook, result, FL_REASON_TO_TUNNEL_DEV, frame);
    }
}

Packet body() {
    return Udp{.src = 5000, .dst = 53} / Payload{"any tunnel"};
}

constexpr std::uint32_t kSpokeVni = 1002;

/// A second tunnel of the external segment: from node c, by a device of its own.
struct Hub : World {
    Ipv4 spoke = ip("10.0.0.3");
    Mac spoke_mac = mac("02:00:00:00:00:03");
    std::uint32_t spoke_device = 77;

    explicit Hub(fl_tunnel_type type, std::uint32_t flags = 0) : World(type) {
        put_tunnel(kSpokeVni, spoke, tunnel_row(kExternal, spoke_device, flags));
        fl_out out = tunnel_out(kExternalVni);
        out.ifindex = kThisDevice;
        set_fdb(kExternal, client_mac, out);
    }

    [[nodiscard]] Packet from_spoke(const Packet& inner) const {
        return Eth{.dst = underlay_mac, .src = spoke_mac} / (outer(spoke, vtep) / wrapped(kSpokeVni, inner));
    }

    [[nodiscard]] Packet to_client(const Packet& payload) const {
        return Eth{.dst = client_mac, .src = mac("fa:16:3e:00:00:c3")} / Ip4{.src = ip("172.24.4.3"), .dst = client} /
               payload;
    }
};

}  // namespace

TEST_CASE("a floating IP's packet is unwrapped, whatever it comes in") {
    World world(any_type());
    const fl_hook hook = underlay_hook();
    check_unwrapped(world, hook, world.from_peer(kExternalVni, world.to_fip() / body()).bytes(), body());
}

TEST_CASE("a VM's packet is wrapped as the kernel's device would") {
    World world(any_type());
    world.on_port();
    const std::uint8_t ecn = GENERATE(0, 1, 2, 3);
    const auto result = world.programs.run(FL_HOOK_TC_PORT, (world.from_vm({.tos = ecn}) / body()).bytes());
    check_sent(result, kTcRedirect, FL_REASON_FIP_OUT,
               world.to_peer(kExternalVni, world.from_fip({.tos = ecn}) / body(), ecn == 3 ? 2 : ecn));
}

TEST_CASE("an inner frame is as large as the path allows, whatever is put around it") {
    World world(any_type());
    world.on_port();
    const auto reason = [&](std::size_t payload) {
        return world.programs.run(FL_HOOK_TC_PORT, (world.from_vm() / Udp{} / Payload::counting(payload)).bytes())
            .reason;
    };
    CHECK(reason(kMtu - 28) == FL_REASON_FIP_OUT);
    CHECK(reason(kMtu - 27) == FL_REASON_MTU);
}

TEST_CASE("ARP that came through a tunnel is answered through it") {
    World world(any_type());
    const fl_hook hook = underlay_hook();
    const Packet request = world.who_has_fip();
    const Packet reply = world.fip_is_at();
    const auto result = world.programs.run(hook, world.from_peer(kExternalVni, request).bytes());
    check_sent(result, sent_back(hook), FL_REASON_ARP_REPLY, world.to_peer(kExternalVni, reply));
}

TEST_CASE("a hub sends from one tunnel to another, in place") {
    Hub hub(any_type());
    const fl_hook hook = underlay_hook();
    const Packet inner = hub.to_client(body());
    check_sent(hub.programs.run(hook, hub.from_spoke(inner).bytes()), sent_back(hook), FL_REASON_L2_FORWARD,
               hub.to_peer(kExternalVni, inner));
}

TEST_CASE("a hub behind the kernel's tunnel device wraps anew") {
    Hub hub(any_type());
    hub.on_tunnel(kExternal);
    const Packet inner = hub.to_client(Tcp{} / Payload{"bulk"});
    check_sent(hub.programs.run(FL_HOOK_TC_TUNNEL, inner.bytes()), kTcRedirect, FL_REASON_L2_FORWARD,
               hub.to_peer(kExternalVni, inner));
}

TEST_CASE("TCP from tunnel to tunnel takes XDP; behind GRO it is the tunnel device's") {
    Hub hub(any_type());
    const Packet inner = hub.to_client(Tcp{} / Payload{"bulk"});
    const Bytes frame = hub.from_spoke(inner).bytes();
    check_sent(hub.programs.run(FL_HOOK_XDP_UNDERLAY, frame), kXdpTx, FL_REASON_L2_FORWARD,
               hub.to_peer(kExternalVni, inner));
    check_left(FL_HOOK_TC_UNDERLAY, hub.programs.run(FL_HOOK_TC_UNDERLAY, frame), FL_REASON_TO_TUNNEL_DEV, frame);
}

TEST_CASE("between isolated ports of a bridge nothing is forwarded") {
    const fl_tunnel_type type = any_type();
    const bool from_isolated = GENERATE(false, true), to_isolated = GENERATE(false, true);
    Hub hub(type, from_isolated ? FL_SRC_ISOLATED : 0);
    fl_out out = hub.tunnel_out(kExternalVni);
    out.flags = to_isolated ? FL_OUT_ISOLATED : 0;
    hub.set_fdb(kExternal, hub.client_mac, out);
    hub.on_tunnel(kExternal, from_isolated ? FL_SRC_ISOLATED : 0);
    const Packet inner = hub.to_client(body());
    const bool refused = from_isolated && to_isolated;
    CHECK(hub.programs.run(FL_HOOK_TC_TUNNEL, inner.bytes()).reason ==
          (refused ? FL_REASON_SAME_PORT : FL_REASON_L2_FORWARD));
    if (refused) {
        expect_left(hub, FL_HOOK_TC_UNDERLAY, hub.from_spoke(inner), FL_REASON_SAME_PORT);
    } else {
        CHECK(hub.programs.run(FL_HOOK_TC_UNDERLAY, hub.from_spoke(inner).bytes()).reason == FL_REASON_L2_FORWARD);
    }
}

TEST_CASE("a packet is not turned from one header into another of a different length") {
    const auto [from, to] = GENERATE(table<fl_tunnel_type, fl_tunnel_type>({
        {FL_TUNNEL_GRE, FL_TUNNEL_VXLAN},
        {FL_TUNNEL_VXLAN, FL_TUNNEL_GRE},
        {FL_TUNNEL_VXLAN, FL_TUNNEL_VXLAN6},
        {FL_TUNNEL_VXLAN6, FL_TUNNEL_VXLAN},
    }));
    Hub hub(from);
    hub.tunnel = to;
    fl_out out = hub.tunnel_out(kExternalVni);
    out.ifindex = kThisDevice;
    hub.set_fdb(kExternal, hub.client_mac, out);
    hub.tunnel = from;
    const fl_hook hook = underlay_hook();
    expect_left(hub, hook, hub.from_spoke(hub.to_client(body())), FL_REASON_ENCAP_REFUSED);
}

TEST_CASE("an id is looked up as its own type's") {
    World world(FL_TUNNEL_GRE);
    const Packet inner = world.to_fip() / body();
    world.tunnel = FL_TUNNEL_VXLAN;
    const Bytes frame = world.from_peer(kExternalVni, inner).bytes();
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame), FL_REASON_UNKNOWN_PEER, frame);
}

TEST_CASE("a node without tunnels of a type leaves its packets alone") {
    World world(any_type());
    fl_config config{};
    config.layout = FL_ABI_LAYOUT;
    copy_bytes(config.vtep, world.end(world.vtep));
    const bool vxlan = world.tunnel == FL_TUNNEL_VXLAN || world.tunnel == FL_TUNNEL_VXLAN6;
    (vxlan ? config.geneve_port : config.vxlan_port) = vxlan ? 6081 : 4789;
    world.programs.put("fl_config", std::uint32_t{0}, config);
    const fl_hook hook = underlay_hook();
    const Bytes frame = world.from_peer(kExternalVni, world.to_fip() / body()).bytes();
    check_left(hook, world.programs.run(hook, frame), FL_REASON_NOT_OVERLAY, frame);
}

TEST_CASE("GRE that only Linux judges") {
    World world(FL_TUNNEL_GRE);
    Ip4 outer{.src = world.peer_vtep, .dst = world.vtep};
    Gre gre{.key = kExternalVni};
    fl_reason reason = FL_REASON_TUNNEL_HEADER;
    SECTION("without a key") {
        gre.flags = 0;
    }
    SECTION("with a checksum") {
        gre.flags = 0xa000;
    }
    SECTION("with sequence numbers") {
        gre.flags = 0x3000;
    }
    SECTION("of another version") {
        gre.flags = 0x2001;
    }
    SECTION("with IPv4 options") {
        outer.options = Bytes(4, 1);
    }
    SECTION("a first fragment") {
        outer.more_fragments = true;
    }
    SECTION("an IPv4 length shorter than the frame") {
        outer.total_length = 60;
    }
    SECTION("congestion experienced") {
        outer.tos = 3;
        reason = FL_REASON_OUTER_CE;
    }
    SECTION("a key that is nobody's") {
        gre.key = 4242;
        reason = FL_REASON_UNKNOWN_PEER;
    }
    SECTION("a key that is a VNI in a VXLAN header") {
        gre.key = kExternalVni << 8;
        reason = FL_REASON_UNKNOWN_PEER;
    }
    SECTION("a stranger") {
        outer.src = ip("10.0.0.66");
        reason = FL_REASON_UNKNOWN_PEER;
    }
    SECTION("a later fragment") {
        outer.fragment_offset = 185;
        reason = FL_REASON_NOT_OVERLAY;
    }
    SECTION("IPv4 inside") {
        gre.protocol = 0x0800;
        reason = FL_REASON_NOT_OVERLAY;
    }
    const Packet packet =
        Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} / outer / gre / (world.to_fip() / body());
    expect_left_at_underlay(world, packet, reason);
}

TEST_CASE("VXLAN over IPv6 that only Linux judges") {
    World world(FL_TUNNEL_VXLAN6);
    Ip6 outer{.src = world.end(world.peer_vtep), .dst = world.end(world.vtep)};
    Udp udp{.src = 51515, .dst = 4789, .checksum = 0};
    Vxlan vxlan{.vni = kExternalVni};
    fl_reason reason = FL_REASON_TUNNEL_HEADER;
    SECTION("another version") {
        outer.version = 5;
    }
    SECTION("an IPv6 length shorter than the frame") {
        outer.payload_length = 60;
    }
    SECTION("a UDP length shorter than the packet") {
        udp.length = 60;
    }
    SECTION("extensions of the VXLAN header") {
        vxlan.flags = 0x88000000;
    }
    SECTION("a UDP checksum") {
        udp.checksum = 0x1234;
        reason = FL_REASON_OUTER_CHECKSUM;
    }
    SECTION("congestion experienced") {
        outer.traffic_class = 3;
        reason = FL_REASON_OUTER_CE;
    }
    SECTION("ECT(1)") {
        outer.traffic_class = 1;
    }
    SECTION("a VNI that is nobody's") {
        vxlan.vni = 4242;
        reason = FL_REASON_UNKNOWN_PEER;
    }
    SECTION("a stranger whose address ends as the peer's") {
        auto bytes = outer.src.bytes();
        bytes[5] ^= 1U;
        outer.src = IpAddress::from_bytes(bytes.data());
        reason = FL_REASON_UNKNOWN_PEER;
    }
    SECTION("another destination, which ends as the VTEP") {
        auto bytes = outer.dst.bytes();
        bytes[0] ^= 1U;
        outer.dst = IpAddress::from_bytes(bytes.data());
        reason = FL_REASON_NOT_OVERLAY;
    }
    SECTION("an extension header") {
        outer.next_header = 60;
        reason = FL_REASON_NOT_OVERLAY;
    }
    SECTION("a fragment") {
        outer.next_header = 44;
        reason = FL_REASON_NOT_OVERLAY;
    }
    SECTION("another port") {
        udp.dst = 4790;
        reason = FL_REASON_NOT_OVERLAY;
    }
    const Packet packet = Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} / outer / udp / vxlan /
                          (world.to_fip() / body());
    expect_left_at_underlay(world, packet, reason);
}

TEST_CASE("a flow label does not matter, and none is sent") {
    World world(FL_TUNNEL_VXLAN6);
    const fl_hook hook = underlay_hook();
    const Packet labelled =
        Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} /
        Ip6{.src = world.end(world.peer_vtep), .dst = world.end(world.vtep), .flow_label = 0xabcde} /
        world.wrapped(kExternalVni, world.to_fip() / body());
    check_unwrapped(world, hook, labelled.bytes(), body());
}

TEST_CASE("an address that is the VTEP in IPv4-mapped form is none on the wire") {
    World world;
    const Packet packet = Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} /
                          Ip6{.src = world.peer_vtep, .dst = world.vtep} /
                          world.wrapped(kExternalVni, world.to_fip() / body());
    const Bytes frame = packet.bytes();
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame), FL_REASON_UNKNOWN_PEER, frame);
}

TEST_CASE("Geneve that only Linux judges") {
    World world(FL_TUNNEL_GENEVE);
    Udp udp{.src = 51515, .dst = 6081, .checksum = 0};
    Geneve geneve{.vni = kExternalVni};
    fl_reason reason = FL_REASON_TUNNEL_HEADER;
    SECTION("options") {
        geneve.version_and_length = 1;
    }
    SECTION("another version") {
        geneve.version_and_length = 0x40;
    }
    SECTION("a control packet") {
        geneve.flags = 0x80;
    }
    SECTION("critical options") {
        geneve.flags = 0x40;
    }
    SECTION("IPv4 inside") {
        geneve.protocol = 0x0800;
    }
    SECTION("a reserved byte") {
        geneve.reserved = 1;
    }
    SECTION("a UDP checksum") {
        udp.checksum = 0x1234;
        reason = FL_REASON_OUTER_CHECKSUM;
    }
    SECTION("a VNI that is nobody's") {
        geneve.vni = 4242;
        reason = FL_REASON_UNKNOWN_PEER;
    }
    const Packet packet = Eth{.dst = world.underlay_mac, .src = world.peer_underlay_mac} /
                          Ip4{.src = world.peer_vtep, .dst = world.vtep} / udp / geneve / (world.to_fip() / body());
    const Bytes frame = packet.bytes();
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame), reason, frame);
}
