// SPDX-License-Identifier: Apache-2.0
// Life of floating IPs: they come, move and go; and the legacy router.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "build/names.hpp"
#include "functional/build_lab.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

FloatingIp& fip_of(Topology& topology, const char* address) {
    const auto found = std::ranges::find(topology.floating_ips, ip(address), &FloatingIp::address);
    REQUIRE(found != topology.floating_ips.end());
    return *found;
}

std::size_t port_index(const Topology& topology, const std::string& name) {
    return static_cast<std::size_t>(&port_named(topology, name) - topology.ports.data());
}

std::vector<std::string> addresses(const std::vector<Announcement>& announcements) {
    std::vector<std::string> out;
    for (const auto& one : announcements)
        out.push_back(one.address.str() + " " + one.device + " " + one.mac.str());
    return out;
}

std::vector<std::string> text_of(const std::vector<Ipv4>& list) {
    std::vector<std::string> out;
    for (const Ipv4 one : list)
        out.push_back(one.str());
    return out;
}

/// Entries of a namespace's connection tracking, as its owner sees them.
std::string conntrack(LabNode& node, const std::string& netns) {
    return node.sh("ip netns exec " + netns + " cat /proc/net/nf_conntrack");
}

/// -1 if `first` stands before `second` in a plan's text.
int order_of(const std::string& plan, const std::string& first, const std::string& second) {
    const auto a = plan.find(first);
    const auto b = plan.find(second);
    INFO(plan);
    REQUIRE(a != std::string::npos);
    REQUIRE(b != std::string::npos);
    return a < b ? -1 : 1;
}

void move_to(Topology& topology, const char* address, const std::string& vm) {
    FloatingIp& fip = fip_of(topology, address);
    fip.port = port_index(topology, vm);
    fip.fixed_ip = topology.ports[*fip.port].fixed_ip;
}

}  // namespace

TEST_CASE("D6 D8: a floating IP moves to another VM of the node", "[build][fip]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-vxlan.yaml");
    std::erase_if(topology.floating_ips, [](const FloatingIp& fip) { return fip.address == ip("172.24.5.12"); });
    Lab lab(topology);
    const Plan first = lab.node(0).apply(topology);
    CHECK(addresses(first.announcements()) ==
          std::vector<std::string>{"172.24.5.11 " + port_named(topology, "fg-primary").device + " " +
                                   port_named(topology, "fg-primary").mac.str()});
    CHECK(first.withdrawn().empty());
    lab.boot(topology, "vm1");
    lab.boot(topology, "vm2");
    lab.apply_all(topology);
    const std::string router = build::router_netns(topology.routers[0]);
    REQUIRE(ping_ttl(lab.node(1).netns(), ip("172.24.5.11")) == 62);
    REQUIRE(conntrack(lab.node(0), router).find("172.24.5.11") != std::string::npos);

    move_to(topology, "172.24.5.11", "vm2");
    const std::string plan = lab.node(0).plan_text(topology);
    // No longer routed, then translated elsewhere, then old flows end, then the new VM's way out opens.
    CHECK(order_of(plan, "- [" + router + "] rule 32768 from 10.1.0.11/32", "~ [" + router + "] nft element") < 0);
    CHECK(order_of(plan, "nft element ip fiplane fip_in", "conntrack entries of 172.24.5.11") < 0);
    CHECK(order_of(plan, "conntrack entries of 10.1.0.11", "+ [" + router + "] rule 32768 from 10.1.0.12/32") < 0);
    CHECK(plan.find("nft chain") == std::string::npos);
    CHECK(plan.find("rule priority") == std::string::npos);
    const Plan moved = lab.node(0).apply(topology);
    CHECK(text_of(moved.withdrawn()) == std::vector<std::string>{"10.1.0.11", "172.24.5.11"});
    CHECK(conntrack(lab.node(0), router).find("10.1.0.11") == std::string::npos);
    Capture in(lab.vm("vm2").netns(), "eth0", "icmp");
    CHECK(ping_ttl(lab.node(1).netns(), ip("172.24.5.11")) == 62);
    CHECK_FALSE(in.lines().empty());
    CHECK(lab.node(0).plan_text(topology) == "");
}

TEST_CASE("D5 D8: a floating IP goes to another node, and its old node gives up all of it", "[build][fip]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    lab.apply_all(topology);
    for (const char* vm : {"vm1", "vm2", "vm3"})
        lab.boot(topology, vm);
    lab.apply_all(topology);
    std::erase_if(topology.floating_ips, [](const FloatingIp& fip) { return fip.address == ip("172.24.5.21"); });
    move_to(topology, "172.24.5.11", "vm3");
    const std::string router = build::router_netns(topology.routers[0]);
    REQUIRE(ping_ttl(lab.node(2).netns(), ip("172.24.5.11")) == 62);
    REQUIRE(ping_ttl(lab.node(2).netns(), ip("172.24.5.12")) == 62);
    const Plan left = lab.node(0).apply(topology);
    CHECK(conntrack(lab.node(0), router).find("172.24.5.11") == std::string::npos);
    CHECK(conntrack(lab.node(0), router).find("172.24.5.12") != std::string::npos);
    CHECK(text_of(left.withdrawn()) == std::vector<std::string>{"10.1.0.11", "172.24.5.11"});
    CHECK(lab.node(0).sh("cat " + lab.node(0).state_dir() + "/fip-priorities") == "172.24.5.12,32769\n");
    // Nobody answers for it between the nodes' runs.
    CHECK(run_process_in(lab.node(2).netns(), {"arping", "-c", "1", "-w", "1", "-I", "br-ex", "172.24.5.11"})
              .exit_status != 0);
    const Plan arrived = lab.node(1).apply(topology);
    CHECK(addresses(arrived.announcements()) ==
          std::vector<std::string>{"172.24.5.11 " + port_named(topology, "fg-subnode1").device + " " +
                                   port_named(topology, "fg-subnode1").mac.str()});
    lab.apply_all(topology);
    CHECK(ping_ttl(lab.node(2).netns(), ip("172.24.5.11")) == 62);
    CHECK(ping_ttl(lab.node(2).netns(), ip("172.24.5.12")) == 62);
    CHECK(ping_ttl(lab.node(2).netns(), ip("172.24.5.21"), 0, std::chrono::seconds(2)) == 0);
    for (std::size_t i = 0; i < lab.size(); ++i)
        CHECK(lab.node(i).plan_text(topology) == "");
}

TEST_CASE("D8: a removal that was interrupted is taken up again", "[build][fip]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.apply(topology);
    const std::string router = build::router_netns(topology.routers[0]);
    std::erase_if(topology.floating_ips, [](const FloatingIp& fip) { return fip.address == ip("172.24.5.11"); });
    node.apply(topology);
    node.sh("echo 172.24.5.11,32768 >> " + node.state_dir() + "/fip-priorities");
    auto planned = node.plan(topology);
    REQUIRE(planned);
    CHECK(text_of(planned->withdrawn()) == std::vector<std::string>{"172.24.5.11"});
    CHECK(test::text_of(*planned) == "- [] rule priority 32768 (of floating IP 172.24.5.11)\n");
    node.apply(topology);
    CHECK(node.plan_text(topology) == "");
}

TEST_CASE("M10: networks, nodes and routers that leave the topology leave the node", "[build][fip]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    LabNode& node = lab.node(0);
    node.apply(topology);
    lab.boot(topology, "vm1");
    node.apply(topology);
    const std::string device = port_named(topology, "vm1").device;

    Topology smaller = topology;
    const auto gone = [](const Port& port) { return port.node == 2U; };
    std::erase_if(smaller.floating_ips, [&](const FloatingIp& fip) { return gone(topology.ports[*fip.port]); });
    for (auto& port : smaller.ports) {
        if (port.node == 2U) port.node = 1U;
    }
    smaller.nodes.pop_back();
    node.apply(smaller);
    CHECK(node.sh("bridge fdb show").find("192.0.2.13") == std::string::npos);
    CHECK(node.sh("nft list set inet fiplane vteps").find("192.0.2.13") == std::string::npos);
    CHECK(node.plan_text(smaller) == "");

    Topology empty = topology;
    empty.floating_ips.clear();
    std::erase_if(empty.ports, [](const Port& port) { return port.owner == PortOwner::kCompute; });
    empty.routers.clear();
    const Plan plan = node.apply(empty);
    CHECK(plan.withdrawn().size() == 4);
    CHECK(node.sh("ls /run/netns").empty());
    CHECK(node.try_sh("ip link show vxlan-1001") != 0);
    CHECK(node.try_sh("ip link show br-ex") == 0);
    CHECK(node.sh("ip link show " + device).find("master") == std::string::npos);
    CHECK(node.sh("cat " + node.state_dir() + "/fip-linklocal-networks").empty());
    CHECK(node.plan_text(empty) == "");
}

TEST_CASE("D10: a legacy router serves VMs of all nodes from one", "[build][fip]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-legacy-vxlan.yaml");
    Lab lab(topology);
    LabNode& primary = lab.node(0);
    const Port& gateway = topology.ports[*topology.routers[0].gateway_port];
    const Plan plan = primary.apply(topology);
    CHECK(plan.announcements().size() == 4);
    CHECK(plan.announcements()[0].device == gateway.device);
    lab.apply_all(topology);
    lab.boot_all(topology);
    lab.apply_all(topology);
    for (std::size_t i = 0; i < lab.size(); ++i)
        CHECK(lab.node(i).plan_text(topology) == "");
    const std::string router = build::router_netns(topology.routers[0]);
    CHECK(primary.sh("ip -n " + router + " -4 addr show dev " + gateway.device).find("inet 172.24.5.21/32") !=
          std::string::npos);
    CHECK(primary.sh("ip -n " + router + " rule").find("lookup 16") == std::string::npos);
    CHECK(lab.node(1).sh("ls /run/netns").empty());
    CHECK(ping_ttl(lab.node(1).netns(), ip("172.24.5.21")) == 63);
    CHECK(ping_ttl(lab.node(2).netns(), ip("172.24.5.21")) == 63);
    CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.4.3")) == 63);
    // Both are turned around in the router; the neighbour sees the caller's floating IP.
    CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.5.21")) == 63);
    Capture in(lab.vm("vm2").netns(), "eth0", "icmp");
    CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.5.22")) == 63);
    const auto seen = in.lines();
    CHECK(std::ranges::any_of(
        seen, [](const std::string& line) { return line.find("172.24.5.21 > 10.1.0.22") != std::string::npos; }));

    std::erase_if(topology.floating_ips, [](const FloatingIp& fip) { return fip.address == ip("172.24.5.21"); });
    const Plan removal = primary.apply(topology);
    CHECK(text_of(removal.withdrawn()) == std::vector<std::string>{"10.1.0.21", "172.24.5.21"});
    CHECK(ping_ttl(lab.node(1).netns(), ip("172.24.5.21"), 0, std::chrono::seconds(2)) == 0);
    CHECK(ping_ttl(lab.node(1).netns(), ip("172.24.5.22")) == 63);
    CHECK(primary.plan_text(topology) == "");
}

TEST_CASE("ten thousand floating IPs are planned and applied in bounded time", "[build][scale]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-vxlan.yaml");
    constexpr std::size_t kCount = 10000;
    for (auto& subnet : topology.subnets) {
        if (!topology.networks[subnet.network].external) subnet.cidr = *Prefix::parse("10.1.0.0/16");
    }
    const Port model = port_named(topology, "vm1");
    topology.floating_ips.clear();
    for (std::size_t i = 0; i < kCount; ++i) {
        Port port = model;
        port.name = fmt::format("many{}", i);
        port.id = fmt::format("{:08x}-0000-4000-8000-000000000000", i);
        port.device = "tap" + port.id.substr(0, 11);
        port.fixed_ip = Ipv4{ip("10.1.1.0").value + static_cast<std::uint32_t>(i)};
        port.mac = {{0xfa, 0x16, 0x3e, static_cast<std::uint8_t>(i >> 16), static_cast<std::uint8_t>(i >> 8),
                     static_cast<std::uint8_t>(i)}};
        topology.ports.push_back(port);
        topology.floating_ips.push_back({Ipv4{ip("172.25.0.0").value + static_cast<std::uint32_t>(i)}, 0,
                                         topology.ports.size() - 1, 0, port.fixed_ip});
    }
    Lab lab(topology);
    // Processor time of this process, kernel included: the machine may be busy with other things.
    const auto seconds = [](const auto& task) {
        const auto start = std::clock();
        task();
        return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / time_scale();
    };
    CHECK(seconds([&] { CHECK(lab.node(0).plan(topology)); }) < 10);
    CHECK(seconds([&] { lab.node(0).apply(topology); }) < 60);
    CHECK(seconds([&] { CHECK(lab.node(0).plan_text(topology) == ""); }) < 20);
    topology.floating_ips.pop_back();
    CHECK(seconds([&] { lab.node(0).apply(topology); }) < 20);
}

}  // namespace fiplane::test
