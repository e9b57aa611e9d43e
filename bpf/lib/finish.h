/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The end of every program: the verdict is counted and becomes the hook's action, here and nowhere else. */
#ifndef FL_FINISH_H
#define FL_FINISH_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/stats.h"
#include "lib/verdict.h"

#if defined(FL_CTX_XDP)

fl_inline int fl_finish(struct fl_ctx *ctx, enum fl_hook hook, __u32 len, struct fl_verdict verdict)
{
	fl_count(hook, verdict.reason, len);
	switch (verdict.kind) {
	case FL_SEND:
		return XDP_TX;
	case FL_XDP_TO_DEV:
		return XDP_REDIRECT;
	case FL_DROP:
		return XDP_DROP;
	default:
		return XDP_PASS;
	}
}

#else

/* TC_ACT_UNSPEC is TCX_NEXT: other programs at the hook run, then Linux goes on as if we were not there. */
fl_inline int fl_finish(struct fl_ctx *ctx, enum fl_hook hook, __u32 len, struct fl_verdict verdict)
{
	fl_count(hook, verdict.reason, len);
	switch (verdict.kind) {
	case FL_SEND:
		return bpf_redirect(verdict.ifindex, 0);
	case FL_RECEIVE:
		return bpf_redirect(verdict.ifindex, BPF_F_INGRESS);
	case FL_SEND_PEER:
		/* The frame enters the other namespace without eth_type_trans; for the receiving device it is PACKET_OTHERHOST
		 * still, which ip_rcv drops. (Kernels since 6.8 scrub it in skb_do_redirect, too.) */
		bpf_skb_change_type(ctx, 0 /* PACKET_HOST */);
		return bpf_redirect_peer(verdict.ifindex, 0);
	case FL_DROP:
		return TC_ACT_SHOT;
	default:
		return TC_ACT_UNSPEC;
	}
}

#endif
#endif
