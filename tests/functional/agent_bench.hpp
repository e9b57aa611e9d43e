// SPDX-License-Identifier: Apache-2.0
// One node for tests of the real binary: its own network and mount namespace with an underlay device, bpffs, /run and
// state directory of its own.
#pragma once

#include <sys/types.h>

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/model.hpp"
#include "support/run_process.hpp"

namespace fiplane::test {

/// Words of a command, split at blanks.
[[nodiscard]] std::vector<std::string> words(const std::string& command);
/// Runs a command that must succeed; returns what it printed.
std::string shell(const std::string& command);
/// Lines that only one of two texts has, with - and +; empty if they are the same.
[[nodiscard]] std::string difference(const std::string& before, const std::string& after);
/// Checks every 10 ms; how long it took, or a failed test after `patience`.
std::chrono::milliseconds wait_until(const std::string& what, const std::function<bool()>& condition,
                                     std::chrono::milliseconds patience = std::chrono::seconds(5));

/// Moves the test process into the node's namespaces for good; a later object makes fresh ones. eth0 has 192.0.2.11/24,
/// the node `primary` of examples/devstack-dvr-vxlan.yaml.
class NodeBench {
  public:
    /// `with_underlay` false: eth0 is left out.
    explicit NodeBench(bool with_underlay = true);
    ~NodeBench();
    NodeBench(const NodeBench&) = delete;
    NodeBench& operator=(const NodeBench&) = delete;

    /// A private copy of the example's file; change it with edit().
    [[nodiscard]] const std::string& file() const { return file_; }
    [[nodiscard]] std::string text() const;
    void write(const std::string& text) const;
    /// Replaces the first occurrence, which there must be.
    void edit(const std::string& from, const std::string& to) const;
    [[nodiscard]] Topology topology() const;
    [[nodiscard]] std::string device_of(const std::string& port_name) const;
    /// The VM's device, as a hypervisor would make it: a veth whose other end stands for the VM.
    void add_vm(const std::string& port_name) const;

    /// The binary with these arguments.
    [[nodiscard]] ProcessResult fiplane(const std::string& arguments) const;
    /// `plan`, `apply`: with file, node and state directory.
    [[nodiscard]] ProcessResult build(const std::string& verb, const std::string& more = "") const;

    /// Starts the agent and waits until it answers. Without a topology if `more` has --follow.
    void start_agent(const std::string& more = "");
    /// Runs the agent in the foreground until it ends by itself.
    [[nodiscard]] ProcessResult failing_agent(const std::string& more = "") const;
    /// Ends the agent by a signal; its exit status, 128 + signal if that killed it.
    int stop_agent(int signal);
    [[nodiscard]] pid_t agent_pid() const { return agent_; }
    /// What the agent has used of the CPUs since its start: what it does takes as much of it on a busy machine.
    [[nodiscard]] std::chrono::milliseconds agent_cpu_time() const;
    [[nodiscard]] std::string log() const;
    [[nodiscard]] nlohmann::json status() const;
    /// Of status(): one of its `statistics`. `full_dumps` are complete readings of a namespace: at the start, after
    /// lost notifications, and once a minute.
    [[nodiscard]] std::uint64_t statistic(const std::string& key) const;
    [[nodiscard]] nlohmann::json floating_ip(const std::string& address) const;

    /// Everything that building could change, as iproute2 and nft show it.
    [[nodiscard]] std::string linux_state() const;

  private:
    [[nodiscard]] std::string agent_arguments(const std::string& more) const;

    std::string directory_;
    std::string file_;
    pid_t agent_ = -1;
};

}  // namespace fiplane::test
