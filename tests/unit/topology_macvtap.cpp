// SPDX-License-Identifier: Apache-2.0
// Nodes that attach their VMs by macvtap: what they have, and what cannot be there.
#include <catch2/generators/catch_generators.hpp>

#include "topology/derive.hpp"
#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

constexpr std::string_view kMacvtap = R"(name: classic
nodes:
  - name: net
    underlay: {device: eth0, address: 192.0.2.11}
    physical_networks: {bridge: eth1, extern: eth2}
  - name: c1
    underlay: {device: eth0, address: 192.0.2.12}
    vif_type: macvtap
    physical_networks: {bridge: enp129s0f0np0, extern: eth2}
  - name: c2
    underlay: {device: eth0, address: 192.0.2.13}
    physical_networks: {bridge: enp129s0f0np0}
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
    segmentation_id: 1
    subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]
  - name: overlay
    segmentation_id: 2001
    subnets: [{name: overlay-subnet, cidr: 10.3.0.0/24}]
routers:
  - name: classic
    distributed: false
    node: net
    external_gateway: {network: public, fixed_ip: 203.0.113.200}
    interfaces: [blue-subnet]
  - name: spread
    distributed: true
    external_gateway: public
    interfaces: [overlay-subnet]
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11}
  - {name: vm2, network: public, node: c1, fixed_ip: 203.0.113.12}
  - {name: vm3, network: overlay, node: net, fixed_ip: 10.3.0.13}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm1}
)";

TEST_CASE("macvtap: devices that VMs are on") {
    const LoadResult result = parse_topology(kMacvtap, "macvtap.yaml");
    INFO(format_mistakes(result.mistakes, "macvtap.yaml"));
    REQUIRE(result.topology);
    const Topology& t = *result.topology;
    CHECK(t.nodes[0].vif_type == VifType::kBridge);
    CHECK(t.nodes[1].vif_type == VifType::kMacvtap);
    // The same physical device: 15 characters with the VLAN id, which the linuxbridge rule keeps.
    CHECK(t.networks[1].provider_devices ==
          std::map<std::size_t, std::string>{{0, "eth1.1"}, {1, "enp197e4a1.1"}, {2, "enp129s0f0np0.1"}});
    CHECK(t.networks[0].provider_devices.at(1) == "eth2");
    // Whatever the hypervisor calls it.
    CHECK(t.ports[0].device.empty());
    CHECK(t.ports[2].device.starts_with("tap"));
}

TEST_CASE("macvtap: names of VLAN devices") {
    using topology::macvtap_vlan_device_name;
    // printf %s NAME | sha1sum
    CHECK(macvtap_vlan_device_name("eth1", 101) == "eth1.101");
    CHECK(macvtap_vlan_device_name("0123456789", 4094) == "0123456789.4094");
    CHECK(macvtap_vlan_device_name("0123456789a", 7) == "01234c8e08.7");
    CHECK(macvtap_vlan_device_name("enp129s0f0np0", 101) == "enp197e4a1.101");
}

TEST_CASE("macvtap: what cannot be on such a node") {
    check(
        GENERATE(values<Case>({
            {"vif_type: macvtap", "vif_type: @ovs", "vif_type \"ovs\" is not a way to attach VMs", "bridge or macvtap"},
            {"network: blue, node: c1, fixed_ip: 10.1.0.11}",
             "network: blue, node: c1, fixed_ip: 10.1.0.11, device: @tap0}",
             "port vm1: device has no meaning on node c1, whose vif_type is macvtap",
             "names its macvtap devices itself"},
            {"network: overlay, node: net,", "network: overlay, node: @c1,",
             "port vm3: a VM of the VXLAN network overlay on node c1, whose vif_type is macvtap", "type vlan or flat"},
            {"    vif_type: macvtap", "    vif_type: macvtap\n    addresses: {@public: 203.0.113.3/24}",
             "node c1: the node's own address on public on node c1, whose vif_type is macvtap", "no bridge"},
            {"    node: net\n    external_gateway", "    node: @c1\n    external_gateway",
             "router classic: a router on node c1, whose vif_type is macvtap", "whose vif_type is bridge"},
            {"ports:\n",
             "ports:\n  - {name: fg, network: public, node: @c1, fixed_ip: 203.0.113.9, "
             "device_owner: network:floatingip_agent_gateway}\n",
             "port fg: a port of a router on node c1, whose vif_type is macvtap", "no router namespaces"},
            {"    segmentation_id: 2001", "    segmentation_id: 2001\n    shape: star\n    hub: @c1",
             "network overlay: the hub of a star on node c1, whose vif_type is macvtap", "another node as hub"},
            {"    distributed: true\n    external_gateway: public\n    interfaces: [overlay-subnet]",
             "    interfaces: [overlay-subnet, {subnet: @blue-subnet, fixed_ip: 10.1.0.2}]",
             "router spread: a distributed router on blue-subnet, a subnet of the vlan network blue", "a node"},
            {"  - name: spread\n    distributed: true\n    external_gateway: public\n    interfaces: [overlay-subnet]",
             "  - name: nova\n    type: nova-network\n    node: @c1",
             "router nova: routing on node c1, whose vif_type is macvtap", "vif_type is bridge"},
        })),
        kMacvtap);
    check({"ports:\n",
           "ports:\n  - {name: sg, network: overlay, node: @c1, fixed_ip: 10.3.0.9, router: spread, "
           "device_owner: network:router_centralized_snat}\n",
           "port sg: a port of a router on node c1, whose vif_type is macvtap", "no router namespaces"},
          edited("    external_gateway: public\n", "    external_gateway: {network: public, fixed_ip: 203.0.113.201}\n",
                 kMacvtap));
}

TEST_CASE("macvtap: central source NAT is on a node with bridges") {
    const LoadResult result = parse_topology(
        edited("    external_gateway: public\n", "    external_gateway: {network: public, fixed_ip: 203.0.113.201}\n",
               edited("nodes:\n",
                      "nodes:\n  - {name: first, underlay: {device: eth0, address: 192.0.2.1}, vif_type: macvtap}\n",
                      kMacvtap)),
        "f");
    INFO(format_mistakes(result.mistakes, "f"));
    REQUIRE(result.topology);
    const Topology& topology = *result.topology;
    CHECK(topology.nodes[*topology.ports[*topology.routers[1].gateway_port].node].name == "net");
}

TEST_CASE("macvtap: a star's hub is the first node, unless it is written") {
    const std::string first = edited(
        "nodes:\n", "nodes:\n  - {name: first, underlay: {device: eth0, address: 192.0.2.1}, vif_type: macvtap}\n",
        kMacvtap);
    const auto mistakes_with = [&](std::string_view shape) {
        return parse_topology(edited("    segmentation_id: 2001", shape, first), "f").mistakes;
    };
    const auto by_default = mistakes_with("    segmentation_id: 2001\n    shape: star");
    REQUIRE(by_default.size() == 1);
    CHECK(by_default[0].what == "network overlay: the hub of a star on node first, whose vif_type is macvtap");
    CHECK(mistakes_with("    segmentation_id: 2001\n    shape: star\n    hub: net").empty());
    // One that is not known may have been meant to be any.
    const auto unknown = mistakes_with("    segmentation_id: 2001\n    shape: star\n    hub: nobody");
    REQUIRE(unknown.size() == 1);
    CHECK(unknown[0].what.find("whose vif_type") == std::string::npos);
}

TEST_CASE("macvtap: a flat network's VMs are not on the underlay device") {
    const auto mistakes = parse_topology(edited("underlay: {device: eth0, address: 192.0.2.12}",
                                                "underlay: {device: eth2, address: 192.0.2.12}", kMacvtap),
                                         "f")
                              .mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what == "network public: on node c1 its VMs would be on the underlay device eth2 itself");
    CHECK(mistakes[0].hint.find("network_type: vlan") != std::string::npos);
}

TEST_CASE("macvtap: a network type that cannot be read is the only mistake") {
    const auto mistakes = parse_topology(edited("network_type: vlan", "network_type: vlna", kMacvtap), "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what.find("vlna") != std::string::npos);
}

}  // namespace
}  // namespace fiplane::topology_test
