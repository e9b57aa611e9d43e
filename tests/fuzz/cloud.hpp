// SPDX-License-Identifier: Apache-2.0
// The small cloud that fuzzed frames travel in, as seen from one of its nodes: the rows of the BPF tables, and the same
// facts for whoever judges what came out. Two tenants use the same addresses and the same MACs.
//
//   underlay: this node 10.0.0.1 (lo), peers 10.0.0.2 (all segments) and 10.0.0.3 (not tenant b)
//   ex  a star, VXLAN 1001 to peer 2 and 1002 to peer 3  172.24.4.0/23: host 172.24.4.1 on br-ex, client .2 behind peer
//   2, gateway 172.24.4.254 behind peer 3 a   VXLAN 2001, one device to all  10.1.0.0/24 of tenant A, distributed
//   router (domain 7): VMs a1 .5 and a2 .6 with floating IPs, a3 .7
//                 without source check, so learned from; .8 behind peer 2, .9 behind peer 3
//   a-2 GRE 2002, isolated devices  10.2.0.0/24 of tenant A, same router: VM a4 .9; .6 behind peer 3 over a link with
//   MTU 600 b   Geneve 3001  10.1.0.0/24 of tenant B, legacy router on this node (domain 8): VMs b1 .5 and b2 .6 with
//   floating IPs;
//                 .8 behind peer 2, with a floating IP of this node's router
//
// Or one of routers that somebody else has built (Cloud::Kind::kRouters), which are followed: see cloud_routers.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/types.hpp"
#include "fiplane/abi.h"
#include "support/bpf_objects.hpp"

namespace fiplane::test {

inline constexpr std::uint16_t kVxlanPort = 4789;
inline constexpr std::uint16_t kGenevePort = 6081;
inline constexpr std::uint32_t kUnderlayDevice = 1;  ///< loopback, the device of XDP test runs
inline constexpr std::uint32_t kNobody = 0;          ///< tenant of the external segment

struct CloudSegment {
    const char* name;
    std::uint32_t bridge;  ///< ifindex, and so the segment's number
    std::uint32_t tenant;
};

/// The way to one peer in one segment. Several may share a device.
struct CloudTunnel {
    fl_tunnel_type type;
    std::uint32_t id;
    Ipv4 peer;
    std::uint32_t segment;
    std::uint32_t device;
    bool isolated;
    bool learns;  ///< the bridge behind which port a MAC is, and the device behind which peer
};

struct CloudPort {
    const char* name;
    std::uint32_t ifindex;
    std::uint32_t segment;
    Mac mac;
    Ipv4 ip;
    bool checked;         ///< sends only from .mac and .ip; on other ports the bridge learns
    std::uint32_t flags;  ///< FL_OUT_*
};

struct CloudPeer {
    Ipv4 vtep;
    Mac underlay_mac;
};

/// Where a frame leaves.
struct Exit {
    fl_out_kind kind = FL_OUT_NONE;
    std::uint32_t ifindex = 0;
    std::uint32_t flags = 0;  ///< of a port
    std::uint32_t mtu = 0;
    const CloudTunnel* tunnel = nullptr;
    std::uint32_t port = 0;  ///< of a followed router, by which it leaves at last: its number
    bool crosses = false;    ///< `ifindex` is a veth on the way there
};

struct Journey {
    Mac dmac{};
    Mac smac{};
    Ipv4 dnat{};  ///< unset: the destination stays
    std::uint32_t hops = 0;
    std::uint32_t mtu = 0;
    bool snat = false;
    bool hairpin = false;
    std::uint32_t router = 0;  ///< number of the followed router that translates the destination
    bool one_entry = false;    ///< it translates both addresses at once
    bool excepts = false;      ///< not from those in `senders`
    Exit exit{};
};

/// A port of a router that somebody else has built. It is a segment of its own, of the same number.
struct RouterPort {
    CloudSegment segment;
    std::uint32_t netns;  ///< number of its namespace
    std::uint32_t ifindex;
    Mac mac;
};

/// What comes out of a veth between such routers' namespaces, marked with the port by which it is to leave.
struct CrossingRow {
    std::uint32_t veth;  ///< number
    std::uint32_t target;
    std::uint32_t ifindex;
    bool crosses_on;  ///< `ifindex` is the next veth
};

struct FdbRow {
    std::uint32_t segment;
    Mac mac;
    Exit exit;
};

struct ArpRow {
    std::uint32_t segment;
    Ipv4 ip;
    Mac mac;
    bool crosses_tunnels = true;  ///< answers may enter tunnels
};

struct FipInRow {
    std::uint32_t segment;
    Ipv4 fip;
    Mac router_mac;
    Journey journey;
};

struct VmRow {
    std::uint32_t port;  ///< or tunnel device
    Ipv4 fixed;
    Mac vm_mac;
    Mac router_mac;
    Ipv4 fip;
    std::uint32_t domain;
};

/// Everybody of a prefix, behind another router of the segment. Domain 0: left to Linux, where a followed router
/// excepts senders.
struct SenderRow {
    std::uint32_t segment;
    Mac router_mac;
    Prefix sources;
    std::uint32_t domain;
};

/// Length 32 is a row of fl_dests, a shorter prefix one of fl_routes.
struct DestRow {
    std::uint32_t domain;
    Prefix prefix;
    Journey journey;
};

/// Immutable once made.
class Cloud {
  public:
    enum class Kind { kOverlay, kRouters };
    explicit Cloud(Kind kind);
    ~Cloud() = default;
    Cloud(const Cloud&) = delete;
    Cloud& operator=(const Cloud&) = delete;

    Ipv4 vtep;
    Mac underlay_mac;
    std::vector<CloudSegment> segments;
    std::vector<CloudPort> ports;
    std::vector<CloudPeer> peers;
    std::vector<CloudTunnel> tunnels;
    std::vector<FdbRow> fdb;
    std::vector<ArpRow> arp;
    std::vector<FipInRow> fip_in;
    std::vector<VmRow> vms;
    std::vector<SenderRow> senders;
    std::vector<DestRow> dests;
    std::vector<RouterPort> router_ports;
    std::vector<CrossingRow> crossings;

    [[nodiscard]] const CloudSegment* segment(std::uint32_t bridge) const;
    [[nodiscard]] const CloudTunnel* tunnel(fl_tunnel_type type, std::uint32_t id, Ipv4 peer) const;
    /// One of those that share the device.
    [[nodiscard]] const CloudTunnel* tunnel_of_device(std::uint32_t ifindex) const;
    /// A router here has VMs behind the device.
    [[nodiscard]] bool is_routed(std::uint32_t device) const;
    [[nodiscard]] const CloudPort* port(std::uint32_t ifindex) const;
    [[nodiscard]] const CloudPort& port(const std::string& name) const;
    [[nodiscard]] const CloudPeer* peer(Ipv4 address) const;
    [[nodiscard]] const RouterPort* router_port(std::uint32_t number) const;
    [[nodiscard]] const RouterPort* router_port_of_device(std::uint32_t ifindex) const;

    /// Devices on which the program of a hook runs; of tc_router their numbers.
    [[nodiscard]] std::vector<std::uint32_t> devices(fl_hook hook) const;

    /// Makes the devices in the calling thread's network namespace, which must be empty. Only their numbers matter: all
    /// are bridges, which every kernel of a node has.
    void make_devices() const;
    /// The devices must exist: the kernel checks those in fl_devs.
    void write_tables(const BpfObjects& objects) const;

  private:
    void add_segment_rows();
    void add_journeys();
    void add_routers();
    [[nodiscard]] Exit to_port(const std::string& name) const;
    [[nodiscard]] Exit to_tunnel(std::uint32_t segment, Ipv4 peer) const;
};

}  // namespace fiplane::test
