// SPDX-License-Identifier: Apache-2.0
// The parts of the agent that need no kernel: pacing, timers, keepalives, protocol, status.
#include <linux/neighbour.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include "agent/control_protocol.hpp"
#include "agent/event_loop.hpp"
#include "agent/keepalives.hpp"
#include "agent/pacing.hpp"
#include "agent/problems.hpp"
#include "agent/status.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::WithinAbs;

Ipv4 address(const char* text) {
    return *Ipv4::parse(text);
}

/// One tick over one neighbour; what was asked for.
class KeepaliveBench {
  public:
    std::uint32_t last_use = 0;

    std::size_t tick(const Keepalive& keepalive, std::uint32_t now) {
        std::size_t asked = 0;
        keepalives_.tick(
            {keepalive}, now, [this](const fl_dest_key&) { return last_use; },
            [&](const NetnsName& netns, int ifindex, const IpAddress& neighbour) -> Result<> {
                CHECK(netns == keepalive.netns);
                CHECK(ifindex == keepalive.ifindex);
                CHECK(neighbour == keepalive.address);
                ++asked;
                return {};
            });
        return asked;
    }

  private:
    Keepalives keepalives_;
};

Keepalive keepalive(std::uint16_t state, bool always) {
    return {"fip-x", 7, address("172.24.4.2"), state, always, {fl_dest_key{}}};
}

CounterValue counter(fl_hook hook, fl_reason reason, std::uint64_t packets) {
    return {hook, reason, packets, packets * 100};
}

}  // namespace

TEST_CASE("A token bucket allows its burst and then one per interval", "[agent-logic]") {
    const TokenBucket::Clock::time_point start{100s};
    TokenBucket bucket(3, 1s);
    for (int i = 0; i < 3; ++i)
        CHECK(bucket.take(start) == 0s);
    CHECK(bucket.take(start) == 1s);
    CHECK(bucket.take(start + 400ms) == 600ms);
    CHECK(bucket.take(start + 1s) == 0s);
    CHECK(bucket.take(start + 1s) == 1s);
    // A long rest fills it, and no more than that.
    for (int i = 0; i < 3; ++i)
        CHECK(bucket.take(start + 1h) == 0s);
    CHECK(bucket.take(start + 1h) > 0s);
}

TEST_CASE("Backoff doubles up to its longest delay", "[agent-logic]") {
    Backoff backoff(1s, 5s);
    CHECK(backoff.next() == 1s);
    CHECK(backoff.next() == 2s);
    CHECK(backoff.next() == 4s);
    CHECK(backoff.next() == 5s);
    CHECK(backoff.next() == 5s);
    backoff.reset();
    CHECK(backoff.next() == 1s);
}

TEST_CASE("The event loop fires timers in order, and those that were cancelled never", "[agent-logic]") {
    auto loop = EventLoop::create();
    REQUIRE(loop.has_value());
    std::string order;
    loop->after(20ms, [&] {
        order += 'b';
        loop->after(20ms, [&] {
            order += 'd';
            loop->stop();
        });
        loop->after(0ms, [&] { order += 'c'; });
    });
    loop->after(1ms, [&] { order += 'a'; });
    const auto cancelled = loop->after(5ms, [&] { order += 'x'; });
    loop->cancel(cancelled);
    REQUIRE(loop->run().has_value());
    CHECK(order == "abcd");
}

TEST_CASE("A handler may unwatch others that are ready in the same round", "[agent-logic]") {
    auto loop = EventLoop::create();
    REQUIRE(loop.has_value());
    std::array<int, 2> first{};
    std::array<int, 2> second{};
    REQUIRE(pipe(first.data()) == 0);
    REQUIRE(pipe(second.data()) == 0);
    int calls = 0;
    const auto serve = [&](std::uint32_t) {
        ++calls;
        loop->unwatch(first[0]);
        loop->unwatch(second[0]);
    };
    REQUIRE(loop->watch(first[0], EPOLLIN, serve).has_value());
    REQUIRE(loop->watch(second[0], EPOLLIN, serve).has_value());
    CHECK(write(first[1], "x", 1) == 1);
    CHECK(write(second[1], "x", 1) == 1);
    loop->after(scaled(20ms), [&] { loop->stop(); });
    REQUIRE(loop->run().has_value());
    CHECK(calls == 1);
    for (const int fd : {first[0], first[1], second[0], second[1]})
        close(fd);
}

TEST_CASE("Keepalives confirm what is in use and leave the rest to age", "[agent-logic]") {
    KeepaliveBench bench;
    SECTION("a stale neighbour whose row carried a packet within 30 s") {
        bench.last_use = 970;
        CHECK(bench.tick(keepalive(NUD_STALE, false), 1000) == 1);
        CHECK(bench.tick(keepalive(NUD_STALE, false), 1001) == 0);  // delay and probes take their time
    }
    SECTION("a stale neighbour that nobody used") {
        bench.last_use = 969;
        CHECK(bench.tick(keepalive(NUD_STALE, false), 1000) == 0);
        bench.last_use = 0;
        CHECK(bench.tick(keepalive(NUD_STALE, false), 10) == 0);
    }
    SECTION("an underlay next hop, used or not, missing or not") {
        CHECK(bench.tick(keepalive(NUD_STALE, true), 1000) == 1);
        CHECK(bench.tick(keepalive(0, true), 1001) == 1);
        CHECK(bench.tick(keepalive(NUD_FAILED, true), 1002) == 1);
    }
    SECTION("an unresolved one that nothing depends on, now and then") {
        CHECK(bench.tick(keepalive(0, false), 1000) == 1);
        CHECK(bench.tick(keepalive(NUD_FAILED, false), 1029) == 0);
        CHECK(bench.tick(keepalive(NUD_FAILED, false), 1030) == 1);
    }
    SECTION("never one that is confirmed, being probed or permanent") {
        bench.last_use = 1000;
        for (const std::uint16_t state : {NUD_REACHABLE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT, NUD_NOARP}) {
            CHECK(bench.tick(keepalive(state, false), 1000) == 0);
            CHECK(bench.tick(keepalive(state, true), 1000) == 0);
        }
    }
}

TEST_CASE("Requests and responses survive the line protocol", "[agent-logic]") {
    const auto request = decode_request(encode_request({{"verb", "explain"}, {"address", "172.24.5.1"}}));
    REQUIRE(request.has_value());
    CHECK(request->verb == "explain");
    CHECK(request->text("address") == "172.24.5.1");
    CHECK(request->text("absent").empty());
    CHECK_FALSE(decode_request("not json").has_value());
    CHECK_FALSE(decode_request("[1]").has_value());
    CHECK_FALSE(decode_request("{\"verb\": 7}").has_value());

    const auto good = decode_response(encode_response(nlohmann::json{{"a", 1}}));
    REQUIRE(good.has_value());
    CHECK(good->at("a") == 1);
    const Refusal refusal{{ExitCode::kBadTopology, "what", "where", "hint"}, "t.yaml", {{3, 4, "wrong", "right"}}};
    const auto bad = decode_response(encode_response(Response(std::unexpect, refusal)));
    REQUIRE_FALSE(bad.has_value());
    CHECK(bad.error().error.code == ExitCode::kBadTopology);
    CHECK(bad.error().error.message() == "where: what (hint)");
    CHECK(bad.error().file == "t.yaml");
    CHECK(bad.error().mistakes == refusal.mistakes);
    for (const char* line : {"", "x", "{}", "{\"ok\":true}", "{\"ok\":false}", "{\"ok\":false,\"error\":3}"})
        CHECK(decode_response(line).error().error.code == ExitCode::kFailed);
    // A device alias may hold any bytes.
    CHECK(decode_response(encode_response(nlohmann::json("\xff\xfe"))).has_value());
}

TEST_CASE("The share counts fast, slow and dropped packets only", "[agent-logic]") {
    CHECK(share_of({}).ratio().is_null());
    const std::vector<CounterValue> counters{
        counter(FL_HOOK_TC_PORT, FL_REASON_FIP_OUT, 90),     counter(FL_HOOK_TC_PORT, FL_REASON_MTU, 6),
        counter(FL_HOOK_TC_PORT, FL_REASON_DROP_REWRITE, 4), counter(FL_HOOK_TC_PORT, FL_REASON_FLOOD, 1000),
        counter(FL_HOOK_TC_UNDERLAY, FL_REASON_FIP_IN, 100), counter(FL_HOOK_TC_UNDERLAY, FL_REASON_NOT_OVERLAY, 5000),
    };
    const Share share = share_of(counters);
    CHECK(share.fast == 190);
    CHECK(share.counted == 200);
    CHECK_THAT(share.ratio().get<double>(), WithinAbs(0.95, 1e-9));
}

TEST_CASE("A floating IP is fast only while its rows can be used", "[agent-logic]") {
    Topology topology;
    topology.name = "t";
    Compiled compiled;
    FipReport report;
    report.fip = address("172.24.5.1");
    report.fixed = address("10.1.0.1");
    report.fast_in = true;
    report.fast_out = false;
    report.reason_out = "neighbour";
    compiled.fips = {report};
    std::set<Ipv4> left_out;
    const Problems problems;
    AgentStatus status;
    status.node = "n";
    status.topology = &topology;
    status.compiled = &compiled;
    status.left_out = &left_out;
    status.problems = &problems;
    status.fast_path = true;
    status.fip_counters[report.fip] = {1, 2, 3, 4};

    const auto row = [&] { return status_json(status).at("floating_ips").at(0); };
    CHECK(row().at("state") == "slow");
    CHECK(row().at("fast_in") == true);
    CHECK(row().at("reason_in") == "");
    CHECK(row().at("reason_out") == "neighbour");
    CHECK(row().at("out_bytes") == 4);
    compiled.fips[0].fast_out = true;
    CHECK(row().at("state") == "fast");
    left_out.insert(report.fip);
    CHECK(row().at("state") == "slow");
    CHECK(row().at("reason_in") != "");
    left_out.clear();
    status.fast_path = false;
    CHECK(row().at("state") == "slow");
    CHECK(status_json(status).at("share").is_null());

    CHECK(explain_json(status, report.fixed.str())->at("here").size() == 1);
    CHECK(explain_json(status, "192.0.2.1").error().code == ExitCode::kFailed);
    CHECK(explain_json(status, "nonsense").error().code == ExitCode::kUsage);

    // Routers of others: known by namespace and by id, and there is no topology.
    compiled.fips[0].router = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
    compiled.fips[0].steps_in = {{"fip-e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102", "route"}};
    status.topology = nullptr;
    status.routers = {
        {.id = "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01", .namespaces = {compiled.fips[0].router}, .ports = {}}};
    for (const char* name : {"qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01", "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01",
                             "fip-e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102", "10.1.0.1"})
        CHECK(explain_json(status, name)->at("here").size() == 1);
    CHECK(explain_json(status, "192.0.2.1").error().code == ExitCode::kFailed);
    CHECK(status_json(status).at("topology").is_null());
    CHECK(status_json(status).at("follows") == "neutron");
    CHECK(status_json(status).at("routers").at(0).at("floating_ips").at(0) == report.fip.str());
    CHECK(row().at("router_id") == "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01");
}

TEST_CASE("A problem counts its attempts and goes when things work again", "[agent-logic]") {
    Problems problems;
    const Result<> failure = fail(ExitCode::kFailed, "cannot");
    CHECK_FALSE(problems.record("building", failure));
    CHECK_FALSE(problems.record("building", failure));
    CHECK(problems.record("observing", Result<>{}));
    REQUIRE(problems.current().size() == 1);
    CHECK(problems.current().at("building").attempts == 2);
    CHECK(problems.record("building", Result<>{}));
    CHECK(problems.current().empty());
}

}  // namespace fiplane::test
