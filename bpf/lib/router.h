/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Routers that somebody else built. A packet that comes in by one of their ports is finished there and leaves by another:
 * in the same namespace at once, else across the veths between the namespaces, by which Linux would have taken it.
 */
#ifndef FL_ROUTER_H
#define FL_ROUTER_H

#include "lib/arp.h"
#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/flow.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/route.h"
#include "lib/verdict.h"

/* A packet that an earlier program has finished comes out of a veth. */
fl_inline struct fl_verdict fl_cross(struct fl_ctx *ctx, __u32 device)
{
	const struct fl_crossing_key key = {.device = device, .target = ctx->mark};
	const struct fl_crossing *crossing = bpf_map_lookup_elem(&fl_crossings, &key);
	struct fl_verdict verdict = {.kind = FL_SEND, .reason = FL_REASON_CROSSED};

	/* The way is gone since it set out. It is no packet of Linux's any more. */
	if (!crossing)
		return fl_drop(FL_REASON_DROP_REWRITE);
	if (crossing->flags & FL_OUT_CROSS)
		verdict.kind = FL_SEND_PEER;
	else
		ctx->mark = 0;
	verdict.ifindex = crossing->ifindex;
	return verdict;
}

/* What a router of this node does with the packet, and whose its flow is. */
struct fl_routed {
	struct fl_next *next; /* NULL: Linux's */
	__be32 source; /* what its source becomes where the journey translates it */
	__be32 fixed; /* what its destination becomes, if it comes from outside */
	struct fl_flow_id flow;
};

fl_inline void fl_note_way(const struct fl_next *next, struct fl_flow_id *flow)
{
	flow->out_port = next->out.port;
	flow->out_mac = *fl_mac(next->smac);
	flow->dnat = fl_ip(next->dnat);
	flow->dnat_router = next->router;
	flow->one_entry = next->flags & FL_NEXT_ONE_ENTRY;
}

fl_inline void fl_find_routed(const struct fl_frame *frame, const struct fl_source *source,
			      const struct fl_inner *inner, struct fl_routed *routed)
{
	const struct fl_vm *vm = fl_find_vm(frame, inner);
	struct fl_fip_in *fip_in;

	routed->source = inner->ip.saddr;
	routed->flow.from_inside = true;
	routed->flow.key.router = source->router;
	routed->flow.netnsid = -1;
	if (vm) {
		routed->source = routed->flow.fip = fl_ip(vm->fip);
		routed->next = fl_find_next(vm->domain, inner->ip.daddr);
		if (routed->next)
			fl_note_way(routed->next, &routed->flow);
		return;
	}
	fip_in = fl_find_fip_in(frame, inner);
	if (!fip_in)
		return;
	routed->fixed = fl_ip(fip_in->next.dnat);
	routed->flow.from_inside = false;
	routed->flow.key.router = fip_in->next.router;
	routed->flow.netnsid = fip_in->netnsid;
	routed->flow.fip = inner->ip.daddr;
	if (fl_is_excepted(&fip_in->next, frame->segment, &inner->eth.dmac, inner->ip.saddr))
		return;
	routed->next = &fip_in->next;
	fl_note_way(routed->next, &routed->flow);
}

/* Flows without a translation have nothing that Linux could have chosen. */
fl_inline bool fl_is_translated(const struct fl_next *next)
{
	return next->flags & FL_NEXT_SNAT || fl_ip(next->dnat);
}

fl_inline bool fl_is_vouched_for(void)
{
	const __u32 key = 0;
	const struct fl_config *config = bpf_map_lookup_elem(&fl_config, &key);

	return config && (__s32)(config->lease_end - fl_now()) > 0;
}

/* Whose is the packet, where it is translated? With the first one of a flow that becomes the programs'. */
fl_inline struct fl_verdict fl_check_flow(struct fl_ctx *ctx, struct fl_routed *routed, bool has_flow)
{
	int owner;

	if (!fl_is_translated(routed->next))
		return fl_go_on();
	owner = FL_OWNER_PROGRAMS;
	if (has_flow)
		owner = fl_owner_of_flow(ctx, &routed->flow);
	else if (fl_has_hidden_flow(routed->flow.key.protocol))
		owner = FL_OWNER_LINUX;
	if (owner == FL_OWNER_LINUX)
		return fl_to_linux(FL_REASON_LINUX_FLOW);
	routed->flow.is_new = owner == FL_OWNER_NEW;
	return fl_go_on();
}

fl_inline struct fl_verdict fl_journey(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner,
				       struct fl_routed *routed, bool has_flow)
{
	struct fl_verdict verdict = fl_check_ip(frame, inner);

	if (fl_is_decided(verdict))
		return verdict;
	if (!fl_is_vouched_for())
		return fl_to_linux(FL_REASON_LEASE);
	if (!routed->next)
		return fl_to_linux(FL_REASON_NO_DEST);
	verdict = fl_check_journey(ctx, frame, inner, routed->next);
	if (fl_is_decided(verdict))
		return verdict;
	verdict = fl_check_flow(ctx, routed, has_flow);
	if (fl_is_decided(verdict))
		return verdict;
	return fl_carry(ctx, frame, inner, routed->next, routed->source);
}

/*
 * ip_rcv cuts off what Ethernet has put behind a short packet, and so does this: a SYN-ACK, a RST or an echo's answer may
 * come no other way, and Linux does not know their flows. Where there is more to see to than the length, it is Linux's.
 */
fl_inline void fl_cut_padding(struct fl_ctx *ctx, struct fl_frame *frame, const struct iphdr *ip)
{
	const __u32 len = FL_ETH_LEN + bpf_ntohs(ip->tot_len);

	if (likely(len >= frame->len) || *(const __u8 *)ip != 0x45 || len < FL_INNER_LEN || ctx_gso_size(ctx) ||
	    !csum_ip_is_right(ip))
		return;
	if (ctx_trim(ctx, len))
		frame->len = len;
}

fl_inline struct fl_verdict fl_router_ipv4(struct fl_ctx *ctx, struct fl_frame *frame, const struct fl_source *source,
					   struct fl_inner *inner)
{
	struct fl_routed routed = {};
	struct fl_verdict verdict = fl_parse_ip(ctx, frame, inner);
	bool has_flow;

	if (fl_is_decided(verdict))
		return verdict;
	fl_cut_padding(ctx, frame, &inner->ip);
	fl_find_routed(frame, source, inner, &routed);
	has_flow = fl_identify_flow(ctx, &inner->ip, routed.fixed, &routed.flow);
	verdict = fl_journey(ctx, frame, inner, &routed, has_flow);
	if (verdict.kind == FL_LINUX && verdict.reason != FL_REASON_LINUX_FLOW && has_flow)
		fl_give_flow_back(ctx, &routed.flow);
	return verdict;
}

/* @device: number of the device that the packet comes in by. */
fl_inline struct fl_verdict fl_router(struct fl_ctx *ctx, __u32 device)
{
	struct fl_source_key key = {.ifindex = device};
	const struct fl_source *source;
	struct fl_verdict verdict;
	struct fl_inner inner;

	source = bpf_map_lookup_elem(&fl_sources, &key);
	/* What comes over a veth from another namespace has no mark but a device's number (skb_scrub_packet). */
	if (!source || source->role != FL_ROLE_ROUTER)
		return ctx->mark >= FL_FIRST_NUMBER ? fl_cross(ctx, device) : fl_to_linux(FL_REASON_BETWEEN_ROUTERS);
	/* A mark that somebody gave it on the L2 may mean something to the router's rules. */
	if (ctx->mark)
		return fl_to_linux(FL_REASON_NO_SOURCE);
	struct fl_frame frame = {
		.hook = FL_HOOK_TC_ROUTER,
		.len = ctx_len(ctx),
		.segment = source->segment,
		.port = source->port,
		.flags = source->flags,
	};

	if (!ctx_pull(ctx, FL_INNER_PULL))
		return fl_to_linux(FL_REASON_PULL_FAILED);
	verdict = fl_parse_eth(ctx, &frame, &inner);
	if (fl_is_decided(verdict))
		return verdict;
	if (inner.eth.proto == bpf_htons(ETH_P_ARP)) {
		if (!fl_is_vouched_for())
			return fl_to_linux(FL_REASON_ARP_OTHER);
		verdict = fl_arp_stage(ctx, &frame, &inner, NULL);
		return fl_is_decided(verdict) ? verdict : fl_to_linux(FL_REASON_ARP_OTHER);
	}
	if (fl_is_multicast_mac(&inner.eth.dmac))
		return fl_to_linux(FL_REASON_FLOOD);
	if (inner.eth.proto != bpf_htons(ETH_P_IP))
		return fl_to_linux(FL_REASON_NOT_IPV4);
	return fl_router_ipv4(ctx, &frame, source, &inner);
}

#endif
