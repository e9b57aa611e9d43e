// SPDX-License-Identifier: Apache-2.0
// Neighbours that fast-path entries rest on. Linux does not see the packets that BPF carries, so it would let these
// neighbours age and go; the agent asks it to confirm those that are in use.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <tuple>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"

namespace fiplane {

class Keepalives {
  public:
    /// Last use of a row of fl_dests, seconds since boot; 0: never, or no such row.
    using LastUse = std::function<std::uint32_t(const fl_dest_key&)>;
    /// Asks Linux to confirm a neighbour.
    using Confirm = std::function<Result<>(const NetnsName&, int ifindex, const IpAddress&)>;

    /// To be called every second. `now` is in seconds since boot, on the clock that the programs stamp with.
    void tick(const std::vector<Keepalive>& keepalives, std::uint32_t now, const LastUse& last_use,
              const Confirm& confirm);

    [[nodiscard]] std::uint64_t confirmations() const { return confirmations_; }

  private:
    using Id = std::tuple<NetnsName, int, IpAddress>;
    [[nodiscard]] bool wanted(const Keepalive& keepalive, std::uint32_t now, const LastUse& last_use) const;

    std::map<Id, std::uint32_t> asked_;  ///< when each one was last asked for, seconds since boot
    std::uint64_t confirmations_ = 0;
};

}  // namespace fiplane
