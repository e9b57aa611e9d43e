// SPDX-License-Identifier: Apache-2.0
// "Which prefix of this group contains that one?" in at most 33 look-ups, however many prefixes there are.
#pragma once

#include <map>
#include <optional>
#include <utility>

#include "core/types.hpp"

namespace fiplane::topology {

class PrefixIndex {
  public:
    /// Groups are the caller's numbers. The first of equal prefixes in a group stays.
    void add(std::size_t group, const Prefix& prefix, std::size_t id) {
        ids_.try_emplace({group, prefix.network()}, id);
    }

    /// Takes `id` out of the group again, if it is the one that stayed.
    void remove(std::size_t group, const Prefix& prefix, std::size_t id) {
        const auto found = ids_.find({group, prefix.network()});
        if (found != ids_.end() && found->second == id) ids_.erase(found);
    }

    /// The shortest prefix of `group` that is `prefix` or contains it.
    [[nodiscard]] std::optional<std::size_t> containing(std::size_t group, const Prefix& prefix) const {
        for (std::uint8_t length = 0; length <= prefix.length; ++length) {
            const auto found = ids_.find({group, Prefix{prefix.address, length}.network()});
            if (found != ids_.end()) return found->second;
        }
        return std::nullopt;
    }

  private:
    std::map<std::pair<std::size_t, Prefix>, std::size_t> ids_;
};

}  // namespace fiplane::topology
