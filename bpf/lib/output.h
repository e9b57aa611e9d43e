/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The only stage that writes frames other than ARP replies. Order: the target is settled; room is made or removed,
 * which fails without a trace; then the headers are written, which fails only without memory and drops the packet.
 *
 *	              to a tunnel                      to a port or the host
 *	encapsulated  outer headers are replaced       outer headers are removed
 *	plain         outer headers are added          only a rewritten frame is written
 */
#ifndef FL_OUTPUT_H
#define FL_OUTPUT_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/nat.h"
#include "lib/parse.h"
#include "lib/target.h"
#include "lib/tunnel.h"
#include "lib/verdict.h"

/*
 * TCP that the kernel's tunnel device decapsulates keeps its GRO, which a VM or the host's stack must not lose. All
 * packets of a flow have to go one way, or they overtake each other; so behind GRO, at tc, that is true of what goes on
 * into another tunnel, too.
 */
fl_inline bool fl_keeps_gro(const struct fl_frame *frame, const struct fl_inner *inner, const struct fl_out *out)
{
	return inner->ip.protocol == IPPROTO_TCP &&
	       (frame->hook == FL_HOOK_TC_UNDERLAY ||
		(frame->hook == FL_HOOK_XDP_UNDERLAY && out->kind != FL_OUT_TUNNEL));
}

/* Length of the headers in @outer; 0: only Linux can send this there. */
fl_inline __u32 fl_tunnel_headers(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_out *out,
				  __u8 inner_tos, struct fl_outer *outer)
{
	const struct udphdr *udp;
	__be16 source_port;

	if (fl_is_underlay(frame)) {
		udp = ctx_at(ctx, FL_ETH_LEN + (frame->base == FL_OUTER_MAX ? FL_IP6_LEN : FL_IP_LEN), sizeof(*udp));
		if (!udp)
			return 0;
		source_port = fl_kept_port(udp->source);
	} else {
		source_port = fl_source_port(ctx_hash(ctx));
	}
	return fl_checked_len(frame, fl_build_outer(outer, out, source_port, frame->len - frame->base, inner_tos));
}

/* Writes the inner headers at @base: all of them if the packet was routed, else only what a room change moved. */
fl_inline bool fl_write_inner(struct fl_ctx *ctx, __u32 base, const struct fl_inner *inner, const struct fl_nat *nat,
			      bool moved)
{
	if (nat) {
		if (!fl_write_l4(ctx, base, nat))
			return false;
		return base ? ctx_write(ctx, base, &inner->eth, FL_INNER_LEN) :
			      ctx_write_plain(ctx, base, &inner->eth, FL_INNER_LEN);
	}
	if (!moved)
		return true;
	return base ? ctx_write(ctx, base, &inner->eth, FL_ETH_LEN) :
		      ctx_write_plain(ctx, base, &inner->eth, FL_ETH_LEN);
}

/* tc makes room in front of IP only, so ARP always enters a tunnel by the kernel's device. */
fl_inline enum fl_reason fl_no_room_reason(const struct fl_inner *inner)
{
	return inner->eth.proto == bpf_htons(ETH_P_ARP) ? FL_REASON_ARP_OTHER : FL_REASON_ENCAP_REFUSED;
}

fl_inline struct fl_verdict fl_output_tunnel(struct fl_ctx *ctx, const struct fl_frame *frame,
					     const struct fl_inner *inner, const struct fl_nat *nat, __u8 inner_tos,
					     const struct fl_out *out)
{
	struct fl_outer outer = {};
	const __u32 len = fl_tunnel_headers(ctx, frame, out, inner_tos, &outer);

	if (!len)
		return fl_to_linux(FL_REASON_ENCAP_REFUSED);
	if (!fl_is_underlay(frame) && !ctx_push_outer(ctx, len))
		return fl_to_linux(fl_no_room_reason(inner));
	if (!fl_write_inner(ctx, len, inner, nat, !fl_is_underlay(frame)) || !fl_write_outer(ctx, &outer, len))
		return fl_drop(FL_REASON_DROP_REWRITE);
	return fl_go_on();
}

fl_inline struct fl_verdict fl_output_local(struct fl_ctx *ctx, const struct fl_frame *frame,
					    const struct fl_inner *inner, const struct fl_nat *nat,
					    struct fl_verdict prepared)
{
	if (fl_is_underlay(frame) && !ctx_pop_outer(ctx, frame->base)) {
		if (!fl_abandon_target(ctx, prepared))
			return fl_drop(FL_REASON_DROP_REWRITE);
		return fl_to_linux(FL_REASON_DECAP_REFUSED);
	}
	if (!fl_write_inner(ctx, 0, inner, nat, fl_is_underlay(frame)))
		return fl_drop(FL_REASON_DROP_REWRITE);
	return fl_go_on();
}

/*
 * @inner: headers as they are to leave. @nat: NULL unless the packet was routed. @inner_tos: of the packet as it
 * came in, for the outer header's congestion bits. @out->kind must not be FL_OUT_ROUTER or FL_OUT_NONE. The caller
 * sets the reason of a packet that is sent.
 */
fl_inline struct fl_verdict fl_output(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner,
				      const struct fl_nat *nat, __u8 inner_tos, const struct fl_out *out)
{
	const struct fl_verdict prepared = fl_prepare_target(ctx, out);
	struct fl_verdict verdict;

	if (prepared.kind == FL_LINUX)
		return prepared;
	/* The hook is a constant: a program that never meets a tunnel does without the code for it. */
	if (out->kind == FL_OUT_TUNNEL && frame->hook != FL_HOOK_TC_ROUTER)
		verdict = fl_output_tunnel(ctx, frame, inner, nat, inner_tos, out);
	else
		verdict = fl_output_local(ctx, frame, inner, nat, prepared);
	if (fl_is_decided(verdict))
		return verdict;
	if ((frame->vlan || out->vlan) && !ctx_retag(ctx, frame->vlan, out->vlan))
		return fl_drop(FL_REASON_DROP_REWRITE);
	return fl_target(ctx, frame, out, prepared);
}

#endif
