// SPDX-License-Identifier: Apache-2.0
// Keeps one node right: Linux as the topology says, the fast path as Linux says. Or only the latter, where routers that
// somebody else builds are followed: then there is no topology, and nothing of Linux is changed.
//
// A notification leads to settle(): observe what changed, mend our own objects if something configured differs, observe
// again, compile, sync. The first notification is served at once, those that follow are gathered for a few ms.
// Whatever fails is tried again with growing delays, without holding up the rest.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "agent/announcer.hpp"
#include "agent/event_loop.hpp"
#include "agent/fast_path.hpp"
#include "agent/keepalives.hpp"
#include "agent/learned_entries.hpp"
#include "agent/options.hpp"
#include "agent/pacing.hpp"
#include "agent/problems.hpp"
#include "agent/reconciler.hpp"
#include "agent/status.hpp"
#include "core/result.hpp"
#include "observe/observer.hpp"

namespace fiplane {

/// For so long the tables of routers that are followed hold without a word from the agent. Longer than it takes to
/// start a new one, and than anything for which this one waits.
inline constexpr std::chrono::seconds kLease{30};

class NodeManager {
  public:
    /// Checks all that can be checked before something is changed: devices, names that others use, kernel features.
    /// The loop must outlive the manager.
    /// `topology`: none if routers are followed.
    [[nodiscard]] static Result<std::unique_ptr<NodeManager>> create(const AgentOptions& options,
                                                                     std::optional<Topology> topology, EventLoop& loop);
    ~NodeManager() = default;
    NodeManager(const NodeManager&) = delete;
    NodeManager& operator=(const NodeManager&) = delete;

    /// Builds, compiles, attaches, and from then on follows what happens. What would fail for ever is an error; what
    /// may pass is retried.
    [[nodiscard]] Result<> start();

    /// Everything that can be wrong is found before the old topology is let go. Returns how many changes were made.
    /// Only of a node that has a topology.
    [[nodiscard]] Result<std::size_t> replace_topology(Topology topology);
    [[nodiscard]] Result<> switch_fast_path(bool on);

    /// Null: routers are followed.
    [[nodiscard]] const Topology* topology() const { return reconciler_ ? &reconciler_->topology() : nullptr; }
    [[nodiscard]] const std::string& node() const { return node_; }
    [[nodiscard]] bool fast_path_is_on() const { return fast_path_.is_on(); }
    [[nodiscard]] std::vector<std::string> waiting_for() const;
    /// All that the manager knows; what concerns the process (pid, uptime) is left to the caller.
    [[nodiscard]] AgentStatus status() const;

  private:
    using Clock = EventLoop::Clock;

    /// One of the things that settle() does, and its retries.
    struct Activity {
        const char* name;
        Backoff backoff;
        bool due = false;
        EventLoop::TimerId retry_timer = 0;
    };

    NodeManager(const AgentOptions& options, std::optional<Reconciler> reconciler, EventLoop& loop);
    [[nodiscard]] Result<> open_datapath(bool on);
    [[nodiscard]] Result<> open_observer();

    void on_observer();
    void on_second();
    void schedule_settle(Clock::duration delay);
    void settle();
    bool record(Activity& activity, const Result<>& outcome);

    [[nodiscard]] Result<> observe();
    [[nodiscard]] Result<> observe_at_start();
    [[nodiscard]] Result<> mend();
    [[nodiscard]] Result<> update_fast_path();
    void renew_lease();
    [[nodiscard]] bool may_mend();
    [[nodiscard]] Result<> outcome_of(const Activity& activity) const;

    EventLoop& loop_;
    std::string node_;
    BuildOptions build_options_;
    std::optional<Reconciler> reconciler_;  ///< none: somebody else builds
    FastPath fast_path_;
    std::unique_ptr<Observer> observer_;
    Announcer announcer_;
    Keepalives keepalives_;
    LearnedEntries learned_entries_;
    Problems problems_;

    Activity observing_;
    Activity building_;
    Activity accelerating_;
    TokenBucket mends_;
    EventLoop::TimerId mend_pause_ = 0;  ///< runs while the budget for mending is used up

    EventLoop::TimerId settle_timer_ = 0;
    Clock::time_point last_settled_{};
    Clock::duration last_effort_{};                     ///< what the last round took
    std::optional<Clock::time_point> unsettled_since_;  ///< the first notification that no round has served yet
    std::uint64_t seconds_ = 0;                         ///< since the start
    std::uint64_t changes_applied_ = 0;
    std::chrono::microseconds last_change_{};
};

}  // namespace fiplane
