// SPDX-License-Identifier: Apache-2.0
// build: topology -> Linux objects of one node. Desired state, actual state, difference, apply; idempotent.
//
// An object that carries a needed name but not our mark (IFLA_IFALIAS "fiplane:<topology>" on the device, or on `lo` of
// a namespace) is somebody else's: planning fails with kForeignObject and nothing is changed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/compile.hpp"
#include "core/model.hpp"
#include "core/result.hpp"

namespace fiplane {

struct BuildOptions {
    std::string state_dir = "/var/lib/fiplane";  ///< link-local pairs and rule priorities, kept over reboots
};

/// One difference, for people (`fiplane plan`) and logs.
struct Step {
    enum class Action { kAdd, kChange, kRemove } action = Action::kAdd;
    std::string netns;   ///< "" is the node's own
    std::string object;  ///< "vxlan vxlan-1001", "rule 32768 from 10.1.0.11 lookup 16"
    std::string detail;  ///< for changes: "mtu 1500 -> 1450"
};

/// A floating IP that starts to live on this node: whose owner announces it.
struct Announcement {
    Ipv4 address;
    std::string netns;
    std::string device;  ///< fg- or qg-
    Mac mac;
};

/// An ordered list of steps with what it takes to do them. Made by Builder::plan(), done by Builder::apply().
class Plan {
  public:
    Plan();
    Plan(Plan&&) noexcept;
    Plan& operator=(Plan&&) noexcept;
    ~Plan();

    [[nodiscard]] const std::vector<Step>& steps() const;
    [[nodiscard]] bool empty() const { return steps().empty(); }
    /// Floating IPs that applying adds here: to be announced by gratuitous ARP afterwards.
    [[nodiscard]] const std::vector<Announcement>& announcements() const;
    /// Floating and fixed addresses whose translation ends or changes: their fast-path rows must go first.
    [[nodiscard]] const std::vector<Ipv4>& withdrawn() const;
    /// Not differences: VM devices of the topology that do not exist (yet), one phrase each.
    [[nodiscard]] const std::vector<std::string>& waiting_for() const;

  private:
    friend class Builder;
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

class Builder {
  public:
    /// Checks what must be there (underlay device and address; the topology's node). Nothing is changed.
    [[nodiscard]] static Result<Builder> open(const Topology& topology, std::size_t node, BuildOptions options);
    Builder(Builder&&) noexcept;
    Builder& operator=(Builder&&) noexcept;
    ~Builder();

    /// Reads Linux and says what differs. Does not write, neither to Linux nor to the state directory.
    [[nodiscard]] Result<Plan> plan();
    /// Does the steps in order; stops at the first that fails (the next plan() continues from there).
    /// `progress` (may be empty) is called before each step.
    [[nodiscard]] Result<> apply(const Plan& plan, const std::function<void(const Step&)>& progress = {});
    /// What compile may accelerate on this node.
    [[nodiscard]] Scope scope() const;

    /// Everything that carries our mark on this node, in the order of removal, whatever topology made it. The state
    /// directory is kept (addresses stay the same if the overlay is built again). Never includes foreign objects.
    [[nodiscard]] static Result<Plan> plan_teardown();
    [[nodiscard]] static Result<> apply_teardown(const Plan& plan,
                                                 const std::function<void(const Step&)>& progress = {});

  private:
    struct Impl;
    explicit Builder(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
