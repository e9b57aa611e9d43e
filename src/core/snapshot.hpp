// SPDX-License-Identifier: Apache-2.0
// What Linux holds, as values: one NetnsView per network namespace, a Snapshot for a node. Made by src/observe,
// read by the walk. Values only: no file descriptors, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/netfilter.hpp"
#include "core/types.hpp"

namespace fiplane {

/// How the walk names namespaces: "" is the node's own (root), others are names below /run/netns.
using NetnsName = std::string;

struct VxlanInfo {
    std::uint32_t vni = 0;
    IpAddress local;
    std::optional<IpAddress> remote;  ///< default destination, if one is set
    std::uint16_t port = 0;           ///< UDP, host order
    int underlay_ifindex = 0;         ///< IFLA_VXLAN_LINK, 0 if none
    bool learning = false;
    std::uint32_t ageing = 0;  ///< of learned entries, seconds; 0: they do not age
    bool proxy = false;
    bool udp_checksum = false;         ///< over IPv4
    bool sends_no_checksum6 = false;   ///< over IPv6: udp6zerocsumtx
    bool takes_no_checksum6 = false;   ///< over IPv6: udp6zerocsumrx
    bool extensions = false;           ///< of the header: group policy, generic protocol, remote checksum offload
    std::uint32_t flow_label = 0;      ///< over IPv6, host order
    bool inherits_flow_label = false;  ///< over IPv6: the inner packet's
    bool collect_metadata = false;
    bool inherits_ttl = false;
    std::uint8_t df = 0;   ///< VXLAN_DF_*: 0 never sets it
    std::uint8_t ttl = 0;  ///< 0: the host's default
    std::uint8_t tos = 0;
    bool operator==(const VxlanInfo&) const = default;
};

/// A gretap device: Ethernet in GRE over IPv4.
struct GreInfo {
    std::optional<std::uint32_t> in_key;  ///< unset: packets without a key
    std::optional<std::uint32_t> out_key;
    bool other_flags = false;  ///< checksums or sequence numbers
    Ipv4 local;
    Ipv4 remote;
    int underlay_ifindex = 0;        ///< IFLA_GRE_LINK, 0 if none
    bool path_mtu_discovery = true;  ///< sets DF
    bool ignore_df = false;          ///< of the inner packet
    bool collect_metadata = false;
    bool foreign_encapsulation = false;  ///< FOU or GUE around it
    std::uint8_t ttl = 0;                ///< 0: the inner packet's
    std::uint8_t tos = 0;
    bool operator==(const GreInfo&) const = default;
};

/// A device for one VLAN of another device.
struct VlanInfo {
    std::uint16_t id = 0;
    std::uint16_t protocol = 0x8100;  ///< of the tag: ETH_P_8021Q or ETH_P_8021AD, host order
    int parent_ifindex = 0;           ///< IFLA_LINK: whose frames are tagged; 0: it is in another namespace
    bool reorder_header = true;       ///< received frames are shown without the tag
    /// GVRP or MVRP, carrier independent of the parent's or taken from the bridge, a mapping of priorities: whatever
    /// else changes which frames pass or what their tags say.
    bool other_flags = false;
    bool operator==(const VlanInfo&) const = default;
};

/// A geneve device over IPv4 (or in collect-metadata mode, without a remote).
struct GeneveInfo {
    std::uint32_t vni = 0;
    std::optional<Ipv4> local;   ///< kernels that have no such attribute take the route's source
    std::optional<Ipv4> remote;  ///< none: IPv6, or collect-metadata mode
    std::uint16_t port = 0;      ///< UDP, host order
    bool udp_checksum = false;
    bool collect_metadata = false;
    bool inherits_ttl = false;
    bool carries_ip = false;  ///< IFLA_GENEVE_INNER_PROTO_INHERIT: no Ethernet inside
    bool gro_hint = false;    ///< IFLA_GENEVE_GRO_HINT: sends an option
    std::uint8_t df = 0;      ///< GENEVE_DF_*: 0 never sets it
    std::uint8_t ttl = 0;     ///< 0: the host's default
    std::uint8_t tos = 0;
    std::uint16_t first_source_port = 1;      ///< UDP, host order
    std::uint16_t last_source_port = 0xffff;  ///< inclusive
    bool operator==(const GeneveInfo&) const = default;
};

struct BridgeInfo {
    bool vlan_filtering = false;
    bool stp = false;
    std::uint32_t ageing_time = 0;  ///< of learned entries, centiseconds; 0: nothing is learned
    bool multicast_snooping = false;

    static constexpr std::uint32_t kCentiseconds = 100;
    [[nodiscard]] std::uint32_t ageing_seconds() const { return ageing_time / kCentiseconds; }
    bool operator==(const BridgeInfo&) const = default;
};

/// State as a port of a bridge (IFLA_PROTINFO / slave data).
struct BridgePortInfo {
    std::uint8_t state = 3;  ///< BR_STATE_*: 3 is forwarding
    bool learning = true;
    bool unicast_flood = true;
    bool isolated = false;
    bool neigh_suppress = false;
    bool hairpin = false;
    bool operator==(const BridgePortInfo&) const = default;
};

/// veth: where the other end is.
struct PeerInfo {
    int ifindex = 0;
    std::optional<NetnsName> netns;  ///< none: a namespace that we cannot name (a VM's)
    bool operator==(const PeerInfo&) const = default;
};

struct Link {
    int ifindex = 0;
    std::string name;
    std::string
        kind;  ///< IFLA_INFO_KIND: "bridge", "vxlan", "gretap", "geneve", "vlan", "veth", "tun", "" for physical
    std::string alias;  ///< IFLA_IFALIAS
    Mac mac;
    std::uint32_t mtu = 0;
    bool admin_up = false;
    bool all_multicast = false;  ///< asked for (IFF_ALLMULTI), not only for a bridge's or a macvlan's sake
    bool running = false;        ///< operational state up or unknown, and lower up
    int master = 0;              ///< ifindex of the bridge that it is enslaved to
    bool is_tap = false;         ///< kind tun, type tap
    std::string qdisc;           ///< root qdisc kind
    std::uint32_t gso_max_size = 0;
    std::optional<PeerInfo> peer;
    std::optional<VxlanInfo> vxlan;
    std::optional<GreInfo> gre;
    std::optional<VlanInfo> vlan;
    std::optional<GeneveInfo> geneve;
    std::optional<BridgeInfo> bridge;
    std::optional<BridgePortInfo> bridge_port;
    std::uint32_t xdp_prog_id = 0;              ///< whoever attached it; 0: none
    std::vector<std::string> foreign_programs;  ///< "tcx ingress cil_from_netdev": programs that are not ours
    std::string unserved;                       ///< why it lacks our program, where that could not be attached
    /// "eth0 has a foreign program: ...", or that it lacks ours; empty if all is well.
    [[nodiscard]] std::string program_refusal() const;
    bool operator==(const Link&) const = default;
};

struct Address {
    int ifindex = 0;
    Prefix address;  ///< host bits kept
    /// Another address of the subnet came first (IFA_F_SECONDARY): none that Linux chooses as a source by itself.
    bool secondary = false;
    std::uint8_t scope = 0;  ///< RT_SCOPE_*
    bool operator==(const Address&) const = default;
    auto operator<=>(const Address&) const = default;
};

enum class RouteType { kUnicast, kLocal, kBroadcast, kBlackhole, kUnreachable, kProhibit, kThrow, kOther };

struct Route {
    std::uint32_t table = 254;
    Prefix destination;
    RouteType type = RouteType::kUnicast;
    int oif = 0;
    std::optional<Ipv4> gateway;
    std::optional<Ipv4> preferred_source{};  ///< RTA_PREFSRC
    std::uint32_t priority = 0;              ///< metric
    std::uint8_t protocol = 0;               ///< RTPROT_*
    std::uint8_t scope = 0;
    std::uint8_t tos = 0;
    bool multipath = false;  ///< nexthops or a nexthop object: not followed
    std::uint32_t mtu = 0;   ///< RTAX_MTU, 0 if unset
    bool operator==(const Route&) const = default;
};

struct PolicyRule {
    std::uint32_t priority = 0;
    Prefix source;       ///< length 0: from all; host bits kept as the kernel prints them
    Prefix destination;  ///< length 0: to all
    std::string iifname;
    std::string oifname;
    std::uint32_t table = 0;
    bool lookup = true;           ///< FR_ACT_TO_TBL; others (goto, blackhole...) are not followed
    bool other_selector = false;  ///< fwmark, tos, ports, uid, l3mdev, invert: undecidable for the walk
    bool inverted = false;        ///< selects all but what the selectors say; other_selector is set, too
    bool operator==(const PolicyRule&) const = default;
};

/// Linux would send to a neighbour in this NUD_* state at once: PERMANENT, NOARP, REACHABLE, STALE, DELAY or PROBE.
[[nodiscard]] constexpr bool is_usable_neighbour(std::uint16_t state) {
    return (state & 0xde) != 0;
}

struct Neighbour {
    int ifindex = 0;
    Ipv4 address;
    Mac mac;
    std::uint16_t state = 0;  ///< NUD_*
    bool operator==(const Neighbour&) const = default;
    [[nodiscard]] bool usable() const { return is_usable_neighbour(state); }
};

/// How the kernel sends from a vxlan device's address to one of its IPv6 peers. Routes, rules and neighbours above are
/// IPv4: of IPv6 nothing but these ways matters, so the kernel itself is asked for each (RTM_GETROUTE).
struct Ipv6Way {
    IpAddress local;
    IpAddress peer;
    int bound_to = 0;                          ///< device that packets must leave by, 0: any
    RouteType type = RouteType::kUnreachable;  ///< kUnreachable, too, where there is no route
    int oif = 0;
    std::optional<IpAddress> gateway;
    bool multipath = false;
    std::uint32_t mtu = 0;    ///< smallest of the route's, the device's own for IPv6 and a path MTU that was learned
    Mac mac;                  ///< of the next hop
    std::uint16_t state = 0;  ///< NUD_* of the next hop, 0: not in the table
    /// The node has the local address, and knows that nobody else has it: else Linux takes no packets for it.
    bool has_local = false;
    /// A policy rule looks at more than addresses and devices (at ports, say), which the kernel was not told.
    bool other_rules = false;
    bool operator==(const Ipv6Way&) const = default;
};

/// A policy of IPsec (`ip xfrm policy`), as far as addresses select its packets: protocols, ports and marks may leave
/// some of them out.
struct IpsecPolicy {
    std::uint8_t direction = 0;  ///< XFRM_POLICY_IN, _OUT or _FWD
    IpAddress source;
    std::uint8_t source_length = 0;  ///< of the prefix in 128 bits: IPv4 is in mapped form; 0: anybody of both families
    IpAddress destination;
    std::uint8_t destination_length = 0;
    bool operator==(const IpsecPolicy&) const = default;
    [[nodiscard]] bool concerns(const IpAddress& from, const IpAddress& to) const;
};

struct FdbEntry {
    int ifindex = 0;  ///< the port (bridge table) or the vxlan device (its own table)
    int bridge = 0;   ///< bridge ifindex for entries of a bridge; 0 for a vxlan device's own table
    Mac mac;
    std::optional<IpAddress> destination;  ///< vxlan table: remote VTEP
    int underlay_ifindex = 0;              ///< vxlan table: by which device (NDA_IFINDEX); 0: it names none
    /// vxlan table: to another port or VNI than the device's own, or to a group of next hops.
    bool elsewhere = false;
    std::uint16_t vlan = 0;
    std::uint16_t state = 0;  ///< NUD_PERMANENT: local to the bridge; NUD_NOARP: static; else learned
    std::uint8_t flags = 0;   ///< NTF_*
    bool operator==(const FdbEntry&) const = default;
};

/// IPv4 sysctls that change what the walk must conclude.
struct Sysctls {
    bool ip_forward = false;
    bool bridge_nf_call_iptables = false;  ///< root namespace; false where br_netfilter is absent
    /// Per device name; effective values (all combined with the device as the kernel does).
    struct Device {
        bool forwarding = false;
        bool proxy_arp = false;
        int arp_ignore = 0;
        int rp_filter = 0;
        /// `all` or the device's own (IN_DEV_TX_REDIRECTS). On until it is read: a redirect is a packet that only Linux
        /// sends, so a walk must not miss one.
        bool send_redirects = true;
        bool operator==(const Device&) const = default;
    };
    std::map<std::string, Device> devices;
    bool operator==(const Sysctls&) const = default;
};

struct NetnsView {
    NetnsName name;
    /// Why what is said here may be out of date: a part could not be read, and is as it was read last, or empty if it
    /// never was. Empty: all of it is current. Nothing may be carried past such a namespace.
    std::string unread;
    std::map<int, Link> links;  ///< by ifindex
    std::vector<Address> addresses;
    std::vector<Route> routes;
    std::vector<PolicyRule> rules;  ///< by priority, in kernel order
    std::vector<Neighbour> neighbours;
    std::vector<FdbEntry> fdb;
    std::vector<Ipv6Way> ipv6_ways;  ///< by local address, peer and device; in the node's own namespace
    Sysctls sysctls;
    nf::Ruleset netfilter;
    std::vector<IpsecPolicy> ipsec_policies;
    std::map<NetnsName, int> netnsids;  ///< by which this namespace knows others (`ip netns list-id`)

    [[nodiscard]] const Link* find_link(const std::string& link_name) const;
    [[nodiscard]] const Link* link(int ifindex) const;
};

struct Snapshot {
    NetnsView root;
    std::map<NetnsName, NetnsView> routers;  ///< qrouter-…, fip-…, snat-…

    /// The view of a namespace by name; null if it is not in the snapshot.
    [[nodiscard]] const NetnsView* netns(const NetnsName& name) const;
};

}  // namespace fiplane
