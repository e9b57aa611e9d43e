// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tc ingress of a VM port: what the VM sends. And of a trunk, a device whose VLAN devices are such ports: what their VLANs
 * bring.
 */
#define FL_CTX_SKB
#define FL_ROUTES_SENDERS
#include "lib/ctx.h"
#include "lib/finish.h"
#include "lib/overlay.h"

SEC("tcx/ingress")
int tc_port(struct __sk_buff *ctx)
{
	const __u32 len = ctx_len(ctx);

	return fl_finish(ctx, FL_HOOK_TC_PORT, len, fl_plain_overlay(ctx, FL_HOOK_TC_PORT, FL_ROLE_PORT));
}

char _license[] SEC("license") = "Dual BSD/GPL";
