/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * What the BPF programs and userspace agree on: keys and values of every map,
 * roles, verdict reasons, configuration. Plain C that C++ also compiles; this
 * is the only definition of each of these things.
 *
 * Conventions
 *  - Addresses are byte arrays in wire order, so that a bare `bpftool map dump`
 *    reads "fip": [172,24,5,11]. Those of 16 bytes are IPv6, or IPv4 in mapped
 *    form (RFC 4291, 2.5.5.2): ten bytes 0, two of 255, then the four.
 *  - All other integers are in host byte order; names say the unit where there is one.
 *  - Keys and values have no holes: pads are named and always zero. Sizes are asserted below.
 *  - Enumerations are stored as enums (4 bytes), so that bpftool prints their names.
 */
#ifndef FIPLANE_ABI_H
#define FIPLANE_ABI_H

#ifdef __cplusplus
#include <linux/types.h>
#define FL_STATIC_ASSERT static_assert
#else
#define FL_STATIC_ASSERT _Static_assert
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif
#endif

/* Raised with every change of a key or value layout: an agent that finds another number rebuilds the maps. */
#define FL_ABI_LAYOUT 9

#define FL_MAX_FLOATING_IPS 131072
#define FL_MAX_VMS 262144
#define FL_MAX_SENDERS 65536
#define FL_MAX_DESTS 262144
#define FL_MAX_FDB 131072
#define FL_MAX_PORTS 16384
#define FL_MAX_TUNNELS 16384
#define FL_MAX_ROUTES 65536
#define FL_MAX_CROSSINGS 65536
#define FL_MAX_FLOWS 262144

/*
 * Numbers of what is in the namespaces of routers that are followed start here. Indices of devices, which are below it, would
 * repeat from namespace to namespace.
 */
#define FL_FIRST_NUMBER 0x80000000

/* Where a program sits. One counter row exists per hook and reason. */
enum fl_hook {
	FL_HOOK_XDP_UNDERLAY, /* XDP on the underlay device */
	FL_HOOK_TC_UNDERLAY, /* tcx/clsact ingress of the underlay device */
	FL_HOOK_TC_TUNNEL, /* tcx/clsact ingress of the kernel's tunnel device, after its decapsulation */
	FL_HOOK_TC_PORT, /* tcx/clsact ingress of a VM port */
	FL_HOOK_TC_HOST, /* tcx/clsact egress of a segment's bridge: the host's own stack */
	FL_HOOK_TC_ROUTER, /* tcx/clsact ingress of a port of a router that is followed, and of veths between such routers */
	FL_HOOK_COUNT,
};

/*
 * How a verdict counts in the fast-path share:
 *  FAST  the packet was finished here in BPF
 *  PASS  not ours to finish at this hook (underlay traffic, or a later program of ours takes it): not counted
 *  FLOOD broadcast and multicast, which Linux replicates by design: not counted
 *  SLOW  a unicast packet of the overlay that Linux must carry
 *  DROP  discarded by us
 */
enum fl_class {
	FL_CLASS_FAST,
	FL_CLASS_PASS,
	FL_CLASS_FLOOD,
	FL_CLASS_SLOW,
	FL_CLASS_DROP,
};

/*
 * Every verdict that a program can give: X(identifier, class, what it means for an operator).
 * The enum and the tables of names are made from this one list.
 */
#define FL_REASONS(X) \
	X(FIP_IN, FAST, "floating IP translated to its fixed IP and delivered") \
	X(FIP_OUT, FAST, "fixed IP translated to its floating IP and sent") \
	X(FIP_HAIRPIN, FAST, "from one floating IP's owner to another on this node") \
	X(ROUTED, FAST, "routed without translation") \
	X(L2_FORWARD, FAST, "forwarded inside its segment") \
	X(L2_TO_HOST, FAST, "forwarded inside its segment to this host's own stack") \
	X(ARP_REPLY, FAST, "ARP request answered") \
	X(XDP_DONE, PASS, "delivered to its port for XDP, which finished and counted it") \
	X(NOT_OVERLAY, PASS, "underlay traffic that is no tunnel packet") \
	X(TO_TUNNEL_DEV, PASS, "TCP or GSO: the kernel's tunnel device decapsulates, the next program goes on") \
	X(TO_VLAN_DEV, PASS, "tagged: the kernel's VLAN device takes it, the next program goes on") \
	X(TO_TC, PASS, "finished by the tc program of the same device") \
	X(CROSSED, PASS, "on its way between routers' namespaces, finished and counted where it came in") \
	X(BETWEEN_ROUTERS, PASS, "Linux's, between routers' namespaces: counted where it came in") \
	X(FLOOD, FLOOD, "broadcast, multicast or a frame that must be flooded") \
	X(ARP_OTHER, FLOOD, "ARP that Linux answers or forwards") \
	X(NO_SOURCE, SLOW, "device is not in fl_sources") \
	X(UNKNOWN_PEER, SLOW, "tunnel packet whose VNI or key and outer source are no known peer's") \
	X(TUNNEL_HEADER, SLOW, "outer or tunnel header that only Linux judges") \
	X(OUTER_CHECKSUM, SLOW, "outer UDP checksum present: Linux verifies it") \
	X(OUTER_CE, SLOW, "outer header carries congestion experienced: Linux transfers it") \
	X(SHORT_FRAME, SLOW, "frame ends inside a header") \
	X(VLAN_TAG, SLOW, "802.1Q tag inside the segment") \
	X(NOT_OWN_ADDRESS, SLOW, "port sends from a MAC or IP that is not its own: Linux filters it") \
	X(LEARN, SLOW, "source MAC is new on this port: the bridge learns it") \
	X(UNKNOWN_MAC, SLOW, "destination MAC is not in fl_fdb") \
	X(SAME_PORT, SLOW, "would leave by the port that it came from, or both ports are isolated") \
	X(TO_ROUTER, SLOW, \
	  "addressed to a router: destination not in fl_fip_in, sender neither in fl_vms nor in fl_senders") \
	X(NO_DEST, SLOW, "no proven next hop for this destination in fl_dests or fl_routes") \
	X(NOT_IPV4, SLOW, "routed packet that is not IPv4") \
	X(IP_OPTIONS, SLOW, "IPv4 options") \
	X(BAD_IP_HEADER, SLOW, "IPv4 header malformed, wrong checksum, or length does not match the frame") \
	X(FRAGMENT, SLOW, "fragment that is routed: conntrack puts the datagram together first") \
	X(TTL, SLOW, "TTL would expire on the way: Linux answers") \
	X(MTU, SLOW, "larger than the MTU on the way: Linux fragments or answers") \
	X(MSS, SLOW, "TCP SYN with a larger MSS than a rule on the way allows: Linux lowers it") \
	X(ICMP_INNER, SLOW, "ICMP error whose quoted packet does not match its translation") \
	X(LINUX_FLOW, SLOW, "flow that Linux has begun, perhaps with another port: it stays there until it ends") \
	X(LEASE, SLOW, "no agent has vouched for the tables lately") \
	X(L4_SHORT, SLOW, "transport header incomplete, or of a protocol whose checksum only Linux updates") \
	X(HOST_SOURCE, SLOW, "source MAC or IP is multicast, loopback, reserved or zero") \
	X(PULL_FAILED, SLOW, "headers could not be made linear") \
	X(ENCAP_REFUSED, SLOW, "the kernel makes no room for an outer header here: Linux encapsulates") \
	X(DECAP_REFUSED, SLOW, "the kernel does not remove the outer header here: Linux decapsulates") \
	X(DROP_REWRITE, DROP, "rewriting failed half-way")

/* clang-format off */
enum fl_reason {
#define FL_X(id, class, text) FL_REASON_##id,
	FL_REASONS(FL_X)
#undef FL_X
	FL_REASON_COUNT,
};
/* clang-format on */

/* How a tunnel wraps Ethernet frames. The outer packet is IPv4 unless it says otherwise. */
enum fl_tunnel_type {
	FL_TUNNEL_NONE,
	FL_TUNNEL_VXLAN, /* RFC 7348: UDP and a VNI */
	FL_TUNNEL_GENEVE, /* RFC 8926, without options: UDP and a VNI */
	FL_TUNNEL_GRE, /* RFC 2784 and 2890: GRE with a key and neither checksum nor sequence number */
	FL_TUNNEL_VXLAN6, /* VXLAN over IPv6, without UDP checksums (RFC 6935) */
};

/* TTL, or hop limit, of tunnel packets; the devices that fiplane makes have it, too. */
#define FL_TUNNEL_TTL 64

/* UDP source ports of tunnel packets, from the first to before the last: Linux's default ip_local_port_range, which its
 * vxlan devices use. */
#define FL_SOURCE_PORT_FIRST 32768
#define FL_SOURCE_PORT_END 60999

/* fl_config: one entry, key 0. Written by the agent, read by every program. */
struct fl_config {
	__u32 layout; /* FL_ABI_LAYOUT of the writer */
	__u8 vtep[16]; /* this node's own tunnel address; all 0: no tunnels, the underlay programs pass everything */
	__u16 vxlan_port; /* UDP destination port of VXLAN tunnels, 0 if there are none */
	__u16 geneve_port; /* the same of Geneve */
	__u8 gre; /* 1 if there are GRE tunnels */
	__u8 pad[3];
	/* Seconds of CLOCK_MONOTONIC. Routers that are followed change by another's hand, so tables hold only for as long as
	 * somebody watches: from then on tc_router leaves everything to Linux, flows included. */
	__u32 lease_end;
};

/* What is attached at a device that has a program. */
enum fl_role {
	FL_ROLE_NONE,
	FL_ROLE_PORT, /* a VM port: tap or veth enslaved to a segment's bridge */
	FL_ROLE_TUNNEL, /* the kernel's tunnel device of a segment */
	FL_ROLE_HOST, /* a segment's bridge: what the host sends and receives itself */
	FL_ROLE_TRUNK, /* a device with VLAN devices on it that are VM ports: only rows with a VLAN are for its frames */
	FL_ROLE_ROUTER, /* a port of a router that somebody else built, in a namespace of its own */
};

/* fl_sources: which segment a frame on this device belongs to. Absent: everything goes to Linux. */
struct fl_source_key {
	__u32 ifindex; /* FL_ROLE_ROUTER: the number of the port, FL_FIRST_NUMBER and above */
	__u16 vlan; /* of its 802.1Q tag; 0: untagged */
	__u8 pad[2];
};

/* A frame must come from .mac, IPv4 and ARP from .ip; others are left to Linux, which filters. */
#define FL_SRC_CHECK 1
/* An isolated port of the bridge: frames from it do not leave by another isolated port (FL_OUT_ISOLATED). */
#define FL_SRC_ISOLATED 2
/* Tunnel devices: fl_vms has rows for what comes by this one, so a router here serves VMs elsewhere. */
#define FL_SRC_ROUTED 4
/* Linux learns from what comes by this port: a frame whose source MAC fl_fdb does not have on it is left to Linux. */
#define FL_SRC_LEARNS 8

struct fl_source {
	enum fl_role role;
	__u32 segment; /* ifindex of the segment's bridge */
	__u8 mac[6];
	__u8 pad[2];
	__u8 ip[4];
	__u32 flags; /* FL_SRC_* */
	__u32 port; /* by which the frame enters the bridge: the device itself, or its VLAN device */
	__u32 router; /* FL_ROLE_ROUTER: number of the namespace, which translates what comes from inside */
};

/* fl_tunnels: accepted tunnel packets. Key: type, VNI or key, and the outer source address of a known peer. */
struct fl_tunnel_key {
	enum fl_tunnel_type type;
	__u32 id; /* VNI or GRE key */
	__u8 peer[16];
};

struct fl_tunnel {
	__u32 segment;
	__u32 ifindex; /* the kernel's tunnel device that would have received it: the frame's port of the bridge */
	__u8 mac[6]; /* of the underlay device that leads to the peer; a frame for another MAC is not this node's */
	__u8 outer_len; /* of the outer headers, bytes: offset of the inner frame */
	__u8 type; /* enum fl_tunnel_type, as in the key; so is .peer */
	__u32 flags; /* FL_SRC_ISOLATED, FL_SRC_ROUTED, FL_SRC_LEARNS */
	__u8 peer[16];
};

enum fl_out_kind {
	FL_OUT_NONE,
	FL_OUT_PORT, /* send out of device .ifindex (a VM port) */
	FL_OUT_HOST, /* deliver to the host's stack as received on .ifindex (a segment's bridge) */
	FL_OUT_TUNNEL, /* encapsulate towards .remote and send out of .ifindex (the underlay device) */
	FL_OUT_ROUTER, /* fl_fdb only: a router's MAC; the frame is routed, not forwarded */
};

#define FL_OUT_PEER 1 /* port: a veth into another namespace that bpf_redirect_peer may cross */
#define FL_OUT_XDP 2 /* port: XDP may redirect to it directly (tap) */
#define FL_OUT_ISOLATED 4 /* .port is an isolated port of the bridge */
#define FL_OUT_CROSS 8 /* .ifindex is a veth into another router's namespace: fl_crossings leads on to .port */

/* Where a frame goes at the end of its journey. Embedded in the entries that use it. */
struct fl_out {
	enum fl_out_kind kind;
	__u32 ifindex;
	__u32 port; /* by which the frame leaves the bridge: .ifindex, or the kernel's tunnel device */
	__u32 flags; /* FL_OUT_* */
	__u32 mtu; /* largest L3 packet, bytes, that Linux would send out here without complaint */
	enum fl_tunnel_type tunnel; /* tunnel only, like all that follows */
	__u32 tunnel_id; /* VNI or GRE key */
	__u8 remote[16]; /* peer's tunnel address; packets come from fl_config.vtep */
	__u8 outer_dmac[6]; /* next hop on the underlay */
	__u8 outer_smac[6];
	__u16 vlan; /* port: 802.1Q tag that the frame gets, 0: none. .ifindex is then what the VLAN device is on */
	__u8 pad[2];
};

/* fl_fdb: known unicast MACs of a segment. Absent: Linux decides (floods, learns). */
struct fl_fdb_key {
	__u32 segment;
	__u8 mac[6];
	__u8 pad[2];
};

/* The bridge's table, or a vxlan device's, ages this entry: the agent keeps it alive there while .last_use moves. */
#define FL_FDB_LEARNED 1

struct fl_fdb {
	/* .kind FL_OUT_NONE: frames for this MAC are left to Linux, but those from it are known to come by .port. */
	struct fl_out out;
	__u32 flags; /* FL_FDB_LEARNED */
	/* Seconds of CLOCK_MONOTONIC at the last frame that came from this MAC by a port with FL_SRC_LEARNS; written by the
	 * programs only. What is sent to a MAC keeps no bridge entry alive, so it does not count. */
	__u32 last_use;
};

/* fl_arp: addresses of a segment for which this node's Linux would answer an ARP request, and with which MAC. */
struct fl_arp_key {
	__u32 segment;
	__u8 ip[4];
};

#define FL_ARP_NO_TUNNEL 1 /* the segment's tunnel device swallows answers (vxlan proxy, arp_reduce) */

struct fl_arp {
	__u8 mac[6];
	__u8 flags; /* FL_ARP_NO_TUNNEL */
	__u8 pad;
};

#define FL_NEXT_SNAT 1 /* the source is translated on this journey (fl_vm.fip) */
#define FL_NEXT_HAIRPIN 2 /* turns round on this node: counted as FIP_HAIRPIN */
#define FL_NEXT_LOCAL 4 /* no journey: an address of the router itself, which is this host. Forwarded by its MAC */
#define FL_NEXT_ONE_ENTRY 8 /* with HAIRPIN: one namespace translates both addresses, by one entry of its conntrack */
#define FL_NEXT_EXCEPT 16 /* fl_fip_in: but from sources in fl_senders, which are left to Linux */

/* A routed journey, flattened: rewrite so, TTL minus .hops, send there. */
struct fl_next {
	__u8 dmac[6]; /* inner Ethernet addresses after the last router */
	__u8 smac[6];
	__u8 dnat[4]; /* destination after translation; 0.0.0.0: stays as it is */
	__u16 hops; /* routers on the slow path; packets with TTL <= hops go to Linux */
	__u16 mss; /* largest that a TCP SYN may offer, bytes; 0: no rule lowers it */
	__u32 mtu; /* smallest MTU on the slow path, bytes of L3 packet */
	__u32 flags; /* FL_NEXT_* */
	__u32 last_use; /* seconds of CLOCK_MONOTONIC at the last packet; written by the programs only */
	__u32 router; /* of those that are followed: number of the namespace that translates the destination; 0: none does */
	struct fl_out out;
};

/* fl_fip_in: packets for a floating IP that enter on its external segment. */
struct fl_fip_key {
	__u32 segment;
	__u8 fip[4];
};

struct fl_fip_in {
	__u8 router_mac[6]; /* the frame must be addressed to this MAC (fg- or qg-) */
	__u8 pad[2];
	struct fl_next next;
	__s32 netnsid; /* of next.router, in which conntrack is asked, as the namespace sees it in which the packet comes in; -1: the same */
};

/*
 * fl_vms: VMs whose packets a router of this node takes. The frame says which router it is meant for; one subnet may
 * have several.
 */
struct fl_vm_key {
	__u32 port; /* by which they enter the segment's bridge: VM port, or the tunnel device that the VM is behind */
	__u8 fixed[4];
	__u8 router_mac[6]; /* that the frame is addressed to (qr-) */
	__u8 pad[2];
};

struct fl_vm {
	__u8 mac[6]; /* the frame must come from this MAC; FL_ROLE_ROUTER: any, as for Linux */
	__u8 pad[2];
	__u8 fip[4]; /* source after translation; 0.0.0.0: the host has no floating IP, and nothing in its domain translates */
	__u32 domain; /* which rows of fl_dests and fl_routes apply; 0: none, the row only says which floating IP it is */
};

/*
 * fl_senders (LPM trie): who else sends to a router of this node: hosts behind another router, from which nothing is
 * translated. Asked after fl_vms, for frames to a MAC that fl_fdb calls a router's.
 */
#define FL_SENDER_KEY_BITS 96 /* in front of .ip */

struct fl_sender_key {
	__u32 prefixlen; /* FL_SENDER_KEY_BITS plus the prefix's own length */
	__u32 segment;
	__u8 router_mac[6]; /* that the frame is addressed to */
	__u8 pad[2];
	__u8 ip[4]; /* source */
};

struct fl_sender {
	__u32 domain; /* which rows of fl_dests and fl_routes apply; 0: left to Linux, of routers that are followed always */
};

/* fl_dests: where a router domain's packets for one address go. Value: struct fl_next. */
struct fl_dest_key {
	__u32 domain;
	__u8 ip[4];
};

/* fl_routes (LPM trie): the same for prefixes, asked after fl_dests. out.kind FL_OUT_NONE: left to Linux. */
struct fl_route_key {
	__u32 prefixlen; /* 32 for the domain plus the prefix's own length */
	__u32 domain;
	__u8 ip[4];
};

/*
 * fl_crossings: a packet that is finished crosses veths between routers' namespaces. Its mark is the number of the device
 * by which it leaves the last one, FL_FIRST_NUMBER and above; Linux's own packets have none there (skb_scrub_packet).
 */
struct fl_crossing_key {
	__u32 device; /* number of the veth that it comes out of */
	__u32 target; /* the mark */
};

struct fl_crossing {
	__u32 ifindex; /* where to: the target itself, or the next veth */
	__u32 flags; /* FL_OUT_CROSS: the next veth */
};

/*
 * fl_translated: the floating IPs of a router that is followed, whether its packets are carried or not. A flow that goes
 * over to Linux takes along no translation that Linux has given up.
 */
struct fl_translated_key {
	__u32 router; /* fl_source.router */
	__u8 fip[4];
};

struct fl_translated {
	__u8 fixed[4];
};

/*
 * fl_flows (LRU): flows of routers that are followed, whose rules let Linux choose ports. Linux carries a flow from its
 * first packet to its last, or the programs do: what is in here is theirs, what is neither here nor in conntrack becomes
 * theirs. The address and port inside are those of the router's own side, which has a floating IP outside.
 */
struct fl_flow_key {
	__u32 router; /* fl_source.router */
	__u8 protocol;
	__u8 pad[3];
	__u8 inside[4];
	__u8 outside[4];
	__u16 inside_port; /* ICMP: the echo's id in both */
	__u16 outside_port;
};

#define FL_FLOW_FROM_INSIDE 1 /* its first packet was */
#define FL_FLOW_CLOSING 2 /* TCP: a FIN or RST was seen */
#define FL_FLOW_UNANSWERED 4 /* packets of one direction alone were seen */

/* What conntrack has to be told if Linux is to go on with it. Ports stay as they are. */
struct fl_flow {
	__u8 fip[4]; /* what the inside's address becomes */
	__u8 dnat[4]; /* what the outside's address becomes, by the same namespace; 0.0.0.0: it stays */
	__u32 flags; /* FL_FLOW_* */
	__u32 last_use; /* seconds of CLOCK_MONOTONIC */
};

/* fl_fip_stats (per CPU): payload of one floating IP that BPF carried. Key: the address. */
struct fl_fip_stat_key {
	__u8 fip[4];
};

struct fl_fip_stat {
	__u64 in_packets;
	__u64 in_bytes;
	__u64 out_packets;
	__u64 out_bytes;
};

/* fl_counters (per CPU array): index hook * FL_REASON_COUNT + reason; .hook and .reason are set by the agent for readers. */
struct fl_counter {
	enum fl_hook hook;
	enum fl_reason reason;
	__u64 packets;
	__u64 bytes;
};

/* Metadata in front of a frame that XDP finished and passes up for the tc program of the same device to deliver. */
#define FL_META_MAGIC 0x464c4d32 /* "FLM2" */

struct fl_meta {
	__u32 magic;
	enum fl_out_kind kind; /* FL_OUT_PORT or FL_OUT_HOST */
	__u32 ifindex;
	__u32 flags; /* FL_OUT_PEER */
	__u32 vlan; /* as in fl_out */
};

FL_STATIC_ASSERT(sizeof(struct fl_config) == 32, "fl_config");
FL_STATIC_ASSERT(sizeof(struct fl_source_key) == 8, "fl_source_key");
FL_STATIC_ASSERT(sizeof(struct fl_source) == 32, "fl_source");
FL_STATIC_ASSERT(sizeof(struct fl_tunnel_key) == 24, "fl_tunnel_key");
FL_STATIC_ASSERT(sizeof(struct fl_tunnel) == 36, "fl_tunnel");
FL_STATIC_ASSERT(sizeof(struct fl_out) == 60, "fl_out");
FL_STATIC_ASSERT(sizeof(struct fl_fdb_key) == 12, "fl_fdb_key");
FL_STATIC_ASSERT(sizeof(struct fl_fdb) == 68, "fl_fdb");
FL_STATIC_ASSERT(sizeof(struct fl_arp_key) == 8, "fl_arp_key");
FL_STATIC_ASSERT(sizeof(struct fl_arp) == 8, "fl_arp");
FL_STATIC_ASSERT(sizeof(struct fl_next) == 96, "fl_next");
FL_STATIC_ASSERT(sizeof(struct fl_fip_key) == 8, "fl_fip_key");
FL_STATIC_ASSERT(sizeof(struct fl_fip_in) == 108, "fl_fip_in");
FL_STATIC_ASSERT(sizeof(struct fl_vm_key) == 16, "fl_vm_key");
FL_STATIC_ASSERT(sizeof(struct fl_vm) == 16, "fl_vm");
FL_STATIC_ASSERT(sizeof(struct fl_sender_key) == 20, "fl_sender_key");
FL_STATIC_ASSERT(sizeof(struct fl_sender) == 4, "fl_sender");
FL_STATIC_ASSERT(sizeof(struct fl_dest_key) == 8, "fl_dest_key");
FL_STATIC_ASSERT(sizeof(struct fl_route_key) == 12, "fl_route_key");
FL_STATIC_ASSERT(sizeof(struct fl_crossing_key) == 8, "fl_crossing_key");
FL_STATIC_ASSERT(sizeof(struct fl_crossing) == 8, "fl_crossing");
FL_STATIC_ASSERT(sizeof(struct fl_translated_key) == 8, "fl_translated_key");
FL_STATIC_ASSERT(sizeof(struct fl_translated) == 4, "fl_translated");
FL_STATIC_ASSERT(sizeof(struct fl_flow_key) == 20, "fl_flow_key");
FL_STATIC_ASSERT(sizeof(struct fl_flow) == 16, "fl_flow");
FL_STATIC_ASSERT(sizeof(struct fl_fip_stat_key) == 4, "fl_fip_stat_key");
FL_STATIC_ASSERT(sizeof(struct fl_fip_stat) == 32, "fl_fip_stat");
FL_STATIC_ASSERT(sizeof(struct fl_counter) == 24, "fl_counter");
FL_STATIC_ASSERT(sizeof(struct fl_meta) == 20, "fl_meta");

#endif
