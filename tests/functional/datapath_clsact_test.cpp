// SPDX-License-Identifier: Apache-2.0
// tc programs on kernels without tcx. A kernel with tcx never chooses this way, so the Attacher is made by hand.
#include <bpf/libbpf.h>

#include "datapath/attacher.hpp"
#include "datapath/clsact.hpp"
#include "datapath/objects.hpp"
#include "datapath/preflight.hpp"
#include "functional/datapath_bench.hpp"

namespace fiplane::test {
namespace {

Attacher open_clsact(const DatapathBench& bench) {
    const PinPaths paths(bench.pin_dir());
    need(make_pin_directory(paths.maps()));
    auto loaded = need(load_objects(paths, 16, false));
    return need(Attacher::open(paths, std::move(loaded.programs), XdpMode::kOff, TcBackend::kClsact));
}

std::vector<FilterFacts> filters(int ifindex, bool egress = false) {
    return need(need(DeviceQuery::open()).filters(ifindex, egress));
}

DeviceRole port_role(int ifindex, const std::string& name) {
    return {ifindex, name, DeviceRole::Kind::kPort, false, {}};
}

}  // namespace

TEST_CASE("a clsact filter of ours is found, replaced in place, and removed alone", "[datapath][clsact]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    const HookPoint ingress{FL_HOOK_TC_PORT, port};
    const HookPoint egress{FL_HOOK_TC_HOST, port};
    const auto ours = other_program(BPF_PROG_TYPE_SCHED_CLS, "tc_port", -1);
    const auto newer = other_program(BPF_PROG_TYPE_SCHED_CLS, "tc_port", -1);
    const auto host = other_program(BPF_PROG_TYPE_SCHED_CLS, "tc_host", -1);
    CHECK(filters(port).empty());
    need(clsact_detach(ingress));

    need(clsact_attach(ingress, ours.get()));
    need(clsact_attach(egress, host.get()));
    REQUIRE(filters(port).size() == 1);
    CHECK(filters(port)[0].program_id == program_id(ours));
    CHECK(is_our_filter(filters(port)[0]));
    need(clsact_attach(ingress, newer.get()));
    REQUIRE(filters(port).size() == 1);
    CHECK(filters(port)[0].program_id == program_id(newer));

    // Ours are no foreign programs; others are.
    auto datapath = bench.open();
    CHECK(datapath.foreign_programs(port).empty());
    const auto theirs = other_program(BPF_PROG_TYPE_SCHED_CLS, "their_tc", -1);
    bpf_tc_hook hook{};
    hook.sz = sizeof(hook);
    hook.ifindex = port;
    hook.attach_point = BPF_TC_INGRESS;
    bpf_tc_opts options{};
    options.sz = sizeof(options);
    options.prog_fd = theirs.get();
    options.handle = 1;
    options.priority = 1;
    REQUIRE(bpf_tc_attach(&hook, &options) == 0);
    CHECK(datapath.foreign_programs(port) ==
          std::vector{"clsact ingress prog " + std::to_string(program_id(theirs)) + " their_tc"});

    need(clsact_detach(ingress));
    REQUIRE(filters(port).size() == 1);
    CHECK(filters(port)[0].program_id == program_id(theirs));
    CHECK(filters(port, true).size() == 1);
    need(clsact_detach(egress));
    CHECK(filters(port, true).empty());
    DatapathBench::ip({"link", "del", "tap0"});
    need(clsact_detach(ingress));
}

TEST_CASE("an attacher by clsact finds what an earlier one left, and leaves nothing itself", "[datapath][clsact]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    const int other = DatapathBench::veth("tap1");
    const std::string pin = bench.pin_dir() + "/links/tc_port-" + std::to_string(port);
    std::uint32_t first_program = 0;
    {
        auto first = open_clsact(bench);
        need(first.attach({port_role(port, "tap0"), port_role(other, "tap1")}));
        CHECK(first.attachments().at(0).mode == "clsact");
        REQUIRE(filters(port).size() == 1);
        first_program = filters(port)[0].program_id;
        // Asked again, it does nothing.
        need(first.attach({port_role(port, "tap0"), port_role(other, "tap1")}));
        CHECK(filters(port).at(0).program_id == first_program);
    }
    CHECK(filters(port).size() == 1);
    CHECK(access(pin.c_str(), F_OK) == 0);

    auto second = open_clsact(bench);
    need(second.attach({port_role(port, "tap0")}));
    REQUIRE(filters(port).size() == 1);
    CHECK(filters(port)[0].program_id != first_program);
    CHECK(filters(other).empty());
    CHECK(second.foreign_programs(port).empty());
    // The pin holds the program that runs, so that the old one and its maps are free.
    const UniqueFd pinned(bpf_obj_get(pin.c_str()));
    CHECK(program_id(pinned) == filters(port)[0].program_id);

    SECTION("a filter that went with its device is made again") {
        DatapathBench::ip({"link", "del", "tap0"});
        DatapathBench::ip(
            {"link", "add", "tap0", "index", std::to_string(port), "type", "veth", "peer", "name", "tap0p"});
        REQUIRE(filters(port).empty());
        need(second.attach({port_role(port, "tap0")}));
        CHECK(filters(port).size() == 1);
    }
    SECTION("detach_all") {
        need(second.detach_all());
        CHECK(filters(port).empty());
        CHECK(access(pin.c_str(), F_OK) != 0);
    }
    SECTION("remove_pins knows filters by their pins alone") {
        need(Datapath::remove_pins(bench.pin_dir()));
        CHECK(filters(port).empty());
        CHECK(access(bench.pin_dir().c_str(), F_OK) != 0);
    }
}

}  // namespace fiplane::test
