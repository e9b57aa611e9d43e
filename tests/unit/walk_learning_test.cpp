// SPDX-License-Identifier: Apache-2.0
// Addresses that bridges and vxlan devices learn: which become rows, and what keeps them alive.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr int kTapGuest = 40;
constexpr const char* kGuest = "fa:16:3e:00:02:01";  // in no topology
constexpr const char* kFar = "fa:16:3e:00:02:02";    // behind a tunnel
constexpr const char* kPeer1 = "198.51.100.1";
constexpr const char* kPeer3 = "198.51.100.3";

void learn(NetnsView& root, int port, std::string_view address) {
    add_static_fdb(root, port, address);
    root.fdb.back().state = kNudReachable;
}

/// A vxlan device's own learned entry.
void learn_peer(NetnsView& root, int vxlan, std::string_view address, std::string_view peer) {
    add_vxlan_fdb(root, vxlan, address, peer);
    root.fdb.back().state = kNudReachable;
}

/// A guest that somebody plugged into br-ex, of which the bridge has learned the address.
Snapshot guest_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    enslave(add_link(snapshot.root, kTapGuest, "tapguest", "tun", "fe:16:3e:00:02:01"), kBrEx);
    learn(snapshot.root, kTapGuest, kGuest);
    return snapshot;
}

/// The external tunnel leads to one peer only, and the bridge learns from it.
Snapshot one_peer_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    std::erase_if(snapshot.root.fdb, [](const FdbEntry& entry) {
        return entry.ifindex == kVxlanEx && entry.mac.is_unset() && entry.destination == ip(kPeer3);
    });
    snapshot.root.links.at(kVxlanEx).bridge_port->learning = true;
    learn(snapshot.root, kVxlanEx, kFar);
    return snapshot;
}

fl_fdb learned(const fl_out& out) {
    return {out, FL_FDB_LEARNED, 0};
}

/// A row that says where a MAC is, but not how to send there.
fl_fdb only_source(int port, std::uint32_t flags) {
    fl_fdb row{};
    row.out.port = static_cast<std::uint32_t>(port);
    row.flags = flags;
    return row;
}

std::string fdb_row(const Compiled& compiled, int segment, std::string_view address) {
    const auto found = compiled.tables.fdb.find(fdb_row_key(segment, address));
    return found == compiled.tables.fdb.end() ? "none" : hex(found->second);
}

std::uint32_t source_flags(const Compiled& compiled, int ifindex) {
    return compiled.tables.sources.at(source_row_key(ifindex)).flags;
}

std::uint32_t tunnel_flags(const Compiled& compiled, std::uint32_t vni, std::string_view peer) {
    fl_tunnel_key key{};
    key.type = FL_TUNNEL_VXLAN;
    key.id = vni;
    put_end(key.peer, peer);
    return compiled.tables.tunnels.at(key).flags;
}

/// "port MAC peer seconds" of each entry that is to be kept alive.
std::vector<std::string> kept(const Compiled& compiled) {
    std::vector<std::string> out;
    for (const LearnedEntry& entry : compiled.learned) {
        out.push_back(fmt::format("{} {} {} {}", entry.ifindex, entry.mac.str(), entry.peer ? entry.peer->str() : "-",
                                  entry.ageing));
        CHECK(same_bytes(entry.row, fdb_row_key(kBrEx, entry.mac.str())));
    }
    return out;
}

int notes_with(const Compiled& compiled, const std::string& part) {
    return static_cast<int>(std::ranges::count_if(
        compiled.notes, [&](const std::string& note) { return note.find(part) != std::string::npos; }));
}

}  // namespace

TEST_CASE("a learned address on a port that learns is a row that is kept alive") {
    const Compiled compiled = compile(guest_snapshot(), scope());
    CHECK(fdb_row(compiled, kBrEx, kGuest) == hex(learned(out_port(kTapGuest))));
    CHECK(source_flags(compiled, kTapGuest) == FL_SRC_LEARNS);
    CHECK(kept(compiled) == std::vector<std::string>{"40 fa:16:3e:00:02:01 - 300"});
    CHECK(notes_with(compiled, "learned") == 0);
}

TEST_CASE("ports of which the programs know the one address need not show it") {
    const Compiled compiled = compile(guest_snapshot(), scope());
    CHECK(source_flags(compiled, kTapA) == FL_SRC_CHECK);
    CHECK(source_flags(compiled, kBrEx) == 0);  // what the host sends no bridge learns
    CHECK(source_flags(compiled, kVxlanEx) == 0);
    CHECK(tunnel_flags(compiled, 100, kPeer1) == 0);
    CHECK(kept(compile(dvr_snapshot(), scope())).empty());

    // A learned address beside the static one is none that the port's filter is asked about.
    Snapshot snapshot = dvr_snapshot();
    learn(snapshot.root, kTapA, kGuest);
    CHECK(source_flags(compile(snapshot, scope()), kTapA) == FL_SRC_CHECK);
    // And a port with a filter is no source without a static one.
    for (FdbEntry& entry : snapshot.root.fdb)
        entry.state = entry.mac == mac(kMacA) ? kNudReachable : entry.state;
    CHECK_FALSE(compile(snapshot, scope()).tables.sources.contains(source_row_key(kTapA)));
}

TEST_CASE("where the bridge does not learn, its entries age whatever comes, and their rows with them") {
    Snapshot snapshot = guest_snapshot();
    snapshot.root.links.at(kTapGuest).bridge_port->learning = false;
    const Compiled compiled = compile(snapshot, scope());
    CHECK(fdb_row(compiled, kBrEx, kGuest) == hex(learned(out_port(kTapGuest))));
    CHECK(source_flags(compiled, kTapGuest) == 0);
    CHECK(kept(compiled).empty());
}

TEST_CASE("a port whose flags are not known is taken for one that learns, as the kernel makes them") {
    Snapshot snapshot = guest_snapshot();
    snapshot.root.links.at(kTapGuest).bridge_port.reset();
    CHECK(source_flags(compile(snapshot, scope()), kTapGuest) == FL_SRC_LEARNS);
}

TEST_CASE("what ages too fast is left to the bridge") {
    Snapshot snapshot = guest_snapshot();
    std::uint32_t& ageing = snapshot.root.links.at(kBrEx).bridge->ageing_time;
    SECTION("at once: nothing is learned at all") {
        ageing = 0;
        const Compiled compiled = compile(snapshot, scope());
        CHECK(fdb_row(compiled, kBrEx, kGuest) == "none");
        CHECK(source_flags(compiled, kTapGuest) == 0);
    }
    SECTION("faster than the agent looks") {
        ageing = 299;
        const Compiled compiled = compile(snapshot, scope());
        CHECK(fdb_row(compiled, kBrEx, kGuest) == "none");
        CHECK(source_flags(compiled, kTapGuest) == FL_SRC_LEARNS);
        CHECK(notes_with(compiled, "br-ex: learned addresses are left to the bridge, which forgets them within 3 s") ==
              1);
        // Nobody is told about a bridge that has none.
        CHECK(notes_with(compiled, "brq11111111-11: learned") == 0);
    }
    SECTION("just slowly enough") {
        ageing = 300;
        CHECK(kept(compile(snapshot, scope())) == std::vector<std::string>{"40 fa:16:3e:00:02:01 - 3"});
    }
}

TEST_CASE("an address behind a tunnel with one peer leads there") {
    const Compiled compiled = compile(one_peer_snapshot(), scope());
    CHECK(fdb_row(compiled, kBrEx, kFar) == hex(learned(out_tunnel(100, kPeer1, kPeer1Mac))));
    CHECK(source_flags(compiled, kVxlanEx) == FL_SRC_LEARNS);
    CHECK(tunnel_flags(compiled, 100, kPeer1) == FL_SRC_LEARNS);
    CHECK(tunnel_flags(compiled, 100, kPeer3) == FL_SRC_LEARNS);
    CHECK(tunnel_flags(compiled, 200, kPeer3) == 0);
    CHECK(kept(compiled) == std::vector<std::string>{"11 fa:16:3e:00:02:02 - 300"});
    CHECK(notes_with(compiled, "behind it") == 0);
}

TEST_CASE("an address behind a tunnel with several peers is known as a source only") {
    Snapshot snapshot = one_peer_snapshot();
    add_vxlan_fdb(snapshot.root, kVxlanEx, "00:00:00:00:00:00", kPeer3);
    learn(snapshot.root, kVxlanEx, kGuest);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(fdb_row(compiled, kBrEx, kFar) == hex(only_source(kVxlanEx, FL_FDB_LEARNED)));
    CHECK(compiled.learned.size() == 2);
    CHECK(notes_with(compiled, "vxlan-100: addresses that the bridge learned behind it are left to Linux") == 1);
}

TEST_CASE("neither is a multicast group a peer") {
    Snapshot snapshot = one_peer_snapshot();
    for (FdbEntry& entry : snapshot.root.fdb) {
        if (entry.ifindex == kVxlanEx && entry.mac.is_unset()) entry.destination = ip("239.1.1.1");
    }
    CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == hex(only_source(kVxlanEx, FL_FDB_LEARNED)));
}

TEST_CASE("nor is one that the table sends to in a way of its own") {
    Snapshot snapshot = one_peer_snapshot();
    NetnsView& root = snapshot.root;
    const auto flood = [&]() -> FdbEntry& {
        return *std::ranges::find_if(root.fdb,
                                     [](const FdbEntry& e) { return e.ifindex == kVxlanEx && e.mac.is_unset(); });
    };
    const std::string reached = hex(learned(out_tunnel(100, kPeer1, kPeer1Mac)));
    const std::string unreached = hex(only_source(kVxlanEx, FL_FDB_LEARNED));
    SECTION("by the device's own underlay") {
        root.links.at(kVxlanEx).vxlan->underlay_ifindex = kEth0;
        flood().underlay_ifindex = kEth0;
        CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == reached);
    }
    SECTION("by another device") {
        flood().underlay_ifindex = kEth0;
        CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == unreached);
    }
    SECTION("to another port") {
        flood().elsewhere = true;
        CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == unreached);
    }
    SECTION("to a group of next hops, for this address alone") {
        add_vxlan_fdb(root, kVxlanEx, kFar, kPeer3);
        root.fdb.back().destination.reset();
        root.fdb.back().elsewhere = true;
        CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == unreached);
    }
    SECTION("and to a second one") {
        add_vxlan_fdb(root, kVxlanEx, "00:00:00:00:00:00", kPeer3);
        root.fdb.back().elsewhere = true;
        CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == unreached);
    }
}

TEST_CASE("a vxlan device that learns knows the peer of each address, and forgets it") {
    Snapshot snapshot = one_peer_snapshot();
    NetnsView& root = snapshot.root;
    add_vxlan_fdb(root, kVxlanEx, "00:00:00:00:00:00", kPeer3);
    root.links.at(kVxlanEx).vxlan->learning = true;
    root.links.at(kVxlanEx).vxlan->ageing = 120;
    learn_peer(root, kVxlanEx, kFar, kPeer3);
    const fl_out out = out_tunnel(100, kPeer3, kPeer3Mac);
    SECTION("both tables are kept alive") {
        const Compiled compiled = compile(snapshot, scope());
        CHECK(fdb_row(compiled, kBrEx, kFar) == hex(learned(out)));
        CHECK(kept(compiled) ==
              std::vector<std::string>{"11 fa:16:3e:00:02:02 - 300", "11 fa:16:3e:00:02:02 198.51.100.3 120"});
    }
    SECTION("the device's alone, if the bridge's entry is static and its port does not learn") {
        root.links.at(kVxlanEx).bridge_port->learning = false;
        for (FdbEntry& entry : root.fdb)
            entry.state = entry.mac == mac(kFar) && entry.bridge != 0 ? kNudNoarp : entry.state;
        const Compiled compiled = compile(snapshot, scope());
        CHECK(fdb_row(compiled, kBrEx, kFar) == hex(learned(out)));
        CHECK(kept(compiled) == std::vector<std::string>{"11 fa:16:3e:00:02:02 198.51.100.3 120"});
        CHECK(tunnel_flags(compiled, 100, kPeer3) == FL_SRC_LEARNS);
        // What the device hands on it has learned already.
        CHECK(source_flags(compiled, kVxlanEx) == 0);
    }
    SECTION("the bridge's alone, if the device does not age") {
        root.links.at(kVxlanEx).vxlan->ageing = 0;
        CHECK(kept(compile(snapshot, scope())) == std::vector<std::string>{"11 fa:16:3e:00:02:02 - 300"});
    }
}

TEST_CASE("a gretap device leads to its one peer, learned or not") {
    Snapshot snapshot = dvr_snapshot();
    Link& link = add_link(snapshot.root, 31, "gre-31", "gretap", "06:00:00:00:01:1f", 1458);
    link.gre = GreInfo{.in_key = 300,
                       .out_key = 300,
                       .local = ip("198.51.100.2"),
                       .remote = ip(kPeer1),
                       .path_mtu_discovery = false,
                       .ignore_df = true,
                       .ttl = 64};
    enslave(link, kBrEx);
    learn(snapshot.root, 31, kFar);
    const Compiled compiled = compile(snapshot, scope());
    fl_out out = out_tunnel(300, kPeer1, kPeer1Mac);
    out.tunnel = FL_TUNNEL_GRE;
    out.port = 31;
    out.mtu = 1458;
    CHECK(fdb_row(compiled, kBrEx, kFar) == hex(learned(out)));
    CHECK(kept(compiled) == std::vector<std::string>{"31 fa:16:3e:00:02:02 - 300"});
}

TEST_CASE("an address that the fast path does not send to is known as a source where Linux learns") {
    Snapshot snapshot = guest_snapshot();
    nf::Chain& chain = add_chain(snapshot.root, nf::Family::kNetdev, "t", "out", nf::Hook::kEgress);
    chain.device = "tapguest";
    chain.rules = {rule("limit", {nf::Unknown{}})};
    CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kGuest) == hex(only_source(kTapGuest, FL_FDB_LEARNED)));
    // A static entry, too: the bridge would move it here from elsewhere.
    add_static_fdb(snapshot.root, kTapGuest, kFar);
    CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == hex(only_source(kTapGuest, 0)));
    snapshot.root.links.at(kTapGuest).bridge_port->learning = false;
    CHECK(fdb_row(compile(snapshot, scope()), kBrEx, kFar) == "none");
}

TEST_CASE("journeys end at learned addresses as at static ones") {
    Snapshot snapshot = guest_snapshot();
    NetnsView& root = snapshot.root;
    // The gateway is a guest of this node, which the bridge has learned.
    std::erase_if(root.fdb, [](const FdbEntry& entry) { return entry.mac == mac(kGatewayMac); });
    const auto gateway = [&] {
        const Compiled compiled = compile(snapshot, scope());
        const auto row = compiled.tables.vms.find(vm_key(kTapA, "10.0.0.11"));
        REQUIRE(row != compiled.tables.vms.end());
        const auto next = compiled.tables.dests.find(dest_row_key(row->second.domain, "172.24.4.1"));
        return next == compiled.tables.dests.end() ? "none" : hex(next->second);
    };
    CHECK(gateway() == "none");
    learn(root, kTapGuest, kGatewayMac);
    CHECK(gateway() == hex(journey(kGatewayMac, kFgMac, 2, out_port(kTapGuest), FL_NEXT_SNAT)));
    // It moves behind the tunnel.
    root.fdb.back().ifindex = kVxlanEx;
    learn_peer(root, kVxlanEx, kGatewayMac, kPeer3);
    CHECK(gateway() == hex(journey(kGatewayMac, kFgMac, 2, out_tunnel(100, kPeer3, kPeer3Mac), FL_NEXT_SNAT)));
}

TEST_CASE("a router's address that the bridge learned elsewhere stops its journeys") {
    Snapshot snapshot = guest_snapshot();
    for (FdbEntry& entry : snapshot.root.fdb) {
        if (entry.mac != mac(kFgMac)) continue;
        entry.ifindex = kTapGuest;
        entry.state = kNudReachable;
    }
    const Compiled compiled = compile(snapshot, scope());
    CHECK(fdb_row(compiled, kBrEx, kFgMac) == hex(learned(out_port(kTapGuest))));
    CHECK(report_of(compiled, "172.24.5.11").reason_in.find("sends fa:16:3e:0c:00:10 elsewhere") != std::string::npos);
    // On its own leg it is what it is anyway.
    for (FdbEntry& entry : snapshot.root.fdb)
        entry.ifindex = entry.mac == mac(kFgMac) ? kTapFg : entry.ifindex;
    const Compiled home = compile(snapshot, scope());
    CHECK(fdb_row(home, kBrEx, kFgMac) == hex(fl_fdb{out_router(), 0, 0}));
    CHECK(report_of(home, "172.24.5.11").fast_in);
}

TEST_CASE("nor do those go on that end at an address which is left to the bridge") {
    Snapshot snapshot = guest_snapshot();
    snapshot.root.links.at(kBrEx).bridge->ageing_time = 200;
    for (FdbEntry& entry : snapshot.root.fdb) {
        if (entry.mac != mac(kFgMac)) continue;
        entry.ifindex = kTapGuest;
        entry.state = kNudReachable;
    }
    const Compiled compiled = compile(snapshot, scope());
    CHECK(fdb_row(compiled, kBrEx, kFgMac) == "none");
    CHECK(report_of(compiled, "172.24.5.11").reason_in.find("sends fa:16:3e:0c:00:10 elsewhere") != std::string::npos);
}

TEST_CASE("one port cannot take the room of all rows") {
    constexpr std::size_t kMost = FL_MAX_FDB / 8;
    Snapshot snapshot = guest_snapshot();
    std::vector<FdbEntry>& fdb = snapshot.root.fdb;
    FdbEntry entry = fdb.back();
    for (std::size_t i = 0; i < kMost; ++i) {
        entry.mac = Mac{{0x0a, 0, 0, 0, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)}};
        fdb.push_back(entry);
    }
    add_static_fdb(snapshot.root, kTapGuest, kFar);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(compiled.learned.size() == kMost);
    // The guest's own comes last.
    CHECK(fdb_row(compiled, kBrEx, kGuest) == "none");
    CHECK(fdb_row(compiled, kBrEx, kFar) != "none");
    CHECK(notes_with(compiled, "port tapguest has more than 16384 learned addresses") == 1);
    std::ranges::reverse(snapshot.root.fdb);
    CHECK(differences(compiled.tables, compile(snapshot, scope()).tables).empty());
    std::erase_if(snapshot.root.fdb, [](const FdbEntry& each) { return each.mac == mac("0a:00:00:00:00:00"); });
    CHECK(notes_with(compile(snapshot, scope()), "tapguest") == 0);
}
