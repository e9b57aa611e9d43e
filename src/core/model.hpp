// SPDX-License-Identifier: Apache-2.0
// The topology as values: what the operator's file says, resolved and validated. Neutron's nouns.
//
// Every name is resolved: references between objects are indices into the vectors of Topology. Everything that a
// node needs in order to agree with the other nodes (ids, MAC addresses, device names) is fixed here, so that all
// agents that read the same file derive the same values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/types.hpp"

namespace fiplane {

/// Neutron's network_type, as far as fiplane builds it. The last two are provider networks: their frames are not
/// tunnelled, but on a wire that nodes and others share, a physical network; tagged with a VLAN id, or as they are.
enum class NetworkType { kVxlan, kGre, kGeneve, kVlan, kFlat };

[[nodiscard]] constexpr bool is_provider(NetworkType type) {
    return type == NetworkType::kVlan || type == NetworkType::kFlat;
}

/// How the nodes of a network are joined. In a star all tunnels end at the hub, which forwards from one to another.
enum class Shape { kMesh, kStar };

/// How a node's VMs are attached, in Neutron's words (binding:vif_type). With macvtap each VM's device is a macvtap of
/// a VLAN device or of a physical network's device itself: there are no bridges, so nothing but VMs can be there.
enum class VifType { kBridge, kMacvtap };

/// A machine of the cloud. Its underlay address is its VTEP.
struct Node {
    std::string name;
    std::string underlay_device;  ///< "eth0"
    IpAddress underlay_address;
    /// The node's own addresses on networks' bridges (br-ex).
    struct BridgeAddress {
        std::size_t network;
        Prefix address;  ///< host bits kept: 172.24.4.1/23
        Mac mac;         ///< of the bridge device
    };
    std::vector<BridgeAddress> bridge_addresses;
    /// Devices that lead to physical networks, by the physical network's name. One may be the underlay device.
    std::map<std::string, std::string> physical_networks;
    VifType vif_type = VifType::kBridge;
};

struct Subnet {
    std::string name;
    std::size_t network;
    Prefix cidr;  ///< no host bits
    std::optional<Ipv4> gateway_ip;
    struct Pool {
        Ipv4 start;
        Ipv4 end;  ///< inclusive
    };
    std::vector<Pool> allocation_pools;  ///< never empty after validation: defaults to the whole subnet
};

/// One tunnel device of a node.
struct TunnelEnd {
    std::string device;
    std::uint32_t id;                ///< VNI or GRE key
    std::vector<std::size_t> peers;  ///< nodes whose tunnel addresses are at the other end
};

/// One L2 broadcast domain over all nodes.
struct Network {
    std::string name;
    std::string id;  ///< UUID
    bool external = false;
    std::string bridge;  ///< "br-ex" or "brq" + 11 characters of the id
    NetworkType type = NetworkType::kVxlan;
    Shape shape = Shape::kMesh;
    std::size_t hub = 0;  ///< star only: a node
    /// VNI, GRE key or VLAN id; of a star: the number before that of its first tunnel; 0: a flat network has none.
    std::uint32_t segmentation_id = 0;
    /// What leads to other nodes takes source addresses for the bridge's table, and all ARP crosses it: guests may be
    /// where nobody says. Always so on a physical network.
    bool learning = false;
    /// L3 bytes; what the tunnel leaves of the underlay's MTU, or the physical network's, unless the file says less.
    std::uint32_t mtu = 0;
    std::vector<std::size_t> subnets;
    std::string physical_network;  ///< provider networks only
    /// Provider networks only, by node, for those that have the physical network: what leads there, a VLAN device
    /// ("eth1.101") or the node's device itself. It is the bridge's port, or what the VMs' macvtaps are on.
    std::map<std::size_t, std::string> provider_devices;

    [[nodiscard]] bool is_provider() const { return fiplane::is_provider(type); }
    /// The node could have it: tunnels go everywhere, physical networks need a device.
    [[nodiscard]] bool reaches(std::size_t node) const { return !is_provider() || provider_devices.contains(node); }

    /// One tunnel device of each node leads to all others.
    [[nodiscard]] bool shares_device() const { return type == NetworkType::kVxlan && shape == Shape::kMesh; }
};

/// Neutron's device_owner, as far as fiplane builds it.
enum class PortOwner {
    kCompute,                 ///< compute:nova: a VM
    kFloatingIpAgentGateway,  ///< network:floatingip_agent_gateway: fg- of one node and external network
    kRouterInterface,         ///< network:router_interface(_distributed): qr-
    kRouterGateway,           ///< network:router_gateway: qg-
    kRouterCentralizedSnat,   ///< network:router_centralized_snat: sg-, a distributed router's SNAT port on a subnet
};

struct Port {
    std::string name;
    std::string id;  ///< UUID
    PortOwner owner = PortOwner::kCompute;
    std::size_t network;
    std::size_t subnet;
    std::optional<std::size_t> node;  ///< none for a distributed router's interface: it is on every node
    std::optional<std::size_t> router;
    Ipv4 fixed_ip;
    Mac mac;
    /// The device on the node: "tap…" for VMs (made by the hypervisor), qr-/qg-/fg-/sg- + 11 characters of the id
    /// for the rest. "": a VM's macvtap has whatever name the hypervisor gives it.
    std::string device;
};

/// Who routes: a namespace of its own, as Neutron makes it, or the nodes' own stacks, as with nova-network.
enum class RouterType { kNeutron, kNovaNetwork };

struct Router {
    std::string name;
    std::string id;  ///< UUID
    RouterType type = RouterType::kNeutron;
    bool distributed = true;                      ///< on every node with a VM of its subnets; nova calls it multi_host
    std::optional<std::size_t> node;              ///< of one that is not distributed: where it lives
    std::optional<std::size_t> external_network;  ///< its gateway's network
    std::vector<std::size_t> subnets;             ///< that it joins
    std::vector<std::size_t> interfaces;          ///< Neutron's: ports, owner kRouterInterface, one per subnet
    std::optional<std::size_t> gateway_port;      ///< qg-: its own address outside; a distributed router may have none
    /// What VMs without a floating IP send beyond the gateway has the gateway port's address (Neutron's enable_snat).
    bool enable_snat = true;
    struct Route {
        Prefix destination;
        Ipv4 nexthop;
    };
    std::vector<Route> routes;  ///< extra routes

    /// Neutron's distributed router: with rfp- and fpr- and an agent gateway on each node.
    [[nodiscard]] bool is_dvr() const { return distributed && type == RouterType::kNeutron; }
    /// A distributed router's part on one node, the gateway port's, by which VMs without a floating IP go out.
    [[nodiscard]] bool has_central_snat() const { return is_dvr() && gateway_port.has_value(); }
};

struct FloatingIp {
    Ipv4 address;
    std::size_t network;              ///< external network
    std::optional<std::size_t> port;  ///< the VM's port; none: it is no port of this topology, but behind a route
    std::size_t router;               ///< through which it is reached
    Ipv4 fixed_ip;                    ///< the VM's address
};

struct Topology {
    std::string name;
    std::string file;                             ///< path as given; for messages
    NetworkType transport = NetworkType::kVxlan;  ///< of networks that do not say their own
    std::uint16_t vxlan_port = 4789;
    std::uint16_t geneve_port = 6081;
    std::uint32_t underlay_mtu = 1500;
    bool mss_clamp = true;  ///< routers lower the MSS of TCP to what the way's MTU leaves
    std::map<std::string, std::uint32_t> physical_network_mtus;  ///< of every physical network of the nodes
    std::vector<Node> nodes;
    std::vector<Network> networks;
    std::vector<Subnet> subnets;
    std::vector<Port> ports;  ///< written in the file and derived (router interfaces)
    std::vector<Router> routers;
    std::vector<FloatingIp> floating_ips;

    [[nodiscard]] const Node* find_node(std::string_view name) const;

    /// Where a floating IP is translated: on the VM's node if the router is distributed, else where the router is.
    [[nodiscard]] std::optional<std::size_t> node_of(const FloatingIp& fip) const;

    /// The underlay is IPv6, on all nodes; then all tunnels are VXLAN.
    [[nodiscard]] bool is_over_ipv6() const;

    /// Bytes that a network's tunnels take of the underlay's MTU, the inner Ethernet header included; not for provider
    /// networks.
    [[nodiscard]] std::uint32_t tunnel_overhead(NetworkType network_type) const;

    /// UDP destination port of a type's tunnels; none of GRE.
    [[nodiscard]] std::optional<std::uint16_t> udp_port(NetworkType type) const;

    /// The tunnel devices of a network on one node, none of a provider network: "vxlan-1001" to all others at once; a
    /// device for each other node with GRE and Geneve, whose devices know no more than one peer ("gre-1001-3",
    /// "gnv-1001-3": to the third node of the file); in a star, one for each node at the hub and one at the others,
    /// with an id of its own that both ends are named after ("vxlan-1000002").
    [[nodiscard]] std::vector<TunnelEnd> tunnel_ends(const Network& network, std::size_t node) const;
};

/// Neutron's word: "vxlan", "gre", "geneve", "vlan", "flat".
[[nodiscard]] std::string_view word_of(NetworkType type);
/// For messages: "VXLAN", "GRE", "Geneve".
[[nodiscard]] std::string_view title_of(NetworkType type);
[[nodiscard]] std::string_view word_of(Shape shape);
/// "bridge", "macvtap".
[[nodiscard]] std::string_view word_of(VifType type);
/// "neutron", "nova-network".
[[nodiscard]] std::string_view word_of(RouterType type);

}  // namespace fiplane
