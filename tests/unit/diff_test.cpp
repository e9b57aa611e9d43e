// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

using Dests = Table<fl_dest_key, fl_next>;

Dests two_rows() {
    return {{dest_row_key(7, "10.0.0.1"), journey(kMacA, kQrMac, 1, out_port(3))},
            {dest_row_key(7, "10.0.0.2"), journey(kMacB, kQrMac, 2, out_port(4))}};
}

/// What sync does with a difference.
Dests apply(Dests actual, const TableDiff<fl_dest_key, fl_next>& change) {
    for (const auto& key : change.removals)
        actual.erase(key);
    for (const auto& [key, value] : change.upserts)
        actual[key] = value;
    return actual;
}

}  // namespace

TEST_CASE("nothing to do between equal tables") {
    CHECK(diff(two_rows(), two_rows()).empty());
}

TEST_CASE("a difference holds what is new, what changed and what went, and nothing else") {
    Dests actual = two_rows();
    Dests desired = two_rows();
    desired.erase(dest_row_key(7, "10.0.0.1"));
    desired[dest_row_key(7, "10.0.0.2")].hops = 3;
    desired[dest_row_key(8, "10.0.0.2")] = journey(kMacB, kQrMac, 1, out_port(4));
    const auto change = diff(desired, actual);
    CHECK(change.upserts.size() == 2);
    REQUIRE(change.removals.size() == 1);
    CHECK(same_bytes(change.removals.front(), dest_row_key(7, "10.0.0.1")));
    CHECK(diff(desired, apply(actual, change)).empty());
}

TEST_CASE("stamps that the programs write are no difference, in any kind of row") {
    Dests used = two_rows();
    used[dest_row_key(7, "10.0.0.1")].last_use = 4711;
    CHECK(diff(two_rows(), used).empty());
    Table<fl_fip_key, fl_fip_in> idle{{fip_row_key(1, "172.24.5.1"), fip_row(kFgMac, journey(kMacA, kQrMac, 2, {}))}};
    auto busy = idle;
    busy.begin()->second.next.last_use = 4711;
    CHECK(diff(idle, busy).empty());
    busy.begin()->second.next.hops = 1;
    CHECK(diff(idle, busy).upserts.size() == 1);
    const Table<fl_fdb_key, fl_fdb> quiet{{fdb_row_key(1, kMacA), fl_fdb{out_port(4), FL_FDB_LEARNED, 0}}};
    auto sender = quiet;
    sender.begin()->second.last_use = 4711;
    CHECK(diff(quiet, sender).empty());
    sender.begin()->second.out.port = 5;
    CHECK(diff(quiet, sender).upserts.size() == 1);
    sender = quiet;
    sender.begin()->second.flags = 0;
    CHECK(diff(quiet, sender).upserts.size() == 1);
}

TEST_CASE("keys are compared as the kernel does, byte by byte") {
    Dests table{
        {dest_row_key(1, "10.0.0.1"), {}}, {dest_row_key(1, "10.0.0.1"), {}}, {dest_row_key(2, "10.0.0.1"), {}}};
    CHECK(table.size() == 2);
}
