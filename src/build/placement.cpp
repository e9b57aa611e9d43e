// SPDX-License-Identifier: Apache-2.0
// Which routers, floating IPs and networks a node has.
#include <algorithm>

#include "build/desired.hpp"

namespace fiplane::build {
namespace {

bool central_snat_lives_on(const Topology& topology, const Router& router, std::size_t node) {
    return router.has_central_snat() && topology.ports[*router.gateway_port].node == node;
}

bool router_lives_on(const Router& router, std::size_t node, const std::set<std::size_t>& subnets_with_vms) {
    if (!router.distributed) return router.node == node;
    return std::ranges::any_of(router.subnets, [&](std::size_t subnet) { return subnets_with_vms.contains(subnet); });
}

}  // namespace

Placement place(const Topology& topology, std::size_t node) {
    Placement out;
    for (std::size_t i = 0; i < topology.networks.size(); ++i) {
        const Network& network = topology.networks[i];
        const bool is_hub = network.shape == Shape::kStar && network.hub == node;
        // Where there are no bridges, only VMs can be on it.
        const bool has_bridges = topology.nodes[node].vif_type == VifType::kBridge;
        if ((network.external && has_bridges && network.reaches(node)) || is_hub) out.networks.insert(i);
    }
    for (const auto& bridge : topology.nodes[node].bridge_addresses)
        out.networks.insert(bridge.network);
    std::set<std::size_t> subnets_with_vms;
    for (const auto& port : topology.ports) {
        if (port.owner != PortOwner::kCompute || port.node != node) continue;
        out.networks.insert(port.network);
        subnets_with_vms.insert(port.subnet);
    }
    for (std::size_t i = 0; i < topology.routers.size(); ++i) {
        const Router& router = topology.routers[i];
        const bool whole = router_lives_on(router, node, subnets_with_vms);
        const bool central = central_snat_lives_on(topology, router, node);
        if (whole) out.routers.push_back(i);
        if (central) out.central_snats.push_back(i);
        if (!whole && !central) continue;
        for (const std::size_t subnet : router.subnets)
            out.networks.insert(topology.subnets[subnet].network);
    }
    for (std::size_t i = 0; i < topology.floating_ips.size(); ++i) {
        if (topology.node_of(topology.floating_ips[i]) == node) out.floating_ips.push_back(i);
    }
    return out;
}

}  // namespace fiplane::build
