// SPDX-License-Identifier: Apache-2.0
// The agent's only thread waits here: descriptors by epoll, timers by one timerfd.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class EventLoop {
  public:
    using Clock = std::chrono::steady_clock;
    using TimerId = std::uint64_t;
    /// `events` is an EPOLL* mask.
    using Handler = std::function<void(std::uint32_t events)>;

    [[nodiscard]] static Result<EventLoop> create();

    /// Calls `handler` whenever `fd` has one of `events`, level-triggered. Does not take ownership: unwatch() before
    /// closing. A handler may watch and unwatch descriptors, its own included.
    [[nodiscard]] Result<> watch(int fd, std::uint32_t events, Handler handler);
    /// Another mask for a watched descriptor.
    [[nodiscard]] Result<> change(int fd, std::uint32_t events);
    void unwatch(int fd);

    /// Calls `action` once, not before `delay` has passed. 0 is no valid id.
    TimerId after(Clock::duration delay, std::function<void()> action);
    /// Ids that fired already or never were are ignored.
    void cancel(TimerId id);

    /// Serves until stop() is called.
    [[nodiscard]] Result<> run();
    void stop() { stopped_ = true; }

  private:
    EventLoop(UniqueFd epoll, UniqueFd timer) : epoll_(std::move(epoll)), timer_(std::move(timer)) {}
    void arm_timer();
    void fire_due_timers();

    UniqueFd epoll_;
    UniqueFd timer_;
    std::map<int, std::shared_ptr<Handler>> handlers_;
    std::map<std::pair<Clock::time_point, TimerId>, std::function<void()>> timers_;
    std::map<TimerId, Clock::time_point> deadlines_;
    TimerId last_id_ = 0;
    bool stopped_ = false;
};

}  // namespace fiplane
