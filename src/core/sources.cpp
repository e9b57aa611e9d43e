// SPDX-License-Identifier: Apache-2.0
// fl_sources: which frames of a device the programs may take.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/world.hpp"

namespace fiplane {

namespace {

/// ARP, IPv4, IPv6 and a type that nobody filters by name: an ingress chain that lets a port's own frames of these
/// types pass lets all pass that the programs may take.
constexpr std::array<std::uint16_t, 4> kFrameTypes{0x0806, 0x0800, 0x86dd, 0x88b5};

/// What a segment's tables know of the hosts behind its ports.
struct Hosts {
    explicit Hosts(const Segment& segment);
    std::map<const BridgePort*, std::vector<Mac>> macs;  ///< static entries of the bridge's table
    std::map<Mac, std::set<Ipv4>> addresses;             ///< what the segment's routers have for a MAC
};

Hosts::Hosts(const Segment& segment) {
    for (const auto& [mac, target] : segment.macs) {
        if (target.kind == MacTarget::Kind::kPort && !target.ages) macs[target.port].push_back(mac);
    }
    for (const auto& [ifindex, port] : segment.ports) {
        if (port.kind != BridgePort::Kind::kLeg) continue;
        for (const Neighbour* neighbour : port.router->neighbours_on(port.leg->ifindex)) {
            if (neighbour->usable()) addresses[neighbour->mac].insert(neighbour->address);
        }
    }
}

/// The port's filter admits its own MAC and address; empty, or what keeps that from being certain.
std::string filter_refusal(const NetnsIndex& root, const Link& link, const Mac& mac, Ipv4 address) {
    for (const std::uint16_t type : kFrameTypes) {
        nf::Packet packet;
        packet.iifname = link.name;
        packet.ether_saddr = mac;
        packet.ether_type = type;
        packet.saddr = address;
        const nf::Outcome outcome = root.netfilter().evaluate(nf::Hook::kIngress, packet);
        if (outcome.stopped) return *outcome.stopped;
        if (!outcome.mss.empty()) return "its ingress chain lowers the MSS of TCP";
        if (!outcome.accepted) return fmt::format("its ingress chain drops frames of type {:#06x}", type);
    }
    return {};
}

/// Anti-spoofing where the port has a filter: the programs then take only frames that the filter is known to admit.
std::string check_port(const World& world, const BridgePort& port, const Hosts& hosts, fl_source& source) {
    if (!world.root.netfilter().has_ingress(port.link->name)) return {};
    const auto macs = hosts.macs.find(&port);
    if (macs == hosts.macs.end() || macs->second.size() != 1) {
        return "it has an ingress chain, but not one static address in the bridge's table";
    }
    const Mac mac = macs->second.front();
    // Where a router of this node knows the VM, or else where its filter names it: the filter is asked in both cases.
    const auto known = hosts.addresses.find(mac);
    const std::set<Ipv4> addresses =
        known == hosts.addresses.end() ? world.root.netfilter().ingress_sources(port.link->name) : known->second;
    if (addresses.size() != 1) {
        return "it has an ingress chain, but neither the routers nor the chain name exactly one address of " +
               mac.str();
    }
    const Ipv4 address = *addresses.begin();
    std::string refusal = filter_refusal(world.root, *port.link, mac, address);
    if (!refusal.empty()) return refusal;
    source.flags |= FL_SRC_CHECK;
    copy_bytes(source.mac, mac);
    copy_bytes(source.ip, address);
    return {};
}

fl_source source_of(const Segment& segment, fl_role role) {
    fl_source source{};
    source.role = role;
    source.segment = segment.id();
    return source;
}

}  // namespace

void compile_sources(World& world) {
    const auto put = [&](const Link& link, std::uint16_t vlan, const fl_source& source) {
        fl_source_key key{};
        key.ifindex = static_cast<std::uint32_t>(link.ifindex);
        key.vlan = vlan;
        world.out.tables.sources.insert_or_assign(key, source);
    };
    const auto add = [&](const Link& link, fl_source source) {
        source.port = static_cast<std::uint32_t>(link.ifindex);
        put(link, 0, source);
        return source;
    };
    const auto add_tagged = [&](const Link& trunk, std::uint16_t vlan, const fl_source& source) {
        put(trunk, vlan, source);
        // Unless it is a port itself: a flat network's.
        fl_source_key untagged{};
        untagged.ifindex = static_cast<std::uint32_t>(trunk.ifindex);
        const auto [row, fresh] = world.out.tables.sources.try_emplace(untagged);
        if (fresh) row->second.role = FL_ROLE_TRUNK;
    };
    for (const auto& [number, segment] : world.l2.foreign_segments()) {
        fl_source_key key{};
        key.ifindex = number;
        fl_source source = source_of(segment, FL_ROLE_ROUTER);
        source.port = number;
        source.router = world.l2.number_of(*segment.ports.begin()->second.router);
        // Also where nothing is carried: flows that were are handed over.
        world.out.tables.sources.emplace(key, source);
    }
    for (const auto& [bridge, segment] : world.l2.segments()) {
        if (!segment.refusal.empty()) continue;
        const Hosts hosts(segment);
        add(*segment.bridge, source_of(segment, FL_ROLE_HOST));
        for (const auto& [ifindex, port] : segment.ports) {
            if (port.kind == BridgePort::Kind::kLeg) continue;
            const bool vm = port.kind == BridgePort::Kind::kVm;
            fl_source source = source_of(segment, vm ? FL_ROLE_PORT : FL_ROLE_TUNNEL);
            if (port.is_isolated()) source.flags |= FL_SRC_ISOLATED;
            std::string refusal = port.refusal;
            if (refusal.empty() && !port.link->foreign_programs.empty()) {
                refusal = "it has a foreign program: " + port.link->foreign_programs.front();
            }
            if (refusal.empty() && vm) refusal = check_port(world, port, hosts, source);
            // The check takes frames from the one MAC that has a static entry here: of that Linux learns nothing.
            if (port.learns() && (source.flags & FL_SRC_CHECK) == 0) source.flags |= FL_SRC_LEARNS;
            if (refusal.empty()) {
                source = add(*port.link, source);
                if (port.taken_on != nullptr) add_tagged(*port.taken_on, port.link->vlan->id, source);
            } else if (vm) {
                world.note(fmt::format("port {} stays slow: {}", port.link->name, refusal));
            }
        }
    }
}

}  // namespace fiplane
