// SPDX-License-Identifier: Apache-2.0
// fl_arp: addresses for which Linux on this node would answer an ARP request on a segment (net/ipv4/arp.c,
// arp_process). Whoever asks is unknown, so only answers that do not depend on it count.
#include <algorithm>
#include <map>
#include <set>

#include "core/world.hpp"

namespace fiplane {

namespace {

/// arp_ignore as far as the answer does not depend on who asks: 2 and 3 do, 8 never answers.
constexpr int kAnswerAnyAddress = 0;
constexpr int kAnswerOwnAddress = 1;

std::set<Ipv4> addresses_on(const NetnsIndex& netns, int ifindex) {
    std::set<Ipv4> addresses;
    for (const Address& address : netns.view().addresses) {
        if (address.ifindex == ifindex) addresses.insert(address.address.address);
    }
    return addresses;
}

/// The route that arp_process finds for the address asked for, or null where that depends on something.
const Route* find_route(const NetnsIndex& netns, const Link& device, Ipv4 address) {
    return netns.routing().lookup({}, Prefix::host(address), device.name).route;
}

/// Local addresses for which a device answers.
std::set<Ipv4> own_answers(const NetnsIndex& netns, const Link& device) {
    const int arp_ignore = netns.sysctls(device.name).arp_ignore;
    std::set<Ipv4> answers;
    if (arp_ignore != kAnswerAnyAddress && arp_ignore != kAnswerOwnAddress) return answers;
    const std::set<Ipv4> on_device = addresses_on(netns, device.ifindex);
    for (const Ipv4 address : netns.routing().local_addresses()) {
        if (arp_ignore == kAnswerOwnAddress && !on_device.contains(address)) continue;
        const Route* route = find_route(netns, device, address);
        if (route != nullptr && route->type == RouteType::kLocal) answers.insert(address);
    }
    return answers;
}

/// Addresses for which a device answers in another's place (arp_fwd_proxy): those that it would forward to elsewhere.
/// Only addresses that have a route of their own can be listed; for the rest of a proxied prefix Linux answers.
std::set<Ipv4> proxy_answers(const NetnsIndex& netns, const Link& device) {
    const Sysctls::Device& settings = netns.sysctls(device.name);
    std::set<Ipv4> answers;
    if (!settings.proxy_arp || !settings.forwarding) return answers;
    for (const Ipv4 address : netns.routing().host_routes()) {
        const Route* route = find_route(netns, device, address);
        if (route == nullptr || route->type != RouteType::kUnicast || route->multipath) continue;
        if (route->oif != device.ifindex) answers.insert(address);
    }
    return answers;
}

/// No reply crosses a vxlan device with `proxy`, which keeps all ARP to itself, nor one whose egress chain drops ARP.
bool swallows_answers(const Segment& segment) {
    return std::ranges::any_of(segment.ports, [](const auto& entry) {
        const BridgePort& port = entry.second;
        return port.kind == BridgePort::Kind::kTunnel && !port.passes_arp;
    });
}

/// Something on the way out of the leg may treat its answers otherwise than routed packets.
bool filters_answers(const World& world, const BridgePort& leg) {
    return leg.router->netfilter().has_egress(leg.leg->name) || world.root.netfilter().has_egress(leg.link->name);
}

bool has_arp_filter(const NetnsIndex& netns) {
    return netns.netfilter().has_effect(nf::Family::kArp);
}

/// A bridge with ports that suppress ARP answers for its neighbours behind those ports (br_do_proxy_suppress_arp).
bool answers_for(const Segment& segment, const Neighbour& neighbour) {
    const MacTarget* target = segment.find(neighbour.mac);
    return target != nullptr && target->port->link->bridge_port && target->port->link->bridge_port->neigh_suppress;
}

/// Others on this node that answer on the segment too: the host, vxlan devices with `proxy` (arp_reduce), the bridge.
std::set<Ipv4> other_answers(const World& world, const Segment& segment) {
    std::set<Ipv4> answers;
    const int arp_ignore = world.root.sysctls(segment.bridge->name).arp_ignore;
    const auto& local = world.root.routing().local_addresses();
    if (arp_ignore == kAnswerOwnAddress) {
        answers = addresses_on(world.root, segment.bridge->ifindex);
    } else {
        answers.insert(local.begin(), local.end());
    }
    for (const auto& [ifindex, port] : segment.ports) {
        if (port.kind != BridgePort::Kind::kTunnel || !port.tunnel->answers_arp) continue;
        for (const Neighbour* neighbour : world.root.neighbours_on(ifindex))
            answers.insert(neighbour->address);
    }
    for (const Neighbour* neighbour : world.root.neighbours_on(segment.bridge->ifindex)) {
        if (answers_for(segment, *neighbour)) answers.insert(neighbour->address);
    }
    return answers;
}

/// Rows for what exactly one leg answers. `others`: what others on this node answer.
void answer_on(World& world, const Segment& segment, const std::set<Ipv4>& others) {
    if (!segment.refusal.empty()) return;
    struct Answer {
        int count = 0;
        const BridgePort* leg = nullptr;
    };
    std::map<Ipv4, Answer> answers;
    for (const auto& [ifindex, port] : segment.ports) {
        if (port.kind != BridgePort::Kind::kLeg) continue;
        std::set<Ipv4> addresses = own_answers(*port.router, *port.leg);
        addresses.merge(proxy_answers(*port.router, *port.leg));
        for (const Ipv4 address : addresses)
            answers[address] = {answers[address].count + 1, &port};
    }
    for (const auto& [address, answer] : answers) {
        const BridgePort& leg = *answer.leg;
        if (answer.count != 1 || others.contains(address)) continue;
        if (!leg.router->view().unread.empty()) continue;
        if (!leg.refusal.empty() || has_arp_filter(*leg.router) || filters_answers(world, leg)) continue;
        // rp_filter is asked about the sender of the request, who is unknown.
        if (leg.router->sysctls(leg.leg->name).rp_filter != 0) continue;
        fl_arp value{};
        copy_bytes(value.mac, leg.leg->mac);
        if (swallows_answers(segment)) value.flags = FL_ARP_NO_TUNNEL;
        world.out.tables.arp.emplace(arp_key(segment, address), value);
    }
}

}  // namespace

void compile_arp(World& world) {
    for (const auto& [number, segment] : world.l2.foreign_segments())
        answer_on(world, segment, {});
    if (has_arp_filter(world.root)) return;  // bridge-nf-call-arptables takes bridged requests through it
    for (const auto& [bridge, segment] : world.l2.segments())
        answer_on(world, segment, other_answers(world, segment));
}

}  // namespace fiplane
