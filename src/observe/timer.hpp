// SPDX-License-Identifier: Apache-2.0
// A timerfd, for epoll.
#pragma once

#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class Timer {
  public:
    [[nodiscard]] static Result<Timer> open() {
        UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
        if (!timer) return fail_errno(errno, "cannot make a timer");
        return Timer(std::move(timer));
    }

    /// Readable once `first` is over.
    [[nodiscard]] int fd() const { return timer_.get(); }

    /// Zero `first` disarms; zero `interval` makes it a one-shot.
    void set(std::chrono::nanoseconds first, std::chrono::nanoseconds interval = {}) {
        const auto spec = [](std::chrono::nanoseconds span) {
            const auto whole = std::chrono::duration_cast<std::chrono::seconds>(span);
            return timespec{whole.count(), (span - whole).count()};
        };
        const itimerspec setting{spec(interval), spec(first)};
        timerfd_settime(timer_.get(), 0, &setting, nullptr);
    }

    /// Makes it unreadable until the next time. Never blocks.
    void drain() {
        std::uint64_t expirations = 0;
        [[maybe_unused]] const ssize_t got = read(timer_.get(), &expirations, sizeof expirations);
    }

  private:
    explicit Timer(UniqueFd timer) : timer_(std::move(timer)) {}
    UniqueFd timer_;
};

}  // namespace fiplane
