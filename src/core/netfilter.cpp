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
    outcome.dnat = generic.dnat;
    outcome.snat = generic.snat;
    outcome.snat_by = generic.snat_by;
    outcome.notrack = generic.notrack;
    outcome.mark = generic.mark;
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
    outcome.mss.insert(invalid.mss.begin(), invalid.mss.end());
    outcome.mark_invalid = invalid.mark;
}

}  // namespace

Outcome Evaluator::evaluate(Hook hook, const Packet& packet, bool untracked) const {
    Outcome outcome;
    outcome.mark = packet.mark;
    outcome.mark_invalid = packet.mark_invalid;
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
    outcome = merge(interpreter.run(untracked ? Tracking::kUntracked : Tracking::kTracked));
    const auto tracking = prepared_->tracking_matters.find(hook);
    const bool matters =
        (tracking != prepared_->tracking_matters.end() && tracking->second) || packet.mark != packet.mark_invalid;
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
