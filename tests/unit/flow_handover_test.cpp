// SPDX-License-Identifier: Apache-2.0
// Rows of fl_flows as connections that Linux goes on with.
#include "core/flow_handover.hpp"

#include <netinet/in.h>

#include <catch2/catch_test_macros.hpp>

#include "core/hash.hpp"
#include "core/l2.hpp"

using namespace fiplane;

namespace {

const std::string kRouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const std::string kOther = "snat-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
constexpr std::uint32_t kNow = 1000000;
constexpr std::uint16_t kInsidePort = 40001;
constexpr std::uint16_t kOutsidePort = 443;

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

fl_flow_key key_of(std::uint8_t protocol, std::uint16_t inside_port = kInsidePort,
                   const std::string& router = kRouter) {
    fl_flow_key key{};
    key.router = 0x80000000 | hash_of(router);
    key.protocol = protocol;
    copy_bytes(key.inside, ip("10.1.0.11"));
    copy_bytes(key.outside, ip("198.51.100.9"));
    key.inside_port = inside_port;
    key.outside_port = kOutsidePort;
    return key;
}

/// A flow whose last packet was `idle` seconds ago.
fl_flow flow_of(std::uint32_t flags, std::uint32_t idle = 0) {
    fl_flow flow{};
    copy_bytes(flow.fip, ip("203.0.113.101"));
    flow.flags = flags;
    flow.last_use = kNow - idle;
    return flow;
}

FlowHandover plan(const Table<fl_flow_key, fl_flow>& flows, const ConntrackLimits& limits = {},
                  std::uint32_t now = kNow) {
    return plan_handover(flows, {{kRouter, {limits, std::nullopt}}}, now);
}

/// The only connection of a plan that leaves nothing out.
TrackedConnection only(const FlowHandover& planned) {
    REQUIRE(planned.left_out.empty());
    REQUIRE(planned.connections.at(kRouter).size() == 1);
    return planned.connections.at(kRouter).front();
}

/// Why the only flow of a plan is left out.
LeftOut why(const FlowHandover& planned) {
    for (const auto& [name, connections] : planned.connections)
        REQUIRE(connections.empty());
    REQUIRE(planned.left_out.size() == 1);
    REQUIRE(planned.left_out.begin()->second == 1);
    return planned.left_out.begin()->first;
}

}  // namespace

TEST_CASE("a flow that a VM opened has its source translated, and keeps its ports", "[handover]") {
    const auto connection = only(plan({{key_of(IPPROTO_TCP), flow_of(FL_FLOW_FROM_INSIDE, 100)}}));
    CHECK(connection.protocol == IPPROTO_TCP);
    CHECK(connection.original == ConnectionTuple{ip("10.1.0.11"), kInsidePort, ip("198.51.100.9"), kOutsidePort});
    CHECK(connection.reply == ConnectionTuple{ip("198.51.100.9"), kOutsidePort, ip("203.0.113.101"), kInsidePort});
    CHECK(connection.timeout == 432000 - 100);
    CHECK_FALSE(connection.closing);
}

TEST_CASE("a flow to a floating IP of the same router has both addresses translated", "[handover]") {
    fl_flow_key key = key_of(IPPROTO_UDP);
    copy_bytes(key.outside, ip("203.0.113.102"));
    fl_flow flow = flow_of(FL_FLOW_FROM_INSIDE);
    copy_bytes(flow.dnat, ip("10.1.0.12"));
    const auto connection = only(plan({{key, flow}}));
    CHECK(connection.original == ConnectionTuple{ip("10.1.0.11"), kInsidePort, ip("203.0.113.102"), kOutsidePort});
    CHECK(connection.reply == ConnectionTuple{ip("10.1.0.12"), kOutsidePort, ip("203.0.113.101"), kInsidePort});

    // The row for its answers is about the same connection.
    fl_flow_key answers{};
    answers.router = key.router;
    answers.protocol = key.protocol;
    copy_bytes(answers.inside, ip("10.1.0.12"));
    copy_bytes(answers.outside, ip("203.0.113.101"));
    answers.inside_port = kOutsidePort;
    answers.outside_port = kInsidePort;
    fl_flow answering{};
    answering.last_use = kNow;
    copy_bytes(answering.fip, ip("203.0.113.102"));
    copy_bytes(answering.dnat, ip("10.1.0.11"));
    CHECK(only(plan({{answers, answering}})) == connection);
}

TEST_CASE("a flow from outside has its destination translated", "[handover]") {
    const auto connection = only(plan({{key_of(IPPROTO_UDP), flow_of(0, 20)}}));
    CHECK(connection.protocol == IPPROTO_UDP);
    CHECK(connection.original == ConnectionTuple{ip("198.51.100.9"), kOutsidePort, ip("203.0.113.101"), kInsidePort});
    CHECK(connection.reply == ConnectionTuple{ip("10.1.0.11"), kInsidePort, ip("198.51.100.9"), kOutsidePort});
    CHECK(connection.timeout == 100);
}

TEST_CASE("Linux forgets a flow when it would have, had it carried it", "[handover]") {
    const auto with_idle = [](std::uint8_t protocol, std::uint32_t flags, std::uint32_t idle,
                              const ConntrackLimits& limits = {}) {
        return plan({{key_of(protocol), flow_of(flags, idle)}}, limits);
    };
    CHECK(only(with_idle(IPPROTO_TCP, 0, 431999)).timeout == 1);
    CHECK(why(with_idle(IPPROTO_TCP, 0, 432000)) == LeftOut::kIdle);
    CHECK(only(with_idle(IPPROTO_UDP, 0, 119)).timeout == 1);
    CHECK(why(with_idle(IPPROTO_UDP, 0, 120)) == LeftOut::kIdle);

    const auto closing = only(with_idle(IPPROTO_TCP, FL_FLOW_CLOSING, 119));
    CHECK(closing.timeout == 1);
    CHECK(closing.closing);
    CHECK(why(with_idle(IPPROTO_TCP, FL_FLOW_CLOSING, 120)) == LeftOut::kIdle);

    // What nobody has answered.
    CHECK(only(with_idle(IPPROTO_TCP, FL_FLOW_UNANSWERED, 299)).timeout == 1);
    CHECK_FALSE(only(with_idle(IPPROTO_TCP, FL_FLOW_UNANSWERED, 299)).answered);
    CHECK(why(with_idle(IPPROTO_TCP, FL_FLOW_UNANSWERED, 300)) == LeftOut::kIdle);
    CHECK(only(with_idle(IPPROTO_TCP, FL_FLOW_UNANSWERED | FL_FLOW_CLOSING, 119)).timeout == 1);
    CHECK(only(with_idle(IPPROTO_UDP, FL_FLOW_UNANSWERED, 29)).timeout == 1);
    CHECK(why(with_idle(IPPROTO_UDP, FL_FLOW_UNANSWERED, 30)) == LeftOut::kIdle);

    const ConntrackLimits other{.tcp_established = 7200, .tcp_closing = 60, .udp_stream = 30};
    CHECK(only(with_idle(IPPROTO_TCP, 0, 7000, other)).timeout == 200);
    CHECK(why(with_idle(IPPROTO_TCP, FL_FLOW_CLOSING, 60, other)) == LeftOut::kIdle);
    CHECK(only(with_idle(IPPROTO_UDP, 0, 10, other)).timeout == 20);
}

TEST_CASE("a stamp that is later than the clock was used now", "[handover]") {
    Table<fl_flow_key, fl_flow> flows{{key_of(IPPROTO_UDP), flow_of(0)}};
    CHECK(only(plan(flows, {}, kNow - 1)).timeout == 120);
}

TEST_CASE("what conntrack need not know of is left out", "[handover]") {
    CHECK(why(plan({{key_of(IPPROTO_ICMP), flow_of(FL_FLOW_FROM_INSIDE)}})) == LeftOut::kNoPorts);
    fl_flow plain{};
    plain.last_use = kNow;
    CHECK(why(plan({{key_of(IPPROTO_TCP), plain}})) == LeftOut::kUntranslated);
    plain.flags = FL_FLOW_FROM_INSIDE;
    CHECK(why(plan({{key_of(IPPROTO_TCP), plain}})) == LeftOut::kUntranslated);
}

TEST_CASE("flows go to the namespace that has the number of their router", "[handover]") {
    const Table<fl_flow_key, fl_flow> flows{
        {key_of(IPPROTO_TCP, 1), flow_of(0)},
        {key_of(IPPROTO_TCP, 2, kOther), flow_of(0)},
        {key_of(IPPROTO_TCP, 3, kOther), flow_of(0)},
        {key_of(IPPROTO_TCP, 4, "qrouter-gone"), flow_of(0)},
    };
    const auto planned = plan_handover(flows, {{kRouter, {}}, {kOther, {}}, {"fip-idle", {}}}, kNow);
    REQUIRE(planned.connections.size() == 3);
    REQUIRE(planned.connections.at(kRouter).size() == 1);
    CHECK(planned.connections.at(kRouter).front().reply.source_port == 1);
    CHECK(planned.connections.at(kOther).size() == 2);
    CHECK(planned.connections.at("fip-idle").empty());
    CHECK(planned.left_out == std::map<LeftOut, std::size_t>{{LeftOut::kNoRouter, 1}});
}

TEST_CASE("of more flows than conntrack has room for, those used last go over", "[handover]") {
    Table<fl_flow_key, fl_flow> flows;
    for (std::uint16_t port = 1; port <= 10; ++port)
        flows.emplace(key_of(IPPROTO_TCP, port), flow_of(0, port % 2 == 0 ? port : 100U + port));
    const auto planned = plan(flows, {.room = 4});
    std::vector<std::uint16_t> ports;
    for (const auto& connection : planned.connections.at(kRouter))
        ports.push_back(connection.reply.source_port);
    CHECK(ports == std::vector<std::uint16_t>{2, 4, 6, 8});
    CHECK(planned.left_out == std::map<LeftOut, std::size_t>{{LeftOut::kNoRoom, 6}});

    CHECK(plan(flows, {.room = 10}).left_out.empty());
    CHECK(plan(flows, {.room = 0}).left_out.at(LeftOut::kNoRoom) == 10);
}

TEST_CASE("a namespace has the same number here as in compiled tables", "[handover]") {
    CHECK(foreign_number(kRouter) == (0x80000000 | hash_of(kRouter)));
    CHECK(foreign_number("a") != foreign_number("b"));
}

TEST_CASE("each reason to leave a flow out has a text", "[handover]") {
    for (const auto reason : {LeftOut::kNoRouter, LeftOut::kNoPorts, LeftOut::kIdle, LeftOut::kUntranslated,
                              LeftOut::kNoFloatingIp, LeftOut::kNoRoom})
        CHECK_FALSE(describe(reason).empty());
}

TEST_CASE("a flow does not go over with a translation that is gone", "[handover]") {
    fl_flow_key key = key_of(IPPROTO_TCP);
    copy_bytes(key.outside, ip("203.0.113.102"));
    fl_flow flow = flow_of(FL_FLOW_FROM_INSIDE);
    copy_bytes(flow.dnat, ip("10.1.0.12"));
    const auto with = [&](std::map<Ipv4, Ipv4> floating_ips) {
        return plan_handover({{key, flow}}, {{kRouter, {{}, std::move(floating_ips)}}}, kNow);
    };
    const std::pair own{ip("203.0.113.101"), ip("10.1.0.11")};
    const std::pair other{ip("203.0.113.102"), ip("10.1.0.12")};
    CHECK(only(with({own, other})).original.source == own.second);
    CHECK(why(with({own})) == LeftOut::kNoFloatingIp);
    CHECK(why(with({other})) == LeftOut::kNoFloatingIp);
    CHECK(why(with({})) == LeftOut::kNoFloatingIp);
    CHECK(why(with({own, {other.first, ip("10.1.0.13")}})) == LeftOut::kNoFloatingIp);
    CHECK(why(with({{own.first, ip("10.1.0.13")}, other})) == LeftOut::kNoFloatingIp);
}

TEST_CASE("flows are forgotten when conntrack would forget them", "[handover]") {
    const ConntrackLimits limits{.tcp_established = 7200,
                                 .tcp_closing = 60,
                                 .tcp_unanswered = 40,
                                 .udp_stream = 90,
                                 .udp_unanswered = 10,
                                 .icmp = 20};
    const ForgottenFlows forgotten({{kRouter, limits}}, kNow);
    const auto after = [&](std::uint8_t protocol, std::uint32_t idle, std::uint32_t flags = 0,
                           const std::string& router = kRouter) {
        return forgotten.contain(key_of(protocol, kInsidePort, router), flow_of(flags, idle));
    };
    CHECK_FALSE(after(IPPROTO_TCP, 7199));
    CHECK(after(IPPROTO_TCP, 7200));
    CHECK_FALSE(after(IPPROTO_TCP, 59, FL_FLOW_CLOSING));
    CHECK(after(IPPROTO_TCP, 60, FL_FLOW_CLOSING));
    CHECK_FALSE(after(IPPROTO_UDP, 89));
    CHECK(after(IPPROTO_UDP, 90));
    CHECK_FALSE(after(IPPROTO_TCP, 39, FL_FLOW_UNANSWERED));
    CHECK(after(IPPROTO_TCP, 40, FL_FLOW_UNANSWERED));
    CHECK_FALSE(after(IPPROTO_UDP, 9, FL_FLOW_UNANSWERED));
    CHECK(after(IPPROTO_UDP, 10, FL_FLOW_UNANSWERED));
    CHECK_FALSE(after(IPPROTO_ICMP, 19));
    CHECK(after(IPPROTO_ICMP, 20));
    // Linux's own limits for a router that is not there, and a stamp of the future.
    CHECK_FALSE(after(IPPROTO_UDP, 119, 0, kOther));
    CHECK(after(IPPROTO_UDP, 120, 0, kOther));
    CHECK_FALSE(after(IPPROTO_UDP, static_cast<std::uint32_t>(-1)));
}
