// SPDX-License-Identifier: Apache-2.0
#include "topology/mistakes.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace fiplane::topology {

void MistakeList::add(Place place, std::string what, std::string hint) {
    mistakes_.push_back({place.line, place.column, std::move(what), std::move(hint)});
}

std::vector<Mistake> MistakeList::take_sorted() {
    std::ranges::stable_sort(mistakes_, {}, [](const Mistake& m) { return std::tuple(m.line, m.column); });
    // An anchored node that several aliases name is read once for each of them.
    const auto repeated = std::ranges::unique(mistakes_);
    mistakes_.erase(repeated.begin(), repeated.end());
    return std::exchange(mistakes_, {});
}

}  // namespace fiplane::topology
