// SPDX-License-Identifier: Apache-2.0
// Nodes that attach their VMs by macvtap: what build makes there, and what it leaves to the hypervisor.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <ranges>

#include "build_support.hpp"

namespace fiplane::build {
namespace {

constexpr std::string_view kCloud = R"(name: cloud
nodes:
  - {name: net, underlay: {device: eth0, address: 192.0.2.1}, physical_networks: {bridge: eth1, extern: eth2}}
  - {name: c1, underlay: {device: eth0, address: 192.0.2.2}, vif_type: macvtap,
     physical_networks: {bridge: eth1, extern: eth2}}
  - {name: idle, underlay: {device: eth0, address: 192.0.2.3}, vif_type: macvtap,
     physical_networks: {bridge: eth1, extern: eth2}}
networks:
  - {name: public, external: true, network_type: flat, physical_network: extern, bridge: br-ex,
     subnets: [{name: out, cidr: 203.0.113.0/24}]}
  - {name: overlay, external: true, segmentation_id: 7, subnets: [{name: over, cidr: 198.51.100.0/24}]}
  - {name: blue, network_type: vlan, physical_network: bridge, segmentation_id: 2001, bridge: br-blue, mtu: 1400,
     subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]}
  - {name: green, network_type: vlan, physical_network: bridge, segmentation_id: 2002, bridge: br-green,
     subnets: [{name: green-subnet, cidr: 10.2.0.0/24}]}
routers:
  - {name: r, distributed: false, node: net, external_gateway: {network: public, fixed_ip: 203.0.113.200},
     interfaces: [blue-subnet, green-subnet]}
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11, mac: "fa:16:3e:00:01:11"}
  - {name: vm2, network: blue, node: c1, fixed_ip: 10.1.0.12, mac: "fa:16:3e:00:01:12"}
  - {name: vm3, network: public, node: c1, fixed_ip: 203.0.113.13, mac: "fa:16:3e:00:01:13"}
  - {name: vm4, network: blue, node: net, fixed_ip: 10.1.0.14}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm1}
)";

Topology cloud() {
    return load_cloud(kCloud);
}

DesiredNetns root_of(std::size_t node) {
    return desired_node(cloud(), node).netns.at("");
}

/// The node with its devices as they are before anything was built, and the VLAN device as build makes it.
ActualNode with_vlan() {
    ActualNode out = node_with({"lo", "eth0", "eth1", "eth2", "eth1.2001"});
    ActualNetns& root = out.netns[""];
    Link& vlan = root.links.at("eth1.2001");
    vlan.kind = "vlan";
    vlan.alias = "fiplane:cloud";
    vlan.mtu = 1400;
    vlan.all_multicast = true;
    vlan.vlan = VlanInfo{.id = 2001, .parent_ifindex = root.links.at("eth1").ifindex};
    return out;
}

Draft difference(const ActualNode& actual) {
    const auto desired = desire(cloud(), 1, {});
    REQUIRE(desired);
    auto draft = diff(*desired, actual);
    INFO((draft ? "" : draft.error().message()));
    REQUIRE(draft);
    return std::move(*draft);
}

/// What is set of the VLAN device.
ConfigureDevice configured(const ActualNode& actual) {
    for (const auto& operation : difference(actual).operations) {
        const auto* change = std::get_if<ConfigureDevice>(&operation.change);
        if (change != nullptr && change->name == "eth1.2001") return *change;
    }
    FAIL("eth1.2001 is left as it is");
    return {};
}

std::vector<std::string> steps_about(const ActualNode& actual, std::string_view object) {
    std::vector<std::string> out;
    for (const auto& operation : difference(actual).operations) {
        for (const auto& step : operation.steps) {
            if (step.object.find(object) != std::string::npos) out.push_back(step.object + ": " + step.detail);
        }
    }
    return out;
}

using Strings = std::vector<std::string>;

const NftChain* chain_of(const DesiredNetns& root, std::string_view device) {
    for (const NftTable& table : root.tables) {
        for (const NftChain& chain : table.chains) {
            if (chain.device == device) return &chain;
        }
    }
    return nullptr;
}

}  // namespace

TEST_CASE("macvtap: networks are where their VMs are", "[build][macvtap]") {
    const Topology topology = cloud();
    CHECK(place(topology, 1).networks == std::set<std::size_t>{0, 2});
    // Not even external networks, over tunnels or on a physical network that is there: they would need a bridge.
    CHECK(place(topology, 2).networks.empty());
    CHECK(place(topology, 1).routers.empty());
    CHECK(place(topology, 1).floating_ips.empty());
    CHECK(place(topology, 0).floating_ips.size() == 1);
}

TEST_CASE("macvtap: VLAN devices in no bridge, and nothing else", "[build][macvtap]") {
    const auto desired = desire(cloud(), 1, {});
    REQUIRE(desired);
    CHECK(desired->netns.size() == 1);
    const DesiredNetns& root = desired->netns.at("");
    const auto names = std::views::keys(root.devices);
    CHECK(std::set<std::string>(names.begin(), names.end()) == std::set<std::string>{"eth1", "eth1.2001", "eth2"});
    const DesiredDevice& vlan = root.devices.at("eth1.2001");
    CHECK(std::get<VlanKind>(vlan.kind).parent == "eth1");
    CHECK(vlan.mtu == 1400);
    CHECK(vlan.master.empty());
    CHECK(vlan.all_multicast);
    CHECK_FALSE(vlan.port_flags);
    CHECK(root.devices.at("eth2").master.empty());
    CHECK_FALSE(root.devices.at("eth2").all_multicast);
    CHECK(root.fdb.empty());
    CHECK(root.addresses.empty());
    CHECK(root.neighbours.empty());
    CHECK(std::ranges::any_of(root.sysctls, [](const DesiredSysctl& each) {
        return each.key == "ipv6/conf/eth1.2001/disable_ipv6" && each.value == "1";
    }));
    CHECK(root_of(2).devices.empty());
    CHECK(root_of(2).tables.empty());
}

TEST_CASE("macvtap: VMs send with their own addresses only", "[build][macvtap]") {
    const DesiredNetns root = root_of(1);
    REQUIRE(root.tables.size() == 1);
    const NftChain* const vlan = chain_of(root, "eth1.2001");
    REQUIRE(vlan != nullptr);
    CHECK(vlan->hook == "egress");
    CHECK(vlan->rules ==
          Strings{"meta protocol 8021q counter drop", "meta protocol 8021ad counter drop",
                  "ether type 8021q counter drop", "ether type 8021ad counter drop",
                  "ether saddr fa:16:3e:00:01:11 arp saddr ether != fa:16:3e:00:01:11 counter drop",
                  "ether saddr fa:16:3e:00:01:11 arp saddr ip != 0.0.0.0 arp saddr ip != 10.1.0.11 counter drop",
                  "ether saddr fa:16:3e:00:01:11 ip saddr != 0.0.0.0 ip saddr != 10.1.0.11 counter drop",
                  "ether saddr fa:16:3e:00:01:11 accept",
                  "ether saddr fa:16:3e:00:01:12 arp saddr ether != fa:16:3e:00:01:12 counter drop",
                  "ether saddr fa:16:3e:00:01:12 arp saddr ip != 0.0.0.0 arp saddr ip != 10.1.0.12 counter drop",
                  "ether saddr fa:16:3e:00:01:12 ip saddr != 0.0.0.0 ip saddr != 10.1.0.12 counter drop",
                  "ether saddr fa:16:3e:00:01:12 accept", "counter drop"});
    // VLAN devices may be on it beside the macvtaps.
    const NftChain* const flat = chain_of(root, "eth2");
    REQUIRE(flat != nullptr);
    REQUIRE(flat->rules.size() == 8);
    CHECK(flat->rules[2] == "ether type 8021q accept");
    CHECK(flat->rules.back() == "counter drop");
    CHECK(chain_of(root, "eth1") == nullptr);
}

TEST_CASE("macvtap: other nodes know the VMs behind their uplink", "[build][macvtap]") {
    CHECK(root_of(0).fdb.contains({"eth1.2001", *Mac::parse("fa:16:3e:00:01:11"), std::nullopt}));
}

TEST_CASE("macvtap: the VLAN device is made and mended", "[build][macvtap]") {
    ActualNode actual = with_vlan();
    CHECK(steps_about(actual, "vlan eth1.2001").empty());
    CHECK(steps_about(actual, "chain netdev fiplane port_eth1.2001").size() == 1);
    Link& vlan = actual.netns.at("").links.at("eth1.2001");
    SECTION("missing") {
        actual.netns.at("").links.erase("eth1.2001");
        CHECK(steps_about(actual, "vlan eth1.2001") == Strings{"vlan eth1.2001 id 2001 on eth1: mtu 1400"});
        CHECK(configured(actual).all_multicast);
        CHECK(configured(actual).up);
        CHECK_FALSE(configured(actual).master);
    }
    SECTION("not all multicast") {
        vlan.all_multicast = false;
        CHECK(steps_about(actual, "vlan eth1.2001") ==
              Strings{"vlan eth1.2001 id 2001 on eth1: allmulticast off -> on"});
        CHECK(configured(actual).all_multicast);
    }
    SECTION("in a bridge, as before the node had macvtaps") {
        vlan.master = 3;
        CHECK(steps_about(actual, "vlan eth1.2001") == Strings{"vlan eth1.2001 id 2001 on eth1: master eth1 -> none"});
        CHECK(configured(actual).master == "");
    }
    SECTION("down") {
        vlan.admin_up = false;
        CHECK(steps_about(actual, "vlan eth1.2001") == Strings{"vlan eth1.2001 id 2001 on eth1: down -> up"});
    }
    SECTION("of a network that left") {
        Link& stale = actual.netns.at("").links["eth1.9"];
        stale = vlan;
        stale.name = "eth1.9";
        stale.ifindex = 9;
        CHECK(steps_about(actual, "eth1.9") == Strings{"vlan eth1.9: "});
    }
    SECTION("the hypervisor's macvtaps are its own") {
        Link& macvtap = actual.netns.at("").links["macvtap0"];
        macvtap.name = "macvtap0";
        macvtap.kind = "macvtap";
        macvtap.ifindex = 9;
        CHECK(steps_about(actual, "macvtap0").empty());
    }
}

TEST_CASE("macvtap: a flat network's device must not have addresses", "[build][macvtap]") {
    ActualNode actual = with_vlan();
    ActualNetns& root = actual.netns.at("");
    root.addresses.push_back({root.links.at("eth2").ifindex, *Prefix::parse("198.51.100.7/24")});
    const auto desired = desire(cloud(), 1, {});
    REQUIRE(desired);
    const auto draft = diff(*desired, actual);
    REQUIRE_FALSE(draft);
    CHECK(draft.error().code == ExitCode::kForeignObject);
    CHECK(draft.error().what ==
          "device eth2 of physical network extern has the address 198.51.100.7/24, and only VMs may send by it");
}

}  // namespace fiplane::build
