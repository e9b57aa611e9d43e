// SPDX-License-Identifier: Apache-2.0
// VLAN and flat networks: what a node must hold, whose devices it may use, and what is left of former ones.
#include <fmt/format.h>
#include <linux/neighbour.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build_support.hpp"

namespace fiplane::build {
namespace {

constexpr std::string_view kCloud = R"(name: cloud
nodes:
  - {name: net, underlay: {device: eth0, address: 192.0.2.1}, physical_networks: {bridge: eth1, extern: eth2},
     addresses: {public: 203.0.113.2/24}}
  - {name: c1, underlay: {device: eth0, address: 192.0.2.2}, physical_networks: {bridge: eth0, extern: eth2},
     addresses: {public: 203.0.113.3/24}}
  - {name: idle, underlay: {device: eth0, address: 192.0.2.3}, physical_networks: {bridge: eth1}}
networks:
  - {name: public, external: true, network_type: flat, physical_network: extern, bridge: br-ex,
     subnets: [{name: out, cidr: 203.0.113.0/24}]}
  - {name: blue, network_type: vlan, physical_network: bridge, segmentation_id: 2001, bridge: br-blue,
     subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]}
  - {name: green, network_type: vlan, physical_network: bridge, segmentation_id: 2002, bridge: br-green, mtu: 1400,
     subnets: [{name: green-subnet, cidr: 10.2.0.0/24}]}
routers:
  - {name: r, distributed: false, node: net, external_gateway: {network: public, fixed_ip: 203.0.113.200},
     interfaces: [blue-subnet, {subnet: green-subnet, mac: "fa:16:3e:00:00:02"}],
     routes: [{destination: 10.9.0.0/16, nexthop: 203.0.113.77}]}
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11, mac: "fa:16:3e:00:01:11"}
  - {name: vm2, network: green, node: c1, fixed_ip: 10.2.0.11, mac: "fa:16:3e:00:02:11"}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm1}
)";

Topology cloud() {
    return load_cloud(kCloud);
}

DesiredNode node(std::size_t index) {
    return desired_node(cloud(), index);
}

Mac mac(const char* text) {
    return *Mac::parse(text);
}

/// A node as it is before anything was built.
ActualNode bare() {
    return node_with({"lo", "eth0", "eth1", "eth2"});
}

Link& add_link(ActualNode& actual, const std::string& name, const std::string& kind, const std::string& alias) {
    ActualNetns& root = actual.netns.at("");
    Link link;
    link.ifindex = static_cast<int>(root.links.size()) + 1;
    link.name = name;
    link.kind = kind;
    link.alias = alias;
    link.mtu = 1500;
    link.admin_up = true;
    root.names[link.ifindex] = name;
    return root.links[name] = link;
}

/// A bridge, as ours are.
Link& add_bridge(ActualNode& actual, const std::string& name, const std::string& alias) {
    Link& link = add_link(actual, name, "bridge", alias);
    link.bridge.emplace();
    return link;
}

Link& add_vlan(ActualNode& actual, const std::string& name, std::uint16_t id, const std::string& alias) {
    Link& link = add_link(actual, name, "vlan", alias);
    link.vlan = VlanInfo{.id = id, .parent_ifindex = actual.netns.at("").links.at("eth1").ifindex};
    return link;
}

Draft difference(const DesiredNode& desired, const ActualNode& actual) {
    auto draft = diff(desired, actual);
    INFO((draft ? "" : draft.error().message()));
    REQUIRE(draft);
    return std::move(*draft);
}

Error refusal(const DesiredNode& desired, const ActualNode& actual) {
    const auto draft = diff(desired, actual);
    REQUIRE_FALSE(draft);
    return draft.error();
}

std::string text_of(const Step& step) {
    const char* sign = step.action == Step::Action::kAdd ? "+" : step.action == Step::Action::kChange ? "~" : "-";
    return fmt::format("{} {}: {}", sign, step.object, step.detail);
}

std::vector<std::string> steps_about(const Draft& draft, std::string_view device) {
    std::vector<std::string> out;
    for (const auto& operation : draft.operations) {
        for (const auto& step : operation.steps) {
            if (step.object.find(device) != std::string::npos) out.push_back(text_of(step));
        }
    }
    return out;
}

bool has(const std::vector<std::string>& steps, std::string_view wanted) {
    return std::ranges::find(steps, wanted) != steps.end();
}

}  // namespace

TEST_CASE("provider networks are where they are needed and can be", "[build][provider]") {
    const Topology topology = cloud();
    CHECK(place(topology, 0).networks == std::set<std::size_t>{0, 1, 2});
    CHECK(place(topology, 1).networks == std::set<std::size_t>{0, 1, 2});
    // External networks go to every node that has their physical network.
    CHECK(place(topology, 2).networks.empty());
}

TEST_CASE("a VLAN device learns and floods, and has static entries for what the topology lists", "[build][provider]") {
    const DesiredNode net = node(0);
    const DesiredNetns& root = net.netns.at("");
    const DesiredDevice& blue = root.devices.at("eth1.2001");
    CHECK(std::get<VlanKind>(blue.kind).id == 2001);
    CHECK(std::get<VlanKind>(blue.kind).parent == "eth1");
    CHECK(blue.master == "br-blue");
    CHECK(blue.mtu == 1500);
    CHECK(root.devices.at("eth1.2002").mtu == 1400);
    CHECK(*blue.port_flags == DesiredDevice::PortFlags{.learning = true, .isolated = false, .neigh_suppress = false});
    // One device for both VLANs, and in no bridge.
    CHECK(std::get<PhysicalKind>(root.devices.at("eth1").kind).physical_network == "bridge");
    CHECK(root.devices.at("eth1").master.empty());
    CHECK(root.fdb.contains({"eth1.2001", mac("fa:16:3e:00:01:11"), std::nullopt}));
    CHECK_FALSE(root.fdb.contains({"eth1.2002", mac("fa:16:3e:00:01:11"), std::nullopt}));
    // ARP must cross: others may be there.
    CHECK(root.neighbours.empty());
    CHECK_FALSE(std::get<BridgeKind>(root.devices.at("br-blue").kind).tenant);
    CHECK(root.tables.empty());
    const auto silent = [&](const char* key) {
        return std::ranges::any_of(root.sysctls,
                                   [&](const auto& each) { return each.key == key && each.value == "1"; });
    };
    CHECK(silent("ipv6/conf/eth1.2001/disable_ipv6"));
    // Somebody else's device: its settings are its owner's.
    CHECK_FALSE(silent("ipv6/conf/eth1/disable_ipv6"));

    // On the other node: the router's legs are behind the VLAN, and the device is the underlay's.
    const DesiredNetns remote = node(1).netns.at("");
    CHECK(std::get<VlanKind>(remote.devices.at("eth0.2002").kind).parent == "eth0");
    CHECK(remote.fdb.contains({"eth0.2002", mac("fa:16:3e:00:00:02"), std::nullopt}));
    CHECK(remote.fdb.contains({"eth2", cloud().nodes[0].bridge_addresses[0].mac, std::nullopt}));
}

TEST_CASE("a flat network plugs the device itself in", "[build][provider]") {
    const DesiredNode net = node(0);
    const DesiredNetns& root = net.netns.at("");
    CHECK(std::get<PhysicalKind>(root.devices.at("eth2").kind).physical_network == "extern");
    CHECK(root.devices.at("eth2").master == "br-ex");
    CHECK(root.fdb.contains({"eth2", net.uplink_marks.at("br-ex"), std::nullopt}));
    CHECK(root.fdb.contains({"eth2", cloud().nodes[1].bridge_addresses[0].mac, std::nullopt}));
}

TEST_CASE("a router's next hop that nobody lists is a route, not a neighbour", "[build][provider]") {
    const DesiredNode net = node(0);
    const auto router =
        std::ranges::find_if(net.netns, [](const auto& each) { return each.first.starts_with("qrouter-"); });
    REQUIRE(router != net.netns.end());
    CHECK(std::ranges::any_of(router->second.routes, [](const DesiredRoute& route) {
        return route.device.starts_with("qg-") && route.gateway == Ipv4::parse("203.0.113.77") &&
               route.destination == *Prefix::parse("10.9.0.0/16");
    }));
    CHECK(router->second.neighbours.empty());
}

TEST_CASE("provider devices are made, kept, mended", "[build][provider]") {
    const DesiredNode net = node(0);
    ActualNode actual = bare();
    auto steps = steps_about(difference(net, actual), "eth1");
    CHECK(has(steps, "+ vlan eth1.2001 id 2001 on eth1: mtu 1500"));
    CHECK(has(steps_about(difference(net, actual), "device eth2"),
              "~ device eth2 of physical network extern: master none -> br-ex"));

    const Link bridge = add_bridge(actual, "br-blue", "fiplane:cloud");
    Link& vlan = add_vlan(actual, "eth1.2001", 2001, "fiplane:cloud");
    vlan.master = bridge.ifindex;
    vlan.bridge_port.emplace();
    CHECK(steps_about(difference(net, actual), "vlan eth1.2001").empty());
    SECTION("taken out of the bridge") {
        vlan.master = 0;
        CHECK(has(steps_about(difference(net, actual), "vlan eth1.2001"),
                  "~ vlan eth1.2001 id 2001 on eth1: master none -> br-blue"));
    }
    SECTION("another id, another protocol, priorities that somebody mapped: made again") {
        SECTION("id") {
            vlan.vlan->id = 7;
        }
        SECTION("protocol") {
            vlan.vlan->protocol = 0x88a8;
        }
        SECTION("flags") {
            vlan.vlan->other_flags = true;
        }
        SECTION("parent") {
            vlan.vlan->parent_ifindex = actual.netns.at("").links.at("eth2").ifindex;
        }
        steps = steps_about(difference(net, actual), "vlan eth1.2001");
        CHECK(has(steps, "- vlan eth1.2001: it is not as it must be, and cannot be changed"));
        CHECK(has(steps, "+ vlan eth1.2001 id 2001 on eth1: mtu 1500"));
    }
    SECTION("learning switched off") {
        vlan.bridge_port->learning = false;
        CHECK(has(steps_about(difference(net, actual), "vlan eth1.2001"),
                  "~ vlan eth1.2001 id 2001 on eth1: learning off -> on"));
    }
    SECTION("a static entry that nobody asked for goes, a learned one stays") {
        ActualNetns& root = actual.netns.at("");
        const auto entry = [&](const char* address, std::uint16_t state) {
            FdbEntry out;
            out.ifindex = vlan.ifindex;
            out.bridge = bridge.ifindex;
            out.mac = mac(address);
            out.state = state;
            return out;
        };
        root.fdb = {entry("fa:16:3e:00:01:99", NUD_NOARP), entry("02:00:00:00:00:01", NUD_REACHABLE)};
        const Draft draft = difference(net, actual);
        CHECK(has(steps_about(draft, "fa:16:3e:00:01:99"), "- fdb fa:16:3e:00:01:99 dev eth1.2001 master: "));
        CHECK(steps_about(draft, "02:00:00:00:00:01").empty());
    }
}

TEST_CASE("a physical device that is down is raised before its VLANs", "[build][provider]") {
    const DesiredNode net = node(0);
    ActualNode actual = bare();
    actual.netns.at("").links.at("eth1").admin_up = false;
    const Draft draft = difference(net, actual);
    CHECK(has(steps_about(draft, "device eth1"), "~ device eth1 of physical network bridge: down -> up"));
    const auto raises = [](const char* name) {
        return [name](const Operation& operation) {
            const auto* change = std::get_if<ConfigureDevice>(&operation.change);
            return change != nullptr && change->name == name && change->up;
        };
    };
    CHECK(std::ranges::find_if(draft.operations, raises("eth1")) <
          std::ranges::find_if(draft.operations, raises("eth1.2001")));
}

TEST_CASE("a physical device that is absent is waited for, and its VLANs with it", "[build][provider]") {
    const DesiredNode net = node(0);
    ActualNode actual = bare();
    ActualNetns& root = actual.netns.at("");
    root.names.erase(root.links.at("eth1").ifindex);
    root.links.erase("eth1");
    const Draft draft = difference(net, actual);
    CHECK(draft.waiting_for == std::vector<std::string>{"device eth1 of physical network bridge"});
    CHECK(steps_about(draft, "eth1").empty());
    CHECK(has(steps_about(draft, "bridge br-blue"), "+ bridge br-blue: mtu 1500"));
    // Whoever starts is told at once.
    const auto refused = check_physical_devices(cloud(), 0, actual);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kMissingDevice);
    CHECK(refused.error().what == "node net has no device eth1, which leads to physical network bridge");
    CHECK(check_physical_devices(cloud(), 0, bare()));
}

TEST_CASE("devices that are somebody else's are not taken", "[build][provider]") {
    const DesiredNode net = node(0);
    ActualNode actual = bare();
    ActualNetns& root = actual.netns.at("");
    SECTION("a flat network's device in another bridge") {
        root.links.at("eth2").master = add_bridge(actual, "br-office", "").ifindex;
        CHECK(refusal(net, actual).what ==
              "device eth2 of physical network extern is in br-office, which somebody else made");
    }
    SECTION("a flat network's device with an address") {
        root.addresses.push_back({root.links.at("eth2").ifindex, *Prefix::parse("198.51.100.7/24")});
        CHECK(refusal(net, actual).what ==
              "device eth2 of physical network extern has the address 198.51.100.7/24, which would stop working in "
              "bridge br-ex");
    }
    SECTION("a VLAN device of that name without our mark") {
        add_vlan(actual, "eth1.2001", 2001, "");
        CHECK(refusal(net, actual).what ==
              "device eth1.2001 was made by somebody else: it is a vlan without fiplane's mark");
    }
    SECTION("the VLAN under another name") {
        add_vlan(actual, "office", 2001, "");
        CHECK(refusal(net, actual).what == "VLAN 2001 of eth1 has the device office already, which somebody else made");
    }
    if (const auto draft = diff(net, actual); !draft) CHECK(draft.error().code == ExitCode::kForeignObject);

    // What is no obstacle: an address on the device under VLANs, or on a flat network's that is ours already.
    ActualNode fine = bare();
    ActualNetns& there = fine.netns.at("");
    there.links.at("eth2").master = add_bridge(fine, "br-ex", "fiplane:cloud").ifindex;
    there.addresses = {{there.links.at("eth1").ifindex, *Prefix::parse("198.51.100.7/24")},
                       {there.links.at("eth2").ifindex, *Prefix::parse("198.51.100.8/24")}};
    CHECK(diff(net, fine));
}

TEST_CASE("a flat network's former device leaves the bridge, a port of the operator's stays", "[build][provider]") {
    const DesiredNode net = node(0);
    ActualNode actual = bare();
    ActualNetns& root = actual.netns.at("");
    const Link bridge = add_bridge(actual, "br-ex", "fiplane:cloud");
    for (const char* name : {"eth9", "operators"}) {
        Link& port = add_link(actual, name, "", "");
        port.master = bridge.ifindex;
        port.bridge_port.emplace();
    }
    FdbEntry mark;
    mark.ifindex = root.links.at("eth9").ifindex;
    mark.bridge = bridge.ifindex;
    mark.mac = net.uplink_marks.at("br-ex");
    mark.state = NUD_NOARP;
    root.fdb.push_back(mark);
    const Draft draft = difference(net, actual);
    CHECK(has(steps_about(draft, "eth9"),
              "~ device eth9: master br-ex -> none: it is not the device of its physical network any more"));
    CHECK(steps_about(draft, "operators").empty());
    SECTION("and where the network is flat no more") {
        Topology topology = cloud();
        topology.networks[0].type = NetworkType::kVlan;
        topology.networks[0].segmentation_id = 5;
        topology.networks[0].provider_devices = {{0, "eth2.5"}, {1, "eth2.5"}};
        const auto desired = desire(topology, 0, {});
        REQUIRE(desired);
        CHECK(has(steps_about(difference(*desired, actual), "eth9"),
                  "~ device eth9: master br-ex -> none: it is not the device of its physical network any more"));
    }
    // The mark is where the network's device is.
    root.fdb[0].ifindex = root.links.at("eth2").ifindex;
    root.links.at("eth2").master = bridge.ifindex;
    root.links.at("eth2").bridge_port.emplace();
    CHECK(steps_about(difference(net, actual), "device eth2").empty());
}

TEST_CASE("a network's MTU must fit its physical network's device", "[build][provider]") {
    ActualNode actual = bare();
    ActualNetns& root = actual.netns.at("");
    root.addresses.push_back({root.links.at("eth0").ifindex, *Prefix::parse("192.0.2.1/24")});
    CHECK(check_underlay(cloud(), 0, actual));
    root.links.at("eth1").mtu = 1450;
    const auto refused = check_underlay(cloud(), 0, actual);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kBadTopology);
    CHECK(refused.error().what ==
          "network blue has MTU 1500, and eth1, the device of physical network bridge, has 1450");
    root.links.erase("eth1");
    CHECK(check_underlay(cloud(), 0, actual));
}

}  // namespace fiplane::build
