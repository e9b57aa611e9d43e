// SPDX-License-Identifier: Apache-2.0
// Clouds that meet on a network between routers: its place inside one router and outside of another, extra routes,
// floating IPs of VMs that the file does not list, and networks of two projects with the same addresses.
#include <fmt/format.h>

#include <catch2/generators/catch_generators.hpp>
#include <nlohmann/json.hpp>

#include "topology/describe.hpp"
#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

constexpr std::string_view kPod = R"(name: pod
nodes:
  - {name: net, underlay: {device: eth0, address: 192.0.2.11}, physical_networks: {bridge: eth1, extern: eth2}}
networks:
  - name: meet
    external: true
    network_type: vlan
    physical_network: bridge
    segmentation_id: 2001
    subnets: [{name: meet-subnet, cidr: 100.0.1.0/24, gateway_ip: null}]
  - name: meet2
    external: true
    network_type: vlan
    physical_network: bridge
    segmentation_id: 2002
    subnets: [{name: meet2-subnet, cidr: 100.0.1.0/24, gateway_ip: null}]
  - name: world
    external: true
    network_type: vlan
    physical_network: extern
    segmentation_id: 3001
    subnets: [{name: world-subnet, cidr: 203.0.113.0/24}]
  - name: tenant
    segmentation_id: 11
    subnets: [{name: tenant-subnet, cidr: 10.0.2.0/24}]
routers:
  - name: inner
    distributed: false
    node: net
    external_gateway: {network: meet, fixed_ip: 100.0.1.2}
    interfaces: [tenant-subnet]
    routes:
      - {destination: 10.0.1.0/24, nexthop: 100.0.1.1}
      - {destination: 0.0.0.0/0, nexthop: 100.0.1.3}
  - name: outer
    distributed: false
    node: net
    external_gateway: {network: world, fixed_ip: 203.0.113.200}
    interfaces: [{subnet: meet-subnet, fixed_ip: 100.0.1.3}]
    routes:
      - {destination: 10.0.1.0/24, nexthop: 100.0.1.1}
      - {destination: 10.0.2.0/24, nexthop: 100.0.1.2}
      - {destination: 10.0.1.99/32, nexthop: 203.0.113.7}
ports:
  - {name: vm, network: tenant, node: net, fixed_ip: 10.0.2.21}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm, router: outer}
  - {floating_ip_address: 203.0.113.102, fixed_ip_address: 10.0.1.11, router: outer}
)";

TEST_CASE("a router inside of which another router's external network is") {
    const LoadResult result = parse_topology(kPod, "pod.yaml");
    INFO(format_mistakes(result.mistakes, "pod.yaml"));
    REQUIRE(result.topology);
    const Topology& pod = *result.topology;
    const Router& outer = pod.routers[1];
    REQUIRE(outer.interfaces.size() == 1);
    CHECK(pod.ports[outer.interfaces[0]].fixed_ip.str() == "100.0.1.3");
    CHECK(pod.networks[pod.ports[outer.interfaces[0]].network].name == "meet");

    const FloatingIp& own = pod.floating_ips[0];
    REQUIRE(own.port);
    CHECK(pod.ports[*own.port].name == "vm");
    CHECK(own.fixed_ip.str() == "10.0.2.21");
    CHECK(pod.routers[own.router].name == "outer");
    const FloatingIp& unlisted = pod.floating_ips[1];
    CHECK_FALSE(unlisted.port);
    CHECK(unlisted.fixed_ip.str() == "10.0.1.11");
    CHECK(pod.networks[unlisted.network].name == "world");
    CHECK(pod.node_of(unlisted) == 0);

    const nlohmann::json shown = describe(pod)["floating_ips"][1];
    CHECK(shown == nlohmann::json{{"floating_ip_address", "203.0.113.102"},
                                  {"network", "world"},
                                  {"port", nullptr},
                                  {"fixed_ip", "10.0.1.11"},
                                  {"router", "outer"},
                                  {"node", "net"}});
}

TEST_CASE("a floating IP of a VM on a wire that the router is on itself") {
    const std::string text = edited("fixed_ip_address: 10.0.1.11", "fixed_ip_address: 100.0.1.77", kPod);
    CHECK(parse_topology(text, "pod.yaml").topology);
}

TEST_CASE("what routers between clouds cannot have") {
    const Case cases[] = {
        {"{subnet: meet-subnet, fixed_ip: 100.0.1.3}", "@meet-subnet",
         "router outer: interface on meet-subnet, a subnet of an external network", "external_gateway: meet"},
        {"interfaces: [tenant-subnet]", "interfaces: [tenant-subnet, {subnet: @meet-subnet, fixed_ip: 100.0.1.9}]",
         "router inner: interface on meet-subnet, a subnet of an external network", "external_gateway: meet"},
        {"interfaces: [tenant-subnet]", "interfaces: [tenant-subnet, @{subnet: meet2-subnet, fixed_ip: 100.0.1.9}]",
         "router inner: subnets meet-subnet (100.0.1.0/24) and meet2-subnet (100.0.1.0/24) overlap", "renumber"},
        {"10.0.1.0/24, nexthop: 100.0.1.1}\n      - {destination: 0.0.0.0/0",
         "10.0.1.0/24, nexthop: 100.0.1.1}\n      - {destination: @10.0.1.0/24",
         "router inner: a second route to 10.0.1.0/24", "via 100.0.1.1 already"},
        {"{destination: 10.0.1.99/32, nexthop: 203.0.113.7}", "{destination: @0.0.0.0/0, nexthop: 203.0.113.7}",
         "router outer: the default route goes via 203.0.113.1, the gateway_ip of world-subnet", "gateway_ip: null"},
    };
    for (const Case& one : cases)
        check(one, kPod);
}

TEST_CASE("floating IPs of VMs that the file does not list") {
    constexpr std::string_view kUnlisted = "203.0.113.102, fixed_ip_address: 10.0.1.11, router: outer";
    const Case cases[] = {
        {kUnlisted, "203.0.113.102, fixed_ip_address: @10.0.1.11", "203.0.113.102: fixed_ip_address needs a router",
         ""},
        {kUnlisted, "203.0.113.102, fixed_ip_address: @10.0.1.11, port: vm, router: outer",
         "both port and fixed_ip_address", "port names a VM of this file"},
        {"{floating_ip_address: 203.0.113.102, fixed_ip_address: 10.0.1.11, router: outer}",
         "@{floating_ip_address: 203.0.113.102, router: outer}", "floating IP 203.0.113.102 lacks port", "port: vm1"},
        {kUnlisted, "203.0.113.102, fixed_ip_address: @10.9.9.9, router: outer",
         "router outer does not lead to 10.9.9.9", "10.9.9.9/32"},
        {kUnlisted, "203.0.113.102, fixed_ip_address: @10.0.1.99, router: outer",
         "router outer does not lead to 10.0.1.99", "10.0.1.99/32"},
        {kUnlisted, "203.0.113.102, fixed_ip_address: @100.0.1.2, router: outer",
         "100.0.1.2 is the address of router inner: external_gateway", "line 30"},
        {kUnlisted, "203.0.113.102, fixed_ip_address: @10.0.2.21, router: outer",
         "10.0.2.21 has floating IP 203.0.113.101 already on router outer", "see line 47"},
        {"203.0.113.101, port: vm, router: outer", "203.0.113.101, port: vm, router: @nowhere", "unknown router", ""},
    };
    for (const Case& one : cases)
        check(one, kPod);
    const std::string distributed =
        edited("routers:\n", "routers:\n  - {name: dvr, external_gateway: world, interfaces: []}\n", kPod);
    check({kUnlisted, "203.0.113.102, fixed_ip_address: 10.0.1.11, router: @dvr",
           "router dvr cannot have a fixed_ip_address", "legacy router"},
          distributed);
}

TEST_CASE("external networks that only routers use may have the same addresses") {
    const Case cases[] = {
        {"physical_networks: {bridge: eth1, extern: eth2}}",
         "physical_networks: {bridge: eth1, extern: eth2}, addresses: {meet2: 100.0.1.8/24}}",
         "subnet meet2-subnet (100.0.1.0/24) overlaps subnet meet-subnet (100.0.1.0/24, line 10)", "external network"},
        {"cidr: 10.0.2.0/24", "cidr: 100.0.1.0/25", "subnet tenant-subnet (100.0.1.0/25) overlaps", "external network"},
    };
    for (const Case& one : cases) {
        const LoadResult result = parse_topology(edited(one.from, one.to, kPod), "pod.yaml");
        CHECK_FALSE(result.topology);
        INFO(format_mistakes(result.mistakes, "pod.yaml"));
        CHECK(std::ranges::any_of(result.mistakes, [&](const Mistake& mistake) {
            return mistake.what.find(one.what) != std::string::npos && mistake.hint.find(one.hint) != std::string::npos;
        }));
    }
    // A floating IP there would be one of two hosts.
    const std::string taken = edited("fixed_ip_address: 10.0.1.11, router: outer}",
                                     "fixed_ip_address: 10.0.1.11, router: outer}\n"
                                     "  - {floating_ip_address: 100.0.1.50, port: vm, router: inner}",
                                     kPod);
    const auto mistakes = parse_topology(taken, "pod.yaml").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what.find("meet2-subnet (100.0.1.0/24) overlaps") != std::string::npos);
}

}  // namespace
}  // namespace fiplane::topology_test
