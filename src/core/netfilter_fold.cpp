// SPDX-License-Identifier: Apache-2.0
// Rules that say the same of one address each, as iptables has to write them, become one rule with a map or a set, as
// nft would have it. An evaluation that does not know the packet's address then has one question to ask, not one for
// each rule.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/netfilter.hpp"

namespace fiplane::nf {

namespace {

/// Single addresses that a match compares with; empty if it is anything else.
std::vector<Ipv4> hosts_of(const Statement& statement, Field field) {
    const auto* match = std::get_if<Match>(&statement);
    std::vector<Ipv4> hosts;
    if (match == nullptr || match->field != field || match->negate || match->set_name) return hosts;
    for (const Value& value : match->any_of) {
        const auto* prefix = std::get_if<Prefix>(&value);
        if (prefix == nullptr || prefix->length != 32) return {};
        hosts.push_back(prefix->address);
    }
    return hosts;
}

/// The place of the only match on this field, if that is on one address.
std::optional<std::size_t> place_of(const Rule& rule, Field field) {
    std::optional<std::size_t> place;
    for (std::size_t at = 0; at < rule.statements.size(); ++at) {
        const auto* match = std::get_if<Match>(&rule.statements[at]);
        if (match == nullptr || match->field != field) continue;
        if (place || hosts_of(rule.statements[at], field).size() != 1) return std::nullopt;
        place = at;
    }
    return place;
}

/// What is at the end of a rule that translates to one address; null if it does anything else.
AddressSource* translation_of(Rule& rule, Field field) {
    if (rule.statements.empty()) return nullptr;
    Statement& last = rule.statements.back();
    AddressSource* to = nullptr;
    if (auto* dnat = std::get_if<Dnat>(&last); dnat != nullptr && field == Field::kIpDaddr) to = &dnat->to;
    if (auto* snat = std::get_if<Snat>(&last); snat != nullptr && field == Field::kIpSaddr) to = &snat->to;
    return to != nullptr && to->address ? to : nullptr;
}

/// A run of rules that differ in one address, and in what it is translated to. Of the rule that the run becomes.
class Run {
  public:
    /// Takes the rule in; false if it begins another run.
    bool add(Rule& rule) {
        for (const Field field : {Field::kIpSaddr, Field::kIpDaddr}) {
            if (size_ > 0 && field != field_) continue;
            const auto place = place_of(rule, field);
            if (place && add(rule, field, *place)) return true;
        }
        return false;
    }
    [[nodiscard]] Rule finish() {
        if (size_ > 1) {
            if (translates_) {
                AddressSource& to = *translation_of(common_, field_);
                to = {.address = std::nullopt, .map_name = std::nullopt, .map_key = field_, .anonymous_map = pairs_};
            } else {
                auto& listed = std::get<Match>(common_.statements.at(place_)).any_of;
                listed.clear();
                for (const Ipv4 member : members_)
                    listed.emplace_back(Prefix::host(member));
            }
            if (translates_) common_.statements.erase(common_.statements.begin() + static_cast<std::ptrdiff_t>(place_));
            common_.text = fmt::format("{} (and {} more like it)", text_, size_ - 1);
        }
        size_ = 0;
        return std::exchange(common_, {});
    }
    [[nodiscard]] bool empty() const { return size_ == 0; }

  private:
    bool add(Rule& rule, Field field, std::size_t place) {
        const Ipv4 host = hosts_of(rule.statements[place], field).front();
        AddressSource* to = translation_of(rule, field);
        if (size_ == 0) {
            field_ = field;
            place_ = place;
            translates_ = to != nullptr;
            text_ = rule.text;
            pairs_.clear();
            members_.clear();
            common_ = rule;
        } else if (place != place_ || translates_ != (to != nullptr) || !is_alike(rule)) {
            return false;
        }
        // Of two rules for one address the first one decides.
        const bool fresh = members_.insert(host).second;
        if (!fresh && !translates_) return false;
        if (to != nullptr) pairs_.emplace(host, *to->address);
        ++size_;
        return true;
    }

    /// Equal to the first one but for the address and what it is translated to.
    [[nodiscard]] bool is_alike(const Rule& rule) const {
        if (rule.statements.size() != common_.statements.size()) return false;
        for (std::size_t at = 0; at < rule.statements.size(); ++at) {
            const bool last = at + 1 == rule.statements.size();
            if (at == place_) continue;
            if (last && translates_ ? !is_same_translation(rule.statements[at], common_.statements[at])
                                    : rule.statements[at] != common_.statements[at])
                return false;
        }
        return true;
    }

    static bool is_same_translation(const Statement& a, const Statement& b) {
        const auto* first = std::get_if<Snat>(&a);
        const auto* second = std::get_if<Snat>(&b);
        if (first != nullptr && second != nullptr) return first->random == second->random;
        return std::holds_alternative<Dnat>(a) && std::holds_alternative<Dnat>(b);
    }

    std::size_t size_ = 0;
    Field field_ = Field::kOther;
    std::size_t place_ = 0;  ///< of the match
    bool translates_ = false;
    std::string text_;
    std::map<Ipv4, Ipv4> pairs_;
    std::set<Ipv4> members_;
    Rule common_;
};

}  // namespace

void fold(Ruleset& ruleset) {
    for (Chain& chain : ruleset.chains) {
        std::vector<Rule> folded;
        Run run;
        for (Rule& rule : chain.rules) {
            if (run.add(rule)) continue;
            if (!run.empty()) folded.push_back(run.finish());
            if (!run.add(rule)) folded.push_back(std::move(rule));
        }
        if (!run.empty()) folded.push_back(run.finish());
        chain.rules = std::move(folded);
    }
}

}  // namespace fiplane::nf
