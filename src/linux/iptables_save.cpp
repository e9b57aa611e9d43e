// SPDX-License-Identifier: Apache-2.0
#include "linux/iptables_save.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "linux/child_process.hpp"
#include "linux/iptables_rule.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane::iptables {
namespace {

constexpr std::chrono::seconds kPatience{5};

/// Rules as text, by table and chain.
using SavedRules = std::map<std::string, std::map<std::string, std::vector<std::string>>>;

bool has_extension(const nf::Rule& rule) {
    return std::ranges::any_of(rule.statements, [](const nf::Statement& statement) {
        const auto* unknown = std::get_if<nf::Unknown>(&statement);
        return unknown != nullptr && unknown->by_iptables;
    });
}

std::set<std::string> tables_with_extensions(const nf::Ruleset& ruleset, nf::Family family) {
    std::set<std::string> tables;
    for (const nf::Chain& chain : ruleset.chains) {
        if (chain.family == family && std::ranges::any_of(chain.rules, has_extension)) tables.insert(chain.table);
    }
    return tables;
}

SavedRules read(const std::string& saved) {
    SavedRules rules;
    std::istringstream lines(saved);
    std::string table;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('*')) table = line.substr(1);
        if (!line.starts_with("-A ")) continue;
        const std::size_t end = std::min(line.find(' ', 3), line.size());
        const std::string rule = end < line.size() ? line.substr(end + 1) : "";
        rules[table][line.substr(3, end - 3)].push_back(rule);
    }
    return rules;
}

}  // namespace

bool needs_save(const nf::Ruleset& ruleset, nf::Family family) {
    return !tables_with_extensions(ruleset, family).empty();
}

Result<std::string> save(const Netns& netns, nf::Family family) {
    const std::string program = family == nf::Family::kIp6 ? "ip6tables-nft-save" : "iptables-nft-save";
    // A child of this thread starts in the network namespace that the thread is in.
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    auto text = run_program({program}, kPatience);
    if (!text) text.error().where = nl::where_of(netns);
    return text;
}

void complete(nf::Ruleset& ruleset, nf::Family family, const std::string& saved) {
    const std::set<std::string> tables = tables_with_extensions(ruleset, family);
    const SavedRules rules = read(saved);
    for (nf::Chain& chain : ruleset.chains) {
        if (chain.family != family || !tables.contains(chain.table) || !rules.contains(chain.table)) continue;
        const auto& chains = rules.at(chain.table);
        const auto found = chains.find(chain.name);
        if (found == chains.end() || found->second.size() != chain.rules.size()) continue;
        std::ranges::transform(found->second, chain.rules.begin(),
                               [&](const std::string& text) { return parse_rule(text, family, chain.table == "nat"); });
    }
}

}  // namespace fiplane::iptables
