// SPDX-License-Identifier: Apache-2.0
// Link-local pairs and rule priorities: what must stay the same over restarts. Files in Neutron's formats
// (l3/link_local_allocator.py, l3/fip_rule_priority_allocator.py): `fip-linklocal-networks` holds
// "<router id>,169.254.x.y/31", `fip-priorities` holds "<floating IP>,<priority>", one per line.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/result.hpp"
#include "core/types.hpp"

namespace fiplane::build {

/// 169.254.64.0/18 cut into /31s: the even address is the router's end, the odd one the fip namespace's.
inline constexpr Prefix kPairPool{{0xa9fe4000}, 18};
inline constexpr std::uint32_t kPriorityFirst = 32768;
inline constexpr std::uint32_t kPriorityLast = 72767;

/// Values only; reserving is in memory.
class Allocations {
  public:
    /// Lines that do not parse, lie outside of the pool or repeat a value are dropped, as Neutron does.
    static Allocations parse(std::string_view pairs, std::string_view priorities);
    [[nodiscard]] std::string print_pairs() const;
    [[nodiscard]] std::string print_priorities() const;

    [[nodiscard]] const std::map<std::string, Ipv4>& pairs() const { return pairs_; }
    [[nodiscard]] const std::map<Ipv4, std::uint32_t>& priorities() const { return priorities_; }

    /// What the key has already; else `live`, the value that Linux uses for it now (the files were lost), if it is
    /// free; else the lowest free one. kTableFull if the pool is empty.
    [[nodiscard]] Result<Ipv4> reserve_pair(const std::string& router_id, std::optional<Ipv4> live);
    [[nodiscard]] Result<std::uint32_t> reserve_priority(Ipv4 fip, std::optional<std::uint32_t> live);
    void release_pair(const std::string& router_id);
    void release_priority(Ipv4 fip);

    /// Takes over `other`'s entries that are not here. kFailed, nothing changed, if the two contradict each other.
    [[nodiscard]] Result<> merge(const Allocations& other);

    bool operator==(const Allocations& other) const {
        return pairs_ == other.pairs_ && priorities_ == other.priorities_;
    }

  private:
    [[nodiscard]] bool add_pair(const std::string& router_id, Ipv4 first);
    [[nodiscard]] bool add_priority(Ipv4 fip, std::uint32_t priority);

    std::map<std::string, Ipv4> pairs_;
    std::map<Ipv4, std::uint32_t> priorities_;
    std::set<std::uint32_t> used_pairs_;
    std::set<std::uint32_t> used_priorities_;
    /// Everything below is taken: keeps reserving many from being quadratic.
    std::uint32_t next_pair_ = kPairPool.address.value;
    std::uint32_t next_priority_ = kPriorityFirst;
};

/// The files of a state directory.
class AllocationFiles {
  public:
    explicit AllocationFiles(std::string directory) : directory_(std::move(directory)) {}

    /// Absent files and an absent directory are empty allocations.
    [[nodiscard]] Result<Allocations> load() const;
    /// Under the lock file: reads again, adds what `wanted` has, writes each file to a temporary one, syncs and
    /// renames. Makes the directory. Fails if another process reserved the same values in the meantime.
    [[nodiscard]] Result<> add(const Allocations& wanted) const;
    /// Under the lock file: removes the entries of these keys.
    [[nodiscard]] Result<> release(const std::set<std::string>& router_ids, const std::set<Ipv4>& fips) const;

  private:
    [[nodiscard]] Result<> store(const Allocations& allocations) const;
    std::string directory_;
};

}  // namespace fiplane::build
