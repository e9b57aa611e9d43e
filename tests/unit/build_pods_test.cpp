// SPDX-License-Identifier: Apache-2.0
// Routers of clouds that meet on a bridge network, as the second example pod has them: no translation there, extra
// routes by next hops that nobody lists, floating IPs of VMs behind them.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build/nft_tables.hpp"
#include "build_support.hpp"

namespace fiplane::build {
namespace {

class Pod {
  public:
    Pod() {
        topology = load_example("tricircle-pod2");
        node = desired_node(topology, 0);
    }

    const DesiredNetns& namespace_of(const char* name) const {
        const auto router = std::ranges::find(topology.routers, name, &Router::name);
        return node.netns.at("qrouter-" + router->id);
    }

    /// "10.0.1.0/24 via 100.0.1.1 dev qg-", of the main table, sorted.
    std::vector<std::string> routes_of(const char* name) const {
        std::vector<std::string> out;
        for (const DesiredRoute& route : namespace_of(name).routes) {
            CHECK(route.table == 254);
            out.push_back(fmt::format("{} via {} dev {}", route.destination.str(),
                                      route.gateway ? route.gateway->str() : "nobody", route.device.substr(0, 3)));
        }
        std::ranges::sort(out);
        return out;
    }

    /// "100.0.1.2/24 dev qg-", sorted.
    std::vector<std::string> addresses_of(const char* name) const {
        std::vector<std::string> out;
        for (const auto& [device, address] : namespace_of(name).addresses)
            out.push_back(fmt::format("{} dev {}", address.str(), device.substr(0, 3)));
        std::ranges::sort(out);
        return out;
    }

    Topology topology;
    DesiredNode node;
};

using Lines = std::vector<std::string>;

TEST_CASE("a router whose way out is a bridge network translates nothing", "[build][pods]") {
    const Pod pod;
    CHECK(pod.routes_of("router2") == Lines{"0.0.0.0/0 via 100.0.1.3 dev qg-", "10.0.1.0/24 via 100.0.1.1 dev qg-"});
    CHECK(pod.addresses_of("router2") == Lines{"10.0.2.1/24 dev qr-", "100.0.1.2/24 dev qg-"});
    for (const char* router : {"router2", "other2"}) {
        CHECK(without_mss(pod.namespace_of(router).tables).empty());
        // Next hops in the other pod are asked for by ARP.
        CHECK(pod.namespace_of(router).neighbours.empty());
    }
    CHECK(pod.routes_of("other2") == Lines{"10.0.1.11/32 via 100.0.1.1 dev qg-"});
    CHECK(pod.addresses_of("other2") == pod.addresses_of("router2"));
}

TEST_CASE("a router inside of which the bridge network is has the floating IPs", "[build][pods]") {
    const Pod pod;
    CHECK(pod.routes_of("north-south") == Lines{"0.0.0.0/0 via 163.3.124.1 dev qg-",
                                                "10.0.1.0/24 via 100.0.1.1 dev qr-",
                                                "10.0.2.0/24 via 100.0.1.2 dev qr-"});
    CHECK(pod.addresses_of("north-south") == Lines{"100.0.1.3/24 dev qr-", "163.3.124.101/32 dev qg-",
                                                   "163.3.124.102/32 dev qg-", "163.3.124.200/24 dev qg-"});
    const auto& tables = pod.namespace_of("north-south").tables;
    REQUIRE(tables.size() == 1);
    const std::map<Ipv4, Ipv4> wanted = {{*Ipv4::parse("163.3.124.101"), *Ipv4::parse("10.0.2.21")},
                                         {*Ipv4::parse("163.3.124.102"), *Ipv4::parse("10.0.1.11")}};
    CHECK(tables[0].maps.at(kFipInMap) == wanted);
    // They belong to the router's node, not to the VM's; of the second no node has the VM.
    CHECK(pod.node.fips.size() == 2);
    CHECK(place(pod.topology, 1).floating_ips.empty());
}

TEST_CASE("networks of two projects are two bridges on two VLANs", "[build][pods]") {
    const Pod pod;
    const auto& devices = pod.node.netns.at("").devices;
    const std::string& one = devices.at("eth1.2001").master;
    const std::string& other = devices.at("eth1.2002").master;
    CHECK(one != other);
    const auto legs_in = [&](const std::string& bridge) {
        return std::ranges::count_if(devices, [&](const auto& each) {
            return each.second.master == bridge && std::holds_alternative<VethKind>(each.second.kind);
        });
    };
    // router2's qg- and north-south's qr-; other2's qg-.
    CHECK(legs_in(one) == 2);
    CHECK(legs_in(other) == 1);
}

}  // namespace
}  // namespace fiplane::build
