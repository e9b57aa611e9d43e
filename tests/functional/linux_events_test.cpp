// SPDX-License-Identifier: Apache-2.0
// Change notifications: each kind of change arrives as what it is, in time, and a loss is noticed.
#include <linux/xfrm.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>

#include "functional/agent_bench.hpp"
#include "functional/linux_witness.hpp"
#include "linux/events.hpp"
#include "linux/ipsec.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

/// Whether one of the sockets is readable within `limit`.
bool has_news(const NetnsEvents& events, std::chrono::milliseconds limit) {
    std::array<pollfd, 3> watched{
        {{events.rtnl_fd(), POLLIN, 0}, {events.netfilter_fd(), POLLIN, 0}, {events.ipsec_fd(), POLLIN, 0}}};
    return poll(watched.data(), watched.size(), static_cast<int>(limit.count())) > 0;
}

/// Empties all sockets. What a system call changes has been told when it returns.
EventBatch next(NetnsEvents& events) {
    REQUIRE(has_news(events, std::chrono::milliseconds(0)));
    return events.receive();
}

}  // namespace

TEST_CASE("each kind of change is told apart and arrives at once", "[linux][events]") {
    REQUIRE_ROOT();
    Bench bench;
    // IPv6 would speak on its own, and the bridge would learn from it.
    must(write_sysctl(bench.netns(), "ipv6/conf/default/disable_ipv6", "1"));
    must(bench.rtnl.add_veth({.name = "a", .peer_name = "b"}));
    must(bench.rtnl.add_bridge({.name = "br0"}));
    const int a = bench.link("a").ifindex;
    const int bridge = bench.link("br0").ifindex;
    for (const auto* name : {"a", "b", "br0"})
        must(bench.rtnl.change_link(bench.link(name).ifindex, name, {.up = true}));
    must(bench.rtnl.change_link(bench.link("b").ifindex, "b", {.master = bridge}));
    // The kernel tells of a carrier when it has time (linkwatch); until then a link is not up.
    wait_until("the links are up", [&bench] {
        return std::ranges::all_of(std::array{"a", "b", "br0"},
                                   [&bench](auto* name) { return bench.link(name).running; });
    });
    auto events = must(NetnsEvents::open(bench.netns()));
    // Links are up before the kernel has said so, and the bridge's port is still to tell of its state.
    while (has_news(events, scaled(std::chrono::milliseconds(100))))
        static_cast<void>(events.receive());
    CHECK_FALSE(events.receive().any());

    must(bench.rtnl.change_link(a, "a", {.mtu = 1400}));
    CHECK(next(events).links);

    must(bench.rtnl.add_address(a, prefix("10.0.0.1/24"), true));
    CHECK(next(events).addresses);

    const Route route{
        .table = 16, .destination = prefix("192.0.2.0/24"), .type = RouteType::kUnicast, .oif = a, .gateway = {}};
    must(bench.rtnl.set_route(route));
    EventBatch batch = next(events);
    CHECK(batch.routes);
    CHECK_FALSE(batch.addresses);
    CHECK_FALSE(batch.rules);

    PolicyRule rule;
    rule.priority = 100;
    rule.table = 16;
    must(bench.rtnl.add_rule(rule));
    batch = next(events);
    CHECK(batch.rules);
    CHECK_FALSE(batch.routes);

    must(bench.rtnl.set_neighbour(a, *Ipv4::parse("10.0.0.2"), Mac{{0xfa, 0x16, 0x3e, 0, 0, 1}}));
    batch = next(events);
    CHECK(batch.neighbours);
    CHECK_FALSE(batch.netfilter);

    must(bench.rtnl.set_fdb(bench.link("b").ifindex, Mac{{0xfa, 0x16, 0x3e, 0, 0, 2}}, std::nullopt));
    CHECK(next(events).neighbours);

    must(run_nft(bench.netns(), "add table ip x\n"));
    batch = next(events);
    CHECK(batch.netfilter);
    CHECK_FALSE(batch.neighbours);

    must(write_sysctl(bench.netns(), "ipv4/conf/a/forwarding", "1"));
    CHECK(next(events).links);
    CHECK_FALSE(events.receive().any());
}

TEST_CASE("another namespace's changes are not heard", "[linux][events]") {
    REQUIRE_ROOT();
    const Bench quiet;
    Bench busy;
    auto events = must(NetnsEvents::open(quiet.netns()));
    must(busy.rtnl.add_bridge({.name = "br0"}));
    must(run_nft(busy.netns(), "add table ip x\n"));
    CHECK_FALSE(events.receive().any());
}

TEST_CASE("IPv6 neighbours are no business of ours", "[linux][events]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_veth({.name = "a", .peer_name = "b"}));
    auto events = must(NetnsEvents::open(bench.netns()));
    const auto add = [&](const char* address) {
        const std::vector<std::string> words{"ip", "neigh", "add", address, "lladdr", "fa:16:3e:00:00:01", "dev", "a"};
        REQUIRE(run_process_in(bench.netns(), words).exit_status == 0);
    };
    add("2001:db8::1");
    CHECK_FALSE(events.receive().neighbours);
    add("10.0.0.9");
    CHECK(next(events).neighbours);
}

TEST_CASE("lost notifications are noticed and the socket goes on", "[linux][events]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_veth({.name = "a", .peer_name = "b"}));
    const int a = bench.link("a").ifindex;
    auto events = must(NetnsEvents::open(bench.netns()));
    const int tiny = 1;  // the kernel makes it its minimum
    REQUIRE(setsockopt(events.rtnl_fd(), SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny) == 0);
    for (std::uint32_t i = 0; i < 200; ++i) {
        must(bench.rtnl.set_neighbour(a, Ipv4{Ipv4::parse("10.1.0.0")->value + i}, Mac{{0xfa, 0x16, 0x3e, 0, 0, 1}}));
    }
    EventBatch batch = events.receive();
    CHECK(batch.overrun);
    CHECK(batch.any());

    CHECK_FALSE(events.receive().overrun);
    must(bench.rtnl.remove_neighbour(a, *Ipv4::parse("10.1.0.0")));
    batch = next(events);
    CHECK(batch.neighbours);
    CHECK_FALSE(batch.overrun);
}

TEST_CASE("the default buffer holds thousands of notifications", "[linux][events]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_veth({.name = "a", .peer_name = "b"}));
    const int a = bench.link("a").ifindex;
    auto events = must(NetnsEvents::open(bench.netns()));
    for (std::uint32_t i = 0; i < 5000; ++i) {
        must(bench.rtnl.set_neighbour(a, Ipv4{Ipv4::parse("10.1.0.0")->value + i}, Mac{{0xfa, 0x16, 0x3e, 0, 0, 1}}));
    }
    const auto batch = events.receive();
    CHECK(batch.neighbours);
    CHECK_FALSE(batch.overrun);
    CHECK_FALSE(events.receive().any());
}

TEST_CASE("IPsec policies are listed by their addresses, and their changes told", "[linux][events]") {
    REQUIRE_ROOT();
    const Bench bench;
    auto events = must(NetnsEvents::open(bench.netns()));
    if (events.ipsec_fd() < 0) SKIP("this kernel has no IPsec");
    CHECK(must(list_ipsec_policies(bench.netns())).empty());
    bench.run({"ip", "xfrm", "policy", "add", "src", "198.51.100.2/32", "dst", "198.51.100.0/24", "dir", "out", "tmpl",
               "proto", "esp", "mode", "transport"});
    const auto added = next(events);
    CHECK(added.ipsec);
    CHECK_FALSE(added.netfilter);
    bench.run({"ip", "xfrm", "policy", "add", "src", "2001:db8::/32", "dst", "2001:db8::3/128", "dir", "in", "tmpl",
               "proto", "esp", "mode", "transport"});
    const auto policies = must(list_ipsec_policies(bench.netns()));
    REQUIRE(policies.size() == 2);
    const auto address = [](const char* text) { return IpAddress::parse(text).value(); };
    const auto concern = [&](const char* from, const char* to) {
        return std::ranges::count_if(policies,
                                     [&](const auto& one) { return one.concerns(address(from), address(to)); });
    };
    CHECK(concern("198.51.100.2", "198.51.100.3") == 1);
    CHECK(concern("198.51.100.3", "198.51.100.2") == 0);
    CHECK(concern("198.51.100.2", "198.51.101.3") == 0);
    CHECK(concern("2001:db8::9", "2001:db8::3") == 1);
    CHECK(concern("2001:db9::9", "2001:db8::3") == 0);
    static_cast<void>(events.receive());
    bench.run({"ip", "xfrm", "policy", "flush"});
    CHECK(next(events).ipsec);
    CHECK(must(list_ipsec_policies(bench.netns())).empty());

    // What no policy selects may be refused, too.
    bench.run({"ip", "xfrm", "policy", "setdefault", "fwd", "block"});
    CHECK(next(events).ipsec);
    const auto refusing = must(list_ipsec_policies(bench.netns()));
    REQUIRE(refusing.size() == 1);
    CHECK(refusing.front().direction == XFRM_POLICY_FWD);
    CHECK(refusing.front().concerns(address("198.51.100.9"), address("198.51.100.1")));
    bench.run({"ip", "xfrm", "policy", "setdefault", "fwd", "accept"});
    CHECK(must(list_ipsec_policies(bench.netns())).empty());
}

}  // namespace fiplane::test
