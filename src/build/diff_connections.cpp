// SPDX-License-Identifier: Apache-2.0
// Connections that must not outlive the translation that they were made with.
#include <fmt/format.h>

#include "build/diff_impl.hpp"

namespace fiplane::build {

namespace {

std::map<Ipv4, Ipv4> wanted_translations(const DesiredNetns& wanted) {
    for (const auto& table : wanted.tables) {
        const auto in = table.maps.find(kFipInMap);
        if (in != table.maps.end()) return in->second;
    }
    return {};
}

/// Does `translations` give the floating IP this address?
bool has_pair(const std::map<Ipv4, Ipv4>& translations, const std::pair<const Ipv4, Ipv4>& pair) {
    const auto found = translations.find(pair.first);
    return found != translations.end() && found->second == pair.second;
}

/// Those of the `shared` addresses, by their rules, whose rules go.
std::set<Ipv4> given_up(const std::map<std::string, Ipv4>& shared, const DesiredNetns& wanted) {
    std::set<std::string> kept;
    for (const auto& table : wanted.tables) {
        for (const auto& chain : table.chains)
            kept.insert(chain.rules.begin(), chain.rules.end());
    }
    std::set<Ipv4> addresses;
    for (const auto& [rule, address] : shared) {
        if (!kept.contains(rule)) addresses.insert(address);
    }
    return addresses;
}

}  // namespace

/// Conntrack keeps a connection's translation for as long as it lasts: those whose address stands for another now, or
/// for none, end with it.
void NodeDiff::end_connections(const NetnsName& name, const DesiredNetns& wanted) {
    const nf::Ruleset& now_there = now(name).netfilter;
    const auto before = translations_of(now_there);
    const auto after = wanted_translations(wanted);
    const auto shared = shared_sources(now_there);
    std::set<Ipv4> ended = given_up(shared, wanted);
    for (const auto& pair : before) {
        if (name.empty() || has_pair(after, pair)) continue;
        draft_.withdrawn.insert({pair.first, pair.second});
        ended.insert({pair.first, pair.second});
    }
    // Whoever gets an address of its own may have had a shared one before.
    for (const auto& pair : after) {
        if (!shared.empty() && !has_pair(before, pair)) ended.insert(pair.second);
    }
    for (const Ipv4 address : ended) {
        draft_.add(Stage::kFlushConntrack, name, FlushConntrack{address}, Step::Action::kRemove,
                   fmt::format("conntrack entries of {}", address.str()));
    }
}

}  // namespace fiplane::build
