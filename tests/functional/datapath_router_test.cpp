// SPDX-License-Identifier: Apache-2.0
// tc_router at devices of routers' namespaces, in which indices repeat.
#include <bpf/libbpf.h>

#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "datapath/clsact.hpp"
#include "datapath/device_program.hpp"
#include "datapath/device_query.hpp"
#include "datapath/objects.hpp"
#include "datapath/pins.hpp"
#include "datapath/preflight.hpp"
#include "datapath/router_attacher.hpp"
#include "functional/datapath_bench.hpp"
#include "support/conntrack.hpp"
#include "support/no_descriptors.hpp"
#include "support/run_process.hpp"

namespace fiplane::test {
namespace {

constexpr int kIndex = 77;  ///< of the device in each namespace

/// Two routers of somebody else, each with one port of the same name and index.
struct Routers {
    DatapathBench bench;
    std::optional<ScratchNetns> first{"first"}, second{"second"};

    Routers() {
        load_conntrack_modules();
        make_device(*first);
        make_device(*second);
    }

    static void make_device(const ScratchNetns& router, const std::string& name = "qr-1", int index = kIndex) {
        const auto made = run_process_in(router.netns(), {"ip", "link", "add", name, "index", std::to_string(index),
                                                          "type", "veth", "peer", "name", name + "p"});
        INFO(made.err);
        REQUIRE(made.exit_status == 0);
    }
    static void delete_device(const ScratchNetns& router, const std::string& name = "qr-1") {
        REQUIRE(run_process_in(router.netns(), {"ip", "link", "del", name}).exit_status == 0);
    }

    [[nodiscard]] DatapathOptions options() const {
        auto out = bench.options();
        out.follows = true;
        return out;
    }
    [[nodiscard]] Datapath open() const { return need(Datapath::open(options())); }
    [[nodiscard]] RouterAttacher open_clsact() const {
        const PinPaths paths(bench.pin_dir());
        need(make_pin_directory(paths.maps()));
        auto loaded = need(load_objects(paths, 16, true));
        // Maps without a layout would be thrown away, and the pins with them.
        fl_config config{};
        config.layout = FL_ABI_LAYOUT;
        bench.put_row("fl_config", std::uint32_t{0}, config);
        return need(RouterAttacher::open(paths, std::move(loaded.programs[FL_HOOK_TC_ROUTER]), TcBackend::kClsact));
    }

    [[nodiscard]] static DeviceRole role(const ScratchNetns& router, const std::string& name = "qr-1",
                                         int index = kIndex) {
        return {index, name, DeviceRole::Kind::kRouter, false, {}, router.name(), 0x80000000U + 1};
    }
    [[nodiscard]] std::vector<DeviceRole> both() const { return {role(*first), role(*second)}; }

    [[nodiscard]] std::string directory(const std::string& netns = {}) const {
        return bench.pin_dir() + "/routers" + (netns.empty() ? "" : "/" + netns);
    }
    [[nodiscard]] std::string pin(const ScratchNetns& router, const std::string& name = "qr-1") const {
        return directory(router.name()) + "/" + name;
    }
    /// The program that all devices' programs call.
    [[nodiscard]] std::uint32_t tail() const { return bench.row<std::uint32_t>("fl_stages", std::uint32_t{0}).value(); }
};

bool exists(const std::string& path) {
    return access(path.c_str(), F_OK) == 0;
}

std::vector<std::uint32_t> programs_of(const ScratchNetns& router, int index = kIndex) {
    const auto inside = need(NetnsGuard::enter(router.netns()));
    return tc_programs(index);
}

std::vector<std::uint32_t> identity_of(const ScratchNetns& router, int index = kIndex) {
    const auto inside = need(NetnsGuard::enter(router.netns()));
    return tc_identity(index);
}

std::vector<FilterFacts> filters_of(const ScratchNetns& router, int index = kIndex) {
    const auto inside = need(NetnsGuard::enter(router.netns()));
    return need(need(DeviceQuery::open()).filters(index, false));
}

}  // namespace

TEST_CASE("routers' devices with the same index have a program each", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    auto datapath = routers.open();
    need(datapath.attach(routers.both()));
    CHECK(programs_of(*routers.first).size() == 1);
    CHECK(programs_of(*routers.second).size() == 1);
    CHECK(programs_of(*routers.first) != programs_of(*routers.second));
    REQUIRE(datapath.attachments().size() == 2);
    for (const auto& [attachment, router] : {std::pair(datapath.attachments()[0], &*routers.first),
                                             std::pair(datapath.attachments()[1], &*routers.second)}) {
        CHECK(attachment.netns == router->name());
        CHECK(attachment.device == "qr-1");
        CHECK(attachment.ifindex == kIndex);
        CHECK(attachment.hook == FL_HOOK_TC_ROUTER);
        CHECK(attachment.mode == tc_mode());
        CHECK(exists(routers.pin(*router)));
    }
    // Nothing is left of the thread's way through the namespaces: here is no such device.
    CHECK(tc_programs(kIndex).empty());

    SECTION("attach leaves exactly what was asked for") {
        const auto kept = identity_of(*routers.second);
        need(datapath.attach({Routers::role(*routers.second)}));
        CHECK(programs_of(*routers.first).empty());
        CHECK(identity_of(*routers.second) == kept);
        CHECK_FALSE(exists(routers.directory(routers.first->name())));
        CHECK(datapath.attachments().size() == 1);
    }
    SECTION("what is in a namespace that cannot be read stays, whatever was asked for") {
        const auto kept = identity_of(*routers.first);
        need(datapath.attach({Routers::role(*routers.second)}, {routers.first->name()}));
        CHECK(identity_of(*routers.first) == kept);
        CHECK(datapath.attachments().size() == 1);
        auto next = routers.open();
        need(next.attach({}, {routers.first->name()}));
        CHECK(identity_of(*routers.first) == kept);
        CHECK(programs_of(*routers.second).empty());
        need(next.attach({}));
        CHECK(programs_of(*routers.first).empty());
    }
    SECTION("detach leaves none, and the maps") {
        need(datapath.detach());
        CHECK(programs_of(*routers.first).empty());
        CHECK(programs_of(*routers.second).empty());
        CHECK(datapath.attachments().empty());
        CHECK(need(list_pins(routers.directory())).empty());
        CHECK(routers.bench.map_id("fl_flows") != 0);
    }
    SECTION("remove_pins leaves nothing") {
        need(Datapath::remove_pins(routers.bench.pin_dir()));
        CHECK(programs_of(*routers.first).empty());
        CHECK(programs_of(*routers.second).empty());
        CHECK_FALSE(exists(routers.bench.pin_dir()));
    }
}

TEST_CASE("a second open takes over routers' devices, and all of them run its program", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    {
        auto first = routers.open();
        need(first.attach(routers.both()));
    }
    const auto of_first = identity_of(*routers.first);
    const auto of_second = identity_of(*routers.second);
    REQUIRE(of_first.size() == 1);
    const auto tail = routers.tail();
    REQUIRE(tail != 0);
    auto second = routers.open();
    CHECK(routers.tail() != tail);
    need(second.attach(routers.both()));
    CHECK(identity_of(*routers.first) == of_first);
    CHECK(identity_of(*routers.second) == of_second);
    CHECK(second.attachments().at(1).mode == tc_mode());
    need(second.attach({}));
    CHECK(programs_of(*routers.first).empty());
    CHECK(programs_of(*routers.second).empty());
}

TEST_CASE("a refused device of a router keeps its program, and gets none if it has none", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    auto datapath = routers.open();
    need(datapath.attach({Routers::role(*routers.first)}));
    const auto kept = identity_of(*routers.first);
    auto roles = routers.both();
    for (auto& role : roles)
        role.refused = "qr-1 has a foreign program";
    need(datapath.attach(roles));
    CHECK(identity_of(*routers.first) == kept);
    CHECK(programs_of(*routers.second).empty());
    REQUIRE(datapath.attachments().size() == 2);
    CHECK(datapath.attachments()[0].mode == tc_mode());
    CHECK(datapath.attachments()[0].why == "qr-1 has a foreign program");
    CHECK(datapath.attachments()[1].mode == "none");
    CHECK(datapath.attachments()[1].why == "qr-1 has a foreign program");
    CHECK_FALSE(exists(routers.directory(routers.second->name())));
}

TEST_CASE("a router's device that gets no program is told of, and gets one later", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    auto datapath = routers.open();
    need(datapath.attach({Routers::role(*routers.first)}));
    {
        const NoDescriptors none;
        CHECK_FALSE(datapath.attach(routers.both()));
    }
    REQUIRE(datapath.attachments().size() == 2);
    CHECK(datapath.attachments()[1].mode == "none");
    CHECK_FALSE(datapath.attachments()[1].why.empty());
    CHECK(programs_of(*routers.second).empty());
    need(datapath.attach(routers.both()));
    CHECK(datapath.attachments()[1].mode == tc_mode());
    CHECK(programs_of(*routers.first).size() == 1);
    CHECK(programs_of(*routers.second).size() == 1);
}

TEST_CASE("a router's device that goes takes its pin along, and may come back", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    auto datapath = routers.open();
    need(datapath.attach(routers.both()));
    Routers::delete_device(*routers.first);
    SECTION("no longer asked for") {
        need(datapath.attach({Routers::role(*routers.second)}));
        CHECK_FALSE(exists(routers.directory(routers.first->name())));
    }
    SECTION("still asked for: no error, and nothing to report") {
        need(datapath.attach(routers.both()));
        REQUIRE(datapath.attachments().size() == 1);
        CHECK(datapath.attachments()[0].netns == routers.second->name());
        CHECK_FALSE(exists(routers.pin(*routers.first)));
    }
    SECTION("found by a successor") {
        auto successor = routers.open();
        CHECK_FALSE(exists(routers.directory(routers.first->name())));
    }
    SECTION("made again before anybody looked") {}
    Routers::make_device(*routers.first);
    REQUIRE(programs_of(*routers.first).empty());
    need(datapath.attach(routers.both()));
    CHECK(programs_of(*routers.first).size() == 1);
    CHECK(exists(routers.pin(*routers.first)));
    CHECK(programs_of(*routers.second).size() == 1);
}

TEST_CASE("a namespace that cannot be entered keeps its programs", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    const bool clsact = GENERATE(false, true);
    std::optional<Datapath> datapath;
    std::optional<RouterAttacher> attacher;
    if (clsact) {
        attacher = routers.open_clsact();
    } else {
        datapath = routers.open();
    }
    const auto attach = [&] { return clsact ? attacher->attach(routers.both()) : datapath->attach(routers.both()); };
    need(attach());
    const auto programs = [&](const ScratchNetns& router) {
        return clsact ? filters_of(router).size() : programs_of(router).size();
    };
    REQUIRE(programs(*routers.first) == 1);
    {
        const NoDescriptors none;
        CHECK(attach());
    }
    CHECK(programs(*routers.first) == 1);
    CHECK(programs(*routers.second) == 1);
    CHECK(exists(routers.pin(*routers.first)));
}

TEST_CASE("a router's namespace that goes takes its pins along", "[datapath][router]") {
    REQUIRE_ROOT();
    Routers routers;
    Routers::make_device(*routers.first, "qg-1", kIndex + 10);
    auto roles = routers.both();
    roles.push_back(Routers::role(*routers.first, "qg-1", kIndex + 10));
    auto datapath = routers.open();
    need(datapath.attach(roles));
    const std::string gone = routers.directory(routers.first->name());
    REQUIRE(need(list_pins(gone)).size() == 2);
    routers.first.reset();
    SECTION("no longer asked for") {
        need(datapath.attach({Routers::role(*routers.second)}));
    }
    SECTION("still asked for: no error, and nothing to report") {
        need(datapath.attach(roles));
        REQUIRE(datapath.attachments().size() == 1);
        CHECK(datapath.attachments()[0].netns == routers.second->name());
        CHECK(datapath.attachments()[0].mode == tc_mode());
    }
    SECTION("detach") {
        need(datapath.detach());
        CHECK(programs_of(*routers.second).empty());
        CHECK_FALSE(exists(gone));
        return;
    }
    SECTION("remove_pins") {
        need(Datapath::remove_pins(routers.bench.pin_dir()));
        CHECK(programs_of(*routers.second).empty());
        CHECK_FALSE(exists(routers.bench.pin_dir()));
        return;
    }
    CHECK_FALSE(exists(gone));
    CHECK(programs_of(*routers.second).size() == 1);
}

TEST_CASE("a namespace that lives on without its name is not the one that has it", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    const NetnsName name = "flt-again";
    const auto make = [&] {
        Netns made = need(Netns::create(name));
        const auto device = run_process_in(made, {"ip", "link", "add", "qr-1", "index", std::to_string(kIndex), "type",
                                                  "veth", "peer", "name", "qr-1p"});
        REQUIRE(device.exit_status == 0);
        return made;
    };
    const std::vector<DeviceRole> roles{{kIndex, "qr-1", DeviceRole::Kind::kRouter, false, {}, name, 0x80000001U}};
    const auto programs = [](const Netns& netns) {
        const auto inside = need(NetnsGuard::enter(netns));
        return tc_programs(kIndex);
    };
    auto datapath = routers.open();
    const Netns old = make();
    need(datapath.attach(roles));
    need(Netns::remove(name));
    const Netns fresh = make();
    need(datapath.attach(roles));
    CHECK(programs(fresh).size() == 1);
    CHECK(datapath.attachments().at(0).mode == tc_mode());
    need(datapath.detach());
    CHECK(programs(fresh).empty());
    need(Netns::remove(name));
}

TEST_CASE("a node is either ours or another's", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    SECTION("an agent that followed has left programs") {
        {
            auto datapath = routers.open();
            need(datapath.attach(routers.both()));
        }
        const auto kept = identity_of(*routers.first);
        const auto refused = Datapath::open(routers.bench.options());
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ExitCode::kForeignObject);
        CHECK(refused.error().message().find(routers.directory()) != std::string::npos);
        CHECK(identity_of(*routers.first) == kept);
        need(routers.open().detach());
        CHECK(Datapath::open(routers.bench.options()));
    }
    SECTION("an agent with a topology has left programs") {
        const int port = DatapathBench::veth("tap0");
        {
            auto datapath = routers.bench.open();
            need(datapath.attach({{port, "tap0", DeviceRole::Kind::kPort, false, {}}}));
        }
        const auto kept = tc_identity(port);
        const auto refused = Datapath::open(routers.options());
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ExitCode::kForeignObject);
        CHECK(refused.error().message().find(routers.bench.pin_dir() + "/links") != std::string::npos);
        CHECK(tc_identity(port) == kept);
        need(routers.bench.open().detach());
        CHECK(Datapath::open(routers.options()));
    }
}

TEST_CASE("a start that fails leaves nothing pinned, and what was pinned stays", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    const auto is_pinned = [&] { return exists(routers.bench.pin_dir() + "/maps/fl_config"); };
    std::size_t failed = 0;
    for (unsigned spare = 4; spare < 32; spare += 4) {
        const NoDescriptors few(spare);
        failed += Datapath::open(routers.options()).has_value() ? 0 : 1;
        INFO(spare);
        CHECK_FALSE(is_pinned());
    }
    CHECK(failed == 7);
    {
        const auto datapath = routers.open();
    }
    CHECK(is_pinned());
    {
        const NoDescriptors few(24);
        CHECK_FALSE(Datapath::open(routers.options()));
    }
    CHECK(is_pinned());
}

TEST_CASE("our program at a router's device is no foreign one, others' are", "[datapath][router]") {
    REQUIRE_ROOT();
    const Routers routers;
    const bool clsact = !has_tcx() || GENERATE(true, false);
    std::optional<Datapath> datapath;
    std::optional<RouterAttacher> attacher;
    if (clsact) {
        attacher = routers.open_clsact();
        need(attacher->attach(routers.both()));
    } else {
        datapath = routers.open();
        need(datapath->attach(routers.both()));
    }
    const auto inside = need(NetnsGuard::enter(routers.first->netns()));
    CHECK(programs_here(kIndex).empty());
    const auto other = other_program(BPF_PROG_TYPE_SCHED_CLS, "their_tc", -1);
    LIBBPF_OPTS(bpf_tc_hook, hook);
    hook.ifindex = kIndex;
    hook.attach_point = BPF_TC_INGRESS;
    const int made = bpf_tc_hook_create(&hook);
    REQUIRE((made == 0 || made == -EEXIST));
    LIBBPF_OPTS(bpf_tc_opts, filter);
    filter.prog_fd = other.get();
    filter.handle = 1;
    filter.priority = 7;
    REQUIRE(bpf_tc_attach(&hook, &filter) == 0);
    CHECK(programs_here(kIndex) ==
          std::vector{"clsact ingress prog " + std::to_string(program_id(other)) + " their_tc"});
}

TEST_CASE("routers' devices by clsact, which a kernel with tcx never chooses", "[datapath][router][clsact]") {
    REQUIRE_ROOT();
    Routers routers;
    {
        auto first = routers.open_clsact();
        need(first.attach(routers.both()));
        REQUIRE(first.attachments().size() == 2);
        CHECK(first.attachments()[1].mode == "clsact");
        CHECK(first.attachments()[1].netns == routers.second->name());
    }
    REQUIRE(filters_of(*routers.first).size() == 1);
    REQUIRE(filters_of(*routers.second).size() == 1);
    CHECK(is_our_filter(filters_of(*routers.first)[0]));
    {
        // What Neutron's QoS extensions do to limit what comes in (neutron/agent/linux/l3_tc_lib.py).
        const auto inside = need(NetnsGuard::enter(routers.first->netns()));
        CHECK(run_process({"tc", "qdisc", "replace", "dev", "qr-1", "ingress"}).exit_status == 0);
        CHECK_THAT(run_process({"tc", "qdisc", "show", "dev", "qr-1"}).out,
                   Catch::Matchers::ContainsSubstring("qdisc ingress ffff:"));
    }
    CHECK(filters_of(*routers.first).size() == 1);
    const auto kept = filters_of(*routers.second)[0].program_id;
    CHECK(kept != filters_of(*routers.first)[0].program_id);
    CHECK(exists(routers.pin(*routers.first)));

    const auto tail = routers.tail();
    auto second = routers.open_clsact();
    CHECK(routers.tail() != tail);
    need(second.attach({Routers::role(*routers.second)}));
    CHECK(filters_of(*routers.first).empty());
    CHECK_FALSE(exists(routers.directory(routers.first->name())));
    REQUIRE(filters_of(*routers.second).size() == 1);
    CHECK(filters_of(*routers.second)[0].program_id == kept);

    SECTION("a refused device keeps its filter") {
        auto roles = routers.both();
        for (auto& role : roles)
            role.refused = "qr-1 has a foreign program";
        need(second.attach(roles));
        CHECK(filters_of(*routers.first).empty());
        CHECK(filters_of(*routers.second).size() == 1);
        CHECK(second.attachments().at(0).mode == "none");
        CHECK(second.attachments().at(1).mode == "clsact");
    }
    SECTION("a filter that went with its device is made again") {
        Routers::delete_device(*routers.second);
        Routers::make_device(*routers.second);
        REQUIRE(filters_of(*routers.second).empty());
        need(second.attach({Routers::role(*routers.second)}));
        CHECK(filters_of(*routers.second).size() == 1);
    }
    SECTION("detach_all") {
        need(second.detach_all());
        CHECK(filters_of(*routers.second).empty());
        CHECK_FALSE(exists(routers.pin(*routers.second)));
    }
    SECTION("remove_pins knows filters by their pins alone") {
        need(Datapath::remove_pins(routers.bench.pin_dir()));
        CHECK(filters_of(*routers.second).empty());
        CHECK_FALSE(exists(routers.bench.pin_dir()));
    }
    SECTION("a namespace that is gone") {
        const std::string gone = routers.directory(routers.second->name());
        routers.second.reset();
        need(second.attach({}));
        CHECK_FALSE(exists(gone));
    }
}

}  // namespace fiplane::test
