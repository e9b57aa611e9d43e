// SPDX-License-Identifier: Apache-2.0
// When a learned entry is refreshed: the policy, with clock, stamps and Linux played by the test.
#include "agent/learned_entries.hpp"

#include <catch2/catch_test_macros.hpp>
#include <map>
#include <set>

namespace fiplane::test {
namespace {

Mac mac(int number) {
    return Mac{{0x0a, 0, 0, 0, static_cast<std::uint8_t>(number >> 8), static_cast<std::uint8_t>(number)}};
}

LearnedEntry entry(int number, std::uint32_t ageing) {
    LearnedEntry out{.ifindex = 7, .peer = std::nullopt, .mac = mac(number), .ageing = ageing, .row = {}};
    out.row.segment = static_cast<std::uint32_t>(number);
    return out;
}

struct LearnedBench {
    std::uint32_t last_use = 0;
    bool there = true;
    LearnedEntries learned;

    std::size_t tick(const std::vector<LearnedEntry>& entries, std::uint32_t now) {
        std::size_t asked = 0;
        learned.tick(
            entries, now, [this](const fl_fdb_key&) { return last_use; },
            [&](const LearnedEntry&) -> Result<bool> {
                ++asked;
                return there;
            });
        return asked;
    }
};

}  // namespace

TEST_CASE("A learned entry is refreshed when its MAC has sent since the last refresh", "[agent-logic]") {
    LearnedBench bench;
    const std::vector<LearnedEntry> entries{entry(0, 300)};
    CHECK(bench.tick(entries, 1000) == 0);  // it never sent a frame past the bridge
    bench.last_use = 1001;
    CHECK(bench.tick(entries, 1002) == 1);
    bench.last_use = 1003;
    CHECK(bench.tick(entries, 1003) == 0);  // there is time
    CHECK(bench.tick(entries, 1101) == 0);
    CHECK(bench.tick(entries, 1102) == 1);  // a third of its life
    CHECK(bench.tick(entries, 1202) == 0);  // it has been silent since
    CHECK(bench.tick(entries, 1250) == 0);
    bench.last_use = 1260;
    CHECK(bench.tick(entries, 1260) == 1);  // a late look finds out at once
    CHECK(bench.learned.refreshes() == 3);
}

TEST_CASE("What an earlier agent's programs saw counts if Linux may still have the entry", "[agent-logic]") {
    LearnedBench bench;
    bench.last_use = 1000;
    SECTION("it may") {
        CHECK(bench.tick({entry(0, 300)}, 1299) == 1);
    }
    SECTION("it has aged already, and came back by itself") {
        CHECK(bench.tick({entry(0, 300)}, 1300) == 0);
    }
    SECTION("the stamp is of the next second") {
        CHECK(bench.tick({entry(0, 300)}, 999) == 1);
    }
}

TEST_CASE("An entry that came back is a new one, and each table has its own", "[agent-logic]") {
    LearnedBench bench;
    bench.last_use = 1000;
    LearnedEntry other = entry(0, 300);
    other.peer = Ipv4::parse("192.0.2.2");
    CHECK(bench.tick({entry(0, 300), other}, 1000) == 2);
    CHECK(bench.tick({entry(0, 300)}, 1001) == 0);
    CHECK(bench.tick({entry(0, 300), other}, 1002) == 1);
    LearnedEntry moved = entry(0, 300);
    moved.ifindex = 8;
    CHECK(bench.tick({moved}, 1003) == 1);
}

TEST_CASE("The shortest life is looked at every second", "[agent-logic]") {
    LearnedBench bench;
    for (std::uint32_t now = 1000; now < 1010; ++now) {
        bench.last_use = now;
        CHECK(bench.tick({entry(255, 3)}, now) == 1);
    }
}

TEST_CASE("Entries that came together spread out", "[agent-logic]") {
    LearnedBench bench;
    std::vector<LearnedEntry> entries;
    for (int i = 0; i < 1000; ++i)
        entries.push_back(entry(i, 300));
    std::map<std::uint32_t, std::size_t> refreshed;
    for (std::uint32_t now = 1000; now < 1301; ++now) {
        bench.last_use = now;
        if (const std::size_t count = bench.tick(entries, now); count != 0) refreshed[now] = count;
    }
    CHECK(refreshed.at(1000) == 1000);
    refreshed.erase(1000);
    CHECK(refreshed.begin()->first == 1075);
    for (const auto& [now, count] : refreshed)
        CHECK(count <= 100);
}

TEST_CASE("An entry that Linux does not have any more is not counted as refreshed", "[agent-logic]") {
    LearnedBench bench;
    bench.last_use = 1000;
    bench.there = false;
    CHECK(bench.tick({entry(0, 300)}, 1000) == 1);
    CHECK(bench.learned.refreshes() == 0);
}

}  // namespace fiplane::test
