// SPDX-License-Identifier: Apache-2.0
// The underlay side of L2: how an encapsulated packet leaves for a tunnel peer.
#include <fmt/format.h>

#include <algorithm>

#include "core/l2.hpp"

namespace fiplane {

namespace {

constexpr std::uint16_t kNudFixed = 0xc0;  // PERMANENT or NOARP

/// Root's OUTPUT and POSTROUTING and the device's egress chain, which an encapsulated packet of the kernel's would
/// pass.
std::string output_refusal(const NetnsIndex& root, const Link& device, const Tunnel& tunnel, Ipv4 peer) {
    nf::Packet packet;
    packet.oifname = device.name;
    packet.saddr = tunnel.local;
    packet.daddr = Prefix::host(peer);
    packet.protocol = outer_protocol(tunnel.type);
    bool untracked = false;
    for (const nf::Hook hook : {nf::Hook::kOutput, nf::Hook::kPostrouting, nf::Hook::kEgress}) {
        const nf::Outcome outcome = root.netfilter().evaluate(hook, packet, untracked);
        if (outcome.stopped) return *outcome.stopped;
        if (!outcome.accepted) return "root namespace drops tunnel packets to " + peer.str();
        if (outcome.snat || outcome.dnat) return "root namespace translates tunnel packets to " + peer.str();
        untracked = outcome.notrack;
    }
    return {};
}

/// Addresses of the route's device that inet_select_addr may take: those of the next hop's subnet, if there are any.
std::vector<Ipv4> source_candidates(const NetnsView& root, const Route& route) {
    std::vector<Ipv4> any, near;
    for (const Address& address : root.addresses) {
        if (address.ifindex != route.oif || address.secondary || address.scope > route.scope) continue;
        const bool is_near = route.gateway && address.address.network().contains(*route.gateway);
        (is_near ? near : any).push_back(address.address.address);
    }
    return near.empty() ? any : near;
}

}  // namespace

std::expected<Ipv4, std::string> source_towards(const NetnsIndex& root, Ipv4 destination) {
    const Lookup lookup = root.routing().lookup({Source::Kind::kKnown, Ipv4{}}, Prefix::host(destination), "lo");
    if (!lookup.stopped.empty()) return std::unexpected(lookup.stopped);
    const Route& route = *lookup.route;
    const std::string named = "route " + describe(route, root.view());
    if (route.type != RouteType::kUnicast || route.multipath) return std::unexpected(named + " is not followed");
    if (route.preferred_source) return *route.preferred_source;
    // Linux takes the first of its list; the order of a list is nothing to rely on.
    const std::vector<Ipv4> candidates = source_candidates(root.view(), route);
    if (candidates.size() == 1) return candidates.front();
    return std::unexpected(candidates.empty() ? named + " leads to a device without an address"
                                              : named + " has no source, and its device several addresses");
}

UnderlayPath L2::find_path(const BridgePort& port, Ipv4 peer) const {
    UnderlayPath path;
    const Tunnel& tunnel = *port.tunnel;
    const std::uint32_t overhead = tunnel_overhead(tunnel.type);
    const Ipv4 asked_with = tunnel.route_gives_local ? Ipv4{} : tunnel.local;
    const Lookup lookup =
        root_.routing().lookup({Source::Kind::kKnown, asked_with}, Prefix::host(peer), "lo", tunnel.underlay_ifindex);
    const auto refuse = [&](std::string why) {
        path.reason = fmt::format("tunnel peer {} of {}: {}", peer.str(), port.link->name, why);
        return path;
    };
    if (!lookup.stopped.empty()) return refuse(lookup.stopped);
    const Route& route = *lookup.route;
    if (route.type != RouteType::kUnicast || route.multipath) {
        return refuse("route " + describe(route, root_.view()) + " is not followed");
    }
    const Link* device = root_.link(route.oif);
    if (device == nullptr) return refuse("the route's device is not known");
    path.device = device->ifindex;
    path.mac = device->mac;
    if (!device->admin_up || !device->running) return refuse(device->name + " is down");
    const std::string filtered = output_refusal(root_, *device, tunnel, peer);
    if (!filtered.empty()) return refuse(filtered);
    const Ipv4 next_hop = route.gateway.value_or(peer);
    const Neighbour* neighbour = root_.neighbour(device->ifindex, next_hop);
    if (neighbour == nullptr || (neighbour->state & kNudFixed) == 0) {
        // Nothing but our own packets may go to a peer: unless the agent asks, nobody resolves it or keeps it fresh.
        const std::uint16_t state = neighbour == nullptr ? std::uint16_t{0} : neighbour->state;
        path.keepalive = Keepalive{{}, device->ifindex, next_hop, state, true, {}};
    }
    if (neighbour == nullptr || !neighbour->usable()) {
        return refuse(fmt::format("neighbour {} on {} is not resolved", next_hop.str(), device->name));
    }
    const std::uint32_t underlay_mtu = route.mtu == 0 ? device->mtu : std::min(route.mtu, device->mtu);
    if (underlay_mtu <= overhead) return refuse(fmt::format("MTU of {} is too small", device->name));
    path.out.kind = FL_OUT_TUNNEL;
    path.out.ifindex = static_cast<std::uint32_t>(device->ifindex);
    path.out.port = static_cast<std::uint32_t>(port.link->ifindex);
    if (port.is_isolated()) path.out.flags |= FL_OUT_ISOLATED;
    path.out.mtu = std::min(port.link->mtu, underlay_mtu - overhead);
    path.out.tunnel = tunnel.type;
    path.out.tunnel_id = tunnel.id;
    copy_bytes(path.out.remote, peer);
    copy_bytes(path.out.local, tunnel.local);
    copy_bytes(path.out.outer_dmac, neighbour->mac);
    copy_bytes(path.out.outer_smac, device->mac);
    return path;
}

}  // namespace fiplane
