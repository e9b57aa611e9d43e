// SPDX-License-Identifier: Apache-2.0
// Tunnels of other kinds than one vxlan device to all peers: gretap devices, stars, isolated ports, egress chains.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <functional>

#include "core/tunnels.hpp"
#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr int kGre1 = 31;
constexpr int kGre3 = 33;

Link& add_gretap(NetnsView& root, int ifindex, std::uint32_t key, const char* remote) {
    Link& link = add_link(root, ifindex, "gre-" + std::to_string(ifindex), "gretap", "06:00:00:00:01:01", 1458);
    link.mac.bytes[5] = static_cast<std::uint8_t>(ifindex);
    GreInfo gre;
    gre.in_key = gre.out_key = key;
    gre.local = ip("198.51.100.2");
    gre.remote = ip(remote);
    gre.path_mtu_discovery = false;
    gre.ignore_df = true;
    gre.ttl = 64;
    link.gre = gre;
    enslave(link, kBrq);
    link.bridge_port->learning = false;
    link.bridge_port->isolated = true;
    link.bridge_port->neigh_suppress = true;
    return link;
}

/// The tenant network of the DVR scenario with a gretap device to each peer instead of the vxlan device.
Snapshot gre_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    root.links.erase(kVxlanTenant);
    std::erase_if(root.fdb, [](const FdbEntry& entry) { return entry.ifindex == kVxlanTenant; });
    std::erase_if(root.neighbours, [](const Neighbour& entry) { return entry.ifindex == kVxlanTenant; });
    add_gretap(root, kGre1, 200, "198.51.100.1");
    add_gretap(root, kGre3, 200, "198.51.100.3");
    add_static_fdb(root, kGre3, kMacC);
    add_neighbour(root, kBrq, "10.0.0.13", kMacC);
    return snapshot;
}

void drop_arp_at(NetnsView& root, const std::string& device) {
    nf::Chain& chain = add_chain(root, nf::Family::kNetdev, "fiplane", "port_" + device, nf::Hook::kEgress);
    chain.device = device;
    chain.rules = {rule("ether type arp drop",
                        {match(nf::Field::kEtherType, {std::uint64_t{0x0806}}), verdict(nf::VerdictKind::kDrop)})};
}

fl_out gre_out() {
    fl_out out = out_tunnel(200, "198.51.100.3", kPeer3Mac);
    out.tunnel = FL_TUNNEL_GRE;
    out.port = kGre3;
    out.mtu = 1458;
    out.flags = FL_OUT_ISOLATED;
    return out;
}

}  // namespace

TEST_CASE("a gretap device is a tunnel to its one peer") {
    const Compiled compiled = compile(gre_snapshot(), scope());
    const Tables& tables = compiled.tables;
    CHECK(tables.config.gre == 1);
    CHECK(tables.config.vxlan_port == 4789);
    CHECK(tables.config.geneve_port == 0);
    CHECK(hex(tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(gre_out()));
    for (const auto& [peer, device] : {std::pair{"198.51.100.1", kGre1}, {"198.51.100.3", kGre3}}) {
        fl_tunnel_key key{};
        key.type = FL_TUNNEL_GRE;
        key.id = 200;
        put_end(key.peer, peer);
        REQUIRE(tables.tunnels.contains(key));
        const fl_tunnel& row = tables.tunnels.at(key);
        CHECK(row.segment == kBrq);
        CHECK(row.ifindex == static_cast<std::uint32_t>(device));
        CHECK(row.flags == FL_SRC_ISOLATED);
        CHECK(row.outer_len == 42);
    }
    CHECK(tables.sources.at(source_row_key(kGre1)).flags == FL_SRC_ISOLATED);
    CHECK(tables.sources.at(source_row_key(kGre1)).role == FL_ROLE_TUNNEL);
    // From one isolated tunnel to the other nothing is forwarded: nothing for XDP to gain.
    CHECK_FALSE(compiled.devices.front().wire_to_wire);
}

TEST_CASE("an egress chain that drops ARP alone does not stop journeys, and no answer crosses it") {
    Snapshot snapshot = gre_snapshot();
    for (const char* device : {"gre-31", "gre-33"})
        drop_arp_at(snapshot.root, device);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(hex(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(gre_out()));
    CHECK(compiled.tables.arp.at(arp_row_key(kBrq, "10.0.0.1")).flags == FL_ARP_NO_TUNNEL);
    CHECK(compile(gre_snapshot(), scope()).tables.arp.at(arp_row_key(kBrq, "10.0.0.1")).flags == 0);
}

TEST_CASE("a tunnel that an IPsec policy concerns is Linux's both ways, and no other one is") {
    fl_tunnel_key from3{};
    from3.type = FL_TUNNEL_GRE;
    from3.id = 200;
    put_end(from3.peer, "198.51.100.3");
    fl_tunnel_key from1 = from3;
    put_end(from1.peer, "198.51.100.1");
    const auto with = [](const char* source, int source_length, const char* destination, int destination_length) {
        Snapshot snapshot = gre_snapshot();
        const auto bits = [](int length) { return static_cast<std::uint8_t>(length == 0 ? 0 : 96 + length); };
        snapshot.root.ipsec_policies.push_back(
            {0, ip(source), bits(source_length), ip(destination), bits(destination_length)});
        return compile(snapshot, scope());
    };
    for (const Compiled& compiled :
         {with("198.51.100.2", 32, "198.51.100.3", 32), with("198.51.100.3", 32, "0.0.0.0", 0)}) {
        CHECK(has_note(compiled, "tunnel peer 198.51.100.3 of gre-33: an IPsec policy concerns it"));
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
        CHECK_FALSE(compiled.tables.tunnels.contains(from3));
        CHECK(compiled.tables.tunnels.contains(from1));
    }
    const Compiled other = with("198.51.100.0", 24, "192.0.2.0", 24);
    CHECK(hex(other.tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(gre_out()));
    CHECK(other.tables.tunnels.contains(from3));
    const Compiled neighbours = with("198.51.100.2", 31, "198.51.100.2", 31);
    CHECK_FALSE(neighbours.tables.tunnels.contains(from3));
    CHECK(neighbours.tables.tunnels.contains(from1));
}

TEST_CASE("an egress chain that does more stops what would jump over it") {
    Snapshot snapshot = gre_snapshot();
    const auto filter = [&](const char* device) {
        nf::Chain& chain = add_chain(snapshot.root, nf::Family::kNetdev, "mine", "out", nf::Hook::kEgress);
        chain.device = device;
        chain.rules = {rule("ip daddr 10.0.0.13 drop", {match(nf::Field::kIpDaddr, {Prefix::host(ip("10.0.0.13"))}),
                                                        verdict(nf::VerdictKind::kDrop)})};
    };
    SECTION("on the tunnel device") {
        filter("gre-33");
        const Compiled compiled = compile(snapshot, scope());
        CHECK(has_note(compiled, "gre-33 has a netdev egress chain"));
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
    }
    SECTION("on a VM's port") {
        filter("tapaaaaaaaa-aa");
        const Compiled compiled = compile(snapshot, scope());
        // Where the VM is stays known, as the bridge learns from its port; no frame goes there.
        fl_out nowhere{};
        nowhere.port = kTapA;
        CHECK(hex(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacA)).out) == hex(nowhere));
        CHECK(report_of(compiled, "172.24.5.11").reason_in.find("netdev egress chain") != std::string::npos);
    }
    SECTION("on the underlay device, of tunnel packets") {
        nf::Chain& chain = add_chain(snapshot.root, nf::Family::kNetdev, "mine", "out", nf::Hook::kEgress);
        chain.device = "eth0";
        chain.rules = {rule("ip protocol gre drop",
                            {match(nf::Field::kIpProtocol, {std::uint64_t{47}}), verdict(nf::VerdictKind::kDrop)})};
        const Compiled compiled = compile(snapshot, scope());
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
        // VXLAN is not GRE.
        CHECK(compiled.tables.fdb.contains(fdb_row_key(kBrEx, kGatewayMac)));
    }
}

TEST_CASE("gretap devices whose headers would differ") {
    const auto refused = [](const std::function<void(GreInfo&)>& change, const char* reason) {
        Snapshot snapshot = gre_snapshot();
        change(*snapshot.root.links.at(kGre3).gre);
        const Compiled compiled = compile(snapshot, scope());
        INFO(reason);
        CHECK(has_note(compiled, reason));
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
        CHECK_FALSE(compiled.tables.sources.contains(source_row_key(kGre3)));
    };
    refused([](GreInfo& gre) { gre.in_key.reset(); }, "has not one key for both directions");
    refused([](GreInfo& gre) { gre.out_key = 201; }, "has not one key for both directions");
    refused([](GreInfo& gre) { gre.other_flags = true; }, "sends checksums or sequence numbers");
    refused([](GreInfo& gre) { gre.path_mtu_discovery = true; }, "sets DF");
    refused([](GreInfo& gre) { gre.ignore_df = false; }, "copies DF of the inner packet");
    refused([](GreInfo& gre) { gre.ttl = 0; }, "copies the inner packet's TTL");
    refused([](GreInfo& gre) { gre.ttl = 10; }, "sends with TTL 10");
    refused([](GreInfo& gre) { gre.tos = 1; }, "sends with TOS 1");
    refused([](GreInfo& gre) { gre.collect_metadata = true; }, "collect-metadata mode");
    refused([](GreInfo& gre) { gre.foreign_encapsulation = true; }, "wraps GRE into UDP");
    refused([](GreInfo& gre) { gre.local = Ipv4{}; }, "has no local address");
    refused([](GreInfo& gre) { gre.remote = Ipv4{}; }, "has no single remote address");
    refused([](GreInfo& gre) { gre.remote = ip("239.1.1.1"); }, "has no single remote address");
}

TEST_CASE("a bridge that answers for what is behind a suppressing port leaves no answer to a leg") {
    Snapshot snapshot = gre_snapshot();
    REQUIRE(compile(snapshot, scope()).tables.arp.contains(arp_row_key(kBrq, "10.0.0.1")));
    // The bridge takes the router's own address for one behind the tunnel: two would answer.
    add_neighbour(snapshot.root, kBrq, "10.0.0.1", kMacC);
    CHECK_FALSE(compile(snapshot, scope()).tables.arp.contains(arp_row_key(kBrq, "10.0.0.1")));
    snapshot.root.links.at(kGre3).bridge_port->neigh_suppress = false;
    CHECK(compile(snapshot, scope()).tables.arp.contains(arp_row_key(kBrq, "10.0.0.1")));
}

TEST_CASE("a hub's tunnels are ports of their own, and it relays") {
    Snapshot snapshot = dvr_snapshot();
    add_vxlan(snapshot.root, 30, 300, kBrEx, false);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.devices.front().wire_to_wire);
    fl_tunnel_key key{};
    key.type = FL_TUNNEL_VXLAN;
    key.id = 300;
    put_end(key.peer, "198.51.100.3");
    REQUIRE(compiled.tables.tunnels.contains(key));
    CHECK(compiled.tables.tunnels.at(key).ifindex == 30);
    CHECK(compiled.tables.tunnels.at(key).flags == 0);
}

TEST_CASE("isolated VM ports are told to the programs, isolated legs stop the walk") {
    Snapshot snapshot = dvr_snapshot();
    snapshot.root.links.at(kTapA).bridge_port->isolated = true;
    const Tables tables = compile(snapshot, scope()).tables;
    CHECK(tables.sources.at(source_row_key(kTapA)).flags == (FL_SRC_CHECK | FL_SRC_ISOLATED));
    CHECK((tables.fdb.at(fdb_row_key(kBrq, kMacA)).out.flags & FL_OUT_ISOLATED) != 0);
    CHECK((tables.fdb.at(fdb_row_key(kBrq, kMacB)).out.flags & FL_OUT_ISOLATED) == 0);
    // What the router sends comes from its leg, which is not isolated.
    CHECK(tables.fip_in.contains(fip_row_key(kBrEx, "172.24.5.11")));
    snapshot.root.links.at(kTapQr).bridge_port->isolated = true;
    CHECK(report_of(compile(snapshot, scope()), "172.24.5.11").reason_in.find("isolated port") != std::string::npos);
}
