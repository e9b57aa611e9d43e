// SPDX-License-Identifier: Apache-2.0
// Networks over an IPv6 underlay: built once, mended, turned to and from IPv4, and refused where the address is
// missing.
#include <initializer_list>

#include "build/names.hpp"
#include "functional/build_lab.hpp"

namespace fiplane::test {
namespace {

/// Our vxlan device made with these options instead of its own.
std::string remake(const Topology& topology, const std::string& options) {
    return "ip link del vxlan-1001 && ip link add vxlan-1001 mtu 1430 type vxlan id 1001 dev eth0 dstport 4789 "
           "nolearning proxy " +
           options + " && ip link set vxlan-1001 alias " + build::mark_of(topology.name);
}

}  // namespace

TEST_CASE("tunnels over IPv6 are built once and mended", "[build][linux]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan-ipv6.yaml");
    Lab lab(topology);
    lab.apply_all(topology);
    for (const char* vm : {"vm1", "vm3"})
        lab.boot(topology, vm);
    lab.apply_all(topology);
    LabNode& node = lab.node(0);
    CHECK(node.plan_text(topology).empty());
    const std::string remote = port_named(topology, "vm3").mac.str();
    check_mended(
        node, topology,
        {{"tunnel gone", "ip link del vxlan-1001", "+ [] vxlan vxlan-1001 id 1001 local 2001:db8:ac::11"},
         {"checksums sent", remake(topology, "local 2001:db8:ac::11 ttl 64 udp6zerocsumrx"), "+ [] vxlan vxlan-1001"},
         {"checksums wanted", remake(topology, "local 2001:db8:ac::11 ttl 64 udp6zerocsumtx"), "+ [] vxlan vxlan-1001"},
         {"no TTL of its own", remake(topology, "local 2001:db8:ac::11 udp6zerocsumtx udp6zerocsumrx"),
          "+ [] vxlan vxlan-1001"},
         {"another address", remake(topology, "local 2001:db8:ac::99 ttl 64 udp6zerocsumtx udp6zerocsumrx"),
          "+ [] vxlan vxlan-1001"},
         {"flood entry gone", "bridge fdb del 00:00:00:00:00:00 dev vxlan-1001 dst 2001:db8:ac::12 self",
          "fdb 00:00:00:00:00:00 dev vxlan-1001 dst 2001:db8:ac::12"},
         {"flood entry of a stranger", "bridge fdb append 00:00:00:00:00:00 dev vxlan-1001 dst 2001:db8:ac::77 self",
          "- [] fdb 00:00:00:00:00:00 dev vxlan-1001 dst 2001:db8:ac::77"},
         {"VTEP changed", "bridge fdb replace " + remote + " dev vxlan-1001 dst 2001:db8:ac::13 self static",
          "~ [] fdb " + remote + " dev vxlan-1001 dst 2001:db8:ac::12"},
         {"VTEP of a stranger", "nft add element inet fiplane vteps6 '{ 2001:db8:ac::77 }'",
          "- [] nft element inet fiplane vteps6 { 2001:db8:ac::77 }"},
         {"VTEP gone", "nft delete element inet fiplane vteps6 '{ 2001:db8:ac::12 }'",
          "+ [] nft element inet fiplane vteps6 { 2001:db8:ac::12 }"},
         {"filter flushed", "nft flush chain inet fiplane input", "ip6 saddr @vteps6 accept"}});
    CHECK(ping_ttl(lab.vm("vm1").netns(), port_named(topology, "vm3").fixed_ip, 1430) == 64);
    node.teardown();
    CHECK(node.sh("ip -o link show type vxlan").empty());
    CHECK(node.sh("nft list tables").find("fiplane") == std::string::npos);
}

TEST_CASE("a cloud moves to an IPv6 underlay and back", "[build][linux]") {
    REQUIRE_ROOT();
    const Topology four = example("devstack-dvr-vxlan.yaml");
    Topology six = example("devstack-dvr-vxlan-ipv6.yaml");
    six.name = four.name;
    Lab lab(four);
    for (std::size_t i = 0; i < lab.size(); ++i)
        lab.node(i).sh("ip address add " + six.nodes[i].underlay_address.str() + "/64 dev eth0 nodad");
    for (const Topology* topology : std::initializer_list<const Topology*>{&four, &six, &four}) {
        lab.apply_all(*topology);
        for (std::size_t i = 0; i < lab.size(); ++i)
            CHECK(lab.node(i).plan_text(*topology).empty());
        const Ipv4 other = six.nodes[1].bridge_addresses[0].address.address;
        CHECK(ping_ttl(lab.node(0).netns(), other) == 64);
    }
}

TEST_CASE("an IPv6 underlay address that the node does not have is named with what is there", "[build]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan-ipv6.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.sh("ip address del 2001:db8:ac::11/64 dev eth0");
    const auto refused = node.plan(topology);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kMissingDevice);
    CHECK(refused.error().what == "underlay device eth0 of node primary does not have the address 2001:db8:ac::11");
    CHECK(refused.error().hint.find("it has fe80::") == 0);
}

}  // namespace fiplane::test
