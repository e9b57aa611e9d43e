// SPDX-License-Identifier: Apache-2.0
// When to try again, and how often something may be done. Values without a clock of their own.
#pragma once

#include <algorithm>
#include <chrono>

namespace fiplane {

/// Doubling delays between attempts at something that keeps failing.
class Backoff {
  public:
    using Duration = std::chrono::milliseconds;
    Backoff(Duration first, Duration longest) : first_(first), longest_(longest), next_(first) {}

    /// The delay before the next attempt; the one after that is twice as long.
    [[nodiscard]] Duration next() {
        const auto delay = next_;
        next_ = std::min(next_ * 2, longest_);
        return delay;
    }
    void reset() { next_ = first_; }

  private:
    Duration first_;
    Duration longest_;
    Duration next_;
};

/// A budget that allows bursts and refills with time.
class TokenBucket {
  public:
    using Clock = std::chrono::steady_clock;
    TokenBucket(int capacity, Clock::duration refill_interval)
        : capacity_(capacity), tokens_(capacity), refill_interval_(refill_interval) {}

    /// Takes one token. Zero: taken; otherwise how long to wait until there is one.
    [[nodiscard]] Clock::duration take(Clock::time_point now) {
        refill(now);
        if (tokens_ == 0) return refilled_ + refill_interval_ - now;
        if (tokens_ == capacity_) refilled_ = now;
        --tokens_;
        return Clock::duration::zero();
    }
    [[nodiscard]] int tokens() const { return tokens_; }

  private:
    void refill(Clock::time_point now) {
        if (tokens_ == capacity_) return;
        const auto gained = (now - refilled_) / refill_interval_;
        if (gained <= 0) return;
        tokens_ = static_cast<int>(std::min<decltype(gained)>(capacity_, tokens_ + gained));
        refilled_ += gained * refill_interval_;
    }

    int capacity_;
    int tokens_;
    Clock::duration refill_interval_;
    Clock::time_point refilled_{};
};

}  // namespace fiplane
