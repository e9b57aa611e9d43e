// SPDX-License-Identifier: Apache-2.0
// VLAN and flat networks on a node: the port of their bridge that leads to the physical network, or what VMs' macvtaps
// are on.
#include <fmt/format.h>

#include "build/desire.hpp"

namespace fiplane::build {

Result<std::string> Desire::provider_device(std::size_t index) const {
    const Network& network = topology_.networks[index];
    const auto found = network.provider_devices.find(node_index_);
    if (found != network.provider_devices.end()) return found->second;
    return fail(ExitCode::kBadTopology,
                fmt::format("node {} needs network {} and does not have its physical network {}", node_.name,
                            network.name, network.physical_network),
                topology_.file, fmt::format("add physical_networks: {{{}: eth1}}", network.physical_network));
}

/// Networks of one physical network share its device.
DesiredDevice& Desire::physical_device(const Network& network) {
    const auto [at, fresh] = root().devices.try_emplace(node_.physical_networks.at(network.physical_network));
    if (fresh) at->second.kind = PhysicalKind{network.physical_network};
    return at->second;
}

DesiredDevice Desire::vlan_device(const Network& network) const {
    DesiredDevice vlan;
    vlan.kind = VlanKind{static_cast<std::uint16_t>(network.segmentation_id),
                         node_.physical_networks.at(network.physical_network)};
    vlan.mtu = network.mtu;
    return vlan;
}

/// The bridge's port to the physical network. It learns and floods: hosts that the topology does not list may be there.
Result<> Desire::uplink(std::size_t index) {
    const Network& network = topology_.networks[index];
    auto device = provider_device(index);
    if (!device) return pass_on(device);
    DesiredDevice& physical = physical_device(network);
    if (network.type == NetworkType::kFlat) {
        physical.master = network.bridge;
        physical.port_flags = DesiredDevice::PortFlags{};
        root().fdb.insert({*device, out_.uplink_marks.at(network.bridge), std::nullopt});
    } else {
        DesiredDevice vlan = vlan_device(network);
        vlan.master = network.bridge;
        vlan.port_flags = DesiredDevice::PortFlags{};
        if (auto added = add_device("", *device, std::move(vlan)); !added) return added;
        silence_ipv6("", *device);
    }
    ports_beyond_uplink(index, *device);
    return {};
}

/// What the VMs' macvtaps are on, which the hypervisor makes: nothing else of the network is on such a node.
Result<> Desire::below_macvtaps(std::size_t index) {
    const Network& network = topology_.networks[index];
    auto device = provider_device(index);
    if (!device) return pass_on(device);
    DesiredDevice& physical = physical_device(network);
    GuardedUplink guarded{*device, network.type == NetworkType::kFlat, {}};
    if (guarded.passes_tags) {
        std::get<PhysicalKind>(physical.kind).below_macvtaps = true;
    } else {
        DesiredDevice vlan = vlan_device(network);
        vlan.all_multicast = true;
        if (auto added = add_device("", *device, std::move(vlan)); !added) return added;
        silence_ipv6("", *device);
    }
    for (const std::size_t port : ports_of_network_[index]) {
        const Port& vm = topology_.ports[port];
        if (vm.owner == PortOwner::kCompute && vm.node == node_index_) guarded.senders.push_back({vm.mac, vm.fixed_ip});
    }
    guarded_uplinks_.push_back(std::move(guarded));
    return {};
}

/// What the topology lists need not be learned.
void Desire::ports_beyond_uplink(std::size_t index, const std::string& device) {
    const auto there = peers_.find(index);
    if (there == peers_.end()) return;
    for (const std::size_t node : there->second) {
        for (const auto& own : topology_.nodes[node].bridge_addresses) {
            if (own.network == index) root().fdb.insert({device, own.mac, std::nullopt});
        }
    }
    for (const std::size_t port : ports_of_network_[index]) {
        const auto node = node_of(topology_.ports[port]);
        if (node && there->second.contains(*node)) root().fdb.insert({device, topology_.ports[port].mac, std::nullopt});
    }
}

}  // namespace fiplane::build
