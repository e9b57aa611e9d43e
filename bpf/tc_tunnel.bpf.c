// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc ingress of a segment's kernel tunnel device: frames that the kernel has decapsulated, GRO and all. */
#define FL_CTX_SKB
#define FL_ROUTES_SENDERS
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/overlay.h"

SEC("tcx/ingress")
int tc_tunnel(struct __sk_buff *ctx)
{
	const __u32 len = ctx_len(ctx);

	return fl_finish(ctx, FL_HOOK_TC_TUNNEL, len, fl_plain_overlay(ctx, FL_HOOK_TC_TUNNEL, FL_ROLE_TUNNEL));
}

char _license[] SEC("license") = "Dual BSD/GPL";
