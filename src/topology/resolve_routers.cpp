// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "topology/derive.hpp"
#include "topology/resolve.hpp"

namespace fiplane::topology {

std::size_t add_derived_port(Resolution& work, Port port, PortOrigin origin) {
    port.id = resolve_id(work, "port", {}, port.name, origin.holder.who);
    work.topology.ports.push_back(std::move(port));
    work.port_origins.push_back(std::move(origin));
    return work.topology.ports.size() - 1;
}

namespace {

// 169.254.64.0/18 cut into /31: rfp-/fpr- pairs of one node.
constexpr std::size_t kMaxLinkLocalPairs = 8192;
// "rfp-" and ten characters of the router's id.
constexpr std::size_t kIdInPairName = 10;

class RouterResolver {
  public:
    RouterResolver(Resolution& work, std::size_t index)
        : work_(work),
          index_(index),
          entry_(work.document.routers[index]),
          router_(work.topology.routers[index]),
          label_(object_label("router", entry_.name)) {}

    void resolve() {
        router_.id = resolve_id(work_, "router", entry_.id, router_.name, label_);
        router_.distributed = entry_.distributed.value.value_or(true);
        work_.routers_are_whole = work_.routers_are_whole && entry_.name.written;
        if (entry_.multi_host.written && !kind_is_unknown()) {
            complain(entry_.multi_host.place, ": multi_host belongs to type: nova-network", "Neutron's is distributed");
        }
        resolve_node();
        resolve_gateway();
        std::set<std::size_t> joined;
        for (const auto& interface : entry_.interfaces)
            resolve_interface(interface, joined);
        check_interface_overlaps(joined);
        resolve_routes();
    }

  private:
    void complain(Place place, const std::string& what, std::string hint) {
        work_.mistakes.add(place, label_ + what, std::move(hint));
    }

    /// `distributed` was written and could not be read: either kind may be meant.
    [[nodiscard]] bool kind_is_unknown() const { return entry_.distributed.written && !entry_.distributed; }

    void resolve_node() {
        if (!entry_.node.written) {
            if (!router_.distributed && entry_.name.written) {
                complain(entry_.place, " lacks node", "a legacy router lives on one node, like node: primary");
            }
            return;
        }
        router_.node = work_.nodes.find(entry_.node, label_, work_.mistakes);
        if (router_.distributed && !kind_is_unknown()) {
            complain(entry_.node.place, ": a distributed router has no node",
                     "it is on every node that needs it; leave node out, or write distributed: false");
        } else if (router_.node) {
            refuse_on_macvtap(work_, *router_.node, entry_.node.place, label_ + ": a router",
                              "there are no bridges that it could be on; write a node whose vif_type is bridge");
        }
    }

    void resolve_gateway() {
        if (!entry_.gateway.written) return;
        const RouterEntry::Gateway* const gateway = entry_.gateway.value ? &*entry_.gateway.value : nullptr;
        const auto network =
            gateway != nullptr ? work_.networks.find(gateway->network, label_, work_.mistakes) : std::nullopt;
        if (!network) {
            work_.routers_are_whole = false;
            return;
        }
        if (is_tenant_network(work_, *network)) {
            work_.routers_are_whole = false;
            complain(
                gateway->network.place,
                fmt::format(": external_gateway {} is not an external network", work_.topology.networks[*network].name),
                fmt::format("write external: true for {}, or join its subnet by interfaces",
                            work_.topology.networks[*network].name));
            return;
        }
        router_.external_network = network;
        router_.enable_snat = gateway->enable_snat.value.value_or(true);
        if (kind_is_unknown()) return;
        if (gateway->fixed_ip.written) {
            if (gateway->fixed_ip) add_gateway_port(*gateway, *network);
            return;
        }
        const std::string& name = work_.topology.networks[*network].name;
        if (!router_.distributed) {
            complain(gateway->place, ": external_gateway lacks fixed_ip",
                     fmt::format("a legacy router has an address there, like {{network: {}, fixed_ip: ...}}", name));
        } else if (gateway->enable_snat.value == true) {
            complain(gateway->enable_snat.place, ": enable_snat needs a fixed_ip",
                     fmt::format("the address that stands for VMs, like {{network: {}, fixed_ip: ...}}", name));
        }
    }

    void add_gateway_port(const RouterEntry::Gateway& gateway, std::size_t network) {
        const std::string subject = label_ + ": external_gateway";
        const auto subnet = find_subnet(work_, network, gateway.fixed_ip, subject);
        if (!subnet || !check_not_gateway(work_, *subnet, gateway.fixed_ip, subject)) return;
        Port port;
        port.name = fmt::format("{}/{}/gateway", router_.name, work_.topology.networks[network].name);
        port.owner = PortOwner::kRouterGateway;
        port.network = network;
        port.subnet = *subnet;
        port.node = router_.node;
        port.router = index_;
        port.fixed_ip = *gateway.fixed_ip;
        const Holder holder{subject, gateway.fixed_ip.place};
        if (router_.node) check_reaches(work_, network, *router_.node, gateway.network.place, subject);
        claim_address(work_, network, port.fixed_ip, holder);
        router_.gateway_port = add_derived_port(work_, std::move(port), {holder, {}, {}, gateway.place});
    }

    void resolve_interface(const RouterEntry::Interface& entry, std::set<std::size_t>& joined) {
        const auto subnet = work_.subnets.find(entry.subnet, label_, work_.mistakes);
        if (!subnet) {
            work_.routers_are_whole = false;
            return;
        }
        const Subnet& in = work_.topology.subnets[*subnet];
        if (!joined.insert(*subnet).second) {
            complain(entry.place, fmt::format(": two interfaces on subnet {}", in.name), "one is enough");
            return;
        }
        const Network& network = work_.topology.networks[in.network];
        if (network.external && !may_be_inside(entry, in.network)) {
            work_.routers_are_whole = false;
            complain(entry.subnet.place, fmt::format(": interface on {}, a subnet of an external network", in.name),
                     fmt::format("write external_gateway: {}", network.name));
            return;
        }
        if (router_.distributed && network.learning && !network.is_provider()) {
            complain(entry.subnet.place,
                     fmt::format(": interface of a distributed router on {}, whose network learns", in.name),
                     "its one MAC is on every node, and would be learned from the tunnels");
        }
        router_.subnets.push_back(*subnet);
        if (router_.external_network) work_.routers_of_subnet[*subnet].push_back(index_);
        if (!check_provider_interface(entry, in)) return;
        if (const auto fixed_ip = interface_address(entry, *subnet)) add_interface_port(entry, *subnet, *fixed_ip);
    }

    /// One router's way out may be inside for the next: the network between them. It has to be meant, so the address is
    /// written.
    [[nodiscard]] bool may_be_inside(const RouterEntry::Interface& entry, std::size_t network) const {
        return !router_.distributed && entry.fixed_ip.written && router_.external_network != network;
    }

    /// A bridge cannot do what Neutron's Open vSwitch agent does with a distributed router's MAC, which is the same on
    /// every node: give it a different one for each node on the physical wire.
    bool check_provider_interface(const RouterEntry::Interface& entry, const Subnet& subnet) {
        const Network& network = work_.topology.networks[subnet.network];
        if (!network.is_provider() || kind_is_unknown()) return true;
        if (router_.distributed) {
            complain(
                entry.subnet.place,
                fmt::format(": a distributed router on {}, a subnet of the {} network {}", subnet.name,
                            word_of(network.type), network.name),
                "its one MAC would be on the physical network from every node; write distributed: false and a node");
            return false;
        }
        if (router_.node) check_reaches(work_, subnet.network, *router_.node, entry.subnet.place, label_);
        return true;
    }

    std::optional<Ipv4> interface_address(const RouterEntry::Interface& entry, std::size_t subnet) {
        const Subnet& in = work_.topology.subnets[subnet];
        if (!work_.subnet_entries[subnet]->cidr) return std::nullopt;
        if (entry.fixed_ip.written) {
            const bool fits =
                entry.fixed_ip && check_in_subnet(work_, subnet, entry.fixed_ip, label_ + ": interface fixed_ip");
            return fits ? entry.fixed_ip.value : std::nullopt;
        }
        if (!in.gateway_ip && work_.subnet_entries[subnet]->no_gateway) {
            complain(entry.place, fmt::format(": interface on {}, which has no gateway_ip, lacks fixed_ip", in.name),
                     fmt::format("like {{subnet: {}, fixed_ip: {}}}", in.name, Ipv4{in.cidr.address.value + 1}.str()));
        }
        return in.gateway_ip;
    }

    void add_interface_port(const RouterEntry::Interface& entry, std::size_t subnet, Ipv4 fixed_ip) {
        const Subnet& in = work_.topology.subnets[subnet];
        Port port;
        port.name = fmt::format("{}/{}", router_.name, in.name);
        port.owner = PortOwner::kRouterInterface;
        port.network = in.network;
        port.subnet = subnet;
        if (!router_.distributed) port.node = router_.node;
        port.router = index_;
        port.fixed_ip = fixed_ip;
        const Holder holder{fmt::format("{}: interface on {}", label_, in.name),
                            entry.fixed_ip ? entry.fixed_ip.place : entry.place};
        claim_address(work_, in.network, fixed_ip, holder);
        router_.interfaces.push_back(add_derived_port(work_, std::move(port), {holder, entry.mac, {}, entry.place}));
    }

    /// Subnets of one network are compared elsewhere, and so are an external one and a tenant's.
    void check_interface_overlaps(std::set<std::size_t> joined) {
        const auto& subnets = work_.topology.subnets;
        const auto is_external = [&](std::size_t i) { return work_.topology.networks[subnets[i].network].external; };
        if (router_.external_network) {
            const auto& outside = work_.topology.networks[*router_.external_network].subnets;
            joined.insert(outside.begin(), outside.end());
        }
        std::vector<std::size_t> order(joined.begin(), joined.end());
        std::erase_if(order, [&](std::size_t i) { return !work_.subnet_entries[i]->cidr; });
        std::ranges::stable_sort(order, {}, [&](std::size_t i) { return subnets[i].cidr.length; });
        PrefixIndex seen;
        for (const std::size_t i : order) {
            const auto other = seen.containing(0, subnets[i].cidr);
            seen.add(0, subnets[i].cidr, i);
            if (!other || subnets[*other].network == subnets[i].network) continue;
            if (is_external(*other) != is_external(i)) continue;
            const auto at = std::ranges::find_if(entry_.interfaces, [&](const RouterEntry::Interface& interface) {
                return interface.subnet && *interface.subnet == subnets[i].name;
            });
            complain(at == entry_.interfaces.end() ? entry_.place : at->place,
                     fmt::format(": subnets {} ({}) and {} ({}) overlap", subnets[*other].name,
                                 subnets[*other].cidr.str(), subnets[i].name, subnets[i].cidr.str()),
                     "a router cannot tell them apart; renumber one, or use two routers");
        }
    }

    void resolve_routes() {
        std::set<std::pair<Prefix, Ipv4>> seen;
        std::map<Prefix, Ipv4> nexthops;
        for (const RouterEntry::Route& entry : entry_.routes) {
            if (!entry.destination || !entry.nexthop) continue;
            if (!seen.insert({*entry.destination, *entry.nexthop}).second) {
                complain(entry.place,
                         fmt::format(": route to {} via {} is written twice", entry.destination->str(),
                                     entry.nexthop->str()),
                         "once is enough");
                continue;
            }
            check_nexthop(entry);
            check_only_route(entry, nexthops);
            router_.routes.push_back({*entry.destination, *entry.nexthop});
        }
    }

    void check_nexthop(const RouterEntry::Route& entry) {
        const auto& topology = work_.topology;
        const auto own = [&](std::size_t port) { return topology.ports[port].fixed_ip == *entry.nexthop; };
        if (std::ranges::any_of(router_.interfaces, own) || (router_.gateway_port && own(*router_.gateway_port))) {
            complain(entry.nexthop.place, fmt::format(": nexthop {} is the router itself", entry.nexthop->str()),
                     "the address of another host or router");
            return;
        }
        const auto reaches = [&](std::size_t port) {
            return topology.subnets[topology.ports[port].subnet].cidr.contains(*entry.nexthop);
        };
        const bool outside = router_.external_network &&
                             work_.prefixes.containing(*router_.external_network, Prefix::host(*entry.nexthop));
        if (outside || std::ranges::any_of(router_.interfaces, reaches)) return;
        if (router_.interfaces.size() < entry_.interfaces.size()) return;  // it may be behind the one that is wrong
        std::string hint = router_.interfaces.empty() ? "the router has no interfaces" : "an address of";
        for (const std::size_t port : router_.interfaces) {
            hint += fmt::format(" {}", topology.subnets[topology.ports[port].subnet].cidr.str());
        }
        complain(entry.nexthop.place,
                 fmt::format(": nexthop {} is not on a subnet of the router", entry.nexthop->str()), hint);
    }

    /// A legacy router, or a distributed one's central part, has one table, in which a destination has one next hop.
    void check_only_route(const RouterEntry::Route& entry, std::map<Prefix, Ipv4>& nexthops) {
        if (router_.distributed && !router_.gateway_port) return;
        const auto [other, fresh] = nexthops.try_emplace(*entry.destination, *entry.nexthop);
        if (!fresh) {
            complain(entry.destination.place, fmt::format(": a second route to {}", entry.destination->str()),
                     fmt::format("it goes via {} already", other->second.str()));
            return;
        }
        if (entry.destination->length != 0 || !router_.gateway_port) return;
        const Subnet& outside = work_.topology.subnets[work_.topology.ports[*router_.gateway_port].subnet];
        if (!outside.gateway_ip) return;
        complain(entry.destination.place,
                 fmt::format(": the default route goes via {}, the gateway_ip of {}", outside.gateway_ip->str(),
                             outside.name),
                 "leave the route out, or give the subnet gateway_ip: null");
    }

    Resolution& work_;
    std::size_t index_;
    const RouterEntry& entry_;
    Router& router_;
    std::string label_;
};

void check_link_local_pairs(Resolution& work) {
    std::size_t pairs = 0;
    Claims<std::string> names;
    for (std::size_t i = 0; i < work.topology.routers.size(); ++i) {
        const Router& router = work.topology.routers[i];
        const RouterEntry& entry = work.document.routers[i];
        const Holder holder{object_label("router", entry.name), entry.id.written ? entry.id.place : entry.place};
        const Holder* const other = names.claim(router.id.substr(0, kIdInPairName), holder);
        if (other != nullptr) {
            report_clash(work.mistakes, "device name " + device_name("rfp-", router.id), *other, holder,
                         fmt::format("write an id that differs in its first {} characters", kIdInPairName));
        }
        if (!router.is_dvr() || !router.external_network || ++pairs != kMaxLinkLocalPairs + 1) continue;
        work.mistakes.add(entry.place,
                          fmt::format("more than {} distributed routers have a gateway", kMaxLinkLocalPairs),
                          "169.254.64.0/18 has no more /31 pairs for rfp-/fpr- devices");
    }
}

/// SNAT ports were read before the routers that they belong to.
void check_snat_ports(Resolution& work) {
    Claims<std::pair<std::size_t, std::size_t>> by_subnet;
    for (std::size_t i = 0; i < work.document.ports.size(); ++i) {
        const Port& port = work.topology.ports[i];
        if (port.owner != PortOwner::kRouterCentralizedSnat || !port.router || port.subnet == kUnresolved) continue;
        const PortEntry& entry = work.document.ports[i];
        const Router& router = work.topology.routers[*port.router];
        const std::string& subnet = work.topology.subnets[port.subnet].name;
        const auto joins = [&](std::size_t p) { return work.topology.ports[p].subnet == port.subnet; };
        const Holder holder{object_label("port", entry.name), entry.place};
        if (!router.is_dvr()) {
            work.mistakes.add(entry.router.place,
                              fmt::format("{}: router {} is not distributed", holder.who, router.name),
                              "only distributed routers have SNAT ports");
        } else if (work.routers_are_whole && std::ranges::none_of(router.interfaces, joins)) {
            work.mistakes.add(entry.router.place,
                              fmt::format("{}: router {} has no interface on {}", holder.who, router.name, subnet),
                              fmt::format("add {} to its interfaces", subnet));
        }
        if (const Holder* const other = by_subnet.claim({*port.router, port.subnet}, holder)) {
            report_clash(work.mistakes, fmt::format("the SNAT port of router {} on {}", router.name, subnet), *other,
                         holder, "one is enough");
        }
    }
}

/// The table of a node's own namespace has room for one.
void check_nova_networks(Resolution& work) {
    const RouterEntry* first = nullptr;
    for (const RouterEntry& entry : work.document.routers) {
        if (entry.type.value != RouterType::kNovaNetwork) continue;
        if (first != nullptr) {
            work.mistakes.add(entry.type.place,
                              object_label("router", entry.name) + ": a second router of type nova-network",
                              fmt::format("line {} has one; give that one all interfaces", first->place.line));
        } else {
            first = &entry;
        }
    }
}

}  // namespace

void resolve_routers(Resolution& work) {
    for (std::size_t i = 0; i < work.topology.routers.size(); ++i) {
        const Field<RouterType>& type = work.document.routers[i].type;
        if (type.written && !type) {
            work.routers_are_whole = false;  // nobody can say what its keys mean
        } else if (type.value == RouterType::kNovaNetwork) {
            resolve_nova_network(work, i);
        } else {
            RouterResolver(work, i).resolve();
        }
    }
    check_link_local_pairs(work);
    check_snat_ports(work);
    check_nova_networks(work);
}

}  // namespace fiplane::topology
