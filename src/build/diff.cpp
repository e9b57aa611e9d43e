// SPDX-License-Identifier: Apache-2.0
#include "build/diff.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "build/diff_impl.hpp"
#include "build/names.hpp"

namespace fiplane::build {
namespace {

std::string describe_owner(const Link& link) {
    if (link.kind == "openvswitch") return "it is Open vSwitch's";
    if (!link.alias.empty()) return fmt::format("its alias is \"{}\"", link.alias);
    return link.kind.empty() ? "it is a physical device" : fmt::format("it is a {} without fiplane's mark", link.kind);
}

std::unexpected<Error> foreign_netns(const NetnsName& name, const ActualNetns& found) {
    return fail(ExitCode::kForeignObject,
                fmt::format("network namespace {} was made by somebody else, probably a Neutron L3 agent: {}", name,
                            found.evidence),
                {}, "nothing was changed; fiplane builds only where no L3 agent does");
}

std::unexpected<Error> foreign_device(const std::string& name, const Link& link) {
    return fail(ExitCode::kForeignObject,
                fmt::format("device {} was made by somebody else: {}", name, describe_owner(link)), {},
                "nothing was changed; remove or rename it, or give the network another bridge name");
}

}  // namespace

void Draft::add(Stage stage, const NetnsName& netns, Change change, Step::Action action, std::string object,
                std::string detail) {
    operations.push_back(
        {stage, netns, std::move(change), {Step{action, netns, std::move(object), std::move(detail)}}});
}

void Draft::sort() {
    std::ranges::stable_sort(operations, {}, &Operation::stage);
}

Result<Draft> NodeDiff::run() {
    if (auto checked = check_owners(); !checked) return pass_on(checked);
    netns_differences();
    device_differences();
    remove_stale_links();
    remove_stale_ports();
    remove_stale_uplinks();
    for (const auto& [name, wanted] : desired_.netns) {
        sysctl_differences(name, wanted);
        address_differences(name, wanted);
        neighbour_differences(name, wanted);
        // The node's own routes and rules are its operator's.
        if (!name.empty()) {
            route_differences(name, wanted);
            rule_differences(name, wanted);
        }
        nft_differences(name, wanted);
        end_connections(name, wanted);
    }
    fdb_differences();
    draft_.sort();
    return std::move(draft_);
}

const ActualNetns& NodeDiff::now(const NetnsName& netns) const {
    static const ActualNetns kEmpty;
    const auto found = actual_.netns.find(netns);
    return found == actual_.netns.end() ? kEmpty : found->second;
}

Result<> NodeDiff::check_mark(const std::string& mark, const std::string& where) const {
    if (!is_marked(mark) || mark == desired_.mark) return {};
    return fail(ExitCode::kForeignObject,
                fmt::format("{} belongs to topology \"{}\" and not to \"{}\"", where, mark.substr(kMarkPrefix.size()),
                            desired_.mark.substr(kMarkPrefix.size())),
                {}, "a node has one topology: run `fiplane teardown` first");
}

/// A flat network takes its device into the bridge: not out of another, and not while it has addresses, to which it
/// would no longer answer. Below macvtaps it is in no bridge, and what it sends from its addresses would be dropped.
Result<> NodeDiff::check_physical(const std::string& name, const DesiredDevice& device, const Link& link) const {
    const ActualNetns& root = now("");
    const auto& [network, below_macvtaps] = std::get<PhysicalKind>(device.kind);
    if (device.master.empty() && !below_macvtaps) return {};
    if (link.master != 0) {
        const auto master = root.names.find(link.master);
        if (master != root.names.end() && is_marked(root.links.at(master->second).alias)) return {};
        return fail(ExitCode::kForeignObject,
                    fmt::format("device {} of physical network {} is in {}, which somebody else made", name, network,
                                master == root.names.end() ? "another device" : master->second),
                    {}, "nothing was changed; release it, or name another device in physical_networks");
    }
    const auto address = std::ranges::find(root.addresses, link.ifindex, &Address::ifindex);
    if (address == root.addresses.end()) return {};
    const std::string has =
        fmt::format("device {} of physical network {} has the address {}", name, network, address->address.str());
    if (below_macvtaps) {
        return fail(ExitCode::kForeignObject, has + ", and only VMs may send by it", {},
                    "nothing was changed; remove it, or use another device or a VLAN");
    }
    return fail(ExitCode::kForeignObject, fmt::format("{}, which would stop working in bridge {}", has, device.master),
                {},
                "nothing was changed; remove it, and write it as the node's address on the network if it is needed");
}

/// The kernel has one device for a VLAN of a device, whatever its name is.
Result<> NodeDiff::check_vlan(const std::string& name, const VlanKind& vlan) const {
    const ActualNetns& root = now("");
    const Link* parent = root.link(vlan.parent);
    if (parent == nullptr) return {};
    for (const auto& [other, link] : root.links) {
        const bool same = link.vlan && link.vlan->id == vlan.id && link.vlan->parent_ifindex == parent->ifindex;
        if (!same || other == name || is_marked(link.alias) || link.vlan->protocol != VlanInfo{}.protocol) continue;
        return fail(ExitCode::kForeignObject,
                    fmt::format("VLAN {} of {} has the device {} already, which somebody else made", vlan.id,
                                vlan.parent, other),
                    {}, "nothing was changed; remove it, or use another segmentation_id");
    }
    return {};
}

Result<> NodeDiff::check_owners() const {
    const ActualNetns& root = now("");
    for (const auto& [name, device] : desired_.netns.at("").devices) {
        const Link* link = root.link(name);
        if (const auto* vlan = std::get_if<VlanKind>(&device.kind)) {
            if (auto free = check_vlan(name, *vlan); !free) return free;
        }
        if (link == nullptr || std::holds_alternative<VmPortKind>(device.kind)) continue;
        if (std::holds_alternative<PhysicalKind>(device.kind)) {
            if (auto usable = check_physical(name, device, *link); !usable) return usable;
        } else if (!is_marked(link->alias)) {
            return foreign_device(name, *link);
        }
    }
    for (const auto& [name, found] : actual_.netns) {
        if (!found.ours && desired_.netns.contains(name)) return foreign_netns(name, found);
    }
    for (const auto& [name, link] : root.links) {
        if (auto ours = check_mark(link.alias, fmt::format("device {}", name)); !ours) return ours;
    }
    for (const auto& [name, found] : actual_.netns) {
        if (name.empty()) continue;
        if (auto ours = check_mark(found.mark, fmt::format("network namespace {}", name)); !ours) return ours;
    }
    return {};
}

void NodeDiff::netns_differences() {
    for (const auto& [name, wanted] : desired_.netns) {
        if (actual_.netns.contains(name)) continue;
        draft_.add(Stage::kCreateNetns, name, CreateNetns{desired_.mark}, Step::Action::kAdd, "netns " + name);
    }
    for (const auto& [name, found] : actual_.netns) {
        if (name.empty() || found.mark != desired_.mark || desired_.netns.contains(name)) continue;
        draft_.add(Stage::kRemoveNetns, name, RemoveNetns{}, Step::Action::kRemove, "netns " + name);
        for (const auto& [fip, fixed] : translations_of(found.netfilter)) {
            draft_.withdrawn.insert({fip, fixed});
        }
    }
}

Result<Draft> diff(const DesiredNode& desired, const ActualNode& actual) {
    return NodeDiff(desired, actual).run();
}

namespace {

/// A device that is absent may come.
Result<> check_physical_mtu(const Topology& topology, const Node& here, const Network& network,
                            const ActualNetns& root) {
    const auto device = here.physical_networks.find(network.physical_network);
    const Link* link = device == here.physical_networks.end() ? nullptr : root.link(device->second);
    if (link == nullptr || network.mtu <= link->mtu) return {};
    return fail(ExitCode::kBadTopology,
                fmt::format("network {} has MTU {}, and {}, the device of physical network {}, has {}", network.name,
                            network.mtu, link->name, network.physical_network, link->mtu),
                topology.file, "raise the device's MTU or lower the network's (physical_network_mtus, mtu)");
}

std::string devices_of(const ActualNetns& root) {
    std::string present;
    for (const auto& [name, link] : root.links)
        present += (present.empty() ? "" : ", ") + name;
    return present;
}

}  // namespace

Result<> check_physical_devices(const Topology& topology, std::size_t node, const ActualNode& actual) {
    const Node& here = topology.nodes[node];
    const ActualNetns& root = actual.netns.at("");
    for (const std::size_t index : place(topology, node).networks) {
        const Network& network = topology.networks[index];
        const auto device = here.physical_networks.find(network.physical_network);
        if (device == here.physical_networks.end() || root.link(device->second) != nullptr) continue;
        return fail(ExitCode::kMissingDevice,
                    fmt::format("node {} has no device {}, which leads to physical network {}", here.name,
                                device->second, network.physical_network),
                    {}, fmt::format("devices here: {}; is this node {}?", devices_of(root), here.name));
    }
    return {};
}

Result<> check_underlay(const Topology& topology, std::size_t node, const ActualNode& actual) {
    const Node& here = topology.nodes[node];
    const ActualNetns& root = actual.netns.at("");
    const Link* underlay = root.link(here.underlay_device);
    if (underlay == nullptr) {
        return fail(ExitCode::kMissingDevice,
                    fmt::format("node {} has no underlay device {}", here.name, here.underlay_device), {},
                    fmt::format("devices here: {}; is this node {}?", devices_of(root), here.name));
    }
    std::string present;
    bool found = false;
    const auto note = [&](const IpAddress& address, const std::string& text) {
        found = found || address == here.underlay_address;
        present += (present.empty() ? "" : ", ") + text;
    };
    for (const auto& address : root.addresses) {
        if (address.ifindex == underlay->ifindex) note(address.address.address, address.address.str());
    }
    for (const auto& own : root.ipv6_addresses) {
        if (own.ifindex == underlay->ifindex) note(own.address, own.address.str());
    }
    if (!found) {
        return fail(ExitCode::kMissingDevice,
                    fmt::format("underlay device {} of node {} does not have the address {}", here.underlay_device,
                                here.name, here.underlay_address.str()),
                    {}, fmt::format("it has {}; is this node {}?", present.empty() ? "none" : present, here.name));
    }
    for (const std::size_t index : place(topology, node).networks) {
        const Network& network = topology.networks[index];
        if (network.is_provider()) {
            if (auto fits = check_physical_mtu(topology, here, network, root); !fits) return fits;
            continue;
        }
        const std::uint32_t needed = network.mtu + topology.tunnel_overhead(network.type);
        if (needed <= underlay->mtu) continue;
        return fail(ExitCode::kBadTopology,
                    fmt::format("network {} has MTU {}, which needs {} on {}, and that has {}", network.name,
                                network.mtu, needed, here.underlay_device, underlay->mtu),
                    topology.file, "raise the underlay's MTU or lower the network's");
    }
    return {};
}

}  // namespace fiplane::build
