// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <string_view>

#include "topology/resolve.hpp"
#include "topology/suggest.hpp"

namespace fiplane::topology {
namespace {

constexpr std::string_view kAgentGateway = "network:floatingip_agent_gateway";
constexpr std::string_view kSnat = "network:router_centralized_snat";
constexpr std::string_view kWritable[] = {"compute:nova", kAgentGateway, kSnat};
// Neutron's owners of ports that fiplane derives from the router.
constexpr std::string_view kDerived[] = {"network:router_interface", "network:router_interface_distributed",
                                         "network:router_gateway"};

/// Nova writes "compute:" and the availability zone.
bool is_compute(std::string_view owner) {
    return owner.starts_with("compute:") && owner.size() > 8;
}

std::optional<PortOwner> resolve_owner(Resolution& work, const PortEntry& entry, const std::string& label) {
    if (!entry.device_owner.written) return PortOwner::kCompute;
    if (!entry.device_owner) return std::nullopt;
    const std::string& owner = *entry.device_owner;
    if (is_compute(owner)) return PortOwner::kCompute;
    if (owner == kAgentGateway) return PortOwner::kFloatingIpAgentGateway;
    if (owner == kSnat) return PortOwner::kRouterCentralizedSnat;
    std::string hint = fmt::format("compute:nova, {} or {}", kAgentGateway, kSnat);
    if (std::ranges::find(kDerived, owner) != std::end(kDerived)) {
        hint = "leave the port out: it follows from interfaces and external_gateway of the router";
    } else if (const auto near = closest(owner, kWritable)) {
        hint = fmt::format("did you mean {}?", *near);
    }
    work.mistakes.add(entry.device_owner.place, fmt::format("{}: device_owner {} cannot be listed", label, owner),
                      hint);
    return std::nullopt;
}

void resolve_port_node(Resolution& work, const PortEntry& entry, const std::string& label, Port& port) {
    if (entry.node.written) {
        port.node = work.nodes.find(entry.node, label, work.mistakes);
    } else if (port.owner != PortOwner::kRouterCentralizedSnat) {
        work.mistakes.add(entry.place, fmt::format("{} lacks node", label), "where it lives, like node: primary");
    }
}

void resolve_agent_gateway(Resolution& work, const PortEntry& entry, const std::string& label, const Port& port) {
    const Network& network = work.topology.networks[port.network];
    if (is_tenant_network(work, port.network)) {
        work.mistakes.add(
            entry.network.place,
            fmt::format("{}: an agent gateway belongs to an external network, and {} is none", label, network.name),
            fmt::format("write external: true for {}, or another network here", network.name));
        return;
    }
    if (!port.node) {
        work.ports_are_whole = false;
        return;
    }
    const Holder holder{label, entry.place};
    const auto [first, fresh] = work.agent_gateways.try_emplace({*port.node, port.network}, holder);
    if (fresh) return;
    report_clash(
        work.mistakes,
        fmt::format("the agent gateway of node {} on network {}", work.topology.nodes[*port.node].name, network.name),
        first->second, holder, "a node has one fg- device for each external network");
}

void check_port_router(Resolution& work, const PortEntry& entry, const std::string& label, Port& port) {
    if (port.owner == PortOwner::kRouterCentralizedSnat) {
        if (!entry.router.written) {
            work.mistakes.add(entry.place, fmt::format("{} lacks router", label),
                              fmt::format("a port of {} belongs to a router", kSnat));
        }
        port.router = work.routers.find(entry.router, label, work.mistakes);
    } else if (entry.router.written) {
        work.mistakes.add(entry.router.place, fmt::format("{}: router has no meaning here", label),
                          fmt::format("only ports of {} have one", kSnat));
    }
}

/// Only VMs can be on such a node, and only where frames need no bridge.
void check_macvtap_port(Resolution& work, const PortEntry& entry, const std::string& label, const Port& port) {
    if (!port.node || !is_macvtap(work, *port.node)) return;
    const Network& network = work.topology.networks[port.network];
    const auto& written_type = work.document.networks[port.network].network_type;
    const bool type_is_known = written_type || !written_type.written;
    if (port.owner != PortOwner::kCompute) {
        refuse_on_macvtap(work, *port.node, entry.node.place, label + ": a port of a router",
                          "there are only VMs, and no router namespaces; write a node whose vif_type is bridge");
    } else if (!network.is_provider() && type_is_known) {
        refuse_on_macvtap(
            work, *port.node, entry.node.place,
            fmt::format("{}: a VM of the {} network {}", label, title_of(network.type), network.name),
            "there are no tunnels: use a network of type vlan or flat, or a node whose vif_type is bridge");
    } else if (entry.device.written) {
        refuse_on_macvtap(work, *port.node, entry.device.place, label + ": device has no meaning",
                          "the hypervisor names its macvtap devices itself; leave it out");
    }
}

void resolve_port(Resolution& work, std::size_t index) {
    const PortEntry& entry = work.document.ports[index];
    Port& port = work.topology.ports[index];
    const std::string label = object_label("port", entry.name);
    port.id = resolve_id(work, "port", entry.id, port.name, label);
    port.network = kUnresolved;
    port.subnet = kUnresolved;
    work.port_origins.push_back({{label, entry.fixed_ip.place}, entry.mac, entry.device, entry.place});
    const bool readable = entry.name.written || entry.network.written;
    const auto owner = resolve_owner(work, entry, label);
    if (!owner || !readable) {
        work.ports_are_whole = false;
    } else {
        port.owner = *owner;
        resolve_port_node(work, entry, label, port);
        check_port_router(work, entry, label, port);
        if (port.owner != PortOwner::kCompute && entry.device.written) {
            work.mistakes.add(entry.device.place, fmt::format("{}: device has no meaning here", label),
                              "only VM ports choose their device; this one's name follows from its id");
        }
    }
    const auto network = work.networks.find(entry.network, label, work.mistakes);
    if (!network) {
        work.ports_are_whole = work.ports_are_whole && port.owner != PortOwner::kFloatingIpAgentGateway;
        return;
    }
    port.network = *network;
    if (port.node) check_reaches(work, *network, *port.node, entry.node.place, label);
    check_macvtap_port(work, entry, label, port);
    if (port.owner == PortOwner::kFloatingIpAgentGateway) resolve_agent_gateway(work, entry, label, port);
    if (!entry.fixed_ip) return;
    port.fixed_ip = *entry.fixed_ip;
    const std::string subject = label + ": fixed_ip";
    const auto subnet = find_subnet(work, *network, entry.fixed_ip, subject);
    if (!subnet) return;
    port.subnet = *subnet;
    if (check_not_gateway(work, *subnet, entry.fixed_ip, subject)) {
        claim_address(work, *network, port.fixed_ip, work.port_origins[index].holder);
    }
}

}  // namespace

void resolve_ports(Resolution& work) {
    for (std::size_t i = 0; i < work.document.ports.size(); ++i)
        resolve_port(work, i);
}

}  // namespace fiplane::topology
