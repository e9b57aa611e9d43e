// SPDX-License-Identifier: Apache-2.0
// Keeps the node's Linux objects as the topology wants them: plan, take away what must go first, apply.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "build/builder.hpp"
#include "core/compile.hpp"
#include "core/model.hpp"
#include "core/result.hpp"

namespace fiplane {

/// The index of a node in the topology; kBadTopology names the nodes that there are.
[[nodiscard]] Result<std::size_t> find_node(const Topology& topology, const std::string& name);

/// "qrouter-…: add rule 32768 from 10.1.0.11 lookup 16", for logs and terminals.
[[nodiscard]] std::string describe_step(const Step& step);

class Reconciler {
  public:
    /// Checks that the topology can be built here, foreign objects included. Changes nothing.
    [[nodiscard]] static Result<Reconciler> open(Topology topology, const std::string& node, BuildOptions options);

    /// What the caller does in the course of a round. Each may be empty.
    struct Hooks {
        /// Called with the addresses whose translation ends or changes, before anything is changed.
        std::function<Result<>(const std::vector<Ipv4>&)> withdraw;
        /// Asked once there is something to change; false: not now, the round ends well.
        std::function<bool()> may_change;
        /// Called for each step.
        std::function<void(const Step&)> changed;
    };
    /// One round. Returns the floating IPs to announce: those that began to live here, also in earlier rounds that
    /// failed half-way. After a failure the next round goes on from where this one stopped.
    [[nodiscard]] Result<std::vector<Announcement>> reconcile(const Hooks& hooks);

    [[nodiscard]] const Topology& topology() const { return *topology_; }
    [[nodiscard]] const std::string& node() const { return topology_->nodes[node_].name; }
    [[nodiscard]] const std::string& underlay_device() const { return topology_->nodes[node_].underlay_device; }
    [[nodiscard]] Scope scope() const;
    /// VM devices that do not exist yet, as of the last plan.
    [[nodiscard]] const std::vector<std::string>& waiting_for() const { return waiting_for_; }

  private:
    Reconciler(std::unique_ptr<const Topology> topology, std::size_t node, Builder builder)
        : topology_(std::move(topology)), node_(node), builder_(std::move(builder)) {}
    void note_waiting(std::vector<std::string> waiting);

    std::unique_ptr<const Topology>
        topology_;  ///< stays where it is when this object moves: the builder may refer to it
    std::size_t node_;
    Builder builder_;
    std::vector<std::string> waiting_for_;
    /// Announcements of rounds that failed half-way: due when a round succeeds.
    std::map<Ipv4, Announcement> unannounced_;
};

}  // namespace fiplane
