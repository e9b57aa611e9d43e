// SPDX-License-Identifier: Apache-2.0
// The command line through the real binary: what it prints, and that each kind of failure has its exit code and leaves
// the node as it was.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>

#include "agent_bench.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

ProcessResult fiplane(const std::string& arguments) {
    return run_process(words(FIPLANE_BINARY " " + arguments));
}

/// As a user without any privilege.
ProcessResult unprivileged(const std::string& arguments) {
    return run_process(words(
        "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all " FIPLANE_BINARY " " + arguments));
}

bool is_one_line(const std::string& text) {
    return std::ranges::count(text, '\n') == 1 && text.ends_with('\n');
}

/// The failure has this code and one line on stderr that names `what`.
void check_refused(const ProcessResult& result, int code, const std::string& what) {
    INFO(result.err);
    CHECK(result.exit_status == code);
    CHECK(is_one_line(result.err));
    CHECK_THAT(result.err, StartsWith("fiplane: "));
    CHECK_THAT(result.err, ContainsSubstring(what));
}

}  // namespace

TEST_CASE("Every verb explains itself with an example", "[cli]") {
    CHECK_THAT(fiplane("--help").out, ContainsSubstring("Exit codes"));
    for (const char* verb : {"validate", "plan", "apply", "teardown", "agent", "reload", "status", "explain", "detach",
                             "fast-path", "version"}) {
        const auto help = fiplane(fmt::format("{} --help", verb));
        INFO(verb);
        CHECK(help.exit_status == 0);
        CHECK_THAT(help.out, ContainsSubstring("Example:\n  fiplane ") || ContainsSubstring("Examples:\n  fiplane "));
        CHECK_THAT(help.out.substr(help.out.find("Example")), ContainsSubstring(fmt::format("fiplane {}", verb)));
        CHECK_THAT(fiplane("--help").out, ContainsSubstring(verb));
    }
    CHECK_THAT(fiplane("version").out, StartsWith("fiplane "));
}

TEST_CASE("A wrong command line is exit code 3", "[cli]") {
    for (const char* arguments : {"", "frobnicate", "validate", "status --frob", "fast-path maybe", "agent",
                                  "agent --topology x --xdp sometimes", "status -o xml"}) {
        INFO(arguments);
        check_refused(fiplane(arguments), 3, "--help");
    }
}

TEST_CASE("A wrong verb, or one that is not possible, is named", "[cli]") {
    check_refused(fiplane("statu"), 3, "statu");
    check_refused(fiplane("--bogus"), 3, "--bogus");
    check_refused(fiplane("agent --follow neutron --xdp native"), 3, "--xdp native");
}

TEST_CASE("Output that cannot be written is no success", "[cli]") {
    for (const char* verb : {"version", "--help"}) {
        const auto full = run_process({"sh", "-c", fmt::format("{} {} >/dev/full", FIPLANE_BINARY, verb)});
        INFO(verb);
        check_refused(full, 1, "No space left on device");
    }
}

TEST_CASE("A file at the control socket's path is somebody else's", "[cli]") {
    REQUIRE_ROOT();
    const NodeBench bench;
    const std::string path = "/run/netns/precious";
    std::ofstream(path) << "precious\n";
    const auto refused = bench.failing_agent("--socket " + path);
    INFO(refused.err);
    CHECK(refused.exit_status == 7);
    CHECK_THAT(refused.err, ContainsSubstring(path + ": something that is not a socket"));
    std::ifstream file(path);
    std::string text;
    std::getline(file, text);
    CHECK(text == "precious");
}

TEST_CASE("validate prints every mistake with its place and counts them", "[cli]") {
    const std::string example = FIPLANE_SOURCE_DIR "/examples/devstack-dvr-vxlan.yaml";
    const auto good = fiplane("validate " + example);
    CHECK(good.exit_status == 0);
    CHECK_THAT(good.out, ContainsSubstring("3 nodes, 2 networks, 1 router"));
    const auto resolved = nlohmann::json::parse(fiplane("validate " + example + " -o json").out);
    CHECK(resolved.at("name") == "devstack-dvr");

    REQUIRE_ROOT();
    const NodeBench bench;
    bench.edit("fixed_ip: 10.1.0.11", "fixed_ip: 10.1.0.999");
    bench.edit("{name: vm3, network: private, node: subnode1", "{name: vm3, network: private, node: subnode9");
    const auto bad = bench.fiplane("validate " + bench.file());
    INFO(bad.err);
    CHECK(bad.exit_status == 2);
    CHECK(bad.out.empty());
    CHECK(std::ranges::count(bad.err, '\n') == 3);
    CHECK_THAT(bad.err, StartsWith(bench.file() + ":"));
    CHECK_THAT(bad.err, ContainsSubstring("10.1.0.999"));
    CHECK_THAT(bad.err, ContainsSubstring("subnode9"));
    CHECK_THAT(bad.err, ContainsSubstring(": 2 mistakes"));
    const auto as_json = bench.fiplane("validate -o json " + bench.file());
    CHECK(as_json.exit_status == 2);
    const auto report = nlohmann::json::parse(as_json.out);
    CHECK(report.at("valid") == false);
    CHECK(report.at("mistakes").size() == 2);
    CHECK(report.at("mistakes")[0].at("line").get<int>() > 1);
    CHECK(fiplane("validate /nonexistent.yaml").exit_status == 2);
}

TEST_CASE("Without privileges only reading works: exit code 4", "[cli]") {
    REQUIRE_ROOT();
    const NodeBench bench;
    const auto before = bench.linux_state();
    check_refused(unprivileged("plan " + bench.file() + " --node primary"), 4, "cap_net_admin");
    check_refused(unprivileged("apply " + bench.file() + " --node primary"), 4, "root");
    check_refused(unprivileged("agent --topology " + bench.file() + " --node primary"), 4, "root");
    check_refused(unprivileged("teardown"), 4, "root");
    check_refused(unprivileged("detach"), 4, "root");
    CHECK(unprivileged("validate " + bench.file()).exit_status == 0);
    CHECK(unprivileged("--help").exit_status == 0);
    CHECK(difference(before, bench.linux_state()) == "");
}

TEST_CASE("Without an agent its verbs are exit code 9", "[cli]") {
    REQUIRE_ROOT();
    const NodeBench bench;
    for (const char* arguments : {"status", "reload", "explain 172.24.5.11", "fast-path off"}) {
        INFO(arguments);
        check_refused(bench.fiplane(arguments), 9, "/run/fiplane/agent.sock");
    }
    check_refused(bench.fiplane("status --socket /run/other.sock"), 9, "/run/other.sock");
}

TEST_CASE("What cannot be built is refused before anything is touched", "[cli]") {
    REQUIRE_ROOT();
    SECTION("a broken file is exit code 2") {
        const NodeBench bench;
        bench.write("nodes: [");
        const auto before = bench.linux_state();
        for (const auto& result : {bench.build("plan"), bench.build("apply"), bench.failing_agent()}) {
            CHECK(result.exit_status == 2);
            CHECK_THAT(result.err, ContainsSubstring(bench.file() + ":1:"));
        }
        CHECK(difference(before, bench.linux_state()) == "");
    }
    SECTION("an unknown node is exit code 2") {
        const NodeBench bench;
        const auto before = bench.linux_state();
        check_refused(bench.failing_agent("--node nowhere"), 2, "primary, subnode1, subnode2");
        CHECK(difference(before, bench.linux_state()) == "");
    }
    SECTION("a missing underlay device is exit code 6") {
        const NodeBench bench(false);
        const auto before = bench.linux_state();
        for (const auto& result : {bench.build("plan"), bench.build("apply"), bench.failing_agent()})
            check_refused(result, 6, "eth0");
        CHECK(difference(before, bench.linux_state()) == "");
    }
    SECTION("somebody else's br-ex is exit code 7") {
        const NodeBench bench;
        shell("ip link add br-ex type bridge");
        const auto before = bench.linux_state();
        for (const auto& result : {bench.build("plan"), bench.build("apply"), bench.failing_agent()})
            check_refused(result, 7, "br-ex");
        CHECK(difference(before, bench.linux_state()) == "");
        CHECK(bench.fiplane("teardown").exit_status == 0);
        CHECK(difference(before, bench.linux_state()) == "");
    }
    SECTION("what an agent that followed another's routers has left is exit code 7") {
        const NodeBench bench;
        std::filesystem::create_directories("/sys/fs/bpf/fiplane/routers/qrouter-1");
        const auto before = bench.linux_state();
        for (const auto& result : {bench.build("apply"), bench.fiplane("teardown"), bench.failing_agent(),
                                   bench.failing_agent("--fast-path off")})
            check_refused(result, 7, "`fiplane detach` removes them");
        CHECK(difference(before, bench.linux_state()) == "");
    }
    SECTION("no bpffs where programs would be pinned") {
        const NodeBench bench;
        const auto before = bench.linux_state();
        const auto result = bench.failing_agent("--pin-dir /run/bench/pins");
        INFO(result.err);
        CHECK(result.exit_status == 5);
        CHECK(difference(before, bench.linux_state()) == "");
    }
}

TEST_CASE("apply builds once, plan then finds nothing, teardown leaves what was there", "[cli]") {
    REQUIRE_ROOT();
    const NodeBench bench;
    bench.add_vm("vm1");
    const auto before = bench.linux_state();

    const auto planned = nlohmann::json::parse(bench.build("plan", "-o json").out);
    CHECK(planned.at("changes").size() > 20);
    CHECK(planned.at("announced") == nlohmann::json::array({"172.24.5.11", "172.24.5.12"}));
    CHECK(planned.at("waiting_for").size() == 1);
    CHECK(difference(before, bench.linux_state()) == "");

    const auto applied = bench.build("apply");
    INFO(applied.err);
    REQUIRE(applied.exit_status == 0);
    CHECK_THAT(applied.out, ContainsSubstring("changes made"));
    CHECK_THAT(applied.out, ContainsSubstring(bench.device_of("vm2")));
    CHECK_THAT(shell("ip -d link show master br-ex"), ContainsSubstring("vxlan id 1000001"));
    CHECK_THAT(bench.build("apply").out, ContainsSubstring("nothing to change"));
    CHECK_THAT(bench.build("plan").out, ContainsSubstring("nothing to change"));

    const auto built = bench.linux_state();
    const auto dry = bench.fiplane("teardown --dry-run");
    CHECK(dry.exit_status == 0);
    CHECK_THAT(dry.out, ContainsSubstring("br-ex"));
    CHECK(difference(built, bench.linux_state()) == "");
    REQUIRE(bench.fiplane("teardown").exit_status == 0);
    CHECK(shell("ip -o link show type vxlan").empty());
    CHECK(shell("ip -o link show type bridge").empty());
    CHECK(shell("ip netns").empty());
    CHECK(shell("nft list ruleset").empty());
    CHECK_FALSE(shell("ip -o link show " + bench.device_of("vm1")).empty());
    CHECK_THAT(bench.fiplane("teardown").out, ContainsSubstring("nothing of fiplane's"));
}

}  // namespace fiplane::test
