// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "topology/resolve.hpp"

namespace fiplane::topology {
namespace {

// Priorities 32768..72767 of the rules "from <fixed IP> lookup 16" on one node.
constexpr std::size_t kMaxRulePriorities = 40000;

using NodeNetwork = std::pair<std::size_t, std::size_t>;

std::string pool_list(const Topology& topology, std::size_t network) {
    std::vector<std::string> out;
    for (const std::size_t subnet : topology.networks[network].subnets) {
        for (const Subnet::Pool& pool : topology.subnets[subnet].allocation_pools) {
            out.push_back(fmt::format("{}-{}", pool.start.str(), pool.end.str()));
        }
    }
    return fmt::format("{}", fmt::join(out, ", "));
}

bool in_pools(const Subnet& subnet, Ipv4 address) {
    return std::ranges::any_of(subnet.allocation_pools,
                               [&](const Subnet::Pool& pool) { return pool.start <= address && address <= pool.end; });
}

bool network_has_in_pool(const Resolution& work, std::size_t network, Ipv4 address) {
    const auto subnet = work.prefixes.containing(network, Prefix::host(address));
    return subnet && in_pools(work.topology.subnets[*subnet], address);
}

/// Whether the router sends packets for `address` inside: to one of its subnets, or to the next hop of a route there.
bool leads_inside(const Topology& topology, const Router& router, Ipv4 address) {
    const auto is_on_leg = [&](Ipv4 host) {
        return std::ranges::any_of(router.interfaces, [&](std::size_t port) {
            return topology.subnets[topology.ports[port].subnet].cidr.contains(host);
        });
    };
    if (is_on_leg(address)) return true;
    const Router::Route* best = nullptr;
    for (const Router::Route& route : router.routes) {
        if (!route.destination.contains(address)) continue;
        if (best == nullptr || best->destination.length < route.destination.length) best = &route;
    }
    return best != nullptr && is_on_leg(best->nexthop);
}

/// A legacy router is where its floating IPs are, whatever node the VM is on; only its routes say how to get there.
bool translates_behind_routes(const Router& router) {
    return router.type == RouterType::kNeutron && !router.distributed && router.external_network;
}

class FloatingIpResolver {
  public:
    explicit FloatingIpResolver(Resolution& work) : work_(work) {}

    void resolve() {
        for (const FloatingIpEntry& entry : work_.document.floating_ips)
            resolve(entry);
        for (const auto& [at, first] : hosted_)
            check_agent_gateway(at, *first);
    }

  private:
    /// Only for routers of routers_of_subnet, which have one.
    [[nodiscard]] std::size_t external_network_of(std::size_t router) const {
        return work_.topology.routers[router].external_network.value_or(kUnresolved);
    }

    static std::string label_of(const FloatingIpEntry& entry) {
        return entry.address ? "floating IP " + entry.address->str() : "floating IP";
    }

    void resolve(const FloatingIpEntry& entry) {
        FloatingIp& fip = work_.topology.floating_ips.emplace_back();
        fip = {entry.address.value.value_or(Ipv4{}), kUnresolved, std::nullopt, kUnresolved, Ipv4{}};
        const std::string label = label_of(entry);
        const bool fresh = entry.address && claim_floating_ip(entry, label);
        const auto port = work_.ports.find(entry.port, label, work_.mistakes);
        const auto written_router = work_.routers.find(entry.router, label, work_.mistakes);
        if (entry.router.written && !written_router) return;
        std::optional<std::size_t> router;
        if (entry.fixed_ip.written) {
            fip.fixed_ip = entry.fixed_ip.value.value_or(Ipv4{});
            router = router_of_unlisted(entry, label, written_router);
        } else if (port) {
            fip.port = port;
            fip.fixed_ip = work_.topology.ports[*port].fixed_ip;
            router = router_of_port(entry, label, *port, written_router);
        }
        if (!router) return;
        fip.router = *router;
        fip.network = external_network_of(*router);
        claim_fixed_ip(entry, label, fip);
        if (fresh) check_address(entry, label, fip.network);
        note_host(entry, fip);
    }

    std::optional<std::size_t> router_of_port(const FloatingIpEntry& entry, const std::string& label, std::size_t port,
                                              std::optional<std::size_t> written) {
        const Port& to = work_.topology.ports[port];
        if (to.owner != PortOwner::kCompute) {
            work_.mistakes.add(entry.port.place, fmt::format("{}: port {} is not a VM's", label, to.name),
                               "a floating IP belongs to a port of device_owner compute:nova");
            return std::nullopt;
        }
        if (to.subnet == kUnresolved) return std::nullopt;
        return choose_router(entry, label, to, written);
    }

    /// Of a VM that is no port of the file.
    std::optional<std::size_t> router_of_unlisted(const FloatingIpEntry& entry, const std::string& label,
                                                  std::optional<std::size_t> written) {
        const auto refuse = [&](Place place, std::string what, std::string hint) {
            work_.mistakes.add(place, fmt::format("{}: {}", label, what), std::move(hint));
            return std::nullopt;
        };
        if (entry.port.written) {
            return refuse(entry.fixed_ip.place, "both port and fixed_ip_address",
                          "port names a VM of this file; fixed_ip_address is of one that is elsewhere");
        }
        if (!entry.router.written) {
            return refuse(entry.fixed_ip.place, "fixed_ip_address needs a router",
                          "the one that leads there, like router: router1");
        }
        if (!written || !entry.fixed_ip) return std::nullopt;
        const Router& router = work_.topology.routers[*written];
        const std::string address = entry.fixed_ip->str();
        if (!work_.routers_are_whole) return std::nullopt;
        if (!translates_behind_routes(router)) {
            return refuse(entry.router.place, fmt::format("router {} cannot have a fixed_ip_address", router.name),
                          "a legacy router with an external_gateway can; any other translates for ports of the file");
        }
        if (const Holder* const listed = holder_of(router, *entry.fixed_ip)) {
            return refuse(entry.fixed_ip.place, fmt::format("{} is the address of {}", address, listed->who),
                          fmt::format("line {} has it; of a VM of this file write its port", listed->place.line));
        }
        if (leads_inside(work_.topology, router, *entry.fixed_ip)) return written;
        return refuse(
            entry.fixed_ip.place, fmt::format("router {} does not lead to {}", router.name, address),
            fmt::format("add to its routes: {{destination: {}/32, nexthop: <a host of an inner subnet>}}", address));
    }

    /// Who has the address on a subnet of the router.
    [[nodiscard]] const Holder* holder_of(const Router& router, Ipv4 address) const {
        for (const std::size_t subnet : router.subnets) {
            if (const auto* holder = work_.addresses.find({work_.topology.subnets[subnet].network, address}))
                return holder;
        }
        return nullptr;
    }

    bool claim_floating_ip(const FloatingIpEntry& entry, const std::string& label) {
        const Holder* const other = addresses_.claim(*entry.address, {label, entry.address.place});
        if (other == nullptr) return true;
        work_.mistakes.add(entry.address.place, fmt::format("{} is listed twice", label),
                           fmt::format("line {} has it; a floating IP belongs to one port", other->place.line));
        return false;
    }

    std::optional<std::size_t> choose_router(const FloatingIpEntry& entry, const std::string& label, const Port& to,
                                             std::optional<std::size_t> written) {
        const auto& candidates = work_.routers_of_subnet[to.subnet];
        const std::string& subnet_name = work_.topology.subnets[to.subnet].name;
        if (written) {
            if (std::ranges::find(candidates, *written) != candidates.end()) return written;
            if (!work_.routers_are_whole) return std::nullopt;
            const Router& router = work_.topology.routers[*written];
            if (translates_behind_routes(router) && leads_inside(work_.topology, router, to.fixed_ip)) return written;
            work_.mistakes.add(
                entry.router.place,
                fmt::format("{}: router {} does not join {} to an external network", label, router.name, subnet_name),
                router.external_network ? fmt::format("add {} to its interfaces", subnet_name)
                                        : "give it an external_gateway");
            return std::nullopt;
        }
        if (candidates.empty()) {
            report_no_router(entry, label, subnet_name);
            return std::nullopt;
        }
        if (candidates.size() == 1 || !entry.address) return candidates.front();
        std::vector<std::size_t> fitting;
        for (const std::size_t router : candidates) {
            if (network_has_in_pool(work_, external_network_of(router), *entry.address)) fitting.push_back(router);
        }
        if (fitting.size() == 1) return fitting.front();
        std::vector<std::string> names;
        for (const std::size_t router : candidates)
            names.push_back(work_.topology.routers[router].name);
        work_.mistakes.add(
            entry.port.place,
            fmt::format("{}: {} routers join {} to an external network", label, names.size(), subnet_name),
            fmt::format("say which one, as router: {}", fmt::join(names, " or router: ")));
        return std::nullopt;
    }

    void report_no_router(const FloatingIpEntry& entry, const std::string& label, const std::string& subnet) {
        if (!work_.routers_are_whole) return;
        const auto& routers = work_.topology.routers;
        const auto able = std::ranges::find_if(routers, [](const Router& r) { return r.external_network.has_value(); });
        work_.mistakes.add(
            entry.port.place, fmt::format("{}: no router joins subnet {} to an external network", label, subnet),
            able == routers.end() ? fmt::format("add a router with external_gateway, and interfaces: [{}]", subnet)
                                  : fmt::format("add {} to the interfaces of router {}", subnet, able->name));
    }

    /// Two ports have its address, which has been reported.
    [[nodiscard]] bool address_is_anothers(std::size_t port) const {
        const Port& own = work_.topology.ports[port];
        const Holder* const holder = work_.addresses.find({own.network, own.fixed_ip});
        return holder != nullptr && holder->place != work_.port_origins[port].holder.place;
    }

    /// A router translates by address alone.
    void claim_fixed_ip(const FloatingIpEntry& entry, const std::string& label, const FloatingIp& fip) {
        const Place place = fip.port ? entry.port.place : entry.fixed_ip.place;
        if (fip.port && address_is_anothers(*fip.port)) return;
        const Holder* const other = fixed_ips_.claim({fip.router, fip.fixed_ip}, {label, place});
        if (other == nullptr) return;
        const std::string target =
            fip.port ? fmt::format("port {}", work_.topology.ports[*fip.port].name) : fip.fixed_ip.str();
        work_.mistakes.add(place,
                           fmt::format("{}: {} has {} already on router {}", label, target, other->who,
                                       work_.topology.routers[fip.router].name),
                           fmt::format("see line {}; a fixed IP has one floating IP on a router", other->place.line));
    }

    void check_address(const FloatingIpEntry& entry, const std::string& label, std::size_t network) {
        const auto subnet = find_subnet(work_, network, entry.address, "floating_ip_address");
        if (!subnet || !check_not_gateway(work_, *subnet, entry.address, "floating_ip_address")) return;
        const Subnet& in = work_.topology.subnets[*subnet];
        if (!in_pools(in, *entry.address)) {
            work_.mistakes.add(entry.address.place,
                               fmt::format("{} is outside the allocation pools of {}", label, in.name),
                               pool_list(work_.topology, network));
        }
        claim_address(work_, network, *entry.address, {label, entry.address.place});
    }

    /// Remembers that the floating IP makes its node need an agent gateway and a rule priority.
    void note_host(const FloatingIpEntry& entry, const FloatingIp& fip) {
        const auto node = work_.topology.node_of(fip);
        if (!work_.topology.routers[fip.router].is_dvr() || !node) return;
        hosted_.try_emplace({*node, fip.network}, &entry);
        if (++on_node_[*node] != kMaxRulePriorities + 1) return;
        work_.mistakes.add(entry.place,
                           fmt::format("node {} has more than {} floating IPs of distributed routers",
                                       work_.topology.nodes[*node].name, kMaxRulePriorities),
                           "there are no more rule priorities (32768-72767); move VMs to another node");
    }

    void check_agent_gateway(const NodeNetwork& at, const FloatingIpEntry& entry) {
        if (work_.agent_gateways.contains(at) || !work_.ports_are_whole) return;
        const std::string& node = work_.topology.nodes[at.first].name;
        const std::string& network = work_.topology.networks[at.second].name;
        const Place place = entry.address.written ? entry.address.place : entry.place;
        if (!work_.topology.networks[at.second].reaches(at.first)) {
            check_reaches(work_, at.second, at.first, place, label_of(entry));
            return;
        }
        work_.mistakes.add(
            place, fmt::format("{}: node {} has no agent gateway on network {}", label_of(entry), node, network),
            fmt::format("add to ports: - {{name: fg-{}-{}, network: {}, node: {}, fixed_ip: {}, device_owner: "
                        "network:floatingip_agent_gateway}}",
                        network, node, network, node, free_address(at.second)));
    }

    /// From the end of the last pool down: agent gateways are written there by custom.
    std::string free_address(std::size_t network) {
        const auto& subnets = work_.topology.networks[network].subnets;
        for (auto subnet = subnets.rbegin(); subnet != subnets.rend(); ++subnet) {
            const Subnet& in = work_.topology.subnets[*subnet];
            for (auto pool = in.allocation_pools.rbegin(); pool != in.allocation_pools.rend(); ++pool) {
                for (std::uint32_t value = pool->end.value; value >= pool->start.value; --value) {
                    const Ipv4 address{value};
                    const bool taken = work_.addresses.contains({network, address}) || addresses_.contains(address) ||
                                       in.gateway_ip == address;
                    if (!taken && proposed_.insert({network, address}).second) return address.str();
                }
            }
        }
        return "<a free address>";
    }

    Resolution& work_;
    Claims<Ipv4> addresses_;                                ///< external networks do not overlap
    Claims<std::pair<std::size_t, Ipv4>> fixed_ips_;        ///< by router
    std::map<NodeNetwork, const FloatingIpEntry*> hosted_;  ///< first floating IP there
    std::map<std::size_t, std::size_t> on_node_;
    std::set<std::pair<std::size_t, Ipv4>> proposed_;
};

}  // namespace

void resolve_floating_ips(Resolution& work) {
    FloatingIpResolver(work).resolve();
}

}  // namespace fiplane::topology
