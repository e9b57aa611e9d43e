// SPDX-License-Identifier: Apache-2.0
#include "core/claims.hpp"

#include <algorithm>
#include <ranges>

namespace fiplane {

namespace {

std::vector<Prefix> as_prefixes(const std::vector<Ipv4>& addresses) {
    std::vector<Prefix> out;
    out.reserve(addresses.size());
    std::ranges::transform(addresses, std::back_inserter(out), &Prefix::host);
    return out;
}

/// Everything that a claim is not about, wherever it lies; kReversePath aside, which depends on whom it is asked for.
std::vector<Prefix> everywhere(const SourceClaim& claim) {
    const Routing& routing = claim.netns->routing();
    const nf::Evaluator& netfilter = claim.netns->netfilter();
    switch (claim.kind) {
        case SourceClaim::Kind::kNotOwn:
            return routing.own();
        case SourceClaim::Kind::kNotOnLink:
            return routing.on_link(claim.device);
        case SourceClaim::Kind::kNotSelected:
            return routing.selectors(claim.count);
        case SourceClaim::Kind::kNotKnown:
            return netfilter.known_sources(claim.test);
        case SourceClaim::Kind::kAnswered:
            return as_prefixes(netfilter.only_conntrack_answers());
        case SourceClaim::Kind::kReversePath:
            break;
    }
    return {};
}

}  // namespace

bool passes_reverse_path(const NetnsIndex& netns, int device, int other_device, const Prefix& sources) {
    const Link* in = netns.link(device);
    const Link* out = netns.link(other_device);
    if (in == nullptr || out == nullptr) return false;
    const Lookup back = netns.routing().lookup({}, sources, out->name);
    if (back.route == nullptr || back.route->type != RouteType::kUnicast || back.route->multipath) return false;
    return netns.sysctls(in->name).rp_filter == 2 || back.route->oif == device;
}

bool holds(const SourceClaim& claim, Ipv4 source) {
    switch (claim.kind) {
        case SourceClaim::Kind::kNotOwn:
            return !claim.netns->routing().is_own(source);
        case SourceClaim::Kind::kNotOnLink:
            return !claim.netns->routing().on_link(claim.device, source);
        case SourceClaim::Kind::kNotSelected:
            return !claim.netns->routing().selected_before(source, claim.count);
        case SourceClaim::Kind::kNotKnown:
            return !claim.netns->netfilter().knows_source(claim.test, source);
        case SourceClaim::Kind::kAnswered:
            return claim.netns->netfilter().answers_follow_rules(source);
        case SourceClaim::Kind::kReversePath:
            return passes_reverse_path(*claim.netns, claim.device, claim.other_device, Prefix::host(source));
    }
    return false;
}

std::string describe(const SourceClaim& claim) {
    std::string where = claim.netns->label();
    switch (claim.kind) {
        case SourceClaim::Kind::kNotOwn:
            return where + ": the source is an address of the namespace itself";
        case SourceClaim::Kind::kNotOnLink:
            return where + ": Linux would send ICMP redirects to the source";
        case SourceClaim::Kind::kNotSelected:
            return where + ": a policy rule selects the source";
        case SourceClaim::Kind::kNotKnown:
            return where + ": a netfilter rule or map knows the source";
        case SourceClaim::Kind::kAnswered:
            return where + ": another address is translated to the source, and only conntrack knows its answers";
        case SourceClaim::Kind::kReversePath:
            return where + ": rp_filter may drop the source";
    }
    return where;
}

std::vector<Prefix> exceptions(const SourceClaim& claim, const Prefix& sources) {
    std::vector<Prefix> candidates = everywhere(claim);
    if (claim.kind == SourceClaim::Kind::kReversePath) {
        candidates = claim.netns->mentions();
        candidates.push_back(sources);
        // Wider ones are not asked: each address has the route of the longest prefix.
        std::erase_if(candidates, [&](const Prefix& part) {
            return !sources.contains(part) || passes_reverse_path(*claim.netns, claim.device, claim.other_device, part);
        });
    }
    std::erase_if(candidates, [&](const Prefix& part) { return !part.overlaps(sources); });
    return candidates;
}

}  // namespace fiplane
