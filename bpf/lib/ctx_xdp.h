/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet of an XDP program: one linear buffer (the program does not claim frags support, so the kernel gives it
 * no other). Checksums in it are complete ones; there is no offload state to keep.
 */
#ifndef FL_CTX_XDP_H
#define FL_CTX_XDP_H

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/encap.h"

#define fl_ctx xdp_md

fl_inline __u32 ctx_len(const struct fl_ctx *ctx)
{
	return ctx->data_end - ctx->data;
}

fl_inline __u32 ctx_ifindex(const struct fl_ctx *ctx)
{
	return ctx->ingress_ifindex;
}

fl_inline __u32 ctx_gso_size(const struct fl_ctx *ctx)
{
	return 0;
}

fl_inline bool ctx_has_vlan(const struct fl_ctx *ctx)
{
	return false;
}

fl_inline __u16 ctx_vlan(const struct fl_ctx *ctx)
{
	return 0;
}

/* Frames with a tag are left to tc, and tags of others are put on there (struct fl_meta). */
fl_inline bool ctx_retag(struct fl_ctx *ctx, __u16 from, __u16 to)
{
	return true;
}

fl_inline bool ctx_pull(struct fl_ctx *ctx, __u32 len)
{
	return true;
}

fl_inline void *ctx_at(const struct fl_ctx *ctx, __u32 offset, __u32 size)
{
	void *data = (void *)(unsigned long)ctx->data;
	void *end = (void *)(unsigned long)ctx->data_end;

	return data + offset + size > end ? NULL : data + offset;
}

/* Source and destination are 2-byte aligned, as all headers are here; size is a constant. */
fl_inline bool ctx_write(struct fl_ctx *ctx, __u32 offset, const void *from, __u32 size)
{
	__u16 *to = ctx_at(ctx, offset, size);
	const __u16 *words = from;

	if (!to)
		return false;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < size / 2; i++)
		to[i] = words[i];
	return true;
}

fl_inline bool ctx_write_plain(struct fl_ctx *ctx, __u32 offset, const void *from, __u32 size)
{
	return ctx_write(ctx, offset, from, size);
}

/* Stores of a constant number only, so in parts: each length of outer headers begins with the next shorter one. */
fl_inline bool ctx_write_outer(struct fl_ctx *ctx, const struct fl_outer *outer, __u32 len)
{
	const void *from = &outer->eth;

	return ctx_write(ctx, FL_ETH_LEN, from + FL_ETH_LEN, FL_GRE_LEN - FL_ETH_LEN) &&
	       (len <= FL_GRE_LEN || ctx_write(ctx, FL_GRE_LEN, from + FL_GRE_LEN, FL_UDP_OUTER_LEN - FL_GRE_LEN)) &&
	       (len <= FL_UDP_OUTER_LEN ||
		ctx_write(ctx, FL_UDP_OUTER_LEN, from + FL_UDP_OUTER_LEN, FL_OUTER_MAX - FL_UDP_OUTER_LEN));
}

/* As bpf_l4_csum_replace does for an skb: see ctx_skb.h about zero in UDP. */
fl_inline bool ctx_fix_l4(struct fl_ctx *ctx, __u32 offset, __u32 change, bool udp)
{
	__sum16 *check = ctx_at(ctx, offset, sizeof(*check));

	if (!check)
		return false;
	if (udp && *check == 0)
		return true;
	*check = csum_update(*check, change);
	if (udp && *check == 0)
		*check = 0xffff;
	return true;
}

fl_inline bool ctx_trim(struct fl_ctx *ctx, __u32 len)
{
	__u32 now = ctx_len(ctx);

	/* clang 19 would compute len - data_end + data, "R2 32-bit pointer arithmetic prohibited" to all verifiers. */
	asm volatile("" : "+r"(now));
	return bpf_xdp_adjust_tail(ctx, (__s32)(len - now)) == 0;
}

/* Every frame of the underlay is encapsulated already: a call that the compiler cannot drop is an error. */
__attribute__((error("XDP has no plain frames to encapsulate"))) bool ctx_push_outer(struct fl_ctx *ctx, __u32 len);
__attribute__((error("XDP has no plain frames to hash"))) __u32 ctx_hash(struct fl_ctx *ctx);

fl_inline bool ctx_pop_outer(struct fl_ctx *ctx, __u32 len)
{
	return bpf_xdp_adjust_head(ctx, len) == 0;
}

#endif
