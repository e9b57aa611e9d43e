// SPDX-License-Identifier: Apache-2.0
// Places in the file, values that know their place, and the list that collects mistakes.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <vector>

#include "topology/load.hpp"

namespace fiplane::topology {

/// Where something stands in the file. 1-based.
struct Place {
    int line = 1;
    int column = 1;
    auto operator<=>(const Place&) const = default;
};

/// A value of the file and where it stands. A key that is there with a value that was refused is `written` without a
/// value: the mistake is already in the list, and nobody must complain again that the key is missing.
template <typename T>
struct Field {
    bool written = false;
    Place place;
    std::optional<T> value;

    explicit operator bool() const { return value.has_value(); }
    const T& operator*() const { return *value; }
    const T* operator->() const { return &*value; }
};

/// Collects mistakes in any order and gives them back sorted, each once.
class MistakeList {
  public:
    void add(Place place, std::string what, std::string hint = {});
    [[nodiscard]] bool empty() const { return mistakes_.empty(); }
    /// By place; at one place in the order in which they were found. Leaves the list empty.
    [[nodiscard]] std::vector<Mistake> take_sorted();

  private:
    std::vector<Mistake> mistakes_;
};

}  // namespace fiplane::topology
