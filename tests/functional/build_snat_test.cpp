// SPDX-License-Identifier: Apache-2.0
// Source NAT for VMs without a floating IP, in Linux alone: connections end with the address that they had.
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

}  // namespace

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
