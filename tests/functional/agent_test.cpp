// SPDX-License-Identifier: Apache-2.0
// The agent as a process: start, change, death, restart, and what it does about what others do to its objects.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "agent_bench.hpp"
#include "support/scratch_netns.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

bool exists(const std::string& device) {
    return std::filesystem::exists("/sys/class/net/" + device) ||
           run_process(words("ip link show " + device)).exit_status == 0;
}

/// Ids of the pinned maps by name, as bpftool sees them.
std::map<std::string, int> pinned_maps() {
    std::map<std::string, int> ids;
    for (const auto& entry : std::filesystem::directory_iterator("/sys/fs/bpf/fiplane/maps")) {
        const auto shown = nlohmann::json::parse(shell("bpftool -j map show pinned " + entry.path().string()));
        ids[entry.path().filename()] = shown.at("id").get<int>();
    }
    return ids;
}

std::size_t pinned_links() {
    const auto links = std::filesystem::directory_iterator("/sys/fs/bpf/fiplane/links");
    return static_cast<std::size_t>(std::distance(begin(links), end(links)));
}

std::size_t count_fast(const NodeBench& bench) {
    const auto status = bench.status();
    return static_cast<std::size_t>(
        std::ranges::count_if(status.at("floating_ips"), [](const auto& row) { return row.at("state") == "fast"; }));
}

/// With both VMs of node primary, until the agent has nothing left to do: new veths get their carrier a little later.
void start_with_vms(NodeBench& bench, const std::string& more = "", std::size_t fast = 2) {
    bench.add_vm("vm1");
    bench.add_vm("vm2");
    bench.start_agent(more);
    wait_until("the floating IPs are fast", [&] { return count_fast(bench) == fast; });
}

}  // namespace

TEST_CASE("The agent builds, attaches and says so", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    const auto status = bench.status();
    INFO(status.dump(2) << bench.log());
    CHECK(status.at("node") == "primary");
    CHECK(status.at("topology").at("name") == "devstack-dvr");
    CHECK(status.at("agent").at("pid") == bench.agent_pid());
    CHECK(status.at("fast_path") == true);
    CHECK(status.at("problems").empty());
    CHECK(status.at("waiting_for").empty());
    CHECK(status.at("floating_ips").size() == 2);
    std::map<std::string, std::string> hooks;
    for (const auto& row : status.at("devices"))
        hooks[row.at("device").get<std::string>() + " " + row.at("hook").get<std::string>()] = row.at("mode");
    CHECK(hooks.at(bench.device_of("vm1") + " tc_port") != "none");
    CHECK(hooks.at("br-ex tc_host") != "none");
    CHECK(hooks.contains("eth0 tc_underlay"));

    // Keys are an interface: each one is documented.
    std::ifstream manual_file(FIPLANE_SOURCE_DIR "/docs/fiplane.8.md");
    const std::string manual(std::istreambuf_iterator<char>(manual_file), {});
    const auto flat = status.flatten();
    for (const auto& [path, value] : flat.items()) {
        const std::string key = path.substr(path.find_last_not_of("/0123456789") == std::string::npos
                                                ? 0
                                                : path.rfind('/', path.find_last_not_of("/0123456789")) + 1);
        const std::string name = key.substr(0, key.find('/'));
        INFO(path << " is " << name);
        CHECK_THAT(manual, ContainsSubstring("`" + name + "`"));
    }

    const auto text = bench.fiplane("status");
    CHECK(text.exit_status == 0);
    CHECK_THAT(text.out, ContainsSubstring("172.24.5.11"));
    CHECK(text.out.find('\033') == std::string::npos);

    const auto here = nlohmann::json::parse(bench.fiplane("explain 172.24.5.11 -o json").out);
    CHECK(here.at("here").size() == 1);
    CHECK(here.at("here")[0].at("fixed_ip") == "10.1.0.11");
    CHECK_FALSE(here.at("here")[0].at("steps_in").empty());
    CHECK_THAT(bench.fiplane("explain 10.1.0.11").out, ContainsSubstring("172.24.5.11"));
    CHECK_THAT(bench.fiplane("explain 172.24.5.21").out, ContainsSubstring("node subnode1"));
    const auto unknown = bench.fiplane("explain 172.24.5.200");
    CHECK(unknown.exit_status == 1);
    CHECK(bench.fiplane("explain nonsense").exit_status == 3);

    struct stat info{};
    REQUIRE(stat("/run/fiplane/agent.sock", &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("The agent keeps only the capabilities that it needs", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    bench.start_agent();
    std::ifstream file(fmt::format("/proc/{}/status", bench.agent_pid()));
    std::map<std::string, std::string> fields;
    for (std::string key, value; file >> key && std::getline(file, value);)
        fields[key] = words(value).empty() ? "" : words(value)[0];
    // NET_ADMIN 12, NET_RAW 13, SYS_ADMIN 21, PERFMON 38, BPF 39
    const auto expected = fmt::format("{:016x}", 1ULL << 12 | 1ULL << 13 | 1ULL << 21 | 1ULL << 38 | 1ULL << 39);
    for (const char* set : {"CapEff:", "CapPrm:", "CapBnd:"}) {
        INFO(set);
        CHECK(fields.at(set) == expected);
    }
    CHECK(fields.at("CapInh:") == "0000000000000000");
}

TEST_CASE("The agent may open as many files as the hard limit allows", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    rlimit before{};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit low{256, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
    bench.start_agent();
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    rlimit of_agent{};
    REQUIRE(prlimit(bench.agent_pid(), RLIMIT_NOFILE, nullptr, &of_agent) == 0);
    CHECK(of_agent.rlim_cur == before.rlim_max);
    CHECK(of_agent.rlim_max == before.rlim_max);
}

TEST_CASE("A second agent on the node is refused, and so is what would fight the first", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    bench.start_agent();
    for (const auto& result : {bench.failing_agent(), bench.failing_agent("--socket /run/second.sock"),
                               bench.build("apply"), bench.fiplane("teardown")}) {
        INFO(result.err);
        CHECK(result.exit_status == 8);
        CHECK_THAT(result.err, ContainsSubstring(fmt::format("pid {}", bench.agent_pid())));
    }
    CHECK(bench.status().at("agent").at("pid") == bench.agent_pid());
    CHECK_THAT(bench.build("plan").out, ContainsSubstring("nothing to change"));
}

TEST_CASE("Killed and started again, the agent takes over and changes nothing", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    const auto maps = pinned_maps();
    const auto links = pinned_links();
    REQUIRE(maps.size() >= 8);
    REQUIRE(links >= 5);
    const auto before = bench.linux_state();

    CHECK(bench.stop_agent(SIGKILL) == 128 + SIGKILL);
    CHECK(pinned_links() == links);
    bench.start_agent();
    const auto statistics = bench.status().at("statistics");
    CHECK(statistics.at("changes_applied") == 0);
    CHECK(statistics.at("rows_written") == 0);
    CHECK(statistics.at("rows_removed") == 0);
    CHECK(pinned_maps() == maps);
    CHECK(difference(before, bench.linux_state()) == "");

    CHECK(bench.stop_agent(SIGTERM) == 0);
    CHECK_THAT(bench.log(), ContainsSubstring("the fast path goes on without the agent"));
    CHECK(pinned_links() == links);
    CHECK_FALSE(std::filesystem::exists("/run/fiplane/agent.sock"));
    REQUIRE(bench.fiplane("teardown").exit_status == 0);
    CHECK_FALSE(std::filesystem::exists("/sys/fs/bpf/fiplane"));
}

TEST_CASE("reload changes what differs and refuses a bad file as a whole", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    const auto before = bench.linux_state();
    const std::string good = bench.text();

    bench.edit("fixed_ip: 10.1.0.11", "fixed_ip: 10.99.0.11");
    bench.edit("node: subnode2, fixed_ip: 10.1.0.32", "node: nowhere, fixed_ip: 10.1.0.32");
    const auto refused = bench.fiplane("reload");
    INFO(refused.err);
    CHECK(refused.exit_status == 2);
    CHECK_THAT(refused.err, ContainsSubstring("10.99.0.11"));
    CHECK_THAT(refused.err, ContainsSubstring("nowhere"));
    CHECK(difference(before, bench.linux_state()) == "");
    CHECK(bench.floating_ip("172.24.5.11").at("fixed_ip") == "10.1.0.11");

    bench.write(good);
    bench.edit("device: eth0, address: 192.0.2.11", "device: eth7, address: 192.0.2.11");
    CHECK(bench.fiplane("reload").exit_status == 6);
    CHECK(difference(before, bench.linux_state()) == "");

    bench.write(good);
    CHECK_THAT(bench.fiplane("reload").out, ContainsSubstring("nothing to change"));
    bench.edit("floating_ip_address: 172.24.5.12", "floating_ip_address: 172.24.5.77");
    const auto added = bench.fiplane("reload");
    INFO(added.err << bench.log());
    CHECK(added.exit_status == 0);
    CHECK(bench.floating_ip("172.24.5.77").at("fixed_ip") == "10.1.0.12");
    CHECK(bench.floating_ip("172.24.5.12").is_null());
    CHECK_THAT(bench.log(), ContainsSubstring("172.24.5.77: announcing"));

    bench.write(good);
    kill(bench.agent_pid(), SIGHUP);
    wait_until("SIGHUP is obeyed", [&] { return bench.floating_ip("172.24.5.77").is_null(); });
    CHECK(difference(before, bench.linux_state()) == "");
}

TEST_CASE("What others remove is mended, and it is logged", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    const Topology topology = bench.topology();
    const std::string router = "qrouter-" + topology.routers[0].id;
    const std::string rules = shell("ip -n " + router + " rule");
    const std::string external_vxlan = "vxlan-1000001";
    REQUIRE(exists(external_vxlan));

    const auto dumps = bench.statistic("full_dumps");
    shell("ip link del " + external_vxlan);
    wait_until("the tunnel is back", [&] { return exists(external_vxlan); });
    CHECK(bench.statistic("full_dumps") == dumps);  // it was told, and did not find out by itself
    wait_until("all its entries are back",
               [&] { return bench.build("plan").out.find("nothing to change") != std::string::npos; });
    CHECK_THAT(bench.log(), ContainsSubstring("add vxlan " + external_vxlan));

    shell("ip -n " + router + " rule del from 10.1.0.11");
    wait_until("the rule is back", [&] { return shell("ip -n " + router + " rule") == rules; });
    shell("ip netns exec " + router + " nft delete table ip fiplane");
    wait_until("the translation is back", [&] {
        return run_process(words("ip netns exec " + router + " nft list table ip fiplane")).exit_status == 0;
    });
    CHECK(bench.status().at("problems").empty());
}

TEST_CASE("Somebody who never stops removing is answered at a bounded rate", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    const std::string router = "qrouter-" + bench.topology().routers[0].id;
    const auto remove_for = [&](std::chrono::steady_clock::duration time) {
        for (const auto end = std::chrono::steady_clock::now() + time; std::chrono::steady_clock::now() < end;)
            (void)run_process(words("ip -n " + router + " rule del from 10.1.0.11"));
    };
    const auto applied_before = bench.statistic("changes_applied");
    const auto start = std::chrono::steady_clock::now();
    wait_until(
        "the burst is used up",
        [&] {
            remove_for(200ms);
            return bench.statistic("changes_applied") - applied_before >= 20;
        },
        10s);  // what is refilled meanwhile is half of them
    remove_for(scaled(2s));
    const auto applied = bench.statistic("changes_applied") - applied_before;
    CHECK(applied <= static_cast<std::uint64_t>(22 + (std::chrono::steady_clock::now() - start) / 1s));
    CHECK_THAT(bench.log(), ContainsSubstring("something else keeps changing"));
    wait_until("peace", [&] { return bench.build("plan").out.find("nothing to change") != std::string::npos; });
}

TEST_CASE("A VM that starts later gets its port", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    bench.start_agent();
    CHECK(bench.status().at("waiting_for").size() == 2);
    const auto dumps = bench.statistic("full_dumps");
    bench.add_vm("vm1");
    const std::string device = bench.device_of("vm1");
    wait_until("vm1 is enslaved",
               [&] { return shell("ip -o link show " + device).find("master brq") != std::string::npos; });
    CHECK(bench.statistic("full_dumps") == dumps);  // it was told, and did not find out by itself
    wait_until("vm1 has a program", [&] {
        const auto devices = bench.status().at("devices");
        return std::ranges::any_of(
            devices, [&](const auto& row) { return row.at("device") == device && row.at("mode") != "none"; });
    });
    CHECK(bench.status().at("waiting_for").size() == 1);
    shell("ip link del " + device);
    wait_until("vm1 is waited for again", [&] { return bench.status().at("waiting_for").size() == 2; });
    CHECK(bench.status().at("problems").empty());
}

TEST_CASE("The fast path can be switched while the agent runs", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench);
    REQUIRE(pinned_links() > 0);
    CHECK(bench.fiplane("fast-path off").out == "fast path off\n");
    CHECK(pinned_links() == 0);
    const auto off = bench.status();
    CHECK(off.at("fast_path") == false);
    CHECK(off.at("devices").empty());
    CHECK(off.at("floating_ips").size() == 2);
    for (const auto& row : off.at("floating_ips"))
        CHECK(row.at("state") == "slow");
    CHECK(bench.fiplane("fast-path on").exit_status == 0);
    CHECK(pinned_links() > 0);
    CHECK_FALSE(bench.status().at("devices").empty());

    // A new agent that is told to do without removes what the old one left.
    CHECK(bench.stop_agent(SIGKILL) == 128 + SIGKILL);
    bench.start_agent("--fast-path off");
    CHECK_FALSE(std::filesystem::exists("/sys/fs/bpf/fiplane/links"));
    CHECK(bench.status().at("fast_path") == false);
}

TEST_CASE("A full table is reported, and the rest works", "[agent]") {
    REQUIRE_ROOT();
    NodeBench bench;
    start_with_vms(bench, "--max-floating-ips 1", 1);
    const auto status = bench.status();
    const auto& problems = status.at("problems");
    INFO(problems.dump(2) << bench.log());
    REQUIRE(problems.size() == 1);
    CHECK(problems[0].at("code") == 10);
    CHECK_THAT(bench.log(), ContainsSubstring("updating the fast path"));
    int left_out = 0;
    for (const auto& row : status.at("floating_ips"))
        left_out += row.at("reason_out").get<std::string>().find("did not fit") != std::string::npos ? 1 : 0;
    CHECK(left_out == 1);
}

TEST_CASE("A forced XDP mode that is not to be had is exit code 5", "[agent]") {
    REQUIRE_ROOT();
    const NodeBench bench(false);
    shell("ip link add eth0 type bridge");  // bridges have no native XDP
    shell("ip address add 192.0.2.11/24 dev eth0");
    shell("ip link set eth0 up");
    const auto before = bench.linux_state();
    const auto result = bench.failing_agent("--xdp native");
    INFO(result.err);
    CHECK(result.exit_status == 5);
    CHECK_THAT(result.err, ContainsSubstring("eth0"));
    CHECK(difference(before, bench.linux_state()) == "");
}

}  // namespace fiplane::test
