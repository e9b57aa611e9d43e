// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tc ingress of a port of a router that somebody else built (qr-, qg-, fg-, sg-), and of the veths between such routers'
 * namespaces (rfp-, fpr-). Indices of devices repeat from namespace to namespace, so each device has a program of a
 * few instructions that puts its number into cb[0] and calls this one as the tail.
 */
#define FL_CTX_SKB
#define FL_ROUTES_SENDERS
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/router.h"

SEC("tcx/ingress")
int tc_router(struct __sk_buff *ctx)
{
	const __u32 len = ctx_len(ctx);

	return fl_finish(ctx, FL_HOOK_TC_ROUTER, len, fl_router(ctx, ctx->cb[0]));
}

char _license[] SEC("license") = "Dual BSD/GPL";
