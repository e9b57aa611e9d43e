// SPDX-License-Identifier: Apache-2.0
// One compute node as the compiled tables describe it, and the frames on its wires.
//
//   node a (this one) 10.0.0.1 -- underlay -- 10.0.0.2 node b
//   external segment, VNI 1001, 172.24.4.0/23: client 172.24.4.2 behind node b; fg- of this node
//   tenant segment, VNI 2001, 10.1.0.0/24: router (qr-) 10.1.0.1; VM 10.1.0.5 with 172.24.5.11 and its neighbour
//   10.1.0.7 with 172.24.5.12 on this node, VM 10.1.0.6 behind node b
#pragma once

#include <optional>
#include <string>

#include "bpf/programs.hpp"
#include "fiplane/abi.h"
#include "support/packet.hpp"

namespace fiplane::test {

/// A row of fl_sources without addresses, so of a source that is not checked. `port`: by which its frames enter the
/// segment. `router`: of the namespace that a followed router's port is in.
[[nodiscard]] fl_source source_row(fl_role role, std::uint32_t segment, std::uint32_t port, std::uint32_t flags = 0,
                                   std::uint32_t router = 0);

inline constexpr std::uint32_t kExternal = 10;  ///< segment: ifindex of br-ex
inline constexpr std::uint32_t kTenant = 20;    ///< segment: ifindex of the tenant bridge
inline constexpr std::uint32_t kVmPort = 101;   ///< the VM's port as a target
inline constexpr std::uint32_t kNeighbourPort = 102;
inline constexpr std::uint32_t kUnderlay = 2;  ///< as a target; as a source it is kThisDevice
inline constexpr std::uint32_t kDomain = 7;
inline constexpr std::uint32_t kExternalVni = 1001;
inline constexpr std::uint32_t kTenantVni = 2001;
inline constexpr std::uint32_t kMtu = 1450;

/// The kernel's tunnel device of a segment.
[[nodiscard]] constexpr std::uint32_t tunnel_device(std::uint32_t segment) {
    return 50 + segment;
}

struct World {
    // Underlay
    Ipv4 vtep = ip("10.0.0.1");
    Ipv4 peer_vtep = ip("10.0.0.2");
    Mac underlay_mac = mac("02:00:00:00:00:01");
    Mac peer_underlay_mac = mac("02:00:00:00:00:02");
    // External segment
    Mac fg_mac = mac("fa:16:3e:00:00:f9");
    Ipv4 fip = ip("172.24.5.11");
    Ipv4 client = ip("172.24.4.2");
    Mac client_mac = mac("fa:16:3e:00:00:c2");
    // Tenant segment
    Mac qr_mac = mac("fa:16:3e:00:00:01");
    Mac vm_mac = mac("fa:16:3e:00:00:05");
    Ipv4 fixed = ip("10.1.0.5");
    Mac remote_mac = mac("fa:16:3e:00:00:06");
    Ipv4 remote = ip("10.1.0.6");
    Mac neighbour_mac = mac("fa:16:3e:00:00:07");
    Ipv4 neighbour = ip("10.1.0.7");
    Ipv4 neighbour_fip = ip("172.24.5.12");

    /// How frames are wrapped between the nodes; VNIs are keys with GRE.
    fl_tunnel_type tunnel = FL_TUNNEL_VXLAN;

    Programs& programs = Programs::loaded();

    /// Empties the tables and fills them. Test runs happen on kThisDevice, which is no source yet: see on_port() and
    /// its like.
    explicit World(fl_tunnel_type type = FL_TUNNEL_VXLAN);

    void on_port();            ///< kThisDevice is the VM's port, with the source check
    void on_unchecked_port();  ///< the same without it
    void on_external_port();   ///< kThisDevice is a port of the external segment
    void on_learning_port();   ///< without it, and the bridge learns there
    /// kThisDevice is a tunnel device of the segment, on a node where tunnel_device() leads elsewhere.
    void on_tunnel(std::uint32_t segment, std::uint32_t flags = 0);
    void on_host(std::uint32_t segment);  ///< kThisDevice is the segment's bridge
    /// A device's source_row().
    void put_source(std::uint32_t device, fl_role role, std::uint32_t segment, std::uint32_t flags = 0,
                    std::uint32_t router = 0);

    [[nodiscard]] fl_out port_out(std::uint32_t ifindex, std::uint32_t flags = 0) const;
    [[nodiscard]] fl_out host_out() const;
    [[nodiscard]] fl_out router_out() const;  ///< the row of a router's MAC
    [[nodiscard]] fl_out tunnel_out(std::uint32_t vni) const;
    [[nodiscard]] fl_tunnel tunnel_row(std::uint32_t segment, std::uint32_t device, std::uint32_t flags = 0) const;
    void put_tunnel(std::uint32_t vni, Ipv4 peer, const fl_tunnel& row);
    /// The journey of the floating IP's packets to the VM.
    [[nodiscard]] fl_next next_to_vm() const;
    /// The journey of the VM's packets to the client, with translation.
    [[nodiscard]] fl_next next_to_client() const;
    void set_fip_in(const fl_next& next);
    void set_dest(Ipv4 address, const fl_next& next);
    /// A VM sends to its router by this port of the tenant segment. `becomes`: its floating IP; unset: it has none.
    void set_vm(std::uint32_t port, Ipv4 from, const Mac& from_mac, Ipv4 becomes);
    void remove_vm(std::uint32_t port, Ipv4 from);
    /// Others that send to a router of a segment; domain 0: they are left to Linux.
    void set_senders(std::uint32_t segment, const Mac& router, const Prefix& sources, std::uint32_t domain = kDomain);
    void set_fdb(std::uint32_t segment, const Mac& address, const fl_out& out);
    /// The stamp of a MAC's row; none if there is no row.
    [[nodiscard]] std::optional<std::uint32_t> last_use_of(std::uint32_t segment, const Mac& address) const;
    void set_arp(std::uint32_t segment, Ipv4 address, const Mac& answer);

    /// A tunnel packet's layers behind its outer IPv4 header.
    [[nodiscard]] Packet wrapped(std::uint32_t id, const Packet& inner) const;
    /// A node's address in the underlay: with VXLAN over IPv6 the last four bytes of one.
    [[nodiscard]] IpAddress end(Ipv4 node) const;
    /// The outer IP header on the way from one node to another. `id`: of IPv4.
    [[nodiscard]] Packet outer(Ipv4 from, Ipv4 to, std::uint8_t tos = 0, std::uint16_t id = 0x1234) const;
    /// The tunnel packet that node b sends to this node around `inner`.
    [[nodiscard]] Packet from_peer(std::uint32_t vni, const Packet& inner) const;
    /// The one that this node sends to node b.
    [[nodiscard]] Packet to_peer(std::uint32_t vni, const Packet& inner, std::uint8_t tos = 0) const;

    /// Ethernet and IPv4 of a packet from the client to the floating IP, before and after its journey.
    [[nodiscard]] Packet to_fip(const Ip4& fields = {}) const;
    [[nodiscard]] Packet to_vm(const Ip4& fields = {}) const;
    /// The same of a packet from the VM to the client.
    [[nodiscard]] Packet from_vm(const Ip4& fields = {}) const;
    [[nodiscard]] Packet from_fip(const Ip4& fields = {}) const;
    /// The client's ARP request for the floating IP, and the answer.
    [[nodiscard]] Packet who_has_fip() const;
    [[nodiscard]] Packet fip_is_at() const;
    /// Inside the tenant segment: from the VM behind node b to the VM here, and back.
    [[nodiscard]] Packet remote_to_vm() const;
    [[nodiscard]] Packet vm_to_remote() const;

  private:
    void put_port(std::uint32_t flags);
    [[nodiscard]] fl_vm_key vm_key(std::uint32_t port, Ipv4 from) const;
};

[[nodiscard]] fl_fip_stat_key fip_stat_key(Ipv4 address);

/// The action of a frame that leaves by the underlay device, on which the program runs itself.
[[nodiscard]] constexpr int sent_back(fl_hook hook) {
    return hook == FL_HOOK_XDP_UNDERLAY ? kXdpTx : kTcRedirect;
}

/// The frame left with this action for this reason and is what was expected; in a tunnel packet the free fields are.
void check_sent(const RunResult& result, int action, fl_reason reason, const Packet& expected);

/// The frame goes on in Linux unchanged, for this reason.
void check_left(fl_hook hook, const RunResult& result, fl_reason reason, const Bytes& frame);

/// Of the outer header, which both underlay programs judge alone: XDP leaves it to tc, which gives the reason.
void expect_left_at_underlay(World& world, const Packet& packet, fl_reason reason);

/// Runs a frame that must be left to Linux. At the underlay `reason` is what the next program would say, and what is
/// checked there is the handing over.
void expect_left(World& world, fl_hook hook, const Packet& packet, fl_reason reason, const RunOptions& options = {});

}  // namespace fiplane::test
