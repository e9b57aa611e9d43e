// SPDX-License-Identifier: Apache-2.0
#include "core/compile.hpp"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/world.hpp"

namespace fiplane {

namespace {

std::map<NetnsName, NetnsIndex> index_routers(const Snapshot& snapshot) {
    std::map<NetnsName, NetnsIndex> routers;
    for (const auto& [name, view] : snapshot.routers)
        routers.try_emplace(name, view);
    return routers;
}

/// Devices by which packets leave for tunnel peers.
void add_underlay_devices(World& world) {
    std::set<int> devices;
    for (const auto& [key, path] : world.l2.underlay()) {
        if (path.device != 0) devices.insert(path.device);
        if (path.keepalive) world.keep_alive(*path.keepalive);
        if (!path.reason.empty()) world.note(path.reason);
    }
    for (const int ifindex : devices) {
        const Link* link = world.root.link(ifindex);
        world.out.devices.push_back({ifindex, link->name, DeviceRole::Kind::kUnderlay, false, link->program_refusal()});
    }
}

void add_segment_devices(World& world, const Segment& segment) {
    const auto add = [&](const Link& link, DeviceRole::Kind kind) {
        const std::string refused = link.program_refusal();
        world.out.devices.push_back(
            {link.ifindex, link.name, kind, false, refused.empty() ? segment.refusal : refused});
    };
    add(*segment.bridge, DeviceRole::Kind::kHost);
    for (const auto& [ifindex, port] : segment.ports) {
        if (port.kind == BridgePort::Kind::kTunnel) add(*port.link, DeviceRole::Kind::kTunnel);
        if (port.kind != BridgePort::Kind::kVm) continue;
        add(*port.link, DeviceRole::Kind::kPort);
        if (port.taken_on != nullptr) add(*port.taken_on, DeviceRole::Kind::kTrunk);
    }
}

/// Ports of followed routers, and the veths between them, out of which finished packets come.
void add_router_devices(World& world) {
    for (const L2::Numbered& device : world.l2.numbered()) {
        world.out.devices.push_back({device.link->ifindex, device.link->name, DeviceRole::Kind::kRouter, false,
                                     device.link->program_refusal(), device.router->name(), device.number});
    }
}

fl_fdb_key fdb_key(const Segment& segment, const Mac& mac) {
    fl_fdb_key key{};
    key.segment = segment.id();
    copy_bytes(key.mac, mac);
    return key;
}

/// What Linux would forget of this target unless it saw frames from it.
void keep_learned(World& world, const MacTarget& target, const Mac& mac, const fl_fdb_key& row) {
    const BridgePort& port = *target.port;
    const int ifindex = port.link->ifindex;
    if (target.ages && port.learns()) {
        const std::uint32_t ageing = port.segment->bridge->bridge->ageing_seconds();
        world.out.learned.push_back({ifindex, std::nullopt, mac, ageing, row});
    }
    if (target.learned_peer && port.link->vxlan->ageing != 0) {
        world.out.learned.push_back({ifindex, target.learned_peer, mac, port.link->vxlan->ageing, row});
    }
}

void add_fdb(World& world, const Segment& segment) {
    for (const auto& [mac, target] : segment.macs) {
        fl_fdb row{};
        if (target.reason.empty()) {
            row.out = target.out;
            if (target.kind == MacTarget::Kind::kRouter) row.out.kind = FL_OUT_ROUTER;
        } else if (target.kind != MacTarget::Kind::kNone && target.port->refusal.empty() && target.port->learns()) {
            // Linux knows the source of such frames, so they need not be shown to it.
            row.out.port = static_cast<std::uint32_t>(target.port->link->ifindex);
        } else {
            continue;
        }
        const fl_fdb_key key = fdb_key(segment, mac);
        if (target.ages || target.learned_peer) {
            row.flags = FL_FDB_LEARNED;
            keep_learned(world, target, mac, key);
        }
        world.out.tables.fdb.emplace(key, row);
    }
    for (const auto& [mac, target] : segment.leg_macs) {
        fl_fdb row{};
        row.out.kind = FL_OUT_ROUTER;
        if (!segment.macs.contains(mac)) world.out.tables.fdb.emplace(fdb_key(segment, mac), row);
    }
}

/// The bridge forwards from one tunnel to another: the hub of a star.
bool relays(const Segment& segment) {
    const auto tunnels = std::ranges::count_if(segment.ports, [](const auto& entry) {
        const BridgePort& port = entry.second;
        return port.kind == BridgePort::Kind::kTunnel && port.refusal.empty() && !port.is_isolated();
    });
    return segment.refusal.empty() && tunnels > 1;
}

/// Packets from tunnel to tunnel never become an skb where XDP runs, so the underlay devices must be told. A router
/// that serves VMs behind a tunnel sends most of what they send into another one.
void mark_wire_to_wire(World& world) {
    const Tables& tables = world.out.tables;
    const bool found =
        std::ranges::any_of(tables.fip_in, [](const auto& row) { return row.second.next.out.kind == FL_OUT_TUNNEL; }) ||
        std::ranges::any_of(tables.tunnels, [](const auto& row) { return (row.second.flags & FL_SRC_ROUTED) != 0; }) ||
        !tables.senders.empty() ||
        std::ranges::any_of(world.l2.segments(), [](const auto& entry) { return relays(entry.second); });
    for (DeviceRole& device : world.out.devices) {
        device.wire_to_wire = found && device.kind == DeviceRole::Kind::kUnderlay;
    }
}

/// Of the routers that are followed.
void compile_translated(World& world) {
    for (const auto& [name, netns] : world.routers) {
        fl_translated_key key{.router = world.l2.number_of(netns), .fip = {}};
        if (key.router == 0) continue;
        for (const auto& [fip, fixed] : netns.netfilter().floating_ips()) {
            fl_translated row{};
            copy_bytes(key.fip, fip);
            copy_bytes(row.fixed, fixed);
            world.out.tables.translated.emplace(key, row);
        }
    }
}

}  // namespace

World::World(const Snapshot& snapshot, const Scope& in_scope)
    : scope(in_scope),
      root(snapshot.root),
      routers(index_routers(snapshot)),
      l2(root, routers, scope),
      walker(l2, routers, scope.follows) {
    for (const auto& [bridge, segment] : l2.segments()) {
        if (scope.root_is_router) legs.push_back(&segment.host);
        for (const auto& [ifindex, port] : segment.ports) {
            if (port.kind == BridgePort::Kind::kLeg) legs.push_back(&port);
        }
    }
    for (const auto& [number, segment] : l2.foreign_segments())
        legs.push_back(&segment.ports.begin()->second);
    out.notes = l2.notes();
    for (const auto& [name, view] : snapshot.routers) {
        if (const std::string& why = view.netfilter.not_shown; !why.empty())
            note(name + ": rules of iptables are not understood, floating IPs among them: " + why);
        if (view.unread.empty()) continue;
        out.unread.insert(name);
        note(name + ": all of it is left to Linux, for what is known of it may be out of date: " + view.unread);
    }
}

void World::keep_alive(const Keepalive& wanted) {
    const auto [entry, fresh] = keepalives_.try_emplace({wanted.netns, wanted.ifindex, wanted.address}, wanted);
    if (fresh) return;
    entry->second.always = entry->second.always || wanted.always;
    entry->second.dests.insert(entry->second.dests.end(), wanted.dests.begin(), wanted.dests.end());
}

void World::keep_alive(const std::vector<NeighbourUse>& neighbours, const fl_dest_key* row) {
    for (const NeighbourUse& use : neighbours) {
        Keepalive wanted{
            use.netns, use.neighbour->ifindex, use.neighbour->address, use.neighbour->state, row == nullptr, {}};
        if (row != nullptr) wanted.dests.push_back(*row);
        keep_alive(wanted);
    }
}

bool World::add_crossings(const Table<fl_crossing_key, fl_crossing>& rows) {
    auto& crossings = out.tables.crossings;
    const auto fresh = std::ranges::count_if(rows, [&](const auto& row) { return !crossings.contains(row.first); });
    if (crossings.size() + static_cast<std::size_t>(fresh) > FL_MAX_CROSSINGS / 2) return false;
    crossings.insert(rows.begin(), rows.end());
    return true;
}

void World::finish_keepalives() {
    for (auto& [key, keepalive] : keepalives_)
        out.keepalives.push_back(std::move(keepalive));
}

fl_arp_key arp_key(const Segment& segment, Ipv4 address) {
    fl_arp_key key{};
    key.segment = segment.id();
    copy_bytes(key.ip, address);
    return key;
}

fl_fip_key fip_key(const Segment& segment, Ipv4 address) {
    fl_fip_key key{};
    key.segment = segment.id();
    copy_bytes(key.fip, address);
    return key;
}

void compile_l2(World& world) {
    Tables& tables = world.out.tables;
    tables.config.layout = FL_ABI_LAYOUT;
    copy_bytes(tables.config.vtep, world.l2.vtep());
    for (const auto& [type, port] : world.l2.tunnel_ports()) {
        if (type == FL_TUNNEL_VXLAN || type == FL_TUNNEL_VXLAN6) tables.config.vxlan_port = port;
        if (type == FL_TUNNEL_GENEVE) tables.config.geneve_port = port;
        if (type == FL_TUNNEL_GRE) tables.config.gre = 1;
    }
    add_underlay_devices(world);
    add_router_devices(world);
    for (const auto& [bridge, segment] : world.l2.segments()) {
        add_segment_devices(world, segment);
        if (segment.refusal.empty()) add_fdb(world, segment);
    }
    for (const auto& [key, path] : world.l2.underlay()) {
        // Without a way to the peer, or where IPsec decides what may come from it.
        if (path.device == 0) continue;
        const BridgePort& port = *world.l2.port(key.first);
        fl_tunnel_key tunnel{};
        tunnel.type = port.tunnel->type;
        tunnel.id = port.tunnel->id;
        copy_bytes(tunnel.peer, key.second);
        fl_tunnel& row = tables.tunnels[tunnel];
        row.flags = port.is_isolated() ? FL_SRC_ISOLATED : 0;
        if (port.learns() || port.learns_peers()) row.flags |= FL_SRC_LEARNS;
        // The inner Ethernet header counts for the underlay's MTU, the outer one does not: they are as long.
        row.type = static_cast<std::uint8_t>(port.tunnel->type);
        copy_bytes(row.peer, key.second);
        row.outer_len = static_cast<std::uint8_t>(tunnel_overhead(port.tunnel->type));
        row.segment = port.segment->id();
        row.ifindex = static_cast<std::uint32_t>(key.first);
        copy_bytes(row.mac, path.mac);
    }
    std::ranges::sort(world.out.devices, {},
                      [](const DeviceRole& device) { return std::tuple(device.ifindex, device.kind, device.number); });
    // A trunk of several VLANs is one device.
    const auto doubles = std::ranges::unique(world.out.devices);
    world.out.devices.erase(doubles.begin(), doubles.end());
}

Compiled compile(const Snapshot& snapshot, const Scope& scope) {
    World world(snapshot, scope);
    compile_l2(world);
    compile_sources(world);
    compile_arp(world);
    compile_floating_ips(world);
    compile_domains(world);
    compile_translated(world);
    mark_wire_to_wire(world);
    world.finish_keepalives();
    return std::move(world.out);
}

}  // namespace fiplane
