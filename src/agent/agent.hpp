// SPDX-License-Identifier: Apache-2.0
// The agent process of one node: claims the node, keeps only the privileges that it needs, answers the control socket
// and signals, and leaves the work to NodeManager.
//
// SIGHUP reloads the topology. Stopping (SIGTERM, SIGINT) or dying leaves everything as it is: links and maps are
// pinned, the overlay is Linux's.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "agent/control_server.hpp"
#include "agent/event_loop.hpp"
#include "agent/node_manager.hpp"
#include "agent/options.hpp"
#include "agent/single_instance.hpp"
#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class Agent {
  public:
    /// Checks everything that can be checked before something is changed: privileges, another agent, devices, names
    /// that others use, kernel features. `topology` is what options.topology_file holds now; none if routers are
    /// followed.
    [[nodiscard]] static Result<std::unique_ptr<Agent>> create(AgentOptions options, std::optional<Topology> topology);
    ~Agent() = default;
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    /// Builds, attaches and serves until SIGTERM or SIGINT.
    [[nodiscard]] Result<> run();

  private:
    Agent(AgentOptions options, EventLoop loop, SingleInstance instance, ControlServer control, UniqueFd signals);

    void on_signal();
    [[nodiscard]] Response handle(const Request& request);
    [[nodiscard]] Response reload();
    void reload_by_signal();
    [[nodiscard]] Response switch_fast_path(const Request& request);
    [[nodiscard]] Response explain(const Request& request) const;
    [[nodiscard]] AgentStatus status() const;
    [[nodiscard]] std::string describe() const;

    AgentOptions options_;
    EventLoop loop_;  // before all that registers with it
    SingleInstance instance_;
    UniqueFd signals_;
    std::unique_ptr<NodeManager> manager_;
    ControlServer control_;
    EventLoop::Clock::time_point started_;
};

}  // namespace fiplane
