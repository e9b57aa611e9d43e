// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* tc egress of a segment's bridge: what the host's own stack sends into the segment. */
#define FL_CTX_SKB
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/overlay.h"

SEC("tcx/egress")
int tc_host(struct __sk_buff *ctx)
{
	const __u32 len = ctx_len(ctx);

	return fl_finish(ctx, FL_HOOK_TC_HOST, len, fl_plain_overlay(ctx, FL_HOOK_TC_HOST, FL_ROLE_HOST));
}

char _license[] SEC("license") = "Dual BSD/GPL";
