// SPDX-License-Identifier: Apache-2.0
// Guests that no topology lists: their bridge learns them, the agent keeps what it learned, and Linux sees all moves.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <signal.h>
#include <sys/socket.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "agent_bench.hpp"
#include "core/types.hpp"
#include "linux/unique_fd.hpp"
#include "support/scratch_netns.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// An ethertype of nobody (IEEE 802, local experimental), so that no stack answers.
constexpr std::uint16_t kEtherType = 0x88b5;
/// What the bridge of these tests is told: 3 s, the shortest that is followed.
const auto kAgeing = scaled(3s);

Mac guest_mac(int number) {
    return Mac{{0x0a, 0, 0, 0, static_cast<std::uint8_t>(number >> 8), static_cast<std::uint8_t>(number)}};
}

/// A veth whose root end is plugged into br-ex; the test is the guest behind its other end.
class Guest {
  public:
    explicit Guest(const std::string& name) : port_(name) {
        shell(fmt::format("ip link add {0} type veth peer name {0}i", name));
        shell(fmt::format("ip link set {} master br-ex up", name));
        shell(fmt::format("ip link set {}i up", name));
        fd_.reset(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(kEtherType)));
        REQUIRE(fd_.get() >= 0);
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(kEtherType);
        address.sll_ifindex = static_cast<int>(if_nametoindex((name + "i").c_str()));
        REQUIRE(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
        wait_until(name + " forwards", [&] {
            return shell("bridge -d link show dev " + name).find("state forwarding") != std::string::npos;
        });
    }

    void send(const Mac& from, const Mac& to, std::uint32_t number) const {
        std::array<std::uint8_t, 64> frame{};
        std::memcpy(frame.data(), to.bytes.data(), 6);
        std::memcpy(&frame[6], from.bytes.data(), 6);
        frame[12] = kEtherType >> 8;
        frame[13] = kEtherType & 0xff;
        std::memcpy(&frame[14], &number, sizeof number);
        REQUIRE(::send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
    }

    /// The frame with this number comes in, within a second.
    [[nodiscard]] bool receives(std::uint32_t number) const {
        const auto end = Clock::now() + scaled(1s);
        while (!has_received(number)) {
            if (Clock::now() > end) return false;
            std::this_thread::sleep_for(1ms);
        }
        return true;
    }

    [[nodiscard]] bool has_received(std::uint32_t number) const { return received().contains(number); }

    /// Numbers of all frames that have come in by now.
    [[nodiscard]] const std::multiset<std::uint32_t>& received() const {
        std::array<std::uint8_t, 64> frame{};
        sockaddr_ll from{};
        socklen_t size = sizeof from;
        while (recvfrom(fd_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &size) > 0) {
            std::uint32_t number = 0;
            std::memcpy(&number, &frame[14], sizeof number);
            if (from.sll_pkttype != PACKET_OUTGOING) received_.insert(number);
        }
        return received_;
    }

    [[nodiscard]] const std::string& port() const { return port_; }

  private:
    std::string port_;
    UniqueFd fd_;
    mutable std::multiset<std::uint32_t> received_;
};

/// The port of br-ex that its table has for a MAC; empty: none.
std::string port_of(const Mac& mac) {
    for (const auto& entry : nlohmann::json::parse(shell("bridge -j fdb show br br-ex"))) {
        if (entry.at("mac") == mac.str() && !entry.contains("vlan")) return entry.at("ifname");
    }
    return {};
}

/// Rows of fl_fdb by MAC: the port by which the MAC is reached.
std::map<std::string, int> rows() {
    std::map<std::string, int> out;
    const auto dump = nlohmann::json::parse(shell("bpftool -j map dump pinned /sys/fs/bpf/fiplane/maps/fl_fdb"));
    for (const auto& entry : dump) {
        const auto& row = entry.contains("formatted") ? entry.at("formatted") : entry;
        Mac mac;
        for (std::size_t i = 0; i < mac.bytes.size(); ++i)
            mac.bytes.at(i) = row.at("key").at("mac").at(i).get<std::uint8_t>();
        out[mac.str()] = row.at("value").at("out").at("port").get<int>();
    }
    return out;
}

bool has_row(const Mac& mac, const Guest& guest) {
    const auto all = rows();
    const auto found = all.find(mac.str());
    return found != all.end() && found->second == static_cast<int>(if_nametoindex(guest.port().c_str()));
}

std::uint64_t packets(const nlohmann::json& status, const std::string& reason) {
    for (const auto& row : status.at("counters")) {
        if (row.at("hook") == "tc_port" && row.at("reason") == reason) return row.at("packets");
    }
    return 0;
}

/// How long addresses live on br-ex without sending anything.
void set_ageing(Clock::duration time) {
    shell(fmt::format("ip link set br-ex type bridge ageing_time {}", time / 10ms));
}

/// The agent of node primary, whose br-ex forgets within kAgeing.
void start(NodeBench& bench) {
    // Peers that do not exist would be asked for all the time, which is news each time.
    for (const char* peer : {"192.0.2.12", "192.0.2.13"})
        shell(fmt::format("ip neigh replace {} lladdr 02:00:00:00:00:02 dev eth0 nud permanent", peer));
    bench.start_agent();
    set_ageing(kAgeing);
}

/// Both talk until both are known.
void introduce(const Guest& a, const Mac& mac_a, const Guest& b, const Mac& mac_b) {
    a.send(mac_a, mac_b, 0);
    b.send(mac_b, mac_a, 0);
    wait_until("both are known", [&] { return has_row(mac_a, a) && has_row(mac_b, b); });
}

/// Two guests that talk with each other, so that neither is forgotten meanwhile.
class Conversation {
  public:
    Conversation(const Guest& a, const Mac& mac_a, const Guest& b, const Mac& mac_b)
        : a_(a), b_(b), mac_a_(mac_a), mac_b_(mac_b) {}

    /// One frame each way.
    void talk() {
        a_.send(mac_a_, mac_b_, ++sent_);
        b_.send(mac_b_, mac_a_, ++sent_);
        std::this_thread::sleep_for(20ms);
    }
    void talk_for(Clock::duration time) {
        for (const auto end = Clock::now() + time; Clock::now() < end;)
            talk();
    }
    void talk_until(const std::string& what, const std::function<bool()>& condition) {
        wait_until(
            what,
            [&] {
                talk();
                return condition();
            },
            10s);
    }
    /// Until the agent has heard of all that there is to hear of, and keeps both addresses.
    void talk_until_settled(const NodeBench& bench) {
        const auto before = bench.statistic("learned_refreshed");
        talk_until("both addresses are refreshed", [&] { return bench.statistic("learned_refreshed") >= before + 2; });
        talk_until("the agent has nothing to do", [&] {
            const auto updates = bench.statistic("updates");
            talk_for(scaled(500ms));
            return bench.statistic("updates") == updates;
        });
    }
    [[nodiscard]] std::uint32_t sent() const { return sent_; }

  private:
    const Guest& a_;
    const Guest& b_;
    Mac mac_a_;
    Mac mac_b_;
    std::uint32_t sent_ = 0;
};

}  // namespace

TEST_CASE("A learned address lives while it sends, and not longer", "[agent][learning]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start(bench);
    const Guest a("ga");
    const Guest b("gb");
    const Mac mac_a = guest_mac(1);
    const Mac mac_b = guest_mac(2);
    const Mac silent = guest_mac(3);
    introduce(a, mac_a, b, mac_b);
    Conversation conversation(a, mac_a, b, mac_b);
    conversation.talk_until_settled(bench);
    const auto before = bench.status();
    const auto sent_before = conversation.sent();
    const auto silent_sends = Clock::now();
    b.send(silent, mac_a, 0);
    conversation.talk_until("the silent one is known", [&] { return has_row(silent, b); });
    const auto silent_since = Clock::now();

    bool silent_gone = false;
    bool kept = true;
    const auto end = Clock::now() + 4 * kAgeing;
    while (Clock::now() < end) {
        conversation.talk_for(200ms);
        kept = kept && port_of(mac_a) == "ga" && port_of(mac_b) == "gb";
        if (!silent_gone && port_of(silent).empty()) {
            silent_gone = true;
            // A look may extend a life by as long as is between two looks.
            CHECK(Clock::now() - silent_since < 2 * kAgeing);
            CHECK(Clock::now() - silent_sends > kAgeing - 500ms);
            wait_until("the row has gone with it", [&] { return !rows().contains(silent.str()); });
        }
    }
    CHECK(kept);
    CHECK(silent_gone);
    const auto after = bench.status();
    INFO(bench.log());
    const auto fast = packets(after, "l2_forward") - packets(before, "l2_forward");
    CHECK(fast * 100 >= std::uint64_t{conversation.sent() - sent_before} * 99);
    const auto& was = before.at("statistics");
    const auto& now = after.at("statistics");
    const auto grown = [&](const char* key) { return now.at(key).get<int>() - was.at(key).get<int>(); };
    CHECK(grown("learned_refreshed") >= 2 * 3);
    // To refresh makes no work: what was heard of is the silent one's beginning and end.
    CHECK(grown("updates") <= 2 + grown("full_dumps"));

    // Both fall silent.
    wait_until(
        "both are forgotten", [&] { return rows().count(mac_a.str()) + rows().count(mac_b.str()) == 0; },
        std::chrono::duration_cast<std::chrono::milliseconds>(2 * kAgeing));
    CHECK(port_of(mac_a).empty());
}

TEST_CASE("An address that moves is seen by Linux, followed at once, and not brought back", "[agent][learning]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start(bench);
    const Guest a("ga");
    const Guest b("gb");
    const Guest c("gc");
    const Mac mover = guest_mac(1);
    const Mac other = guest_mac(2);
    introduce(a, mover, b, other);
    a.send(mover, other, 1);
    CHECK(b.receives(1));
    b.send(other, mover, 2);
    CHECK(a.receives(2));

    const auto before = bench.status();
    c.send(mover, other, 3);
    CHECK(b.receives(3));
    CHECK(port_of(mover) == "gc");  // at once: the frame itself has gone through the bridge
    wait_until("the row has followed", [&] { return has_row(mover, c); });
    const auto after = bench.status();
    CHECK(after.at("statistics").at("full_dumps") == before.at("statistics").at("full_dumps"));  // it was told
    CHECK(packets(after, "learn") - packets(before, "learn") == 1);
    b.send(other, mover, 4);
    CHECK(c.receives(4));

    // What the agent refreshes from now on is the new place.
    const auto end = Clock::now() + 2 * kAgeing;
    bool stayed = true;
    for (std::uint32_t number = 5; Clock::now() < end; number += 2) {
        c.send(mover, other, number);
        b.send(other, mover, number + 1);
        std::this_thread::sleep_for(100ms);
        stayed = stayed && port_of(mover) == "gc";
    }
    CHECK(stayed);
    CHECK(packets(bench.status(), "learn") - packets(before, "learn") == 1);
}

TEST_CASE("Addresses that wander are forwarded as a bridge does, with the fast path and without", "[agent][learning]") {
    REQUIRE_ROOT();
    constexpr int kSteps = 150;
    constexpr int kMacs = 5;
    const bool fast_path = GENERATE(true, false);
    INFO("fast path " << fast_path);
    NodeBench bench;
    bench.start_agent(fast_path ? "" : "--fast-path off");
    std::vector<Guest> guests;
    for (const char* name : {"ga", "gb", "gc", "gd"})
        guests.emplace_back(name);
    std::this_thread::sleep_for(scaled(1s));
    const auto before = bench.status();
    // What a learning bridge does, by the book: the port of each MAC (IEEE 802.1D, 7.7 and 7.8).
    std::map<int, std::size_t> table;
    std::map<std::string, std::multiset<std::uint32_t>> expected;
    std::mt19937 random(4711);
    const auto pick = [&](std::size_t limit) {
        return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
    };
    for (std::uint32_t step = 1; step <= kSteps; ++step) {
        const auto from = static_cast<int>(pick(kMacs));
        const auto to = static_cast<int>(pick(kMacs + 1));  // the last one never sends
        const auto at = table.contains(from) && pick(4) != 0 ? table.at(from) : pick(guests.size());
        INFO("step " << step << ": " << guest_mac(from).str() << " at " << guests[at].port() << " to "
                     << guest_mac(to).str());
        const bool is_new = !table.contains(from) || table.at(from) != at;
        table[from] = at;
        guests[at].send(guest_mac(from), guest_mac(to), step);
        for (std::size_t port = 0; port < guests.size(); ++port) {
            if (port == at || (table.contains(to) && table.at(to) != port)) continue;
            expected[guests[port].port()].insert(step);
            REQUIRE(guests[port].receives(step));
        }
        REQUIRE(port_of(guest_mac(from)) == guests[at].port());
        if (fast_path && is_new) wait_until("the row follows", [&] { return has_row(guest_mac(from), guests[at]); });
    }
    const auto after = bench.status();
    const auto fast = packets(after, "l2_forward") - packets(before, "l2_forward");
    CHECK((fast > kSteps / 4) == fast_path);
    // And nobody has got anything else, or anything twice.
    for (const Guest& guest : guests)
        CHECK(guest.received() == expected[guest.port()]);
}

TEST_CASE("A new agent keeps what the bridge still knows", "[agent][learning]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start(bench);
    const Guest a("ga");
    const Guest b("gb");
    const Mac mac_a = guest_mac(1);
    const Mac mac_b = guest_mac(2);
    introduce(a, mac_a, b, mac_b);
    Conversation conversation(a, mac_a, b, mac_b);
    conversation.talk_until_settled(bench);
    // Nobody refreshes anything until there is an agent again.
    set_ageing(60s);
    CHECK(bench.stop_agent(SIGKILL) == 128 + SIGKILL);
    bench.start_agent();
    CHECK(bench.statistic("rows_written") == 0);
    conversation.talk_until("the new agent keeps them", [&] { return bench.statistic("learned_refreshed") >= 2; });
    set_ageing(kAgeing);
    conversation.talk_for(2 * kAgeing);
    CHECK(port_of(mac_a) == "ga");
    CHECK(has_row(mac_a, a));
    CHECK(bench.statistic("rows_removed") == 0);
}

TEST_CASE("A thousand addresses in a second are learned without starving anything", "[agent][learning]") {
    REQUIRE_ROOT();
    constexpr int kMany = 1000;
    NodeBench bench;
    bench.start_agent();
    const Guest a("ga");
    std::this_thread::sleep_for(scaled(1s));
    const auto before = bench.status().at("statistics");
    const auto start_time = Clock::now();
    std::chrono::milliseconds longest{};
    for (int i = 0; i < kMany; ++i) {
        a.send(guest_mac(i), guest_mac(kMany), 0);
        std::this_thread::sleep_until(start_time + (i + 1) * 1ms);
        if (i % 250 != 249) continue;
        const auto asked = bench.agent_cpu_time();
        (void)bench.status();
        longest = std::max(longest, bench.agent_cpu_time() - asked);
    }
    const auto all_sent = bench.agent_cpu_time();
    wait_until("all are known", [&] { return rows().size() >= kMany; });
    const auto late = bench.agent_cpu_time() - all_sent;
    const auto after = bench.status().at("statistics");
    const auto grown = [&](const char* key) { return after.at(key).get<int>() - before.at(key).get<int>(); };
    WARN(fmt::format(
        "{} addresses: the last row {} ms of CPU after the last frame, {} compilations, status within {} ms of "
        "CPU, last compilation {} ms, tables {} ms",
        kMany, late.count(), grown("updates"), longest.count(), after.at("last_compile_ms").get<double>(),
        after.at("last_sync_ms").get<double>()));
    CHECK(late < scaled(1s));
    CHECK(longest < scaled(500ms));
    CHECK(grown("updates") <= kMany / 4);
    CHECK(grown("overruns") == 0);
    CHECK(bench.status().at("problems").empty());
}

}  // namespace fiplane::test
