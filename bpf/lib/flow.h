/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a flow is, where a router's rules let Linux choose ports (--random-fully, as all of Neutron's source NAT has).
 * What Linux has begun may have another port outside than inside, and what the programs have begun has the same: so no
 * flow may change hands but with its translation.
 *
 *  - A packet of a flow in fl_flows is carried.
 *  - Any other is carried, and its flow remembered, if conntrack of its router has no entry for it: it is the first
 *    packet, or one that Linux would take for the first. And if answers would be carried, too, for Linux makes nothing of
 *    an answer without a question. Else it is Linux's. A SYN or an echo begins a flow again, whatever is known of it.
 *  - What must go to Linux in mid-life (a fragment, an expiring TTL, a way that is gone) takes the flow along: the packet
 *    leaves conntrack the entry that its flow has. One from outside needs it, too, though what comes in is translated by
 *    address alone: Neutron's snat- namespaces take no packet in mid-life for a beginning (nf_conntrack_tcp_loose=0).
 *
 * An echo (ICMP) needs none of it at all: whoever carried the request, its answer comes back with the id with which the
 * request went out, and so finds who knows it. Protocols without ports have nothing that could be chosen. Those with ports
 * about which conntrack cannot be asked from here are Linux's (SCTP, DCCP, UDP-Lite), as are other queries of ICMP.
 */
#ifndef FL_FLOW_H
#define FL_FLOW_H

#include "lib/base.h"
#include "lib/conntrack.h"
#include "lib/ctx.h"
#include "lib/maps.h"
#include "lib/nat.h"
#include "lib/parse.h"
#include "lib/route.h"
#include "lib/stats.h"
#include "lib/verdict.h"
#include "lib/wire.h"

/* The first bytes behind an IPv4 header. */
union fl_l4 {
	__be16 ports[4]; /* TCP, UDP: source, destination. ICMP echo: the third is the id */
	struct fl_icmp icmp;
};

#define FL_TCP_CLOSING (FL_TCP_FIN | FL_TCP_RST)

/* What tells a packet's flow, and what is known of it. */
struct fl_flow_id {
	struct fl_flow_key key;
	__be32 fip; /* what the inside becomes outside; 0: it has no floating IP (any more) */
	__be32 dnat; /* what the packet's destination becomes, ... */
	__u32 dnat_router; /* ... and by whom: from inside it is a floating IP of this node then */
	__u32 out_port; /* by which it leaves the last router */
	struct fl_mac out_mac; /* of that port */
	__s32 netnsid; /* of the router, as the namespace knows it in which the packet is; -1: the same */
	bool from_inside;
	bool one_entry; /* FL_NEXT_ONE_ENTRY */
	bool may_begin; /* false: by its kind an answer to something, or the end of it */
	bool begins; /* what is known of its flow is of an earlier one, or of an earlier echo */
	bool has_ports; /* TCP and UDP: conntrack can be asked */
	bool is_new; /* became the programs' with this packet */
	__u16 l4_len; /* behind the IP header, bytes */
	__u16 claimed_len; /* what the transport header says of it: all of it (UDP), or that header (TCP) */
	__u8 tcp_flags; /* 0 of others; behind IP options, which hardly anybody sends, taken for an ACK's */
	struct fl_tuple tuple; /* the packet's, if it has ports */
};

/* False: the packet ends before. */
fl_inline bool fl_read_l4(struct fl_ctx *ctx, const struct iphdr *ip, union fl_l4 *l4)
{
	const union fl_l4 *at = ctx_at(ctx, FL_INNER_LEN, sizeof(*at));
	const __u8 version_ihl = *(const __u8 *)ip;

	if (likely(at && version_ihl == 0x45)) {
		*l4 = *at;
		return true;
	}
	return bpf_skb_load_bytes(ctx, FL_ETH_LEN + (version_ihl & 0xf) * 4, l4, sizeof(*l4)) == 0;
}

fl_inline void fl_flow_sides(struct fl_flow_id *id, __be32 inside, __be32 outside, __be16 inside_port,
			     __be16 outside_port)
{
	fl_set_ip(id->key.inside, inside);
	fl_set_ip(id->key.outside, outside);
	id->key.inside_port = bpf_ntohs(inside_port);
	id->key.outside_port = bpf_ntohs(outside_port);
}

/*
 * The flow that an ICMP error is about: that of the packet that it quotes, which went the other way. @fixed: the inside of
 * what comes from outside.
 */
fl_inline bool fl_identify_quoted(struct fl_ctx *ctx, __be32 fixed, struct fl_flow_id *id)
{
	const struct iphdr *quoted = ctx_at(ctx, FL_INNER_LEN + sizeof(struct fl_icmp), FL_IP_LEN + 8);
	const __be16 *ports = (const void *)(quoted + 1);

	if (!quoted || *(const __u8 *)quoted != 0x45)
		return false;
	id->may_begin = false;
	id->key.protocol = quoted->protocol;
	if (quoted->protocol == IPPROTO_ICMP)
		fl_flow_sides(id, id->from_inside ? quoted->daddr : fixed,
			      id->from_inside ? quoted->saddr : quoted->daddr, ports[2], ports[2]);
	else if (id->from_inside)
		fl_flow_sides(id, quoted->daddr, quoted->saddr, ports[1], ports[0]);
	else
		fl_flow_sides(id, fixed, quoted->daddr, ports[0], ports[1]);
	return quoted->protocol == IPPROTO_ICMP || quoted->protocol == IPPROTO_TCP || quoted->protocol == IPPROTO_UDP;
}

fl_inline bool fl_identify_echo(const struct iphdr *ip, const union fl_l4 *l4, __be32 fixed, struct fl_flow_id *id)
{
	id->may_begin = id->begins = l4->icmp.type == FL_ICMP_ECHO;
	fl_flow_sides(id, id->from_inside ? ip->saddr : fixed, id->from_inside ? ip->daddr : ip->saddr, l4->ports[2],
		      l4->ports[2]);
	return id->may_begin || l4->icmp.type == FL_ICMP_ECHO_REPLY;
}

/*
 * Does conntrack take a packet for the beginning of a connection, or for a part of one whose beginning it has missed
 * (tcp_conntracks of sNO in nf_conntrack_proto_tcp.c)? A FIN, a RST or a SYN-ACK is invalid to it and leaves untranslated;
 * an entry that it finds then lets no answer through either, where without one the next packet of the other side would be
 * taken for a beginning.
 */
fl_inline bool fl_ct_understands(__u8 protocol, __u8 tcp_flags)
{
	const __u8 kind = tcp_flags & (FL_TCP_SYN | FL_TCP_ACK | FL_TCP_FIN | FL_TCP_RST);

	return protocol != IPPROTO_TCP || kind == FL_TCP_SYN || kind == FL_TCP_ACK;
}

fl_inline void fl_identify_ports(struct fl_ctx *ctx, const struct iphdr *ip, const union fl_l4 *l4, __be32 fixed,
				 struct fl_flow_id *id)
{
	const __u8 *tcp = ctx_at(ctx, FL_INNER_LEN, FL_TCP_LEN);

	id->has_ports = true;
	id->l4_len = bpf_ntohs(ip->tot_len) - FL_IP_LEN;
	if (ip->protocol == IPPROTO_UDP) {
		id->claimed_len = bpf_ntohs(l4->ports[2]);
	} else if (tcp && *(const __u8 *)ip == 0x45) {
		id->claimed_len = (tcp[12] >> 4) * 4;
		id->tcp_flags = tcp[FL_TCP_FLAGS];
	} else {
		id->claimed_len = FL_TCP_LEN;
		id->tcp_flags = FL_TCP_ACK;
	}
	id->may_begin = fl_ct_understands(ip->protocol, id->tcp_flags);
	id->begins = id->may_begin && id->tcp_flags & FL_TCP_SYN;
	id->tuple.saddr = ip->saddr;
	id->tuple.daddr = ip->daddr;
	id->tuple.sport = l4->ports[0];
	id->tuple.dport = l4->ports[1];
	if (id->from_inside)
		fl_flow_sides(id, ip->saddr, ip->daddr, l4->ports[0], l4->ports[1]);
	else
		fl_flow_sides(id, fixed, ip->saddr, l4->ports[1], l4->ports[0]);
}

/*
 * @fixed: what the destination becomes, of a packet from outside. False: the packet's flow is not told apart from others,
 * for its protocol has no ports, its header is not whole, or it is a fragment behind the first.
 */
fl_inline bool fl_identify_flow(struct fl_ctx *ctx, const struct iphdr *ip, __be32 fixed, struct fl_flow_id *id)
{
	union fl_l4 l4;

	if (ip->frag_off & bpf_htons(FL_IP_FRAGMENT_OFFSET) || !fl_read_l4(ctx, ip, &l4))
		return false;
	id->key.protocol = ip->protocol;
	if (ip->protocol == IPPROTO_ICMP)
		return fl_is_icmp_error(l4.icmp.type) ? fl_identify_quoted(ctx, fixed, id) :
							fl_identify_echo(ip, &l4, fixed, id);
	if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		return false;
	fl_identify_ports(ctx, ip, &l4, fixed, id);
	return true;
}

/*
 * Does conntrack, as far as it can be asked, not know the flow? The answers are asked for, too. Of what goes out: Linux may
 * have chosen, for another flow, the port that this one has. Of what comes in: the inside may have a flow with these
 * addresses and ports, to which Linux has given another port outside, and which would find a row.
 */
fl_inline bool fl_ct_lacks_flow(struct __sk_buff *ctx, const struct fl_flow_id *id)
{
	struct fl_tuple tuple = id->tuple;

	if (!id->has_ports)
		return true;
	if (!fl_ct_lacks(ctx, &tuple, id->key.protocol, id->netnsid))
		return false;
	if (id->from_inside) {
		tuple.saddr = id->one_entry ? id->dnat : id->tuple.daddr;
		tuple.daddr = id->fip;
	} else {
		tuple.saddr = fl_ip(id->key.inside);
		tuple.daddr = id->tuple.saddr;
	}
	tuple.sport = id->tuple.dport;
	tuple.dport = id->tuple.sport;
	return fl_ct_lacks(ctx, &tuple, id->key.protocol, id->netnsid);
}

fl_inline bool fl_remember_flow(const struct fl_flow_key *key, __be32 fip, __be32 dnat, __u32 flags)
{
	struct fl_flow flow = {.flags = flags, .last_use = fl_now()};

	fl_set_ip(flow.fip, fip);
	fl_set_ip(flow.dnat, dnat);
	return bpf_map_update_elem(&fl_flows, key, &flow, BPF_ANY) == 0;
}

/* Is a source one of those whose packets for a floating IP Linux has to look at? */
fl_inline bool fl_is_excepted(const struct fl_next *next, __u32 segment, const struct fl_mac *router_mac, __be32 source)
{
	struct fl_sender_key key = {.prefixlen = FL_SENDER_KEY_BITS + 32, .segment = segment};

	if (!(next->flags & FL_NEXT_EXCEPT))
		return false;
	*(struct fl_mac *)key.router_mac = *router_mac;
	fl_set_ip(key.ip, source);
	return bpf_map_lookup_elem(&fl_senders, &key) != NULL;
}

/* Of a packet without a flow that is told: may Linux have chosen a port or an id for it? @protocol: its own, or of what it
 * quotes. */
fl_inline bool fl_has_hidden_flow(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP ||
	       protocol == IPPROTO_UDPLITE;
}

/* Are there rows for answers, where they will come in? */
fl_inline bool fl_has_way_back(const struct fl_flow_id *id)
{
	const __be32 inside = fl_ip(id->key.inside);
	const __be32 outside = fl_ip(id->key.outside);

	if (id->from_inside && !id->dnat) {
		struct fl_fip_key key = {.segment = id->out_port};
		const struct fl_fip_in *fip_in;

		fl_set_ip(key.fip, id->fip);
		fip_in = bpf_map_lookup_elem(&fl_fip_in, &key);
		return fip_in && fl_ip(fip_in->next.dnat) == inside &&
		       !fl_is_excepted(&fip_in->next, id->out_port, &id->out_mac, outside);
	}
	struct fl_vm_key key = {.port = id->out_port};
	const struct fl_next *back;
	const struct fl_vm *vm;

	fl_set_ip(key.fixed, id->dnat);
	*(struct fl_mac *)key.router_mac = id->out_mac;
	vm = bpf_map_lookup_elem(&fl_vms, &key);
	if (!vm || fl_ip(vm->fip) != (id->from_inside ? outside : id->fip))
		return false;
	back = fl_find_next(vm->domain, id->from_inside ? id->fip : outside);
	return back && back->out.kind == FL_OUT_PORT && back->flags & FL_NEXT_SNAT &&
	       (!id->from_inside || fl_ip(back->dnat) == inside);
}

/*
 * A flow to a floating IP of this node is another one to the router that has that: the answers come to it from inside.
 * What answers an echo tells nothing by which it could be taken for a first packet.
 */
fl_inline void fl_remember_answers(const struct fl_flow_id *id)
{
	struct fl_flow_key key = {.router = id->dnat_router, .protocol = id->key.protocol};

	fl_set_ip(key.inside, id->dnat);
	fl_set_ip(key.outside, id->fip);
	key.inside_port = id->key.outside_port;
	key.outside_port = id->key.inside_port;
	fl_remember_flow(&key, fl_ip(id->key.outside), id->one_entry ? fl_ip(id->key.inside) : 0, 0);
}

/*
 * Does conntrack call the packet invalid whatever it knows (udp_error, tcp_error in nf_conntrack_proto_*.c)? Wrong checksums
 * are left to who gets them.
 */
fl_inline bool fl_is_malformed(const struct fl_flow_id *id)
{
	const __u8 kind = id->tcp_flags & (FL_TCP_SYN | FL_TCP_ACK | FL_TCP_FIN | FL_TCP_RST);

	if (!id->has_ports)
		return false;
	if (id->claimed_len > id->l4_len)
		return true;
	if (id->key.protocol == IPPROTO_UDP)
		return id->claimed_len < sizeof(struct udphdr);
	return id->claimed_len < FL_TCP_LEN ||
	       (kind != FL_TCP_SYN && kind != (FL_TCP_SYN | FL_TCP_ACK) && kind != FL_TCP_ACK && kind != FL_TCP_RST &&
		kind != (FL_TCP_RST | FL_TCP_ACK) && kind != (FL_TCP_FIN | FL_TCP_ACK));
}

/* Other CPUs may have packets of the flow, too; what is known already is not written again. */
fl_inline void fl_note_packet(struct fl_flow *flow, bool from_inside, __u32 flags)
{
	const __u32 known = flow->flags;

	if (flags & ~known)
		__sync_fetch_and_or(&flow->flags, flags);
	if (known & FL_FLOW_UNANSWERED && from_inside != (bool)(known & FL_FLOW_FROM_INSIDE))
		__sync_fetch_and_and(&flow->flags, ~FL_FLOW_UNANSWERED);
	fl_stamp(&flow->last_use);
}

enum fl_owner {
	FL_OWNER_LINUX,
	FL_OWNER_PROGRAMS,
	FL_OWNER_NEW, /* the programs, from this packet on */
};

/*
 * Whose is the packet's flow? With its first packet it becomes the programs'. Global, like the next one, so that the
 * verifier sees it alone and once. (Up to 6.2 a key has to be on the stack of who looks it up.)
 */
__noinline int fl_owner_of_flow(struct __sk_buff *ctx, const struct fl_flow_id *id)
{
	struct fl_flow_key key;
	struct fl_flow *flow;
	__u32 flags;
	bool turns;

	if (!id || fl_is_malformed(id))
		return FL_OWNER_LINUX;
	turns = id->from_inside && id->dnat;
	flags = id->tcp_flags & FL_TCP_CLOSING ? FL_FLOW_CLOSING : 0;
	key = id->key;
	flow = bpf_map_lookup_elem(&fl_flows, &key);
	/* One that had another floating IP is none any more. */
	if (flow && fl_ip(flow->fip) == id->fip && !id->begins) {
		fl_note_packet(flow, id->from_inside, flags);
		return FL_OWNER_PROGRAMS;
	}
	if (!id->may_begin || !fl_has_way_back(id) || !fl_ct_lacks_flow(ctx, id)) {
		if (flow && id->begins)
			bpf_map_delete_elem(&fl_flows, &key);
		return FL_OWNER_LINUX;
	}
	/* The answers to what turns round have a row of their own, and are not seen here. */
	if (turns)
		fl_remember_answers(id);
	else
		flags |= FL_FLOW_UNANSWERED;
	flags |= id->from_inside ? FL_FLOW_FROM_INSIDE : 0;
	return fl_remember_flow(&key, id->fip, turns && id->one_entry ? id->dnat : 0, flags) ? FL_OWNER_NEW :
											       FL_OWNER_LINUX;
}

/* Makes an ACK of a packet with a FIN, as if that were lost: it is sent again. Gives the flags that the packet has then. */
fl_inline __u8 fl_put_off_fin(struct __sk_buff *ctx, __u8 tcp_flags)
{
	const __u8 left = tcp_flags & ~FL_TCP_FIN;

	if (!(tcp_flags & FL_TCP_FIN) || !(tcp_flags & FL_TCP_ACK) || tcp_flags & FL_TCP_RST ||
	    bpf_l4_csum_replace(ctx, FL_INNER_LEN + FL_TCP_CHECK, bpf_htons(tcp_flags), bpf_htons(left), 2) ||
	    bpf_skb_store_bytes(ctx, FL_INNER_LEN + FL_TCP_FLAGS, &left, sizeof(left), 0))
		return tcp_flags;
	return left;
}

/* Is the outside, which had become another address by the same namespace, still that floating IP? */
fl_inline bool fl_is_still_translated(const struct fl_flow_id *id, const struct fl_flow *flow)
{
	struct fl_translated_key key = {.router = id->key.router};
	const struct fl_translated *now;

	if (!fl_ip(flow->dnat))
		return true;
	fl_set_ip(key.fip, fl_ip(id->key.outside));
	now = bpf_map_lookup_elem(&fl_translated, &key);
	return now && fl_ip(now->fixed) == fl_ip(flow->dnat) && (!id->dnat || id->dnat == fl_ip(flow->dnat));
}

/* What Linux needs to go on with the flow: nothing, where a floating IP is gone or another one by now, for Linux forgets such
 * flows, too. */
fl_inline void fl_hand_over(struct __sk_buff *ctx, const struct fl_flow_id *id, const struct fl_flow *flow)
{
	const __u8 tcp_flags = fl_put_off_fin(ctx, id->tcp_flags);
	const __be32 snat = id->from_inside ? id->fip : 0;
	const __be32 dnat = id->from_inside ? fl_ip(flow->dnat) : fl_ip(id->key.inside);
	struct fl_tuple tuple = id->tuple;

	if (id->fip && fl_ip(flow->fip) == id->fip && fl_is_still_translated(id, flow) &&
	    fl_ct_understands(id->key.protocol, tcp_flags))
		fl_ct_adopt(ctx, &tuple, id->key.protocol, id->netnsid, snat, dnat);
}

/*
 * The packet goes to Linux, and its flow with it, for as long as it lives. What conntrack must be told is told before Linux
 * sees the packet. With its first packet Linux begins as it likes.
 */
__noinline int fl_give_flow_back(struct __sk_buff *ctx, const struct fl_flow_id *id)
{
	struct fl_flow_key key;
	struct fl_flow *flow;

	/* What no row with a floating IP is about is of no flow, though its addresses and ports may be those of one: that is gone,
	 * or has its packets by another port. */
	if (!id || !id->has_ports || !id->fip)
		return 0;
	key = id->key;
	flow = bpf_map_lookup_elem(&fl_flows, &key);
	if (!flow)
		return 0;
	if (!id->is_new)
		fl_hand_over(ctx, id, flow);
	bpf_map_delete_elem(&fl_flows, &key);
	return 0;
}

#endif
