/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets to and from floating IPs, and what VMs and other routers send to a router otherwise.
 *
 *  in       a packet for a floating IP, addressed to the router port that owns it (fg- or qg-): the destination
 *           becomes the fixed IP.
 *  out      a packet of the floating IP's owner, addressed to its router port (qr-): the source becomes the floating
 *           IP where the destination lies beyond the gateway; inside the router's own networks it does not. A VM
 *           without a floating IP gets no further than those: what would have to be translated is Linux's.
 *  hairpin  out, and the destination is a floating IP of this node: both. The receiver must see the sender's floating
 *           IP, or its answer would go to the fixed IP, directly and untranslated.
 *  transit  a packet of somebody behind another router, addressed to this one: nothing becomes something else.
 */
#ifndef FL_ROUTE_H
#define FL_ROUTE_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/l2.h"
#include "lib/maps.h"
#include "lib/nat.h"
#include "lib/output.h"
#include "lib/parse.h"
#include "lib/stats.h"
#include "lib/verdict.h"

fl_inline enum fl_reason fl_route_reason(const struct fl_next *next)
{
	if (next->flags & FL_NEXT_HAIRPIN)
		return FL_REASON_FIP_HAIRPIN;
	if (next->flags & FL_NEXT_SNAT)
		return FL_REASON_FIP_OUT;
	return fl_ip(next->dnat) ? FL_REASON_FIP_IN : FL_REASON_ROUTED;
}

/* What Linux must do itself with a packet that has a proven way. */
fl_inline struct fl_verdict fl_check_journey(struct fl_ctx *ctx, const struct fl_frame *frame,
					     const struct fl_inner *inner, const struct fl_next *next)
{
	const __u32 size = fl_wire_size(ctx, frame, inner);

	if (next->out.kind != FL_OUT_PORT && next->out.kind != FL_OUT_HOST && next->out.kind != FL_OUT_TUNNEL)
		return fl_to_linux(FL_REASON_NO_DEST);
	if (fl_keeps_gro(frame, inner, &next->out))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);
	if (inner->ip.ttl <= next->hops)
		return fl_to_linux(FL_REASON_TTL);
	if (size > next->mtu || size > next->out.mtu)
		return fl_to_linux(FL_REASON_MTU);
	if (next->mss && inner->ip.protocol == IPPROTO_TCP && fl_offers_more(ctx, frame, next->mss))
		return fl_to_linux(FL_REASON_MSS);
	return fl_go_on();
}

/*
 * Sends the packet on the journey @next, which fl_check_journey() has nothing against. @fip: address that its source
 * becomes if the journey says so.
 */
fl_inline struct fl_verdict fl_carry(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner,
				     struct fl_next *next, __be32 fip)
{
	const __be32 saddr = next->flags & FL_NEXT_SNAT ? fip : inner->ip.saddr;
	const __be32 old_daddr = inner->ip.daddr;
	const __be32 daddr = fl_ip(next->dnat) ? fl_ip(next->dnat) : old_daddr;
	const __u8 tos = inner->ip.tos;
	struct fl_verdict verdict;
	struct fl_nat nat = {};

	verdict = fl_plan_nat(ctx, frame, &inner->ip, saddr, daddr, &nat);
	if (fl_is_decided(verdict))
		return verdict;

	inner->eth.dmac = *fl_mac(next->dmac);
	inner->eth.smac = *fl_mac(next->smac);
	fl_rewrite_ip(&inner->ip, &nat, next->hops);
	verdict = fl_output(ctx, frame, inner, &nat, tos, &next->out);
	if (!fl_is_sent(verdict))
		return verdict;

	/* Flags are read anew: a value kept from before would have the verifier walk the output once for each. */
	verdict.reason = fl_route_reason(next);
	fl_stamp(&next->last_use);
	if (next->flags & FL_NEXT_SNAT)
		fl_count_fip_out(fip, fl_l3_len(frame));
	if (fl_ip(next->dnat))
		fl_count_fip_in(old_daddr, fl_l3_len(frame));
	return verdict;
}

fl_inline struct fl_verdict fl_route(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner,
				     struct fl_next *next, __be32 fip)
{
	const struct fl_verdict verdict = fl_check_journey(ctx, frame, inner, next);

	return fl_is_decided(verdict) ? verdict : fl_carry(ctx, frame, inner, next, fip);
}

/* A packet for a floating IP, addressed to the router port that has it. */
fl_inline struct fl_fip_in *fl_find_fip_in(const struct fl_frame *frame, const struct fl_inner *inner)
{
	struct fl_fip_key key = {.segment = frame->segment};
	struct fl_fip_in *row;

	fl_set_ip(key.fip, inner->ip.daddr);
	row = bpf_map_lookup_elem(&fl_fip_in, &key);
	return row && fl_same_mac(&inner->eth.dmac, fl_mac(row->router_mac)) ? row : NULL;
}

#ifdef FL_ROUTES_SENDERS

/* A packet of a VM, addressed to a router that takes it. */
fl_inline const struct fl_vm *fl_find_vm(const struct fl_frame *frame, const struct fl_inner *inner)
{
	struct fl_vm_key key = {.port = frame->port};
	const struct fl_vm *vm;

	if (frame->hook != FL_HOOK_TC_PORT && frame->hook != FL_HOOK_TC_ROUTER && !(frame->flags & FL_SRC_ROUTED))
		return NULL;
	fl_set_ip(key.fixed, inner->ip.saddr);
	*(struct fl_mac *)key.router_mac = inner->eth.dmac;
	vm = bpf_map_lookup_elem(&fl_vms, &key);
	if (vm && frame->hook != FL_HOOK_TC_ROUTER && !fl_same_mac(&inner->eth.smac, fl_mac(vm->mac)))
		return NULL;
	return vm;
}

/* The router domain of a sender that is none of the VMs; 0 if Linux has to look at it. */
fl_inline __u32 fl_sender_domain(const struct fl_frame *frame, const struct fl_inner *inner)
{
	struct fl_sender_key key = {.prefixlen = FL_SENDER_KEY_BITS + 32, .segment = frame->segment};
	const struct fl_sender *sender;

	*(struct fl_mac *)key.router_mac = inner->eth.dmac;
	fl_set_ip(key.ip, inner->ip.saddr);
	sender = bpf_map_lookup_elem(&fl_senders, &key);
	return sender ? sender->domain : 0;
}

/* A prefix may be as wide as 0.0.0.0/0, so it does not prove that the address is one that is routed at all. */
fl_inline struct fl_next *fl_find_next(__u32 domain, __be32 daddr)
{
	struct fl_dest_key key = {.domain = domain};
	struct fl_route_key prefix = {.prefixlen = 64, .domain = domain};
	struct fl_next *next;

	fl_set_ip(key.ip, daddr);
	next = bpf_map_lookup_elem(&fl_dests, &key);
	if (next || fl_is_martian(daddr))
		return next;
	fl_set_ip(prefix.ip, daddr);
	return bpf_map_lookup_elem(&fl_routes, &prefix);
}

#endif

/* What says where a packet goes: a router's row or domain, or else its destination's MAC. */
struct fl_way {
	struct fl_fip_in *fip_in;
	__u32 domain; /* of fl_dests and fl_routes; 0: none */
	__be32 source; /* what the source becomes where the journey translates it: itself, of who has no floating IP */
	const struct fl_fdb *fdb; /* NULL if the MAC is not known, or was not asked for */
};

fl_inline struct fl_way fl_find_way(const struct fl_frame *frame, const struct fl_inner *inner)
{
	struct fl_way way = {.source = inner->ip.saddr};
#ifdef FL_ROUTES_SENDERS
	const struct fl_vm *vm = fl_find_vm(frame, inner);

	if (vm) {
		way.domain = vm->domain;
		way.source = fl_ip(vm->fip);
		return way;
	}
#endif
	way.fip_in = fl_find_fip_in(frame, inner);
	if (way.fip_in)
		return way;
	way.fdb = fl_find_fdb(frame, inner);
#ifdef FL_ROUTES_SENDERS
	if (way.fdb && way.fdb->out.kind == FL_OUT_ROUTER)
		way.domain = fl_sender_domain(frame, inner);
#endif
	return way;
}

fl_inline bool fl_is_routed(const struct fl_way *way)
{
	return way->fip_in || way->domain;
}

fl_inline struct fl_next *fl_next_of(const struct fl_way *way, __be32 daddr)
{
	if (way->fip_in)
		return &way->fip_in->next;
#ifdef FL_ROUTES_SENDERS
	return fl_find_next(way->domain, daddr);
#else
	return NULL;
#endif
}

#endif
