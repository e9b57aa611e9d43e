/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tc side of what XDP on the same device finished: struct fl_meta in front of the frame says where it goes. */
#ifndef FL_HANDOVER_H
#define FL_HANDOVER_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/verdict.h"

/*
 * FL_CONTINUE unless there is metadata of ours. It is taken away: metadata stays with an skb when it crosses a veth,
 * and would mislead this program on another device. Whoever may load XDP programs on this device could forge it; he
 * could redirect packets himself.
 */
fl_inline struct fl_verdict fl_deliver_for_xdp(struct fl_ctx *ctx)
{
	struct fl_meta *meta = (void *)(unsigned long)ctx->data_meta;
	struct fl_verdict verdict = {.kind = FL_SEND, .reason = FL_REASON_XDP_DONE};
	__u16 vlan;

	if ((void *)(meta + 1) > (void *)(unsigned long)ctx->data || meta->magic != FL_META_MAGIC)
		return fl_go_on();
	meta->magic = 0;
	verdict.ifindex = meta->ifindex;
	if (meta->kind == FL_OUT_HOST)
		verdict.kind = FL_RECEIVE;
	else if (meta->flags & FL_OUT_PEER)
		verdict.kind = FL_SEND_PEER;
	vlan = meta->vlan;
	if (vlan && !ctx_retag(ctx, 0, vlan))
		return fl_drop(FL_REASON_DROP_REWRITE);
	return verdict;
}

#endif
