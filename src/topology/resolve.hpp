// SPDX-License-Identifier: Apache-2.0
// Document -> Topology: references become indices, everything that is derived is derived, and everything that must
// not clash is compared. One stage to a file; stages share a Resolution and go on after mistakes.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/model.hpp"
#include "topology/claims.hpp"
#include "topology/document.hpp"
#include "topology/mistakes.hpp"
#include "topology/name_index.hpp"
#include "topology/prefix_index.hpp"

namespace fiplane::topology {

/// An index that could not be resolved. Whatever has one is left out of further checks; the mistake is in the list.
inline constexpr std::size_t kUnresolved = std::numeric_limits<std::size_t>::max();

/// Groups of the prefix index below which each network has its own, numbered as in Topology::networks.
inline constexpr std::size_t kAllSubnets = kUnresolved - 1;
inline constexpr std::size_t kExternalSubnets = kUnresolved - 2;

/// What the file says about a port beyond what Port holds.
struct PortOrigin {
    Holder holder;  ///< for messages; the place is that of its address
    Field<Mac> mac;
    Field<std::string> device;
    Place place;
};

/// State that the stages share. Vectors of `topology` run parallel to those of `document`, with unusable entries in
/// them, until the end: a topology with mistakes is thrown away.
struct Resolution {
    Resolution(const Document& from, MistakeList& list) : document(from), mistakes(list) {}

    const Document& document;
    MistakeList& mistakes;
    Topology topology;

    NameIndex nodes{"node"};
    NameIndex networks{"network"};
    NameIndex subnets{"subnet"};
    NameIndex routers{"router"};
    NameIndex ports{"port"};

    std::vector<const SubnetEntry*> subnet_entries;           ///< parallel to topology.subnets
    std::vector<bool> network_is_whole;                       ///< all its subnets have usable cidrs
    bool physical_networks_are_whole = true;                  ///< all that nodes say about them is usable
    std::set<std::pair<std::size_t, std::size_t>> unreached;  ///< network and node, reported already
    PrefixIndex prefixes;
    Claims<std::pair<std::size_t, Ipv4>> addresses;  ///< by network
    Claims<std::string> ids;                         ///< "port <uuid>"

    std::vector<PortOrigin> port_origins;  ///< parallel to topology.ports
    bool ports_are_whole = true;           ///< no port might be an agent gateway that we failed to recognise
    std::map<std::pair<std::size_t, std::size_t>, Holder> agent_gateways;  ///< by node and network
    std::vector<std::vector<std::size_t>> routers_of_subnet;  ///< those with a gateway; parallel to topology.subnets
    bool routers_are_whole = true;                            ///< all interfaces and gateways are resolved
};

/// "port vm1", or "port" if it has no usable name.
[[nodiscard]] std::string object_label(std::string_view kind, const Field<std::string>& name);

/// The id of the file, or a derived one. Reports an id that two objects of one kind have.
[[nodiscard]] std::string resolve_id(Resolution& work, std::string_view kind, const Field<std::string>& written,
                                     const std::string& name, const std::string& label);

/// Whether the network is a tenant's for sure: not external, and not of an `external` that could not be read.
[[nodiscard]] bool is_tenant_network(const Resolution& work, std::size_t network);

/// Finds the subnet of `network` that `address` belongs to, and reports addresses that are in none, or are the
/// network or broadcast address of one. `subject` begins the message: "port vm1: fixed_ip".
[[nodiscard]] std::optional<std::size_t> find_subnet(Resolution& work, std::size_t network, const Field<Ipv4>& address,
                                                     const std::string& subject);

/// The same within one subnet.
[[nodiscard]] bool check_in_subnet(Resolution& work, std::size_t subnet, const Field<Ipv4>& address,
                                   const std::string& subject);

/// Reports an address that is the subnet's gateway.
[[nodiscard]] bool check_not_gateway(Resolution& work, std::size_t subnet, const Field<Ipv4>& address,
                                     const std::string& subject);

/// Reports, once, that something of the network would be on a node that does not have its physical network. `subject`
/// is that something.
void check_reaches(Resolution& work, std::size_t network, std::size_t node, Place place, const std::string& subject);

[[nodiscard]] bool is_macvtap(const Resolution& work, std::size_t node);

/// Reports that `what` ("port vm1: a VM on network blue") would be on a node that attaches VMs by macvtap, where it
/// cannot be. Returns whether it is.
bool refuse_on_macvtap(Resolution& work, std::size_t node, Place place, const std::string& what, std::string hint);

/// Takes the address for `holder`, or reports who has it.
void claim_address(Resolution& work, std::size_t network, Ipv4 address, const Holder& holder);

/// "10.1.0.1-10.1.15.254": what hosts of a subnet can have.
[[nodiscard]] std::string host_range(const Prefix& cidr);

/// Registers all names of the file, so that references may point forward.
void register_names(Resolution& work);
/// Devices and MTUs of physical networks; before networks are resolved.
void collect_physical_networks(Resolution& work);
/// Which nodes have which provider networks, by which device; after networks are resolved.
void place_provider_networks(Resolution& work);
/// Nodes, networks, subnets, node addresses; overlaps.
void resolve_networks(Resolution& work);
/// Ports that the file lists.
void resolve_ports(Resolution& work);
/// Routers, and the ports that they imply.
void resolve_routers(Resolution& work);
/// Adds a port that a router implies, and returns its index.
std::size_t add_derived_port(Resolution& work, Port port, PortOrigin origin);
/// Nodes and SNAT ports of distributed routers with an address of their own outside.
void resolve_central_snat(Resolution& work);
/// One router of type nova-network: the nodes that are it, and the addresses that they need.
void resolve_nova_network(Resolution& work, std::size_t router);
/// Floating IPs; agent gateways that they need.
void resolve_floating_ips(Resolution& work);
/// MAC addresses and device names of all ports, bridges, tunnels and VLANs.
void resolve_devices(Resolution& work);

}  // namespace fiplane::topology
