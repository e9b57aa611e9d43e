// SPDX-License-Identifier: Apache-2.0
// Programs at devices: XDP and tc, by tcx or (before Linux 6.6) clsact.
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <signal.h>
#include <sys/wait.h>

#include "functional/datapath_bench.hpp"

namespace fiplane::test {
namespace {

DeviceRole role(DeviceRole::Kind kind, int ifindex, const std::string& name, bool wire_to_wire = false) {
    return {ifindex, name, kind, wire_to_wire, {}};
}

const Attachment& attachment(const Datapath& datapath, fl_hook hook) {
    for (const auto& item : datapath.attachments()) {
        if (item.hook == hook) return item;
    }
    throw std::runtime_error("no such attachment");
}

/// Somebody else's program at the egress hook, in the way that this kernel has; a link that must be kept, or none.
UniqueFd attach_egress(const UniqueFd& program, int ifindex) {
    if (has_tcx()) {
        UniqueFd link(bpf_link_create(program.get(), ifindex, BPF_TCX_EGRESS, nullptr));
        REQUIRE(link);
        return link;
    }
    LIBBPF_OPTS(bpf_tc_hook, hook);
    hook.ifindex = ifindex;
    hook.attach_point = BPF_TC_EGRESS;
    const int made = bpf_tc_hook_create(&hook);
    REQUIRE((made == 0 || made == -EEXIST));
    LIBBPF_OPTS(bpf_tc_opts, options);
    options.prog_fd = program.get();
    REQUIRE(bpf_tc_attach(&hook, &options) == 0);
    return {};
}

}  // namespace

TEST_CASE("each role gets its programs, and attach leaves exactly what was asked for", "[datapath][attach]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int underlay = DatapathBench::veth("eth0");
    const int tunnel = DatapathBench::veth("vxlan0");
    const int port = DatapathBench::veth("tap0");
    const int host = DatapathBench::veth("br0");
    auto datapath = bench.open(XdpMode::kOff);
    using Kind = DeviceRole::Kind;
    need(datapath.attach({role(Kind::kUnderlay, underlay, "eth0"), role(Kind::kTunnel, tunnel, "vxlan0"),
                          role(Kind::kPort, port, "tap0"), role(Kind::kHost, host, "br0")}));
    CHECK(tc_programs(underlay).size() == 1);
    CHECK(tc_programs(tunnel).size() == 1);
    CHECK(tc_programs(port).size() == 1);
    CHECK(tc_programs(host).empty());
    CHECK(tc_programs(host, TcHook::kEgress).size() == 1);
    CHECK(datapath.attachments().size() == 5);
    CHECK(attachment(datapath, FL_HOOK_TC_HOST).mode == tc_mode());
    CHECK(attachment(datapath, FL_HOOK_TC_HOST).device == "br0");
    CHECK(attachment(datapath, FL_HOOK_XDP_UNDERLAY).mode == "none");
    CHECK(attachment(datapath, FL_HOOK_XDP_UNDERLAY).why == "switched off");

    const auto kept = tc_identity(port);
    auto refused = role(Kind::kTunnel, tunnel, "vxlan0");
    refused.refused = "tcx ingress prog 9 other";
    need(datapath.attach({role(Kind::kPort, port, "tap0"), refused}));
    CHECK(tc_identity(port) == kept);
    CHECK(tc_programs(underlay).empty());
    CHECK(tc_programs(tunnel).empty());
    CHECK(tc_programs(host, TcHook::kEgress).empty());
    CHECK(attachment(datapath, FL_HOOK_TC_TUNNEL).mode == "none");
    CHECK(attachment(datapath, FL_HOOK_TC_TUNNEL).why == "tcx ingress prog 9 other");

    need(datapath.detach());
    CHECK(tc_programs(port).empty());
    CHECK(datapath.attachments().empty());
    CHECK(bench.map_id("fl_config") != 0);
}

TEST_CASE("XDP on a veth: native, generic, and what auto chooses", "[datapath][attach][xdp]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int underlay = DatapathBench::veth("eth0");
    const auto end_node = role(DeviceRole::Kind::kUnderlay, underlay, "eth0", false);
    const auto hub = role(DeviceRole::Kind::kUnderlay, underlay, "eth0", true);
    const auto xdp = [](const Datapath& datapath) { return attachment(datapath, FL_HOOK_XDP_UNDERLAY).mode; };

    SECTION("native") {
        auto datapath = bench.open(XdpMode::kNative);
        need(datapath.attach({end_node}));
        CHECK(xdp(datapath) == "xdp native");
        CHECK(xdp_shown("eth0") == "xdp");
    }
    SECTION("generic") {
        auto datapath = bench.open(XdpMode::kGeneric);
        need(datapath.attach({end_node}));
        CHECK(xdp(datapath) == "xdp generic");
        CHECK(xdp_shown("eth0") == "xdpgeneric");
    }
    SECTION("auto: none where nothing goes from wire to wire, with the reason") {
        auto datapath = bench.open(XdpMode::kAuto);
        need(datapath.attach({end_node}));
        CHECK(xdp(datapath) == "none");
        CHECK(xdp_shown("eth0").empty());
        CHECK(attachment(datapath, FL_HOOK_XDP_UNDERLAY).why.find("GSO") != std::string::npos);
        CHECK(attachment(datapath, FL_HOOK_TC_UNDERLAY).mode == tc_mode());
        // The node becomes a hub, and ceases to be one.
        need(datapath.attach({hub}));
        CHECK(xdp(datapath) == "xdp native");
        CHECK(xdp_shown("eth0") == "xdp");
        need(datapath.attach({end_node}));
        CHECK(xdp_shown("eth0").empty());
    }
    SECTION("a successor with another mode exchanges it") {
        need(bench.open(XdpMode::kNative).attach({end_node}));
        CHECK(xdp_shown("eth0") == "xdp");
        auto second = bench.open(XdpMode::kGeneric);
        need(second.attach({end_node}));
        CHECK(xdp_shown("eth0") == "xdpgeneric");
    }
    SECTION("a successor with the same mode keeps it") {
        need(bench.open(XdpMode::kNative).attach({end_node}));
        const auto before = run_process({"ip", "-o", "link", "show", "eth0"}).out;
        auto second = bench.open(XdpMode::kNative);
        need(second.attach({end_node}));
        CHECK(xdp(second) == "xdp native");
        CHECK(run_process({"ip", "-o", "link", "show", "eth0"}).out == before);
    }
}

TEST_CASE("a device without native XDP: none in auto mode, an error if forced", "[datapath][attach][xdp]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    DatapathBench::ip({"link", "add", "br0", "type", "bridge"});
    const int bridge = DatapathBench::index_of("br0");
    const auto device = role(DeviceRole::Kind::kUnderlay, bridge, "br0", true);
    {
        auto datapath = bench.open(XdpMode::kAuto);
        need(datapath.attach({device}));
        CHECK(attachment(datapath, FL_HOOK_XDP_UNDERLAY).mode == "none");
        CHECK(attachment(datapath, FL_HOOK_XDP_UNDERLAY).why == "the driver has no native XDP");
    }
    auto forced = bench.open(XdpMode::kNative);
    const auto refused = forced.attach({device});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kMissingFeature);
    CHECK(refused.error().message().find("br0: the driver has no native XDP") != std::string::npos);
    CHECK(attachment(forced, FL_HOOK_XDP_UNDERLAY).mode == "none");
    CHECK(attachment(forced, FL_HOOK_XDP_UNDERLAY).why == "the driver has no native XDP");
    // The rest of the device's programs came nevertheless.
    CHECK(tc_programs(bridge).size() == 1);
}

TEST_CASE("programs of others are named, ours are not, and a foreign XDP program stays", "[datapath][attach]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int underlay = DatapathBench::veth("eth0");
    const int idle = DatapathBench::veth("idle");
    auto datapath = bench.open(XdpMode::kNative);
    need(datapath.attach({role(DeviceRole::Kind::kUnderlay, underlay, "eth0")}));
    CHECK(datapath.foreign_programs(underlay).empty());
    CHECK(bench.open(XdpMode::kNative).foreign_programs(underlay).empty());
    CHECK(datapath.foreign_programs(idle).empty());

    const auto other_tc = other_program(BPF_PROG_TYPE_SCHED_CLS, "their_tc", -1);
    const UniqueFd tc_link = attach_egress(other_tc, underlay);
    CHECK(datapath.foreign_programs(underlay) ==
          std::vector{tc_mode() + " egress prog " + std::to_string(program_id(other_tc)) + " their_tc"});

    need(datapath.detach());
    const auto other_xdp = other_program(BPF_PROG_TYPE_XDP, "their_xdp", 2);
    bpf_link_create_opts options{};
    options.sz = sizeof(options);
    options.flags = XDP_FLAGS_DRV_MODE;
    const UniqueFd xdp_link(bpf_link_create(other_xdp.get(), idle, BPF_XDP, &options));
    REQUIRE(xdp_link);
    const auto phrase = "xdp native prog " + std::to_string(program_id(other_xdp)) + " their_xdp";
    CHECK(datapath.foreign_programs(idle) == std::vector{phrase});
    const auto refused = datapath.attach({role(DeviceRole::Kind::kUnderlay, idle, "idle")});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ExitCode::kMissingFeature);
    CHECK(attachment(datapath, FL_HOOK_TC_UNDERLAY).mode == tc_mode());
    CHECK(datapath.foreign_programs(idle) == std::vector{phrase});

    auto automatic = bench.open(XdpMode::kAuto);
    need(automatic.attach({role(DeviceRole::Kind::kUnderlay, idle, "idle", true)}));
    CHECK(attachment(automatic, FL_HOOK_XDP_UNDERLAY).why == "another XDP program is attached already: " + phrase);
}

TEST_CASE("programs stay attached when the process is killed", "[datapath][attach]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int underlay = DatapathBench::veth("eth0");
    const int port = DatapathBench::veth("tap0");
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        auto opened = Datapath::open(bench.options(XdpMode::kNative));
        const bool good = opened && opened->sync(some_tables(2)) &&
                          opened->attach({role(DeviceRole::Kind::kUnderlay, underlay, "eth0"),
                                          role(DeviceRole::Kind::kPort, port, "tap0")});
        const char answer = good ? 'y' : 'n';
        if (write(ready[1], &answer, 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    char answer = 0;
    CHECK(read(ready[0], &answer, 1) == 1);
    const auto alive = tc_programs(port);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(ready[0]);
    close(ready[1]);
    REQUIRE(answer == 'y');

    CHECK(alive.size() == 1);
    CHECK(tc_programs(port) == alive);
    CHECK(tc_programs(underlay).size() == 1);
    CHECK(xdp_shown("eth0") == "xdp");
    CHECK(bench.row<fl_fip_in>("fl_fip_in", fip_key(2)));
    // The kernel still runs them: traffic is counted with nobody at home.
    DatapathBench::ip({"address", "add", "192.0.2.1/24", "dev", "eth0p"});
    static_cast<void>(run_process({"ping", "-c", "1", "-W", "1", "192.0.2.2"}));
    auto successor = bench.open(XdpMode::kNative);
    CHECK_FALSE(need(successor.read_counters()).empty());
}

TEST_CASE("a device that goes takes its programs along, and its index may come back", "[datapath][attach]") {
    REQUIRE_ROOT();
    const DatapathBench bench;
    const int port = DatapathBench::veth("tap0");
    const auto index = std::to_string(port);
    const std::string pin = bench.pin_dir() + "/links/tc_port-" + index;
    auto datapath = bench.open();
    const auto wanted = role(DeviceRole::Kind::kPort, port, "tap0");
    need(datapath.attach({wanted}));
    REQUIRE(access(pin.c_str(), F_OK) == 0);

    DatapathBench::ip({"link", "del", "tap0"});
    SECTION("still asked for: reported, no error") {
        need(datapath.attach({wanted}));
        CHECK(datapath.attachments().at(0).mode == "none");
        CHECK(datapath.attachments().at(0).why.find("No such device") != std::string::npos);
    }
    SECTION("no longer asked for") {
        need(datapath.attach({}));
    }
    SECTION("found by a successor") {
        auto successor = bench.open();
        CHECK(access(pin.c_str(), F_OK) != 0);
    }
    DatapathBench::ip({"link", "add", "tap1", "index", index, "type", "veth", "peer", "name", "tap1p"});
    REQUIRE(tc_programs(port).empty());
    need(datapath.attach({role(DeviceRole::Kind::kPort, port, "tap1")}));
    CHECK(tc_programs(port).size() == 1);
    CHECK(datapath.attachments().at(0).mode == tc_mode());
}

}  // namespace fiplane::test
