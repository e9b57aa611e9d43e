// SPDX-License-Identifier: Apache-2.0
// Source NAT of a router's external gateway: what the file says of it.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "topology/describe.hpp"
#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

constexpr std::string_view kLegacyGateway = "{network: public, fixed_ip: 172.24.5.250}";

nlohmann::json classic(std::string_view text) {
    const LoadResult result = parse_topology(text, "base.yaml");
    INFO(format_mistakes(result.mistakes, "base.yaml"));
    REQUIRE(result.topology);
    return describe(*result.topology)["routers"][1];
}

TEST_CASE("a legacy router translates sources unless the file says otherwise") {
    CHECK(classic(kBase)["enable_snat"] == true);
    CHECK(classic(edited(kLegacyGateway,
                         "{network: public, fixed_ip: 172.24.5.250, enable_snat: true}"))["enable_snat"] == true);
    CHECK(classic(edited(kLegacyGateway,
                         "{network: public, fixed_ip: 172.24.5.250, enable_snat: false}"))["enable_snat"] == false);
    CHECK(classic(edited("    external_gateway: {network: public, fixed_ip: 172.24.5.250}\n", "",
                         edited("  - {floating_ip_address: 172.24.5.13, port: vm3}\n", "")))["enable_snat"] == nullptr);
}

TEST_CASE("enable_snat is a truth value") {
    check({kLegacyGateway, "{network: public, fixed_ip: 172.24.5.250, enable_snat: @never}", "enable_snat \"never\"",
           "true or false"});
}

/// The base, with an address outside for the distributed router.
std::string central(std::string_view options = "", std::string_view base = kBase) {
    return edited("    external_gateway: public",
                  fmt::format("    external_gateway: {{network: public, fixed_ip: 172.24.5.200{}}}", options), base);
}

std::string with_ports(std::string_view lines, std::string_view base) {
    return edited("floating_ips:\n", fmt::format("{}floating_ips:\n", lines), base);
}

const Port& port_named(const Topology& topology, std::string_view name) {
    const auto found = std::ranges::find(topology.ports, name, &Port::name);
    REQUIRE(found != topology.ports.end());
    return *found;
}

Topology loaded(std::string_view text) {
    LoadResult result = parse_topology(text, "base.yaml");
    INFO(format_mistakes(result.mistakes, "base.yaml"));
    REQUIRE(result.topology);
    return *std::move(result.topology);
}

constexpr std::string_view kSnatPort =
    "  - {name: s, network: private, fixed_ip: 10.1.0.3, router: dvr, node: subnode1, "
    "device_owner: network:router_centralized_snat}\n";

TEST_CASE("a distributed router with an address outside: its SNAT ports follow, on the first node") {
    const Topology topology = loaded(central());
    const Router& router = topology.routers[0];
    REQUIRE(router.has_central_snat());
    const Port& gateway = topology.ports[*router.gateway_port];
    CHECK(gateway.node == 0);
    CHECK(gateway.device.starts_with("qg-"));
    const Port& snat = port_named(topology, "dvr/blue/snat");
    CHECK(snat.owner == PortOwner::kRouterCentralizedSnat);
    CHECK(snat.node == 0);
    CHECK(snat.fixed_ip.str() == "10.1.0.254");
    CHECK(snat.device.starts_with("sg-"));
    CHECK_FALSE(snat.mac.is_unset());
    const nlohmann::json shown = describe(topology)["routers"][0];
    CHECK(shown["snat_namespace"] == "snat-" + router.id);
    CHECK(shown["enable_snat"] == true);
    CHECK(shown["node"] == nullptr);
    CHECK(describe(loaded(central(", enable_snat: false")))["routers"][0]["enable_snat"] == false);
}

TEST_CASE("a distributed router without one has no central part") {
    const Topology topology = loaded(kBase);
    CHECK_FALSE(topology.routers[0].has_central_snat());
    CHECK(describe(topology)["routers"][0]["snat_namespace"] == nullptr);
    CHECK(describe(topology)["routers"][1]["snat_namespace"] == nullptr);
}

TEST_CASE("SNAT ports that the file lists say where the central part is") {
    const Topology topology = loaded(with_ports(kSnatPort, central()));
    CHECK(topology.ports[*topology.routers[0].gateway_port].node == 1);
    CHECK(std::ranges::none_of(topology.ports, [](const Port& port) { return port.name == "dvr/blue/snat"; }));
    const Topology anywhere = loaded(with_ports(edited(" node: subnode1,", "", kSnatPort), central()));
    CHECK(port_named(anywhere, "s").node == 0);
}

TEST_CASE("a derived SNAT port takes no address that somebody has") {
    const std::string taken = edited("fixed_ip: 10.1.0.12,", "fixed_ip: 10.1.0.254,", central());
    CHECK(port_named(loaded(taken), "dvr/blue/snat").fixed_ip.str() == "10.1.0.253");
    const std::string pool = edited("{name: blue, cidr: 10.1.0.0/24, gateway_ip: 10.1.0.1}",
                                    "{name: blue, cidr: 10.1.0.0/24, gateway_ip: 10.1.0.1, "
                                    "allocation_pools: [{start: 10.1.0.11, end: 10.1.0.12}]}",
                                    central());
    const auto mistakes = parse_topology(pool, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].what == "router dvr: SNAT port on blue finds no free address");
}

TEST_CASE("what central source NAT cannot be") {
    check({"    external_gateway: public", "    external_gateway: {network: public, enable_snat: @true}",
           "router dvr: enable_snat needs a fixed_ip", "network: public"});
    check({"floating_ips:\n",
           "  - {name: s, network: private, fixed_ip: 10.1.0.3, router: @dvr, "
           "device_owner: network:router_centralized_snat}\nfloating_ips:\n",
           "port s: router dvr has no address of its own outside", "external_gateway"});
    const Case cases[] = {
        {"floating_ips:\n",
         "  - {name: s, network: private, fixed_ip: 10.2.0.3, router: @dvr, "
         "device_owner: network:router_centralized_snat}\nfloating_ips:\n",
         "router dvr has no interface on green", "add green"},
        {"floating_ips:\n",
         "  - {name: s, network: private, fixed_ip: 10.1.0.3, router: dvr, "
         "device_owner: network:router_centralized_snat}\n"
         "  - @{name: t, network: private, fixed_ip: 10.1.0.4, router: dvr, "
         "device_owner: network:router_centralized_snat}\nfloating_ips:\n",
         "port t: the SNAT port of router dvr on blue is already taken by port s", ""},
        {"fixed_ip: 172.24.5.200", "fixed_ip: @172.24.6.0", "172.24.6.0 is in no subnet of network public",
         "172.24.4.0/23"},
    };
    for (const Case& one : cases)
        check(one, central());
    const std::string both =
        edited("    interfaces: [blue]", "    interfaces: [blue, {subnet: green, fixed_ip: 10.2.0.2}]",
               edited("port: vm3}", "port: vm3, router: classic}", central()));
    check({"floating_ips:\n",
           "  - {name: s, network: private, fixed_ip: 10.1.0.3, router: dvr, node: primary, "
           "device_owner: network:router_centralized_snat}\n"
           "  - {name: t, network: private, fixed_ip: 10.2.0.3, router: dvr, node: @subnode1, "
           "device_owner: network:router_centralized_snat}\nfloating_ips:\n",
           "port t: the SNAT ports of router dvr are on two nodes", "on primary"},
          both);
    check(
        {"interfaces: [blue]\n", "interfaces: [blue]\n    routes: [{destination: @0.0.0.0/0, nexthop: 172.24.4.99}]\n",
         "router dvr: the default route goes via 172.24.4.1", "gateway_ip: null"},
        central());
}

}  // namespace
}  // namespace fiplane::topology_test
