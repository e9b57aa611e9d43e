/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forwarding inside a segment by MAC, for any ethertype, as the segment's bridge and tunnel device would. */
#ifndef FL_L2_H
#define FL_L2_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/maps.h"
#include "lib/output.h"
#include "lib/parse.h"
#include "lib/verdict.h"

/* A bridge never sends a frame back out of the port that it came from, nor from one isolated port to another. */
fl_inline bool fl_may_not_leave(const struct fl_frame *frame, const struct fl_out *out)
{
	return out->port == frame->port || (frame->flags & FL_SRC_ISOLATED && out->flags & FL_OUT_ISOLATED);
}

fl_inline enum fl_reason fl_router_reason(const struct fl_inner *inner)
{
	if (inner->eth.proto == bpf_htons(ETH_P_IP))
		return FL_REASON_TO_ROUTER;
	return inner->eth.proto == bpf_htons(ETH_P_ARP) ? FL_REASON_ARP_OTHER : FL_REASON_NOT_IPV4;
}

/* The type-of-service byte of an IP packet, whose congestion bits the outer header repeats; 0 of anything else. */
fl_inline __u8 fl_inner_tos(const struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner)
{
	const __u8 *ip = ctx_at(ctx, frame->base + FL_ETH_LEN, 2);

	if (!ip)
		return 0;
	if (inner->eth.proto == bpf_htons(ETH_P_IP))
		return fl_tos_of(ip, false);
	return inner->eth.proto == bpf_htons(ETH_P_IPV6) ? fl_tos_of(ip, true) : 0;
}

fl_inline const struct fl_fdb *fl_find_fdb(const struct fl_frame *frame, const struct fl_inner *inner)
{
	struct fl_fdb_key key = {.segment = frame->segment};

	*(struct fl_mac *)key.mac = inner->eth.dmac;
	return bpf_map_lookup_elem(&fl_fdb, &key);
}

/* @row: what fl_find_fdb() gives. */
fl_inline struct fl_verdict fl_l2_stage(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner,
					const struct fl_fdb *row)
{
	struct fl_verdict verdict;
	const struct fl_out *out;

	if (!row || row->out.kind == FL_OUT_NONE)
		return fl_to_linux(FL_REASON_UNKNOWN_MAC);
	out = &row->out;
	if (out->kind == FL_OUT_ROUTER)
		return fl_to_linux(fl_router_reason(inner));
	if (fl_may_not_leave(frame, out))
		return fl_to_linux(FL_REASON_SAME_PORT);
	if (inner->eth.proto == bpf_htons(ETH_P_IP) && fl_keeps_gro(frame, inner, out))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);
	if (fl_wire_size(ctx, frame, inner) > out->mtu)
		return fl_to_linux(FL_REASON_MTU);
	verdict = fl_output(ctx, frame, inner, NULL, fl_inner_tos(ctx, frame, inner), out);
	if (fl_is_sent(verdict))
		verdict.reason = out->kind == FL_OUT_HOST ? FL_REASON_L2_TO_HOST : FL_REASON_L2_FORWARD;
	return verdict;
}

#endif
