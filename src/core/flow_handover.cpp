// SPDX-License-Identifier: Apache-2.0
#include "core/flow_handover.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <utility>

#include "core/l2.hpp"

namespace fiplane {

namespace {

/// A flow that may go over, and how long ago it was used, in seconds.
struct Candidate {
    std::uint32_t idle = 0;
    TrackedConnection connection;
};

/// The programs' clock is that of the last tick and theirs alone, so a stamp may be a little later than `now`.
std::uint32_t idle_for(std::uint32_t last_use, std::uint32_t now) {
    const auto seconds = static_cast<std::int32_t>(now - last_use);
    return seconds < 0 ? 0 : static_cast<std::uint32_t>(seconds);
}

ConnectionTuple turned_round(const ConnectionTuple& tuple) {
    return {tuple.destination, tuple.destination_port, tuple.source, tuple.source_port};
}

bool is_answered(const fl_flow& flow) {
    return (flow.flags & FL_FLOW_UNANSWERED) == 0;
}

TrackedConnection connection_of(const fl_flow_key& key, const fl_flow& flow) {
    const Ipv4 inside = Ipv4::from_bytes(key.inside);
    const Ipv4 outside = Ipv4::from_bytes(key.outside);
    const Ipv4 fip = Ipv4::from_bytes(flow.fip);
    const Ipv4 dnat = Ipv4::from_bytes(flow.dnat);
    TrackedConnection out;
    out.protocol = key.protocol;
    out.answered = is_answered(flow);
    out.closing = key.protocol == IPPROTO_TCP && (flow.flags & FL_FLOW_CLOSING) != 0;
    // Each end by its own address, and as the other one has it.
    const Ipv4 inside_seen = fip.is_unset() ? inside : fip;
    const Ipv4 outside_own = dnat.is_unset() ? outside : dnat;
    if ((flow.flags & FL_FLOW_FROM_INSIDE) != 0) {
        out.original = {inside, key.inside_port, outside, key.outside_port};
        out.reply = {outside_own, key.outside_port, inside_seen, key.inside_port};
    } else {
        out.original = {outside_own, key.outside_port, inside_seen, key.inside_port};
        out.reply = {inside, key.inside_port, outside, key.outside_port};
    }
    return out;
}

std::uint32_t timeout_of(const fl_flow_key& key, const fl_flow& flow, const ConntrackLimits& limits) {
    if (key.protocol == IPPROTO_ICMP) return limits.icmp;
    if (key.protocol == IPPROTO_UDP) return is_answered(flow) ? limits.udp_stream : limits.udp_unanswered;
    if ((flow.flags & FL_FLOW_CLOSING) != 0) return limits.tcp_closing;
    return is_answered(flow) ? limits.tcp_established : limits.tcp_unanswered;
}

/// The name behind each number.
std::map<std::uint32_t, NetnsName> names_of(const std::map<NetnsName, HandoverTarget>& routers) {
    std::map<std::uint32_t, NetnsName> names;
    for (const auto& [name, router] : routers)
        names.emplace(foreign_number(name), name);
    return names;
}

/// Do the rules make of each of the flow's addresses still what the programs made of them?
bool is_still_translated(const fl_flow_key& key, const fl_flow& flow, const HandoverTarget& router) {
    if (!router.floating_ips) return true;
    const auto leads_to = [&](Ipv4 fip, Ipv4 fixed) {
        const auto found = router.floating_ips->find(fip);
        return found != router.floating_ips->end() && found->second == fixed;
    };
    const Ipv4 fip = Ipv4::from_bytes(flow.fip);
    const Ipv4 dnat = Ipv4::from_bytes(flow.dnat);
    return (fip.is_unset() || leads_to(fip, Ipv4::from_bytes(key.inside))) &&
           (dnat.is_unset() || leads_to(Ipv4::from_bytes(key.outside), dnat));
}

}  // namespace

std::string describe(LeftOut reason) {
    switch (reason) {
        case LeftOut::kNoRouter:
            return "the router's namespace is gone";
        case LeftOut::kNoPorts:
            return "no ports (an echo's answer finds its way in any case)";
        case LeftOut::kIdle:
            return "idle for longer than conntrack keeps it";
        case LeftOut::kUntranslated:
            return "nothing in it is translated";
        case LeftOut::kNoFloatingIp:
            return "its floating IP is gone, or another VM's";
        case LeftOut::kNoRoom:
            return "conntrack of the namespace would be full (nf_conntrack_max)";
    }
    return "";
}

FlowHandover plan_handover(const Table<fl_flow_key, fl_flow>& flows, const std::map<NetnsName, HandoverTarget>& routers,
                           std::uint32_t now) {
    FlowHandover out;
    const auto names = names_of(routers);
    std::map<NetnsName, std::vector<Candidate>> candidates;
    const auto take = [&](const fl_flow_key& key, const fl_flow& flow) -> std::optional<LeftOut> {
        if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP) return LeftOut::kNoPorts;
        const auto name = names.find(key.router);
        if (name == names.end()) return LeftOut::kNoRouter;
        Candidate candidate{idle_for(flow.last_use, now), connection_of(key, flow)};
        if (candidate.connection.reply == turned_round(candidate.connection.original)) return LeftOut::kUntranslated;
        const HandoverTarget& router = routers.at(name->second);
        if (!is_still_translated(key, flow, router)) return LeftOut::kNoFloatingIp;
        const std::uint32_t timeout = timeout_of(key, flow, router.limits);
        if (candidate.idle >= timeout) return LeftOut::kIdle;
        candidate.connection.timeout = timeout - candidate.idle;
        candidates[name->second].push_back(candidate);
        return std::nullopt;
    };
    for (const auto& [key, flow] : flows) {
        if (const auto reason = take(key, flow)) ++out.left_out[*reason];
    }
    for (const auto& [name, router] : routers) {
        auto& here = candidates[name];
        std::ranges::stable_sort(here, {}, [](const Candidate& candidate) {
            return std::pair(!candidate.connection.answered, candidate.idle);
        });
        const std::size_t fitting = std::min<std::uint64_t>(here.size(), router.limits.room);
        if (fitting < here.size()) out.left_out[LeftOut::kNoRoom] += here.size() - fitting;
        auto& connections = out.connections[name];
        connections.reserve(fitting);
        for (std::size_t at = 0; at < fitting; ++at)
            connections.push_back(here[at].connection);
    }
    return out;
}

ForgottenFlows::ForgottenFlows(const std::map<NetnsName, ConntrackLimits>& routers, std::uint32_t now) : now_(now) {
    for (const auto& [name, limits] : routers)
        limits_.emplace(foreign_number(name), limits);
}

bool ForgottenFlows::contain(const fl_flow_key& key, const fl_flow& flow) const {
    const auto found = limits_.find(key.router);
    const ConntrackLimits limits = found == limits_.end() ? ConntrackLimits{} : found->second;
    return idle_for(flow.last_use, now_) >= timeout_of(key, flow, limits);
}

}  // namespace fiplane
