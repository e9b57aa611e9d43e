// SPDX-License-Identifier: Apache-2.0
// Everything that carries fiplane's mark, in the order of removal.
#include <fmt/format.h>

#include <algorithm>

#include "build/diff.hpp"
#include "build/names.hpp"

namespace fiplane::build {
namespace {

bool has_table(const nf::Ruleset& ruleset, nf::Family family) {
    const std::string prefix = nf::Ruleset::scoped_name(family, std::string{kTableName}, "");
    const auto in_table = [&](const auto& entry) { return entry.first.starts_with(prefix); };
    return std::ranges::any_of(ruleset.maps, in_table) || std::ranges::any_of(ruleset.sets, in_table) ||
           std::ranges::any_of(ruleset.chains, [&](const nf::Chain& chain) {
               return chain.family == family && chain.table == kTableName;
           });
}

void remove_tables(const ActualNetns& root, bool anything_else, Draft& draft) {
    constexpr std::array kFamilies = {nf::Family::kInet, nf::Family::kNetdev, nf::Family::kIp};
    Operation operation{Stage::kNft, "", RunNft{delete_tables({kFamilies.begin(), kFamilies.end()})}, {}};
    for (const auto family : kFamilies) {
        if (!has_table(root.netfilter, family)) continue;
        operation.steps.push_back({Step::Action::kRemove, "", "nft table " + table_name(family), {}});
    }
    // A table whose chains went with their devices does not show, but can only be there beside other objects of ours.
    if (anything_else || !operation.steps.empty()) draft.operations.push_back(std::move(operation));
}

}  // namespace

Draft diff_teardown(const ActualNode& actual) {
    Draft draft;
    const ActualNetns& root = actual.netns.at("");
    for (const auto& [name, link] : root.links) {
        if (!is_marked(link.alias)) continue;
        draft.add(Stage::kRemoveLinks, "", RemoveDevice{name}, Step::Action::kRemove,
                  fmt::format("{} {}", link.kind, name));
    }
    for (const auto& [name, found] : actual.netns) {
        if (!name.empty() && !found.ours) continue;
        if (!name.empty()) draft.add(Stage::kRemoveNetns, name, RemoveNetns{}, Step::Action::kRemove, "netns " + name);
        for (const auto& [fip, fixed] : translations_of(found.netfilter))
            draft.withdrawn.insert({fip, fixed});
    }
    remove_tables(root, !draft.operations.empty(), draft);
    draft.sort();
    return draft;
}

}  // namespace fiplane::build
