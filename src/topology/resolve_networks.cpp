// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "topology/derive.hpp"
#include "topology/resolve.hpp"

namespace fiplane::topology {
namespace {

constexpr std::uint32_t kMaxId = 0xffffff;

/// Segmentation ids in use: of tunnels in one space, of VLANs in one for each physical network, where 0 is the
/// untagged.
using Segments = Claims<std::pair<std::string, std::uint32_t>>;

void resolve_node(Resolution& work, std::size_t index, Claims<IpAddress>& underlay) {
    const NodeEntry& entry = work.document.nodes[index];
    Node& node = work.topology.nodes[index];
    node.underlay_device = entry.underlay_device.value.value_or(std::string{});
    node.vif_type = entry.vif_type.value.value_or(VifType::kBridge);
    if (!entry.underlay_address) return;
    node.underlay_address = *entry.underlay_address;
    const Holder holder{object_label("node", entry.name) + ": underlay", entry.underlay_address.place};
    if (const Holder* const other = underlay.claim(node.underlay_address, holder)) {
        report_clash(work.mistakes, "address " + node.underlay_address.str(), *other, holder,
                     "it is the node's VTEP, so each node has its own");
    }
}

/// Tunnels run over one version of IP.
void check_underlay_version(Resolution& work) {
    const NodeEntry* first = nullptr;
    for (const NodeEntry& entry : work.document.nodes) {
        if (!entry.underlay_address) continue;
        if (first == nullptr) first = &entry;
        if (entry.underlay_address->is_ipv6() == first->underlay_address->is_ipv6()) continue;
        work.mistakes.add(entry.underlay_address.place,
                          fmt::format("{}: underlay address {} is of another IP version than {} of {}",
                                      object_label("node", entry.name), entry.underlay_address->str(),
                                      first->underlay_address->str(), object_label("node", first->name)),
                          "one version for all nodes");
        return;
    }
    constexpr std::uint32_t kMinIpv6Mtu = 1280;  // RFC 8200, 5
    if (!work.topology.is_over_ipv6() || work.topology.underlay_mtu >= kMinIpv6Mtu) return;
    work.mistakes.add(work.document.underlay_mtu.place,
                      fmt::format("underlay_mtu: {} is less than IPv6 needs", work.topology.underlay_mtu),
                      fmt::format("at least {}", kMinIpv6Mtu));
}

/// The other devices could not be told to leave checksums out, or are of another kind over IPv6 (ip6gretap).
void check_runs_over_ipv6(Resolution& work, const NetworkEntry& entry, const Network& network) {
    if (!work.topology.is_over_ipv6() || network.is_provider() || network.type == NetworkType::kVxlan) return;
    const Place place = entry.network_type.written ? entry.network_type.place : entry.place;
    work.mistakes.add(place,
                      fmt::format("{}: {} tunnels do not run over an IPv6 underlay",
                                  object_label("network", entry.name), title_of(network.type)),
                      "write network_type: vxlan, or give the nodes IPv4 underlay addresses");
}

void resolve_provider_mtu(Resolution& work, const NetworkEntry& entry, Network& network) {
    const auto known = work.topology.physical_network_mtus.find(network.physical_network);
    if (known == work.topology.physical_network_mtus.end()) return;
    network.mtu = entry.mtu.value.value_or(known->second);
    if (network.mtu <= known->second) return;
    work.mistakes.add(entry.mtu.place,
                      fmt::format("{}: mtu {} is more than that of physical network {}",
                                  object_label("network", entry.name), network.mtu, known->first),
                      fmt::format("at most {}; physical_network_mtus: {{{}: {}}} says what the wire takes",
                                  known->second, known->first, network.mtu));
}

void resolve_mtu(Resolution& work, const NetworkEntry& entry, Network& network) {
    if (network.is_provider()) return resolve_provider_mtu(work, entry, network);
    const std::uint32_t overhead = work.topology.tunnel_overhead(network.type);
    const std::uint32_t room = work.topology.underlay_mtu - overhead;
    network.mtu = entry.mtu.value.value_or(room);
    if (network.mtu <= room) return;
    work.mistakes.add(
        entry.mtu.place,
        fmt::format("{}: mtu {} does not fit into the underlay", object_label("network", entry.name), network.mtu),
        fmt::format("at most {}: underlay_mtu {} less {} for {}{}", room, work.topology.underlay_mtu, overhead,
                    title_of(network.type), work.topology.is_over_ipv6() ? " over IPv6" : ""));
}

/// One UDP port belongs to one type: Linux would not let the second device have it.
void check_ports(Resolution& work) {
    const Topology& topology = work.topology;
    const auto uses = [&](NetworkType type) {
        return std::ranges::any_of(topology.networks, [&](const Network& network) { return network.type == type; });
    };
    if (topology.vxlan_port != topology.geneve_port || !uses(NetworkType::kVxlan) || !uses(NetworkType::kGeneve))
        return;
    work.mistakes.add(work.document.transport_port.place,
                      fmt::format("transport: port {} is that of both VXLAN and Geneve", topology.vxlan_port),
                      "networks of the other type have their standard port: 4789 of VXLAN, 6081 of Geneve");
}

/// It forwards from tunnel to tunnel by a bridge.
void set_hub(Resolution& work, Network& network, std::size_t hub, Place place, const std::string& label) {
    network.hub = hub;
    refuse_on_macvtap(work, hub, place, label + ": the hub of a star",
                      "there are no bridges and no tunnels; write another node as hub");
}

void resolve_shape(Resolution& work, const NetworkEntry& entry, Network& network) {
    const std::string label = object_label("network", entry.name);
    network.shape = entry.shape.value.value_or(Shape::kMesh);
    if (!entry.hub.written) {
        const bool star = network.shape == Shape::kStar && !work.topology.nodes.empty();
        if (star) set_hub(work, network, 0, entry.shape.place, label);
        return;
    }
    if (network.shape != Shape::kStar) {
        // A shape that could not be read is reported; it may have been meant as a star.
        if (entry.shape.written && !entry.shape) return;
        work.mistakes.add(entry.hub.place, label + ": only a star has a hub", "write shape: star, or leave hub out");
        return;
    }
    if (const auto hub = work.nodes.find(entry.hub, label + ": hub", work.mistakes)) {
        set_hub(work, network, *hub, entry.hub.place, label);
    }
}

/// A vxlan device to many peers would have to learn peers as well, and with them who may claim whose address.
void resolve_learning(Resolution& work, const NetworkEntry& entry, Network& network) {
    network.learning = entry.learning.value.value_or(false) || network.is_provider();
    if (network.is_provider() && entry.learning.written) {
        work.mistakes.add(entry.learning.place,
                          object_label("network", entry.name) + ": a port to a physical network always learns",
                          "leave learning out");
    }
    if (!network.learning || !network.shares_device()) return;
    work.mistakes.add(entry.learning.place,
                      object_label("network", entry.name) + ": a VXLAN mesh does not learn where its guests are",
                      "write shape: star, or a network_type that has a tunnel to each node");
}

/// The VLAN id, or the one untagged network, of a physical network.
void claim_vlan(Resolution& work, const NetworkEntry& entry, const Network& network, Segments& ids) {
    if (!entry.physical_network) return;
    const bool vlan = network.type == NetworkType::kVlan;
    const Place place = vlan ? entry.segmentation_id.place : entry.physical_network.place;
    const Holder holder{object_label("network", entry.name), place};
    const Holder* const other = ids.claim({network.physical_network, network.segmentation_id}, holder);
    if (other == nullptr) return;
    const std::string on = "physical network " + network.physical_network;
    if (vlan) {
        report_clash(work.mistakes, fmt::format("VLAN {} of {}", network.segmentation_id, on), *other, holder,
                     "each network has a VLAN id of its own there");
    } else {
        report_clash(work.mistakes, on, *other, holder,
                     "only one flat network is on a physical network; others are vlan");
    }
}

/// The ids that a network's tunnels have: one, or one for each tunnel of a star.
void claim_ids(Resolution& work, const NetworkEntry& entry, const Network& network, Segments& ids) {
    if (network.is_provider()) return claim_vlan(work, entry, network, ids);
    const std::string label = object_label("network", entry.name);
    const Holder holder{label, entry.segmentation_id.place};
    const bool star = network.shape == Shape::kStar;
    const std::uint32_t first = network.segmentation_id + (star ? 1 : 0);
    const auto count = star ? static_cast<std::uint32_t>(work.topology.nodes.size() - 1) : 1;
    if (first + count - 1 > kMaxId) {
        work.mistakes.add(holder.place,
                          fmt::format("{}: the tunnels of its star need numbers up to {}", label, first + count - 1),
                          fmt::format("at most {}", kMaxId));
        return;
    }
    for (std::uint32_t id = first; id < first + count; ++id) {
        const Holder* const other = ids.claim({{}, id}, holder);
        if (other == nullptr) continue;
        report_clash(work.mistakes, fmt::format("segmentation_id {}", id), *other, holder,
                     star ? "a star's tunnels have the numbers that follow its own" : "each network has its own VNI");
        return;
    }
}

/// Keys that belong to networks of another type.
void check_type_keys(Resolution& work, const NetworkEntry& entry, const Network& network) {
    if (entry.network_type.written && !entry.network_type) return;
    const std::string label = object_label("network", entry.name);
    const auto refuse = [&](const auto& field, std::string_view key, std::string hint) {
        if (!field.written) return;
        work.mistakes.add(field.place, fmt::format("{}: a {} network has no {}", label, word_of(network.type), key),
                          std::move(hint));
    };
    if (!network.is_provider()) {
        refuse(entry.physical_network, "physical_network", "write network_type: vlan or flat, or leave it out");
        return;
    }
    constexpr const char* kNoTunnels = "it says how tunnels run; leave it out";
    refuse(entry.shape, "shape", kNoTunnels);
    refuse(entry.hub, "hub", kNoTunnels);
    if (network.type == NetworkType::kFlat) {
        refuse(entry.segmentation_id, "segmentation_id",
               "its frames have no tag; write network_type: vlan, or leave it out");
    }
}

void resolve_network(Resolution& work, std::size_t index, Segments& ids) {
    const NetworkEntry& entry = work.document.networks[index];
    Network& network = work.topology.networks[index];
    const std::string label = object_label("network", entry.name);
    network.id = resolve_id(work, "network", entry.id, network.name, label);
    network.external = entry.external.value.value_or(false);
    network.bridge = entry.bridge.value.value_or(device_name("brq", network.id));
    network.type = entry.network_type.value.value_or(work.topology.transport);
    const bool flat = network.type == NetworkType::kFlat;
    if (!flat) network.segmentation_id = entry.segmentation_id.value.value_or(0);
    network.physical_network = network.is_provider() ? entry.physical_network.value.value_or(std::string{}) : "";
    check_type_keys(work, entry, network);
    check_runs_over_ipv6(work, entry, network);
    resolve_mtu(work, entry, network);
    if (!network.is_provider()) resolve_shape(work, entry, network);
    resolve_learning(work, entry, network);
    if (entry.segmentation_id || flat) claim_ids(work, entry, network, ids);
}

void resolve_gateway(Resolution& work, std::size_t index) {
    const SubnetEntry& entry = *work.subnet_entries[index];
    Subnet& subnet = work.topology.subnets[index];
    if (entry.no_gateway) return;
    if (!entry.gateway_ip.written) {
        subnet.gateway_ip = Ipv4{subnet.cidr.address.value + 1};
        return;
    }
    const std::string subject = object_label("subnet", entry.name) + ": gateway_ip";
    if (entry.gateway_ip && check_in_subnet(work, index, entry.gateway_ip, subject)) {
        subnet.gateway_ip = *entry.gateway_ip;
    }
}

void check_pool_against_gateway(Resolution& work, const Subnet& subnet, const Subnet::Pool& pool,
                                const SubnetEntry::Pool& written, const std::string& label) {
    if (!subnet.gateway_ip || *subnet.gateway_ip < pool.start || pool.end < *subnet.gateway_ip) return;
    work.mistakes.add(written.place,
                      fmt::format("{}: allocation pool {}-{} holds the gateway_ip {}", label, pool.start.str(),
                                  pool.end.str(), subnet.gateway_ip->str()),
                      "leave it out of the pool, or write another gateway_ip (null: none)");
}

/// One written pool, or nothing if it cannot be used.
std::optional<Subnet::Pool> read_pool(Resolution& work, std::size_t index, const SubnetEntry::Pool& written,
                                      const std::string& label) {
    if (!written.start || !written.end) return std::nullopt;
    const bool start_fits = check_in_subnet(work, index, written.start, label + ": allocation pool start");
    const bool end_fits = check_in_subnet(work, index, written.end, label + ": allocation pool end");
    if (!start_fits || !end_fits) return std::nullopt;
    if (*written.end < *written.start) {
        work.mistakes.add(written.start.place, fmt::format("{}: allocation pool ends before it starts", label),
                          fmt::format("start: {}, end: {}", written.end->str(), written.start->str()));
        return std::nullopt;
    }
    const Subnet::Pool pool{*written.start, *written.end};
    check_pool_against_gateway(work, work.topology.subnets[index], pool, written, label);
    return pool;
}

void check_pool_overlaps(Resolution& work, std::vector<std::pair<Subnet::Pool, Place>> pools,
                         const std::string& label) {
    std::ranges::sort(pools, {}, [](const auto& item) { return item.first.start; });
    for (std::size_t i = 1; i < pools.size(); ++i) {
        const auto& [before, before_place] = pools[i - 1];
        const auto& [pool, place] = pools[i];
        if (before.end < pool.start) continue;
        work.mistakes.add(std::max(before_place, place),
                          fmt::format("{}: allocation pools {}-{} and {}-{} overlap", label, before.start.str(),
                                      before.end.str(), pool.start.str(), pool.end.str()),
                          "make one pool of them");
    }
}

void resolve_pools(Resolution& work, std::size_t index) {
    const SubnetEntry& entry = *work.subnet_entries[index];
    Subnet& subnet = work.topology.subnets[index];
    const std::string label = object_label("subnet", entry.name);
    std::vector<std::pair<Subnet::Pool, Place>> pools;
    for (const SubnetEntry::Pool& written : entry.pools) {
        if (const auto pool = read_pool(work, index, written, label)) pools.emplace_back(*pool, written.place);
    }
    for (const auto& [pool, place] : pools)
        subnet.allocation_pools.push_back(pool);
    // Also where a pool is wrong: what was meant to be in it is not outside.
    if (pools.empty() || pools.size() < entry.pools.size()) {
        subnet.allocation_pools = {{{subnet.cidr.address.value + 1}, {subnet.cidr.broadcast().value - 1}}};
    }
    check_pool_overlaps(work, std::move(pools), label);
}

void report_overlap(Resolution& work, std::size_t a, std::size_t b, const std::string& rule) {
    const SubnetEntry* earlier = work.subnet_entries[a];
    const SubnetEntry* later = work.subnet_entries[b];
    if (later->cidr.place < earlier->cidr.place) std::swap(earlier, later);
    work.mistakes.add(
        later->cidr.place,
        fmt::format("{} ({}) overlaps {} ({}, line {})", object_label("subnet", later->name), later->cidr->str(),
                    object_label("subnet", earlier->name), earlier->cidr->str(), earlier->cidr.place.line),
        rule);
}

std::vector<std::size_t> index_groups(const Resolution& work, const Subnet& subnet) {
    std::vector<std::size_t> groups = {subnet.network, kAllSubnets};
    if (work.topology.networks[subnet.network].external) groups.push_back(kExternalSubnets);
    return groups;
}

/// Reports overlaps within the subnet's network. Of two the later one in the file is wrong, and out of the index from
/// then on, so that no address is looked for in it. Returns whether `index` is in.
bool settle_own_network(Resolution& work, std::size_t index) {
    const Subnet& subnet = work.topology.subnets[index];
    while (const auto other = work.prefixes.containing(subnet.network, subnet.cidr)) {
        report_overlap(work, *other, index, "subnets of one network are disjoint");
        work.network_is_whole[subnet.network] = false;
        if (*other < index) return false;
        const Subnet& later = work.topology.subnets[*other];
        for (const std::size_t group : index_groups(work, later))
            work.prefixes.remove(group, later.cidr, *other);
    }
    return true;
}

/// An external network of a physical network from which the file takes no address but routers': hosts of two such are
/// told apart by the wire. Their subnets may overlap, as bridge networks of two projects do.
bool is_only_between_routers(const Resolution& work, const Subnet& subnet) {
    const Network& network = work.topology.networks[subnet.network];
    if (!network.external || !network.is_provider()) return false;
    const auto takes_address = [&](const NodeEntry& node) {
        return std::ranges::any_of(node.addresses,
                                   [&](const NodeEntry::Address& own) { return own.network.value == network.name; });
    };
    const auto is_inside = [&](const FloatingIpEntry& entry) {
        return entry.address && subnet.cidr.contains(*entry.address);
    };
    return std::ranges::none_of(work.document.nodes, takes_address) &&
           std::ranges::none_of(work.document.floating_ips, is_inside);
}

/// Short prefixes first: then each has to look only for one that contains it.
void index_subnets(Resolution& work) {
    const auto& subnets = work.topology.subnets;
    std::vector<std::size_t> order(subnets.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return subnets[i].cidr.length; });
    for (const std::size_t i : order) {
        if (!work.subnet_entries[i]->cidr || !settle_own_network(work, i)) continue;
        const Subnet& subnet = subnets[i];
        const bool external = work.topology.networks[subnet.network].external;
        const auto other = work.prefixes.containing(external ? kAllSubnets : kExternalSubnets, subnet.cidr);
        if (other && !(is_only_between_routers(work, subnet) && is_only_between_routers(work, subnets[*other]))) {
            report_overlap(work, *other, i, "an external network overlaps no other, or its hosts cannot be told apart");
        }
        for (const std::size_t group : index_groups(work, subnet))
            work.prefixes.add(group, subnet.cidr, i);
    }
}

void check_underlay_outside_overlay(Resolution& work) {
    for (const NodeEntry& entry : work.document.nodes) {
        const auto address = entry.underlay_address ? entry.underlay_address->ipv4() : std::nullopt;
        if (!address) continue;
        const auto subnet = work.prefixes.containing(kAllSubnets, Prefix::host(*address));
        if (!subnet) continue;
        const Subnet& in = work.topology.subnets[*subnet];
        work.mistakes.add(
            entry.underlay_address.place,
            fmt::format("{}: underlay address {} is inside the overlay subnet {} ({})",
                        object_label("node", entry.name), entry.underlay_address->str(), in.name, in.cidr.str()),
            "tunnel packets would be routed into the tunnel; one of the two needs other addresses");
    }
}

void resolve_node_address(Resolution& work, std::size_t index, const NodeEntry::Address& entry) {
    const std::string label = object_label("node", work.document.nodes[index].name);
    const auto network = work.networks.find(entry.network, label + ": addresses", work.mistakes);
    if (!network || !entry.address) return;
    const Field<Ipv4> address{true, entry.address.place, entry.address->address};
    const std::string subject = fmt::format("{}: address on {}", label, *entry.network);
    if (refuse_on_macvtap(work, index, entry.network.place,
                          fmt::format("{}: the node's own address on {}", label, *entry.network),
                          "there is no bridge that could have it; leave it out")) {
        return;
    }
    const auto subnet = find_subnet(work, *network, address, subject);
    if (!subnet) return;
    const Prefix& cidr = work.topology.subnets[*subnet].cidr;
    if (cidr.length != entry.address->length) {
        work.mistakes.add(address.place,
                          fmt::format("{} {} has another prefix length than its subnet {}", subject,
                                      entry.address->str(), cidr.str()),
                          Prefix{*address, cidr.length}.str());
    }
    check_reaches(work, *network, index, entry.network.place, subject);
    claim_address(work, *network, *address, {subject, address.place});
    work.topology.nodes[index].bridge_addresses.push_back({*network, *entry.address, Mac{}});
}

}  // namespace

void resolve_networks(Resolution& work) {
    Topology& topology = work.topology;
    Claims<IpAddress> underlay;
    for (std::size_t i = 0; i < topology.nodes.size(); ++i)
        resolve_node(work, i, underlay);
    check_underlay_version(work);
    Segments ids;
    collect_physical_networks(work);
    for (std::size_t i = 0; i < topology.networks.size(); ++i)
        resolve_network(work, i, ids);
    place_provider_networks(work);
    check_ports(work);
    work.network_is_whole.assign(topology.networks.size(), true);
    for (std::size_t i = 0; i < topology.subnets.size(); ++i) {
        Subnet& subnet = topology.subnets[i];
        if (!work.subnet_entries[i]->cidr) {
            work.network_is_whole[subnet.network] = false;
            continue;
        }
        subnet.cidr = *work.subnet_entries[i]->cidr;
        resolve_gateway(work, i);
        resolve_pools(work, i);
    }
    index_subnets(work);
    check_underlay_outside_overlay(work);
    for (std::size_t i = 0; i < topology.nodes.size(); ++i) {
        for (const NodeEntry::Address& entry : work.document.nodes[i].addresses)
            resolve_node_address(work, i, entry);
    }
}

}  // namespace fiplane::topology
