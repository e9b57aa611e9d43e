// SPDX-License-Identifier: Apache-2.0
// Differences of devices, and removal of stale ones.
#include <fmt/format.h>

#include <algorithm>

#include "build/diff_impl.hpp"
#include "build/names.hpp"
#include "fiplane/abi.h"

namespace fiplane::build {
namespace {

template <typename... Functions>
struct Overloaded : Functions... {
    using Functions::operator()...;
};

std::string describe(const std::string& name, const DesiredDevice& device) {
    return std::visit(
        Overloaded{[&](const BridgeKind&) { return fmt::format("bridge {}", name); },
                   [&](const VxlanKind& vxlan) {
                       return fmt::format("vxlan {} id {} local {}", name, vxlan.vni, vxlan.local.str());
                   },
                   [&](const GretapKind& gre) {
                       return fmt::format("gretap {} key {} local {} remote {}", name, gre.key, gre.local.str(),
                                          gre.remote.str());
                   },
                   [&](const GeneveKind& geneve) {
                       return fmt::format("geneve {} id {} remote {}", name, geneve.vni, geneve.remote.str());
                   },
                   [&](const VlanKind& vlan) { return fmt::format("vlan {} id {} on {}", name, vlan.id, vlan.parent); },
                   [&](const PhysicalKind& physical) {
                       return fmt::format("device {} of physical network {}", name, physical.physical_network);
                   },
                   [&](const VethKind& veth) {
                       return fmt::format("veth {} peer {} in {}", name, veth.peer, veth.peer_netns);
                   },
                   [&](const VethPeerKind&) { return fmt::format("veth {}", name); },
                   [&](const VmPortKind& port) { return fmt::format("device {} of port {}", name, port.port_name); }},
        device.kind);
}

/// As add_vxlan makes them.
bool sends_plain_headers(const VxlanInfo& now) {
    if (now.extensions || now.inherits_ttl || now.df != 0 || now.tos != 0) return false;
    if (!now.local.is_ipv6()) return !now.udp_checksum && now.ttl == 0;
    return now.sends_no_checksum6 && now.takes_no_checksum6 && now.ttl == FL_TUNNEL_TTL && now.flow_label == 0 &&
           !now.inherits_flow_label;
}

bool same_tunnel(const VxlanInfo& now, const VxlanKind& wanted, int underlay_ifindex) {
    return now.vni == wanted.vni && now.local == wanted.local && now.port == wanted.port && !now.remote &&
           now.underlay_ifindex == underlay_ifindex && !now.learning && now.proxy == wanted.proxy &&
           !now.collect_metadata && sends_plain_headers(now);
}

bool same_tunnel(const GreInfo& now, const GretapKind& wanted, int underlay_ifindex) {
    GreInfo right;
    right.in_key = right.out_key = wanted.key;
    right.local = wanted.local;
    right.remote = wanted.remote;
    right.underlay_ifindex = underlay_ifindex;
    right.path_mtu_discovery = false;
    right.ignore_df = true;
    right.ttl = FL_TUNNEL_TTL;
    return now == right;
}

bool same_vlan(const VlanInfo& now, const VlanKind& wanted, int parent_ifindex) {
    VlanInfo right;
    right.id = wanted.id;
    right.parent_ifindex = parent_ifindex;
    return now == right;
}

/// What is there before fiplane, or by somebody else, and is waited for: a VM's device, a physical network's, and with
/// the latter its VLANs.
const std::string* awaited_device(const std::string& name, const DesiredDevice& device) {
    if (const auto* vlan = std::get_if<VlanKind>(&device.kind)) return &vlan->parent;
    const bool foreign =
        std::holds_alternative<VmPortKind>(device.kind) || std::holds_alternative<PhysicalKind>(device.kind);
    return foreign ? &name : nullptr;
}

bool same_tunnel(const GeneveInfo& now, const GeneveKind& wanted) {
    GeneveInfo right;
    right.vni = wanted.vni;
    right.remote = wanted.remote;
    right.port = wanted.port;
    right.ttl = FL_TUNNEL_TTL;
    return now == right;
}

DesiredDevice::PortFlags flags_of(const BridgePortInfo& port) {
    return {.learning = port.learning, .isolated = port.isolated, .neigh_suppress = port.neigh_suppress};
}

std::string describe(const DesiredDevice::PortFlags& before, const DesiredDevice::PortFlags& after) {
    std::string text;
    const auto say = [&](const char* what, bool was, bool is) {
        if (was == is) return;
        text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", what, was ? "on" : "off", is ? "on" : "off");
    };
    say("learning", before.learning, after.learning);
    say("isolated", before.isolated, after.isolated);
    say("neigh_suppress", before.neigh_suppress, after.neigh_suppress);
    return text;
}

}  // namespace

const Link* NodeDiff::live(const NetnsName& netns, const std::string& name) const {
    const auto found = live_.find({netns, name});
    return found == live_.end() ? nullptr : found->second;
}

bool NodeDiff::is_unplugged(const NetnsName& netns, const std::string& name) const {
    return netns.empty() && unplugged_.contains(name);
}

/// A VM's device that is not there yet or that somebody else has plugged in elsewhere is left alone.
bool NodeDiff::plug_possible(const std::string& name, const DesiredDevice& device, const Link& link) {
    if (link.master == 0) return true;
    const ActualNetns& root = now("");
    const auto master = root.names.find(link.master);
    if (master != root.names.end() && is_marked(root.links.at(master->second).alias)) return true;
    draft_.waiting_for.push_back(fmt::format("{}: it is in {}, which somebody else made", describe(name, device),
                                             master == root.names.end() ? "another device" : master->second));
    return false;
}

/// Whether the kernel's device can become the desired one by changes; otherwise it is made again.
bool NodeDiff::keeps(const NetnsName& netns, const std::string& name, const DesiredDevice& device,
                     const Link& link) const {
    return std::visit(Overloaded{[&](const BridgeKind&) {
                                     return link.kind == "bridge" && link.bridge && !link.bridge->stp &&
                                            !link.bridge->multicast_snooping && !link.bridge->vlan_filtering;
                                 },
                                 [&](const VxlanKind& vxlan) {
                                     const Link* underlay = now("").link(vxlan.underlay_device);
                                     return link.kind == "vxlan" && link.vxlan && underlay != nullptr &&
                                            same_tunnel(*link.vxlan, vxlan, underlay->ifindex);
                                 },
                                 [&](const GretapKind& gre) {
                                     const Link* underlay = now("").link(gre.underlay_device);
                                     return link.kind == "gretap" && link.gre && underlay != nullptr &&
                                            same_tunnel(*link.gre, gre, underlay->ifindex);
                                 },
                                 [&](const VlanKind& vlan) {
                                     const Link* parent = now("").link(vlan.parent);
                                     return link.kind == "vlan" && link.vlan && parent != nullptr &&
                                            same_vlan(*link.vlan, vlan, parent->ifindex);
                                 },
                                 [](const PhysicalKind&) { return true; },
                                 [&](const GeneveKind& geneve) {
                                     return link.kind == "geneve" && link.geneve && same_tunnel(*link.geneve, geneve);
                                 },
                                 [&](const VethKind& veth) { return is_pair(link, veth.peer_netns, veth.peer); },
                                 [&](const VethPeerKind& veth) {
                                     const Link* first = now(veth.first_netns).link(veth.first);
                                     return first != nullptr && is_pair(*first, netns, name);
                                 },
                                 [](const VmPortKind&) { return true; }},
                      device.kind);
}

bool NodeDiff::is_pair(const Link& first, const NetnsName& peer_netns, const std::string& peer) const {
    const Link* other = now(peer_netns).link(peer);
    return other != nullptr && first.kind == "veth" && other->kind == "veth" && first.peer && other->peer &&
           first.peer->ifindex == other->ifindex && other->peer->ifindex == first.ifindex;
}

void NodeDiff::device_differences() {
    for (const auto& [netns, wanted] : desired_.netns) {
        for (const auto& [name, device] : wanted.devices) {
            const Link* link = now(netns).link(name);
            const bool is_vm = std::holds_alternative<VmPortKind>(device.kind);
            const std::string* awaited = awaited_device(name, device);
            const bool absent = awaited != nullptr && now("").link(*awaited) == nullptr;
            if (absent && *awaited == name) draft_.waiting_for.push_back(describe(name, device));
            if (absent || (is_vm && !plug_possible(name, device, *link))) {
                unplugged_.insert(name);
            } else if (link != nullptr && keeps(netns, name, device, *link)) {
                live_.emplace(DeviceKey{netns, name}, link);
            } else if (link != nullptr) {
                draft_.add(Stage::kRemoveLinks, netns, RemoveDevice{name}, Step::Action::kRemove,
                           fmt::format("{} {}", link->kind.empty() ? "device" : link->kind, name),
                           "it is not as it must be, and cannot be changed");
            }
        }
    }
    for (const auto& [netns, wanted] : desired_.netns) {
        for (const auto& [name, device] : wanted.devices) {
            if (is_unplugged(netns, name)) continue;
            if (const Link* link = live(netns, name); link != nullptr) {
                configure_kept(netns, name, device, *link);
            } else {
                create_device(netns, name, device);
            }
        }
    }
}

void NodeDiff::create_device(const NetnsName& netns, const std::string& name, const DesiredDevice& device) {
    if (!std::holds_alternative<VethPeerKind>(device.kind)) {
        draft_.add(Stage::kCreateLinks, netns, CreateDevice{name, device, netns.empty() ? desired_.mark : ""},
                   Step::Action::kAdd, describe(name, device), fmt::format("mtu {}", device.mtu));
    }
    configure_new(netns, name, device);
}

/// What the request that makes a device cannot say. The step that makes it speaks for this as well.
void NodeDiff::configure_new(const NetnsName& netns, const std::string& name, const DesiredDevice& device) {
    ConfigureDevice change{
        .name = name, .mtu = {}, .mac = {}, .master = {}, .port_flags = device.port_flags, .up = true};
    if (std::holds_alternative<VethPeerKind>(device.kind)) change.mac = device.mac;
    if (!device.master.empty()) change.master = device.master;
    change.all_multicast = device.all_multicast;
    draft_.operations.push_back({Stage::kConfigureLinks, netns, change, {}});
}

void NodeDiff::configure_kept(const NetnsName& netns, const std::string& name, const DesiredDevice& device,
                              const Link& link) {
    ConfigureDevice change{.name = name, .mtu = {}, .mac = {}, .master = {}, .port_flags = {}, .up = false};
    std::string detail;
    const auto say = [&detail](const std::string& part) { detail += (detail.empty() ? "" : ", ") + part; };
    const bool physical = std::holds_alternative<PhysicalKind>(device.kind);
    if (physical && !link.admin_up) {
        // VLANs on it cannot come up before it has.
        draft_.add(Stage::kCreateLinks, netns,
                   ConfigureDevice{.name = name, .mtu = {}, .mac = {}, .master = {}, .port_flags = {}, .up = true},
                   Step::Action::kChange, describe(name, device), "down -> up");
    }
    if (!physical && link.mtu != device.mtu) {
        change.mtu = device.mtu;
        say(fmt::format("mtu {} -> {}", link.mtu, device.mtu));
    }
    if (device.mac && link.mac != *device.mac) {
        change.mac = device.mac;
        say(fmt::format("mac {} -> {}", link.mac.str(), device.mac->str()));
        loses_neighbours_.insert({netns, name});
    }
    const Link* master = device.master.empty() ? nullptr : live(netns, device.master);
    const bool moves = !device.master.empty() && (master == nullptr || link.master != master->ifindex);
    if (moves) {
        const auto before = now(netns).names.find(link.master);
        change.master = device.master;
        say(fmt::format("master {} -> {}", before == now(netns).names.end() ? "none" : before->second, device.master));
    }
    // Nothing of ours below macvtaps is in a bridge; a kind that may be in one says in which.
    if (device.master.empty() && link.master != 0 && std::holds_alternative<VlanKind>(device.kind)) {
        const auto before = now(netns).names.find(link.master);
        change.master = "";
        say(fmt::format("master {} -> none", before == now(netns).names.end() ? "another device" : before->second));
    }
    if (device.all_multicast && !link.all_multicast) {
        change.all_multicast = true;
        say("allmulticast off -> on");
    }
    const auto flags = link.bridge_port ? flags_of(*link.bridge_port) : DesiredDevice::PortFlags{};
    if (device.port_flags && (moves || flags != *device.port_flags)) {
        change.port_flags = device.port_flags;
        if (!moves) say(describe(flags, *device.port_flags));
    }
    if (!physical && !link.admin_up) {
        change.up = true;
        say("down -> up");
    }
    if (detail.empty()) return;
    draft_.add(Stage::kConfigureLinks, netns, change, Step::Action::kChange, describe(name, device), detail);
}

void NodeDiff::remove_stale_links() {
    for (const auto& [name, link] : now("").links) {
        if (link.alias != desired_.mark || desired_.netns.at("").devices.contains(name)) continue;
        draft_.add(Stage::kRemoveLinks, "", RemoveDevice{name}, Step::Action::kRemove,
                   fmt::format("{} {}", link.kind, name));
    }
    for (const auto& [netns, wanted] : desired_.netns) {
        if (netns.empty()) continue;
        for (const auto& [name, link] : now(netns).links) {
            if (!is_router_device(name) || wanted.devices.contains(name)) continue;
            draft_.add(Stage::kRemoveLinks, netns, RemoveDevice{name}, Step::Action::kRemove,
                       fmt::format("{} {}", link.kind, name));
        }
    }
}

/// A device that led to a flat network's physical network, and no longer does: two such ports would join wires.
void NodeDiff::remove_stale_uplinks() {
    const ActualNetns& root = now("");
    for (const auto& entry : root.fdb) {
        const auto device = root.names.find(entry.ifindex);
        const auto bridge = root.names.find(entry.bridge);
        if (device == root.names.end() || bridge == root.names.end() || live("", bridge->second) == nullptr) continue;
        const auto mark = desired_.uplink_marks.find(bridge->second);
        if (mark == desired_.uplink_marks.end() || mark->second != entry.mac) continue;
        const auto& wanted = desired_.netns.at("").devices;
        const auto found = wanted.find(device->second);
        if (found != wanted.end() && !found->second.master.empty()) continue;
        draft_.add(
            Stage::kRemoveLinks, "",
            ConfigureDevice{.name = device->second, .mtu = {}, .mac = {}, .master = "", .port_flags = {}, .up = false},
            Step::Action::kChange, fmt::format("device {}", device->second),
            fmt::format("master {} -> none: it is not the device of its physical network any more", bridge->second));
    }
}

/// A VM's device that left the topology loses its guard chain, so it must not stay in the bridge without one. A device
/// that never had one was plugged in by somebody else and stays.
void NodeDiff::remove_stale_ports() {
    const ActualNetns& root = now("");
    for (const auto& chain : root.netfilter.chains) {
        if (chain.hook != nf::Hook::kIngress || chain.table != kTableName) continue;
        if (desired_.netns.at("").devices.contains(chain.device)) continue;
        const Link* link = root.link(chain.device);
        if (link == nullptr || link->master == 0) continue;
        const auto master = root.names.find(link->master);
        if (master == root.names.end() || !is_marked(root.links.at(master->second).alias)) continue;
        draft_.add(
            Stage::kRemoveLinks, "",
            ConfigureDevice{.name = chain.device, .mtu = {}, .mac = {}, .master = "", .port_flags = {}, .up = false},
            Step::Action::kChange, fmt::format("device {}", chain.device),
            fmt::format("master {} -> none: it is no port of the topology any more", master->second));
    }
}

}  // namespace fiplane::build
