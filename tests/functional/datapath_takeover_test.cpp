// SPDX-License-Identifier: Apache-2.0
// A second process after a first: what is kept, what is replaced, what is thrown away.
#include <catch2/generators/catch_generators.hpp>

#include "functional/datapath_bench.hpp"

namespace fiplane::test {
namespace {

std::vector<DeviceRole> port_role(int ifindex, const std::string& name) {
    return {DeviceRole{ifindex, name, DeviceRole::Kind::kPort, false, {}}};
}

}  // namespace

TEST_CASE("a second open takes over maps and links, and writes nothing", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    const Tables desired = some_tables(3);
    std::vector<std::uint32_t> programs;
    std::vector<std::uint32_t> links;
    {
        auto first = bench.open();
        static_cast<void>(need(first.sync(desired)));
        need(first.attach(port_role(port, "tap0")));
        programs = tc_programs(port);
        links = tc_identity(port);
        REQUIRE(programs.size() == 1);
    }
    CHECK(tc_programs(port) == programs);
    const auto map_id = bench.map_id("fl_fip_in");
    fl_next used = *bench.row<fl_next>("fl_dests", dest_key(1));
    used.last_use = 55;
    bench.put_row("fl_dests", dest_key(1), used);

    auto second = bench.open();
    CHECK(bench.map_id("fl_fip_in") == map_id);
    CHECK(need(second.sync(desired)).total() == 0);
    CHECK(need(second.last_use(dest_key(1))) == 55);
    // The same program needs no replacement, and its link was never let go.
    need(second.attach(port_role(port, "tap0")));
    if (has_tcx()) {
        CHECK(tc_programs(port) == programs);
        CHECK(tc_identity(port) == links);
    } else {
        CHECK(tc_programs(port).size() == 1);
    }
    CHECK(second.attachments().at(0).mode == tc_mode());
}

TEST_CASE("a link with another program gets ours without being let go", "[datapath][takeover]") {
    REQUIRE_ROOT();
    if (!has_tcx()) SKIP("tc has no links before Linux 6.6");
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    {
        auto first = bench.open();
        need(first.attach(port_role(port, "tap0")));
    }
    const auto links = tc_identity(port);
    REQUIRE(links.size() == 1);
    // An older version's program, in the same link.
    const auto old = other_program(BPF_PROG_TYPE_SCHED_CLS, "tc_port", -1);
    REQUIRE(old);
    {
        const UniqueFd link(bpf_obj_get((bench.pin_dir() + "/links/tc_port-" + std::to_string(port)).c_str()));
        REQUIRE(link);
        REQUIRE(bpf_link_update(link.get(), old.get(), nullptr) == 0);
    }
    REQUIRE(tc_programs(port) == std::vector{program_id(old)});

    auto second = bench.open();
    need(second.attach(port_role(port, "tap0")));
    CHECK(tc_identity(port) == links);
    REQUIRE(tc_programs(port).size() == 1);
    CHECK(tc_programs(port) != std::vector{program_id(old)});
}

TEST_CASE("another layout number throws maps and links away", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    {
        auto first = bench.open();
        static_cast<void>(need(first.sync(some_tables(3))));
        need(first.attach(port_role(port, "tap0")));
    }
    const auto map_id = bench.map_id("fl_fip_in");
    fl_config config = *bench.row<fl_config>("fl_config", __u32{0});
    const auto layout = GENERATE(__u32{FL_ABI_LAYOUT + 1}, __u32{0});
    config.layout = layout;
    bench.put_row("fl_config", __u32{0}, config);

    auto second = bench.open();
    CHECK(bench.map_id("fl_fip_in") != map_id);
    CHECK(need(second.read_tables()).fip_in.empty());
    CHECK(bench.row<fl_config>("fl_config", __u32{0})->layout == FL_ABI_LAYOUT);
    CHECK(tc_programs(port).empty());
    // All of it works afterwards.
    static_cast<void>(need(second.sync(some_tables(2))));
    need(second.attach(port_role(port, "tap0")));
    CHECK(tc_programs(port).size() == 1);
}

TEST_CASE("a pinned map of another definition throws all maps away", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    static_cast<void>(need(bench.open().sync(some_tables(3))));
    const auto map_id = bench.map_id("fl_fip_in");
    const std::string path = bench.pin_dir() + "/maps/fl_fdb";
    REQUIRE(unlink(path.c_str()) == 0);
    const UniqueFd odd(
        bpf_map_create(BPF_MAP_TYPE_HASH, "fl_fdb", sizeof(fl_fdb_key), sizeof(fl_fdb) + 8, 16, nullptr));
    REQUIRE(odd);
    REQUIRE(bpf_obj_pin(odd.get(), path.c_str()) == 0);

    auto second = bench.open();
    CHECK(bench.map_id("fl_fip_in") != map_id);
    static_cast<void>(need(second.sync(some_tables(3))));
    CHECK(same_tables(need(second.read_tables()), some_tables(3)));
}

TEST_CASE("a map that is missing among the pins is made again beside the others", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    static_cast<void>(need(bench.open().sync(some_tables(3))));
    const auto map_id = bench.map_id("fl_fip_in");
    REQUIRE(unlink((bench.pin_dir() + "/maps/fl_dests").c_str()) == 0);
    auto second = bench.open();
    CHECK(bench.map_id("fl_fip_in") == map_id);
    CHECK(need(second.sync(some_tables(3))).changes.at("fl_dests").written == 3);
}

TEST_CASE("maps keep their size when the limit changes", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    {
        auto first = need(Datapath::open(bench.options(XdpMode::kAuto, 8)));
        static_cast<void>(need(first.sync(some_tables(3))));
    }
    auto second = need(Datapath::open(bench.options(XdpMode::kAuto, 16)));
    CHECK(need(second.sync(some_tables(3))).total() == 0);
    const auto too_many = second.sync(some_tables(9));
    REQUIRE_FALSE(too_many);
    CHECK(too_many.error().what.find("full with 8 entries") != std::string::npos);
}

TEST_CASE("remove_pins leaves nothing behind, with and without an open datapath", "[datapath][takeover]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    auto open = std::optional<Datapath>(bench.open());
    need(open->attach(port_role(port, "tap0")));
    REQUIRE(tc_programs(port).size() == 1);
    if (GENERATE(false, true)) open.reset();

    need(Datapath::remove_pins(bench.pin_dir()));
    CHECK(tc_programs(port).empty());
    CHECK(access(bench.pin_dir().c_str(), F_OK) != 0);
    // Nothing to remove is no error.
    need(Datapath::remove_pins(bench.pin_dir()));
}

TEST_CASE("without a BPF file system the error says how to mount one", "[datapath][open]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const std::string directory = "/tmp/fl-no-bpffs-" + std::to_string(getpid()) + "/fiplane";
    const auto refused = Datapath::open({directory, XdpMode::kAuto, 16});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kMissingFeature);
    CHECK(refused.error().hint == "mount -t bpf bpf /sys/fs/bpf");
    // Nothing was made on the way.
    CHECK(access(("/tmp/fl-no-bpffs-" + std::to_string(getpid())).c_str(), F_OK) != 0);
}

}  // namespace fiplane::test
