// SPDX-License-Identifier: Apache-2.0
// Names of one kind of object, for references.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "topology/mistakes.hpp"

namespace fiplane::topology {

class NameIndex {
  public:
    /// `kind` as in messages: "node".
    explicit NameIndex(std::string kind) : kind_(std::move(kind)) {}

    /// Registers the next object (they count from 0) and returns a name that no other has. A second object of one
    /// name is reported, and gets a made-up one, so that what is derived from it clashes with nothing else.
    std::string add(const Field<std::string>& name, MistakeList& mistakes);

    /// The object that `reference` names. Reports an unknown name, unless an object's name could not be read: it may
    /// be that one. `object` begins the message: "port vm1".
    [[nodiscard]] std::optional<std::size_t> find(const Field<std::string>& reference, const std::string& object,
                                                  MistakeList& mistakes);

  private:
    std::string suggestion(const std::string& name);

    std::string kind_;
    std::vector<std::string> names_;
    std::unordered_map<std::string, std::pair<std::size_t, Place>> by_name_;
    bool complete_ = true;
    int suggestions_left_ = 100;  ///< each looks at all names, and one wrong name may stand in 10,000 places
};

}  // namespace fiplane::topology
