// SPDX-License-Identifier: Apache-2.0
// The underlay side of L2: how an encapsulated packet leaves for a tunnel peer.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "core/l2.hpp"

namespace fiplane {

namespace {

constexpr std::uint16_t kNudFixed = 0xc0;  // PERMANENT or NOARP
constexpr std::uint16_t kIpv6Type = 0x86dd;

/// Root's OUTPUT and POSTROUTING and the device's egress chain, which an encapsulated packet of the kernel's would
/// pass.
std::string output_refusal(const NetnsIndex& root, const Link& device, const Tunnel& tunnel, const IpAddress& peer) {
    nf::Packet packet;
    packet.oifname = device.name;
    if (const auto to = peer.ipv4()) {
        packet.saddr = tunnel.local.ipv4();
        packet.daddr = Prefix::host(*to);
    } else {
        packet.ether_type = kIpv6Type;
    }
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

/// Where packets to a peer go first.
struct NextHop {
    const Link* device = nullptr;
    IpAddress address;
    Mac mac;
    std::uint16_t state = 0;  ///< NUD_*, 0: not in the table
    std::uint32_t mtu = 0;    ///< of the way there, bytes of L3 packet
};

std::expected<NextHop, std::string> next_hop_ipv4(const NetnsIndex& root, const Tunnel& tunnel, Ipv4 peer) {
    const Ipv4 asked_with = tunnel.route_gives_local ? Ipv4{} : tunnel.local.ipv4().value_or(Ipv4{});
    const Lookup lookup =
        root.routing().lookup({Source::Kind::kKnown, asked_with}, Prefix::host(peer), "lo", tunnel.underlay_ifindex);
    if (!lookup.stopped.empty()) return std::unexpected(lookup.stopped);
    const Route& route = *lookup.route;
    if (route.type != RouteType::kUnicast || route.multipath) {
        return std::unexpected("route " + describe(route, root.view()) + " is not followed");
    }
    NextHop hop;
    hop.device = root.link(route.oif);
    if (hop.device == nullptr) return std::unexpected("the route's device is not known");
    const Ipv4 address = route.gateway.value_or(peer);
    hop.address = address;
    if (const Neighbour* neighbour = root.neighbour(route.oif, address)) {
        hop.mac = neighbour->mac;
        hop.state = neighbour->state;
    }
    hop.mtu = route.mtu == 0 ? hop.device->mtu : std::min(route.mtu, hop.device->mtu);
    return hop;
}

std::expected<NextHop, std::string> next_hop_ipv6(const NetnsIndex& root, const Tunnel& tunnel, const IpAddress& peer) {
    const auto& ways = root.view().ipv6_ways;
    const auto key = [](const Ipv6Way& each) { return std::tuple(each.local, each.peer, each.bound_to); };
    const auto wanted = std::tuple(tunnel.local, peer, tunnel.underlay_ifindex);
    const auto way = std::ranges::lower_bound(ways, wanted, {}, key);
    if (way == ways.end() || key(*way) != wanted) return std::unexpected("its IPv6 route is not known yet");
    if (!way->has_local) return std::unexpected(tunnel.local.str() + " is no address of this node");
    if (way->other_rules) return std::unexpected("an IPv6 policy rule looks at more than addresses and devices");
    if (way->type == RouteType::kUnreachable) return std::unexpected("no IPv6 route");
    if (way->type != RouteType::kUnicast) return std::unexpected("its IPv6 route is not followed");
    if (way->multipath) return std::unexpected("its IPv6 route has several next hops, which are not followed");
    NextHop hop{root.link(way->oif), way->gateway.value_or(peer), way->mac, way->state, way->mtu};
    if (hop.device == nullptr) return std::unexpected("the route's device is not known");
    return hop;
}

std::expected<NextHop, std::string> next_hop(const NetnsIndex& root, const Tunnel& tunnel, const IpAddress& peer) {
    if (tunnel.local.is_ipv6() != peer.is_ipv6()) return std::unexpected("it is of another IP version");
    const auto four = peer.ipv4();
    return four ? next_hop_ipv4(root, tunnel, *four) : next_hop_ipv6(root, tunnel, peer);
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

UnderlayPath L2::find_path(const BridgePort& port, const IpAddress& peer) const {
    UnderlayPath path;
    const Tunnel& tunnel = *port.tunnel;
    const std::uint32_t overhead = tunnel_overhead(tunnel.type);
    const auto refuse = [&](const std::string& why) {
        path.reason = fmt::format("tunnel peer {} of {}: {}", peer.str(), port.link->name, why);
        return path;
    };
    const bool wrapped = std::ranges::any_of(root_.view().ipsec_policies, [&](const IpsecPolicy& policy) {
        return policy.concerns(tunnel.local, peer) || policy.concerns(peer, tunnel.local);
    });
    if (wrapped) return refuse("an IPsec policy concerns it");
    const auto hop = next_hop(root_, tunnel, peer);
    if (!hop) return refuse(hop.error());
    const Link& device = *hop->device;
    path.device = device.ifindex;
    path.mac = device.mac;
    if (!device.admin_up || !device.running) return refuse(device.name + " is down");
    const std::string filtered = output_refusal(root_, device, tunnel, peer);
    if (!filtered.empty()) return refuse(filtered);
    if ((hop->state & kNudFixed) == 0) {
        // Nothing but our own packets may go to a peer: unless the agent asks, nobody resolves it or keeps it fresh.
        path.keepalive = Keepalive{{}, device.ifindex, hop->address, hop->state, true, {}};
    }
    if (!is_usable_neighbour(hop->state)) {
        return refuse(fmt::format("neighbour {} on {} is not resolved", hop->address.str(), device.name));
    }
    if (hop->mtu <= overhead) return refuse(fmt::format("MTU of {} is too small", device.name));
    path.out.kind = FL_OUT_TUNNEL;
    path.out.ifindex = static_cast<std::uint32_t>(device.ifindex);
    path.out.port = static_cast<std::uint32_t>(port.link->ifindex);
    if (port.is_isolated()) path.out.flags |= FL_OUT_ISOLATED;
    path.out.mtu = std::min(port.link->mtu, hop->mtu - overhead);
    path.out.tunnel = tunnel.type;
    path.out.tunnel_id = tunnel.id;
    copy_bytes(path.out.remote, peer);
    copy_bytes(path.out.outer_dmac, hop->mac);
    copy_bytes(path.out.outer_smac, device.mac);
    return path;
}

}  // namespace fiplane
