// SPDX-License-Identifier: Apache-2.0
#include "agent_bench.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "support/carriers.hpp"
#include "support/time_scale.hpp"
#include "topology/load.hpp"

extern char** environ;

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;

void enter_fresh_namespaces() {
    REQUIRE(unshare(CLONE_NEWNET | CLONE_NEWNS) == 0);
    REQUIRE(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    REQUIRE(mount("fiplane-test", "/run", "tmpfs", 0, "mode=0755") == 0);
    REQUIRE(mkdir("/run/netns", 0755) == 0);
    REQUIRE(mount("fiplane-test", "/sys/fs/bpf", "bpf", 0, nullptr) == 0);
}

std::string read_file(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

std::vector<std::string> words(const std::string& command) {
    std::istringstream stream(command);
    return {std::istream_iterator<std::string>(stream), {}};
}

std::string shell(const std::string& command) {
    const auto result = run_process(words(command));
    INFO(command << ": " << result.err);
    REQUIRE(result.exit_status == 0);
    return result.out;
}

std::string difference(const std::string& before, const std::string& after) {
    const auto lines = [](const std::string& text) {
        std::multiset<std::string> set;
        std::istringstream stream(text);
        for (std::string line; std::getline(stream, line);)
            set.insert(line);
        return set;
    };
    const auto old_lines = lines(before);
    const auto new_lines = lines(after);
    std::string text;
    for (const auto& line : old_lines) {
        if (!new_lines.contains(line)) text += "- " + line + "\n";
    }
    for (const auto& line : new_lines) {
        if (!old_lines.contains(line)) text += "+ " + line + "\n";
    }
    return text;
}

std::chrono::milliseconds wait_until(const std::string& what, const std::function<bool()>& condition,
                                     std::chrono::milliseconds patience) {
    const auto start = std::chrono::steady_clock::now();
    while (!condition()) {
        if (std::chrono::steady_clock::now() - start > scaled(patience)) FAIL("waited in vain: " << what);
        std::this_thread::sleep_for(10ms);
    }
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
}

NodeBench::NodeBench(bool with_underlay) {
    enter_fresh_namespaces();
    directory_ = "/run/bench";
    REQUIRE(mkdir(directory_.c_str(), 0755) == 0);
    file_ = directory_ + "/topology.yaml";
    std::filesystem::copy_file(FIPLANE_SOURCE_DIR "/examples/devstack-dvr-vxlan.yaml", file_);
    // Duplicate address detection would change what iproute2 shows by itself.
    for (const char* which : {"all", "default"}) {
        std::ofstream(fmt::format("/proc/sys/net/ipv6/conf/{}/disable_ipv6", which)) << 1;
    }
    shell("ip link set lo up");
    if (!with_underlay) return;
    shell("ip link add eth0 type veth peer name wire");
    shell("ip address add 192.0.2.11/24 dev eth0");
    shell("ip link set wire up");
    shell("ip link set eth0 up");
    wait_for_carriers({"wire", "eth0"});
}

NodeBench::~NodeBench() {
    if (agent_ > 0) stop_agent(SIGKILL);
}

std::string NodeBench::text() const {
    return read_file(file_);
}

void NodeBench::write(const std::string& text) const {
    std::ofstream(file_) << text;
}

void NodeBench::edit(const std::string& from, const std::string& to) const {
    std::string changed = text();
    const auto at = changed.find(from);
    REQUIRE(at != std::string::npos);
    write(changed.replace(at, from.size(), to));
}

Topology NodeBench::topology() const {
    auto loaded = load_topology(file_);
    REQUIRE(loaded.topology.has_value());
    return std::move(*loaded.topology);
}

std::string NodeBench::device_of(const std::string& port_name) const {
    const Topology all = topology();
    const auto port = std::ranges::find(all.ports, port_name, &Port::name);
    REQUIRE(port != all.ports.end());
    return port->device;
}

void NodeBench::add_vm(const std::string& port_name) const {
    shell(fmt::format("ip link add {} type veth peer name {}", device_of(port_name), port_name));
    shell(fmt::format("ip link set {} up", port_name));
    shell(fmt::format("ip link set {} up", device_of(port_name)));
    wait_for_carriers({port_name, device_of(port_name)});
}

ProcessResult NodeBench::fiplane(const std::string& arguments) const {
    return run_process(words(FIPLANE_BINARY " " + arguments));
}

ProcessResult NodeBench::build(const std::string& verb, const std::string& more) const {
    return fiplane(fmt::format("{} {} --node primary --state-dir {}/state {}", verb, file_, directory_, more));
}

std::string NodeBench::agent_arguments(const std::string& more) const {
    // Later options win, so that a test can say something else.
    const std::string node = more.find("--node") == std::string::npos ? "--node primary" : "";
    if (more.find("--follow") != std::string::npos) return fmt::format("agent {} {}", node, more);
    return fmt::format("agent --topology {} {} --state-dir {}/state {}", file_, node, directory_, more);
}

void NodeBench::start_agent(const std::string& more) {
    REQUIRE(agent_ == -1);
    const auto command = words(FIPLANE_BINARY " " + agent_arguments(more));
    std::vector<char*> arguments;
    for (const auto& word : command)
        arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string log_file = directory_ + "/log";
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    REQUIRE(posix_spawn(&agent_, FIPLANE_BINARY, &actions, nullptr, arguments.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    wait_until("the agent answers", [&] {
        int ended = 0;
        if (waitpid(agent_, &ended, WNOHANG) == agent_) {
            agent_ = -1;
            FAIL("the agent ended:\n" << log());
        }
        return fiplane("status -o json").exit_status == 0;
    });
}

ProcessResult NodeBench::failing_agent(const std::string& more) const {
    return run_process(words("timeout 8 " FIPLANE_BINARY " " + agent_arguments(more)));
}

int NodeBench::stop_agent(int signal) {
    REQUIRE(agent_ > 0);
    kill(agent_, signal);
    int status = 0;
    while (waitpid(agent_, &status, 0) < 0 && errno == EINTR) {
    }
    agent_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::chrono::milliseconds NodeBench::agent_cpu_time() const {
    clockid_t clock{};
    timespec used{};
    REQUIRE(clock_getcpuclockid(agent_, &clock) == 0);
    REQUIRE(clock_gettime(clock, &used) == 0);
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::seconds(used.tv_sec) +
                                                                 std::chrono::nanoseconds(used.tv_nsec));
}

std::string NodeBench::log() const {
    return read_file(directory_ + "/log");
}

nlohmann::json NodeBench::status() const {
    const auto result = fiplane("status -o json");
    INFO(result.err << log());
    REQUIRE(result.exit_status == 0);
    return nlohmann::json::parse(result.out);
}

std::uint64_t NodeBench::statistic(const std::string& key) const {
    return status().at("statistics").at(key);
}

nlohmann::json NodeBench::floating_ip(const std::string& address) const {
    const auto all = status();
    for (const auto& row : all.at("floating_ips")) {
        if (row.at("floating_ip") == address) return row;
    }
    return nullptr;
}

std::string NodeBench::linux_state() const {
    std::string state;
    for (const char* command : {"ip -o link", "ip -o address", "ip route show table all", "ip rule", "bridge fdb",
                                "nft list ruleset", "ip netns", "ls -R /sys/fs/bpf"}) {
        state += fmt::format("== {}\n{}", command, shell(command));
    }
    return state;
}

}  // namespace fiplane::test
