// SPDX-License-Identifier: Apache-2.0
// Routers of type nova-network: the file, what it makes of a node, and what is wrong in it.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <string>

#include "../support/snapshot_builder.hpp"
#include "build/desired.hpp"
#include "topology/load.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kNova = R"(name: nova
nodes:
  - name: one
    underlay: {device: eth0, address: 192.0.2.1}
    addresses: {pub: 172.24.4.1/23, flat: 10.1.0.1/20}
  - name: two
    underlay: {device: eth0, address: 192.0.2.2}
    addresses: {pub: 172.24.4.2/23, flat: 10.1.0.2/20}
networks:
  - name: pub
    external: true
    shape: star
    segmentation_id: 1000001
    bridge: br_pub
    subnets: [{name: pub-subnet, cidr: 172.24.4.0/23, gateway_ip: null}]
  - name: flat
    shape: star
    segmentation_id: 1000128
    bridge: br_flat
    learning: true
    subnets: [{name: flat-subnet, cidr: 10.1.0.0/20, gateway_ip: 10.1.0.1}]
routers:
  - name: nova
    type: nova-network
    multi_host: true
    external_gateway: pub
    interfaces: [flat-subnet]
ports:
  - {name: a, network: flat, node: one, fixed_ip: 10.1.0.11}
  - {name: b, network: flat, node: two, fixed_ip: 10.1.0.21}
floating_ips:
  - {floating_ip_address: 172.24.5.11, port: a}
  - {floating_ip_address: 172.24.5.21, port: b}
)";

std::string with(const std::string& from, const std::string& to, std::string text = kNova) {
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
}

std::string only_mistake(const std::string& text) {
    const auto mistakes = parse_topology(text, "f").mistakes;
    INFO(format_mistakes(mistakes, "f"));
    REQUIRE(mistakes.size() == 1);
    return mistakes[0].what + " (" + mistakes[0].hint + ")";
}

build::DesiredNode node(const std::string& text, std::size_t index) {
    auto loaded = parse_topology(text, "f");
    INFO(format_mistakes(loaded.mistakes, "f"));
    REQUIRE(loaded.topology);
    auto desired = build::desire(*loaded.topology, index, build::Allocations{});
    REQUIRE(desired);
    return *desired;
}

const build::NftTable* nat_of(const build::DesiredNode& node) {
    const auto& tables = node.netns.at("").tables;
    const auto found = std::ranges::find(tables, nf::Family::kIp, &build::NftTable::family);
    return found == tables.end() ? nullptr : &*found;
}

}  // namespace

TEST_CASE("multi-host: each node has its own VMs' floating IPs, in its own namespace") {
    const build::DesiredNode one = node(kNova, 0);
    CHECK(one.netns.size() == 1);
    const build::DesiredNetns& root = one.netns.at("");
    CHECK(root.addresses.contains({"br_pub", *Prefix::parse("172.24.4.1/23")}));
    CHECK(root.addresses.contains({"br_pub", *Prefix::parse("172.24.5.11/32")}));
    CHECK_FALSE(root.addresses.contains({"br_pub", *Prefix::parse("172.24.5.21/32")}));
    CHECK(root.addresses.contains({"br_flat", *Prefix::parse("10.1.0.1/20")}));
    REQUIRE(nat_of(one) != nullptr);
    CHECK(nat_of(one)->maps.at("fip_in") == std::map<Ipv4, Ipv4>{{ip("172.24.5.11"), ip("10.1.0.11")}});
    REQUIRE(one.fips.contains(ip("172.24.5.11")));
    CHECK(one.fips.at(ip("172.24.5.11")).announcer_device == "br_pub");
    CHECK(one.fips.at(ip("172.24.5.11")).announcer_netns.empty());
    const auto sysctl = [&](const std::string& key) {
        const auto found = std::ranges::find(root.sysctls, key, &build::DesiredSysctl::key);
        return found == root.sysctls.end() ? "unset" : found->value;
    };
    CHECK(sysctl("ipv4/ip_forward") == "1");
    CHECK(sysctl("ipv4/conf/all/send_redirects") == "0");
    CHECK(sysctl("ipv4/conf/br_flat/send_redirects") == "0");
    // Guests may be anywhere: tunnels learn, and none answers ARP in their place.
    const build::DesiredDevice& tunnel = root.devices.at("vxlan-1000129");
    CHECK(tunnel.port_flags->learning);
    CHECK_FALSE(std::get<build::VxlanKind>(tunnel.kind).proxy);
    CHECK(root.neighbours.empty());
}

TEST_CASE("single-host: one node has all floating IPs, the other only forwards") {
    std::string text = with("    multi_host: true\n", "    node: one\n");
    const build::DesiredNode one = node(text, 0);
    REQUIRE(nat_of(one) != nullptr);
    CHECK(nat_of(one)->maps.at("fip_in").size() == 2);
    CHECK(nat_of(node(text, 1)) == nullptr);
    CHECK(node(text, 1).fips.empty());

    text = with(", flat: 10.1.0.1/20", ", flat: 10.1.0.9/20", text);
    CHECK(only_mistake(text) ==
          "router nova: the gateway_ip of flat-subnet (10.1.0.1) is not node one's address there (the VMs' gateway is "
          "the "
          "node that routes for them)");
}

TEST_CASE("what a nova-network router cannot be is said") {
    CHECK(only_mistake(with("type: nova-network", "type: nova")) ==
          "router nova: type \"nova\" is not a type of router (neutron or nova-network)");
    CHECK(only_mistake(with("multi_host: true", "distributed: true\n    multi_host: true")) ==
          "router nova: distributed belongs to Neutron's routers (nova-network's is multi_host)");
    CHECK(only_mistake(with("    multi_host: true\n", "")) ==
          "router nova lacks node (where nova-network runs, like node: primary; or multi_host: true)");
    CHECK(only_mistake(with("    multi_host: true\n", "    multi_host: true\n    node: one\n")) ==
          "router nova: with multi_host each node routes for its own VMs (leave node out)");
    CHECK(only_mistake(with("external_gateway: pub", "external_gateway: {network: pub, fixed_ip: 172.24.5.99}")) ==
          "router nova: the gateway of a nova-network router has no fixed_ip (it is the node's own address: write it "
          "under "
          "the node's addresses, for pub)");
    CHECK(only_mistake(with("external_gateway: pub", "external_gateway: {network: pub, enable_snat: false}")) ==
          "router nova: enable_snat belongs to type: neutron (nova-network always translates what VMs send beyond the "
          "external network's bridge)");
    CHECK(only_mistake(with("    learning: true\n", "")) ==
          "router nova: network flat does not learn where its guests are (write learning: true for flat)");
    CHECK(only_mistake(with(", flat: 10.1.0.2/20", "")) ==
          "router nova: node two has no address on flat (add it to the node's addresses, like {flat: 10.1.0.1/20})");
    CHECK(only_mistake(with("interfaces: [flat-subnet]", "interfaces: [{subnet: flat-subnet, fixed_ip: 10.1.0.5}]")) ==
          "router nova: the leg on flat-subnet is the node's own (write its address under the node's addresses, for "
          "flat)");
    CHECK(
        only_mistake(with("interfaces: [flat-subnet]",
                          "interfaces: [flat-subnet]\n    routes: [{destination: 10.9.0.0/16, nexthop: 10.1.0.9}]")) ==
        "router nova: a nova-network router has no routes of its own (the node's routes are the node's; leave it out)");
    CHECK(only_mistake(with("    shape: star\n    segmentation_id: 1000128", "    segmentation_id: 1000128")) ==
          "network flat: a VXLAN mesh does not learn where its guests are (write shape: star, or a network_type that "
          "has a "
          "tunnel to each node)");
    CHECK(
        only_mistake(with(
            "    type: nova-network\n    multi_host: true\n    external_gateway: pub\n", "    external_gateway: pub\n",
            with(", flat: 10.1.0.1/20", ", flat: 10.1.0.9/20",
                 with("floating_ips:\n  - {floating_ip_address: 172.24.5.11, port: a}\n  - {floating_ip_address: "
                      "172.24.5.21, port: b}\n",
                      "")))) ==
        "router nova: interface of a distributed router on flat-subnet, whose network learns (its one MAC is on every "
        "node, and would be learned from the tunnels)");
}
