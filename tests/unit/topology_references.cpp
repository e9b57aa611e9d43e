// SPDX-License-Identifier: Apache-2.0
// Mistakes that show only when parts of the file are compared: references, clashes, what routers and floating IPs need.
#include <fmt/format.h>

#include <catch2/generators/catch_generators.hpp>

#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

TEST_CASE("unknown names, with a suggestion") {
    check(GENERATE(values<Case>({
        {"vm4, network: lonely, node: primary", "vm4, network: lonely, node: @primry", "port vm4: unknown node primry",
         "did you mean primary?"},
        {"vm4, network: lonely", "vm4, network: @lonley", "unknown network lonley", "did you mean lonely?"},
        {"vm4, network: lonely", "vm4, network: @x", "unknown network x", "the networks are public, private, lonely"},
        {"    interfaces: [blue]", "    interfaces: [blue, @gren]", "router dvr: unknown subnet gren", "green?"},
        {"    external_gateway: public", "    external_gateway: @pubilc", "unknown network pubilc", "public?"},
        {"172.24.5.13, port: vm3", "172.24.5.13, port: @vm33", "floating IP 172.24.5.13: unknown port vm33", "vm3?"},
        {"172.24.5.13, port: vm3", "172.24.5.13, port: vm3, router: @clasic", "unknown router clasic", "classic?"},
        {"    node: primary\n", "    node: @secondary\n", "router classic: unknown node secondary", "subnode1"},
        {"{public: 172.24.4.2/23}", "{@publik: 172.24.4.2/23}", "unknown network publik", "public?"},
    })));
}

TEST_CASE("two of what must be one") {
    check(GENERATE(values<Case>({
        {"  - {name: vm4,", "  - {name: @vm3,", "two ports are called vm3", "line 42"},
        {"{device: eth0, address: 192.0.2.12}", "{device: eth0, address: @192.0.2.11}",
         "node subnode1: underlay: address 192.0.2.11 is already taken by node primary", "line 5 has it"},
        {"segmentation_id: 1002", "segmentation_id: @1001",
         "network lonely: segmentation_id 1001 is already taken by network private", "its own VNI"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    bridge: @br-ex",
         "network lonely: bridge: device name br-ex is already taken by network public", "its own bridge"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    bridge: @vxlan-1001", "device name vxlan-1001",
         "its own bridge"},
        {"fixed_ip: 10.1.0.12", "fixed_ip: @10.1.0.11", "port vm2: address 10.1.0.11 is already taken by port vm1",
         "one port of network private"},
        {"fixed_ip: 172.24.5.242", "fixed_ip: @172.24.4.2",
         "port fg2: address 172.24.4.2 is already taken by node subnode1: address on public", "line 9"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: 10.3.0.14, mac: @\"fa:16:3e:00:00:01\"",
         "port vm4: MAC fa:16:3e:00:00:01 is already taken by port vm1", "leave mac out"},
        {"mac: \"fa:16:3e:00:00:01\"", "mac: @\"fa:16:3e:00:00:99\"",
         "port vm1: MAC fa:16:3e:00:00:99 is already taken by router classic: interface on green", "line 37"},
        {"fixed_ip: 10.2.0.13", "fixed_ip: 10.2.0.13, device: @tapvm2",
         "port vm3: device name tapvm2 on node subnode1 is already taken by port vm2", "unique on a node"},
        {"fixed_ip: 10.2.0.13", "fixed_ip: 10.2.0.13, device: @vxlan-1001", "network private: tunnel device",
         "unique on a node"},
        {"fixed_ip: 10.2.0.13", "fixed_ip: 10.2.0.13, device: @eth0", "already taken by node subnode1: underlay",
         "unique on a node"},
        {"    interfaces: [blue]", "    interfaces: [blue, @blue]", "router dvr: two interfaces on subnet blue", ""},
        {"nexthop: 10.2.0.7}]", "nexthop: 10.2.0.7}, @{destination: 10.9.0.0/16, nexthop: 10.2.0.7}]",
         "router classic: route to 10.9.0.0/16 via 10.2.0.7 is written twice", "once is enough"},
    })));
}

TEST_CASE("two ids") {
    constexpr std::string_view kId = "11112222-3333-4444-8555-666677778888";
    const std::string both = edited("fixed_ip: 10.1.0.12", fmt::format("fixed_ip: 10.1.0.12, id: {}", kId),
                                    edited("fixed_ip: 10.2.0.13", fmt::format("fixed_ip: 10.2.0.13, id: {}", kId)));
    const auto mistakes = parse_topology(both, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].line == 42);
    CHECK(mistakes[0].what == fmt::format("port vm3: id {} is already taken by port vm2", kId));

    const std::string_view with_id = "  - name: dvr\n    id: 11112222-3333-4444-8555-666677778888\n";
    const std::string close =
        edited("  - name: classic\n", "  - name: classic\n    id: @11112222-3999-4444-8555-666677778888\n",
               edited("  - name: dvr\n", with_id));
    const Marked marked = unmark(close);
    const auto routers = parse_topology(marked.text, "f").mistakes;
    REQUIRE(routers.size() == 1);
    CHECK(routers[0].line == marked.line);
    CHECK(routers[0].column == marked.column);
    CHECK(routers[0].what == "router classic: device name rfp-11112222-3 is already taken by router dvr");
    CHECK(routers[0].hint.find("first 10 characters") != std::string::npos);
}

TEST_CASE("two routers on one subnet") {
    const std::string both = edited("    interfaces: [blue]", "    interfaces: [blue, green]");
    const Marked marked = unmark(edited("[{subnet: green,", "[@{subnet: green,",
                                        edited("  - {floating_ip_address: 172.24.5.13, port: vm3}\n", "", both)));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    INFO(format_mistakes(mistakes, "f"));
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].line == marked.line);
    CHECK(mistakes[0].column == marked.column);
    CHECK(mistakes[0].what ==
          "router classic: interface on green: address 10.2.0.1 is already taken by router dvr: interface on green");
}

TEST_CASE("a router on a subnet without gateway needs an address there") {
    const std::string none = edited("cidr: 10.3.0.0/24", "cidr: 10.3.0.0/24, gateway_ip: null");
    CHECK(parse_topology(none, "f").topology);
    const Marked marked = unmark(edited("    interfaces: [blue]", "    interfaces: [blue, @red]", none));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0] == Mistake{marked.line, marked.column,
                                 "router dvr: interface on red, which has no gateway_ip, lacks fixed_ip",
                                 "like {subnet: red, fixed_ip: 10.3.0.1}"});
}

TEST_CASE("routers") {
    check(GENERATE(values<Case>({
        {"    interfaces: [blue]", "    node: @primary\n    interfaces: [blue]", "a distributed router has no node",
         "distributed: false"},
        {"  - name: classic\n    distributed: false\n    node: primary\n",
         "  - @name: classic\n    distributed: false\n", "router classic lacks node", "node: primary"},
        {"{network: public, fixed_ip: 172.24.5.250}", "@public", "external_gateway lacks fixed_ip", "network: public"},
        {"{network: public, fixed_ip: 172.24.5.250}", "{network: public, fixed_ip: @172.24.6.0}",
         "172.24.6.0 is in no subnet of network public", "172.24.4.0/23"},
        {"{network: public, fixed_ip: 172.24.5.250}", "{network: public, fixed_ip: @172.24.4.1}",
         "172.24.4.1 is the gateway_ip of public-subnet", "another address"},
        {"    external_gateway: public", "    external_gateway: @lonely", "lonely is not an external network",
         "external: true"},
        {"    interfaces: [blue]", "    interfaces: [blue, @public-subnet]", "a subnet of an external network",
         "external_gateway: public"},
        {"    interfaces: [blue]", "    interfaces: [{subnet: blue, fixed_ip: @10.2.0.9}]",
         "10.2.0.9 is outside blue (10.1.0.0/24)", "10.1.0.1-10.1.0.254"},
        {"nexthop: 10.2.0.7", "nexthop: @10.1.0.7", "nexthop 10.1.0.7 is not on a subnet", "10.2.0.0/24"},
        {"nexthop: 10.2.0.7", "nexthop: @10.2.0.1", "nexthop 10.2.0.1 is the router itself", ""},
    })));
}

TEST_CASE("ports") {
    check(GENERATE(values<Case>({
        {"{name: vm4, network: lonely, node: primary, fixed_ip", "@{name: vm4, network: lonely, fixed_ip",
         "port vm4 lacks node", "node: primary"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: 10.3.0.14, device_owner: @network:router_interface", "cannot be listed",
         "follows from interfaces"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: 10.3.0.14, device_owner: @network:floatingip_agent_gatway",
         "cannot be listed", "did you mean network:floatingip_agent_gateway?"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: 10.3.0.14, router: @dvr", "router has no meaning", "centralized_snat"},
        {"fixed_ip: 172.24.5.242", "fixed_ip: 172.24.5.242, device: @fg-2", "device has no meaning", "id"},
        {"  - {name: fg1, network: public, node: primary, fixed_ip: 172.24.5.241,",
         "  - {name: fg3, network: @lonely, node: primary, fixed_ip: 10.3.0.3, "
         "device_owner: network:floatingip_agent_gateway}\n"
         "  - {name: fg1, network: public, node: primary, fixed_ip: 172.24.5.241,",
         "an agent gateway belongs to an external network, and lonely is none", "external: true"},
        {"floating_ips:\n",
         "  - @{name: fg3, network: public, node: primary, fixed_ip: 172.24.5.243, "
         "device_owner: network:floatingip_agent_gateway}\nfloating_ips:\n",
         "port fg3: the agent gateway of node primary on network public is already taken by port fg1", "line 44"},
        {"floating_ips:\n",
         "  - @{name: s, network: private, fixed_ip: 10.1.0.3, device_owner: network:router_centralized_snat}\n"
         "floating_ips:\n",
         "port s lacks router", "belongs to a router"},
        {"floating_ips:\n",
         "  - {name: s, network: private, fixed_ip: 10.2.0.3, router: @classic, "
         "device_owner: network:router_centralized_snat}\nfloating_ips:\n",
         "router classic is not distributed", ""},
    })));
}

TEST_CASE("floating IPs") {
    check(GENERATE(values<Case>({
        {"{floating_ip_address: 172.24.5.13,", "{floating_ip_address: @172.24.5.12,",
         "floating IP 172.24.5.12 is listed twice", "line 48 has it"},
        {"{floating_ip_address: 172.24.5.13, port: vm3}", "{floating_ip_address: 172.24.5.13, port: @vm2}",
         "port vm2 has floating IP 172.24.5.12 already on router dvr", "see line 48"},
        {"172.24.5.13, port", "@172.24.6.13, port", "172.24.6.13 is in no subnet of network public", "172.24.4.0/23"},
        {"172.24.5.13, port", "@172.24.4.13, port", "outside the allocation pools of public-subnet",
         "172.24.5.1-172.24.5.254"},
        {"172.24.5.13, port", "@172.24.4.1, port", "172.24.4.1 is the gateway_ip of public-subnet", ""},
        {"172.24.5.13, port", "@172.24.5.255, port", "172.24.5.255 is the broadcast address", ""},
        {"172.24.5.13, port", "@172.24.5.242, port", "172.24.5.242 is already taken by port fg2", "line 45"},
        {"172.24.5.13, port", "@172.24.5.250, port", "taken by router classic: external_gateway", "line 36"},
        {"172.24.5.13, port: vm3", "172.24.5.13, port: @fg2", "port fg2 is not a VM's", "compute:nova"},
        {"172.24.5.13, port: vm3", "172.24.5.13, port: @vm4", "no router joins subnet red to an external network",
         "add red to the interfaces of router dvr"},
        {"172.24.5.13, port: vm3", "172.24.5.13, port: vm3, router: @dvr",
         "router dvr does not join green to an external network", "add green to its interfaces"},
        {"172.24.5.13, port: vm3",
         "172.24.5.13, port: vm3}\n  - {floating_ip_address: 172.24.5.14, port: @vm3, router: classic",
         "port vm3 has floating IP 172.24.5.13 already on router classic", "see line 49"},
    })));
}

TEST_CASE("of two routers the floating IP must name one, unless its address tells") {
    const std::string two =
        edited("    interfaces: [blue]", "    interfaces: [blue, {subnet: green, fixed_ip: 10.2.0.2}]");
    const Marked marked = unmark(edited("172.24.5.13, port: vm3", "172.24.5.13, port: @vm3", two));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0] == Mistake{marked.line, marked.column,
                                 "floating IP 172.24.5.13: 2 routers join green to an external network",
                                 "say which one, as router: dvr or router: classic"});

    const auto named =
        parse_topology(edited("172.24.5.13, port: vm3", "172.24.5.13, port: vm3, router: dvr", two), "f");
    REQUIRE(named.topology);
    CHECK(named.topology->routers[named.topology->floating_ips[2].router].name == "dvr");

    const std::string other_network =
        edited("routers:\n",
               "  - name: outside\n    external: true\n    segmentation_id: 7\n    subnets:\n"
               "      - {name: outside-subnet, cidr: 198.51.100.0/24}\nrouters:\n",
               two);
    const std::string apart = edited("{network: public, fixed_ip: 172.24.5.250}",
                                     "{network: outside, fixed_ip: 198.51.100.9}", other_network);
    const auto by_pool = parse_topology(edited("172.24.5.13, port", "198.51.100.13, port", apart), "f");
    INFO(format_mistakes(by_pool.mistakes, "f"));
    REQUIRE(by_pool.topology);
    CHECK(by_pool.topology->routers[by_pool.topology->floating_ips[2].router].name == "classic");
    CHECK(by_pool.topology->networks[by_pool.topology->floating_ips[2].network].name == "outside");
}

TEST_CASE("a missing agent gateway: the hint is the line to add") {
    const std::string_view line =
        "  - {name: fg2, network: public, node: subnode1, fixed_ip: 172.24.5.242, "
        "device_owner: network:floatingip_agent_gateway}\n";
    const Marked marked =
        unmark(edited("{floating_ip_address: 172.24.5.12", "{floating_ip_address: @172.24.5.12", edited(line, "")));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].line == marked.line);
    CHECK(mistakes[0].column == marked.column);
    CHECK(mistakes[0].what == "floating IP 172.24.5.12: node subnode1 has no agent gateway on network public");

    const std::string lead = "add to ports: ";
    REQUIRE(mistakes[0].hint.starts_with(lead));
    const std::string repaired =
        edited("floating_ips:\n", "  " + mistakes[0].hint.substr(lead.size()) + "\nfloating_ips:\n", marked.text);
    CHECK(parse_topology(repaired, "f").topology);
}

TEST_CASE("more distributed routers than link-local pairs") {
    const auto with_routers = [](int count) {
        std::string lines;
        for (int i = 0; i < count; ++i)
            lines += fmt::format("  - {{name: r{}, external_gateway: public}}\n", i);
        return edited("  - name: classic\n", lines + "  - name: classic\n");
    };
    CHECK(parse_topology(with_routers(8191), "f").topology);
    const auto mistakes = parse_topology(with_routers(8192), "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what == "more than 8192 distributed routers have a gateway");
    CHECK(mistakes[0].line == 33 + 8191);
}

}  // namespace
}  // namespace fiplane::topology_test
