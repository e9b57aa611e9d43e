/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The inner frame: its headers are copied to the stack, so that no pointer into the packet outlives a stage. */
#ifndef FL_PARSE_H
#define FL_PARSE_H

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/ctx.h"
#include "lib/verdict.h"
#include "lib/wire.h"

/* Headers that the stages read behind the inner Ethernet header: an ICMP error with the quoted IPv4 and TCP header. */
#define FL_INNER_PULL (FL_ETH_LEN + FL_IP_LEN + 8 + FL_IP_LEN + 20)

struct fl_frame {
	enum fl_hook hook; /* a constant in each program */
	enum fl_tunnel_type tunnel; /* what it is wrapped in; FL_TUNNEL_NONE: a plain frame */
	__u32 base; /* offset of the inner Ethernet header: fl_outer_len() or 0 */
	__u32 len; /* of the whole frame, without padding once that is cut off */
	__u32 segment;
	__u32 port; /* by which it came into the segment's bridge: tunnel device, VM port, or the bridge itself */
	__u32 flags; /* FL_SRC_* of that port */
	__u16 vlan; /* tag beside the frame that led to the port, and that it has to lose; 0: none */
	const struct fl_address *peer; /* outer source address, in the tunnel's row; NULL of a plain frame */
};

fl_inline bool fl_is_underlay(const struct fl_frame *frame)
{
	return frame->hook == FL_HOOK_XDP_UNDERLAY || frame->hook == FL_HOOK_TC_UNDERLAY;
}

/* Bytes of the frame behind its inner Ethernet header. Valid after fl_parse_eth(). */
fl_inline __u32 fl_l3_len(const struct fl_frame *frame)
{
	return frame->len - frame->base - FL_ETH_LEN;
}

fl_inline struct fl_verdict fl_parse_eth(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner)
{
	const struct fl_eth *eth = ctx_at(ctx, frame->base, FL_ETH_LEN);

	if (!eth)
		return fl_to_linux(FL_REASON_SHORT_FRAME);
	inner->eth = *eth;
	if ((ctx_has_vlan(ctx) && !frame->vlan) || inner->eth.proto == bpf_htons(ETH_P_8021Q) ||
	    inner->eth.proto == bpf_htons(ETH_P_8021AD))
		return fl_to_linux(FL_REASON_VLAN_TAG);
	/* A bridge drops these (br_handle_frame). */
	if (fl_is_multicast_mac(&inner->eth.smac) || fl_is_zero_mac(&inner->eth.smac))
		return fl_to_linux(FL_REASON_HOST_SOURCE);
	return fl_go_on();
}

/* Copies the IPv4 header. Only the routed stage needs it to be right: fl_check_ip(). */
fl_inline struct fl_verdict fl_parse_ip(struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_inner *inner)
{
	const struct iphdr *ip = ctx_at(ctx, frame->base + FL_ETH_LEN, FL_IP_LEN);

	if (!ip)
		return fl_to_linux(FL_REASON_SHORT_FRAME);
	inner->ip = *ip;
	return fl_go_on();
}

/*
 * What ip_rcv and ip_route_input ask of a packet that is to be forwarded. Bytes that follow tot_len (padding) are Linux's
 * to cut off, unless that has been done already.
 */
fl_inline struct fl_verdict fl_check_ip(const struct fl_frame *frame, const struct fl_inner *inner)
{
	const struct iphdr *ip = &inner->ip;
	const __u8 version_ihl = *(const __u8 *)ip;

	if (unlikely(version_ihl != 0x45)) {
		if (version_ihl >> 4 == 4 && (version_ihl & 0xf) > 5)
			return fl_to_linux(FL_REASON_IP_OPTIONS);
		return fl_to_linux(FL_REASON_BAD_IP_HEADER);
	}
	if (unlikely(bpf_ntohs(ip->tot_len) != fl_l3_len(frame) || !csum_ip_is_right(ip)))
		return fl_to_linux(FL_REASON_BAD_IP_HEADER);
	/* All fragments of a datagram go one way, or those that are left to Linux would wait for the others in vain. */
	if (unlikely(ip->frag_off & bpf_htons(FL_IP_FRAGMENT_OFFSET | FL_IP_MORE_FRAGMENTS)))
		return fl_to_linux(FL_REASON_FRAGMENT);
	if (unlikely(fl_is_martian(ip->saddr)))
		return fl_to_linux(FL_REASON_HOST_SOURCE);
	return fl_go_on();
}

/* Length of the IP header and of the transport header that GSO repeats in each segment; 0 if it is not known. */
fl_inline __u32 fl_gso_header_len(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner)
{
	const bool ipv4 = inner->eth.proto == bpf_htons(ETH_P_IP);
	const __u32 ip_len = ipv4 ? 20 : 40;
	const __u8 *ip = ctx_at(ctx, frame->base + FL_ETH_LEN, 20 + 13);
	__u8 protocol;

	if (!ip)
		return 0;
	if (ipv4 ? ip[0] != 0x45 : inner->eth.proto != bpf_htons(ETH_P_IPV6))
		return 0;
	protocol = ipv4 ? ip[9] : ip[6];
	if (protocol == IPPROTO_UDP)
		return ip_len + 8;
	if (protocol != IPPROTO_TCP)
		return 0;
	const __u8 *tcp = ctx_at(ctx, frame->base + FL_ETH_LEN + ip_len, 13);

	return tcp ? ip_len + (tcp[12] >> 4) * 4 : 0;
}

/*
 * A TCP SYN with an MSS option (RFC 9293) above @mss. Every stack that is known puts it first; a SYN that begins with
 * another option counts as one, since only Linux looks through them all.
 */
fl_inline bool fl_offers_more(struct fl_ctx *ctx, const struct fl_frame *frame, __u16 mss)
{
	const __u8 *tcp = ctx_at(ctx, frame->base + FL_INNER_LEN, FL_TCP_LEN + FL_TCP_MSS_LEN);

	if (!tcp || !(tcp[13] & FL_TCP_SYN) || tcp[12] >> 4 <= FL_TCP_LEN / 4)
		return false;
	return tcp[20] != FL_TCP_MSS || tcp[21] != FL_TCP_MSS_LEN || (tcp[22] << 8 | tcp[23]) > mss;
}

/* The largest L3 packet that this one becomes on the wire. */
fl_inline __u32 fl_wire_size(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner)
{
	const __u32 gso_size = ctx_gso_size(ctx);
	__u32 headers;

	if (likely(!gso_size))
		return fl_l3_len(frame);
	headers = fl_gso_header_len(ctx, frame, inner);
	return headers ? headers + gso_size : ~0U;
}

#endif
