// SPDX-License-Identifier: Apache-2.0
// Source NAT for VMs without a floating IP: rules of a legacy router, and which connections end when they change; the
// central part of a distributed router.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build/names.hpp"
#include "build_support.hpp"

namespace fiplane::build {
namespace {

constexpr std::string_view kLegacy = R"(name: cloud
nodes:
  - {name: net, underlay: {device: eth0, address: 192.0.2.1}}
  - {name: c1, underlay: {device: eth0, address: 192.0.2.2}}
networks:
  - {name: public, external: true, segmentation_id: 5000, bridge: br-ex,
     subnets: [{name: out, cidr: 203.0.113.0/24}]}
  - {name: blue, segmentation_id: 11, subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]}
routers:
  - {name: r, distributed: false, node: net, interfaces: [blue-subnet],
     external_gateway: {network: public, fixed_ip: 203.0.113.200, enable_snat: true}}
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11}
  - {name: vm2, network: blue, node: c1, fixed_ip: 10.1.0.12}
floating_ips:
  - {floating_ip_address: 203.0.113.101, port: vm1}
)";

Topology legacy(bool enable_snat, bool with_fip) {
    Topology topology = load_cloud(kLegacy);
    topology.routers[0].enable_snat = enable_snat;
    if (!with_fip) topology.floating_ips.clear();
    return topology;
}

/// Tables of the router's namespace.
std::vector<NftTable> tables_of(const Topology& topology) {
    return desired_node(topology, 0).netns.at(router_netns(topology.routers[0])).tables;
}

std::vector<std::string> rules_of(const NftTable& table, std::string_view chain) {
    const auto found = std::ranges::find(table.chains, chain, &NftChain::name);
    REQUIRE(found != table.chains.end());
    return found->rules;
}

/// A router's namespace as the topology wants it, as far as connections are concerned.
ActualNode built(const Topology& topology) {
    ActualNode out = node_with({"eth0"});
    ActualNetns& netns = out.netns[router_netns(topology.routers[0])];
    netns.ours = true;
    netns.mark = mark_of(topology.name);
    for (const NftTable& table : tables_of(topology)) {
        for (const auto& [name, elements] : table.maps)
            netns.netfilter.maps[nf::Ruleset::scoped_name(table.family, "fiplane", name)] = elements;
        for (const NftChain& chain : table.chains) {
            nf::Chain& made = netns.netfilter.chains.emplace_back();
            made.table = "fiplane";
            made.name = chain.name;
            for (const std::string& text : chain.rules) {
                nf::Rule& rule = made.rules.emplace_back();
                rule.text = text;
                if (!text.ends_with("snat to 203.0.113.200 fully-random")) continue;
                nf::Snat snat{.to = {}, .random = true};
                snat.to.address = *Ipv4::parse("203.0.113.200");
                rule.statements.emplace_back(snat);
            }
        }
    }
    return out;
}

std::vector<std::string> ended_connections(const Topology& before, const Topology& after) {
    auto draft = diff(desired_node(after, 0), built(before));
    INFO((draft ? "" : draft.error().message()));
    REQUIRE(draft);
    std::vector<std::string> out;
    for (const Operation& operation : draft->operations) {
        if (const auto* flush = std::get_if<FlushConntrack>(&operation.change)) out.push_back(flush->address.str());
    }
    std::ranges::sort(out);
    return out;
}

}  // namespace

TEST_CASE("a legacy router's own address stands for VMs without one of their own, behind the floating IPs", "[build]") {
    const Topology topology = legacy(true, true);
    const std::string qg = topology.ports[*topology.routers[0].gateway_port].device;
    const auto tables = tables_of(topology);
    REQUIRE(tables.size() == 1);
    CHECK(rules_of(tables[0], "postrouting") ==
          std::vector<std::string>{
              fmt::format("oifname != \"{}\" ct status ! dnat accept", qg),
              "snat to ip saddr map @fip_out",
              fmt::format("oifname \"{}\" snat to 203.0.113.200 fully-random", qg),
              fmt::format("iifname != \"{}\" ct status dnat snat to 203.0.113.200 fully-random", qg),
          });
    // What conntrack calls invalid is translated one to one or not at all.
    CHECK(rules_of(tables[0], "invalid_out").size() == 2);
}

TEST_CASE("the same without floating IPs; without source NAT only their neighbours' questions", "[build]") {
    const auto without_fips = tables_of(legacy(true, false));
    REQUIRE(without_fips.size() == 1);
    CHECK(without_fips[0].maps.at(kFipInMap).empty());
    CHECK(rules_of(without_fips[0], "postrouting").size() == 4);

    const auto without_snat = tables_of(legacy(false, true));
    REQUIRE(without_snat.size() == 1);
    const auto rules = rules_of(without_snat[0], "postrouting");
    REQUIRE(rules.size() == 3);
    CHECK(rules[2].starts_with("iifname != "));

    CHECK(without_mss(tables_of(legacy(false, false))).empty());
}

TEST_CASE("connections of an address end with what stood for it", "[build]") {
    CHECK(ended_connections(legacy(true, true), legacy(true, true)).empty());
    // The VM had the router's address and gets its own, which the fast path gives to its packets at once.
    CHECK(ended_connections(legacy(true, false), legacy(true, true)) == std::vector<std::string>{"10.1.0.11"});
    CHECK(ended_connections(legacy(true, true), legacy(true, false)) ==
          std::vector<std::string>{"10.1.0.11", "203.0.113.101"});
    // Another one for the same VM: each address once.
    Topology moved = legacy(true, true);
    moved.floating_ips[0].address = *Ipv4::parse("203.0.113.102");
    CHECK(ended_connections(legacy(true, true), moved) == std::vector<std::string>{"10.1.0.11", "203.0.113.101"});
    CHECK(ended_connections(legacy(true, true), legacy(false, true)) == std::vector<std::string>{"203.0.113.200"});
    // Nobody had a translation before.
    CHECK(ended_connections(legacy(false, false), legacy(false, true)).empty());
}

namespace {

/// The first node has neither VMs nor an agent gateway.
constexpr std::string_view kDistributed = R"(name: cloud
nodes:
  - {name: net, underlay: {device: eth0, address: 192.0.2.1}}
  - {name: c1, underlay: {device: eth0, address: 192.0.2.2}}
networks:
  - {name: public, external: true, segmentation_id: 5000, bridge: br-ex,
     subnets: [{name: out, cidr: 203.0.113.0/24}]}
  - {name: blue, segmentation_id: 11, subnets: [{name: blue-subnet, cidr: 10.1.0.0/24}]}
  - {name: green, segmentation_id: 12, subnets: [{name: green-subnet, cidr: 10.2.0.0/24}]}
routers:
  - {name: r, interfaces: [blue-subnet, green-subnet], id: 7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01,
     external_gateway: {network: public, fixed_ip: 203.0.113.200},
     routes: [{destination: 10.9.0.0/16, nexthop: 10.2.0.77}, {destination: 10.8.0.0/16, nexthop: 203.0.113.77}]}
ports:
  - {name: vm1, network: blue, node: c1, fixed_ip: 10.1.0.11, mac: "fa:16:3e:00:01:11"}
  - {name: snat-blue, network: blue, fixed_ip: 10.1.0.3, mac: "fa:16:3e:0b:00:01", router: r,
     device_owner: network:router_centralized_snat}
)";

const char* const kSnat = "snat-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const char* const kRouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";

DesiredNode distributed_node(const Topology& topology, std::size_t index) {
    return desired_node(topology, index,
                        Allocations::parse("7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01,169.254.88.134/31\n", ""));
}

std::string device_of(const Topology& topology, std::string_view port) {
    const auto found = std::ranges::find(topology.ports, port, &Port::name);
    REQUIRE(found != topology.ports.end());
    return found->device;
}

std::set<std::string> routes_of(const DesiredNetns& netns) {
    std::set<std::string> out;
    for (const DesiredRoute& route : netns.routes) {
        out.insert(fmt::format("{} via {} dev {} table {}", route.destination.str(),
                               route.gateway ? route.gateway->str() : "", route.device, route.table));
    }
    return out;
}

}  // namespace

TEST_CASE("M9: a distributed router's central part is a namespace on one node, as a Neutron agent makes it",
          "[build]") {
    const Topology topology = load_cloud(kDistributed);
    const DesiredNode net = distributed_node(topology, 0);
    REQUIRE(net.netns.contains(kSnat));
    // Without VMs there is nothing else of the router here.
    CHECK(net.netns.size() == 2);
    const DesiredNetns& snat = net.netns.at(kSnat);
    const std::string blue = device_of(topology, "snat-blue");
    const std::string green = device_of(topology, "r/green-subnet/snat");
    const std::string qg = device_of(topology, "r/public/gateway");
    CHECK(blue.starts_with("sg-"));
    CHECK(green.starts_with("sg-"));
    CHECK(qg.starts_with("qg-"));
    CHECK(snat.addresses == std::set<std::pair<std::string, Prefix>>{{blue, *Prefix::parse("10.1.0.3/24")},
                                                                     {green, *Prefix::parse("10.2.0.254/24")},
                                                                     {qg, *Prefix::parse("203.0.113.200/24")}});
    CHECK(routes_of(snat) == std::set<std::string>{
                                 fmt::format("0.0.0.0/0 via 203.0.113.1 dev {} table 254", qg),
                                 fmt::format("10.8.0.0/16 via 203.0.113.77 dev {} table 254", qg),
                                 fmt::format("10.9.0.0/16 via 10.2.0.77 dev {} table 254", green),
                             });
    CHECK(snat.neighbours.at({blue, *Ipv4::parse("10.1.0.11")}) == *Mac::parse("fa:16:3e:00:01:11"));
    const auto tables = without_mss(snat.tables);
    REQUIRE(tables.size() == 1);
    REQUIRE(tables[0].chains.size() == 1);
    CHECK(rules_of(tables[0], "postrouting") ==
          std::vector<std::string>{fmt::format("oifname \"{}\" snat to 203.0.113.200 fully-random", qg)});
    // Both networks are here, with a leg each.
    const DesiredNetns& root = net.netns.at("");
    CHECK(root.devices.contains("vxlan-11"));
    CHECK(root.devices.contains("vxlan-12"));
}

TEST_CASE("M9: instances of the router elsewhere send to the SNAT ports, behind the tunnel", "[build]") {
    const Topology topology = load_cloud(kDistributed);
    const DesiredNode c1 = distributed_node(topology, 1);
    CHECK_FALSE(c1.netns.contains(kSnat));
    const std::set<std::string> routes = routes_of(c1.netns.at(kRouter));
    // Tables: 10.1.0.1 and 10.2.0.1 as numbers.
    CHECK(routes.contains(
        fmt::format("0.0.0.0/0 via 10.1.0.3 dev {} table 167837697", device_of(topology, "r/blue-subnet"))));
    CHECK(routes.contains(
        fmt::format("0.0.0.0/0 via 10.2.0.254 dev {} table 167903233", device_of(topology, "r/green-subnet"))));
    const Mac sg = *Mac::parse("fa:16:3e:0b:00:01");
    const DesiredNetns& root = c1.netns.at("");
    CHECK(root.fdb.contains({"vxlan-11", sg, std::nullopt}));
    CHECK(root.fdb.contains({"vxlan-11", sg, Ipv4::parse("192.0.2.1")}));
    CHECK(root.neighbours.at({"vxlan-11", *Ipv4::parse("10.1.0.3")}) == sg);
}

TEST_CASE("without source NAT the central part routes untranslated", "[build]") {
    Topology topology = load_cloud(kDistributed);
    topology.routers[0].enable_snat = false;
    CHECK(without_mss(distributed_node(topology, 0).netns.at(kSnat).tables).empty());
}

}  // namespace fiplane::build
