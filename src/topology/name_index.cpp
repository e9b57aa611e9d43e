// SPDX-License-Identifier: Apache-2.0
#include "topology/name_index.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "topology/suggest.hpp"

namespace fiplane::topology {
namespace {

constexpr std::size_t kNamesInHint = 8;

}  // namespace

std::string NameIndex::add(const Field<std::string>& name, MistakeList& mistakes) {
    const std::size_t index = names_.size();
    complete_ = complete_ && name;
    names_.push_back(name.value.value_or(std::string{}));
    if (!name) return fmt::format("#{}", index);
    const auto [first, fresh] = by_name_.try_emplace(*name, index, name.place);
    if (fresh) return *name;
    mistakes.add(name.place, fmt::format("two {}s are called {}", kind_, *name),
                 fmt::format("the other is at line {}; names of {}s are unique", first->second.second.line, kind_));
    return fmt::format("{}#{}", *name, index);
}

std::optional<std::size_t> NameIndex::find(const Field<std::string>& reference, const std::string& object,
                                           MistakeList& mistakes) {
    if (!reference) return std::nullopt;
    const auto found = by_name_.find(*reference);
    if (found != by_name_.end()) return found->second.first;
    if (complete_) {
        mistakes.add(reference.place, fmt::format("{}: unknown {} {}", object, kind_, *reference),
                     suggestion(*reference));
    }
    return std::nullopt;
}

std::string NameIndex::suggestion(const std::string& name) {
    if (names_.empty()) return fmt::format("the file has no {}s", kind_);
    if (suggestions_left_-- > 0) {
        if (const auto near = closest(name, names_)) return fmt::format("did you mean {}?", *near);
    }
    if (names_.size() <= kNamesInHint) return fmt::format("the {}s are {}", kind_, fmt::join(names_, ", "));
    return fmt::format("none of the file's {} {}s has this name", names_.size(), kind_);
}

}  // namespace fiplane::topology
