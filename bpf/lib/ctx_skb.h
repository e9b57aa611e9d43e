/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet of a tc program.
 *
 * Checksum state. CHECKSUM_PARTIAL and CHECKSUM_COMPLETE stay right: transport checksums go through
 * bpf_l4_csum_replace; bytes behind the network header go through ctx_write, which corrects skb->csum; a rewritten
 * IPv4 header and the Ethernet header before the network header need no correction, for the sum of a header with a
 * right checksum is constant, and skb->csum does not cover what precedes the network header.
 *
 * GSO state. Growing names the headers that are new, so that the stack segments as a tunnel device's packets are
 * (drivers/net/vxlan, net/ipv4/ip_gre.c). Shrinking is for packets without GSO only: bpf_skb_adjust_room does not clear
 * SKB_GSO_UDP_TUNNEL.
 */
#ifndef FL_CTX_SKB_H
#define FL_CTX_SKB_H

#include <linux/pkt_cls.h>

#include "lib/base.h"
#include "lib/encap.h"

#define fl_ctx __sk_buff

#define FL_GROW_FLAGS \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L2(FL_ETH_LEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | \
	 BPF_F_ADJ_ROOM_NO_CSUM_RESET)
/* BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (Linux 6.3), which older headers do not have. */
#define FL_DECAP_TO_IPV4 (1ULL << 7)

fl_inline __u32 ctx_len(const struct fl_ctx *ctx)
{
	return ctx->len;
}

fl_inline __u32 ctx_ifindex(const struct fl_ctx *ctx)
{
	return ctx->ifindex;
}

fl_inline __u32 ctx_gso_size(const struct fl_ctx *ctx)
{
	return ctx->gso_size;
}

fl_inline bool ctx_has_vlan(const struct fl_ctx *ctx)
{
	return ctx->vlan_present;
}

/* Priority and DEI do not choose a VLAN device (net/8021q/vlan_core.c, vlan_do_receive). */
fl_inline __u16 ctx_vlan(const struct fl_ctx *ctx)
{
	return ctx->vlan_present && ctx->vlan_proto == bpf_htons(ETH_P_8021Q) ? ctx->vlan_tci & FL_VLAN_ID : 0;
}

/* Beside the frame a tag is taken and put without anything that could fail. */
fl_inline bool ctx_retag(struct fl_ctx *ctx, __u16 from, __u16 to)
{
	if (from && bpf_skb_vlan_pop(ctx))
		return false;
	return !to || bpf_skb_vlan_push(ctx, bpf_htons(ETH_P_8021Q), to) == 0;
}

fl_inline __u32 ctx_hash(struct fl_ctx *ctx)
{
	return bpf_get_hash_recalc(ctx);
}

fl_inline bool ctx_pull(struct fl_ctx *ctx, __u32 len)
{
	const __u32 linear = ctx->data_end - ctx->data;

	if (likely(linear >= len) || linear == ctx->len)
		return true;
	return bpf_skb_pull_data(ctx, len < ctx->len ? len : ctx->len) == 0;
}

fl_inline void *ctx_at(const struct fl_ctx *ctx, __u32 offset, __u32 size)
{
	void *data = (void *)(unsigned long)ctx->data;
	void *end = (void *)(unsigned long)ctx->data_end;

	return data + offset + size > end ? NULL : data + offset;
}

fl_inline bool ctx_write_plain(struct fl_ctx *ctx, __u32 offset, const void *from, __u32 size)
{
	return bpf_skb_store_bytes(ctx, offset, from, size, 0) == 0;
}

fl_inline bool ctx_write(struct fl_ctx *ctx, __u32 offset, const void *from, __u32 size)
{
	return bpf_skb_store_bytes(ctx, offset, from, size, BPF_F_RECOMPUTE_CSUM) == 0;
}

/* Each length is a constant: bounds that clang checks in another register than the one it passes on are none to the
 * verifier. */
fl_inline bool ctx_write_outer(struct fl_ctx *ctx, const struct fl_outer *outer, __u32 len)
{
	const void *from = (const void *)&outer->eth + FL_ETH_LEN;

	if (len == FL_OUTER_MAX)
		return ctx_write(ctx, FL_ETH_LEN, from, FL_OUTER_MAX - FL_ETH_LEN);
	if (len == FL_GRE_LEN)
		return ctx_write(ctx, FL_ETH_LEN, from, FL_GRE_LEN - FL_ETH_LEN);
	return ctx_write(ctx, FL_ETH_LEN, from, FL_UDP_OUTER_LEN - FL_ETH_LEN);
}

/* UDP: a checksum of zero means none and stays; one that becomes zero is sent as 0xffff (RFC 768). */
fl_inline bool ctx_fix_l4(struct fl_ctx *ctx, __u32 offset, __u32 change, bool udp)
{
	const __u64 flags = BPF_F_PSEUDO_HDR | (udp ? BPF_F_MARK_MANGLED_0 : 0);

	return bpf_l4_csum_replace(ctx, offset, 0, change, flags) == 0;
}

fl_inline bool ctx_trim(struct fl_ctx *ctx, __u32 len)
{
	return bpf_skb_change_tail(ctx, len, 0) == 0;
}

/* Fails for what the kernel cannot encapsulate a second time or not at all: an ethertype other than IP, GSO types
 * other than TCP and UDP_L4, an skb that is encapsulated already. */
fl_inline bool ctx_push_outer(struct fl_ctx *ctx, __u32 len)
{
	const __u64 l3 = len == FL_OUTER_MAX ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u64 l4 = len == FL_GRE_LEN ? BPF_F_ADJ_ROOM_ENCAP_L4_GRE : BPF_F_ADJ_ROOM_ENCAP_L4_UDP;

	if (bpf_skb_adjust_room(ctx, len, BPF_ADJ_ROOM_MAC, FL_GROW_FLAGS | l3 | l4))
		return false;
#ifdef FL_POISON_HEADROOM
	/* Only in the objects of the tests: the kernel zeroes the room, which would hide a byte that is never written. */
	struct fl_outer poison;

	__builtin_memset(&poison, 0xff, sizeof(poison));
	ctx_write_outer(ctx, &poison, len);
#endif
	return true;
}

/*
 * Takes the bytes behind the outer Ethernet header away and so leaves that header in front of the inner packet. From
 * IPv6 to IPv4 skb->protocol has to follow, which who gets the packet believes: kernels that cannot do that fail here,
 * and the packet goes to the tunnel device.
 */
fl_inline bool ctx_pop_outer(struct fl_ctx *ctx, __u32 len)
{
	const __u64 to_ipv4 = len == FL_OUTER_MAX ? FL_DECAP_TO_IPV4 : 0;

	return bpf_skb_adjust_room(ctx, -(__s32)len, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | to_ipv4) == 0;
}

#endif
