// SPDX-License-Identifier: Apache-2.0
// Physical networks, and the provider networks on them.
#include <catch2/generators/catch_generators.hpp>

#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

constexpr std::string_view kProvider = R"(name: provider
physical_network_mtus: {bridge: 9000}
nodes:
  - name: net
    underlay: {device: eth0, address: 192.0.2.11}
    physical_networks: {bridge: eth1, extern: eth2}
    addresses: {public: 203.0.113.2/24}
  - name: c1
    underlay: {device: eth0, address: 192.0.2.12}
    physical_networks: {bridge: eth0}
networks:
  - name: public
    external: true
    network_type: flat
    physical_network: extern
    bridge: br-ex
    subnets: [{name: out, cidr: 203.0.113.0/24}]
  - name: blue
    network_type: vlan
    physical_network: bridge
    segmentation_id: 2001
    subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]
  - name: green
    network_type: vlan
    physical_network: bridge
    segmentation_id: 2002
    subnets: [{name: green-subnet, cidr: 10.2.0.0/24}]
  - name: overlay
    network_type: vxlan
    segmentation_id: 2001
    subnets: [{name: overlay-subnet, cidr: 10.3.0.0/24}]
routers:
  - name: classic
    distributed: false
    node: net
    external_gateway: {network: public, fixed_ip: 203.0.113.200}
    interfaces: [blue-subnet]
    routes: [{destination: 10.9.0.0/16, nexthop: 203.0.113.77}]
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11}
  - {name: vm2, network: green, node: net, fixed_ip: 10.2.0.12}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm1}
)";

TEST_CASE("provider networks: devices, MTUs, where they are") {
    const LoadResult result = parse_topology(kProvider, "provider.yaml");
    INFO(format_mistakes(result.mistakes, "provider.yaml"));
    REQUIRE(result.topology);
    const Network& external = result.topology->networks[0];
    const Network& blue = result.topology->networks[1];
    CHECK(external.type == NetworkType::kFlat);
    CHECK(external.provider_devices == std::map<std::size_t, std::string>{{0, "eth2"}});
    CHECK(external.mtu == 1500);
    CHECK_FALSE(external.reaches(1));
    CHECK(blue.provider_devices == std::map<std::size_t, std::string>{{0, "eth1.2001"}, {1, "eth0.2001"}});
    CHECK(blue.mtu == 9000);
    // A VNI and a VLAN id are different things, though the number is the same.
    CHECK(result.topology->networks[3].segmentation_id == blue.segmentation_id);
    CHECK(result.topology->networks[3].reaches(1));
    CHECK(result.topology->tunnel_ends(blue, 0).empty());
}

TEST_CASE("provider networks: mistakes") {
    check(
        GENERATE(values<Case>({
            {"{bridge: eth1, extern: eth2}", "{bridge: eth1, extern: @eth1}",
             "node net: physical network extern: device eth1 is already taken by node net: physical network bridge",
             "one physical network"},
            {"{bridge: eth0}", "{@\"b c\": eth0}", "node c1: physical network \"b c\" is not a valid name", "letters"},
            {"{bridge: eth0}", "{bridge: @eth/0}", "device of physical network bridge", ""},
            {"{bridge: 9000}", "{@brigde: 9000}", "physical_network_mtus: no node has the physical network brigde",
             "did you mean bridge?"},
            {"{bridge: 9000}", "{bridge: @1}", "MTU of physical network bridge", "576"},
            {"physical_network: extern", "physical_network: @extren",
             "network public: no node has the physical network extren", "did you mean extern?"},
            {"physical_network: extern", "physical_network: @wan", "no node has the physical network wan",
             "physical_networks: {wan: eth1}"},
            {"segmentation_id: 2002", "segmentation_id: @4095", "out of range", "1 to 4094"},
            {"segmentation_id: 2002", "segmentation_id: @2001",
             "network green: VLAN 2001 of physical network bridge is already taken by network blue",
             "of its own there"},
            {"segmentation_id: 2002", "segmentation_id: 2002\n    shape: @star", "a vlan network has no shape",
             "tunnels"},
            {"segmentation_id: 2002", "segmentation_id: 2002\n    hub: @net", "a vlan network has no hub", "tunnels"},
            {"segmentation_id: 2002", "segmentation_id: 2002\n    mtu: @9001",
             "network green: mtu 9001 is more than that of physical network bridge", "at most 9000"},
            {"physical_network: extern", "physical_network: extern\n    segmentation_id: @1",
             "network public: a flat network has no segmentation_id", "network_type: vlan"},
            {"network_type: vxlan", "network_type: vxlan\n    physical_network: @bridge",
             "network overlay: a vxlan network has no physical_network", "vlan or flat"},
            {"network_type: vlan\n    physical_network: bridge\n    segmentation_id: 2002",
             "network_type: flat\n    physical_network: @extern",
             "network green: physical network extern is already taken by network public", "only one flat network"},
            {"network_type: vlan\n    physical_network: bridge\n    segmentation_id: 2002",
             "network_type: flat\n    physical_network: @bridge",
             "network green: on node c1 it would take the underlay device eth0 into its bridge", "network_type: vlan"},
            {"{bridge: eth0}", "{bridge: eth0}\n    addresses: {@public: 203.0.113.3/24}",
             "network public is on physical network extern, which node c1 does not have",
             "add to node c1: physical_networks: {extern: eth1}"},
            {"    node: net\n    external_gateway: {network: public,",
             "    node: c1\n    external_gateway: {network: @public,",
             "router classic: external_gateway: network public is on physical network extern, which node c1", "extern"},
            {"fixed_ip: 10.1.0.11}", "fixed_ip: 10.1.0.11, device: @eth0.2001}",
             "device name eth0.2001 on node c1 is already taken by network blue: VLAN device", "unique on a node"},
            {"bridge: br-ex", "bridge: @eth1",
             "network public: bridge: device name eth1 on node net is already taken by node net: physical network "
             "bridge",
             "exists before fiplane"},
        })),
        kProvider);
}

TEST_CASE("provider networks: what a VLAN or flat network lacks is blamed on its mapping") {
    const auto lacks = [](std::string_view from, std::string_view what) {
        const auto mistakes = parse_topology(edited(from, "", kProvider), "f").mistakes;
        REQUIRE(mistakes.size() == 1);
        CHECK(mistakes[0].what == what);
    };
    lacks("    physical_network: extern\n", "network public lacks physical_network");
    lacks("    segmentation_id: 2002\n", "network green lacks segmentation_id");
}

TEST_CASE("provider networks: a node without the physical network, once for all that is there") {
    std::string text = edited("    physical_networks: {bridge: eth0}\n", "", kProvider);
    text = edited("vm2, network: green, node: net", "vm2, network: blue, node: c1", text);
    text = edited("10.2.0.12", "10.1.0.12", text);
    const auto mistakes = parse_topology(text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what == "port vm1: network blue is on physical network bridge, which node c1 does not have");
    CHECK(mistakes[0].hint == "add to node c1: physical_networks: {bridge: eth1}");
}

TEST_CASE("provider networks: distributed routers have no interface there, but may have their gateway") {
    const std::string distributed = edited(
        "    distributed: false\n    node: net\n    external_gateway: {network: public, fixed_ip: 203.0.113.200}\n",
        "    external_gateway: public\n", kProvider);
    const auto wrong =
        parse_topology(edited("  - {floating_ip_address: 203.0.113.101, port: vm1}\n", "", distributed), "f");
    REQUIRE(wrong.mistakes.size() == 1);
    CHECK(wrong.mistakes[0].what ==
          "router classic: a distributed router on blue-subnet, a subnet of the vlan network blue");
    CHECK(wrong.mistakes[0].hint.find("write distributed: false") != std::string::npos);

    std::string text = edited("interfaces: [blue-subnet]", "interfaces: [overlay-subnet]", distributed);
    text = edited("vm1, network: blue, node: c1, fixed_ip: 10.1.0.11",
                  "vm1, network: overlay, node: c1, fixed_ip: 10.3.0.11", text);
    // Before an agent gateway is asked for, its network must be able to be there.
    const auto missing = parse_topology(text, "f").mistakes;
    REQUIRE(missing.size() == 1);
    CHECK(missing[0].what ==
          "floating IP 203.0.113.101: network public is on physical network extern, which node c1 does not have");
    text = edited("{bridge: eth0}", "{bridge: eth0, extern: eth1}", text);
    text = edited("ports:\n",
                  "ports:\n  - {name: fg, network: public, node: c1, fixed_ip: 203.0.113.201, "
                  "device_owner: network:floatingip_agent_gateway}\n",
                  text);
    const LoadResult right = parse_topology(text, "f");
    INFO(format_mistakes(right.mistakes, "f"));
    CHECK(right.topology);
}

}  // namespace
}  // namespace fiplane::topology_test
