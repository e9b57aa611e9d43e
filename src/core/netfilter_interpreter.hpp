// SPDX-License-Identifier: Apache-2.0
// Symbolic execution of one hook for one packet. Private to netfilter*.cpp.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "core/netfilter_prepared.hpp"

namespace fiplane::nf {

/// Effect of one path through the hook.
struct Path {
    Tracking tracking = Tracking::kTracked;
    std::optional<Ipv4> saddr;
    std::optional<Prefix> daddr;
    Marks marks;
    bool status_dnat = false;

    bool accepted = true;
    std::optional<Ipv4> dnat;
    std::optional<Ipv4> snat;
    std::string snat_by;
    bool snat_unknown = false;  ///< translated to an address that depends on the unknown source
    bool notrack = false;
    std::set<std::uint16_t> mss;  ///< see Outcome; no difference between paths
    std::optional<std::string> stopped;

    /// What later chains may look at, and what becomes of the packet's addresses.
    [[nodiscard]] auto effects() {
        return std::tie(tracking, saddr, daddr, marks, status_dnat, dnat, snat, snat_by, snat_unknown);
    }
    [[nodiscard]] auto effects() const {
        return std::tie(tracking, saddr, daddr, marks, status_dnat, dnat, snat, snat_by, snat_unknown);
    }

    bool by_source = false;  ///< took a branch that only certain sources take
    std::string undecided;   ///< the first rule whose answer was guessed on this path
    std::string source_rule;
    std::string dropped_by;  ///< rule or policy, where it is not accepted

    [[nodiscard]] bool same_but_snat(const Path& other) const {
        return accepted == other.accepted && dnat == other.dnat && notrack == other.notrack && marks == other.marks &&
               !stopped && !other.stopped;
    }
    [[nodiscard]] bool same(const Path& other) const {
        return same_but_snat(other) && snat == other.snat && snat_unknown == other.snat_unknown;
    }
};

/// How a rule, or a chain, was left.
enum class Leave { kNext, kAccept, kDrop, kReturn, kStop, kTranslated };

enum class Answer { kNo, kYes, kMaybe, kMaybeBySource };

/// Runs the chains of one hook for one packet, once per path.
class Interpreter {
  public:
    Interpreter(const std::vector<HookChain>& chains, const Evaluator::Prepared& prepared, Hook hook,
                const Packet& packet)
        : chains_(chains), prepared_(prepared), hook_(hook), packet_(packet) {}

    /// All paths. The first is the one of a source that no test knows, with every undecidable match failing.
    /// `first`: of an established connection, what became of its first packet: NAT does that again.
    [[nodiscard]] std::vector<Path> run(Tracking tracking, const Marks& marks, const Outcome* first = nullptr);
    /// Places that looked at the unknown source, on paths of a source that none of them knows.
    [[nodiscard]] const std::vector<SourceTest>& source_tests() const { return source_tests_; }

  private:
    Path execute(Tracking tracking, const Marks& marks, const Outcome* first);
    void translate_again(const Outcome& first);
    Leave ask(const HookChain& base, const Outcome* first);
    Leave ask_in_any_order(std::span<const HookChain> peers, const Outcome* first);
    Leave stop_by_order(const HookChain& one, const HookChain& other);
    Leave run_base_chain(const HookChain& base);
    Leave run_rule(const Chain& chain, const Rule& rule, const Chain** jump, bool* is_goto);
    Leave run_statement(const Chain& chain, const Rule& rule, const Statement& statement);
    bool run_mark(const Statement& statement);
    Leave run_matches(const Chain& chain, const Rule& rule, std::size_t* at);
    Leave translate_source(const Chain& chain, const Rule& rule, const AddressSource& to, bool random);
    Leave translate_destination(const Chain& chain, const Rule& rule, const AddressSource& to);
    Answer decide(const Match& match) const;
    Answer decide_state(const Match& match) const;
    Answer decide_status(const Match& match) const;
    Answer decide_ct_mark(const Match& match) const;
    [[nodiscard]] bool has_entry() const;
    Answer decide_source(const Match& match) const;
    bool choose(const Chain& chain, const Rule& rule, bool by_source);
    std::optional<Ipv4> look_up(const Chain& chain, const Rule& rule, const AddressSource& to, Leave* leave,
                                bool* unknown);
    Leave stop(const Chain& chain, const Rule& rule, const char* why);
    bool next_choices();
    void remember(const SourceTest& test);

    const std::vector<HookChain>& chains_;
    const Evaluator::Prepared& prepared_;
    Hook hook_;
    const Packet& packet_;
    Path path_;
    std::vector<bool> choices_;
    std::size_t choice_ = 0;
    bool before_conntrack_ = false;
    bool in_nat_ = false;
    bool translated_ = false;  ///< by a NAT chain of this hook
    std::vector<SourceTest> source_tests_;
};

}  // namespace fiplane::nf
