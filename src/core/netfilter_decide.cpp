// SPDX-License-Identifier: Apache-2.0
// What a match says of the packet of a walk.
#include <algorithm>

#include "core/netfilter_interpreter.hpp"

namespace fiplane::nf {

namespace {

Answer answer(bool yes) {
    return yes ? Answer::kYes : Answer::kNo;
}

}  // namespace

/// Does conntrack have an entry for the packet?
bool Interpreter::has_entry() const {
    const bool tracked = path_.tracking == Tracking::kTracked || path_.tracking == Tracking::kEstablished;
    return tracked && !before_conntrack_;
}

Answer Interpreter::decide_state(const Match& match) const {
    const auto members = prepared_.values.find(&match);
    if (members == prepared_.values.end()) return Answer::kMaybe;
    const auto has = [&](const char* state) { return members->second.names.contains(state); };
    if (path_.tracking == Tracking::kUntracked) return answer(has("untracked") != match.negate);
    if (!has_entry()) return answer(has("invalid") != match.negate);
    // iptables tests translations along with states, and one of them is enough (xt_conntrack.c). What a NAT chain sees
    // has no source translation yet; elsewhere a packet that we do not translate may be a reply of a translated flow.
    if (has("dnat") && path_.status_dnat) return answer(!match.negate);
    const bool translations = (has("dnat") || has("snat")) && !in_nat_;
    if (in_nat_ && path_.tracking == Tracking::kTracked) return answer(has("new") != match.negate);
    const int listed = int{has("new")} + int{has("established")} + int{has("related")};
    if (listed == 3) return answer(!match.negate);
    const bool established = path_.tracking == Tracking::kEstablished && has("established") && has("related");
    if (established) return answer(!match.negate);
    if (listed == 0 && !translations) return answer(match.negate);
    return Answer::kMaybe;
}

Answer Interpreter::decide_status(const Match& match) const {
    // Without an entry nft_ct leaves the rule, negated or not (NFT_BREAK in nft_ct_get_eval).
    if (!has_entry()) return Answer::kNo;
    const auto members = prepared_.values.find(&match);
    const bool only_dnat = members != prepared_.values.end() && members->second.names.size() == 1 &&
                           members->second.names.contains("dnat");
    if (!only_dnat) return Answer::kMaybe;
    // Outside of NAT chains a packet that we do not translate may still be a reply of a translated flow.
    if (!path_.status_dnat && !in_nat_) return Answer::kMaybe;
    return answer(path_.status_dnat != match.negate);
}

/// Without an entry neither nft_ct nor xt_connmark matches, negated or not.
Answer Interpreter::decide_ct_mark(const Match& match) const {
    if (!has_entry()) return Answer::kNo;
    const auto members = prepared_.values.find(&match);
    if (members == prepared_.values.end() || !path_.marks.connection) return Answer::kMaybe;
    return answer(members->second.numbers.contains(*path_.marks.connection & match.mask) != match.negate);
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
    if (match.field == Field::kCtMark) return decide_ct_mark(match);
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
        case Field::kIifname:
            return answer(members.contains_name(packet_.iifname) != match.negate);
        case Field::kOifname:
            return answer(members.contains_name(packet_.oifname) != match.negate);
        case Field::kEtherSaddr:
            return mac(packet_.ether_saddr);
        case Field::kEtherType:
            return number(packet_.ether_type);
        case Field::kIpDaddr:
            if (!is_ip) return Answer::kNo;
            if (!path_.daddr) return Answer::kMaybe;
            return answer(members.contains(*path_.daddr) != match.negate);
        case Field::kArpSaddrEther:
            return is_arp ? mac(packet_.ether_saddr) : Answer::kNo;
        case Field::kArpSaddrIp:
            if (!is_arp) return Answer::kNo;
            if (!path_.saddr) return Answer::kMaybe;
            return answer(members.contains(Prefix::host(*path_.saddr)) != match.negate);
        case Field::kIpProtocol:
            return number(packet_.protocol);
        case Field::kMark:
            if (!path_.marks.packet) return Answer::kMaybe;
            return number(*path_.marks.packet & match.mask);
        case Field::kEtherDaddr:
        case Field::kIpSaddr:
        case Field::kCtState:
        case Field::kCtStatus:
        case Field::kCtMark:
        case Field::kOther:
            return Answer::kMaybe;
    }
    return Answer::kMaybe;
}

}  // namespace fiplane::nf
