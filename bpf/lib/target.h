/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where an fl_out leads from this hook. What may refuse is settled by fl_prepare_target() before the first byte is
 * written, for a hook that cannot send there must leave the packet as it is. fl_target() is the verdict afterwards.
 */
#ifndef FL_TARGET_H
#define FL_TARGET_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

fl_inline struct fl_verdict fl_sent(enum fl_kind kind, __u32 ifindex)
{
	return (struct fl_verdict){.kind = kind, .ifindex = ifindex};
}

#if defined(FL_CTX_XDP)

/*
 * Out of the same device: XDP_TX. Out of another one: a redirect, if it is in fl_devs; the helper looks it up now and
 * the kernel acts on it when the program ends. Ports that XDP may not send to, and the host's stack, get the frame
 * from the tc program of this device, which reads the metadata that fl_target() leaves.
 */
fl_inline struct fl_verdict fl_prepare_target(struct fl_ctx *ctx, const struct fl_out *out)
{
	if (out->kind == FL_OUT_TUNNEL && out->ifindex == ctx_ifindex(ctx))
		return fl_sent(FL_SEND, out->ifindex);
	if (out->kind == FL_OUT_TUNNEL || out->flags & FL_OUT_XDP) {
		if (bpf_redirect_map(&fl_devs, out->ifindex, XDP_PASS) == XDP_REDIRECT)
			return fl_sent(FL_XDP_TO_DEV, out->ifindex);
		if (out->kind == FL_OUT_TUNNEL)
			return fl_to_linux(FL_REASON_TO_TC);
	}
	/* A driver without room for metadata: tc does it all. */
	if (bpf_xdp_adjust_meta(ctx, -(__s32)sizeof(struct fl_meta)))
		return fl_to_linux(FL_REASON_TO_TC);
	return fl_sent(FL_XDP_TO_TC, out->ifindex);
}

/* The room may hold the metadata of an earlier frame in the same buffer. */
fl_inline bool fl_abandon_target(struct fl_ctx *ctx, struct fl_verdict prepared)
{
	return prepared.kind != FL_XDP_TO_TC || bpf_xdp_adjust_meta(ctx, sizeof(struct fl_meta)) == 0;
}

/* The last write: adjust_head moved the metadata along with the frame. */
fl_inline struct fl_verdict fl_target(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_out *out,
				      struct fl_verdict prepared)
{
	struct fl_meta *meta = (void *)(unsigned long)ctx->data_meta;

	if (prepared.kind != FL_XDP_TO_TC)
		return prepared;
	if ((void *)(meta + 1) > (void *)(unsigned long)ctx->data)
		return fl_drop(FL_REASON_DROP_REWRITE);
	meta->magic = FL_META_MAGIC;
	meta->kind = out->kind;
	meta->ifindex = out->ifindex;
	meta->flags = out->flags;
	meta->vlan = out->vlan;
	return prepared;
}

#else

fl_inline struct fl_verdict fl_prepare_target(struct fl_ctx *ctx, const struct fl_out *out)
{
	return fl_go_on();
}

fl_inline bool fl_abandon_target(struct fl_ctx *ctx, struct fl_verdict prepared)
{
	return true;
}

fl_inline struct fl_verdict fl_target(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_out *out,
				      struct fl_verdict prepared)
{
	if (out->kind == FL_OUT_HOST)
		return fl_sent(FL_RECEIVE, out->ifindex);
	if (out->flags & FL_OUT_CROSS) {
		ctx->mark = out->port;
		return fl_sent(FL_SEND_PEER, out->ifindex);
	}
	if (out->kind == FL_OUT_PORT && out->flags & FL_OUT_PEER && frame->hook != FL_HOOK_TC_HOST)
		return fl_sent(FL_SEND_PEER, out->ifindex);
	return fl_sent(FL_SEND, out->ifindex);
}

#endif
#endif
