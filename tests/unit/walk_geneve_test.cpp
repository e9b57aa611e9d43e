// SPDX-License-Identifier: Apache-2.0
// Geneve devices, which have no local address: it is the source of the route to their peer.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <functional>
#include <string>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr int kGeneve1 = 41;
constexpr int kGeneve3 = 43;

void add_geneve(NetnsView& root, int ifindex, const char* remote) {
    Link& link = add_link(root, ifindex, "gnv-" + std::to_string(ifindex), "geneve", "06:00:00:00:02:01", 1450);
    link.mac.bytes[5] = static_cast<std::uint8_t>(ifindex);
    GeneveInfo geneve;
    geneve.vni = 200;
    geneve.remote = ip(remote);
    geneve.port = 6081;
    geneve.ttl = 64;
    link.geneve = geneve;
    enslave(link, kBrq);
    link.bridge_port->learning = false;
    link.bridge_port->isolated = true;
    link.bridge_port->neigh_suppress = true;
}

/// The tenant network of the DVR scenario with a geneve device to each peer instead of the vxlan device.
Snapshot geneve_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    root.links.erase(kVxlanTenant);
    std::erase_if(root.fdb, [](const FdbEntry& entry) { return entry.ifindex == kVxlanTenant; });
    std::erase_if(root.neighbours, [](const Neighbour& entry) { return entry.ifindex == kVxlanTenant; });
    add_geneve(root, kGeneve1, "198.51.100.1");
    add_geneve(root, kGeneve3, "198.51.100.3");
    add_static_fdb(root, kGeneve3, kMacC);
    add_neighbour(root, kBrq, "10.0.0.13", kMacC);
    return snapshot;
}

fl_out geneve_out() {
    fl_out out = out_tunnel(200, "198.51.100.3", kPeer3Mac);
    out.tunnel = FL_TUNNEL_GENEVE;
    out.port = kGeneve3;
    out.flags = FL_OUT_ISOLATED;
    return out;
}

void expect_refused(const Snapshot& snapshot, const std::string& reason) {
    const Compiled compiled = compile(snapshot, scope());
    INFO(reason);
    CHECK(has_note(compiled, reason));
    CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
    CHECK_FALSE(compiled.tables.sources.contains(source_row_key(kGeneve3)));
    // VXLAN beside it goes on.
    CHECK(compiled.tables.fdb.contains(fdb_row_key(kBrEx, kGatewayMac)));
}

void expect_served(const Snapshot& snapshot) {
    const Compiled compiled = compile(snapshot, scope());
    REQUIRE(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
    CHECK(hex(compiled.tables.fdb.at(fdb_row_key(kBrq, kMacC)).out) == hex(geneve_out()));
}

/// eth0's own subnet is routed without a source: what `ip route replace` without `src` leaves.
Route& connected_route(NetnsView& root) {
    const auto route =
        std::ranges::find_if(root.routes, [](const Route& each) { return each.destination == net("198.51.100.0/24"); });
    REQUIRE(route != root.routes.end());
    return *route;
}

}  // namespace

TEST_CASE("a geneve device is a tunnel to its one peer, from the address that the route has") {
    const Compiled compiled = compile(geneve_snapshot(), scope());
    const Tables& tables = compiled.tables;
    CHECK(tables.config.geneve_port == 6081);
    CHECK(tables.config.vxlan_port == 4789);
    CHECK(tables.config.gre == 0);
    expect_served(geneve_snapshot());
    for (const auto& [peer, device] : {std::pair{"198.51.100.1", kGeneve1}, {"198.51.100.3", kGeneve3}}) {
        fl_tunnel_key key{};
        key.type = FL_TUNNEL_GENEVE;
        key.id = 200;
        put_end(key.peer, peer);
        REQUIRE(tables.tunnels.contains(key));
        const fl_tunnel& row = tables.tunnels.at(key);
        CHECK(row.segment == kBrq);
        CHECK(row.ifindex == static_cast<std::uint32_t>(device));
        CHECK(row.flags == FL_SRC_ISOLATED);
        CHECK(row.outer_len == 50);
    }
    CHECK(tables.sources.at(source_row_key(kGeneve1)).role == FL_ROLE_TUNNEL);
}

TEST_CASE("geneve devices whose headers would differ") {
    const auto refused = [](const std::function<void(GeneveInfo&)>& change, const char* reason) {
        Snapshot snapshot = geneve_snapshot();
        change(*snapshot.root.links.at(kGeneve3).geneve);
        expect_refused(snapshot, reason);
    };
    refused([](GeneveInfo& geneve) { geneve.collect_metadata = true; }, "collect-metadata mode");
    refused([](GeneveInfo& geneve) { geneve.carries_ip = true; }, "carries no Ethernet");
    refused([](GeneveInfo& geneve) { geneve.gro_hint = true; }, "sends options");
    refused([](GeneveInfo& geneve) { geneve.udp_checksum = true; }, "sends UDP checksums");
    refused([](GeneveInfo& geneve) { geneve.inherits_ttl = true; }, "copies the inner packet's TTL");
    refused([](GeneveInfo& geneve) { geneve.ttl = 10; }, "sends with TTL 10");
    refused([](GeneveInfo& geneve) { geneve.tos = 1; }, "sends with TOS 1");
    refused([](GeneveInfo& geneve) { geneve.df = 1; }, "sets DF");
    refused([](GeneveInfo& geneve) { geneve.df = 2; }, "sets DF");
    refused([](GeneveInfo& geneve) { geneve.remote.reset(); }, "has no remote IPv4 address");
    refused([](GeneveInfo& geneve) { geneve.first_source_port = 32769; }, "sends from UDP ports 32769-65535 only");
    refused([](GeneveInfo& geneve) { geneve.last_source_port = 60997; }, "sends from UDP ports 1-60997 only");
    refused([](GeneveInfo& geneve) { geneve.local = ip("198.51.100.77"); },
            "gnv-43 uses 198.51.100.77:6081, other tunnels 198.51.100.2:6081");
    Snapshot by_default = geneve_snapshot();
    by_default.root.links.at(kGeneve3).geneve->ttl = 0;
    by_default.root.links.at(kGeneve3).geneve->first_source_port = 32768;
    by_default.root.links.at(kGeneve3).geneve->last_source_port = 60998;
    by_default.root.links.at(kGeneve3).geneve->local = ip("198.51.100.2");
    expect_served(by_default);
}

TEST_CASE("a geneve device sends from what inet_select_addr chooses") {
    Snapshot snapshot = geneve_snapshot();
    NetnsView& root = snapshot.root;
    SECTION("another source in the route") {
        add_route(root, "198.51.100.3/32", kEth0).preferred_source = ip("198.51.100.77");
        expect_refused(snapshot, "gnv-43 uses 198.51.100.77:6081");
    }
    SECTION("no source in the route: the device's one address") {
        connected_route(root).preferred_source.reset();
        expect_served(snapshot);
    }
    SECTION("several addresses: which is first is not to be relied on") {
        add_address(root, kEth0, "203.0.113.2/24");
        expect_served(snapshot);
        connected_route(root).preferred_source.reset();
        expect_refused(snapshot,
                       "gnv-43 has no local address: route 198.51.100.0/24 dev eth0 (table main) has no "
                       "source, and its device several addresses");
        root.addresses.back().secondary = true;
        expect_served(snapshot);
        root.addresses.back().secondary = false;
        root.addresses.back().scope = 254;  // host
        expect_served(snapshot);
    }
    SECTION("behind a gateway: the address of the gateway's subnet") {
        add_address(root, kEth0, "203.0.113.2/24");
        add_route(root, "198.51.100.3/32", kEth0, "198.51.100.254");
        add_neighbour(root, kEth0, "198.51.100.254", kPeer3Mac);
        expect_served(snapshot);
        root.routes.back().gateway = ip("203.0.113.254");
        add_neighbour(root, kEth0, "203.0.113.254", kPeer3Mac);
        expect_refused(snapshot, "gnv-43 uses 203.0.113.2:6081");
    }
    SECTION("a device without an address") {
        add_link(root, 99, "eth1", "", kEthMac, 1500);
        add_route(root, "198.51.100.3/32", 99);
        expect_refused(snapshot, "leads to a device without an address");
    }
    SECTION("no route") {
        std::erase_if(root.routes, [](const Route& route) { return route.table == kMainTable; });
        CHECK(has_note(compile(snapshot, scope()), "gnv-43 has no local address: no route to 198.51.100.3/32"));
    }
    SECTION("a route that is not followed") {
        add_route(root, "198.51.100.3/32", kEth0).multipath = true;
        expect_refused(snapshot,
                       "gnv-43 has no local address: route 198.51.100.3/32 dev eth0 (table main) is not followed");
    }
    SECTION("a rule for the node's own address does not count: the route is asked without one") {
        add_rule(root, 100, "198.51.100.2/32", "", 77);
        add_route(root, "0.0.0.0/0", kEth0, {}, 77).type = RouteType::kUnreachable;
        const Compiled compiled = compile(snapshot, scope());
        CHECK(compiled.tables.fdb.contains(fdb_row_key(kBrq, kMacC)));
        // The vxlan device has an address and asks with it.
        CHECK_FALSE(compiled.tables.fdb.contains(fdb_row_key(kBrEx, kGatewayMac)));
    }
}
