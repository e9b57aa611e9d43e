// SPDX-License-Identifier: Apache-2.0
// A right topology, and a way to write down what one edit of it must be blamed for, and where.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "topology/load.hpp"

namespace fiplane::topology_test {

/// Two nodes, an external and two tenant networks, a distributed and a legacy router, everything in use.
inline constexpr std::string_view kBase = R"(name: base
underlay_mtu: 1500
nodes:
  - name: primary
    underlay: {device: eth0, address: 192.0.2.11}
    addresses: {public: 172.24.4.1/23}
  - name: subnode1
    underlay: {device: eth0, address: 192.0.2.12}
    addresses: {public: 172.24.4.2/23}
networks:
  - name: public
    external: true
    segmentation_id: 1000001
    bridge: br-ex
    subnets:
      - name: public-subnet
        cidr: 172.24.4.0/23
        gateway_ip: 172.24.4.1
        allocation_pools: [{start: 172.24.5.1, end: 172.24.5.254}]
  - name: private
    segmentation_id: 1001
    subnets:
      - {name: blue, cidr: 10.1.0.0/24, gateway_ip: 10.1.0.1}
      - {name: green, cidr: 10.2.0.0/24, gateway_ip: 10.2.0.1}
  - name: lonely
    segmentation_id: 1002
    subnets:
      - {name: red, cidr: 10.3.0.0/24}
routers:
  - name: dvr
    external_gateway: public
    interfaces: [blue]
  - name: classic
    distributed: false
    node: primary
    external_gateway: {network: public, fixed_ip: 172.24.5.250}
    interfaces: [{subnet: green, mac: "fa:16:3e:00:00:99"}]
    routes: [{destination: 10.9.0.0/16, nexthop: 10.2.0.7}]
ports:
  - {name: vm1, network: private, node: primary, fixed_ip: 10.1.0.11, mac: "fa:16:3e:00:00:01"}
  - {name: vm2, network: private, node: subnode1, fixed_ip: 10.1.0.12, device: tapvm2}
  - {name: vm3, network: private, node: subnode1, fixed_ip: 10.2.0.13}
  - {name: vm4, network: lonely, node: primary, fixed_ip: 10.3.0.14}
  - {name: fg1, network: public, node: primary, fixed_ip: 172.24.5.241, device_owner: network:floatingip_agent_gateway}
  - {name: fg2, network: public, node: subnode1, fixed_ip: 172.24.5.242, device_owner: network:floatingip_agent_gateway}
floating_ips:
  - {floating_ip_address: 172.24.5.11, port: vm1}
  - {floating_ip_address: 172.24.5.12, port: vm2}
  - {floating_ip_address: 172.24.5.13, port: vm3}
)";

/// kBase with its only `from` replaced.
inline std::string edited(std::string_view from, std::string_view to, std::string_view base = kBase) {
    const auto at = base.find(from);
    INFO("the fragment must stand once in the base: " << from);
    REQUIRE(at != std::string_view::npos);
    REQUIRE(base.find(from, at + 1) == std::string_view::npos);
    return std::string(base.substr(0, at)).append(to).append(base.substr(at + from.size()));
}

/// Removes the marks '@' from `text` and says where the first stood; line 0 if there was none.
struct Marked {
    std::string text;
    int line = 0;
    int column = 0;
};

inline Marked unmark(std::string_view text) {
    Marked out;
    int line = 1;
    int column = 1;
    for (const char c : text) {
        if (c == '@') {
            if (out.line == 0) {
                out.line = line;
                out.column = column;
            }
            continue;
        }
        out.text.push_back(c);
        column = c == '\n' ? 1 : column + 1;
        line += c == '\n' ? 1 : 0;
    }
    return out;
}

/// One edit of kBase and the one mistake that it must lead to, at '@'.
struct Case {
    std::string_view from;
    std::string_view to;
    std::string_view what;  ///< part of the message
    std::string_view hint;  ///< part of the hint
};

inline void check(const Case& one, std::string_view base = kBase) {
    const Marked marked = unmark(edited(one.from, one.to, base));
    const LoadResult result = parse_topology(marked.text, "base.yaml");
    INFO("edit: " << one.to << "\n" << format_mistakes(result.mistakes, "base.yaml"));
    CHECK_FALSE(result.topology);
    REQUIRE(result.mistakes.size() == 1);
    const Mistake& mistake = result.mistakes.front();
    CHECK(mistake.line == marked.line);
    CHECK(mistake.column == marked.column);
    CHECK(mistake.what.find(one.what) != std::string::npos);
    CHECK(mistake.hint.find(one.hint) != std::string::npos);
}

}  // namespace fiplane::topology_test
