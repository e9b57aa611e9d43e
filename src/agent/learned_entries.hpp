// SPDX-License-Identifier: Apache-2.0
// Learned entries of bridges and vxlan devices that fast-path rows rest on. Linux forgets a MAC from which it sees no
// frame, and those that BPF carries it does not see; the agent refreshes the entries of those that go on sending.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"

namespace fiplane {

class LearnedEntries {
  public:
    /// When a row's MAC was last the source of a frame, seconds since boot; 0: never, or no such row.
    using LastUse = std::function<std::uint32_t(const fl_fdb_key&)>;
    /// Refreshes an entry in Linux. False: it is gone or has moved, of which a notification will tell.
    using Refresh = std::function<Result<bool>(const LearnedEntry&)>;

    /// To be called every second. `now` is in seconds since boot, on the clock that the programs stamp with.
    void tick(const std::vector<LearnedEntry>& entries, std::uint32_t now, const LastUse& last_use,
              const Refresh& refresh);

    [[nodiscard]] std::uint64_t refreshes() const { return refreshes_; }

  private:
    using Id = std::tuple<int, IpAddress, Mac>;
    struct Known {
        std::uint32_t refreshed = 0;  ///< when, seconds since boot; 0: not by us yet
        std::uint32_t last_use = 0;   ///< as of then
    };
    [[nodiscard]] static bool due(const LearnedEntry& entry, const Known& known, std::uint32_t now);

    std::map<Id, Known> known_;
    std::uint64_t refreshes_ = 0;
};

}  // namespace fiplane
