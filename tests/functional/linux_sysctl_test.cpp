// SPDX-License-Identifier: Apache-2.0
#include "functional/linux_witness.hpp"
#include "linux/sysctl.hpp"

namespace fiplane::test {
namespace {

/// As `ip netns`-aware tools would see it: cat in the namespace.
std::string shown(const Netns& netns, const std::string& key) {
    auto out = run_process_in(netns, {"cat", "/proc/sys/net/" + key}).out;
    while (out.ends_with('\n'))
        out.pop_back();
    return out;
}

}  // namespace

TEST_CASE("sysctls are the namespace's own", "[linux][sysctl]") {
    REQUIRE_ROOT();
    const ScratchNetns one;
    const ScratchNetns other;
    must(write_sysctl(one.netns(), "ipv4/ip_forward", "1"));
    must(write_sysctl(other.netns(), "ipv4/ip_forward", "0"));
    CHECK(must(read_sysctl(one.netns(), "ipv4/ip_forward")) == "1");
    CHECK(must(read_sysctl(other.netns(), "ipv4/ip_forward")) == "0");
    CHECK(shown(one.netns(), "ipv4/ip_forward") == "1");
    CHECK(shown(other.netns(), "ipv4/ip_forward") == "0");
}

TEST_CASE("a sysctl that does not exist or refuses a value is named", "[linux][sysctl]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    const auto missing = read_sysctl(scratch.netns(), "ipv4/conf/fg-0.1/proxy_arp");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().message() ==
          "netns " + scratch.name() + ": cannot read sysctl net/ipv4/conf/fg-0.1/proxy_arp: No such file or directory");
    const auto refused = write_sysctl(scratch.netns(), "ipv4/ip_forward", "maybe");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what == "cannot set sysctl net/ipv4/ip_forward to maybe: Invalid argument");
}

TEST_CASE("values of all devices and of one are joined as the kernel does", "[linux][sysctl]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_veth({.name = "eth0.7", .peer_name = "b"}));
    const auto set = [&](const std::string& key, const char* value) {
        must(write_sysctl(bench.netns(), "ipv4/conf/" + key, value));
    };
    const auto read = [&](const std::string& device) {
        return must(read_sysctls(bench.netns(), {"eth0.7", "b", "gone"})).devices.at(device);
    };
    for (const auto* key : {"proxy_arp", "arp_ignore", "rp_filter"}) {
        for (const auto* device : {"all", "eth0.7", "b"})
            set(std::string(device) + "/" + key, "0");
    }
    // Redirects are on in a new namespace.
    CHECK(read("b") == Sysctls::Device{.send_redirects = true});
    set("all/send_redirects", "0");
    CHECK(read("b").send_redirects);
    set("b/send_redirects", "0");
    CHECK_FALSE(read("b").send_redirects);
    set("all/send_redirects", "1");
    CHECK(read("b").send_redirects);
    set("all/send_redirects", "0");
    set("eth0.7/send_redirects", "0");
    CHECK_FALSE(must(read_sysctls(bench.netns(), {"gone"})).devices.contains("gone"));

    set("eth0.7/proxy_arp", "1");
    set("eth0.7/rp_filter", "1");
    set("all/arp_ignore", "1");
    set("b/arp_ignore", "2");
    set("b/forwarding", "1");
    CHECK(read("eth0.7") ==
          Sysctls::Device{
              .forwarding = false, .proxy_arp = true, .arp_ignore = 1, .rp_filter = 1, .send_redirects = false});
    CHECK(read("b") ==
          Sysctls::Device{
              .forwarding = true, .proxy_arp = false, .arp_ignore = 2, .rp_filter = 0, .send_redirects = false});

    set("all/proxy_arp", "1");
    set("all/rp_filter", "2");
    CHECK(read("b") ==
          Sysctls::Device{
              .forwarding = true, .proxy_arp = true, .arp_ignore = 2, .rp_filter = 2, .send_redirects = false});
    CHECK_FALSE(must(read_sysctls(bench.netns(), {})).ip_forward);
    must(write_sysctl(bench.netns(), "ipv4/ip_forward", "1"));
    CHECK(must(read_sysctls(bench.netns(), {})).ip_forward);
}

TEST_CASE("bridge netfilter's switch is read where it exists", "[linux][sysctl]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    const std::string key = "bridge/bridge-nf-call-iptables";
    if (!read_sysctl(scratch.netns(), key)) SKIP("this kernel has no br_netfilter");
    must(write_sysctl(scratch.netns(), key, "1"));
    CHECK(must(read_sysctls(scratch.netns(), {})).bridge_nf_call_iptables);
    must(write_sysctl(scratch.netns(), key, "0"));
    CHECK_FALSE(must(read_sysctls(scratch.netns(), {})).bridge_nf_call_iptables);
}

}  // namespace fiplane::test
