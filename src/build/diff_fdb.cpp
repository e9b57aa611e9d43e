// SPDX-License-Identifier: Apache-2.0
// Differences of forwarding entries: static ones in the bridges' tables and in the tunnel devices' own.
#include <fmt/format.h>
#include <linux/neighbour.h>

#include "build/diff_impl.hpp"

namespace fiplane::build {
namespace {

std::string describe(const DesiredFdb& entry) {
    return fmt::format("fdb {} dev {}{}", entry.mac.str(), entry.device,
                       entry.destination ? " dst " + entry.destination->str() : std::string{" master"});
}

/// Set by somebody on purpose: neither learned, nor the bridge's own address, nor a routing daemon's (EVPN).
bool is_static(const FdbEntry& entry) {
    if ((entry.flags & NTF_EXT_LEARNED) != 0) return false;
    return entry.destination ? true : entry.state == NUD_NOARP;
}

/// A flat network's port is not ours, but what the bridge's table has for it is.
bool is_uplink(const DesiredDevice& device) {
    return std::holds_alternative<PhysicalKind>(device.kind);
}

}  // namespace

void NodeDiff::set_fdb(const DesiredFdb& entry, Step::Action action) {
    draft_.add(Stage::kNeighbours, "", SetFdb{entry}, action, describe(entry));
}

void NodeDiff::remove_fdb(const DesiredFdb& entry) {
    draft_.add(Stage::kRemoveNeighbours, "", RemoveFdb{entry}, Step::Action::kRemove, describe(entry));
}

void NodeDiff::fdb_differences() {
    const ActualNetns& root = now("");
    const DesiredNetns& wanted = desired_.netns.at("");
    std::map<std::string, std::map<Mac, std::set<IpAddress>>> tunnels;
    for (const auto& [name, device] : wanted.devices) {
        if (std::holds_alternative<VxlanKind>(device.kind) && live("", name) != nullptr) tunnels[name];
    }
    std::set<DesiredFdb> present;
    for (const auto& entry : root.fdb) {
        const auto device = root.names.find(entry.ifindex);
        if (device == root.names.end() || entry.destination || !is_static(entry) || entry.vlan != 0) continue;
        const Link* link = live("", device->second);
        if (link == nullptr) continue;
        const auto& kind = wanted.devices.find(device->second);
        if (kind == wanted.devices.end()) continue;
        // Entries of a bridge that is made again, or that the port leaves, go with it.
        const Link* master = live("", kind->second.master);
        if (master == nullptr || entry.bridge != master->ifindex) continue;
        const DesiredFdb found{device->second, entry.mac, std::nullopt};
        present.insert(found);
        const bool ours = link->alias == desired_.mark || is_uplink(kind->second);
        if (ours && !wanted.fdb.contains(found)) remove_fdb(found);
    }
    for (const auto& entry : wanted.fdb) {
        if (is_unplugged("", entry.device)) continue;
        if (entry.destination && tunnels.contains(entry.device)) {
            tunnels[entry.device][entry.mac].insert(*entry.destination);
        } else if (!present.contains(entry)) {
            set_fdb(entry, Step::Action::kAdd);
        }
    }
    for (auto& [device, entries] : tunnels)
        tunnel_entries(device, *live("", device), std::move(entries));
}

/// One MAC has one destination, and replacing sets it; the all-zero MAC has a list, to each of which frames are
/// flooded.
void NodeDiff::tunnel_entries(const std::string& device, const Link& link, std::map<Mac, std::set<IpAddress>> wanted) {
    std::map<Mac, std::set<IpAddress>> present;
    for (const auto& entry : now("").fdb) {
        // Own mode makes none that say more than a destination.
        const bool plain = !entry.elsewhere && entry.underlay_ifindex == 0;
        if (entry.ifindex == link.ifindex && entry.destination && plain && is_static(entry)) {
            present[entry.mac].insert(*entry.destination);
        }
    }
    for (const auto& [mac, destinations] : present) {
        const auto found = wanted.find(mac);
        const bool replaceable = found != wanted.end() && !mac.is_unset() && destinations.size() == 1;
        for (const IpAddress& destination : destinations) {
            const bool right = found != wanted.end() && found->second.contains(destination);
            if (!right && !replaceable) remove_fdb({device, mac, destination});
        }
    }
    for (const auto& [mac, destinations] : wanted) {
        const auto found = present.find(mac);
        for (const IpAddress& destination : destinations) {
            if (found != present.end() && found->second.contains(destination)) continue;
            const bool change = found != present.end() && !mac.is_unset();
            set_fdb({device, mac, destination}, change ? Step::Action::kChange : Step::Action::kAdd);
        }
    }
}

}  // namespace fiplane::build
