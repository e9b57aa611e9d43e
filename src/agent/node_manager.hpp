// SPDX-License-Identifier: Apache-2.0
// Keeps one node right: Linux as the topology says, the fast path as Linux says.
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

class NodeManager {
  public:
    /// Checks all that can be checked before something is changed: devices, names that others use, kernel features.
    /// The loop must outlive the manager.
    [[nodiscard]] static Result<std::unique_ptr<NodeManager>> create(const AgentOptions& options, Topology topology,
                                                                     EventLoop& loop);
    ~NodeManager() = default;
    NodeManager(const NodeManager&) = delete;
    NodeManager& operator=(const NodeManager&) = delete;

    /// Builds, compiles, attaches, and from then on follows what happens. What would fail for ever is an error; what
    /// may pass is retried.
    [[nodiscard]] Result<> start();

    /// Everything that can be wrong is found before the old topology is let go. Returns how many changes were made.
    [[nodiscard]] Result<std::size_t> replace_topology(Topology topology);
    [[nodiscard]] Result<> switch_fast_path(bool on);

    [[nodiscard]] const Topology& topology() const { return reconciler_.topology(); }
    [[nodiscard]] const std::string& node() const { return reconciler_.node(); }
    [[nodiscard]] bool fast_path_is_on() const { return fast_path_.is_on(); }
    [[nodiscard]] const std::vector<std::string>& waiting_for() const { return reconciler_.waiting_for(); }
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

    NodeManager(const AgentOptions& options, Reconciler reconciler, EventLoop& loop);
    [[nodiscard]] Result<> open_datapath(bool on);
    [[nodiscard]] Result<> open_observer();

    void on_observer();
    void on_second();
    void schedule_settle(Clock::duration delay);
    void settle();
    bool record(Activity& activity, const Result<>& outcome);

    [[nodiscard]] Result<> observe();
    [[nodiscard]] Result<> mend();
    [[nodiscard]] Result<> update_fast_path();
    [[nodiscard]] bool may_mend();
    [[nodiscard]] Result<> outcome_of(const Activity& activity) const;

    EventLoop& loop_;
    BuildOptions build_options_;
    Reconciler reconciler_;
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
    std::uint64_t changes_applied_ = 0;
    std::chrono::microseconds last_change_{};
};

}  // namespace fiplane
