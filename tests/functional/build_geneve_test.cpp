// SPDX-License-Identifier: Apache-2.0
// Networks over Geneve: built once, mended, and refused where the underlay would give packets another source.
#include "functional/build_lab.hpp"
#include "linux/rtnl.hpp"

namespace fiplane::test {
namespace {

bool has_geneve() {
    const ScratchNetns scratch("probe");
    auto rtnl = Rtnl::open(scratch.netns());
    return rtnl && rtnl->require_kind("geneve");
}

}  // namespace

TEST_CASE("geneve devices are built once and mended", "[build][linux]") {
    REQUIRE_ROOT();
    if (!has_geneve()) SKIP("this kernel has no geneve devices");
    const Topology topology = example("devstack-dvr-geneve.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.apply(topology);
    CHECK(node.plan_text(topology).empty());
    for (const char* damage :
         {"ip link del gnv-1001-2", "ip link set gnv-1001-2 type geneve id 1001 remote 192.0.2.12 ttl 10",
          "ip link set gnv-1001-2 type geneve id 1001 remote 192.0.2.12 df set"}) {
        INFO(damage);
        node.sh(damage);
        CHECK(node.plan_text(topology).find("+ [] geneve gnv-1001-2 id 1001 remote 192.0.2.12") != std::string::npos);
        node.apply(topology);
        CHECK(node.plan_text(topology).empty());
    }
    CHECK(node.sh("nft list chain inet fiplane input").find("udp dport 6081 ip saddr @geneve_vteps accept") !=
          std::string::npos);
    // The third node has nothing in the network any more: its tunnel goes, and the chain that kept ARP out of it.
    Topology smaller = topology;
    for (Port& port : smaller.ports) {
        if (port.owner == PortOwner::kCompute && port.node == 2) port.node = 1;
    }
    node.apply(smaller);
    CHECK(node.plan_text(smaller).empty());
    CHECK(node.sh("nft list tables; nft list table netdev fiplane").find("gnv-1001-3") == std::string::npos);
    CHECK(node.try_sh("ip link show gnv-1001-3") != 0);
    node.teardown();
    CHECK(node.sh("ip -o link show type geneve").empty());
}

TEST_CASE("a route that gives Geneve packets another source than the VTEP is named", "[build][linux]") {
    REQUIRE_ROOT();
    if (!has_geneve()) SKIP("this kernel has no geneve devices");
    const Topology topology = example("devstack-dvr-geneve.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.sh("ip address add 192.0.2.99/24 dev eth0 && ip route add 192.0.2.13/32 dev eth0 src 192.0.2.99");
    const auto refused = node.plan(topology);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kFailed);
    CHECK(refused.error().what ==
          "Geneve packets to 192.0.2.13 would come from 192.0.2.99, not from 192.0.2.11, node primary's underlay "
          "address");
    CHECK(refused.error().hint == "write src 192.0.2.11 into the route to it");
    node.sh("ip route change 192.0.2.13/32 dev eth0 src 192.0.2.11");
    CHECK(node.plan(topology));
    // Without a route there is no source yet.
    node.sh("ip route replace unreachable 192.0.2.13/32");
    CHECK(node.plan(topology));
}

}  // namespace fiplane::test
