/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All maps. Names, keys and values are the ABI (fiplane/abi.h); every map is pinned by its name, and an object holds
 * only those that its program uses. Unless a comment says otherwise the agent writes them and the programs read.
 * The big hashes allocate per entry: a node holds a few thousand of the hundred thousand that would fit.
 */
#ifndef FL_MAPS_H
#define FL_MAPS_H

#include "lib/base.h"

/* Key 0 -> the node's settings. All zero: the underlay programs pass everything. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fl_config);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_config SEC(".maps");

/* Device and VLAN -> segment, role, checks. Read by tc_tunnel, tc_port, tc_host. Absent: all frames go to Linux. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_source_key);
	__type(value, struct fl_source);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_sources SEC(".maps");

/* Type, VNI or key, and outer source -> segment. Read by the underlay programs. Absent: no known peer, Linux filters the
 * packet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_TUNNELS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_tunnel_key);
	__type(value, struct fl_tunnel);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_tunnels SEC(".maps");

/* Segment and MAC -> where the bridge would forward. Read by all; all but tc_host also write .last_use. Absent: Linux
 * floods or learns. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_FDB);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_fdb_key);
	__type(value, struct fl_fdb);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_fdb SEC(".maps");

/* Segment and address -> the MAC with which this node's Linux answers ARP. Read by all. Absent: Linux decides. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_FDB);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_arp_key);
	__type(value, struct fl_arp);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_arp SEC(".maps");

/* External segment and floating IP -> the journey to its owner. Read by all, which also write .next.last_use.
 * Absent: the packet is looked up by its MAC. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_FLOATING_IPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_fip_key);
	__type(value, struct fl_fip_in);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_fip_in SEC(".maps");

/* Port, fixed IP and router -> the VM, its floating IP and router domain. Read by all but tc_host.
 * Absent: looked up by its MAC. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_VMS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_vm_key);
	__type(value, struct fl_vm);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_vms SEC(".maps");

/* Segment, router and source -> the router domain of senders that are not in fl_vms. Read by all but tc_host.
 * Absent: Linux routes. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, FL_MAX_SENDERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_sender_key);
	__type(value, struct fl_sender);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_senders SEC(".maps");

/* Router domain and destination -> the journey there. Read by all but tc_host, which also
 * write .last_use. Absent: fl_routes is asked. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_DESTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_dest_key);
	__type(value, struct fl_next);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_dests SEC(".maps");

/* Router domain and prefix -> the journey to its next hop. Read by all but tc_host, which also
 * write .last_use. Absent: Linux routes. The kernel offers tries without preallocation only. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, FL_MAX_ROUTES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_route_key);
	__type(value, struct fl_next);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_routes SEC(".maps");

/* A veth between routers' namespaces and a device number -> the way there. Read by tc_router. Absent: the packet is
 * Linux's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_CROSSINGS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_crossing_key);
	__type(value, struct fl_crossing);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_crossings SEC(".maps");

/* Router and floating IP -> the fixed IP. Read by tc_router. Absent: the router has no such floating IP (any more). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_FLOATING_IPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_translated_key);
	__type(value, struct fl_translated);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_translated SEC(".maps");

/* Router, protocol, addresses and ports -> a flow that the programs carry. Written and read by tc_router alone; who takes
 * its programs off tells conntrack of them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FL_MAX_FLOWS);
	__type(key, struct fl_flow_key);
	__type(value, struct fl_flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_flows SEC(".maps");

/* Floating IP -> packets and bytes, per CPU. The agent makes the rows, the programs add to them. Absent: not counted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, FL_MAX_FLOATING_IPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_fip_stat_key);
	__type(value, struct fl_fip_stat);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_fip_stats SEC(".maps");

/* Hook and reason -> packets and bytes, per CPU. Every verdict of every program adds to one row. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, (FL_HOOK_COUNT * FL_REASON_COUNT));
	__type(key, __u32);
	__type(value, struct fl_counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_counters SEC(".maps");

/* ifindex -> the device, for redirects in XDP. Read by xdp_underlay. Absent: the tc program delivers instead. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, FL_MAX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fl_devs SEC(".maps");

#endif
