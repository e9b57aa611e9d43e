// SPDX-License-Identifier: Apache-2.0
// Who holds what only one may hold: addresses, MACs, device names, ids, VNIs.
#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>

#include "topology/mistakes.hpp"

namespace fiplane::topology {

struct Holder {
    std::string who;  ///< "port vm1"
    Place place;      ///< of the claim
};

/// Reports that two hold `what` ("address 10.1.0.11"), at the one that stands later in the file.
inline void report_clash(MistakeList& mistakes, const std::string& what, const Holder& a, const Holder& b,
                         const std::string& hint) {
    const auto& [earlier, later] = a.place <= b.place ? std::pair(a, b) : std::pair(b, a);
    mistakes.add(later.place, fmt::format("{}: {} is already taken by {}", later.who, what, earlier.who),
                 fmt::format("line {} has it; {}", earlier.place.line, hint));
}

template <typename Key>
class Claims {
  public:
    /// Makes `holder` the holder of `key`, or returns the one that it has already.
    [[nodiscard]] const Holder* claim(const Key& key, const Holder& holder) {
        const auto [at, fresh] = holders_.try_emplace(key, holder);
        return fresh ? nullptr : &at->second;
    }
    [[nodiscard]] const Holder* find(const Key& key) const {
        const auto found = holders_.find(key);
        return found == holders_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] bool contains(const Key& key) const { return holders_.contains(key); }

  private:
    std::map<Key, Holder> holders_;
};

}  // namespace fiplane::topology
