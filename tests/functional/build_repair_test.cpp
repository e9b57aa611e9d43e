// SPDX-License-Identifier: Apache-2.0
// Reconciliation: every kind of damage is found, named and mended; what is somebody else's is left alone.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "build/names.hpp"
#include "functional/build_lab.hpp"

namespace fiplane::test {
namespace {

/// What a node's own namespace holds that teardown must leave as it was. IPv6 addresses, bridge timers and multicast
/// groups change by themselves and are left out.
std::string inventory(LabNode& node) {
    std::string out;
    for (const char* command :
         {"ip -j link", "ip -j -4 addr", "ip -j -4 route show table all", "ip -j rule",
          "bridge fdb | grep -v -e ^33:33 -e ^01:00:5e | sort", "nft -j list tables", "ls /run/netns"}) {
        out += node.sh(command) + "\n";
    }
    return out;
}

std::vector<Damage> damages(const Topology& topology) {
    const std::string router = build::router_netns(topology.routers[0]);
    const std::string fip = build::fip_netns(topology.networks[0]);
    const std::string rfp = build::rfp_device(topology.routers[0]);
    const std::string fpr = build::fpr_device(topology.routers[0]);
    const Port& leg = topology.ports[topology.routers[0].interfaces[0]];
    const Port& fg = port_named(topology, "fg-primary");
    const Port& vm1 = port_named(topology, "vm1");
    const std::string brq = topology.networks[1].bridge;
    const std::string remote = port_named(topology, "vm3").mac.str();
    const auto in = [](const std::string& netns, const std::string& command) {
        return fmt::format("ip netns exec {} {}", netns, command);
    };
    return {
        {"bridge address", "ip addr del 172.24.4.1/23 dev br-ex", "address 172.24.4.1/23 dev br-ex"},
        {"old bridge address", "ip addr add 172.24.4.9/23 dev br-ex", "- [] address 172.24.4.9/23 dev br-ex"},
        {"bridge MTU", "ip link set br-ex mtu 1400", "mtu 1400 -> 1450"},
        {"bridge MAC", "ip link set br-ex address fe:00:00:00:00:09", "mac fe:00:00:00:00:09 -> "},
        {"bridge down", "ip link set br-ex down", "down -> up"},
        {"bridge STP", fmt::format("ip link set {} type bridge stp_state 1", brq), "+ [] bridge " + brq},
        {"bridge gone", fmt::format("ip link del {}", brq), "+ [] bridge " + brq},
        {"tunnel gone", "ip link del vxlan-1001", "+ [] vxlan vxlan-1001"},
        {"tunnel learning", "ip link set vxlan-1000001 type vxlan learning", "+ [] vxlan vxlan-1000001"},
        {"tunnel port learning", "bridge link set dev vxlan-1001 learning on", "learning on -> off"},
        {"tunnel unplugged", "ip link set vxlan-1001 nomaster", "master none -> " + brq},
        {"flood entry gone", "bridge fdb del 00:00:00:00:00:00 dev vxlan-1001 dst 192.0.2.12 self",
         "fdb 00:00:00:00:00:00 dev vxlan-1001 dst 192.0.2.12"},
        {"flood entry of a stranger", "bridge fdb append 00:00:00:00:00:00 dev vxlan-1001 dst 192.0.2.77 self",
         "- [] fdb 00:00:00:00:00:00 dev vxlan-1001 dst 192.0.2.77"},
        {"VTEP changed", fmt::format("bridge fdb replace {} dev vxlan-1001 dst 192.0.2.13 self static", remote),
         fmt::format("~ [] fdb {} dev vxlan-1001 dst 192.0.2.12", remote)},
        {"bridge entry gone", fmt::format("bridge fdb del {} dev vxlan-1001 master", remote),
         fmt::format("+ [] fdb {} dev vxlan-1001 master", remote)},
        {"bridge entry moved", fmt::format("bridge fdb replace {} dev {} master static", remote, vm1.device),
         fmt::format("+ [] fdb {} dev vxlan-1001 master", remote)},
        {"stale bridge entry", "bridge fdb add fa:16:3e:99:99:99 dev vxlan-1001 master static",
         "- [] fdb fa:16:3e:99:99:99 dev vxlan-1001 master"},
        {"tunnel neighbour gone", "ip neigh del 10.1.0.21 dev vxlan-1001", "+ [] neighbour 10.1.0.21 dev vxlan-1001"},
        {"VM unplugged", fmt::format("ip link set {} nomaster", vm1.device), "master none -> " + brq},
        {"VM MTU", fmt::format("ip link set {} mtu 1300", vm1.device), "mtu 1300 -> 1450"},
        {"guard gone", "nft delete table netdev fiplane", "nft chain netdev fiplane port_" + vm1.device},
        {"guard rule gone", fmt::format("nft flush chain netdev fiplane port_{}", vm1.device),
         "rule 1: none -> ether saddr != "},
        {"tunnel filter gone", "nft delete table inet fiplane", "nft table inet fiplane"},
        {"VTEP of a stranger", "nft add element inet fiplane vteps '{ 192.0.2.77 }'",
         "- [] nft element inet fiplane vteps { 192.0.2.77 }"},
        {"router leg gone", fmt::format("ip link del {}", build::leg_device(leg)),
         "+ [] veth " + build::leg_device(leg)},
        {"router leg MAC", in(router, fmt::format("ip link set {} address fe:00:00:00:00:08", leg.device)),
         "mac fe:00:00:00:00:08 -> " + leg.mac.str()},
        {"router leg down", in(router, fmt::format("ip link set {} down", leg.device)), "down -> up"},
        {"VM's neighbour changed",
         in(router, fmt::format("ip neigh replace 10.1.0.12 lladdr fe:00:00:00:00:07 dev {}", leg.device)),
         "fe:00:00:00:00:07 -> "},
        {"pair gone", in(router, "ip link del " + rfp), "veth " + rfp},
        {"pair address", in(router, "ip addr flush dev " + rfp), "address 169.254.64.0/31 dev " + rfp},
        {"pair neighbour", in(fip, fmt::format("ip neigh del 169.254.64.0 dev {}", fpr)), "neighbour 169.254.64.0"},
        {"fg gone", fmt::format("ip link del {}", build::leg_device(fg)), "+ [] veth " + build::leg_device(fg)},
        {"FIP rule gone", in(router, "ip rule del from 10.1.0.11 lookup 16"), "rule 32768 from 10.1.0.11/32 lookup 16"},
        {"stale FIP rule", in(router, "ip rule add from 10.1.0.99 lookup 16 priority 40000"),
         "rule 40000 from 10.1.0.99/32 lookup 16"},
        {"table 16 gone", in(router, "ip route flush table 16"), "dev " + rfp + " table 16"},
        {"table 16 changed",
         in(router, fmt::format("ip route replace default via 10.1.0.11 dev {} table 16", leg.device)),
         "was route default via 10.1.0.11"},
        {"FIP route gone", in(fip, "ip route del 172.24.5.11"), "route 172.24.5.11/32 via 169.254.64.0"},
        {"stale FIP route", in(fip, fmt::format("ip route add 172.24.5.99 via 169.254.64.0 dev {} proto static", fpr)),
         "route 172.24.5.99/32"},
        {"iif rule gone", in(fip, "ip rule del priority 2852012033"), "rule 2852012033 from all iif " + fpr},
        {"kernel's rule gone", in(fip, "ip rule del priority 32766"), "rule 32766 from all lookup 254"},
        {"translation gone", in(router, "nft delete element ip fiplane fip_in '{ 172.24.5.11 : 10.1.0.11 }'"),
         "nft element ip fiplane fip_in { 172.24.5.11 : 10.1.0.11 }"},
        {"translation changed",
         in(router,
            "nft 'delete element ip fiplane fip_out { 10.1.0.11 : 172.24.5.11 }; "
            "add element ip fiplane fip_out { 10.1.0.11 : 172.24.5.88 }'"),
         "10.1.0.11 : 172.24.5.88 -> 10.1.0.11 : 172.24.5.11"},
        {"stale translation", in(router, "nft add element ip fiplane fip_in '{ 172.24.5.99 : 10.1.0.99 }'"),
         "nft element ip fiplane fip_in { 172.24.5.99 : 10.1.0.99 }"},
        {"NAT rule changed", in(router, "nft insert rule ip fiplane postrouting accept"),
         "rule 1: accept -> oifname != "},
        {"NAT table gone", in(router, "nft delete table ip fiplane"), "nft table ip fiplane"},
        {"notrack gone", in(fip, "nft delete table ip fiplane"), "nft table ip fiplane"},
        {"forwarding off", in(router, "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'"),
         "sysctl ipv4/ip_forward (0 -> 1)"},
        {"proxy ARP off", in(fip, fmt::format("sh -c 'echo 0 > /proc/sys/net/ipv4/conf/{}/proxy_arp'", fg.device)),
         "proxy_arp (0 -> 1)"},
        {"namespace gone", fmt::format("ip netns del {}", router), "+ [" + router + "] netns " + router},
        {"stale namespace's device", in(router, "ip link add rfp-stale type veth peer name fpr-stale"),
         "veth rfp-stale"},
    };
}

}  // namespace

TEST_CASE("damage is found, named and mended; traffic flows again", "[build][repair]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    lab.apply_all(topology);
    for (const char* vm : {"vm1", "vm2", "vm3"})
        lab.boot(topology, vm);
    lab.apply_all(topology);
    check_mended(lab.node(0), topology, damages(topology));
    CHECK(ping_ttl(lab.node(1).netns(), *Ipv4::parse("172.24.5.11")) == 62);
    CHECK(ping_ttl(lab.vm("vm1").netns(), *Ipv4::parse("10.1.0.21")) == 64);
    CHECK(ping_ttl(lab.vm("vm2").netns(), *Ipv4::parse("172.24.5.11")) == 61);
}

TEST_CASE("what an operator or the kernel added beside it stays", "[build][repair]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.apply(topology);
    const std::string router = build::router_netns(topology.routers[0]);
    node.sh("ip link add mine type veth peer name mine1 && ip link set mine master br-ex up");
    node.sh("bridge fdb add fa:16:3e:77:77:77 dev mine master static");
    node.sh("ip addr add 198.51.100.1/24 dev br-ex; ip route add 198.51.101.0/24 via 198.51.100.2 dev br-ex");
    node.sh("ip rule add fwmark 7 lookup 77; nft add table ip mine");
    node.sh("ip -n " + router + " rule add fwmark 7 lookup 77 priority 100");
    node.sh("ip -n " + router + " route add 198.51.102.0/24 via 10.1.0.11 proto bird");
    CHECK(node.plan_text(topology) == "");
    node.teardown();
    CHECK(node.sh("ip link show mine").find("master") == std::string::npos);
    CHECK(node.sh("nft list tables").find("table ip mine") != std::string::npos);
}

TEST_CASE("teardown leaves the node as it was, and building again gives the same addresses (D7)", "[build][repair]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.sh("ip link add keep type bridge; ip link set keep up; nft add table inet keep; ip netns add qdhcp-keep");
    const std::string before = inventory(node);
    Topology first = topology;
    // Another order of arrival than the topology's: what counts is what was given first.
    std::ranges::reverse(first.floating_ips);
    node.apply(first);
    const auto read = [&](const char* name) { return node.sh("cat " + node.state_dir() + "/" + name); };
    const std::string pairs = read("fip-linklocal-networks");
    const std::string priorities = read("fip-priorities");
    CHECK(pairs == topology.routers[0].id + ",169.254.64.0/31\n");
    CHECK(priorities == "172.24.5.11,32769\n172.24.5.12,32768\n");
    const Plan torn = node.teardown();
    CHECK_FALSE(torn.empty());
    CHECK(torn.withdrawn().size() == 4);
    CHECK(inventory(node) == before);
    CHECK(node.teardown().empty());
    node.apply(topology);
    CHECK(read("fip-linklocal-networks") == pairs);
    CHECK(read("fip-priorities") == priorities);
    CHECK(node.sh("ip -n " + build::router_netns(topology.routers[0]) + " rule").find("32769:\tfrom 10.1.0.11") !=
          std::string::npos);

    // The files are lost while the router works: what Linux uses counts.
    node.sh("rm " + node.state_dir() + "/fip-*");
    node.apply(topology);
    CHECK(read("fip-linklocal-networks") == pairs);
    CHECK(read("fip-priorities") == priorities);
    CHECK(node.plan_text(topology) == "");
}

TEST_CASE("names that belong to somebody else are refused, and nothing is touched", "[build][foreign]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    const std::string router = build::router_netns(topology.routers[0]);
    std::string expected;
    SECTION("an existing br-ex") {
        node.sh("ip link add br-ex type bridge; ip addr add 203.0.113.1/24 dev br-ex");
        expected = "device br-ex was made by somebody else: it is a bridge without fiplane's mark";
    }
    SECTION("a tunnel device") {
        node.sh("ip link add vxlan-1001 type vxlan id 1001 dstport 4789 local 192.0.2.11");
        expected = "device vxlan-1001 was made by somebody else";
    }
    SECTION("a Neutron L3 agent's router") {
        node.sh("ip netns add " + router + "; ip netns exec " + router +
                " nft 'add table ip nat; add chain ip nat neutron-l3-agent-PREROUTING'");
        expected = "probably a Neutron L3 agent: it has the chain neutron-l3-agent-PREROUTING";
    }
    SECTION("an empty namespace of that name") {
        node.sh("ip netns add " + router);
        expected = "network namespace " + router + " was made by somebody else";
    }
    SECTION("another topology's objects") {
        node.sh("ip link add old0 type bridge; ip link set old0 alias fiplane:old");
        expected = "belongs to topology \"old\"";
    }
    const std::string before = inventory(node);
    const auto planned = node.plan(topology);
    REQUIRE_FALSE(planned);
    CHECK(planned.error().code == ExitCode::kForeignObject);
    INFO(planned.error().message());
    CHECK(planned.error().what.find(expected) != std::string::npos);
    CHECK(inventory(node) == before);
}

TEST_CASE("teardown leaves a stranger's namespace and bridge", "[build][foreign]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.apply(topology);
    node.sh("ip netns add qrouter-other; ip link add brq-other type bridge; ip link set brq-other alias neutron");
    node.teardown();
    CHECK(node.sh("ls /run/netns") == "qrouter-other\n");
    CHECK(node.try_sh("ip link show brq-other") == 0);
    CHECK(node.try_sh("ip link show br-ex") != 0);
}

TEST_CASE("a VM device in somebody else's bridge is left there and waited for", "[build][foreign]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    lab.boot(topology, "vm1");
    const std::string device = port_named(topology, "vm1").device;
    node.sh("ip link add theirs type bridge; ip link set " + device + " master theirs");
    const Plan plan = node.apply(topology);
    REQUIRE(plan.waiting_for().size() == 2);
    CHECK(std::ranges::any_of(plan.waiting_for(), [&](const std::string& phrase) {
        return phrase.find(device) != std::string::npos && phrase.find("it is in theirs") != std::string::npos;
    }));
    CHECK(node.sh("ip link show " + device).find("mtu 1400 qdisc noqueue master theirs") != std::string::npos);
    CHECK(node.plan_text(topology) == "");
}

TEST_CASE("a missing underlay is named with what is there", "[build]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    topology.nodes[0].underlay_device = "eth7";
    auto planned = node.plan(topology);
    REQUIRE_FALSE(planned);
    CHECK(planned.error().code == ExitCode::kMissingDevice);
    CHECK(planned.error().hint.find("devices here: eth0, lo") != std::string::npos);
    topology.nodes[0].underlay_device = "eth0";
    topology.nodes[0].underlay_address = *Ipv4::parse("192.0.2.200");
    planned = node.plan(topology);
    REQUIRE_FALSE(planned);
    CHECK(planned.error().code == ExitCode::kMissingDevice);
    CHECK(planned.error().hint.find("192.0.2.11/24") != std::string::npos);
    topology.nodes[0].underlay_address = *Ipv4::parse("192.0.2.11");
    node.sh("ip link set eth0 mtu 1400");
    planned = node.plan(topology);
    REQUIRE_FALSE(planned);
    CHECK(planned.error().code == ExitCode::kBadTopology);
}

}  // namespace fiplane::test
