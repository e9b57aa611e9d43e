// SPDX-License-Identifier: Apache-2.0
// Maps against the kernel: what sync writes, keeps, leaves out and reports.
#include <bpf/libbpf.h>

#include "functional/datapath_bench.hpp"

namespace fiplane::test {

TEST_CASE("sync makes the maps equal to the tables and then has nothing to do", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = bench.open();
    const Tables desired = some_tables(3);

    const auto first = need(datapath.sync(desired));
    CHECK(first.changes.at("fl_fip_in").written == 3);
    CHECK(first.changes.at("fl_dests").written == 3);
    CHECK(first.changes.at("fl_fip_stats").written == 3);
    CHECK(first.changes.at("fl_config").written == 2);  // the own address comes last
    CHECK(first.changes.at("fl_routes").written == 1);
    CHECK(same_tables(need(datapath.read_tables()), desired));
    const auto in_kernel = bench.row<fl_fip_in>("fl_fip_in", fip_key(2));
    REQUIRE(in_kernel);
    CHECK(same_bytes(*in_kernel, fip_in_to(2)));
    CHECK(need(datapath.read_fip_counters()).size() == 3);

    CHECK(need(datapath.sync(desired)).total() == 0);

    Tables smaller = desired;
    smaller.fip_in.erase(fip_key(2));
    smaller.vms.erase({.port = 5, .fixed = {10, 0, 0, 2}, .router_mac = {}, .pad = {}});
    smaller.dests[dest_key(1)].hops = 1;
    const auto second = need(datapath.sync(smaller));
    CHECK(second.changes.at("fl_fip_in").removed == 1);
    CHECK(second.changes.at("fl_vms").removed == 1);
    CHECK(second.changes.at("fl_fip_stats").removed == 1);
    CHECK(second.changes.at("fl_dests").written == 1);
    CHECK(second.total() == 4);
    CHECK(same_tables(need(datapath.read_tables()), smaller));
    CHECK_FALSE(bench.row<fl_fip_in>("fl_fip_in", fip_key(2)));
}

TEST_CASE("a rewritten row keeps the programs' last-use stamp", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = bench.open();
    Tables desired = some_tables(2);
    static_cast<void>(need(datapath.sync(desired)));
    // As a program does when packets pass.
    fl_next used = *bench.row<fl_next>("fl_dests", dest_key(1));
    used.last_use = 1234;
    bench.put_row("fl_dests", dest_key(1), used);
    fl_fip_in used_in = *bench.row<fl_fip_in>("fl_fip_in", fip_key(1));
    used_in.next.last_use = 4321;
    bench.put_row("fl_fip_in", fip_key(1), used_in);
    const fl_fdb_key mac = desired.fdb.begin()->first;
    fl_fdb sender = *bench.row<fl_fdb>("fl_fdb", mac);
    sender.last_use = 999;
    bench.put_row("fl_fdb", mac, sender);
    CHECK(need(datapath.last_use(mac)) == 999);
    CHECK(need(datapath.last_use(fl_fdb_key{.segment = 99, .mac = {}, .pad = {}})) == 0);
    CHECK(need(datapath.last_use(dest_key(1))) == 1234);
    CHECK(need(datapath.last_use(dest_key(2))) == 0);
    CHECK(need(datapath.last_use(dest_key(77))) == 0);

    CHECK(need(datapath.sync(desired)).total() == 0);
    desired.dests[dest_key(1)].mtu = 1400;
    desired.fip_in[fip_key(1)].next.mtu = 1400;
    desired.fdb[mac].flags = FL_FDB_LEARNED;
    CHECK(need(datapath.sync(desired)).total() == 3);
    CHECK(bench.row<fl_fdb>("fl_fdb", mac)->flags == FL_FDB_LEARNED);
    CHECK(bench.row<fl_fdb>("fl_fdb", mac)->last_use == 999);
    CHECK(bench.row<fl_next>("fl_dests", dest_key(1))->mtu == 1400);
    CHECK(bench.row<fl_next>("fl_dests", dest_key(1))->last_use == 1234);
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1))->next.mtu == 1400);
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1))->next.last_use == 4321);
}

TEST_CASE("a full map leaves out only what does not fit, and says so", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = need(Datapath::open(bench.options(XdpMode::kAuto, 4)));
    const auto full = datapath.sync(some_tables(6));
    REQUIRE_FALSE(full);
    CHECK(full.error().code == ExitCode::kTableFull);
    INFO(full.error().message());
    CHECK(full.error().what.find("full with 4 entries: 172.24.5.5 does not fit") != std::string::npos);

    const auto held = need(datapath.read_tables());
    CHECK(held.fip_in.size() == 4);
    CHECK(held.vms.size() == 6);  // they have room of their own: most VMs have no floating IP
    CHECK(held.dests.size() == 6);
    CHECK(held.sources.size() == 1);
    CHECK(held.fip_in.contains(fip_key(1)));

    // What fits together with removals of the same sync must not fail: all rows are exchanged.
    Tables others = some_tables(0);
    for (std::uint8_t i = 11; i <= 14; ++i) {
        others.dests[dest_key(i)] = next_to(i);
        others.fip_in[fip_key(i)] = fip_in_to(i);
        others.vms[{.port = 5, .fixed = {10, 0, 0, i}, .router_mac = {}, .pad = {}}] = vm_of(i);
    }
    const auto exchanged = datapath.sync(others);
    INFO((exchanged ? "" : exchanged.error().message()));
    REQUIRE(exchanged);
    CHECK(same_tables(need(datapath.read_tables()), others));
    CHECK(need(datapath.sync(others)).total() == 0);
}

TEST_CASE("a row in a full map is still rewritten in place", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = need(Datapath::open(bench.options(XdpMode::kAuto, 4)));
    Tables desired = some_tables(4);
    static_cast<void>(need(datapath.sync(desired)));
    desired.fip_in[fip_key(3)].next.hops = 9;
    CHECK(need(datapath.sync(desired)).total() == 1);
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(3))->next.hops == 9);
}

TEST_CASE("withdraw removes every row that translates an address, and nothing else", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = bench.open();
    Tables desired = some_tables(3);
    // A hairpin row: another floating IP's owner on the same router asks for 172.24.5.2.
    const fl_dest_key hairpin{.domain = 0xd0, .ip = {172, 24, 5, 2}};
    desired.dests[hairpin] = next_to(2);
    static_cast<void>(need(datapath.sync(desired)));

    need(datapath.withdraw({*Ipv4::parse("172.24.5.2")}));
    CHECK_FALSE(bench.row<fl_fip_in>("fl_fip_in", fip_key(2)));
    CHECK_FALSE(bench.row<fl_vm>("fl_vms", fl_vm_key{.port = 5, .fixed = {10, 0, 0, 2}, .router_mac = {}, .pad = {}}));
    CHECK_FALSE(bench.row<fl_next>("fl_dests", hairpin));
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1)));
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(3)));

    // By the fixed address as well.
    need(datapath.withdraw({*Ipv4::parse("10.0.0.3")}));
    CHECK_FALSE(bench.row<fl_fip_in>("fl_fip_in", fip_key(3)));
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1)));

    // The cache knows: the next sync brings everything back.
    CHECK(need(datapath.sync(desired)).total() > 0);
    CHECK(same_tables(need(datapath.read_tables()), desired));
}

TEST_CASE("fl_devs follows the rows that XDP may redirect by", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    auto datapath = bench.open();
    Tables desired = some_tables(1);
    desired.fip_in[fip_key(1)].next.out.ifindex = static_cast<__u32>(port);
    desired.fip_in[fip_key(1)].next.out.flags = FL_OUT_XDP;
    static_cast<void>(need(datapath.sync(desired)));
    const auto index = static_cast<__u32>(port);
    REQUIRE(bench.row<__u32>("fl_devs", index) == index);
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1))->next.out.flags == FL_OUT_XDP);

    SECTION("a row goes with its last user") {
        desired.fip_in[fip_key(1)].next.out.flags = 0;
        static_cast<void>(need(datapath.sync(desired)));
        CHECK_FALSE(bench.row<__u32>("fl_devs", index));
    }
    SECTION("the kernel drops the row of a vanished device; what points there is sent by tc") {
        DatapathBench::ip({"link", "del", "tap0"});
        CHECK_FALSE(bench.row<__u32>("fl_devs", index));
        static_cast<void>(need(datapath.sync(desired)));
        CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(1))->next.out.flags == 0);
    }
    SECTION("a row that was lost while its device stayed comes back") {
        const auto devices = bench.map("fl_devs");
        REQUIRE(bpf_map_delete_elem(devices.get(), &index) == 0);
        CHECK(need(datapath.sync(desired)).changes.at("fl_devs").written == 1);
        CHECK(bench.row<__u32>("fl_devs", index) == index);
    }
}

TEST_CASE("what somebody else removed is found out and put back", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = bench.open();
    const Tables desired = some_tables(3);
    static_cast<void>(need(datapath.sync(desired)));
    const auto fip_in = bench.map("fl_fip_in");
    for (const auto& key : {fip_key(1), fip_key(2)})
        REQUIRE(bpf_map_delete_elem(fip_in.get(), &key) == 0);

    // Removing a row that is gone is no error, but it shows that the maps were touched.
    Tables smaller = desired;
    smaller.fip_in.erase(fip_key(1));
    REQUIRE(datapath.sync(smaller));
    static_cast<void>(need(datapath.sync(smaller)));
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(2)));
    CHECK(same_tables(need(datapath.read_tables()), smaller));
}

TEST_CASE("tables larger than a read batch come back whole", "[datapath][sync]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    Tables desired = some_tables(1);
    for (std::uint32_t i = 0; i < 5000; ++i) {
        const auto high = static_cast<__u8>(i >> 8);
        const auto low = static_cast<__u8>(i);
        desired.dests[{.domain = 1, .ip = {10, 1, high, low}}] = next_to(low);
        desired.routes[{.prefixlen = 64, .domain = 2, .ip = {10, 2, high, low}}] = next_to(high);
    }
    static_cast<void>(need(bench.open().sync(desired)));
    auto successor = bench.open();
    CHECK(same_tables(need(successor.read_tables()), desired));
    CHECK(need(successor.sync(desired)).total() == 0);
}

TEST_CASE("counters are summed over CPUs and named for readers of the bare map", "[datapath][counters]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    auto datapath = bench.open();
    CHECK(need(datapath.read_counters()).empty());

    const auto cpus = static_cast<std::size_t>(libbpf_num_possible_cpus());
    const auto counters = bench.map("fl_counters");
    const __u32 index = __u32{FL_HOOK_TC_PORT} * __u32{FL_REASON_COUNT} + __u32{FL_REASON_FIP_OUT};
    std::vector<fl_counter> row(cpus);
    REQUIRE(bpf_map_lookup_elem(counters.get(), &index, row.data()) == 0);
    for (auto& value : row) {
        CHECK(value.hook == FL_HOOK_TC_PORT);
        CHECK(value.reason == FL_REASON_FIP_OUT);
        value.packets = 10;
        value.bytes = 1000;
    }
    REQUIRE(bpf_map_update_elem(counters.get(), &index, row.data(), 0) == 0);
    const auto check_sum = [cpus](const Datapath& reader) {
        const auto read = need(reader.read_counters());
        REQUIRE(read.size() == 1);
        CHECK(read[0].hook == FL_HOOK_TC_PORT);
        CHECK(read[0].reason == FL_REASON_FIP_OUT);
        CHECK(read[0].packets == 10 * cpus);
        CHECK(read[0].bytes == 1000 * cpus);
    };
    check_sum(datapath);
    check_sum(bench.open());
}

}  // namespace fiplane::test
