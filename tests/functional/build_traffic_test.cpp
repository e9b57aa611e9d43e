// SPDX-License-Identifier: Apache-2.0
// The slow path that build makes carries traffic, on three nodes: what a distributed router's users see.
#include <algorithm>
#include <cctype>

#include "build/names.hpp"
#include "functional/build_lab.hpp"

namespace fiplane::test {
namespace {

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

bool mentions(const std::vector<std::string>& lines, const std::string& text) {
    return std::ranges::any_of(lines, [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

}  // namespace

TEST_CASE("M1 M6 M8 M10 D1-D5 D9: three nodes with a distributed router carry traffic", "[build][traffic]") {
    REQUIRE_ROOT();
    const Topology topology = example("devstack-dvr-vxlan.yaml");
    Lab lab(topology);
    lab.apply_all(topology);
    lab.boot_all(topology);
    lab.apply_all(topology);
    const Netns& primary = lab.node(0).netns();
    const Netns& subnode1 = lab.node(1).netns();
    const Port& vm1 = port_named(topology, "vm1");

    SECTION("M10: a second run changes nothing") {
        for (std::size_t i = 0; i < lab.size(); ++i)
            CHECK(lab.node(i).plan_text(topology).empty());
    }
    SECTION("M8: nodes reach each other and every floating IP") {
        CHECK(ping_ttl(subnode1, ip("172.24.4.1")) == 64);
        CHECK(ping_ttl(lab.node(2).netns(), ip("172.24.4.2")) == 64);
        CHECK(ping_ttl(subnode1, ip("172.24.5.11")) == 62);
        CHECK(ping_ttl(primary, ip("172.24.5.11")) == 62);
        CHECK(ping_ttl(lab.vm("vm3").netns(), ip("172.24.5.11")) == 60);
    }
    SECTION("D3 D4: a VM leaves as its floating IP, two hops away, and sees who calls") {
        Capture out(subnode1, "br-ex", "icmp");
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.4.2")) == 62);
        const auto seen = out.lines();
        CHECK(mentions(seen, "172.24.5.11 > 172.24.4.2"));
        CHECK(mentions(seen, "ttl 62"));
        Capture in(lab.vm("vm1").netns(), "eth0", "icmp");
        CHECK(ping_ttl(subnode1, ip("172.24.5.11")) == 62);
        CHECK(mentions(in.lines(), "172.24.4.2 > 10.1.0.11"));
    }
    SECTION("D9: between floating IPs of one node, and to its own") {
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.5.12")) == 61);
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.5.11")) == 61);
        Capture in(lab.vm("vm2").netns(), "eth0", "icmp");
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("172.24.5.12")) > 0);
        const auto seen = in.lines();
        CHECK(mentions(seen, "172.24.5.11 > 10.1.0.12"));
        CHECK(mentions(seen, "ttl 61"));
    }
    SECTION("tenant network over nodes, without a router hop") {
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.12")) == 64);
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.31")) == 64);
        CHECK(ping_ttl(lab.vm("vm6").netns(), ip("10.1.0.21")) == 64);
    }
    SECTION("M6: packets of the MTU pass, larger ones fail at the sender") {
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.31"), 1450) == 64);
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.31"), 1451) == 0);
        CHECK(ping_ttl(subnode1, ip("172.24.4.1"), 1450) == 64);
        CHECK(ping_ttl(subnode1, ip("172.24.4.1"), 1451) == 0);
        CHECK(ping_ttl(subnode1, ip("172.24.5.11"), 1450) == 62);
    }
    SECTION("D5: proxy ARP answers for floating IPs only, with the agent gateway's MAC") {
        const auto found = run_process_in(subnode1, {"arping", "-c", "1", "-w", "2", "-I", "br-ex", "172.24.5.11"});
        std::string answer = found.out;
        std::ranges::transform(answer, answer.begin(), [](unsigned char c) { return std::tolower(c); });
        CHECK(answer.find(port_named(topology, "fg-primary").mac.str()) != std::string::npos);
        for (const char* unassigned : {"172.24.5.99", "169.254.64.1", "10.1.0.11"}) {
            CHECK(run_process_in(subnode1, {"arping", "-c", "1", "-w", "1", "-I", "br-ex", unassigned}).exit_status !=
                  0);
        }
    }
    SECTION("M1: between nodes there are tunnel packets only, and no ARP of the tenant network in them") {
        Capture wire(lab.wire(), "wire0", "udp port 4789");
        Capture other(lab.wire(), "wire0", "ip and not udp port 4789");
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.31")) == 64);
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.1")) == 64);
        (void)run_process_in(lab.vm("vm1").netns(), {"arping", "-c", "2", "-w", "2", "-I", "eth0", "10.1.0.200"});
        const auto seen = wire.lines();
        CHECK(mentions(seen, "vni 1001"));
        CHECK_FALSE(mentions(seen, "ARP"));
        CHECK_FALSE(mentions(seen, topology.ports[topology.routers[0].interfaces[0]].mac.str()));
        CHECK(other.lines().empty());
    }
    SECTION("what a VM sends under another's address is dropped, also after its device came back") {
        const auto spoof = [&] {
            Capture in(lab.vm("vm2").netns(), "eth0", "icmp or arp");
            const Netns& from = lab.vm("vm1").netns();
            (void)run_process_in(
                from, {"sh", "-c",
                       "ip addr add 10.1.0.77/32 dev eth0; ip neigh replace 10.1.0.12 lladdr " +
                           port_named(topology, "vm2").mac.str() + " dev eth0; ping -c 1 -W 1 -I 10.1.0.77 10.1.0.12"});
            (void)run_process_in(from, {"arping", "-c", "1", "-w", "1", "-U", "-I", "eth0", "10.1.0.77"});
            return in.lines();
        };
        CHECK(spoof().empty());
        lab.node(0).sh("ip link del " + vm1.device);
        lab.stop("vm1");
        CHECK(lab.node(0).try_sh("ip link show " + vm1.device) != 0);
        auto waiting = lab.node(0).plan(topology);
        REQUIRE(waiting);
        CHECK(text_of(*waiting).empty());
        REQUIRE(waiting->waiting_for().size() == 1);
        CHECK(waiting->waiting_for()[0].find(vm1.device) != std::string::npos);
        lab.boot(topology, "vm1");
        lab.node(0).apply(topology);
        CHECK(lab.node(0).plan_text(topology).empty());
        CHECK(ping_ttl(lab.vm("vm1").netns(), ip("10.1.0.12")) == 64);
        CHECK(spoof().empty());
    }
    SECTION("tunnel packets of strangers are dropped") {
        const auto counted = [&] { return lab.node(0).sh("nft list chain inet fiplane input"); };
        CHECK(counted().find("packets 0") != std::string::npos);
        (void)run_process_in(lab.wire(), {"sh", "-c",
                                          "ip addr add 192.0.2.99/24 dev br0; echo x > /dev/udp/192.0.2.11/4789; "
                                          "bash -c 'echo x > /dev/udp/192.0.2.11/4789'"});
        CHECK(counted().find("packets 1") != std::string::npos);
    }
    SECTION("D1 D2: objects as Neutron names them") {
        const Router& router = topology.routers[0];
        const std::string qrouter = build::router_netns(router);
        const std::string fip = build::fip_netns(topology.networks[0]);
        const std::string pair =
            lab.node(0).sh("ip -n " + qrouter + " -4 -o addr show dev " + build::rfp_device(router));
        CHECK(pair.find("169.254.64.0/31") != std::string::npos);
        CHECK(lab.node(0)
                  .sh("ip -n " + fip + " -4 -o addr show dev " + build::fpr_device(router))
                  .find("169.254.64.1/31") != std::string::npos);
        CHECK(lab.node(0).sh("ip -n " + qrouter + " rule").find("32768:\tfrom 10.1.0.11 lookup 16") !=
              std::string::npos);
        CHECK(lab.node(0).sh("ip -n " + qrouter + " route show table 16").find("default via 169.254.64.1 dev rfp-") ==
              0);
        CHECK(lab.node(0).sh("ip -n " + qrouter + " route").find("default") == std::string::npos);
        CHECK(lab.node(0).sh("ip -n " + fip + " rule").find("2852012033:\tfrom all iif fpr-") != std::string::npos);
        CHECK(lab.node(0).sh("ip -n " + fip + " route").find("172.24.5.11 via 169.254.64.0 dev fpr-") !=
              std::string::npos);
    }
}

}  // namespace fiplane::test
