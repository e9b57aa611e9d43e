// SPDX-License-Identifier: Apache-2.0
#include "functional/build_lab.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "support/carriers.hpp"
#include "support/time_scale.hpp"
#include "topology/load.hpp"

namespace fiplane::test {
namespace {

void must_run(const Netns& netns, const std::string& command) {
    const auto result = run_process_in(netns, {"sh", "-c", command});
    INFO(command << ": " << result.err);
    REQUIRE(result.exit_status == 0);
}

}  // namespace

Topology example(const std::string& name) {
    const std::string path = std::string{FIPLANE_SOURCE_DIR} + "/examples/" + name;
    auto loaded = load_topology(path);
    INFO(format_mistakes(loaded.mistakes, path));
    REQUIRE(loaded.topology.has_value());
    return *loaded.topology;
}

const Port& port_named(const Topology& topology, const std::string& name) {
    const auto found = std::ranges::find(topology.ports, name, &Port::name);
    REQUIRE(found != topology.ports.end());
    return *found;
}

const Router& router_named(const Topology& topology, const std::string& name) {
    const auto found = std::ranges::find(topology.routers, name, &Router::name);
    REQUIRE(found != topology.routers.end());
    return *found;
}

NodeThread::NodeThread(const Netns& netns) : thread_([this, fd = netns.fd()] { work(fd); }) {
    run([] {});
}

NodeThread::~NodeThread() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void NodeThread::run(const std::function<void()>& task) {
    std::exception_ptr thrown;
    std::unique_lock lock(mutex_);
    task_ = [&] {
        try {
            task();
        } catch (...) {
            thrown = std::current_exception();
        }
    };
    changed_.notify_all();
    changed_.wait(lock, [this] { return !task_; });
    if (thrown) std::rethrow_exception(thrown);
}

void NodeThread::work(int netns_fd) {
    const bool placed = setns(netns_fd, CLONE_NEWNET) == 0 && unshare(CLONE_NEWNS) == 0 &&
                        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                        mount("fiplane-test", "/run/netns", "tmpfs", 0, "mode=0755") == 0;
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return stop_ || task_; });
        if (stop_) return;
        if (placed) task_();
        task_ = nullptr;
        changed_.notify_all();
    }
}

LabNode::LabNode(const Topology& topology, std::size_t index, const Netns& wire)
    : index_(index), name_(topology.nodes[index].name), scratch_(topology.nodes[index].name) {
    std::array<char, 64> directory{"/tmp/fiplane-build-XXXXXX"};
    REQUIRE(mkdtemp(directory.data()) != nullptr);
    state_dir_ = directory.data();
    const Node& node = topology.nodes[index];
    const std::string port = fmt::format("wire{}", index);
    must_run(wire, fmt::format("ip link add {} type veth peer name {} netns {} && ip link set {} master br0 up", port,
                               node.underlay_device, scratch_.name(), port));
    must_run(netns(), fmt::format("ip link set lo up; ip addr add {}{} dev {}; ip link set {} up",
                                  node.underlay_address.str(), node.underlay_address.is_ipv6() ? "/64 nodad" : "/24",
                                  node.underlay_device, node.underlay_device));
    wait_for_carriers(netns(), {node.underlay_device});
    wait_for_carriers(wire, {port});
    thread_ = std::make_unique<NodeThread>(netns());
}

LabNode::~LabNode() {
    thread_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(state_dir_, ignored);
}

std::string LabNode::sh(const std::string& command) {
    ProcessResult result;
    thread_->run([&] { result = run_process({"sh", "-c", command}); });
    INFO(name_ << ": " << command << ": " << result.err);
    REQUIRE(result.exit_status == 0);
    return result.out;
}

int LabNode::try_sh(const std::string& command) {
    ProcessResult result;
    thread_->run([&] { result = run_process({"sh", "-c", command}); });
    return result.exit_status;
}

Result<Plan> LabNode::plan(const Topology& topology) {
    Result<Plan> plan = fail(ExitCode::kFailed, "the node's thread did not run");
    thread_->run([&] {
        auto builder = Builder::open(topology, index_, {state_dir_});
        plan = builder ? builder->plan() : pass_on(builder);
    });
    return plan;
}

Plan LabNode::apply(const Topology& topology) {
    Plan plan;
    Result<> done;
    std::string at;
    thread_->run([&] {
        auto builder = Builder::open(topology, index_, {state_dir_});
        auto planned = builder ? builder->plan() : Result<Plan>(pass_on(builder));
        if (!planned) {
            done = pass_on(planned);
            return;
        }
        plan = std::move(*planned);
        done = builder->apply(plan, [&](const Step& step) { at = step.netns + " " + step.object; });
    });
    INFO(name_ << ": " << at << ": " << (done ? "" : done.error().message()));
    REQUIRE(done);
    return plan;
}

std::string LabNode::plan_text(const Topology& topology) {
    auto planned = plan(topology);
    return planned ? text_of(*planned) : "error: " + planned.error().message();
}

Plan LabNode::teardown() {
    Plan plan;
    Result<> done;
    thread_->run([&] {
        auto planned = Builder::plan_teardown();
        if (!planned) {
            done = pass_on(planned);
            return;
        }
        plan = std::move(*planned);
        done = Builder::apply_teardown(plan);
    });
    INFO((done ? "" : done.error().message()));
    REQUIRE(done);
    return plan;
}

Vm::Vm(const Topology& topology, const std::string& port_name, const Netns& from) : scratch_(port_name) {
    const Port& port = port_named(topology, port_name);
    const Subnet& subnet = topology.subnets[port.subnet];
    address_ = port.fixed_ip;
    // A stranger's MTU: plugging in must set it on the node's end.
    must_run(from,
             fmt::format("ip link add {} mtu 1400 type veth peer name eth0 netns {}", port.device, scratch_.name()));
    must_run(from, fmt::format("ip link set {} up", port.device));
    must_run(netns(), fmt::format("ip link set lo up; ip link set eth0 address {} mtu {} up; "
                                  "ip addr add {}/{} dev eth0; ip route add default via {}",
                                  port.mac.str(), topology.networks[port.network].mtu, port.fixed_ip.str(),
                                  subnet.cidr.length, subnet.gateway_ip->str()));
    wait_for_carriers(from, {port.device});
    wait_for_carriers(netns(), {"eth0"});
}

Lab::Lab(const Topology& topology) : wire_("wire") {
    must_run(wire(), "ip link add br0 type bridge stp_state 0 mcast_snooping 0 && ip link set br0 up");
    for (std::size_t i = 0; i < topology.nodes.size(); ++i) {
        nodes_.push_back(std::make_unique<LabNode>(topology, i, wire()));
    }
}

void Lab::apply_all(const Topology& topology) {
    for (auto& node : nodes_)
        node->apply(topology);
}

Vm& Lab::boot(const Topology& topology, const std::string& port) {
    LabNode& where = node(port_named(topology, port).node.value());
    return *(vms_[port] = std::make_unique<Vm>(topology, port, where.netns()));
}

void Lab::boot_all(const Topology& topology) {
    for (const auto& port : topology.ports) {
        if (port.owner == PortOwner::kCompute) boot(topology, port.name);
    }
}

int ping_ttl(const Netns& from, Ipv4 to, int size, std::chrono::seconds patience) {
    constexpr int kHeaders = 28;
    std::vector<std::string> command = {"ping", "-n", "-c", "1", "-W", std::to_string(patience.count()), "-M", "do"};
    if (size > 0) command.insert(command.end(), {"-s", std::to_string(size - kHeaders)});
    command.push_back(to.str());
    const auto result = run_process_in(from, command);
    const auto at = result.out.find(" ttl=");
    if (result.exit_status != 0 || at == std::string::npos) return 0;
    return std::stoi(result.out.substr(at + 5));
}

namespace {

/// As /proc/PID/stat has it: S sleeps until something happens.
char process_state(pid_t pid) {
    std::ifstream in(fmt::format("/proc/{}/stat", pid));
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto name_end = text.rfind(") ");  // a name may have blanks and brackets
    return name_end == std::string::npos ? '\0' : text.at(name_end + 2);
}

}  // namespace

Capture::Capture(const Netns& netns, const std::string& device, const std::string& filter) {
    std::array<char, 64> path{"/tmp/fiplane-capture-XXXXXX"};
    const int file = mkstemp(path.data());
    REQUIRE(file >= 0);
    path_ = path.data();
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
        if (setns(netns.fd(), CLONE_NEWNET) != 0) _exit(127);
        dup2(file, 1);
        dup2(file, 2);
        execlp("tcpdump", "tcpdump", "--immediate-mode", "-l", "-e", "-nn", "-vv", "-i", device.c_str(), filter.c_str(),
               nullptr);
        _exit(127);
    }
    close(file);
    const auto most = static_cast<int>(100 * time_scale());
    for (int tries = 0; tries < most; ++tries) {
        std::ifstream in(path_);
        const std::string text{std::istreambuf_iterator<char>(in), {}};
        if (text.find("listening on") != std::string::npos) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    FAIL("tcpdump did not start");
}

std::vector<std::string> Capture::lines() {
    std::this_thread::sleep_for(scaled(std::chrono::milliseconds(300)));
    // SIGINT ends it without a look at what it has not read. A frame makes it runnable at once, so that it sleeps only
    // if there is none.
    const auto end = std::chrono::steady_clock::now() + scaled(std::chrono::seconds(10));
    while (process_state(pid_) != 'S') {
        REQUIRE(std::chrono::steady_clock::now() < end);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    kill(pid_, SIGINT);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
    std::vector<std::string> out;
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line);) {
        if (line.find("ethertype") != std::string::npos || line.find("   ") == 0) out.push_back(line);
    }
    return out;
}

Capture::~Capture() {
    if (pid_ > 0) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    unlink(path_.c_str());
}

std::string text_of(const Plan& plan) {
    std::string out;
    for (const auto& step : plan.steps()) {
        const char* sign = step.action == Step::Action::kAdd ? "+" : step.action == Step::Action::kChange ? "~" : "-";
        out += fmt::format("{} [{}] {} ({})\n", sign, step.netns, step.object, step.detail);
    }
    return out;
}

void check_mended(LabNode& node, const Topology& topology, const std::vector<Damage>& damages) {
    for (const Damage& damage : damages) {
        INFO(damage.what);
        node.sh(damage.command);
        const std::string found = node.plan_text(topology);
        INFO(found);
        CHECK(found.find(damage.step) != std::string::npos);
        node.apply(topology);
        CHECK(node.plan_text(topology) == "");
    }
}

}  // namespace fiplane::test
