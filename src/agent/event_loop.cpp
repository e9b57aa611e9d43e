// SPDX-License-Identifier: Apache-2.0
#include "agent/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace fiplane {

Result<EventLoop> EventLoop::create() {
    UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return fail_errno(errno, "cannot make an epoll instance");
    UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!timer) return fail_errno(errno, "cannot make a timer");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = timer.get();
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, timer.get(), &event) != 0)
        return fail_errno(errno, "cannot watch a timer");
    return EventLoop(std::move(epoll), std::move(timer));
}

Result<> EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno(errno, "cannot watch a descriptor");
    handlers_[fd] = std::make_shared<Handler>(std::move(handler));
    return {};
}

Result<> EventLoop::change(int fd, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0)
        return fail_errno(errno, "cannot change what a descriptor is watched for");
    return {};
}

void EventLoop::unwatch(int fd) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    handlers_.erase(fd);
}

EventLoop::TimerId EventLoop::after(Clock::duration delay, std::function<void()> action) {
    const TimerId id = ++last_id_;
    const auto deadline = Clock::now() + delay;
    timers_.emplace(std::pair{deadline, id}, std::move(action));
    deadlines_.emplace(id, deadline);
    arm_timer();
    return id;
}

void EventLoop::cancel(TimerId id) {
    const auto found = deadlines_.find(id);
    if (found == deadlines_.end()) return;
    timers_.erase({found->second, id});
    deadlines_.erase(found);
    arm_timer();
}

Result<> EventLoop::run() {
    std::array<epoll_event, 64> ready{};
    while (!stopped_) {
        const int count = epoll_wait(epoll_.get(), ready.data(), ready.size(), -1);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno(errno, "cannot wait for events");
        for (int i = 0; i < count && !stopped_; ++i) {
            const epoll_event& event = ready.at(static_cast<std::size_t>(i));
            if (event.data.fd == timer_.get()) {
                fire_due_timers();
                continue;
            }
            const auto found = handlers_.find(event.data.fd);
            if (found == handlers_.end()) continue;  // an earlier handler of this round unwatched it
            const auto handler = found->second;      // stays alive while it runs, whatever it unwatches
            (*handler)(event.events);
        }
    }
    return {};
}

void EventLoop::arm_timer() {
    itimerspec setting{};
    if (!timers_.empty()) {
        const auto deadline = timers_.begin()->first.first.time_since_epoch();
        // A deadline in the past fires at once; all zero would disarm.
        const auto span = std::max<Clock::duration>(deadline, std::chrono::nanoseconds{1});
        const auto whole = std::chrono::duration_cast<std::chrono::seconds>(span);
        setting.it_value = {whole.count(), std::chrono::nanoseconds(span - whole).count()};
    }
    // steady_clock is CLOCK_MONOTONIC in libstdc++.
    timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &setting, nullptr);
}

void EventLoop::fire_due_timers() {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const ssize_t got = read(timer_.get(), &expirations, sizeof expirations);
    // Timers that a due one starts belong to a later round, so that an action which starts itself cannot starve the
    // rest.
    const auto now = Clock::now();
    const TimerId newest = last_id_;
    while (!timers_.empty() && !stopped_) {
        const auto first = timers_.begin();
        const auto [deadline, id] = first->first;
        if (deadline > now || id > newest) break;
        const auto action = std::move(first->second);
        timers_.erase(first);
        deadlines_.erase(id);
        action();
    }
    arm_timer();
}

}  // namespace fiplane
