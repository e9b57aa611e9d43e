// SPDX-License-Identifier: Apache-2.0
// A match that cannot be decided forks the execution: it is repeated with the other answer, and the outcomes of all
// paths are compared by the caller. The number of paths is bounded.
#include "core/netfilter_interpreter.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace fiplane::nf {

namespace {

constexpr std::size_t kMaxPaths = 512;
constexpr std::size_t kMaxJumps = 16;  // NFT_JUMP_STACK_SIZE

std::string describe(const Chain& chain, const Rule& rule) {
    // Ruleset::scoped_name gives "ip fiplane prerouting".
    return fmt::format("rule `{}` in {}", rule.text, Ruleset::scoped_name(chain.family, chain.table, chain.name));
}

}  // namespace

std::vector<Path> Interpreter::run(Tracking tracking, const Marks& marks, const Outcome* first) {
    std::vector<Path> paths;
    choices_.clear();
    do {
        if (paths.size() == kMaxPaths) {
            const Chain& chain = *chains_.front().chain;
            paths.front().stopped = fmt::format("more than {} ways through the hook of {}", kMaxPaths,
                                                Ruleset::scoped_name(chain.family, chain.table, chain.name));
            break;
        }
        paths.push_back(execute(tracking, marks, first));
    } while (next_choices());
    return paths;
}

/// Guesses for the next path: the last guess that was `no` becomes `yes`, and those after it are made anew.
bool Interpreter::next_choices() {
    while (!choices_.empty() && choices_.back())
        choices_.pop_back();
    if (choices_.empty()) return false;
    choices_.back() = true;
    return true;
}

void Interpreter::remember(const SourceTest& test) {
    if (std::ranges::find(source_tests_, test) == source_tests_.end()) source_tests_.push_back(test);
}

Leave Interpreter::stop(const Chain& chain, const Rule& rule, const char* why) {
    path_.stopped = describe(chain, rule) + " " + why;
    return Leave::kStop;
}

/// NAT of a packet whose connection has its translation already.
void Interpreter::translate_again(const Outcome& first) {
    path_.dnat = first.dnat;
    path_.snat = first.snat;
    path_.snat_by = first.snat_by;
    if (first.dnat) path_.daddr = Prefix::host(*first.dnat);
    if (first.snat) path_.saddr = first.snat;
    path_.status_dnat = path_.status_dnat || first.dnat.has_value();
}

Path Interpreter::execute(Tracking tracking, const Marks& marks, const Outcome* first) {
    path_ = Path{};
    path_.tracking = tracking;
    path_.saddr = packet_.saddr;
    path_.daddr = packet_.daddr;
    path_.marks = marks;
    path_.status_dnat = packet_.dnat_done;
    choice_ = 0;
    translated_ = false;
    for (std::size_t at = 0; at < chains_.size(); at += chains_[at].peers) {
        const auto peers = std::span(chains_).subspan(at, chains_[at].peers);
        const Leave leave = peers.size() == 1 ? ask(peers.front(), first) : ask_in_any_order(peers, first);
        if (leave == Leave::kDrop) path_.accepted = false;
        if (leave == Leave::kDrop || leave == Leave::kStop) break;
    }
    path_.notrack = path_.tracking == Tracking::kUntracked;
    return path_;
}

Leave Interpreter::ask(const HookChain& base, const Outcome* first) {
    in_nat_ = base.chain->type == ChainType::kNat;
    before_conntrack_ = hook_ == Hook::kIngress || base.priority < kConntrackPriority;
    if (in_nat_ && first != nullptr && path_.tracking != Tracking::kUntracked) translate_again(*first);
    // nf_nat asks its chains until one of them has set up a translation, and only for packets of a new entry.
    if (in_nat_ && (translated_ || path_.tracking != Tracking::kTracked)) return Leave::kAccept;
    const Leave leave = run_base_chain(base);
    translated_ = translated_ || leave == Leave::kTranslated;
    return leave;
}

/// Each is asked as if it were the first. If one does something, the others must do the same or nothing, and after that
/// nothing; so it is all one which of them is the first.
Leave Interpreter::ask_in_any_order(std::span<const HookChain> peers, const Outcome* first) {
    const Path before = path_;
    const bool translated_before = translated_;
    Path after = path_;
    Leave result = Leave::kAccept;
    std::vector<const HookChain*> actors;
    for (const HookChain& peer : peers) {
        path_.effects() = before.effects();
        translated_ = translated_before;
        const Leave leave = ask(peer, first);
        if (leave == Leave::kStop) return leave;
        if (leave == Leave::kAccept && path_.effects() == before.effects()) continue;
        if (actors.empty()) {
            result = leave;
            after = path_;
        }
        const bool alike = leave == result && (leave == Leave::kDrop || path_.effects() == after.effects());
        if (!alike) return stop_by_order(*actors.front(), peer);
        actors.push_back(&peer);
    }
    path_.effects() = after.effects();
    translated_ = translated_before || result == Leave::kTranslated;
    if (actors.empty() || result == Leave::kDrop) return result;
    for (const HookChain& peer : peers) {
        if (actors.size() == 1 && &peer == actors.front()) continue;
        const Leave leave = ask(peer, first);
        if (leave == Leave::kStop) return leave;
        if (leave == Leave::kAccept && path_.effects() == after.effects()) continue;
        return stop_by_order(*actors.front(), &peer == actors.front() ? *actors.back() : peer);
    }
    return result;
}

Leave Interpreter::stop_by_order(const HookChain& one, const HookChain& other) {
    const auto name = [](const HookChain& at) {
        return Ruleset::scoped_name(at.chain->family, at.chain->table, at.chain->name);
    };
    path_.stopped = fmt::format("chains {} and {} have the same priority, and it matters which of them is the first",
                                name(one), name(other));
    return Leave::kStop;
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
    if (base.chain->policy_accept) return Leave::kAccept;
    path_.dropped_by = "policy of " + Ruleset::scoped_name(base.chain->family, base.chain->table, base.chain->name);
    return Leave::kDrop;
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
                case VerdictKind::kAccept:
                    return Leave::kAccept;
                case VerdictKind::kDrop:
                    path_.dropped_by = describe(chain, rule);
                    return Leave::kDrop;
                case VerdictKind::kReturn:
                    return Leave::kReturn;
                case VerdictKind::kContinue:
                    continue;
                case VerdictKind::kJump:
                case VerdictKind::kGoto:
                    break;
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
    const std::span rest = std::span(rule.statements).subspan(end);
    const bool effect = std::ranges::any_of(rest, [](const Statement& statement) {
        return !std::holds_alternative<Match>(statement) && !std::holds_alternative<Counter>(statement) &&
               !std::holds_alternative<LowerMss>(statement);
    });
    if (!effect) {
        for (const Statement& statement : rest) {
            if (const auto* lower = std::get_if<LowerMss>(&statement)) path_.mss.insert(lower->to);
        }
        return Leave::kReturn;
    }
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
    if (random && !packet_.by_flow) return stop(chain, rule, "chooses ports at random");
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

/// False: the statement is about something else. Where there is no entry, CONNMARK does nothing (connmark_tg_shift).
bool Interpreter::run_mark(const Statement& statement) {
    const bool of_packet = std::holds_alternative<SetMark>(statement);
    const bool of_connection = std::holds_alternative<SetCtMark>(statement) ||
                               std::holds_alternative<SaveMark>(statement) ||
                               std::holds_alternative<RestoreMark>(statement);
    if (of_packet || (of_connection && has_entry())) path_.marks = changed(path_.marks, statement);
    return of_packet || of_connection;
}

Leave Interpreter::run_statement(const Chain& chain, const Rule& rule, const Statement& statement) {
    const bool prerouting = hook_ == Hook::kPrerouting;
    const bool postrouting = hook_ == Hook::kPostrouting;
    if (const auto* dnat = std::get_if<Dnat>(&statement)) {
        if (!in_nat_ || (!prerouting && hook_ != Hook::kOutput)) return stop(chain, rule, "is not understood");
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
    if (run_mark(statement)) return Leave::kNext;
    if (const auto* lower = std::get_if<LowerMss>(&statement)) {
        // What is no TCP leaves the rule there (nft_exthdr_tcp_set_eval), so what follows would be for some packets
        // only.
        const bool last = std::all_of(&statement + 1, &*rule.statements.begin() + rule.statements.size(),
                                      [](const Statement& next) { return std::holds_alternative<Counter>(next); });
        if (!last) return stop(chain, rule, "is not understood");
        path_.mss.insert(lower->to);
        return Leave::kNext;
    }
    if (std::holds_alternative<Notrack>(statement)) {
        if (before_conntrack_) path_.tracking = Tracking::kUntracked;
        return Leave::kNext;
    }
    if (std::holds_alternative<Unknown>(statement)) return stop(chain, rule, "is not understood");
    return Leave::kNext;
}

}  // namespace fiplane::nf
