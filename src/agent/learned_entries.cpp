// SPDX-License-Identifier: Apache-2.0
#include "agent/learned_entries.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace fiplane {
namespace {

/// Parts of an entry's life after which it is refreshed: two refreshes may come late.
constexpr std::uint32_t kRefreshesPerLife = 3;

}  // namespace

/// Entries that came together do not stay together: each has a time of its own between 3/4 of a part and all of it.
bool LearnedEntries::due(const LearnedEntry& entry, const Known& known, std::uint32_t now) {
    const std::uint32_t part = std::max(entry.ageing / kRefreshesPerLife, 1U);
    return known.refreshed == 0 || now - known.refreshed >= part - entry.mac.bytes.back() % (part / 4 + 1);
}

void LearnedEntries::tick(const std::vector<LearnedEntry>& entries, std::uint32_t now, const LastUse& last_use,
                          const Refresh& refresh) {
    auto before = std::exchange(known_, {});
    for (const LearnedEntry& entry : entries) {
        const Id id{entry.ifindex, entry.peer.value_or(IpAddress{}), entry.mac};
        const auto old = before.find(id);
        Known& known = known_[id] = old == before.end() ? Known{} : old->second;
        if (!due(entry, known, now)) continue;
        const std::uint32_t used = last_use(entry.row);
        // What was used before this agent came is refreshed if Linux still may have it; a stamp may be of the next
        // second.
        const bool moved = known.refreshed == 0 ? now - std::min(used, now) < entry.ageing : used != known.last_use;
        if (used == 0 || !moved) continue;
        known = {now, used};
        const auto done = refresh(entry);
        if (!done) spdlog::debug("{}", done.error().message());
        if (done && *done) ++refreshes_;
    }
}

}  // namespace fiplane
