// SPDX-License-Identifier: Apache-2.0
// fl_senders: who sends to a router of this node through another router.
#include <fmt/format.h>

#include <algorithm>
#include <ranges>

#include "core/domains.hpp"

namespace fiplane {

namespace {

/// A distributed router's instance on the gateway's own node serves those behind it.
bool is_served_elsewhere(const World& world, const BridgePort& leg, Ipv4 gateway) {
    if (!world.scope.distributed_routers.contains(leg.router->name())) return false;
    const Neighbour* neighbour = leg.router->neighbour(leg.leg->ifindex, gateway);
    const MacTarget* target = neighbour == nullptr ? nullptr : leg.segment->find(neighbour->mac);
    return target != nullptr && target->kind == MacTarget::Kind::kTunnel;
}

/// What the tree's claims leave of one prefix.
struct Admitted {
    std::string refusal;  ///< why nothing; empty: all but `holes`
    std::set<Prefix> holes;
};

Admitted admit(const DestinationTree& tree, const Prefix& sources) {
    Admitted out;
    for (const SourceClaim& claim : tree.claims) {
        for (const Prefix& part : exceptions(claim, sources)) {
            if (part.contains(sources)) out.refusal = describe(claim);
            out.holes.insert(part);
        }
    }
    return out;
}

}  // namespace

fl_sender_key sender_key(const BridgePort& leg, const Prefix& sources) {
    fl_sender_key key{};
    key.prefixlen = FL_SENDER_KEY_BITS + sources.length;
    key.segment = leg.segment->id();
    copy_bytes(key.router_mac, leg.leg->mac);
    copy_bytes(key.ip, sources.network().address);
    return key;
}

std::vector<Prefix> sender_prefixes(const World& world, const BridgePort& leg) {
    std::vector<Prefix> prefixes;
    if (leg.router->name().empty())
        return prefixes;  // its MAC is the host's own, which fl_fdb does not call a router's
    for (const Route& route : leg.router->view().routes) {
        if (route.oif != leg.leg->ifindex || !route.gateway) continue;
        const Prefix destination = route.destination.network();
        const Lookup back = leg.router->routing().lookup({Source::Kind::kGeneric}, destination, "lo");
        if (back.route == &route && !is_served_elsewhere(world, leg, *route.gateway)) prefixes.push_back(destination);
    }
    std::ranges::sort(prefixes);
    return prefixes;
}

void write_senders(World& world, const Domain& domain, const DestinationTree& tree) {
    Table<fl_sender_key, fl_sender> rows;
    for (const Prefix& sources : domain.senders) {
        const Admitted admitted = admit(tree, sources);
        rows[sender_key(*domain.leg, sources)] = {.domain = admitted.refusal.empty() ? domain.id : 0};
        if (!admitted.refusal.empty()) {
            world.note(fmt::format("packets from {} to {} stay slow: {}", sources.str(), domain.leg->leg->name,
                                   admitted.refusal));
            continue;
        }
        for (const Prefix& hole : admitted.holes)
            rows[sender_key(*domain.leg, hole)] = {.domain = 0};
    }
    Table<fl_sender_key, fl_sender>& senders = world.out.tables.senders;
    if (senders.size() + rows.size() > FL_MAX_SENDERS) {
        world.note("fl_senders has no room for who sends to " + domain.leg->leg->name);
        return;
    }
    senders.merge(rows);
}

}  // namespace fiplane
