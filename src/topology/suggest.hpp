// SPDX-License-Identifier: Apache-2.0
// "did you mean ...?"
#pragma once

#include <optional>
#include <ranges>
#include <string>
#include <string_view>

namespace fiplane::topology {

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`; anything over `limit` is
/// returned as limit + 1.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit);

/// How far a typing error may lie from the word that was meant.
[[nodiscard]] constexpr std::size_t typing_error_limit(std::string_view word) {
    return word.size() <= 2 ? 1 : word.size() / 4 + 1;
}

/// The candidate nearest to `word`, if one is near enough for a typing error; of equals the first.
template <std::ranges::input_range Range>
[[nodiscard]] std::optional<std::string> closest(std::string_view word, const Range& candidates) {
    std::optional<std::string> best;
    std::size_t limit = typing_error_limit(word);
    for (const auto& candidate : candidates) {
        const std::size_t distance = edit_distance(word, candidate, limit);
        if (distance > limit) continue;
        best = std::string(candidate);
        if (distance == 0) break;
        limit = distance - 1;
    }
    return best;
}

}  // namespace fiplane::topology
