// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tc ingress of the underlay device: tunnel packets of known peers, but for those that the kernel's tunnel device
 * decapsulates better, and the delivery of what XDP finished. What it leaves of a known peer is judged and counted by
 * tc_tunnel.
 */
#define FL_CTX_SKB
#define FL_ROUTES_SENDERS
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/handover.h"
#include "lib/overlay.h"
#include "lib/tunnel.h"

SEC("tcx/ingress")
int tc_underlay(struct __sk_buff *ctx)
{
	struct fl_frame frame = {
		.hook = FL_HOOK_TC_UNDERLAY,
		.len = ctx_len(ctx),
	};
	struct fl_verdict verdict = fl_deliver_for_xdp(ctx);

	if (!fl_is_decided(verdict))
		verdict = fl_parse_outer(ctx, &frame);
	if (!fl_is_decided(verdict))
		verdict = fl_leave_to_next(fl_overlay(ctx, &frame, NULL), FL_REASON_TO_TUNNEL_DEV);
	return fl_finish(ctx, frame.hook, frame.len, verdict);
}

char _license[] SEC("license") = "Dual BSD/GPL";
