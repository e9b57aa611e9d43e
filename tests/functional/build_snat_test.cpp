// SPDX-License-Identifier: Apache-2.0
// Source NAT for VMs without a floating IP, in Linux alone: a distributed router's central part is built, mended and
// removed; connections end with the address that they had.
#include <fmt/format.h>

#include <algorithm>

#include "build/names.hpp"
#include "functional/build_lab.hpp"

namespace fiplane::test {
namespace {

constexpr Ipv4 kOutside{0xac180402};  // 172.24.4.2, the second node's own

std::string in(const std::string& netns, const std::string& command) {
    return fmt::format("ip netns exec {} {}", netns, command);
}

std::vector<Damage> damages(const Topology& topology) {
    const Router& router = topology.routers[0];
    const std::string snat = build::snat_netns(router);
    const Port& sg = port_named(topology, "router1/db-subnet/snat");
    const std::string& qg = topology.ports[*router.gateway_port].device;
    const std::string redirect = fmt::format("{}", (10U << 24) + (2U << 16) + 1);  // 10.2.0.1
    return {
        {"SNAT port gone", "ip link del " + build::leg_device(sg), "+ [] veth " + build::leg_device(sg)},
        {"SNAT port's MAC", in(snat, fmt::format("ip link set {} address fe:00:00:00:00:08", sg.device)),
         "mac fe:00:00:00:00:08 -> " + sg.mac.str()},
        {"gateway's address", in(snat, fmt::format("ip addr flush dev {}", qg)), "address 172.24.5.240/23 dev " + qg},
        {"default route", in(snat, "ip route del default"), "route default via 172.24.4.1 dev " + qg},
        {"VM's neighbour", in(snat, fmt::format("ip neigh del 10.2.0.31 dev {}", sg.device)), "neighbour 10.2.0.31"},
        {"rule", in(snat, "nft flush chain ip fiplane postrouting"), "oifname \"" + qg + "\" snat to 172.24.5.240"},
        {"forwarding", in(snat, "sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'"), "sysctl ipv4/ip_forward (0 -> 1)"},
        {"namespace", "ip netns del " + snat, "netns " + snat},
        {"stale SNAT port", in(snat, "ip link add sg-stale type veth peer name sg-stale2"), "veth sg-stale"},
        {"redirect's rule", in(build::router_netns(router), "ip rule del priority " + redirect),
         fmt::format("rule {0} from 10.2.0.1/24 lookup {0}", redirect)},
        {"redirect's table", in(build::router_netns(router), "ip route flush table " + redirect),
         "route default via 10.2.0.254"},
    };
}

}  // namespace

TEST_CASE("M9: central source NAT is built once, mended, and carries VMs of all nodes", "[build][snat]") {
    REQUIRE_ROOT();
    Topology topology = example("devstack-dvr-east-west.yaml");
    Lab lab(topology);
    lab.apply_all(topology);
    lab.boot_all(topology);
    lab.apply_all(topology);
    for (std::size_t i = 0; i < lab.size(); ++i)
        CHECK(lab.node(i).plan_text(topology) == "");
    // Answers come from the SNAT port, past the instance on the VM's node.
    for (const char* vm : {"db1", "db2", "db3", "web3"}) {
        INFO(vm);
        CHECK(ping_ttl(lab.vm(vm).netns(), kOutside) == 63);
    }
    Capture outside(lab.node(1).netns(), "br-ex", "icmp");
    CHECK(ping_ttl(lab.vm("db3").netns(), kOutside) == 63);
    const auto seen = outside.lines();
    const auto mentions = [&](const char* address) {
        return std::ranges::any_of(seen,
                                   [&](const std::string& line) { return line.find(address) != std::string::npos; });
    };
    CHECK(mentions("172.24.5.240 > 172.24.4.2"));
    CHECK_FALSE(mentions("10.2.0.31"));
    // A floating IP is its VM's own, and the router's networks are reached as before.
    CHECK(ping_ttl(lab.vm("web1").netns(), kOutside) == 62);
    CHECK(ping_ttl(lab.vm("db3").netns(), *Ipv4::parse("10.1.0.11")) == 63);
    // By the central part, out, and in by the floating IP's node; the answer comes back by both.
    CHECK(ping_ttl(lab.vm("db3").netns(), *Ipv4::parse("172.24.5.11")) > 0);

    LabNode& node = lab.node(0);
    check_mended(node, topology, damages(topology));
    CHECK(ping_ttl(lab.vm("db3").netns(), kOutside) == 63);

    topology.routers[0].enable_snat = false;
    CHECK(node.plan_text(topology).find("nft chain ip fiplane postrouting") != std::string::npos);
    node.apply(topology);
    CHECK(node.plan_text(topology) == "");
    topology.mss_clamp = false;  // with its last chain the table goes
    CHECK(node.plan_text(topology).find("nft table ip fiplane") != std::string::npos);
    node.apply(topology);
    CHECK(node.plan_text(topology) == "");
    node.teardown();
    CHECK(node.sh("ls /run/netns").empty());
}

TEST_CASE("a legacy router's connections end when the VM gets an address of its own", "[build][snat]") {
    REQUIRE_ROOT();
    const Topology whole = example("devstack-legacy-vxlan.yaml");
    Topology without = whole;
    std::erase_if(without.floating_ips,
                  [](const FloatingIp& fip) { return fip.fixed_ip == *Ipv4::parse("10.1.0.32"); });
    Lab lab(without);
    lab.apply_all(without);
    lab.boot_all(without);
    lab.apply_all(without);
    LabNode& primary = lab.node(0);
    const std::string tracked = in(build::router_netns(whole.routers[0]), "cat /proc/net/nf_conntrack");
    const auto has_entry = [&](const char* translated) {
        const std::string entries = primary.sh(tracked);
        return entries.find("src=10.1.0.32 dst=172.24.4.2") != std::string::npos &&
               entries.find(fmt::format("dst={}", translated)) != std::string::npos;
    };
    CHECK(ping_ttl(lab.vm("vm4").netns(), kOutside) == 63);
    CHECK(has_entry("172.24.5.250"));
    // The neighbour on the same network answers by the router.
    CHECK(ping_ttl(lab.vm("vm4").netns(), *Ipv4::parse("172.24.5.31")) == 63);

    const Plan plan = primary.apply(whole);
    CHECK(text_of(plan).find("conntrack entries of 10.1.0.32") != std::string::npos);
    CHECK_FALSE(has_entry("172.24.5.250"));
    CHECK(ping_ttl(lab.vm("vm4").netns(), kOutside) == 63);
    CHECK(has_entry("172.24.5.32"));
    CHECK(primary.plan_text(whole) == "");
}

}  // namespace fiplane::test
