/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The stages that a frame of a segment passes, at every hook, once its segment is known. */
#ifndef FL_OVERLAY_H
#define FL_OVERLAY_H

#include "lib/arp.h"
#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/l2.h"
#include "lib/learn.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/route.h"
#include "lib/verdict.h"

/* @port: row of the VM port that the frame came from, NULL at other hooks. */
fl_inline struct fl_verdict fl_ipv4_stages(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner,
					   const struct fl_source *port)
{
	struct fl_verdict verdict = fl_parse_ip(ctx, frame, inner);
	struct fl_next *next;
	struct fl_way way;

	if (fl_is_decided(verdict))
		return verdict;
	if (port && port->flags & FL_SRC_CHECK && inner->ip.saddr != fl_ip(port->ip))
		return fl_to_linux(FL_REASON_NOT_OWN_ADDRESS);
	way = fl_find_way(frame, inner);
	if (fl_is_routed(&way)) {
		verdict = fl_check_ip(frame, inner);
		if (fl_is_decided(verdict))
			return verdict;
		next = fl_next_of(&way, inner->ip.daddr);
		if (!next)
			return fl_to_linux(FL_REASON_NO_DEST);
		if (!(next->flags & FL_NEXT_LOCAL))
			return fl_route(ctx, frame, inner, next, way.source);
		way.fdb = fl_find_fdb(frame, inner);
	}
	return fl_l2_stage(ctx, frame, inner, way.fdb);
}

fl_inline struct fl_verdict fl_overlay(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_source *port)
{
	struct fl_inner inner;
	struct fl_verdict verdict;

	if (!ctx_pull(ctx, frame->base + FL_INNER_PULL))
		return fl_to_linux(FL_REASON_PULL_FAILED);
	verdict = fl_parse_eth(ctx, frame, &inner);
	if (fl_is_decided(verdict))
		return verdict;
	if (port && port->flags & FL_SRC_CHECK && !fl_same_mac(&inner.eth.smac, fl_mac(port->mac)))
		return fl_to_linux(FL_REASON_NOT_OWN_ADDRESS);
	verdict = fl_learn_stage(frame, &inner);
	if (fl_is_decided(verdict))
		return verdict;
	if (inner.eth.proto == bpf_htons(ETH_P_ARP)) {
		verdict = fl_arp_stage(ctx, frame, &inner, port);
		if (fl_is_decided(verdict))
			return verdict;
	}
	if (fl_is_multicast_mac(&inner.eth.dmac))
		return fl_to_linux(FL_REASON_FLOOD);
	if (likely(inner.eth.proto == bpf_htons(ETH_P_IP)))
		return fl_ipv4_stages(ctx, frame, &inner, port);
	/* After adjust_room skb->protocol would still say IPv4, which bpf_redirect_peer's receiver believes. */
	if (fl_is_underlay(frame))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);
	return fl_l2_stage(ctx, frame, &inner, fl_find_fdb(frame, &inner));
}

/*
 * The row of a plain frame of the device that the program is on. @reason is why there is none: what is on a trunk
 * besides our VLANs is none of ours.
 */
fl_inline const struct fl_source *fl_find_source(const struct fl_ctx *ctx, enum fl_role role, __u16 vlan,
						 enum fl_reason *reason)
{
	struct fl_source_key key = {.ifindex = ctx_ifindex(ctx), .vlan = vlan};
	const struct fl_source *source = bpf_map_lookup_elem(&fl_sources, &key);

	if (source && source->role == role)
		return source;
	*reason = FL_REASON_NO_SOURCE;
	if (role != FL_ROLE_PORT)
		return NULL;
	key.vlan = 0;
	source = bpf_map_lookup_elem(&fl_sources, &key);
	if (source && source->role == FL_ROLE_TRUNK)
		*reason = FL_REASON_NOT_OVERLAY;
	else if (source && vlan)
		*reason = FL_REASON_VLAN_TAG;
	return NULL;
}

/* A plain frame of the device that the program is on. */
fl_inline struct fl_verdict fl_plain_overlay(struct fl_ctx *ctx, enum fl_hook hook, enum fl_role role)
{
	const __u16 vlan = role == FL_ROLE_PORT ? ctx_vlan(ctx) : 0;
	enum fl_reason reason;
	const struct fl_source *source = fl_find_source(ctx, role, vlan, &reason);
	struct fl_verdict verdict;

	if (!source)
		return fl_to_linux(reason);
	const struct fl_frame frame = {
		.hook = hook,
		.base = 0,
		.len = ctx_len(ctx),
		.segment = source->segment,
		.port = source->port,
		.flags = source->flags,
		.vlan = vlan,
	};

	verdict = fl_overlay(ctx, &frame, role == FL_ROLE_PORT ? source : NULL);
	return vlan ? fl_leave_to_next(verdict, FL_REASON_TO_VLAN_DEV) : verdict;
}

#endif
