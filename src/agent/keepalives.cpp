// SPDX-License-Identifier: Apache-2.0
#include "agent/keepalives.hpp"

#include <linux/neighbour.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace fiplane {
namespace {

/// A row that carried a packet within this time is in use. Less than gc_stale_time (60 s), after which Linux may
/// collect a stale neighbour.
constexpr std::uint32_t kInUseSeconds = 30;
/// Between two attempts at a neighbour that does not answer and that nothing depends on yet.
constexpr std::uint32_t kUnresolvedSeconds = 30;
/// A stale neighbour that was asked for is delayed (5 s) and probed (3 s) by itself: asking more often changes nothing.
constexpr std::uint32_t kProbingSeconds = 10;

constexpr std::uint16_t kUsable = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE;

}  // namespace

bool Keepalives::wanted(const Keepalive& keepalive, std::uint32_t now, const LastUse& last_use) const {
    const auto asked = asked_.find({keepalive.netns, keepalive.ifindex, keepalive.address});
    const auto asked_within = [&](std::uint32_t seconds) {
        return asked != asked_.end() && now - asked->second < seconds;
    };
    if ((keepalive.state & kUsable) == 0) return keepalive.always || !asked_within(kUnresolvedSeconds);
    if ((keepalive.state & NUD_STALE) == 0 || asked_within(kProbingSeconds)) return false;
    if (keepalive.always) return true;
    return std::ranges::any_of(keepalive.dests, [&](const fl_dest_key& key) {
        const std::uint32_t used = last_use(key);
        return used != 0 && now - used <= kInUseSeconds;
    });
}

void Keepalives::tick(const std::vector<Keepalive>& keepalives, std::uint32_t now, const LastUse& last_use,
                      const Confirm& confirm) {
    std::erase_if(asked_, [&](const auto& entry) { return now - entry.second > 2 * kUnresolvedSeconds; });
    for (const Keepalive& keepalive : keepalives) {
        if (!wanted(keepalive, now, last_use)) continue;
        asked_[{keepalive.netns, keepalive.ifindex, keepalive.address}] = now;
        ++confirmations_;
        if (const auto done = confirm(keepalive.netns, keepalive.ifindex, keepalive.address); !done)
            spdlog::debug("neighbour {}: {}", keepalive.address.str(), done.error().message());
    }
}

}  // namespace fiplane
