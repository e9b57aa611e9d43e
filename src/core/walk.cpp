// SPDX-License-Identifier: Apache-2.0
#include "core/walk.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fiplane {

namespace {

constexpr int kMaxRouters = 8;
constexpr std::uint16_t kNudFixed = 0xc0;  // PERMANENT or NOARP: never goes stale

/// 0 stands for no limit.
void lower_mss(fl_next& next, std::uint16_t limit) {
    if (limit != 0 && (next.mss == 0 || limit < next.mss)) next.mss = limit;
}

}  // namespace

/// One namespace of a journey, in the order in which the kernel handles a packet. Each step returns false when the
/// walk ends there; the reason is in the journey then.
struct Walker::Traversal {
    Walker& walker;
    State state;  ///< at the end: where the packet enters next
    Journey& journey;
    bool with_steps;

    nf::Packet packet{};
    const Route* route = nullptr;
    const Link* oif = nullptr;
    const Neighbour* neighbour = nullptr;
    bool untracked = false;
    bool finished = false;  ///< out of the routers

    bool stop(const std::string& why) {
        journey.reason = state.netns->label() + ": " + why;
        return false;
    }
    void step(const std::string& text) {
        if (with_steps) journey.steps.push_back({state.netns->name(), text});
    }
    void claim(SourceClaim::Kind kind, int device = 0, int other_device = 0, std::size_t count = 0,
               const nf::SourceTest& test = {}) {
        journey.claims.insert({kind, state.netns, device, other_device, count, test, state.source_translated});
    }

    bool run() {
        return admit() && prerouting() && find_route() && check_source() && forward() && postrouting() && transmit();
    }
    bool admit();
    bool prerouting();
    bool check_answers(const nf::Outcome& outcome);
    bool deliver_locally();
    bool find_route();
    bool check_source();
    bool forward();
    bool postrouting();
    bool check_way_back();
    bool transmit();
    bool enter_peer(const PeerInfo& peer);
    bool enter_segment(const BridgePort& port);
    void leave_by(const MacTarget& target, const std::string& where);
    bool hook(nf::Hook where, const char* name, nf::Outcome& outcome);
};

bool Walker::Traversal::admit() {
    if (!state.destination_translated) journey.visited.push_back(state.netns);
    const std::string& unread = state.netns->view().unread;
    if (!unread.empty()) return stop("what is known of it may be out of date: " + unread);
    const std::string& refusal = state.netns->jump_refusal(*state.iif);
    if (!refusal.empty()) return stop(refusal);
    if (!state.netns->view().ipsec_policies.empty()) return stop("has IPsec policies, which are not followed");
    if (state.routers == kMaxRouters) {
        journey.endless = true;
        return stop(fmt::format("more than {} routers on the way", kMaxRouters));
    }
    packet.iifname = state.iif->name;
    packet.daddr = state.destination;
    if (state.source.kind == Source::Kind::kKnown) packet.saddr = state.source.address;
    packet.by_flow = walker.by_flow_;
    state.netns->netfilter().enter(packet);
    return true;
}

/// Evaluates a hook and decides whether what it says of an unknown source may be relied on.
bool Walker::Traversal::hook(nf::Hook where, const char* name, nf::Outcome& outcome) {
    outcome = state.netns->netfilter().evaluate(where, packet, untracked);
    if (outcome.stopped) return stop(*outcome.stopped);
    if (!outcome.accepted) return stop(fmt::format("netfilter drops it in {}: {}", name, outcome.dropped_by));
    if (outcome.by_source) {
        if (state.source.kind == Source::Kind::kGeneric) {
            for (const nf::SourceTest& test : outcome.source_tests)
                claim(SourceClaim::Kind::kNotKnown, 0, 0, 0, test);
        } else if (!outcome.by_source_snat_only || !walker.only_forged(*state.netns, *state.iif, outcome)) {
            return stop("depends on the source: " + *outcome.by_source);
        }
    }
    for (const std::uint16_t limit : outcome.mss)
        lower_mss(journey.next, limit == 0 ? state.netns->lowest_mss() : limit);
    packet.take_marks(outcome);
    untracked = outcome.notrack;
    return true;
}

bool Walker::Traversal::prerouting() {
    nf::Outcome outcome;
    if (!hook(nf::Hook::kPrerouting, "prerouting", outcome)) return false;
    if (!check_answers(outcome)) return false;
    if (!outcome.dnat) return true;
    journey.dnat = outcome.dnat;
    journey.translator = state.netns;
    state.destination = Prefix::host(*outcome.dnat);
    state.destination_translated = true;
    packet.daddr = state.destination;
    packet.dnat_done = true;
    step(fmt::format("destination becomes {}", outcome.dnat->str()));
    return true;
}

/// The packet may be an answer, which conntrack translates back without asking a rule. What comes from anybody is a
/// question to a floating IP or an answer to one, and both follow its pair of rules.
bool Walker::Traversal::check_answers(const nf::Outcome& outcome) {
    if (state.source.kind == Source::Kind::kUnknown) return true;
    const nf::Evaluator& netfilter = state.netns->netfilter();
    const std::string& hidden = netfilter.hidden_translation();
    if (!hidden.empty()) return stop("translates addresses that cannot be read: " + hidden);
    claim(SourceClaim::Kind::kAnswered);
    if (outcome.dnat || state.destination.length != 32) return true;
    if (state.netns->routing().is_own(state.destination.address)) return true;  // Linux gets it in any case
    if (!netfilter.only_conntrack_routes_to(state.destination.address)) return true;
    return stop(fmt::format("sources become {}, and only conntrack knows which", state.destination.address.str()));
}

bool Walker::Traversal::find_route() {
    const Lookup lookup = state.netns->routing().lookup(state.source, state.destination, state.iif->name);
    if (!lookup.stopped.empty()) return stop(lookup.stopped);
    route = lookup.route;
    if (state.source.kind == Source::Kind::kGeneric && lookup.rules_passed > 0) {
        claim(SourceClaim::Kind::kNotSelected, 0, 0, lookup.rules_passed);
    }
    if (route->type == RouteType::kLocal) return deliver_locally();
    if (route->type != RouteType::kUnicast || route->multipath) {
        return stop("route " + describe(*route, state.netns->view()) + " is not followed");
    }
    if (!state.netns->sysctls(state.iif->name).forwarding) return stop("forwarding is off on " + state.iif->name);
    oif = state.netns->link(route->oif);
    if (oif == nullptr) return stop("route " + describe(*route, state.netns->view()) + " has no device");
    if (with_steps) step(describe(*lookup.rule) + ": " + describe(*route, state.netns->view()));
    return true;
}

/// Where the node itself is the router, what is for the node goes up into its stack unchanged, as if nothing were
/// routed.
bool Walker::Traversal::deliver_locally() {
    const Segment* segment = state.netns->name().empty() ? walker.l2_.segment(state.iif->ifindex) : nullptr;
    if (segment == nullptr || state.routers != 0 || state.destination_translated) {
        return stop(state.destination.str() + " is delivered locally");
    }
    journey.next.flags = FL_NEXT_LOCAL;
    journey.next.out = segment->find(segment->bridge->mac)->out;
    journey.next.mtu = journey.next.out.mtu;
    journey.port = segment->bridge->name;
    journey.fast = true;
    return false;
}

/// What Linux checks about the source when it routes a packet in (ip_route_input_slow, __mkroute_input).
bool Walker::Traversal::check_source() {
    const bool known = state.source.kind == Source::Kind::kKnown;
    const Sysctls::Device& settings = state.netns->sysctls(state.iif->name);
    if (known && state.netns->routing().is_own(state.source.address)) {
        return stop("the source is an address of the namespace itself");
    }
    claim(SourceClaim::Kind::kNotOwn);
    if (settings.rp_filter != 0) {
        const bool passes = known && passes_reverse_path(*state.netns, state.iif->ifindex, oif->ifindex,
                                                         Prefix::host(state.source.address));
        if (!passes && state.source.kind != Source::Kind::kGeneric) {
            return stop(fmt::format("rp_filter is {} on {}", settings.rp_filter, state.iif->name));
        }
        claim(SourceClaim::Kind::kReversePath, state.iif->ifindex, oif->ifindex);
    }
    if (oif != state.iif || !settings.send_redirects) return true;
    const bool redirect = state.source.kind == Source::Kind::kUnknown ||
                          (known && state.netns->routing().on_link(oif->ifindex, state.source.address));
    if (redirect) return stop("leaves by " + oif->name + ", where it came in: Linux may send ICMP redirects");
    claim(SourceClaim::Kind::kNotOnLink, oif->ifindex);
    return true;
}

bool Walker::Traversal::forward() {
    packet.oifname = oif->name;
    nf::Outcome outcome;
    if (!hook(nf::Hook::kForward, "forward", outcome)) return false;
    ++state.routers;
    journey.next.hops = 1;
    journey.via = oif->name;
    journey.next.mtu = route->mtu == 0 ? oif->mtu : std::min(route->mtu, oif->mtu);
    return true;
}

bool Walker::Traversal::postrouting() {
    nf::Outcome outcome;
    if (!hook(nf::Hook::kPostrouting, "postrouting", outcome)) return false;
    if (!outcome.snat && !check_way_back()) return false;
    // From the next namespace on a journey is that of the whole group, not of the one source that stands for it.
    const bool known = state.source.kind == Source::Kind::kKnown;
    if (known && (!state.source.throughout || outcome.snat)) state.source.kind = Source::Kind::kGeneric;
    if (!outcome.snat) return true;
    journey.snat = outcome.snat;
    journey.snat_by = outcome.snat_by;
    journey.source_translator = state.netns;
    journey.next.flags |= FL_NEXT_SNAT;
    state.source.address = *outcome.snat;
    state.source_translated = true;
    step(fmt::format("source becomes {}", outcome.snat->str()));
    return true;
}

/// What passes untranslated has answers that conntrack leaves untranslated, whatever the rules say of them. The fast
/// path knows the rules only.
bool Walker::Traversal::check_way_back() {
    if (untracked || state.source_translated || state.destination_translated) return true;
    if (state.source.kind == Source::Kind::kUnknown) return true;  // see check_answers()
    nf::Packet answer;
    answer.iifname = oif->name;
    answer.oifname = state.iif->name;
    if (state.destination.length == 32) answer.saddr = state.destination.address;
    if (state.source.kind == Source::Kind::kKnown) answer.daddr = Prefix::host(state.source.address);
    answer.by_flow = walker.by_flow_;
    state.netns->netfilter().enter(answer);
    const nf::Outcome outcome = state.netns->netfilter().evaluate(nf::Hook::kPostrouting, answer);
    if (outcome.stopped) return stop("answers: " + *outcome.stopped);
    if (outcome.by_source) return stop("answers depend on who gives them: " + *outcome.by_source);
    return !outcome.snat || stop("only conntrack knows that answers are not to be translated");
}

bool Walker::Traversal::transmit() {
    if (!route->gateway && state.destination.length != 32) {
        return stop(fmt::format("{} is on the link of {}, where each address has its own neighbour",
                                state.destination.str(), oif->name));
    }
    const Ipv4 next_hop = route->gateway.value_or(state.destination.address);
    neighbour = state.netns->neighbour(oif->ifindex, next_hop);
    if (neighbour == nullptr || !neighbour->usable()) {
        return stop(fmt::format("neighbour {} on {} is not resolved", next_hop.str(), oif->name));
    }
    if ((neighbour->state & kNudFixed) == 0) journey.neighbours.push_back({state.netns->name(), neighbour});
    if (with_steps) step(fmt::format("neighbour {} on {} is {}", next_hop.str(), oif->name, neighbour->mac.str()));
    const std::string& refusal = state.netns->jump_refusal(*oif);
    if (!refusal.empty()) return stop(refusal);
    if (const Segment* foreign = walker.l2_.behind(*state.netns, oif->ifindex)) {
        leave_by(*foreign->find(neighbour->mac), "");
        return true;
    }
    if (oif->peer) return enter_peer(*oif->peer);
    const Segment* segment = state.netns->name().empty() ? walker.l2_.segment(oif->ifindex) : nullptr;
    if (segment == nullptr) return stop(oif->name + " is not a veth: what is behind it is not known");
    return enter_segment(segment->host);
}

bool Walker::Traversal::enter_peer(const PeerInfo& peer) {
    if (!peer.netns) return stop(oif->name + " leads into a namespace that is not known");
    if (peer.netns->empty()) {
        const BridgePort* port = walker.l2_.port(peer.ifindex);
        if (port == nullptr) return stop(oif->name + " leads to no segment in scope");
        return enter_segment(*port);
    }
    const auto next = walker.routers_.find(*peer.netns);
    const Link* iif = next == walker.routers_.end() ? nullptr : next->second.link(peer.ifindex);
    if (iif == nullptr) return stop(oif->name + " leads into a namespace that is not known");
    if (iif->mac != neighbour->mac) {
        return stop(
            fmt::format("neighbour {} on {} has another MAC than {}", neighbour->address.str(), oif->name, iif->name));
    }
    journey.next.mtu = std::min(journey.next.mtu, iif->mtu);
    journey.crossings.push_back({state.netns, oif, &next->second, iif});
    state.netns = &next->second;
    state.iif = iif;
    return true;
}

bool Walker::Traversal::enter_segment(const BridgePort& port) {
    const Segment& segment = *port.segment;
    if (!segment.refusal.empty()) return stop(segment.refusal);
    if (!port.refusal.empty()) return stop(port.refusal);
    if (port.leg != oif) return stop(oif->name + " and " + port.link->name + " are not the ends of one veth");
    const MacTarget* target = segment.find(neighbour->mac);
    if (target == nullptr) {
        return stop(fmt::format("{} is not in the table of {}", neighbour->mac.str(), segment.bridge->name));
    }
    if (!target->reason.empty()) return stop(target->reason);
    if (target->port == &port) return stop(neighbour->mac.str() + " is on the port that it came from");
    journey.next.mtu = std::min(journey.next.mtu, port.link->mtu);
    if (target->kind == MacTarget::Kind::kRouter) {
        if (!target->port->refusal.empty()) return stop(target->port->refusal);
        journey.next.mtu = std::min({journey.next.mtu, target->port->link->mtu, target->port->leg->mtu});
        state.netns = target->port->router;
        state.iif = target->port->leg;
        // A leg shares no MAC with its port, and another leg's frame is not for it.
        return state.iif->mac == neighbour->mac || stop(neighbour->mac.str() + " is not the MAC of " + state.iif->name);
    }
    leave_by(*target, segment.bridge->name + ": ");
    return true;
}

/// Out of the last router, to the neighbour. `where`: what the last step is told of, with a colon.
void Walker::Traversal::leave_by(const MacTarget& target, const std::string& where) {
    copy_bytes(journey.next.dmac, neighbour->mac);
    copy_bytes(journey.next.smac, oif->mac);
    journey.next.out = target.out;
    journey.next.mtu = std::min(journey.next.mtu, target.out.mtu);
    journey.port = target.port->link->name;
    journey.fast = true;
    finished = true;
    if (!with_steps) return;
    const Segment& segment = *target.port->segment;
    journey.steps.push_back(
        {segment.is_foreign() ? state.netns->name() : NetnsName{}, where + "out of " + journey.port});
}

Journey Walker::walk(const BridgePort& leg, const Source& source, const Prefix& destination, bool with_steps) {
    Journey journey;
    if (!leg.segment->refusal.empty() || !leg.refusal.empty()) {
        journey.reason = leg.segment->refusal.empty() ? leg.refusal : leg.segment->refusal;
        return journey;
    }
    const MacTarget* own = leg.segment->find(leg.leg->mac);
    if (own == nullptr || own->port != &leg) {
        journey.reason = fmt::format("{}: the table of {} sends {} elsewhere", leg.leg->name, leg.segment->bridge->name,
                                     leg.leg->mac.str());
        return journey;
    }
    journey = run({.netns = leg.router,
                   .iif = leg.leg,
                   .source = source,
                   .source_translated = false,
                   .destination = destination,
                   .destination_translated = false,
                   .routers = 0},
                  with_steps);
    if (journey.dnat) copy_bytes(journey.next.dnat, *journey.dnat);
    if (leg.segment->is_foreign() && journey.dnat) journey.next.router = l2_.number_of(*journey.translator);
    // The answer to a SYN that goes to Linux alone is invalid to its conntrack, which never sees the question.
    if (leg.segment->is_foreign() && journey.fast && journey.next.mss != 0 && (journey.dnat || journey.snat)) {
        journey.fast = false;
        journey.reason = "a rule on the way lowers the MSS of TCP, which only Linux does";
    }
    if (leg.segment->is_foreign() && journey.fast) shorten(journey, *leg.router);
    return journey;
}

Journey Walker::run(const State& state, bool with_steps) {
    Journey journey;
    Traversal traversal{*this, state, journey, with_steps};
    if (!traversal.run() || traversal.finished) return journey;
    append(journey, tail(traversal.state, with_steps));
    return journey;
}

Journey Walker::tail(const State& state, bool with_steps) {
    if (with_steps || state.source.kind != Source::Kind::kGeneric) return run(state, with_steps);
    const TailKey key{state.netns, state.iif->ifindex, state.destination, state.source_translated,
                      state.destination_translated};
    const auto known = tails_.find(key);
    if (known != tails_.end()) return known->second;
    Journey journey = run(state, false);
    if (!journey.endless) tails_.emplace(key, journey);
    return journey;
}

/// A finished packet takes the shortest way: where its journey comes back to a namespace, what lies between is left
/// out.
void Walker::shorten(Journey& journey, const NetnsIndex& start) const {
    std::vector<Crossing> way;
    for (const Crossing& crossing : journey.crossings) {
        const auto back = std::ranges::find(way, crossing.to, &Crossing::from);
        way.erase(back, way.end());
        if (crossing.to == &start) way.clear();
        if (way.empty() ? crossing.from == &start && crossing.to != &start : way.back().to == crossing.from)
            way.push_back(crossing);
    }
    fl_out& out = journey.next.out;
    for (std::size_t at = 0; at < way.size(); ++at) {
        const fl_crossing_key key{l2_.number_of(*way[at].to, *way[at].in), out.port};
        const bool last = at + 1 == way.size();
        const int next = last ? static_cast<int>(out.ifindex) : way[at + 1].out->ifindex;
        journey.crossing_rows[key] = {static_cast<std::uint32_t>(next), last ? 0U : FL_OUT_CROSS};
        if (key.device != 0) continue;
        journey.fast = false;
        journey.reason = way[at].in->name + " has the number of another device";
    }
    if (way.empty()) return;
    out.ifindex = static_cast<std::uint32_t>(way.front().out->ifindex);
    out.flags |= FL_OUT_CROSS;
}

/// Puts the rest of a journey behind its first namespace.
void Walker::append(Journey& head, Journey&& rest) {
    head.fast = rest.fast;
    head.reason = std::move(rest.reason);
    head.endless = rest.endless;
    head.port = std::move(rest.port);
    head.claims.merge(rest.claims);
    head.visited.insert(head.visited.end(), rest.visited.begin(), rest.visited.end());
    head.neighbours.insert(head.neighbours.end(), rest.neighbours.begin(), rest.neighbours.end());
    head.crossings.insert(head.crossings.end(), rest.crossings.begin(), rest.crossings.end());
    std::ranges::move(rest.steps, std::back_inserter(head.steps));
    if (head.snat && rest.snat && head.fast) {
        head.fast = false;
        head.reason = "the source is translated twice on the way";
    }
    rest.next.hops = static_cast<std::uint16_t>(rest.next.hops + head.next.hops);
    lower_mss(rest.next, head.next.mss);
    rest.next.mtu = std::min(rest.next.mtu, head.next.mtu);
    rest.next.flags |= head.next.flags;
    head.next = rest.next;
    if (rest.dnat) {
        head.dnat = rest.dnat;
        head.translator = rest.translator;
    }
    if (!head.snat) {
        head.snat = rest.snat;
        head.snat_by = std::move(rest.snat_by);
        head.source_translator = rest.source_translator;
    }
}

/// Sources that a translation knows, on a packet from anybody: where Linux itself would send packets for them by other
/// devices than the one that this packet came in by, a packet from them can only be forged, and the walk takes it for
/// one from elsewhere.
bool Walker::only_forged(const NetnsIndex& netns, const Link& iif, const nf::Outcome& outcome) {
    return std::ranges::all_of(outcome.source_tests, [&](const nf::SourceTest& test) {
        const auto [entry, fresh] = forged_.try_emplace({&netns, iif.ifindex, test}, true);
        if (!fresh) return entry->second;
        entry->second = std::ranges::all_of(netns.netfilter().known_sources(test), [&](const Prefix& known) {
            if (known.length == 32 && netns.routing().is_own(known.address)) return true;  // a martian
            const Lookup back = netns.routing().lookup({}, known, "lo");
            return back.route != nullptr && back.route->oif != iif.ifindex;
        });
        return entry->second;
    });
}

}  // namespace fiplane
