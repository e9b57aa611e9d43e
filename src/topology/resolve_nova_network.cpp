// SPDX-License-Identifier: Apache-2.0
// Routers of type nova-network: the stacks of nodes, which have addresses of their own on the networks' bridges.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "topology/resolve.hpp"

namespace fiplane::topology {
namespace {

class NovaNetworkResolver {
  public:
    NovaNetworkResolver(Resolution& work, std::size_t index)
        : work_(work),
          index_(index),
          entry_(work.document.routers[index]),
          router_(work.topology.routers[index]),
          label_(object_label("router", entry_.name)) {}

    void resolve() {
        router_.id = resolve_id(work_, "router", entry_.id, router_.name, label_);
        router_.type = RouterType::kNovaNetwork;
        router_.distributed = entry_.multi_host.value.value_or(false);
        work_.routers_are_whole = work_.routers_are_whole && entry_.name.written;
        refuse_foreign_keys();
        resolve_node();
        resolve_gateway();
        for (const RouterEntry::Interface& interface : entry_.interfaces)
            resolve_interface(interface);
        check_nodes();
    }

  private:
    void complain(Place place, const std::string& what, std::string hint) {
        work_.mistakes.add(place, label_ + what, std::move(hint));
    }

    void refuse_foreign_keys() {
        if (entry_.distributed.written) {
            complain(entry_.distributed.place, ": distributed belongs to Neutron's routers",
                     "nova-network's is multi_host");
        }
        for (const RouterEntry::Route& route : entry_.routes) {
            complain(route.place, ": a nova-network router has no routes of its own",
                     "the node's routes are the node's; leave it out");
        }
    }

    void resolve_node() {
        if (entry_.multi_host.written && !entry_.multi_host) return;
        if (!entry_.node.written) {
            if (!router_.distributed && entry_.name.written) {
                complain(entry_.place, " lacks node",
                         "where nova-network runs, like node: primary; or multi_host: true");
            }
            return;
        }
        router_.node = work_.nodes.find(entry_.node, label_, work_.mistakes);
        if (router_.distributed) {
            complain(entry_.node.place, ": with multi_host each node routes for its own VMs", "leave node out");
        }
    }

    void resolve_gateway() {
        if (!entry_.gateway.written) return;
        work_.routers_are_whole = work_.routers_are_whole && entry_.gateway.value.has_value();
        if (!entry_.gateway.value) return;
        const RouterEntry::Gateway& gateway = *entry_.gateway;
        const auto network = work_.networks.find(gateway.network, label_, work_.mistakes);
        if (!network) {
            work_.routers_are_whole = false;
            return;
        }
        const std::string& name = work_.topology.networks[*network].name;
        if (is_tenant_network(work_, *network)) {
            complain(gateway.network.place, fmt::format(": external_gateway {} is not an external network", name),
                     fmt::format("write external: true for {}", name));
            return;
        }
        if (gateway.fixed_ip.written) {
            complain(gateway.fixed_ip.place, ": the gateway of a nova-network router has no fixed_ip",
                     fmt::format("it is the node's own address: write it under the node's addresses, for {}", name));
        }
        if (gateway.enable_snat.written) {
            complain(gateway.enable_snat.place, ": enable_snat belongs to type: neutron",
                     "nova-network always translates what VMs send beyond the external network's bridge");
        }
        router_.external_network = network;
    }

    void resolve_interface(const RouterEntry::Interface& entry) {
        const auto subnet = work_.subnets.find(entry.subnet, label_, work_.mistakes);
        if (!subnet) {
            work_.routers_are_whole = false;
            return;
        }
        const Subnet& in = work_.topology.subnets[*subnet];
        const Network& network = work_.topology.networks[in.network];
        if (entry.fixed_ip.written || entry.mac.written) {
            complain(entry.place, fmt::format(": the leg on {} is the node's own", in.name),
                     fmt::format("write its address under the node's addresses, for {}", network.name));
        }
        if (std::ranges::find(router_.subnets, *subnet) != router_.subnets.end()) {
            complain(entry.place, fmt::format(": two interfaces on subnet {}", in.name), "one is enough");
            return;
        }
        if (network.external) {
            complain(entry.subnet.place, fmt::format(": interface on {}, a subnet of an external network", in.name),
                     fmt::format("write external_gateway: {}", network.name));
            return;
        }
        // VMs ask for the node by ARP, so no tunnel may keep ARP to itself; DHCP clients are on no list.
        const bool written = work_.document.networks[in.network].learning.written;
        if (!network.learning && !written) {
            complain(entry.place, fmt::format(": network {} does not learn where its guests are", network.name),
                     fmt::format("write learning: true for {}", network.name));
        }
        router_.subnets.push_back(*subnet);
        if (router_.external_network) work_.routers_of_subnet[*subnet].push_back(index_);
    }

    /// The nodes that route: its own, or with multi_host those with a VM of its subnets.
    [[nodiscard]] std::set<std::size_t> nodes() const {
        std::set<std::size_t> out;
        if (router_.node && !router_.distributed) out.insert(*router_.node);
        for (const Port& port : work_.topology.ports) {
            const bool served = port.owner == PortOwner::kCompute && port.subnet != kUnresolved &&
                                std::ranges::find(router_.subnets, port.subnet) != router_.subnets.end();
            if (router_.distributed && served && port.node) out.insert(*port.node);
        }
        return out;
    }

    void check_nodes() {
        std::set<std::size_t> networks;
        for (const std::size_t subnet : router_.subnets)
            networks.insert(work_.topology.subnets[subnet].network);
        if (router_.external_network) networks.insert(*router_.external_network);
        for (const std::size_t node : nodes()) {
            const Place place = entry_.node.written ? entry_.node.place : entry_.place;
            if (refuse_on_macvtap(work_, node, place, label_ + ": routing",
                                  "there are no bridges that the node could have addresses on; write a node whose "
                                  "vif_type is bridge, and with multi_host no VMs of its subnets there")) {
                continue;
            }
            for (const std::size_t network : networks)
                check_address(node, network);
        }
    }

    void check_address(std::size_t node, std::size_t network) {
        const NodeEntry& entry = work_.document.nodes[node];
        const std::string& network_name = work_.topology.networks[network].name;
        // One that could not be read is reported where it stands.
        const bool written = std::ranges::any_of(entry.addresses, [&](const NodeEntry::Address& address) {
            return address.network && *address.network == network_name;
        });
        if (!written) {
            complain(entry_.place,
                     fmt::format(": node {} has no address on {}", work_.topology.nodes[node].name, network_name),
                     fmt::format("add it to the node's addresses, like {{{}: {}}}", network_name, example(network)));
            return;
        }
        if (!router_.distributed) check_gateway_ip(node, network);
    }

    std::string example(std::size_t network) const {
        const auto& subnets = work_.topology.networks[network].subnets;
        if (subnets.empty()) return "address/length";
        const Subnet& subnet = work_.topology.subnets[subnets.front()];
        return Prefix{subnet.gateway_ip.value_or(Ipv4{subnet.cidr.address.value + 1}), subnet.cidr.length}.str();
    }

    /// VMs of all nodes have the one node's address as their gateway.
    void check_gateway_ip(std::size_t node, std::size_t network) {
        const Node& at = work_.topology.nodes[node];
        for (const std::size_t index : router_.subnets) {
            const Subnet& subnet = work_.topology.subnets[index];
            if (subnet.network != network || !subnet.gateway_ip) continue;
            const bool is_gateway = std::ranges::any_of(at.bridge_addresses, [&](const Node::BridgeAddress& own) {
                return own.network == network && own.address.address == *subnet.gateway_ip;
            });
            if (is_gateway) continue;
            complain(work_.subnet_entries[index]->place,
                     fmt::format(": the gateway_ip of {} ({}) is not node {}'s address there", subnet.name,
                                 subnet.gateway_ip->str(), at.name),
                     "the VMs' gateway is the node that routes for them");
        }
    }

    Resolution& work_;
    std::size_t index_;
    const RouterEntry& entry_;
    Router& router_;
    std::string label_;
};

}  // namespace

void resolve_nova_network(Resolution& work, std::size_t router) {
    NovaNetworkResolver(work, router).resolve();
}

}  // namespace fiplane::topology
