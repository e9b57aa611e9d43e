// SPDX-License-Identifier: Apache-2.0
// VLAN devices as ports of segments: their tags are the programs', their frames are taken where they come in.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <functional>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr int kEth1 = 60;
constexpr int kVlan2001 = 61;
constexpr int kVlan2002 = 62;
constexpr const char* kHostMac = "02:00:00:00:99:01";

Link& add_vlan(NetnsView& root, int ifindex, std::uint16_t id, int bridge) {
    Link& link = add_link(root, ifindex, "eth1." + std::to_string(id), "vlan", "02:00:00:00:01:01", 1500);
    link.vlan = VlanInfo{.id = id, .protocol = 0x8100, .parent_ifindex = kEth1};
    enslave(link, bridge);
    return link;
}

/// The DVR scenario with a VLAN of eth1 in each network, and a host behind the tenant one's.
Snapshot vlan_snapshot() {
    Snapshot snapshot = dvr_snapshot();
    NetnsView& root = snapshot.root;
    add_link(root, kEth1, "eth1", "", "02:00:00:00:01:01", 1500);
    add_vlan(root, kVlan2001, 2001, kBrq);
    add_vlan(root, kVlan2002, 2002, kBrEx);
    add_static_fdb(root, kVlan2001, kHostMac);
    return snapshot;
}

fl_source_key tagged_key(int ifindex, std::uint16_t vlan) {
    fl_source_key key = source_row_key(ifindex);
    key.vlan = vlan;
    return key;
}

fl_out out_of(const Snapshot& snapshot) {
    return compile(snapshot, scope()).tables.fdb.at(fdb_row_key(kBrq, kHostMac)).out;
}

fl_out plain_out() {
    return out_port(kVlan2001, 1500, 0);
}

bool takes(const Compiled& compiled) {
    const auto& sources = compiled.tables.sources;
    const bool tagged = sources.contains(tagged_key(kEth1, 2001));
    CHECK(sources.contains(tagged_key(kEth1, 2002)) == tagged);
    const bool attached = std::ranges::any_of(compiled.devices, [](const DeviceRole& device) {
        return device.ifindex == kEth1 && device.kind == DeviceRole::Kind::kTrunk;
    });
    CHECK(attached == tagged);
    // The VLAN device's own program takes what is left to it.
    CHECK(sources.contains(source_row_key(kVlan2001)));
    return tagged;
}

bool takes(const std::function<void(Snapshot&)>& change) {
    Snapshot snapshot = vlan_snapshot();
    change(snapshot);
    return takes(compile(snapshot, scope()));
}

}  // namespace

TEST_CASE("frames leave by what a VLAN device is on, with its tag") {
    fl_out expected = plain_out();
    expected.ifindex = kEth1;
    expected.vlan = 2001;
    CHECK(hex(out_of(vlan_snapshot())) == hex(expected));
    Snapshot narrow = vlan_snapshot();
    narrow.root.links.at(kEth1).mtu = 1400;
    CHECK(out_of(narrow).mtu == 1400);
}

TEST_CASE("frames of a VLAN are taken on its trunk, which is one device with any number of VLANs") {
    const Compiled compiled = compile(vlan_snapshot(), scope());
    CHECK(takes(compiled));
    const Tables& tables = compiled.tables;
    fl_source row{};
    row.role = FL_ROLE_PORT;
    row.segment = kBrq;
    row.flags = FL_SRC_LEARNS;
    row.port = kVlan2001;
    CHECK(hex(tables.sources.at(tagged_key(kEth1, 2001))) == hex(row));
    CHECK(hex(tables.sources.at(source_row_key(kVlan2001))) == hex(row));
    fl_source trunk{};
    trunk.role = FL_ROLE_TRUNK;
    CHECK(hex(tables.sources.at(source_row_key(kEth1))) == hex(trunk));
    CHECK(std::ranges::count(compiled.devices, kEth1, &DeviceRole::ifindex) == 1);
}

TEST_CASE("a VLAN device that does more than add and remove a tag is a port as any") {
    const auto check = [](const std::function<void(Link&)>& change) {
        Snapshot snapshot = vlan_snapshot();
        for (const int ifindex : {kVlan2001, kVlan2002})
            change(snapshot.root.links.at(ifindex));
        CHECK(hex(out_of(snapshot)) == hex(plain_out()));
        CHECK_FALSE(takes(compile(snapshot, scope())));
    };
    check([](Link& link) { link.vlan->protocol = 0x88a8; });
    check([](Link& link) { link.vlan->other_flags = true; });
    check([](Link& link) { link.vlan->reorder_header = false; });
    check([](Link& link) { link.vlan->parent_ifindex = 0; });
    check([](Link& link) { link.vlan->parent_ifindex = 4711; });
}

TEST_CASE("what would be missed on a VLAN device is not") {
    Snapshot shaped = vlan_snapshot();
    shaped.root.links.at(kVlan2001).qdisc = "htb";
    CHECK(hex(out_of(shaped)) == hex(plain_out()));
    CHECK_FALSE(compile(shaped, scope()).tables.sources.contains(tagged_key(kEth1, 2001)));

    Snapshot down = vlan_snapshot();
    down.root.links.at(kEth1).running = false;
    CHECK(hex(out_of(down)) == hex(plain_out()));

    Snapshot nested = vlan_snapshot();
    nested.root.links.at(kEth1).vlan = VlanInfo{.id = 7, .protocol = 0x8100, .parent_ifindex = kEth0};
    CHECK(hex(out_of(nested)) == hex(plain_out()));
}

TEST_CASE(
    "a trunk with somebody else's program, or with rules at its ingress, keeps its frames; they leave as before") {
    CHECK_FALSE(takes([](Snapshot& s) { s.root.links.at(kEth1).foreign_programs = {"tcx ingress other"}; }));
    const auto guard = [](Snapshot& s) {
        nf::Chain& chain = add_chain(s.root, nf::Family::kNetdev, "filter", "guard", nf::Hook::kIngress);
        chain.device = "eth1";
        chain.rules = {rule("drop", {verdict(nf::VerdictKind::kDrop)})};
    };
    CHECK_FALSE(takes(guard));
    Snapshot snapshot = vlan_snapshot();
    guard(snapshot);
    CHECK(out_of(snapshot).vlan == 2001);
}

TEST_CASE("the underlay device has its own program, so VLANs on it are taken behind it") {
    Snapshot snapshot = vlan_snapshot();
    for (const int ifindex : {kVlan2001, kVlan2002})
        snapshot.root.links.at(ifindex).vlan->parent_ifindex = kEth0;
    const Compiled compiled = compile(snapshot, scope());
    CHECK_FALSE(compiled.tables.sources.contains(tagged_key(kEth0, 2001)));
    CHECK(compiled.tables.sources.contains(source_row_key(kVlan2001)));
    CHECK(std::ranges::count(compiled.devices, kEth0, &DeviceRole::ifindex) == 1);
    CHECK(out_of(snapshot).ifindex == kEth0);
    CHECK(out_of(snapshot).vlan == 2001);
}

TEST_CASE("a trunk that is a flat network's port as well is both") {
    Snapshot snapshot = vlan_snapshot();
    enslave(snapshot.root.links.at(kEth1), kBrEx);
    const Compiled compiled = compile(snapshot, scope());
    CHECK(takes(compiled));
    const fl_source& untagged = compiled.tables.sources.at(source_row_key(kEth1));
    CHECK(untagged.role == FL_ROLE_PORT);
    CHECK(untagged.segment == kBrEx);
    CHECK(untagged.port == kEth1);
}
