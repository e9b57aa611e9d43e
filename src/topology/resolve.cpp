// SPDX-License-Identifier: Apache-2.0
#include "topology/resolve.hpp"

#include <fmt/format.h>

#include "topology/derive.hpp"

namespace fiplane::topology {
namespace {

constexpr std::size_t kCidrsInHint = 4;

std::string cidrs_hint(const Topology& topology, std::size_t network) {
    const auto& subnets = topology.networks[network].subnets;
    if (subnets.empty()) return fmt::format("{} has no subnets", topology.networks[network].name);
    std::string out = topology.networks[network].name + " has";
    for (std::size_t i = 0; i < subnets.size() && i < kCidrsInHint; ++i) {
        out += fmt::format("{} {}", i == 0 ? "" : ",", topology.subnets[subnets[i]].cidr.str());
    }
    if (subnets.size() > kCidrsInHint) out += fmt::format(" and {} more", subnets.size() - kCidrsInHint);
    return out;
}

}  // namespace

std::string object_label(std::string_view kind, const Field<std::string>& name) {
    return name ? fmt::format("{} {}", kind, *name) : std::string(kind);
}

std::string resolve_id(Resolution& work, std::string_view kind, const Field<std::string>& written,
                       const std::string& name, const std::string& label) {
    if (!written) return derived_id(work.topology.name, kind, name);
    const Holder holder{label, written.place};
    const Holder* const other = work.ids.claim(fmt::format("{} {}", kind, *written), holder);
    if (other == nullptr) return *written;
    report_clash(work.mistakes, "id " + *written, *other, holder, "leave id out to have one derived from the name");
    // Names made of the id would only clash as well.
    return derived_id(work.topology.name, kind, name);
}

bool is_tenant_network(const Resolution& work, std::size_t network) {
    const Field<bool>& external = work.document.networks[network].external;
    return !external.written || (external && !*external);
}

bool check_in_subnet(Resolution& work, std::size_t subnet, const Field<Ipv4>& address, const std::string& subject) {
    const Prefix& cidr = work.topology.subnets[subnet].cidr;
    const std::string& name = work.topology.subnets[subnet].name;
    std::string_view problem;
    if (!cidr.contains(*address)) {
        problem = "is outside";
    } else if (*address == cidr.address) {
        problem = "is the network address of";
    } else if (*address == cidr.broadcast()) {
        problem = "is the broadcast address of";
    } else {
        return true;
    }
    work.mistakes.add(address.place,
                      fmt::format("{} {} {} {} ({})", subject, address->str(), problem, name, cidr.str()),
                      fmt::format("hosts there have {}", host_range(cidr)));
    return false;
}

bool check_not_gateway(Resolution& work, std::size_t subnet, const Field<Ipv4>& address, const std::string& subject) {
    const Subnet& in = work.topology.subnets[subnet];
    if (in.gateway_ip != *address) return true;
    work.mistakes.add(address.place, fmt::format("{} {} is the gateway_ip of {}", subject, address->str(), in.name),
                      fmt::format("another address of {}", host_range(in.cidr)));
    return false;
}

std::optional<std::size_t> find_subnet(Resolution& work, std::size_t network, const Field<Ipv4>& address,
                                       const std::string& subject) {
    const auto subnet = work.prefixes.containing(network, Prefix::host(*address));
    if (subnet) return check_in_subnet(work, *subnet, address, subject) ? subnet : std::nullopt;
    if (work.network_is_whole[network]) {
        const std::string& name = work.topology.networks[network].name;
        work.mistakes.add(address.place,
                          fmt::format("{} {} is in no subnet of network {}", subject, address->str(), name),
                          cidrs_hint(work.topology, network));
    }
    return std::nullopt;
}

bool is_macvtap(const Resolution& work, std::size_t node) {
    return work.topology.nodes[node].vif_type == VifType::kMacvtap;
}

bool refuse_on_macvtap(Resolution& work, std::size_t node, Place place, const std::string& what, std::string hint) {
    if (!is_macvtap(work, node)) return false;
    work.mistakes.add(place,
                      fmt::format("{} on node {}, whose vif_type is macvtap", what, work.topology.nodes[node].name),
                      std::move(hint));
    return true;
}

void claim_address(Resolution& work, std::size_t network, Ipv4 address, const Holder& holder) {
    if (const Holder* const other = work.addresses.claim({network, address}, holder)) {
        report_clash(work.mistakes, "address " + address.str(), *other, holder,
                     fmt::format("an address belongs to one port of network {}", work.topology.networks[network].name));
    }
}

std::string host_range(const Prefix& cidr) {
    return fmt::format("{}-{}", Ipv4{cidr.address.value + 1}.str(), Ipv4{cidr.broadcast().value - 1}.str());
}

void register_names(Resolution& work) {
    Topology& topology = work.topology;
    const Document& document = work.document;
    for (const NodeEntry& entry : document.nodes) {
        topology.nodes.emplace_back().name = work.nodes.add(entry.name, work.mistakes);
    }
    for (const NetworkEntry& entry : document.networks) {
        Network& network = topology.networks.emplace_back();
        network.name = work.networks.add(entry.name, work.mistakes);
        for (const SubnetEntry& inner : entry.subnets) {
            network.subnets.push_back(topology.subnets.size());
            Subnet& subnet = topology.subnets.emplace_back();
            subnet.network = topology.networks.size() - 1;
            subnet.name = work.subnets.add(inner.name, work.mistakes);
            work.subnet_entries.push_back(&inner);
        }
    }
    for (const RouterEntry& entry : document.routers) {
        topology.routers.emplace_back().name = work.routers.add(entry.name, work.mistakes);
    }
    for (const PortEntry& entry : document.ports) {
        topology.ports.emplace_back().name = work.ports.add(entry.name, work.mistakes);
    }
    work.routers_of_subnet.resize(topology.subnets.size());
}

}  // namespace fiplane::topology
