// SPDX-License-Identifier: Apache-2.0
#include "topology/describe.hpp"

#include <optional>
#include <ranges>
#include <string>
#include <vector>

#include "topology/derive.hpp"

namespace fiplane {
namespace {

using nlohmann::json;

/// The name of the object that an optional index names, or null.
template <typename T>
json name_or_null(const std::vector<T>& objects, std::optional<std::size_t> index) {
    return index ? json(objects[*index].name) : json(nullptr);
}

json number_or_null(std::optional<std::uint16_t> number) {
    return number ? json(*number) : json(nullptr);
}

json describe_node(const Topology& topology, const Node& node) {
    json addresses = json::array();
    for (const Node::BridgeAddress& on : node.bridge_addresses) {
        const Network& network = topology.networks[on.network];
        addresses.push_back({{"network", network.name},
                             {"bridge", network.bridge},
                             {"address", on.address.str()},
                             {"mac", on.mac.str()}});
    }
    json physical = json::array();
    for (const auto& [name, device] : node.physical_networks)
        physical.push_back({{"name", name}, {"device", device}});
    return {{"name", node.name},
            {"underlay", {{"device", node.underlay_device}, {"address", node.underlay_address.str()}}},
            {"vif_type", word_of(node.vif_type)},
            {"physical_networks", std::move(physical)},
            {"addresses", std::move(addresses)}};
}

json describe_subnet(const Subnet& subnet) {
    json pools = json::array();
    for (const Subnet::Pool& pool : subnet.allocation_pools) {
        pools.push_back({{"start", pool.start.str()}, {"end", pool.end.str()}});
    }
    return {{"name", subnet.name},
            {"cidr", subnet.cidr.str()},
            {"gateway_ip", subnet.gateway_ip ? json(subnet.gateway_ip->str()) : json(nullptr)},
            {"allocation_pools", std::move(pools)}};
}

/// Tunnels from node to node; one device that leads to all others is tunnel_device.
json describe_tunnels(const Topology& topology, const Network& network) {
    json tunnels = json::array();
    if (network.shares_device()) return tunnels;
    for (std::size_t node = 0; node < topology.nodes.size(); ++node) {
        for (const TunnelEnd& end : topology.tunnel_ends(network, node)) {
            tunnels.push_back({{"node", topology.nodes[node].name},
                               {"device", end.device},
                               {"segmentation_id", end.id},
                               {"peer", topology.nodes[end.peers.front()].name}});
        }
    }
    return tunnels;
}

json describe_provider_devices(const Topology& topology, const Network& network) {
    json devices = json::array();
    for (const auto& [node, device] : network.provider_devices)
        devices.push_back({{"node", topology.nodes[node].name}, {"device", device}});
    return devices;
}

json describe_network(const Topology& topology, const Network& network) {
    json subnets = json::array();
    for (const std::size_t subnet : network.subnets)
        subnets.push_back(describe_subnet(topology.subnets[subnet]));
    const bool star = network.shape == Shape::kStar;
    const bool shared = network.shares_device();
    return {{"name", network.name},
            {"id", network.id},
            {"external", network.external},
            {"network_type", word_of(network.type)},
            {"physical_network", network.is_provider() ? json(network.physical_network) : json(nullptr)},
            {"provider_devices", describe_provider_devices(topology, network)},
            {"shape", network.is_provider() ? json(nullptr) : json(word_of(network.shape))},
            {"hub", star ? json(topology.nodes[network.hub].name) : json(nullptr)},
            {"segmentation_id", network.type == NetworkType::kFlat ? json(nullptr) : json(network.segmentation_id)},
            {"port", number_or_null(topology.udp_port(network.type))},
            {"bridge", network.bridge},
            {"tunnel_device", shared ? json(topology.tunnel_ends(network, 0).front().device) : json(nullptr)},
            {"tunnels", describe_tunnels(topology, network)},
            {"mtu", network.mtu},
            {"learning", network.learning},
            {"subnets", std::move(subnets)}};
}

json describe_router(const Topology& topology, const Router& router) {
    json interfaces = json::array();
    for (const std::size_t port : router.interfaces)
        interfaces.push_back(topology.ports[port].name);
    json subnets = json::array();
    for (const std::size_t subnet : router.subnets)
        subnets.push_back(topology.subnets[subnet].name);
    const bool in_namespace = router.type == RouterType::kNeutron;
    json routes = json::array();
    for (const Router::Route& route : router.routes) {
        routes.push_back({{"destination", route.destination.str()}, {"nexthop", route.nexthop.str()}});
    }
    return {{"name", router.name},
            {"id", router.id},
            {"type", word_of(router.type)},
            {"distributed", router.distributed},
            {"node", name_or_null(topology.nodes, router.node)},
            {"namespace", in_namespace ? json("qrouter-" + router.id) : json(nullptr)},
            {"snat_namespace", router.has_central_snat() ? json("snat-" + router.id) : json(nullptr)},
            {"external_network", name_or_null(topology.networks, router.external_network)},
            {"gateway_port", name_or_null(topology.ports, router.gateway_port)},
            {"enable_snat", router.gateway_port ? json(router.enable_snat) : json(nullptr)},
            {"subnets", std::move(subnets)},
            {"interfaces", std::move(interfaces)},
            {"routes", std::move(routes)}};
}

json describe_port(const Topology& topology, const Port& port) {
    return {{"name", port.name},
            {"id", port.id},
            {"device_owner", device_owner_name(topology, port)},
            {"network", topology.networks[port.network].name},
            {"subnet", topology.subnets[port.subnet].name},
            {"node", name_or_null(topology.nodes, port.node)},
            {"router", name_or_null(topology.routers, port.router)},
            {"fixed_ip", port.fixed_ip.str()},
            {"prefix_length", topology.subnets[port.subnet].cidr.length},
            {"mac", port.mac.str()},
            {"device", port.device.empty() ? json(nullptr) : json(port.device)}};
}

json describe_floating_ip(const Topology& topology, const FloatingIp& fip) {
    return {{"floating_ip_address", fip.address.str()},
            {"network", topology.networks[fip.network].name},
            {"port", name_or_null(topology.ports, fip.port)},
            {"fixed_ip", fip.fixed_ip.str()},
            {"router", topology.routers[fip.router].name},
            {"node", name_or_null(topology.nodes, topology.node_of(fip))}};
}

template <typename T, typename Describe>
json describe_all(const std::vector<T>& objects, Describe&& describe_one) {
    json out = json::array();
    for (const T& object : objects)
        out.push_back(describe_one(object));
    return out;
}

}  // namespace

std::string device_owner_name(const Topology& topology, const Port& port) {
    switch (port.owner) {
        case PortOwner::kCompute:
            return "compute:nova";
        case PortOwner::kFloatingIpAgentGateway:
            return "network:floatingip_agent_gateway";
        case PortOwner::kRouterInterface:
            return port.router && topology.routers[*port.router].distributed ? "network:router_interface_distributed"
                                                                             : "network:router_interface";
        case PortOwner::kRouterGateway:
            return "network:router_gateway";
        case PortOwner::kRouterCentralizedSnat:
            return "network:router_centralized_snat";
    }
    return {};
}

json describe(const Topology& topology) {
    json physical = json::array();
    for (const auto& [name, mtu] : topology.physical_network_mtus)
        physical.push_back({{"name", name}, {"mtu", mtu}});
    return {
        {"name", topology.name},
        {"file", topology.file},
        {"transport",
         {{"type", word_of(topology.transport)},
          {"port", topology.udp_port(topology.transport).value_or(topology.vxlan_port)}}},
        {"underlay_mtu", topology.underlay_mtu},
        {"mss_clamp", topology.mss_clamp},
        {"physical_networks", std::move(physical)},
        {"nodes", describe_all(topology.nodes, [&](const Node& n) { return describe_node(topology, n); })},
        {"networks", describe_all(topology.networks, [&](const Network& n) { return describe_network(topology, n); })},
        {"routers", describe_all(topology.routers, [&](const Router& r) { return describe_router(topology, r); })},
        {"ports", describe_all(topology.ports, [&](const Port& p) { return describe_port(topology, p); })},
        {"floating_ips",
         describe_all(topology.floating_ips, [&](const FloatingIp& f) { return describe_floating_ip(topology, f); })}};
}

}  // namespace fiplane
