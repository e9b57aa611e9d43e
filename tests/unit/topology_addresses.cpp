// SPDX-License-Identifier: Apache-2.0
// Addresses against subnets, and subnets against each other.
#include <catch2/generators/catch_generators.hpp>

#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

TEST_CASE("addresses and the subnet that they belong to") {
    check(GENERATE(values<Case>({
        {"fixed_ip: 10.3.0.14", "fixed_ip: @10.4.0.14",
         "port vm4: fixed_ip 10.4.0.14 is in no subnet of network lonely", "lonely has 10.3.0.0/24"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: @10.3.0.0", "10.3.0.0 is the network address of red (10.3.0.0/24)",
         "10.3.0.1-10.3.0.254"},
        {"fixed_ip: 10.3.0.14", "fixed_ip: @10.3.0.255", "10.3.0.255 is the broadcast address of red",
         "10.3.0.1-10.3.0.254"},
        {"fixed_ip: 10.1.0.12", "fixed_ip: @10.1.0.1", "port vm2: fixed_ip 10.1.0.1 is the gateway_ip of blue",
         "10.1.0.1-10.1.0.254"},
        // Not written, so it is the first address, as in Neutron.
        {"fixed_ip: 10.3.0.14", "fixed_ip: @10.3.0.1", "10.3.0.1 is the gateway_ip of red", ""},
        {"{public: 172.24.4.2/23}", "{public: @172.24.6.2/23}", "172.24.6.2 is in no subnet of network public",
         "172.24.4.0/23"},
        {"{public: 172.24.4.2/23}", "{public: @172.24.4.2/24}", "another prefix length than its subnet",
         "172.24.4.2/23"},
        {"{public: 172.24.4.2/23}", "{public: @172.24.4.1/23}",
         "node subnode1: address on public: address 172.24.4.1 is already taken by node primary", "line 6"},
        {"{public: 172.24.4.2/23}", "{public: @172.24.5.255/23}", "broadcast", ""},
    })));
}

TEST_CASE("gateways and pools") {
    check(GENERATE(values<Case>({
        {"cidr: 10.3.0.0/24}", "cidr: 10.3.0.0/24, gateway_ip: @10.4.0.1}",
         "subnet red: gateway_ip 10.4.0.1 is outside", "10.3.0.1-10.3.0.254"},
        {"cidr: 10.3.0.0/24}", "cidr: 10.3.0.0/24, gateway_ip: @10.3.0.255}", "broadcast", ""},
        {"{start: 172.24.5.1, end: 172.24.5.254}", "{start: 172.24.5.1, end: @172.24.6.254}",
         "allocation pool end 172.24.6.254 is outside public-subnet", "172.24.4.1-172.24.5.254"},
        {"{start: 172.24.5.1, end: 172.24.5.254}", "{start: @172.24.5.254, end: 172.24.5.1}", "ends before it starts",
         "start: 172.24.5.1, end: 172.24.5.254"},
        {"{start: 172.24.5.1, end: 172.24.5.254}", "@{start: 172.24.4.1, end: 172.24.5.254}",
         "holds the gateway_ip 172.24.4.1", "leave it out of the pool"},
        {"{start: 172.24.5.1, end: 172.24.5.254}",
         "{start: 172.24.5.1, end: 172.24.5.254}, @{start: 172.24.4.9, end: 172.24.5.1}",
         "pools 172.24.4.9-172.24.5.1 and 172.24.5.1-172.24.5.254 overlap", "one pool"},
    })));
}

TEST_CASE("overlapping subnets") {
    check(GENERATE(values<Case>({
        // Within a network, the later one is blamed, whichever is larger.
        {"      - {name: green, cidr: 10.2.0.0/24, gateway_ip: 10.2.0.1}",
         "      - {name: green, cidr: 10.2.0.0/24, gateway_ip: 10.2.0.1}\n      - {name: wide, cidr: @10.0.0.0/14}",
         "subnet wide (10.0.0.0/14) overlaps subnet", "subnets of one network are disjoint"},
        {"      - {name: green, cidr: 10.2.0.0/24, gateway_ip: 10.2.0.1}",
         "      - {name: green, cidr: 10.2.0.0/24, gateway_ip: 10.2.0.1}\n      - {name: part, cidr: @10.2.0.128/25}",
         "subnet part (10.2.0.128/25) overlaps subnet green (10.2.0.0/24, line 24)", "disjoint"},
        // Tenant against external.
        {"      - {name: red, cidr: 10.3.0.0/24}",
         "      - {name: red, cidr: 10.3.0.0/24}\n      - {name: out, cidr: @172.24.5.0/24}",
         "subnet out (172.24.5.0/24) overlaps subnet public-subnet (172.24.4.0/23, line 17)", "external"},
        {"      - {name: red, cidr: 10.3.0.0/24}",
         "      - {name: red, cidr: 10.3.0.0/24}\n      - {name: out, cidr: @172.16.0.0/12}",
         "subnet out (172.16.0.0/12) overlaps subnet public-subnet", "external"},
        // The underlay.
        {"address: 192.0.2.12}", "address: @10.3.0.77}", "underlay address 10.3.0.77 is inside the overlay subnet red",
         "routed into the tunnel"},
    })));
}

TEST_CASE("tenants may use the same addresses, until one router joins them") {
    const std::string same = edited("{name: red, cidr: 10.3.0.0/24}",
                                    "{name: red, cidr: 10.3.0.0/24}\n      - {name: blue2, cidr: 10.1.0.0/24}");
    CHECK(parse_topology(same, "f").topology);
    const Marked marked =
        unmark(edited("    interfaces: [blue]", "    interfaces: [blue, @{subnet: blue2, fixed_ip: 10.1.0.1}]", same));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].line == marked.line);
    CHECK(mistakes[0].column == marked.column);
    CHECK(mistakes[0].what == "router dvr: subnets blue (10.1.0.0/24) and blue2 (10.1.0.0/24) overlap");
}

}  // namespace
}  // namespace fiplane::topology_test
