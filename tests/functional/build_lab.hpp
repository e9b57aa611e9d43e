// SPDX-License-Identifier: Apache-2.0
// A small cloud for the tests of src/build: nodes joined by one L2 ("the wire"), each in a network and a mount
// namespace of its own, so that each has its own /run/netns; VMs as network namespaces on a veth pair.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "build/builder.hpp"
#include "core/model.hpp"
#include "support/run_process.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {

/// examples/<name> of the source tree, loaded.
[[nodiscard]] Topology example(const std::string& name);

[[nodiscard]] const Port& port_named(const Topology& topology, const std::string& name);
[[nodiscard]] const Router& router_named(const Topology& topology, const std::string& name);

/// A thread in a network and a mount namespace of its own, which does what it is given, one thing at a time.
class NodeThread {
  public:
    explicit NodeThread(const Netns& netns);
    ~NodeThread();
    NodeThread(const NodeThread&) = delete;
    NodeThread& operator=(const NodeThread&) = delete;

    /// Runs `task` there and waits; what it throws is thrown here.
    void run(const std::function<void()>& task);

  private:
    void work(int netns_fd);
    std::mutex mutex_;
    std::condition_variable changed_;
    std::function<void()> task_;
    bool stop_ = false;
    std::thread thread_;
};

class LabNode {
  public:
    LabNode(const Topology& topology, std::size_t index, const Netns& wire);
    ~LabNode();

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const Netns& netns() const { return scratch_.netns(); }
    [[nodiscard]] const std::string& state_dir() const { return state_dir_; }

    /// A program run on the node: it sees the node's /run/netns. Fails the test if the program fails.
    std::string sh(const std::string& command);
    /// Its exit status, whatever it is.
    int try_sh(const std::string& command);

    [[nodiscard]] Result<Plan> plan(const Topology& topology);
    /// Plans, applies, and returns the plan.
    Plan apply(const Topology& topology);
    /// The steps of a plan as text, one a line.
    std::string plan_text(const Topology& topology);
    Plan teardown();
    /// Runs any code on the node.
    void run(const std::function<void()>& task) { thread_->run(task); }

  private:
    std::size_t index_;
    std::string name_;
    ScratchNetns scratch_;
    std::string state_dir_;
    std::unique_ptr<NodeThread> thread_;
};

class Vm {
  public:
    /// Its device is made in `from`.
    Vm(const Topology& topology, const std::string& port, const Netns& from);
    [[nodiscard]] const Netns& netns() const { return scratch_.netns(); }
    [[nodiscard]] Ipv4 address() const { return address_; }

  private:
    ScratchNetns scratch_;
    Ipv4 address_;
};

/// All nodes of a topology; VMs are added one by one.
class Lab {
  public:
    explicit Lab(const Topology& topology);
    [[nodiscard]] LabNode& node(std::size_t index) { return *nodes_.at(index); }
    [[nodiscard]] std::size_t size() const { return nodes_.size(); }
    [[nodiscard]] const Netns& wire() const { return wire_.netns(); }
    void apply_all(const Topology& topology);
    /// Plugs in every VM of the topology.
    void boot_all(const Topology& topology);
    Vm& boot(const Topology& topology, const std::string& port);
    [[nodiscard]] Vm& vm(const std::string& port) { return *vms_.at(port); }
    void stop(const std::string& port) { vms_.erase(port); }

  private:
    ScratchNetns wire_;
    std::vector<std::unique_ptr<LabNode>> nodes_;
    std::map<std::string, std::unique_ptr<Vm>> vms_;
};

constexpr std::chrono::seconds kPingPatience{20};

/// TTL of the echo reply, or 0 if none comes within `patience`. `size` is the whole IP packet; 0: the default. DF is
/// set.
[[nodiscard]] int ping_ttl(const Netns& from, Ipv4 to, int size = 0, std::chrono::seconds patience = kPingPatience);

/// What a frame capture on a device saw: lines of `tcpdump -e -nn` that match the filter.
class Capture {
  public:
    Capture(const Netns& netns, const std::string& device, const std::string& filter);
    ~Capture();
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    /// Stops it and returns the lines.
    std::vector<std::string> lines();

  private:
    std::string path_;
    pid_t pid_ = -1;
};

[[nodiscard]] std::string text_of(const Plan& plan);

/// Something that a hand might do to a node, and what the next plan says of it.
struct Damage {
    std::string what;
    std::string command;
    std::string step;  ///< part of the plan's text
};

/// Does each damage in turn: the plan names it, and after it is applied nothing is left to do.
void check_mended(LabNode& node, const Topology& topology, const std::vector<Damage>& damages);

}  // namespace fiplane::test
