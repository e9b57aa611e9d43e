// SPDX-License-Identifier: Apache-2.0
// Symbolic execution of one hook. A match that cannot be decided forks the execution: it is repeated with the other
// answer, and the outcomes of all paths are compared (merge()). The number of paths is bounded.
#include "core/netfilter.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/netfilter_prepared.hpp"

namespace fiplane::nf {

namespace {

constexpr std::size_t kMaxPaths = 512;
constexpr std::size_t kMaxJumps = 16;  // NFT_JUMP_STACK_SIZE

std::string describe(const Chain& chain, const Rule& rule) {
    // Ruleset::scoped_name gives "ip fiplane prerouting".
    return fmt::format("rule `{}` in {}", rule.text, Ruleset::scoped_name(chain.family, chain.table, chain.name));
}

/// Effect of one path through the hook.
struct Path {
    Tracking tracking = Tracking::kTracked;
    std::optional<Ipv4> saddr;
    std::optional<Prefix> daddr;
    std::optional<std::uint64_t> mark;
    bool status_dnat = false;

    bool accepted = true;
    std::optional<Ipv4> dnat;
    std::optional<Ipv4> snat;
    std::string snat_by;
    bool snat_unknown = false;  ///< translated to an address that depends on the unknown source
    bool notrack = false;
    std::optional<std::string> stopped;

    bool by_source = false;  ///< took a branch that only certain sources take
    std::string undecided;   ///< the first rule whose answer was guessed on this path
    std::string source_rule;

    [[nodiscard]] bool same_but_snat(const Path& other) const {
        return accepted == other.accepted && dnat == other.dnat && notrack == other.notrack && mark == other.mark &&
               !stopped && !other.stopped;
    }
    [[nodiscard]] bool same(const Path& other) const {
        return same_but_snat(other) && snat == other.snat && snat_unknown == other.snat_unknown;
    }
};

/// How a rule, or a chain, was left.
enum class Leave { kNext, kAccept, kDrop, kReturn, kStop, kTranslated };

enum class Answer { kNo, kYes, kMaybe, kMaybeBySource };

Answer answer(bool yes) { return yes ? Answer::kYes : Answer::kNo; }

/// Runs the chains of one hook for one packet, once per path.
class Interpreter {
  public:
    Interpreter(const std::vector<HookChain>& chains, const Evaluator::Prepared& prepared, Hook hook,
                const Packet& packet)
        : chains_(chains), prepared_(prepared), hook_(hook), packet_(packet) {}

    std::vector<Path> run(Tracking tracking) {
        std::vector<Path> paths;
        choices_.clear();
        do {
            if (paths.size() == kMaxPaths) {
                paths.front().stopped = fmt::format("more than {} ways through {}", kMaxPaths, first_chain());
                break;
            }
            paths.push_back(execute(tracking));
        } while (next_choices());
        return paths;
    }

    [[nodiscard]] const std::vector<SourceTest>& source_tests() const { return source_tests_; }

  private:
    Path execute(Tracking tracking);
    Leave run_base_chain(const HookChain& base);
    Leave run_rule(const Chain& chain, const Rule& rule, const Chain** jump, bool* is_goto);
    Leave run_statement(const Chain& chain, const Rule& rule, const Statement& statement);
    Leave run_matches(const Chain& chain, const Rule& rule, std::size_t* at);
    Leave translate_source(const Chain& chain, const Rule& rule, const AddressSource& to, bool random);
    Leave translate_destination(const Chain& chain, const Rule& rule, const AddressSource& to);
    Answer decide(const Match& match) const;
    Answer decide_state(const Match& match) const;
    Answer decide_status(const Match& match) const;
    Answer decide_source(const Match& match) const;
    bool choose(const Chain& chain, const Rule& rule, bool by_source);
    std::optional<Ipv4> look_up(const Chain& chain, const Rule& rule, const AddressSource& to, Leave* leave,
                                bool* unknown);
    Leave stop(const Chain& chain, const Rule& rule, const char* why) {
        path_.stopped = describe(chain, rule) + " " + why;
        return Leave::kStop;
    }
    /// Guesses for the next path: the last guess that was `no` becomes `yes`, and those after it are made anew.
    bool next_choices() {
        while (!choices_.empty() && choices_.back()) choices_.pop_back();
        if (choices_.empty()) return false;
        choices_.back() = true;
        return true;
    }
    [[nodiscard]] std::string first_chain() const {
        const Chain& chain = *chains_.front().chain;
        return Ruleset::scoped_name(chain.family, chain.table, chain.name);
    }
    void remember(const SourceTest& test) {
        if (std::ranges::find(source_tests_, test) == source_tests_.end()) source_tests_.push_back(test);
    }

    const std::vector<HookChain>& chains_;
    const Evaluator::Prepared& prepared_;
    Hook hook_;
    const Packet& packet_;
    Path path_;
    std::vector<bool> choices_;
    std::size_t choice_ = 0;
    bool before_conntrack_ = false;
    bool in_nat_ = false;
    std::vector<SourceTest> source_tests_;  ///< met on paths of a source that no test knows
};

Path Interpreter::execute(Tracking tracking) {
    path_ = Path{};
    path_.tracking = tracking;
    path_.saddr = packet_.saddr;
    path_.daddr = packet_.daddr;
    path_.mark = tracking == Tracking::kInvalid ? packet_.mark_invalid : packet_.mark;
    path_.status_dnat = packet_.dnat_done;
    choice_ = 0;
    bool translated = false;
    for (const HookChain& base : chains_) {
        in_nat_ = base.chain->type == ChainType::kNat;
        before_conntrack_ = hook_ == Hook::kIngress || base.priority < kConntrackPriority;
        // nf_nat asks its chains until one of them has set up a translation, and only for packets of a new entry.
        if (in_nat_ && (translated || path_.tracking != Tracking::kTracked)) continue;
        const Leave leave = run_base_chain(base);
        translated = translated || leave == Leave::kTranslated;
        if (leave == Leave::kDrop) path_.accepted = false;
        if (leave == Leave::kDrop || leave == Leave::kStop) break;
    }
    path_.notrack = path_.tracking == Tracking::kUntracked;
    return path_;
}

Leave Interpreter::run_base_chain(const HookChain& base) {
    struct Frame {
        const Chain* chain;
        std::size_t rule;
    };
    std::vector<Frame> stack{{base.chain, 0}};
    while (!stack.empty()) {
        Frame& top = stack.back();
        if (top.rule == top.chain->rules.size()) {
            stack.pop_back();
            continue;
        }
        const Chain* jump = nullptr;
        bool is_goto = false;
        const Rule& rule = top.chain->rules[top.rule++];
        const Leave leave = run_rule(*top.chain, rule, &jump, &is_goto);
        if (leave == Leave::kReturn) {
            stack.pop_back();
        } else if (leave != Leave::kNext) {
            return leave;
        } else if (jump != nullptr) {
            if (stack.size() == kMaxJumps) return stop(*base.chain, rule, "jumps too deep");
            if (is_goto) stack.pop_back();
            stack.push_back({jump, 0});
        }
    }
    return base.chain->policy_accept ? Leave::kAccept : Leave::kDrop;
}

Leave Interpreter::run_rule(const Chain& chain, const Rule& rule, const Chain** jump, bool* is_goto) {
    for (std::size_t at = 0; at < rule.statements.size(); ++at) {
        if (std::holds_alternative<Match>(rule.statements[at])) {
            // A rule that does not match is left; run_matches says kReturn for that, which is not the verdict.
            if (run_matches(chain, rule, &at) == Leave::kReturn) return Leave::kNext;
            if (at == rule.statements.size()) return Leave::kNext;
        }
        if (const auto* verdict = std::get_if<Verdict>(&rule.statements[at])) {
            switch (verdict->kind) {
                case VerdictKind::kAccept: return Leave::kAccept;
                case VerdictKind::kDrop: return Leave::kDrop;
                case VerdictKind::kReturn: return Leave::kReturn;
                case VerdictKind::kContinue: continue;
                case VerdictKind::kJump:
                case VerdictKind::kGoto: break;
            }
            const auto target = prepared_.targets.find(verdict);
            if (target == prepared_.targets.end()) return stop(chain, rule, "leads to a chain that is not known");
            *jump = target->second;
            *is_goto = verdict->kind == VerdictKind::kGoto;
            return Leave::kNext;
        }
        const Leave leave = run_statement(chain, rule, rule.statements[at]);
        if (leave == Leave::kReturn) return Leave::kNext;
        if (leave != Leave::kNext) return leave;
    }
    return Leave::kNext;
}

/// Runs the matches from *at on; leaves *at at the first other statement. kReturn: the rule does not match.
Leave Interpreter::run_matches(const Chain& chain, const Rule& rule, std::size_t* at) {
    std::size_t end = *at;
    bool undecided = false;
    for (; end < rule.statements.size(); ++end) {
        const auto* match = std::get_if<Match>(&rule.statements[end]);
        if (match == nullptr) break;
        const Answer found = decide(*match);
        if (found == Answer::kNo) return Leave::kReturn;
        undecided = undecided || found != Answer::kYes;
    }
    const bool effect = std::any_of(rule.statements.begin() + static_cast<std::ptrdiff_t>(end), rule.statements.end(),
                                    [](const Statement& statement) {
                                        return !std::holds_alternative<Match>(statement) &&
                                               !std::holds_alternative<Counter>(statement);
                                    });
    if (!effect) return Leave::kReturn;
    for (std::size_t i = *at; undecided && i < end; ++i) {
        const auto& match = std::get<Match>(rule.statements[i]);
        const Answer found = decide(match);
        if (found == Answer::kYes) continue;
        bool yes = false;
        if (found == Answer::kMaybeBySource) {
            if (!path_.by_source) remember({&match, nullptr});
            yes = choose(chain, rule, true) != match.negate;
        } else {
            yes = choose(chain, rule, false);
        }
        if (!yes) return Leave::kReturn;
    }
    *at = end;
    return Leave::kNext;
}

bool Interpreter::choose(const Chain& chain, const Rule& rule, bool by_source) {
    if (choice_ == choices_.size()) choices_.push_back(false);
    const bool yes = choices_[choice_++];
    if (by_source) {
        if (yes && !path_.by_source) path_.source_rule = describe(chain, rule);
        path_.by_source = path_.by_source || yes;
    } else if (path_.undecided.empty()) {
        path_.undecided = describe(chain, rule);
    }
    return yes;
}

Answer Interpreter::decide_state(const Match& match) const {
    const auto members = prepared_.values.find(&match);
    if (members == prepared_.values.end()) return Answer::kMaybe;
    const auto has = [&](const char* state) { return members->second.names.contains(state); };
    if (path_.tracking == Tracking::kUntracked) return answer(has("untracked") != match.negate);
    if (path_.tracking == Tracking::kInvalid || before_conntrack_) return answer(has("invalid") != match.negate);
    if (in_nat_) return answer(has("new") != match.negate);
    const int listed = int{has("new")} + int{has("established")} + int{has("related")};
    if (listed == 3) return answer(!match.negate);
    if (listed == 0) return answer(match.negate);
    return Answer::kMaybe;
}

Answer Interpreter::decide_status(const Match& match) const {
    // Without an entry nft_ct leaves the rule, negated or not (NFT_BREAK in nft_ct_get_eval).
    if (path_.tracking != Tracking::kTracked || before_conntrack_) return Answer::kNo;
    const auto members = prepared_.values.find(&match);
    const bool only_dnat = members != prepared_.values.end() && members->second.names.size() == 1 &&
                           members->second.names.contains("dnat");
    if (!only_dnat) return Answer::kMaybe;
    // Outside of NAT chains a packet that we do not translate may still be a reply of a translated flow.
    if (!path_.status_dnat && !in_nat_) return Answer::kMaybe;
    return answer(path_.status_dnat != match.negate);
}

Answer Interpreter::decide_source(const Match& match) const {
    if (packet_.ether_type != 0x0800) return Answer::kNo;
    const auto members = prepared_.values.find(&match);
    if (members == prepared_.values.end()) return Answer::kMaybe;
    if (!path_.saddr) return Answer::kMaybeBySource;
    return answer(members->second.contains(Prefix::host(*path_.saddr)) != match.negate);
}

Answer Interpreter::decide(const Match& match) const {
    if (match.field == Field::kOther) return Answer::kMaybe;
    if (match.field == Field::kCtState) return decide_state(match);
    if (match.field == Field::kCtStatus) return decide_status(match);
    if (match.field == Field::kIpSaddr) return decide_source(match);
    const auto found = prepared_.values.find(&match);
    if (found == prepared_.values.end()) return Answer::kMaybe;
    const ValueSet& members = found->second;
    const auto number = [&](std::optional<std::uint64_t> value) {
        return value ? answer(members.numbers.contains(*value) != match.negate) : Answer::kMaybe;
    };
    const auto mac = [&](const std::optional<Mac>& value) {
        if (!value) return Answer::kMaybe;
        return answer((std::ranges::find(members.macs, *value) != members.macs.end()) != match.negate);
    };
    // Matches on a header carry a test of the protocol with them, which negation does not turn round.
    const bool is_ip = packet_.ether_type == 0x0800;
    const bool is_arp = packet_.ether_type == 0x0806;
    switch (match.field) {
        case Field::kIifname: return answer(members.contains_name(packet_.iifname) != match.negate);
        case Field::kOifname: return answer(members.contains_name(packet_.oifname) != match.negate);
        case Field::kEtherSaddr: return mac(packet_.ether_saddr);
        case Field::kEtherType: return number(packet_.ether_type);
        case Field::kIpDaddr:
            if (!is_ip) return Answer::kNo;
            if (!path_.daddr) return Answer::kMaybe;
            return answer(members.contains(*path_.daddr) != match.negate);
        case Field::kArpSaddrEther: return is_arp ? mac(packet_.ether_saddr) : Answer::kNo;
        case Field::kArpSaddrIp:
            if (!is_arp) return Answer::kNo;
            if (!path_.saddr) return Answer::kMaybe;
            return answer(members.contains(Prefix::host(*path_.saddr)) != match.negate);
        case Field::kIpProtocol: return number(packet_.protocol);
        case Field::kMark: return number(path_.mark);
        case Field::kEtherDaddr:
        case Field::kIpSaddr:
        case Field::kCtState:
        case Field::kCtStatus:
        case Field::kOther: return Answer::kMaybe;
    }
    return Answer::kMaybe;
}

/// The address that a NAT or payload statement writes. None: *leave says how the rule is left (kReturn: no match), or
/// *unknown is set: some address that depends on the source.
std::optional<Ipv4> Interpreter::look_up(const Chain& chain, const Rule& rule, const AddressSource& to, Leave* leave,
                                         bool* unknown) {
    if (to.address) return to.address;
    const auto resolved = prepared_.maps.find(&to);
    const bool by_source = to.map_key == Field::kIpSaddr;
    if (resolved == prepared_.maps.end() || (!by_source && to.map_key != Field::kIpDaddr)) {
        *leave = stop(chain, rule, "uses a map that is not understood");
        return std::nullopt;
    }
    const std::map<Ipv4, Ipv4>& map = *resolved->second;
    *leave = Leave::kReturn;
    std::optional<Ipv4> key = path_.saddr;
    if (!by_source) {
        if (!path_.daddr) {
            *leave = stop(chain, rule, "depends on the destination");
            return std::nullopt;
        }
        if (path_.daddr->length != 32) return std::nullopt;
        key = path_.daddr->address;
    }
    if (!key) {
        if (!path_.by_source) remember({nullptr, &map});
        if (!choose(chain, rule, true)) return std::nullopt;
        *unknown = true;
        return std::nullopt;
    }
    const auto value = map.find(*key);
    if (value == map.end()) return std::nullopt;
    return value->second;
}

Leave Interpreter::translate_source(const Chain& chain, const Rule& rule, const AddressSource& to, bool random) {
    Leave leave = Leave::kNext;
    bool unknown = false;
    const auto address = look_up(chain, rule, to, &leave, &unknown);
    if (!address && !unknown) return leave;
    if (random) return stop(chain, rule, "chooses ports at random");
    path_.snat = address;
    path_.snat_unknown = unknown;
    path_.saddr = address;
    path_.snat_by = to.map_name ? Ruleset::scoped_name(chain.family, chain.table, *to.map_name) : describe(chain, rule);
    return Leave::kNext;
}

Leave Interpreter::translate_destination(const Chain& chain, const Rule& rule, const AddressSource& to) {
    Leave leave = Leave::kNext;
    bool unknown = false;
    const auto address = look_up(chain, rule, to, &leave, &unknown);
    if (unknown) return stop(chain, rule, "depends on the source");
    if (!address) return leave;
    path_.dnat = address;
    path_.daddr = Prefix::host(*address);
    return Leave::kNext;
}

Leave Interpreter::run_statement(const Chain& chain, const Rule& rule, const Statement& statement) {
    const bool prerouting = hook_ == Hook::kPrerouting;
    const bool postrouting = hook_ == Hook::kPostrouting;
    if (const auto* dnat = std::get_if<Dnat>(&statement)) {
        if (!in_nat_ || !prerouting) return stop(chain, rule, "is not understood");
        const Leave leave = translate_destination(chain, rule, dnat->to);
        if (leave != Leave::kNext) return leave;
        path_.status_dnat = true;
        return Leave::kTranslated;
    }
    if (const auto* snat = std::get_if<Snat>(&statement)) {
        if (!in_nat_ || !postrouting) return stop(chain, rule, "is not understood");
        const Leave leave = translate_source(chain, rule, snat->to, snat->random);
        return leave == Leave::kNext ? Leave::kTranslated : leave;
    }
    if (const auto* set = std::get_if<SetAddress>(&statement)) {
        // A destination that changes after routing, or a source before it, is a journey that the walk does not take.
        if (set->field == Field::kIpDaddr && prerouting) return translate_destination(chain, rule, set->to);
        if (set->field == Field::kIpSaddr && postrouting) return translate_source(chain, rule, set->to, false);
        return stop(chain, rule, "is not understood");
    }
    if (const auto* mark = std::get_if<SetMark>(&statement)) {
        path_.mark = mark->value;
        return Leave::kNext;
    }
    if (std::holds_alternative<Notrack>(statement)) {
        if (before_conntrack_) path_.tracking = Tracking::kUntracked;
        return Leave::kNext;
    }
    if (std::holds_alternative<Unknown>(statement)) return stop(chain, rule, "is not understood");
    return Leave::kNext;
}

/// One outcome from all paths. Paths of sources that no test knows must agree; the others say whether the source matters.
Outcome merge(const std::vector<Path>& paths) {
    const Path& generic = paths.front();
    Outcome outcome;
    outcome.accepted = generic.accepted;
    outcome.dnat = generic.dnat;
    outcome.snat = generic.snat;
    outcome.snat_by = generic.snat_by;
    outcome.notrack = generic.notrack;
    outcome.mark = generic.mark;
    outcome.stopped = generic.stopped;
    outcome.by_source_snat_only = true;
    for (const Path& path : paths) {
        if (!path.by_source) {
            if (outcome.stopped || path.same(generic)) continue;
            outcome.stopped = path.stopped ? path.stopped : path.undecided + " is undecidable";
        } else if (!path.same(generic)) {
            if (!outcome.by_source) outcome.by_source = path.source_rule;
            outcome.by_source_snat_only = outcome.by_source_snat_only && path.same_but_snat(generic);
        }
    }
    outcome.by_source_snat_only = outcome.by_source_snat_only && outcome.by_source.has_value();
    return outcome;
}

}  // namespace

namespace {

/// Brings the outcome for packets that conntrack calls invalid into the one for tracked packets.
void combine(Outcome& outcome, const Outcome& invalid, const Chain& first) {
    const bool agree = invalid.accepted == outcome.accepted && invalid.dnat == outcome.dnat &&
                       invalid.snat == outcome.snat && invalid.notrack == outcome.notrack;
    if (invalid.stopped) {
        outcome.stopped = invalid.stopped;
    } else if (!agree) {
        outcome.stopped = fmt::format("hook of {} treats packets that conntrack calls invalid in another way",
                                      Ruleset::scoped_name(first.family, first.table, first.name));
    } else if (invalid.by_source) {
        outcome.by_source_snat_only =
            invalid.by_source_snat_only && (outcome.by_source_snat_only || !outcome.by_source);
        if (!outcome.by_source) outcome.by_source = invalid.by_source;
    }
    outcome.mark_invalid = invalid.mark;
}

}  // namespace

Outcome Evaluator::evaluate(Hook hook, const Packet& packet, bool untracked) const {
    Outcome outcome;
    outcome.mark = packet.mark;
    outcome.mark_invalid = packet.mark_invalid;
    outcome.notrack = untracked;
    const std::vector<HookChain>* chains = nullptr;
    if (hook == Hook::kIngress) {
        const auto found = prepared_->ingress_hooks.find(packet.iifname);
        if (found != prepared_->ingress_hooks.end()) chains = &found->second;
    } else {
        if (!prepared_->ruleset.opaque.empty()) {
            outcome.stopped = prepared_->ruleset.opaque.front() + " cannot be read";
            return outcome;
        }
        const auto found = prepared_->ip_hooks.find(hook);
        if (found != prepared_->ip_hooks.end()) chains = &found->second;
    }
    if (chains == nullptr) return outcome;
    Interpreter interpreter(*chains, *prepared_, hook, packet);
    outcome = merge(interpreter.run(untracked ? Tracking::kUntracked : Tracking::kTracked));
    const auto tracking = prepared_->tracking_matters.find(hook);
    const bool matters = (tracking != prepared_->tracking_matters.end() && tracking->second) ||
                         packet.mark != packet.mark_invalid;
    outcome.mark_invalid = outcome.mark;
    if (!untracked && !outcome.stopped && matters) {
        combine(outcome, merge(interpreter.run(Tracking::kInvalid)), *chains->front().chain);
    }
    outcome.source_tests = interpreter.source_tests();
    return outcome;
}

Outcome evaluate(const Ruleset& ruleset, Hook hook, const Packet& packet, bool untracked) {
    return Evaluator(ruleset).evaluate(hook, packet, untracked);
}

}  // namespace fiplane::nf
