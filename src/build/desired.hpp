// SPDX-License-Identifier: Apache-2.0
// What Linux must hold on one node, as values: derived from the topology, the node and the allocations, nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "build/allocations.hpp"
#include "build/nft_tables.hpp"
#include "core/model.hpp"
#include "core/result.hpp"
#include "core/snapshot.hpp"

namespace fiplane::build {

/// dvr_fip_ns.py, FIP_RT_TBL: where what leaves with a floating IP finds its way.
inline constexpr std::uint32_t kFipTable = 16;

struct BridgeKind {
    /// A tenant's, with tunnels: its PERMANENT neighbours are build's, with them it answers ARP for what is behind
    /// those.
    bool tenant = false;
};

struct VxlanKind {
    std::uint32_t vni = 0;
    IpAddress local;
    std::uint16_t port = 0;
    std::string underlay_device;
    bool proxy = false;  ///< the device answers ARP and ND from its neighbours and lets none through
};

/// A device to one peer; the other end's address is all that it accepts packets from.
struct GretapKind {
    std::uint32_t key = 0;
    Ipv4 local;
    Ipv4 remote;
    std::string underlay_device;
};

/// A device to one peer, too. Packets leave with the source of the route to it, which must be the node's VTEP.
struct GeneveKind {
    std::uint32_t vni = 0;
    Ipv4 remote;
    std::uint16_t port = 0;
};

/// A VLAN of a physical network's device.
struct VlanKind {
    std::uint16_t id = 0;
    std::string parent;
};

/// A physical network's device: not ours, but raised, and a flat network's is plugged into its bridge.
struct PhysicalKind {
    std::string physical_network;
    bool below_macvtaps = false;  ///< a flat network's VMs are on it by macvtap, and nobody else may send there
};

/// The end of a veth pair by which it is made.
struct VethKind {
    NetnsName peer_netns;
    std::string peer;
};

/// The other end: made and removed with the first.
struct VethPeerKind {
    NetnsName first_netns;
    std::string first;
};

/// A VM's device: the hypervisor makes and removes it, build only plugs it in.
struct VmPortKind {
    std::string port_name;
};

struct DesiredDevice {
    std::variant<BridgeKind, VxlanKind, GretapKind, GeneveKind, VlanKind, PhysicalKind, VethKind, VethPeerKind,
                 VmPortKind>
        kind;
    std::uint32_t mtu = 1500;    ///< a physical network's device keeps its own
    std::optional<Mac> mac;      ///< unset: whatever it has
    std::string master;          ///< bridge; "": none
    bool all_multicast = false;  ///< takes all multicast; unset: as it is
    /// As a port of a bridge; unset: not ours to decide.
    struct PortFlags {
        bool learning = true;
        bool isolated = false;        ///< nothing from here leaves by another such port
        bool neigh_suppress = false;  ///< the bridge answers ARP for its neighbours behind this port
        bool operator==(const PortFlags&) const = default;
    };
    std::optional<PortFlags> port_flags;
};

struct DesiredRoute {
    std::string device;
    std::uint32_t table = 254;
    Prefix destination;
    std::optional<Ipv4> gateway;  ///< unset: on link
    auto operator<=>(const DesiredRoute&) const = default;
};

/// A forwarding entry: in the bridge's table if `destination` is unset, else in the vxlan device's own.
struct DesiredFdb {
    std::string device;
    Mac mac;
    std::optional<IpAddress> destination;
    auto operator<=>(const DesiredFdb&) const = default;
};

struct DesiredSysctl {
    std::string device;  ///< whose it is; "": the namespace's
    std::string key;     ///< below /proc/sys/net, with slashes
    std::string value;
    /// Exists only once conntrack is active in the namespace, i.e. after the NAT table is there.
    bool needs_conntrack = false;
};

struct DesiredNetns {
    std::map<std::string, DesiredDevice> devices;
    std::set<std::pair<std::string, Prefix>> addresses;  ///< device, address with host bits
    std::set<DesiredRoute> routes;
    std::vector<PolicyRule> rules;
    std::map<std::pair<std::string, Ipv4>, Mac> neighbours;
    std::set<DesiredFdb> fdb;
    std::vector<DesiredSysctl> sysctls;
    std::vector<NftTable> tables;
};

/// A floating IP that lives on this node, and who announces it.
struct DesiredFip {
    Ipv4 fixed;
    NetnsName announcer_netns;
    std::string announcer_device;
    Mac mac;
};

struct DesiredNode {
    std::string mark;
    std::map<NetnsName, DesiredNetns> netns;  ///< "" is the node's own and always there
    std::map<Ipv4, DesiredFip> fips;
    /// Subnets of each bridge's network: an address of theirs on the bridge is build's to decide.
    std::map<std::string, std::vector<Prefix>> bridge_subnets;
    /// By bridge: a MAC that nobody has. Its static entry says which port leads to the physical network of a flat
    /// network, now or formerly.
    std::map<std::string, Mac> uplink_marks;
};

/// Routers whose namespace this node has, and floating IPs that live here: what needs allocations. And distributed
/// routers whose snat namespace is here.
struct Placement {
    std::vector<std::size_t> routers;
    std::vector<std::size_t> central_snats;
    std::vector<std::size_t> floating_ips;
    std::set<std::size_t> networks;
};

/// A network is on a node that has one of its ports or a router with a leg in it, and on the hub of its star; external
/// networks are on every node, or on every node that has their physical network. Where VMs are attached by macvtap,
/// only networks of VMs are.
/// A distributed router is on the nodes that have a VM in one of its subnets (Neutron: l3_dvrscheduler_db.py), its
/// central part on the node of its gateway port.
[[nodiscard]] Placement place(const Topology& topology, std::size_t node);

/// kBadTopology where the topology asks for two devices of one name or for a floating IP without an agent gateway.
[[nodiscard]] Result<DesiredNode> desire(const Topology& topology, std::size_t node, const Allocations& allocations);

}  // namespace fiplane::build
