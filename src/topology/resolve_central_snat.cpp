// SPDX-License-Identifier: Apache-2.0
// Central source NAT of distributed routers: where it is, and the ports that it has on the router's subnets.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "topology/resolve.hpp"

namespace fiplane::topology {
namespace {

/// One distributed router with an address of its own outside.
class CentralSnatResolver {
  public:
    CentralSnatResolver(Resolution& work, std::size_t router, std::size_t gateway_port)
        : work_(work),
          index_(router),
          gateway_port_(gateway_port),
          entry_(work.document.routers[router]),
          label_(object_label("router", entry_.name)) {}

    void resolve() {
        find_listed();
        const auto node = choose_node();
        if (!node) return;
        place(gateway_port_, *node);
        check_reaches(work_, port(gateway_port_).network, *node, entry_.gateway.place, label_ + ": external_gateway");
        for (const auto& [subnet, listed] : listed_)
            place(listed, *node);
        // Positions, since the list grows.
        for (const std::size_t interface : router().interfaces) {
            if (!listed_.contains(port(interface).subnet)) add_port(interface, *node);
        }
    }

  private:
    [[nodiscard]] const Router& router() const { return work_.topology.routers[index_]; }
    [[nodiscard]] const Port& port(std::size_t index) const { return work_.topology.ports[index]; }
    void place(std::size_t port, std::size_t node) { work_.topology.ports[port].node = node; }

    void find_listed() {
        for (std::size_t i = 0; i < work_.document.ports.size(); ++i) {
            if (port(i).owner != PortOwner::kRouterCentralizedSnat || port(i).router != index_) continue;
            if (port(i).subnet != kUnresolved) listed_.try_emplace(port(i).subnet, i);
        }
    }

    /// Where the listed ports are; else the first node that can have the gateway.
    std::optional<std::size_t> choose_node() {
        std::optional<std::size_t> first;
        for (const auto& [subnet, listed] : listed_) {
            if (!port(listed).node) continue;
            if (!first) first = listed;
            if (port(listed).node == port(*first).node) continue;
            report_apart(*first, listed);
        }
        if (first) return port(*first).node;
        const Network& network = work_.topology.networks[port(gateway_port_).network];
        for (std::size_t node = 0; node < work_.topology.nodes.size(); ++node) {
            if (!is_macvtap(work_, node) && network.reaches(node)) return node;
        }
        work_.mistakes.add(entry_.gateway.place,
                           fmt::format("{}: no node can have its gateway on network {}", label_, network.name),
                           "it takes a node with bridges and, of a VLAN or flat network, its physical network");
        return std::nullopt;
    }

    void report_apart(std::size_t one, std::size_t other) {
        const auto& [earlier, later] = std::minmax(one, other);
        const PortEntry& at = work_.document.ports[later];
        work_.mistakes.add(
            at.node.place,
            fmt::format("{}: the SNAT ports of router {} are on two nodes", object_label("port", at.name),
                        router().name),
            fmt::format("line {} has one on {}: they are legs of one namespace",
                        work_.document.ports[earlier].place.line, work_.topology.nodes[*port(earlier).node].name));
    }

    void add_port(std::size_t interface, std::size_t node) {
        const Subnet& subnet = work_.topology.subnets[port(interface).subnet];
        const Holder holder{fmt::format("{}: SNAT port on {}", label_, subnet.name),
                            work_.port_origins[interface].place};
        const auto address = free_address(subnet);
        if (!address) {
            work_.mistakes.add(holder.place, holder.who + " finds no free address",
                               "its allocation_pools are full: widen them, or list the port with a fixed_ip");
            return;
        }
        Port snat;
        snat.name = fmt::format("{}/{}/snat", router().name, subnet.name);
        snat.owner = PortOwner::kRouterCentralizedSnat;
        snat.network = subnet.network;
        snat.subnet = port(interface).subnet;
        snat.node = node;
        snat.router = index_;
        snat.fixed_ip = *address;
        claim_address(work_, snat.network, snat.fixed_ip, holder);
        add_derived_port(work_, std::move(snat), {holder, {}, {}, holder.place});
    }

    /// From the end of the last pool down: VMs are numbered from the other end.
    [[nodiscard]] std::optional<Ipv4> free_address(const Subnet& subnet) const {
        for (auto pool = subnet.allocation_pools.rbegin(); pool != subnet.allocation_pools.rend(); ++pool) {
            for (std::uint32_t value = pool->end.value; value >= pool->start.value && value != 0; --value) {
                const Ipv4 address{value};
                const bool is_host = address != subnet.cidr.address && address != subnet.cidr.broadcast();
                const bool free = !work_.addresses.contains({subnet.network, address}) && subnet.gateway_ip != address;
                if (is_host && free) return address;
            }
        }
        return std::nullopt;
    }

    Resolution& work_;
    std::size_t index_;
    std::size_t gateway_port_;
    const RouterEntry& entry_;
    std::string label_;
    std::map<std::size_t, std::size_t> listed_;  ///< ports of the file, by subnet
};

/// SNAT ports of a router that has no address outside would lead nowhere.
void check_gateways_of_listed(Resolution& work) {
    for (std::size_t i = 0; i < work.document.ports.size(); ++i) {
        const Port& port = work.topology.ports[i];
        if (port.owner != PortOwner::kRouterCentralizedSnat || !port.router) continue;
        const Router& router = work.topology.routers[*port.router];
        const RouterEntry& entry = work.document.routers[*port.router];
        const bool has_none = !entry.gateway.written ||
                              (router.external_network && entry.gateway.value && !entry.gateway->fixed_ip.written);
        const bool kind_is_unknown = entry.distributed.written && !entry.distributed;
        if (!router.is_dvr() || kind_is_unknown || !has_none) continue;
        work.mistakes.add(work.document.ports[i].router.place,
                          fmt::format("port {}: router {} has no address of its own outside", port.name, router.name),
                          "write it into its external_gateway, like {network: public, fixed_ip: ...}");
    }
}

}  // namespace

void resolve_central_snat(Resolution& work) {
    check_gateways_of_listed(work);
    for (std::size_t i = 0; i < work.topology.routers.size(); ++i) {
        const Router& router = work.topology.routers[i];
        if (router.is_dvr() && router.gateway_port) CentralSnatResolver(work, i, *router.gateway_port).resolve();
    }
}

}  // namespace fiplane::topology
