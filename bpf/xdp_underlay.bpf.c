// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* XDP on the underlay device: what never needs an skb. All that it leaves is judged and counted by tc_underlay. */
#define FL_CTX_XDP
#define FL_ROUTES_SENDERS
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/overlay.h"
#include "lib/tunnel.h"

SEC("xdp")
int xdp_underlay(struct xdp_md *ctx)
{
	struct fl_frame frame = {
		.hook = FL_HOOK_XDP_UNDERLAY,
		.len = ctx_len(ctx),
	};
	struct fl_verdict verdict = fl_parse_outer(ctx, &frame);

	if (verdict.kind == FL_LINUX && verdict.reason == FL_REASON_NOT_OVERLAY)
		return fl_finish(ctx, frame.hook, frame.len, verdict);
	if (!fl_is_decided(verdict))
		verdict = fl_overlay(ctx, &frame, NULL);
	return fl_finish(ctx, frame.hook, frame.len, fl_leave_to_next(verdict, FL_REASON_TO_TC));
}

char _license[] SEC("license") = "Dual BSD/GPL";
