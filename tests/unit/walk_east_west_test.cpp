// SPDX-License-Identifier: Apache-2.0
// What VMs without a floating IP send to their router: between its networks, and not where anything is translated.
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"
#include "walk_scenario.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kQrMac2 = "fa:16:3e:0a:00:02";
constexpr const char* kMacE = "fa:16:3e:00:02:15";  // on this node, 10.0.1.15
constexpr const char* kMacF = "fa:16:3e:00:02:16";  // behind a tunnel, 10.0.1.16
constexpr const char* kPeer3 = "198.51.100.3";
constexpr int kBrq2 = 40, kTapQr2 = 41, kTapE = 42, kVxlan2 = 43, kQr2 = 5;

NetnsView& router(Snapshot& snapshot) {
    return snapshot.routers.at(kQrouter);
}

/// A second subnet 10.0.1.0/24 of the router, with a VM here and one elsewhere; neither has a floating IP.
Snapshot with_second_subnet(Snapshot snapshot) {
    NetnsView& root = snapshot.root;
    add_bridge(root, kBrq2, "brq22222222-22", "fa:16:3e:00:02:00");
    enslave(add_veth(root, kTapQr2, "tap22ab0002-20", "fe:16:3e:0a:00:02", router(snapshot), kQr2, "qr-22ab0002-20",
                     kQrMac2),
            kBrq2);
    add_static_fdb(root, kTapQr2, kQrMac2);
    enslave(add_link(root, kTapE, "tapeeeeeeee-ee", "tun", "fe:16:3e:00:02:15"), kBrq2);
    add_static_fdb(root, kTapE, kMacE);
    add_vxlan(root, kVxlan2, 300, kBrq2, true);
    add_remote_mac(root, kVxlan2, kMacF, "198.51.100.3");
    add_address(router(snapshot), kQr2, "10.0.1.1/24");
    add_neighbour(router(snapshot), kQr2, "10.0.1.15", kMacE);
    add_neighbour(router(snapshot), kQr2, "10.0.1.16", kMacF);
    set_sysctls(router(snapshot), false);
    return snapshot;
}

const std::set<std::string> kBridges{"br-ex", "brq11111111-11", "brq22222222-22"};

const fl_vm* vm_at(const Compiled& compiled, int port, const char* fixed, const char* router_mac) {
    const auto found = compiled.tables.vms.find(vm_key(port, fixed, router_mac));
    return found == compiled.tables.vms.end() ? nullptr : &found->second;
}

/// The row for an address, or null where Linux routes; only rows of whole addresses.
const fl_next* to(const Compiled& compiled, const fl_vm& vm, const char* address) {
    const auto found = compiled.tables.dests.find(dest_row_key(vm.domain, address));
    return found == compiled.tables.dests.end() ? nullptr : &found->second;
}

}  // namespace

TEST_CASE("a distributed router carries east-west for its own node's VMs") {
    const Compiled compiled = compile(with_second_subnet(dvr_snapshot()), {kBridges, {kQrouter}});
    const fl_vm* d = vm_at(compiled, kTapD, "10.0.0.14", kQrMac);
    const fl_vm* e = vm_at(compiled, kTapE, "10.0.1.15", kQrMac2);
    REQUIRE(d != nullptr);
    REQUIRE(e != nullptr);
    CHECK(hex(*d) == hex(vm_row(kMacD, "0.0.0.0", d->domain)));
    CHECK(d->domain != e->domain);
    CHECK(hex(*to(compiled, *d, "10.0.1.15")) == hex(journey(kMacE, kQrMac2, 1, out_port(kTapE))));
    CHECK(hex(*to(compiled, *d, "10.0.1.16")) == hex(journey(kMacF, kQrMac2, 1, [] {
              fl_out out = out_tunnel(300, kPeer3, kPeer3Mac);
              out.port = kVxlan2;
              return out;
          }())));
    CHECK(hex(*to(compiled, *e, "10.0.0.11")) == hex(journey(kMacA, kQrMac, 1, out_port(kTapA))));

    // The node of each remote VM has the router itself: nothing is looked up for what comes by the tunnels.
    CHECK(vm_at(compiled, kVxlan2, "10.0.1.16", kQrMac2) == nullptr);
    for (const auto& [key, tunnel] : compiled.tables.tunnels)
        CHECK((tunnel.flags & FL_SRC_ROUTED) == 0);
    CHECK_FALSE(compiled.devices.front().wire_to_wire);
}

TEST_CASE("a router on one node carries east-west for the VMs of all nodes, from wire to wire") {
    const Compiled compiled = compile(with_second_subnet(legacy_snapshot()), {kBridges});
    const fl_vm* f = vm_at(compiled, kVxlan2, "10.0.1.16", kQrMac2);
    REQUIRE(f != nullptr);
    CHECK(hex(*to(compiled, *f, "10.0.0.13")) == hex(journey(kMacC, kQrMac, 1, out_tunnel(200, kPeer3, kPeer3Mac))));
    CHECK((compiled.tables.sources.at(source_row_key(kVxlan2)).flags & FL_SRC_ROUTED) != 0);
    CHECK(compiled.devices.front().wire_to_wire);
    // The router has no addresses of its own for hosts on its external leg: those ask for floating IPs.
    for (const auto& [key, row] : compiled.tables.vms)
        CHECK(key.port != kVxlanEx);
}

TEST_CASE("what is translated on its way is conntrack's where the VM has no address of its own") {
    Snapshot snapshot = with_second_subnet(legacy_snapshot());
    using F = nf::Field;
    // Central SNAT: to the router's own address, and one that a tenant lends.
    router(snapshot).netfilter.chains[1].rules.push_back(
        rule("oifname qg snat to 172.24.5.3",
             {match(F::kOifname, {std::string("qg-31ab0003-30")}), nf::Snat{to_address("172.24.5.3"), false}}));
    router(snapshot).netfilter.chains[1].rules.insert(
        router(snapshot).netfilter.chains[1].rules.begin(),
        rule("oifname nowhere snat to 10.0.1.15",
             {match(F::kOifname, {std::string("nowhere")}), nf::Snat{to_address("10.0.1.15"), false}}));
    const Compiled compiled = compile(snapshot, {kBridges});
    const fl_vm* d = vm_at(compiled, kTapD, "10.0.0.14", kQrMac);
    REQUIRE(d != nullptr);
    CHECK(to(compiled, *d, "10.0.1.16") != nullptr);
    CHECK(to(compiled, *d, "172.24.5.11") == nullptr);  // another's floating IP
    CHECK(to(compiled, *d, "172.24.4.1") == nullptr);   // beyond the gateway, from the router's address
    CHECK(to(compiled, *d, "10.0.1.15") == nullptr);    // may be an answer to somebody whom it stands for
    const fl_vm* a = vm_at(compiled, kTapA, "10.0.0.11", kQrMac);
    REQUIRE(a != nullptr);
    CHECK(to(compiled, *a, "10.0.1.15") == nullptr);
}

TEST_CASE("a VM that a port of some address leads to answers through conntrack") {
    Snapshot snapshot = with_second_subnet(dvr_snapshot());
    nf::Chain& chain = add_chain(router(snapshot), nf::Family::kIp, "forwards", "prerouting", nf::Hook::kPrerouting,
                                 nf::ChainType::kNat);
    chain.rules = {rule("iifname rfp-7b1f3c52-9 tcp dport 2222 dnat to 10.0.0.14:22",
                        {match(nf::Field::kIifname, {std::string("rfp-7b1f3c52-9")}), match(nf::Field::kOther, {}),
                         nf::Unknown{.dnat = ip("10.0.0.14")}})};
    const Compiled compiled = compile(snapshot, {kBridges, {kQrouter}});
    CHECK(vm_at(compiled, kTapD, "10.0.0.14", kQrMac) == nullptr);
    CHECK(vm_at(compiled, kTapE, "10.0.1.15", kQrMac2) != nullptr);
}

TEST_CASE("two VMs without a floating IP are refused apart") {
    Snapshot snapshot = with_second_subnet(dvr_snapshot());
    add_static_fdb(snapshot.root, kTapE, "fa:16:3e:00:02:17");
    add_neighbour(router(snapshot), kQr2, "10.0.1.17", "fa:16:3e:00:02:17");
    add_address(router(snapshot), kQr, "10.0.1.17/32");  // the router's own: a martian from outside
    const Compiled compiled = compile(snapshot, {kBridges, {kQrouter}});
    CHECK(vm_at(compiled, kTapE, "10.0.1.15", kQrMac2) != nullptr);
    CHECK(vm_at(compiled, kTapE, "10.0.1.17", kQrMac2) == nullptr);
}
