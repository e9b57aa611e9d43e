// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <functional>

#include "core/netfilter_prepared.hpp"

namespace fiplane::nf {

namespace {

const char* family_name(Family family) {
    switch (family) {
        case Family::kIp:
            return "ip";
        case Family::kInet:
            return "inet";
        case Family::kBridge:
            return "bridge";
        case Family::kNetdev:
            return "netdev";
        case Family::kArp:
            return "arp";
        case Family::kIp6:
            return "ip6";
    }
    return "?";
}

/// nf_nat registers one hook per manipulation at a fixed priority; a NAT chain's own priority only orders it among the
/// NAT chains there (net/netfilter/nf_nat_core.c, nf_nat_register_fn).
int effective_priority(const Chain& chain) {
    if (chain.type != ChainType::kNat || !chain.hook) return chain.priority;
    const bool destination = *chain.hook == Hook::kPrerouting || *chain.hook == Hook::kOutput;
    return destination ? -100 : 100;
}

}  // namespace

std::string Ruleset::scoped_name(Family family, const std::string& table, const std::string& name) {
    return std::string(family_name(family)) + " " + table + " " + name;
}

std::size_t Ruleset::rule_count() const {
    std::size_t count = 0;
    for (const Chain& chain : chains)
        count += chain.rules.size();
    return count;
}

void ValueSet::add(const Value& value) {
    if (const auto* prefix = std::get_if<Prefix>(&value)) {
        if (prefix->length == 32) {
            hosts.insert(prefix->address.value);
        } else {
            prefixes.push_back(prefix->network());
        }
    } else if (const auto* name = std::get_if<std::string>(&value)) {
        if (name->ends_with('*')) {
            wildcards.push_back(name->substr(0, name->size() - 1));
        } else {
            names.insert(*name);
        }
    } else if (const auto* mac = std::get_if<Mac>(&value)) {
        macs.push_back(*mac);
    } else {
        numbers.insert(std::get<std::uint64_t>(value));
    }
}

bool ValueSet::contains(const Prefix& region) const {
    if (region.length == 32 && hosts.contains(region.address.value)) return true;
    return std::ranges::any_of(prefixes, [&](const Prefix& prefix) { return prefix.contains(region); });
}

bool ValueSet::contains_name(const std::string& name) const {
    return names.contains(name) ||
           std::ranges::any_of(wildcards, [&](const std::string& stem) { return name.starts_with(stem); });
}

bool HookChain::operator<(const HookChain& other) const {
    if (priority != other.priority) return priority < other.priority;
    return chain->priority < other.chain->priority;
}

Evaluator::Prepared::Prepared(const Ruleset& source) : ruleset(source) {
    for (const Chain& chain : ruleset.chains) {
        chains_by_name_[Ruleset::scoped_name(chain.family, chain.table, chain.name)] = &chain;
    }
    for (const Chain& chain : ruleset.chains)
        add_chain(chain);
    for (auto* hooks : {&ip_hooks, &ip6_hooks}) {
        for (auto& [hook, chains] : *hooks)
            note_peers(chains);
    }
    for (auto* hooks : {&ingress_hooks, &egress_hooks}) {
        for (auto& [device, chains] : *hooks)
            note_peers(chains);
    }
    note_tracking();
    note_connection_marks();
    drop_shared_snats();
    add_unpaired_destinations();
}

void Evaluator::Prepared::add_chain(const Chain& chain) {
    const bool inet = chain.family == Family::kInet;
    if (chain.hook && (inet || chain.family == Family::kIp)) {
        ip_hooks[*chain.hook].push_back({&chain, effective_priority(chain)});
    }
    if (chain.hook && (inet || chain.family == Family::kIp6)) {
        ip6_hooks[*chain.hook].push_back({&chain, effective_priority(chain)});
    }
    if (chain.hook && chain.family == Family::kNetdev) {
        auto& hooks = *chain.hook == Hook::kEgress ? egress_hooks : ingress_hooks;
        hooks[chain.device].push_back({&chain, chain.priority});
    }
    for (const Rule& rule : chain.rules) {
        for (const Statement& statement : rule.statements) {
            if (const auto* match = std::get_if<Match>(&statement)) {
                add_match(chain, *match);
            } else if (const auto* dnat = std::get_if<Dnat>(&statement)) {
                add_address_source(chain, dnat->to);
                add_pairs(rule, dnat->to, Field::kIpDaddr, dnats, dnat_origins);
            } else if (const auto* snat = std::get_if<Snat>(&statement)) {
                add_address_source(chain, snat->to);
                add_pairs(rule, snat->to, Field::kIpSaddr, snats, snat_origins);
            } else if (const auto* set = std::get_if<SetAddress>(&statement)) {
                add_address_source(chain, set->to);
            } else if (const auto* unknown = std::get_if<Unknown>(&statement)) {
                add_unknown(rule, *unknown);
            } else if (const auto* verdict = std::get_if<Verdict>(&statement)) {
                const auto target =
                    chains_by_name_.find(Ruleset::scoped_name(chain.family, chain.table, verdict->chain));
                if (target != chains_by_name_.end()) targets[verdict] = target->second;
            }
        }
    }
}

void Evaluator::Prepared::add_match(const Chain& chain, const Match& match) {
    const std::vector<Value>* listed = &match.any_of;
    if (match.set_name) {
        const auto set = ruleset.sets.find(Ruleset::scoped_name(chain.family, chain.table, *match.set_name));
        if (set == ruleset.sets.end()) return;
        listed = &set->second;
    }
    ValueSet& members = values[&match];
    for (const Value& value : *listed) {
        members.add(value);
        const auto* prefix = std::get_if<Prefix>(&value);
        if (prefix != nullptr && match.field == Field::kIpDaddr) destinations.push_back(prefix->network());
    }
    if (match.field == Field::kIpSaddr) note_source_test({&match, nullptr});
}

void Evaluator::Prepared::add_address_source(const Chain& chain, const AddressSource& source) {
    if (source.address) return;
    const std::map<Ipv4, Ipv4>* map = &source.anonymous_map;
    if (source.map_name) {
        const auto named = ruleset.maps.find(Ruleset::scoped_name(chain.family, chain.table, *source.map_name));
        if (named == ruleset.maps.end()) return;
        map = &named->second;
    }
    maps[&source] = map;
    if (source.map_key == Field::kIpSaddr) note_source_test({nullptr, map});
    if (source.map_key != Field::kIpDaddr) return;
    for (const auto& [key, value] : *map)
        destinations.push_back(Prefix::host(key));
}

void Evaluator::Prepared::add_pairs(const Rule& rule, const AddressSource& source, Field key,
                                    std::map<Ipv4, Ipv4>& pairs, Origins& origins) const {
    const auto map = maps.find(&source);
    if (map != maps.end()) {
        const bool same_field = source.map_key == key;
        if (same_field) pairs.insert(map->second->begin(), map->second->end());
        for (const auto& [from, to] : *map->second)
            origins[to].insert(same_field ? from : Ipv4{});
        return;
    }
    if (!source.address) return;
    std::set<Ipv4> before;
    for (const Statement& statement : rule.statements) {
        const auto* match = std::get_if<Match>(&statement);
        if (match == nullptr || match->field != key || match->negate) continue;
        for (const Value& value : match->any_of) {
            const auto* prefix = std::get_if<Prefix>(&value);
            if (prefix == nullptr || prefix->length != 32) {
                before.insert(Ipv4{});
                continue;
            }
            pairs.emplace(prefix->address, *source.address);
            before.insert(prefix->address);
        }
    }
    if (before.empty()) before.insert(Ipv4{});
    origins[*source.address].merge(before);
}

void Evaluator::Prepared::add_unknown(const Rule& rule, const Unknown& unknown) {
    if (unknown.may_translate) hidden_translation = rule.text;
    if (unknown.dnat) dnat_origins[*unknown.dnat].insert(Ipv4{});
    if (unknown.snat) snat_origins[*unknown.snat].insert(Ipv4{});
}

/// Of a source translation: one address only becomes `translated`, and that is translated back to it.
bool Evaluator::Prepared::is_paired(Ipv4 translated, const std::set<Ipv4>& origins) const {
    const auto back = dnats.find(translated);
    return back != dnats.end() && origins.size() == 1 && *origins.begin() == back->second;
}

/// A walk must tell them apart from their surroundings.
void Evaluator::Prepared::add_unpaired_destinations() {
    for (const auto& [translated, origins] : snat_origins) {
        if (!is_paired(translated, origins)) destinations.push_back(Prefix::host(translated));
    }
}

/// Where several addresses share one, NAT must change ports: no pair of addresses says what it does.
void Evaluator::Prepared::drop_shared_snats() {
    std::map<Ipv4, int> owners;
    for (const auto& [fixed, floating] : snats)
        ++owners[floating];
    std::erase_if(snats, [&](const auto& pair) { return owners.at(pair.second) > 1; });
}

void Evaluator::Prepared::note_source_test(const SourceTest& test) {
    if (test.map != nullptr && std::ranges::find(source_tests, test) != source_tests.end()) return;
    const std::size_t index = source_tests.size();
    source_tests.push_back(test);
    const ValueSet* members = test.match != nullptr ? &values.at(test.match) : nullptr;
    if (members == nullptr || !members->prefixes.empty() || members->hosts.size() > 64) {
        broad_source_tests.push_back(index);
        return;
    }
    for (const std::uint32_t host : members->hosts)
        source_hosts[host].push_back(index);
}

void Evaluator::Prepared::add_reachable(const Chain& chain, std::unordered_set<const Chain*>& reached) const {
    if (!reached.insert(&chain).second) return;
    for (const Rule& rule : chain.rules) {
        for (const Statement& statement : rule.statements) {
            const auto* verdict = std::get_if<Verdict>(&statement);
            const auto target = verdict != nullptr ? targets.find(verdict) : targets.end();
            if (target != targets.end()) add_reachable(*target->second, reached);
        }
    }
}

namespace {

bool changes_packets(const Statement& statement) {
    return std::holds_alternative<Dnat>(statement) || std::holds_alternative<Snat>(statement) ||
           std::holds_alternative<SetAddress>(statement) || std::holds_alternative<SetMark>(statement) ||
           std::holds_alternative<SetCtMark>(statement) || std::holds_alternative<SaveMark>(statement) ||
           std::holds_alternative<RestoreMark>(statement) || std::holds_alternative<Notrack>(statement);
}

bool has_rules(const HookChain& at) {
    return !at.chain->rules.empty() || !at.chain->policy_accept;
}

}  // namespace

bool Evaluator::Prepared::changes_packets(const Chain& chain) const {
    std::unordered_set<const Chain*> reached;
    add_reachable(chain, reached);
    return std::ranges::any_of(reached, [](const Chain* one) {
        return std::ranges::any_of(one->rules, [](const Rule& rule) {
            return std::ranges::any_of(rule.statements,
                                       [](const Statement& statement) { return nf::changes_packets(statement); });
        });
    });
}

/// Sorts the chains of a hook. Of those with equal priority the kernel runs the newest first (nf_hook_entries_grow),
/// and nothing tells which that is. While they only accept and drop, the order does not matter.
void Evaluator::Prepared::note_peers(std::vector<HookChain>& chains) const {
    std::ranges::stable_sort(chains, std::less<>{});
    const auto is_nat = [](const HookChain& at) { return at.chain->type == ChainType::kNat; };
    for (auto begin = chains.begin(); begin != chains.end();) {
        auto end =
            std::find_if(begin, chains.end(), [&](const HookChain& at) { return at.priority > begin->priority; });
        // Their own priorities tell NAT chains apart from one another, but not from other chains.
        if (std::all_of(begin, end, is_nat)) {
            end = std::find_if(begin, end, [&](const HookChain& at) { return *begin < at; });
        }
        const bool changed = std::any_of(begin, end, [&](const HookChain& at) { return changes_packets(*at.chain); });
        if (changed && std::count_if(begin, end, has_rules) > 1) {
            begin->peers = static_cast<std::size_t>(end - begin);
        }
        begin = end;
    }
}

namespace {

bool looks_at_conntrack(const Statement& statement) {
    if (const auto* match = std::get_if<Match>(&statement)) {
        return match->field == Field::kCtState || match->field == Field::kCtStatus || match->field == Field::kCtMark;
    }
    return std::holds_alternative<SetCtMark>(statement) || std::holds_alternative<SaveMark>(statement) ||
           std::holds_alternative<RestoreMark>(statement);
}

bool looks_at_conntrack(const Chain* chain) {
    return std::ranges::any_of(chain->rules, [](const Rule& rule) {
        return std::ranges::any_of(rule.statements,
                                   [](const Statement& statement) { return looks_at_conntrack(statement); });
    });
}

}  // namespace

void Evaluator::Prepared::note_tracking() {
    for (const auto* hooks : {&ip_hooks, &ip6_hooks}) {
        for (const auto& [hook, chains] : *hooks) {
            std::unordered_set<const Chain*> reached;
            bool translates = false;
            for (const HookChain& at : chains) {
                add_reachable(*at.chain, reached);
                translates = translates || at.chain->type == ChainType::kNat;
            }
            const bool looks = std::ranges::any_of(reached, [](const Chain* one) { return looks_at_conntrack(one); });
            tracking_matters[hook] = tracking_matters[hook] || translates || looks;
        }
    }
}

Evaluator::Evaluator(const Ruleset& ruleset) : prepared_(std::make_unique<const Prepared>(ruleset)) {}
Evaluator::~Evaluator() = default;
Evaluator::Evaluator(Evaluator&&) noexcept = default;

const std::vector<SourceTest>& Evaluator::source_tests() const {
    return prepared_->source_tests;
}
const std::vector<Prefix>& Evaluator::destinations() const {
    return prepared_->destinations;
}
const std::map<Ipv4, Ipv4>& Evaluator::dnats() const {
    return prepared_->dnats;
}
const std::map<Ipv4, Ipv4>& Evaluator::snats() const {
    return prepared_->snats;
}

std::map<Ipv4, Ipv4> Evaluator::floating_ips() const {
    std::map<Ipv4, Ipv4> out;
    for (const auto& [floating, fixed] : dnats()) {
        const auto back = snats().find(fixed);
        if (back != snats().end() && back->second == floating) out.emplace(floating, fixed);
    }
    return out;
}

bool Evaluator::answers_follow_rules(Ipv4 source) const {
    const auto origins = prepared_->dnat_origins.find(source);
    if (origins == prepared_->dnat_origins.end()) return true;
    const auto translated = prepared_->snats.find(source);
    return translated != prepared_->snats.end() && origins->second == std::set{translated->second};
}

std::vector<Ipv4> Evaluator::only_conntrack_answers() const {
    std::vector<Ipv4> sources;
    for (const auto& [source, origins] : prepared_->dnat_origins) {
        if (!answers_follow_rules(source)) sources.push_back(source);
    }
    return sources;
}

bool Evaluator::only_conntrack_routes_to(Ipv4 destination) const {
    const auto origins = prepared_->snat_origins.find(destination);
    return origins != prepared_->snat_origins.end() && !prepared_->is_paired(destination, origins->second);
}

bool Evaluator::translates() const {
    return !prepared_->dnat_origins.empty() || !prepared_->snat_origins.empty() ||
           !prepared_->hidden_translation.empty();
}

const std::string& Evaluator::hidden_translation() const {
    return prepared_->hidden_translation;
}

bool Evaluator::knows_source(const SourceTest& test, Ipv4 source) const {
    if (test.map != nullptr) return test.map->contains(source);
    return prepared_->values.at(test.match).contains(Prefix::host(source));
}

std::vector<std::size_t> Evaluator::source_hits(Ipv4 source) const {
    std::vector<std::size_t> hits;
    if (const auto literal = prepared_->source_hosts.find(source.value); literal != prepared_->source_hosts.end()) {
        hits = literal->second;
    }
    for (const std::size_t index : prepared_->broad_source_tests) {
        if (knows_source(prepared_->source_tests[index], source)) hits.push_back(index);
    }
    std::ranges::sort(hits);
    return hits;
}

std::vector<Prefix> Evaluator::known_sources(const SourceTest& test) const {
    std::vector<Prefix> known;
    if (test.map != nullptr) {
        for (const auto& [key, value] : *test.map)
            known.push_back(Prefix::host(key));
        return known;
    }
    const ValueSet& members = prepared_->values.at(test.match);
    known = members.prefixes;
    for (const std::uint32_t host : members.hosts)
        known.push_back(Prefix::host({host}));
    std::ranges::sort(known);
    return known;
}

bool Evaluator::has_effect(Family family, std::optional<Hook> hook) const {
    return std::ranges::any_of(prepared_->ruleset.chains, [&](const Chain& chain) {
        return chain.family == family && chain.hook && (!hook || *chain.hook == *hook) &&
               (!chain.rules.empty() || !chain.policy_accept);
    });
}

namespace {

bool acts(const std::map<std::string, std::vector<HookChain>>& hooks, const std::string& device) {
    const auto chains = hooks.find(device);
    return chains != hooks.end() && std::ranges::any_of(chains->second, has_rules);
}

}  // namespace

bool Evaluator::has_ingress(const std::string& device) const {
    return acts(prepared_->ingress_hooks, device);
}

std::set<Ipv4> Evaluator::ingress_sources(const std::string& device) const {
    std::set<Ipv4> sources;
    const auto chains = prepared_->ingress_hooks.find(device);
    if (chains == prepared_->ingress_hooks.end()) return sources;
    for (const HookChain& at : chains->second) {
        for (const Rule& rule : at.chain->rules) {
            for (const Statement& statement : rule.statements) {
                const auto* match = std::get_if<Match>(&statement);
                if (match == nullptr || match->field != Field::kIpSaddr) continue;
                for (const Value& value : match->any_of) {
                    const auto* prefix = std::get_if<Prefix>(&value);
                    const bool host = prefix != nullptr && prefix->length == 32 && !prefix->address.is_unset();
                    if (host) sources.insert(prefix->address);
                }
            }
        }
    }
    return sources;
}

bool Evaluator::has_egress(const std::string& device) const {
    return acts(prepared_->egress_hooks, device);
}

}  // namespace fiplane::nf
