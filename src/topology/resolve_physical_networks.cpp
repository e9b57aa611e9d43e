// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <vector>

#include "topology/derive.hpp"
#include "topology/resolve.hpp"
#include "topology/suggest.hpp"

namespace fiplane::topology {
namespace {

constexpr std::uint32_t kDefaultMtu = 1500;  // Neutron's global_physnet_mtu

/// Reports a physical network that no node has, unless what a node says could not be read.
void report_unknown(Resolution& work, const Field<std::string>& name, const std::string& object) {
    if (!work.physical_networks_are_whole) return;
    std::vector<std::string_view> known;
    known.reserve(work.topology.physical_network_mtus.size());
    for (const auto& [each, mtu] : work.topology.physical_network_mtus)
        known.push_back(each);
    const auto near = closest(*name, known);
    work.mistakes.add(name.place, fmt::format("{}: no node has the physical network {}", object, *name),
                      near ? fmt::format("did you mean {}?", *near)
                           : fmt::format("nodes that have it say so, like physical_networks: {{{}: eth1}}", *name));
}

void collect_from_node(Resolution& work, std::size_t index) {
    const NodeEntry& entry = work.document.nodes[index];
    Node& node = work.topology.nodes[index];
    Claims<std::string> devices;
    for (const NodeEntry::PhysicalNetwork& to : entry.physical_networks) {
        if (!to.name || !to.device) {
            work.physical_networks_are_whole = false;
            continue;
        }
        node.physical_networks.emplace(*to.name, *to.device);
        work.topology.physical_network_mtus.emplace(*to.name, kDefaultMtu);
        const Holder holder{fmt::format("{}: physical network {}", object_label("node", entry.name), *to.name),
                            to.device.place};
        if (const Holder* const other = devices.claim(*to.device, holder)) {
            report_clash(work.mistakes, "device " + *to.device, *other, holder,
                         "a device leads to one physical network");
        }
    }
}

/// A device in a bridge answers to no address of its own, and the filter below macvtaps lets nobody but VMs send.
void check_flat_underlay(Resolution& work, const NetworkEntry& entry, const Network& network, const Node& node) {
    const std::string& device = node.physical_networks.at(network.physical_network);
    if (network.type != NetworkType::kFlat || device != node.underlay_device) return;
    if (node.vif_type == VifType::kMacvtap) {
        work.mistakes.add(entry.physical_network.place,
                          fmt::format("{}: on node {} its VMs would be on the underlay device {} itself",
                                      object_label("network", entry.name), node.name, device),
                          "the filter that keeps VMs to their addresses would drop what the node itself sends; use "
                          "another device there, or network_type: vlan");
        return;
    }
    work.mistakes.add(
        entry.physical_network.place,
        fmt::format("{}: on node {} it would take the underlay device {} into its bridge",
                    object_label("network", entry.name), node.name, device),
        "the node's underlay address would stop working; use another device there, or network_type: vlan");
}

std::string provider_device(const Network& network, const Node& node, const std::string& physical) {
    if (network.type == NetworkType::kFlat) return physical;
    return node.vif_type == VifType::kMacvtap ? macvtap_vlan_device_name(physical, network.segmentation_id)
                                              : vlan_device_name(physical, network.segmentation_id);
}

void place_network(Resolution& work, std::size_t index) {
    Network& network = work.topology.networks[index];
    const NetworkEntry& entry = work.document.networks[index];
    if (!network.is_provider() || !entry.physical_network) return;
    for (std::size_t i = 0; i < work.topology.nodes.size(); ++i) {
        const Node& node = work.topology.nodes[i];
        const auto found = node.physical_networks.find(network.physical_network);
        if (found == node.physical_networks.end()) continue;
        network.provider_devices[i] = provider_device(network, node, found->second);
        check_flat_underlay(work, entry, network, node);
    }
    if (network.provider_devices.empty()) {
        report_unknown(work, entry.physical_network, object_label("network", entry.name));
    }
}

}  // namespace

void collect_physical_networks(Resolution& work) {
    for (std::size_t i = 0; i < work.topology.nodes.size(); ++i)
        collect_from_node(work, i);
    auto& mtus = work.topology.physical_network_mtus;
    for (const PhysicalMtuEntry& entry : work.document.physical_network_mtus) {
        const auto found = mtus.find(*entry.physical_network);
        if (found == mtus.end()) {
            report_unknown(work, entry.physical_network, "physical_network_mtus");
        } else if (entry.mtu) {
            found->second = *entry.mtu;
        }
    }
}

void place_provider_networks(Resolution& work) {
    for (std::size_t i = 0; i < work.topology.networks.size(); ++i)
        place_network(work, i);
}

void check_reaches(Resolution& work, std::size_t network, std::size_t node, Place place, const std::string& subject) {
    const Network& to = work.topology.networks[network];
    // A physical network that no node has is reported as that.
    if (to.reaches(node) || to.provider_devices.empty() || !work.physical_networks_are_whole) return;
    if (!work.unreached.insert({network, node}).second) return;
    const std::string& name = work.topology.nodes[node].name;
    work.mistakes.add(place,
                      fmt::format("{}: network {} is on physical network {}, which node {} does not have", subject,
                                  to.name, to.physical_network, name),
                      fmt::format("add to node {}: physical_networks: {{{}: eth1}}", name, to.physical_network));
}

}  // namespace fiplane::topology
