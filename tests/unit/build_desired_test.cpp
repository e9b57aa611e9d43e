// SPDX-License-Identifier: Apache-2.0
// What a node must hold, derived from a topology: placement, names, tables, and what is refused.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build_support.hpp"

namespace fiplane::build {
namespace {

constexpr std::string_view kCloud = R"(name: cloud
nodes:
  - {name: one, underlay: {device: eth0, address: 192.0.2.1}, addresses: {public: 198.51.100.1/24}}
  - {name: two, underlay: {device: eth0, address: 192.0.2.2}, addresses: {public: 198.51.100.2/24}}
  - {name: idle, underlay: {device: eth0, address: 192.0.2.3}, addresses: {public: 198.51.100.3/24}}
networks:
  - name: public
    id: e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102
    external: true
    segmentation_id: 5000
    bridge: br-ex
    subnets:
      - {name: public-subnet, cidr: 198.51.100.0/24, gateway_ip: 198.51.100.254}
  - name: blue
    segmentation_id: 11
    subnets: [{name: blue-subnet, cidr: 10.10.1.0/24, gateway_ip: 10.10.1.1}]
  - name: green
    segmentation_id: 12
    subnets: [{name: green-subnet, cidr: 10.10.2.0/24, gateway_ip: 10.10.2.1}]
routers:
  - name: r
    id: 7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01
    external_gateway: {network: public, fixed_ip: 198.51.100.250}
    interfaces: [blue-subnet, green-subnet]
    routes:
      - {destination: 10.99.0.0/16, nexthop: 10.10.1.50}
      - {destination: 203.0.113.0/24, nexthop: 198.51.100.77}
ports:
  - {name: a, network: blue, node: one, fixed_ip: 10.10.1.11, mac: "fa:16:3e:00:01:11"}
  - {name: b, network: green, node: two, fixed_ip: 10.10.2.12, mac: "fa:16:3e:00:02:12"}
  - {name: snat-blue, network: blue, fixed_ip: 10.10.1.3, mac: "fa:16:3e:0b:00:01", router: r,
     device_owner: network:router_centralized_snat}
  - {name: fg-one, network: public, node: one, fixed_ip: 198.51.100.101,
     device_owner: network:floatingip_agent_gateway}
  - {name: fg-two, network: public, node: two, fixed_ip: 198.51.100.102,
     device_owner: network:floatingip_agent_gateway}
floating_ips:
  - {floating_ip_address: 198.51.100.11, port: a}
)";

Topology cloud() {
    return load_cloud(kCloud);
}

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

Allocations allocations() {
    return Allocations::parse("7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01,169.254.88.134/31\n", "198.51.100.11,71189\n");
}

DesiredNode node(const Topology& topology, std::size_t index) {
    return desired_node(topology, index, allocations());
}

const char* const kRouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const char* const kFip = "fip-e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102";

std::vector<std::string> rules_of(const DesiredNetns& netns) {
    std::vector<std::string> out;
    for (const auto& rule : netns.rules) {
        if (rule.source.length == 0 && rule.iifname.empty()) continue;
        out.push_back(
            fmt::format("{}: from {} iif {} lookup {}", rule.priority, rule.source.str(), rule.iifname, rule.table));
    }
    std::ranges::sort(out);
    return out;
}

bool has_route(const DesiredNetns& netns, const char* device_prefix, std::uint32_t table, const char* destination,
               const char* gateway) {
    return std::ranges::any_of(netns.routes, [&](const DesiredRoute& route) {
        return route.device.starts_with(device_prefix) && route.table == table &&
               route.destination == *Prefix::parse(destination) && route.gateway == Ipv4::parse(gateway);
    });
}

}  // namespace

TEST_CASE("a distributed router is where its VMs are, and so are its networks", "[build]") {
    const Topology topology = cloud();
    CHECK(place(topology, 0).routers.size() == 1);
    CHECK(place(topology, 0).networks.size() == 3);
    CHECK(place(topology, 0).floating_ips.size() == 1);
    CHECK(place(topology, 1).routers.size() == 1);
    CHECK(place(topology, 1).floating_ips.empty());
    CHECK(place(topology, 2).routers.empty());
    CHECK(place(topology, 2).networks == std::set<std::size_t>{0});
}

TEST_CASE("the router namespace has the rules and tables that a Neutron agent makes", "[build]") {
    const DesiredNode one = node(cloud(), 0);
    const DesiredNetns& router = one.netns.at(kRouter);
    // Numbers of a real agent's dump: priority and table of the SNAT redirects are 10.10.1.1 and 10.10.2.1 as numbers.
    CHECK(rules_of(router) == std::vector<std::string>{"168427777: from 10.10.1.1/24 iif  lookup 168427777",
                                                       "168428033: from 10.10.2.1/24 iif  lookup 168428033",
                                                       "71189: from 10.10.1.11/32 iif  lookup 16"});
    CHECK(has_route(router, "rfp-7b1f3c52-9", 16, "0.0.0.0/0", "169.254.88.135"));
    CHECK(has_route(router, "qr-", 168427777, "0.0.0.0/0", "10.10.1.3"));
    CHECK(has_route(router, "qr-", 254, "10.99.0.0/16", "10.10.1.50"));
    CHECK_FALSE(has_route(router, "rfp-", 254, "0.0.0.0/0", "169.254.88.135"));
    CHECK(router.addresses.contains({"rfp-7b1f3c52-9", *Prefix::parse("169.254.88.134/31")}));
    CHECK(router.neighbours.contains({"rfp-7b1f3c52-9", ip("169.254.88.135")}));
    CHECK(std::ranges::count_if(router.neighbours, [](const auto& each) {
              return each.first.second == ip("10.10.1.3") && each.second == *Mac::parse("fa:16:3e:0b:00:01");
          }) == 1);
    const DesiredNetns& fip = one.netns.at(kFip);
    CHECK(rules_of(fip) == std::vector<std::string>{"2852018311: from 0.0.0.0/0 iif fpr-7b1f3c52-9 lookup 2852018311"});
    CHECK(has_route(fip, "fg-", 2852018311, "0.0.0.0/0", "198.51.100.254"));
    CHECK(has_route(fip, "fg-", 2852018311, "203.0.113.0/24", "198.51.100.77"));
    CHECK(has_route(fip, "fpr-7b1f3c52-9", 254, "198.51.100.11/32", "169.254.88.134"));
}

TEST_CASE("no translation where no floating IP lives", "[build]") {
    const DesiredNode two = node(cloud(), 1);
    CHECK(without_mss(two.netns.at(kRouter).tables).empty());
    CHECK(two.fips.empty());
    CHECK(two.netns.contains(kFip));
    CHECK(node(cloud(), 2).netns.size() == 1);
}

TEST_CASE("tunnels carry flooding to the network's nodes only, and never the router's MAC", "[build]") {
    const Topology topology = cloud();
    const DesiredNetns root = node(topology, 0).netns.at("");
    const auto floods = [&](const char* device) {
        std::set<IpAddress> out;
        for (const auto& entry : root.fdb) {
            if (entry.device == device && entry.mac.is_unset()) out.insert(*entry.destination);
        }
        return out;
    };
    CHECK(floods("vxlan-5000") == std::set<IpAddress>{ip("192.0.2.2"), ip("192.0.2.3")});
    CHECK(floods("vxlan-11") == std::set<IpAddress>{ip("192.0.2.2")});
    for (const std::size_t leg : topology.routers[0].interfaces) {
        const Mac mac = topology.ports[leg].mac;
        for (const auto& entry : root.fdb) {
            if (entry.mac == mac) CHECK(entry.device.starts_with("tap"));
        }
    }
    CHECK(root.fdb.contains({"vxlan-12", *Mac::parse("fa:16:3e:00:02:12"), ip("192.0.2.2")}));
    CHECK(root.fdb.contains({"vxlan-12", *Mac::parse("fa:16:3e:00:02:12"), std::nullopt}));
    CHECK(root.neighbours.contains({"vxlan-12", ip("10.10.2.12")}));
    // ARP for floating IPs must cross the external tunnel, so nothing is answered there.
    CHECK(std::get<VxlanKind>(root.devices.at("vxlan-11").kind).proxy);
    CHECK_FALSE(std::get<VxlanKind>(root.devices.at("vxlan-5000").kind).proxy);
    CHECK(std::ranges::none_of(root.neighbours, [](const auto& each) { return each.first.first == "vxlan-5000"; }));
}

TEST_CASE("GRE: a device for each peer, which the bridge keeps apart and answers ARP in front of", "[build]") {
    Topology topology = cloud();
    for (Network& network : topology.networks) {
        network.type = NetworkType::kGre;
        network.mtu = 1458;
    }
    const DesiredNetns root = node(topology, 0).netns.at("");
    const DesiredDevice& device = root.devices.at("gre-12-2");
    const auto& gre = std::get<GretapKind>(device.kind);
    CHECK(gre.key == 12);
    CHECK(gre.local == ip("192.0.2.1"));
    CHECK(gre.remote == ip("192.0.2.2"));
    CHECK(gre.underlay_device == "eth0");
    CHECK(device.mtu == 1458);
    REQUIRE(device.port_flags);
    CHECK(*device.port_flags == DesiredDevice::PortFlags{.learning = false, .isolated = true, .neigh_suppress = true});
    // ARP for floating IPs must cross the external tunnels.
    CHECK(*root.devices.at("gre-5000-2").port_flags ==
          DesiredDevice::PortFlags{.learning = false, .isolated = true, .neigh_suppress = false});
    CHECK(root.devices.contains("gre-5000-3"));
    // The third node has none of the tenant networks.
    CHECK_FALSE(root.devices.contains("gre-12-3"));
    const Mac remote = *Mac::parse("fa:16:3e:00:02:12");
    CHECK(root.fdb.contains({"gre-12-2", remote, std::nullopt}));
    CHECK(std::ranges::none_of(root.fdb, [](const DesiredFdb& entry) { return entry.destination.has_value(); }));
    const std::string bridge = topology.networks[2].bridge;
    CHECK(root.neighbours.at({bridge, ip("10.10.2.12")}) == remote);
    std::set<std::string> arp_ends;
    for (const NftTable& table : root.tables) {
        CHECK(table.family != nf::Family::kInet);  // no rule about UDP
        for (const NftChain& chain : table.chains) {
            if (chain.hook == "egress") arp_ends.insert(chain.device);
        }
    }
    CHECK(arp_ends == std::set<std::string>{"gre-11-2", "gre-12-2"});
}

TEST_CASE("Geneve: a device for each peer as with GRE, and its port is admitted beside VXLAN's", "[build]") {
    Topology topology = cloud();
    // The first network, which all nodes have, stays VXLAN.
    for (std::size_t index = 1; index < topology.networks.size(); ++index)
        topology.networks[index].type = NetworkType::kGeneve;
    topology.geneve_port = 6082;
    const DesiredNetns root = node(topology, 0).netns.at("");
    const DesiredDevice& device = root.devices.at("gnv-12-2");
    const auto& geneve = std::get<GeneveKind>(device.kind);
    CHECK(geneve.vni == 12);
    CHECK(geneve.remote == ip("192.0.2.2"));
    CHECK(geneve.port == 6082);
    CHECK(device.mtu == 1450);
    CHECK(device.master == topology.networks[2].bridge);
    REQUIRE(device.port_flags);
    CHECK(*device.port_flags == DesiredDevice::PortFlags{.learning = false, .isolated = true, .neigh_suppress = true});
    CHECK_FALSE(root.devices.contains("gnv-12-3"));
    const Mac remote = *Mac::parse("fa:16:3e:00:02:12");
    CHECK(root.fdb.contains({"gnv-12-2", remote, std::nullopt}));
    CHECK(std::ranges::none_of(root.fdb, [](const DesiredFdb& entry) {
        return entry.device.starts_with("gnv-") && entry.destination.has_value();
    }));
    CHECK(root.neighbours.at({topology.networks[2].bridge, ip("10.10.2.12")}) == remote);
    std::set<std::string> arp_ends;
    for (const NftTable& table : root.tables) {
        for (const NftChain& chain : table.chains) {
            if (chain.hook == "egress") arp_ends.insert(chain.device);
        }
    }
    CHECK(arp_ends == std::set<std::string>{"gnv-11-2", "gnv-12-2"});
    const auto table =
        std::ranges::find_if(root.tables, [](const NftTable& each) { return each.family == nf::Family::kInet; });
    REQUIRE(table != root.tables.end());
    // The third node has none of the networks over Geneve.
    CHECK(table->sets == std::map<std::string, NftSet>{{"vteps", {false, {ip("192.0.2.2"), ip("192.0.2.3")}}},
                                                       {"geneve_vteps", {false, {ip("192.0.2.2")}}}});
    REQUIRE(table->chains.size() == 1);
    CHECK(table->chains[0].rules ==
          std::vector<std::string>{
              "iifname \"eth0\" udp dport 4789 ip saddr @vteps accept", "udp dport 4789 counter drop",
              "iifname \"eth0\" udp dport 6082 ip saddr @geneve_vteps accept", "udp dport 6082 counter drop"});
}

TEST_CASE("a star over Geneve has a device for each of its tunnels", "[build]") {
    Topology topology = cloud();
    Network& network = topology.networks[0];
    network.type = NetworkType::kGeneve;
    network.shape = Shape::kStar;
    const DesiredNetns hub = node(topology, 0).netns.at("");
    CHECK(std::get<GeneveKind>(hub.devices.at("gnv-5001").kind).remote == ip("192.0.2.2"));
    CHECK(std::get<GeneveKind>(hub.devices.at("gnv-5002").kind).remote == ip("192.0.2.3"));
    CHECK_FALSE(hub.devices.at("gnv-5001").port_flags->isolated);
    const DesiredNetns spoke = node(topology, 2).netns.at("");
    CHECK(std::get<GeneveKind>(spoke.devices.at("gnv-5002").kind).remote == ip("192.0.2.1"));
    CHECK_FALSE(spoke.devices.contains("gnv-5001"));
}

TEST_CASE("a star: the hub has a tunnel with a number of its own to each node, the others one to it", "[build]") {
    Topology topology = cloud();
    Network& external = topology.networks[0];
    external.shape = Shape::kStar;
    external.hub = 1;
    const Mac router_of_two = *Mac::parse("fa:16:3e:00:02:12");
    const auto floods = [](const DesiredNetns& root, const std::string& device) {
        std::set<IpAddress> out;
        for (const DesiredFdb& entry : root.fdb) {
            if (entry.device == device && entry.mac.is_unset()) out.insert(*entry.destination);
        }
        return out;
    };
    const auto number = [](const DesiredNetns& root, const std::string& device) {
        return std::get<VxlanKind>(root.devices.at(device).kind).vni;
    };
    const auto where = [](const DesiredNetns& root, const Mac& mac) {
        std::set<std::pair<std::string, std::optional<IpAddress>>> out;
        for (const DesiredFdb& entry : root.fdb) {
            if (entry.mac == mac) out.emplace(entry.device, entry.destination);
        }
        return out;
    };
    const DesiredNetns hub = node(topology, 1).netns.at("");
    CHECK(number(hub, "vxlan-5001") == 5001);
    CHECK(number(hub, "vxlan-5002") == 5002);
    CHECK_FALSE(hub.devices.contains("vxlan-5000"));
    CHECK(floods(hub, "vxlan-5001") == std::set<IpAddress>{ip("192.0.2.1")});
    CHECK(floods(hub, "vxlan-5002") == std::set<IpAddress>{ip("192.0.2.3")});
    CHECK_FALSE(hub.devices.at("vxlan-5001").port_flags->isolated);

    const DesiredNetns spoke = node(topology, 2).netns.at("");
    CHECK(number(spoke, "vxlan-5002") == 5002);
    CHECK_FALSE(spoke.devices.contains("vxlan-5001"));
    CHECK(floods(spoke, "vxlan-5002") == std::set<IpAddress>{ip("192.0.2.2")});
    // Whatever node a host is on: from here it is behind the hub.
    for (const std::size_t other : {0, 1}) {
        const Mac mac = topology.nodes[other].bridge_addresses[0].mac;
        CHECK(where(spoke, mac) == std::set<std::pair<std::string, std::optional<IpAddress>>>{
                                       {"vxlan-5002", std::nullopt}, {"vxlan-5002", ip("192.0.2.2")}});
    }
    CHECK(where(hub, topology.nodes[2].bridge_addresses[0].mac) ==
          std::set<std::pair<std::string, std::optional<IpAddress>>>{{"vxlan-5002", std::nullopt},
                                                                     {"vxlan-5002", ip("192.0.2.3")}});
    for (const NftTable& table : spoke.tables) {
        if (table.family == nf::Family::kInet)
            CHECK(table.sets.at("vteps").members == std::set<IpAddress>{ip("192.0.2.2")});
    }
    CHECK(where(spoke, router_of_two).empty());
}

TEST_CASE("the hub of a star has the network though nothing of it is there", "[build]") {
    Topology topology = cloud();
    topology.networks[2].shape = Shape::kStar;
    topology.networks[2].hub = 2;
    CHECK(place(topology, 2).networks.contains(2));
    const DesiredNetns hub = node(topology, 2).netns.at("");
    CHECK(hub.devices.contains("vxlan-13"));
    CHECK(hub.devices.contains("vxlan-14"));
    const DesiredNetns spoke = node(topology, 0).netns.at("");
    CHECK(spoke.neighbours.contains({"vxlan-13", ip("10.10.2.12")}));
}

TEST_CASE("what cannot be built is refused with the reason", "[build]") {
    Topology topology = cloud();
    SECTION("a floating IP without an agent gateway") {
        std::erase_if(topology.ports, [](const Port& port) { return port.name == "fg-one"; });
        // Derived ports moved up by one.
        for (auto& router : topology.routers) {
            for (auto& leg : router.interfaces)
                --leg;
            --*router.gateway_port;
        }
        const auto refused = desire(topology, 0, allocations());
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ExitCode::kBadTopology);
        CHECK(refused.error().what ==
              "floating IP 198.51.100.11 lives on node one, which has no agent gateway on network public");
    }
    SECTION("two routers whose ids begin alike") {
        Router twin = topology.routers[0];
        twin.id = "7b1f3c52-9a0f-4c1d-8f53-2f6d8e4a1b02";
        twin.interfaces.clear();
        twin.gateway_port.reset();
        for (const std::size_t leg : topology.routers[0].interfaces) {
            Port port = topology.ports[leg];
            port.id = "ffff0000-" + std::to_string(leg) + "000-4000-8000-000000000000";
            port.device = "qr-" + port.id.substr(0, 11);
            topology.ports.push_back(port);
            twin.interfaces.push_back(topology.ports.size() - 1);
        }
        topology.routers.push_back(twin);
        Allocations more = allocations();
        REQUIRE(more.reserve_pair(twin.id, std::nullopt));
        const auto refused = desire(topology, 0, more);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ExitCode::kBadTopology);
        CHECK(refused.error().what.find("fpr-7b1f3c52-9") != std::string::npos);
    }
}

}  // namespace fiplane::build
