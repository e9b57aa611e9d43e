// SPDX-License-Identifier: Apache-2.0
// Routers lower the MSS of TCP, unless the topology says that they shall not.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build_support.hpp"

namespace fiplane::build {
namespace {

using Rules = std::vector<std::string>;

const Rules kAnywhere{"tcp flags syn tcp option maxseg size set rt mtu"};

/// Rules of each namespace's chain of that name.
std::map<NetnsName, Rules> mss_rules(const Topology& topology, std::size_t node) {
    std::map<NetnsName, Rules> out;
    Allocations allocations;
    for (const Router& router : topology.routers)
        REQUIRE(allocations.reserve_pair(router.id, std::nullopt));
    for (const FloatingIp& fip : topology.floating_ips)
        REQUIRE(allocations.reserve_priority(fip.address, std::nullopt));
    for (const auto& [name, netns] : desired_node(topology, node, allocations).netns) {
        for (const NftTable& table : netns.tables) {
            for (const NftChain& chain : table.chains) {
                if (chain.name != "mss") continue;
                CHECK(chain.hook == "forward");
                CHECK(table.family == nf::Family::kIp);
                out[name.substr(0, name.find('-'))] = chain.rules;
            }
        }
    }
    return out;
}

}  // namespace

TEST_CASE("a router's namespaces lower the MSS", "[build]") {
    CHECK(mss_rules(load_example("devstack-legacy-vxlan"), 0) == std::map<NetnsName, Rules>{{"qrouter", kAnywhere}});
    CHECK(mss_rules(load_example("devstack-dvr-east-west"), 0) ==
          std::map<NetnsName, Rules>{{"qrouter", kAnywhere}, {"snat", kAnywhere}});
    // Where the router is not, nobody is.
    CHECK(mss_rules(load_example("devstack-legacy-vxlan"), 1).empty());
}

TEST_CASE("the node's own namespace does so for the bridges of its networks alone", "[build]") {
    const Rules rules{"iifname \"br_flat\" tcp flags syn tcp option maxseg size set rt mtu",
                      "oifname \"br_flat\" tcp flags syn tcp option maxseg size set rt mtu"};
    CHECK(mss_rules(load_example("devstack-nova-multi-host"), 1) == std::map<NetnsName, Rules>{{"", rules}});
}

TEST_CASE("mss_clamp: false", "[build]") {
    for (const char* name : {"devstack-legacy-vxlan", "devstack-dvr-east-west", "devstack-nova-multi-host"}) {
        CHECK(mss_rules(load_example(name, "mss_clamp: false\n"), 0).empty());
    }
}

}  // namespace fiplane::build
