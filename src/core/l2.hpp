// SPDX-License-Identifier: Apache-2.0
// Layer 2 of the walk: segments (bridges of the root namespace), their ports, and where a MAC address leads.
#pragma once

#include <expected>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/compile.hpp"
#include "core/netns_index.hpp"
#include "core/snapshot.hpp"
#include "core/tunnels.hpp"
#include "fiplane/abi.h"

namespace fiplane {

struct Segment;

/// A port of a segment's bridge.
struct BridgePort {
    enum class Kind {
        kTunnel,  ///< vxlan, gretap or geneve device
        kLeg,     ///< veth into a router namespace; or the bridge itself, where the node's own namespace is a router
        kVm,      ///< everything else
    };
    const Link* link = nullptr;
    Kind kind = Kind::kVm;
    const Segment* segment = nullptr;
    std::optional<Tunnel> tunnel;        ///< tunnels
    bool passes_arp = true;              ///< tunnels: ARP may cross it
    const NetnsIndex* router = nullptr;  ///< legs: the namespace ...
    const Link* leg = nullptr;           ///< ... and the device in it
    std::string refusal;                 ///< why no frame may be carried past it; empty: it may
    /// VLAN devices that do nothing but add and remove their tag: the device that they are on.
    const Link* trunk = nullptr;
    /// Theirs where their frames are taken there, before they come to the VLAN device; else null.
    const Link* taken_on = nullptr;

    /// In the tables: the device's index, or the foreign segment's number.
    [[nodiscard]] std::uint32_t id() const;
    [[nodiscard]] bool is_isolated() const { return link->bridge_port && link->bridge_port->isolated; }
    /// The bridge learns source addresses here, and moves entries here, unless they are sticky (br_fdb_update).
    [[nodiscard]] bool learns() const;
    /// So does the tunnel device itself: behind which peer an address is (vxlan_snoop).
    [[nodiscard]] bool learns_peers() const { return link->vxlan && link->vxlan->learning; }
};

/// Where the bridge sends a frame for a MAC address.
struct MacTarget {
    enum class Kind {
        kPort,
        kHost,
        kTunnel,
        kRouter,
        kNone,  ///< a port, but the entry is left to the bridge
    };
    Kind kind = Kind::kNone;
    const BridgePort* port = nullptr;         ///< never null; kHost: the segment's `host`
    fl_out out{};                             ///< kPort, kHost and kTunnel, if `reason` is empty
    std::string reason;                       ///< why the fast path does not send there
    bool ages = false;                        ///< not a static entry: the bridge forgets it
    std::optional<IpAddress> learned_peer{};  ///< kTunnel: the vxlan device learned where, and forgets it
};

/// One L2 broadcast domain as far as this node sees it.
struct Segment {
    /// Of a foreign segment, which is known by the one router port through which it is seen: that port.
    const Link* bridge = nullptr;
    std::uint32_t number = 0;         ///< in the tables
    std::string refusal;              ///< why nothing of it is accelerated
    std::map<int, BridgePort> ports;  ///< by ifindex
    BridgePort host;                  ///< the bridge as the host's own port: a leg of the root namespace
    std::map<Mac, MacTarget> macs;    ///< entries of the bridge's table
    bool forgetful = false;           ///< has learned entries that age too fast to be followed

    [[nodiscard]] std::uint32_t id() const { return number; }
    /// The entry for a MAC; a router leg's own address leads to it even while the bridge floods for it. On a foreign
    /// segment every MAC is behind the port.
    [[nodiscard]] const MacTarget* find(const Mac& mac) const;
    std::map<Mac, MacTarget> leg_macs;
    std::optional<MacTarget> anybody;  ///< foreign segments
    [[nodiscard]] bool is_foreign() const { return anybody.has_value(); }
};

/// The way to a tunnel peer on the underlay: template of the output, or why there is none.
struct UnderlayPath {
    fl_out out{};
    std::string reason;
    int device = 0;                      ///< underlay device, 0 if there is no route
    Mac mac;                             ///< of that device
    std::optional<Keepalive> keepalive;  ///< the next hop, unless it is PERMANENT
};

/// The address that Linux gives packets to `destination` that are sent without one (ip_route_output_key_hash_rcu), or
/// why there is not exactly one that it can be.
[[nodiscard]] std::expected<Ipv4, std::string> source_towards(const NetnsIndex& root, Ipv4 destination);

/// Whether a device of this name in a router's namespace is one of its ports: qr-, qg-, fg- or sg-.
[[nodiscard]] bool is_router_port(const std::string& device);

/// The number of something in others' namespaces, in rows of tables: of a namespace by its name, of a device by
/// "namespace/device". It comes from the name alone, so whoever reads the tables later finds the same. FL_FIRST_NUMBER
/// and above; two names may have the same one.
[[nodiscard]] std::uint32_t foreign_number(const std::string& name);

/// All segments in scope.
class L2 {
  public:
    L2(const NetnsIndex& root, const std::map<NetnsName, NetnsIndex>& routers, const Scope& scope);
    ~L2() = default;
    L2(const L2&) = delete;
    L2& operator=(const L2&) = delete;

    [[nodiscard]] const std::map<int, Segment>& segments() const { return segments_; }
    /// Those of others, behind the ports of followed routers.
    [[nodiscard]] const std::map<std::uint32_t, Segment>& foreign_segments() const { return foreign_; }
    /// The one behind a device of a router, or null.
    [[nodiscard]] const Segment* behind(const NetnsIndex& router, int ifindex) const;
    /// Of a port of a followed router, or of a veth between such routers' namespaces; 0 if another one has it.
    [[nodiscard]] std::uint32_t number_of(const NetnsIndex& router, const Link& link) const;
    /// All such devices that have a number.
    struct Numbered {
        const NetnsIndex* router = nullptr;
        const Link* link = nullptr;
        std::uint32_t number = 0;
    };
    [[nodiscard]] std::vector<Numbered> numbered() const;
    /// Of such a namespace; 0 if another one has it.
    [[nodiscard]] std::uint32_t number_of(const NetnsIndex& router) const;
    /// The segment of a bridge in scope, or null.
    [[nodiscard]] const Segment* segment(int bridge) const;
    /// The port of a segment in scope, by the ifindex of its device in the root namespace.
    [[nodiscard]] const BridgePort* port(int ifindex) const;
    /// Own tunnel address; unset if there are no tunnels.
    [[nodiscard]] const IpAddress& vtep() const { return vtep_; }
    /// Tunnel types in use, with their UDP port (0 for GRE).
    [[nodiscard]] const std::map<fl_tunnel_type, std::uint16_t>& tunnel_ports() const { return tunnel_ports_; }
    /// By tunnel device and peer.
    [[nodiscard]] const std::map<std::pair<int, IpAddress>, UnderlayPath>& underlay() const { return underlay_; }
    /// Sentences about what stays slow.
    [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

  private:
    void add_segment(const Link& bridge, const std::map<NetnsName, NetnsIndex>& routers);
    void add_port(Segment& segment, const Link& link, const std::map<NetnsName, NetnsIndex>& routers);
    void add_tunnel(BridgePort& port) const;
    void follow(const std::map<NetnsName, NetnsIndex>& routers);
    void add_foreign(const NetnsIndex& router, const Link& link);
    [[nodiscard]] const Link* trunk_of(const Link& link) const;
    void elect_vtep();
    void elect_ports();
    void refuse_tunnel(BridgePort& port);
    [[nodiscard]] std::vector<BridgePort*> tunnels();
    void read_tunnel_tables();
    void take_on_trunks();
    void add_path(const BridgePort& port, const IpAddress& peer);
    void read_bridge_tables();
    void add_entry(Segment& segment, const FdbEntry& entry);
    void limit_learned(Segment& segment);
    void note_floods(const Segment& segment);
    [[nodiscard]] MacTarget target_for(const Segment& segment, const FdbEntry& entry) const;
    [[nodiscard]] MacTarget tunnel_target(const BridgePort& port, const Mac& mac) const;
    [[nodiscard]] UnderlayPath find_path(const BridgePort& port, const IpAddress& peer) const;

    const NetnsIndex& root_;
    std::map<int, Segment> segments_;
    std::map<int, Segment*> segment_of_port_;
    std::map<std::uint32_t, Segment> foreign_;
    std::map<std::pair<const NetnsIndex*, int>, const Segment*> foreign_of_port_;
    /// Of namespaces (index 0) and of their devices; each has the first that had it by name.
    std::map<std::pair<const NetnsIndex*, int>, std::uint32_t> numbers_;
    std::map<std::pair<int, IpAddress>, UnderlayPath> underlay_;
    struct Remote {
        IpAddress peer;  ///< unset: elsewhere than programs can send
        bool learned = false;
    };
    [[nodiscard]] std::optional<Remote> peer_of(const BridgePort& port, const Mac& mac) const;
    std::map<std::pair<int, Mac>, std::vector<Remote>> remotes_;  ///< vxlan tables: device and MAC
    IpAddress vtep_;
    std::map<fl_tunnel_type, std::uint16_t> tunnel_ports_;
    std::vector<std::string> notes_;
};

}  // namespace fiplane
