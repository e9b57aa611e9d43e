// SPDX-License-Identifier: Apache-2.0
#include "core/model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/tunnels.hpp"

namespace fiplane {

namespace {

/// Of the tunnel between a star's hub and another node: nodes are counted in the order of the file, from one, without
/// the hub. So a network that is numbered 1000001 has the tunnels 1000002, 1000003..., as the multi-node guides number
/// them.
std::uint32_t spoke_id(const Network& network, std::size_t node) {
    const std::size_t position = node < network.hub ? node + 1 : node;
    return network.segmentation_id + static_cast<std::uint32_t>(position);
}

/// "geneve-16777215-99" would not fit into the 15 characters that Linux allows.
std::string_view device_prefix(NetworkType type) {
    return type == NetworkType::kGeneve ? "gnv" : word_of(type);
}

fl_tunnel_type tunnel_type(NetworkType type, bool over_ipv6) {
    switch (type) {
        case NetworkType::kVxlan:
            return over_ipv6 ? FL_TUNNEL_VXLAN6 : FL_TUNNEL_VXLAN;
        case NetworkType::kGre:
            return FL_TUNNEL_GRE;
        case NetworkType::kGeneve:
            return FL_TUNNEL_GENEVE;
        case NetworkType::kVlan:
        case NetworkType::kFlat:
            break;
    }
    return FL_TUNNEL_NONE;
}

}  // namespace

std::optional<std::size_t> Topology::node_of(const FloatingIp& fip) const {
    const Router& router = routers[fip.router];
    if (!router.distributed) return router.node;
    return fip.port ? ports[*fip.port].node : std::nullopt;
}

std::optional<std::uint16_t> Topology::udp_port(NetworkType type) const {
    switch (type) {
        case NetworkType::kVxlan:
            return vxlan_port;
        case NetworkType::kGeneve:
            return geneve_port;
        case NetworkType::kGre:
        case NetworkType::kVlan:
        case NetworkType::kFlat:
            break;
    }
    return std::nullopt;
}

const Node* Topology::find_node(std::string_view node_name) const {
    const auto found = std::ranges::find(nodes, node_name, &Node::name);
    return found == nodes.end() ? nullptr : &*found;
}

std::vector<TunnelEnd> Topology::tunnel_ends(const Network& network, std::size_t node) const {
    const std::string_view prefix = device_prefix(network.type);
    std::vector<TunnelEnd> ends;
    if (network.is_provider()) return ends;
    const auto spoke = [&](std::size_t outer, std::size_t peer) {
        const std::uint32_t id = spoke_id(network, outer);
        ends.push_back({fmt::format("{}-{}", prefix, id), id, {peer}});
    };
    if (network.shape == Shape::kStar && node != network.hub) {
        spoke(node, network.hub);
        return ends;
    }
    std::vector<std::size_t> others;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
        if (i != node) others.push_back(i);
    }
    if (network.shape == Shape::kStar) {
        for (const std::size_t other : others)
            spoke(other, other);
    } else if (network.shares_device()) {
        ends.push_back({fmt::format("{}-{}", prefix, network.segmentation_id), network.segmentation_id, others});
    } else {
        for (const std::size_t other : others) {
            ends.push_back({fmt::format("{}-{}-{}", prefix, network.segmentation_id, other + 1),
                            network.segmentation_id,
                            {other}});
        }
    }
    return ends;
}

bool Topology::is_over_ipv6() const {
    return !nodes.empty() && nodes.front().underlay_address.is_ipv6();
}

std::uint32_t Topology::tunnel_overhead(NetworkType network_type) const {
    return fiplane::tunnel_overhead(tunnel_type(network_type, is_over_ipv6()));
}

std::string_view word_of(NetworkType type) {
    switch (type) {
        case NetworkType::kVxlan:
            return "vxlan";
        case NetworkType::kGre:
            return "gre";
        case NetworkType::kGeneve:
            return "geneve";
        case NetworkType::kVlan:
            return "vlan";
        case NetworkType::kFlat:
            return "flat";
    }
    return {};
}

std::string_view title_of(NetworkType type) {
    switch (type) {
        case NetworkType::kVxlan:
            return "VXLAN";
        case NetworkType::kGre:
            return "GRE";
        case NetworkType::kGeneve:
            return "Geneve";
        case NetworkType::kVlan:
            return "VLAN";
        case NetworkType::kFlat:
            return "flat";
    }
    return {};
}

std::string_view word_of(Shape shape) {
    return shape == Shape::kStar ? "star" : "mesh";
}

std::string_view word_of(VifType type) {
    return type == VifType::kMacvtap ? "macvtap" : "bridge";
}

std::string_view word_of(RouterType type) {
    return type == RouterType::kNovaNetwork ? "nova-network" : "neutron";
}

}  // namespace fiplane
