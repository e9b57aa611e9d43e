// SPDX-License-Identifier: Apache-2.0
#include "core/netfilter.hpp"

#include <fmt/format.h>

#include "core/netfilter_interpreter.hpp"

namespace fiplane::nf {

namespace {

/// One outcome from all paths. Paths of sources that no test knows must agree; the others say whether the source
/// matters.
Outcome merge(const std::vector<Path>& paths) {
    const Path& generic = paths.front();
    Outcome outcome;
    outcome.accepted = generic.accepted;
    outcome.dropped_by = generic.dropped_by;
    outcome.dnat = generic.dnat;
    outcome.snat = generic.snat;
    outcome.snat_by = generic.snat_by;
    outcome.notrack = generic.notrack;
    outcome.marks = generic.marks;
    outcome.stopped = generic.stopped;
    outcome.by_source_snat_only = true;
    for (const Path& path : paths) {
        outcome.mss.insert(path.mss.begin(), path.mss.end());
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

/// Brings the outcome for other packets of the same kind, invalid or later ones, into the one for tracked packets.
/// `which` names them.
void combine(Outcome& outcome, const Outcome& other, const Chain& first, const std::string& which) {
    const bool translated_alike =
        other.dnat == outcome.dnat && other.snat == outcome.snat && other.notrack == outcome.notrack;
    if (other.stopped) {
        outcome.stopped = other.stopped;
    } else if (other.accepted != outcome.accepted) {
        outcome.stopped = other.accepted ? fmt::format("{} drops packets, and none {}", outcome.dropped_by, which)
                                         : fmt::format("{} drops packets {}", other.dropped_by, which);
    } else if (!translated_alike) {
        outcome.stopped = fmt::format("hook of {} treats packets {} in another way",
                                      Ruleset::scoped_name(first.family, first.table, first.name), which);
    } else if (other.by_source) {
        outcome.by_source_snat_only = other.by_source_snat_only && (outcome.by_source_snat_only || !outcome.by_source);
        if (!outcome.by_source) outcome.by_source = other.by_source;
    }
    outcome.mss.insert(other.mss.begin(), other.mss.end());
}

}  // namespace

Outcome Evaluator::evaluate(Hook hook, const Packet& packet, bool untracked) const {
    Outcome outcome;
    outcome.marks = packet.marks;
    outcome.marks_invalid = packet.marks_invalid;
    outcome.marks_later = packet.marks_later;
    outcome.notrack = untracked;
    const std::vector<HookChain>* chains = nullptr;
    if (hook == Hook::kIngress || hook == Hook::kEgress) {
        const bool ingress = hook == Hook::kIngress;
        const auto& hooks = ingress ? prepared_->ingress_hooks : prepared_->egress_hooks;
        const auto found = hooks.find(ingress ? packet.iifname : packet.oifname);
        if (found != hooks.end()) chains = &found->second;
    } else {
        constexpr std::uint16_t kIpv6 = 0x86dd;
        const bool ipv6 = packet.ether_type == kIpv6;
        const Ruleset& ruleset = prepared_->ruleset;
        for (const auto* opaque : {&ruleset.opaque, ipv6 ? &ruleset.opaque_ipv6 : &ruleset.opaque_ipv4}) {
            if (opaque->empty()) continue;
            outcome.stopped = opaque->front() + " cannot be read";
            return outcome;
        }
        const auto& hooks = ipv6 ? prepared_->ip6_hooks : prepared_->ip_hooks;
        const auto found = hooks.find(hook);
        if (found != hooks.end()) chains = &found->second;
    }
    if (chains == nullptr) return outcome;
    Interpreter interpreter(*chains, *prepared_, hook, packet);
    outcome = merge(interpreter.run(untracked ? Tracking::kUntracked : Tracking::kTracked, packet.marks));
    const auto tracking = prepared_->tracking_matters.find(hook);
    const bool matters = tracking != prepared_->tracking_matters.end() && tracking->second;
    const Chain& head = *chains->front().chain;
    outcome.marks_invalid = outcome.marks;
    if (!untracked && !outcome.stopped && (matters || packet.marks.packet != packet.marks_invalid.packet)) {
        const Outcome translated = outcome;
        const Outcome* first = packet.by_flow ? &translated : nullptr;
        const Outcome invalid = merge(interpreter.run(Tracking::kInvalid, packet.marks_invalid, first));
        combine(outcome, invalid, head, "that conntrack calls invalid");
        outcome.marks_invalid = invalid.marks;
    }
    const Outcome of_first = outcome;
    for (const Marks& marks : packet.marks_later) {
        if (untracked || outcome.stopped) break;
        const Outcome later = merge(interpreter.run(Tracking::kEstablished, marks, &of_first));
        combine(outcome, later, head, fmt::format("of connections with mark 0x{:x}", marks.connection.value_or(0)));
        outcome.marks_later.push_back(later.marks);
    }
    outcome.source_tests = interpreter.source_tests();
    return outcome;
}

Outcome evaluate(const Ruleset& ruleset, Hook hook, const Packet& packet, bool untracked) {
    return Evaluator(ruleset).evaluate(hook, packet, untracked);
}

}  // namespace fiplane::nf
