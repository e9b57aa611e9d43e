// SPDX-License-Identifier: Apache-2.0
// NETLINK_ROUTE in one network namespace: dumps as values of core/snapshot.hpp, and typed changes. Over libnl-3.
//
// An Rtnl object may be used by one thread at a time; its socket stays in the namespace in which it was opened, so the
// caller need not be there. Every failure carries the operation, the object's name and the kernel's errno and, where
// the kernel gave one, its extended ack text.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/netns.hpp"

namespace fiplane {

struct BridgeSpec {
    std::string name{};
    std::optional<Mac> mac{};
    std::uint32_t mtu = 1500;
    bool stp = false;
    bool multicast_snooping = false;
    std::string alias{};
};

struct VxlanSpec {
    std::string name{};
    std::uint32_t vni = 0;
    /// Over IPv6 the hop limit is 64: the device's default may be a router's advertisement.
    IpAddress local;
    std::uint16_t port = 4789;
    int underlay_ifindex = 0;  ///< 0: not bound to a device
    bool learning = false;
    bool proxy = false;         ///< answer ARP from the device's neighbour table, never flood it
    bool udp_checksum = false;  ///< over IPv6, off means that packets without one are taken, too (RFC 6935)
    std::uint32_t mtu = 1450;
    std::string alias{};
};

/// A keyed gretap device whose outer headers depend on nothing but itself: TTL 64, no DF.
struct GretapSpec {
    std::string name{};
    std::uint32_t key = 0;  ///< in both directions
    Ipv4 local;
    Ipv4 remote;
    int underlay_ifindex = 0;  ///< 0: not bound to a device
    std::uint32_t mtu = 1458;
    std::string alias{};
};

/// One 802.1Q VLAN of a device.
struct VlanSpec {
    std::string name{};
    std::uint16_t id = 0;
    int parent_ifindex = 0;
    std::uint32_t mtu = 1500;  ///< not more than the parent's
    std::string alias{};
};

/// A geneve device to one peer: TTL 64, no UDP checksum, no DF. Its local address is the source of the route.
struct GeneveSpec {
    std::string name{};
    std::uint32_t vni = 0;
    Ipv4 remote;
    std::uint16_t port = 6081;
    std::uint32_t mtu = 1450;
    std::string alias{};
};

struct VethSpec {
    std::string name{};
    std::optional<Mac> mac{};
    std::string peer_name{};
    std::optional<Mac> peer_mac{};
    const Netns* peer_netns = nullptr;  ///< null: same namespace
    std::uint32_t mtu = 1500;           ///< of both ends
    std::string alias{};                ///< of the first end
};

/// Changes of an existing link; only what is set is changed, in one request where the kernel allows.
struct LinkChange {
    std::optional<std::uint32_t> mtu{};
    std::optional<Mac> mac{};
    std::optional<bool> up{};
    std::optional<bool> all_multicast{};  ///< IFF_ALLMULTI
    std::optional<int> master{};          ///< 0 releases it
    std::optional<std::string> alias{};
    std::optional<bool> disable_ipv6_autoconf{};  ///< IFLA_INET6_ADDR_GEN_MODE none
};

/// Bridge port attributes.
struct BridgePortChange {
    std::optional<bool> learning{};
    std::optional<bool> unicast_flood{};
    std::optional<bool> neigh_suppress{};
    std::optional<bool> isolated{};
};

/// An IPv6 address of a device.
struct Ipv6Address {
    int ifindex = 0;
    IpAddress address;
    bool tentative = false;  ///< duplicate address detection is not over: Linux takes no packets for it yet
    bool operator==(const Ipv6Address&) const = default;
};

class Rtnl {
  public:
    [[nodiscard]] static Result<Rtnl> open(const Netns& netns);
    Rtnl(Rtnl&&) noexcept;
    Rtnl& operator=(Rtnl&&) noexcept;
    ~Rtnl();

    // Dumps. A dump that the kernel says was interrupted (NLM_F_DUMP_INTR) is repeated, up to five times.

    /// All links. `peers` names namespaces by inode-independent nsid: see nsid_of(); peers of veth devices whose
    /// namespace is not in it get PeerInfo::netns unset. The link's own namespace is `own_name`.
    [[nodiscard]] Result<std::map<int, Link>> links(const std::map<int, NetnsName>& nsid_names,
                                                    const NetnsName& own_name);
    [[nodiscard]] Result<std::vector<Address>> addresses();
    /// Without those that another host has as well (duplicate address detection).
    [[nodiscard]] Result<std::vector<Ipv6Address>> ipv6_addresses();
    /// Whether one of IPv6's policy rules looks at more than addresses and devices.
    [[nodiscard]] Result<bool> has_other_ipv6_rules();
    [[nodiscard]] Result<std::vector<Route>> routes();
    [[nodiscard]] Result<std::vector<PolicyRule>> rules();
    [[nodiscard]] Result<std::vector<Neighbour>> neighbours();
    /// AF_BRIDGE neighbours: bridge tables and vxlan tables. Entries of multicast groups are left out.
    [[nodiscard]] Result<std::vector<FdbEntry>> fdb();
    /// How the kernel sends from `local` to `peer`, by device `bound_to` unless that is 0. The MTU is the route's, or
    /// the one that was learned of the path if that is smaller, 0 where there is none. Ipv6Way::has_local and
    /// ::other_rules are the caller's to fill.
    [[nodiscard]] Result<Ipv6Way> ipv6_way(const IpAddress& local, const IpAddress& peer, int bound_to);
    /// The source that the kernel gives to what this namespace sends to `destination` without one; none where there is
    /// no route.
    [[nodiscard]] Result<std::optional<Ipv4>> source_towards(Ipv4 destination);
    /// The id by which this namespace refers to another (RTM_GETNSID); none if it has not been given one yet. The
    /// kernel gives one when a link whose peer is there is shown for the first time, so ids are complete only after a
    /// dump of the links.
    [[nodiscard]] Result<std::optional<int>> nsid_of(const Netns& other);
    [[nodiscard]] Result<std::optional<Link>> link_by_name(const std::string& name);

    /// kMissingFeature if the kernel has no such kind of link ("gretap"), and no module for it; makes none.
    [[nodiscard]] Result<> require_kind(const std::string& kind);

    // Changes. All are exact: "exists already" and "no such" are errors, unless said otherwise.

    [[nodiscard]] Result<> add_bridge(const BridgeSpec& spec);
    [[nodiscard]] Result<> add_vxlan(const VxlanSpec& spec);
    [[nodiscard]] Result<> add_gretap(const GretapSpec& spec);
    [[nodiscard]] Result<> add_vlan(const VlanSpec& spec);
    [[nodiscard]] Result<> add_geneve(const GeneveSpec& spec);
    [[nodiscard]] Result<> add_veth(const VethSpec& spec);
    [[nodiscard]] Result<> change_link(int ifindex, const std::string& name_for_errors, const LinkChange& change);
    [[nodiscard]] Result<> change_bridge_port(int ifindex, const std::string& name_for_errors,
                                              const BridgePortChange& change);
    [[nodiscard]] Result<> remove_link(int ifindex, const std::string& name_for_errors);
    [[nodiscard]] Result<> add_address(int ifindex, const Prefix& address, bool with_broadcast);
    [[nodiscard]] Result<> remove_address(int ifindex, const Prefix& address);
    /// Adds or replaces (NLM_F_REPLACE) a unicast route.
    [[nodiscard]] Result<> set_route(const Route& route);
    [[nodiscard]] Result<> remove_route(const Route& route);
    [[nodiscard]] Result<> add_rule(const PolicyRule& rule);
    [[nodiscard]] Result<> remove_rule(const PolicyRule& rule);
    /// Adds or replaces a neighbour with NUD_PERMANENT.
    [[nodiscard]] Result<> set_neighbour(int ifindex, Ipv4 address, const Mac& mac);
    [[nodiscard]] Result<> remove_neighbour(int ifindex, Ipv4 address);
    /// Asks the kernel to confirm a neighbour now (NTF_USE): resolves one that is not in the table yet. Not for
    /// PERMANENT ones: NTF_USE takes that state from them (net/core/neighbour.c, __neigh_update).
    [[nodiscard]] Result<> use_neighbour(int ifindex, const IpAddress& address);
    /// Adds or replaces a static entry: in the bridge's table (NTF_MASTER) if `destination` is unset, in the vxlan
    /// device's own table (NTF_SELF) if it is set. The all-zero MAC appends a flood destination instead of replacing.
    [[nodiscard]] Result<> set_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination);
    /// Of a vxlan entry only the destination is removed. The kernel is silent about a destination that the MAC does not
    /// have as long as the MAC has another (drivers/net/vxlan, __vxlan_fdb_delete), so that is no error here either.
    [[nodiscard]] Result<> remove_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination);
    /// Lets a learned entry live on as a frame from `mac` would: that of the bridge on port `ifindex` if `destination`
    /// is unset, else that of the vxlan device's own table. False, and nothing is done, if there is none, or not there.
    [[nodiscard]] Result<bool> refresh_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination);

  private:
    struct Impl;
    explicit Rtnl(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
