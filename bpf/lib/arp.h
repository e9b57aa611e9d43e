/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP requests for addresses that this node's Linux answers (proxy ARP of a gateway port, ARP suppression of a tunnel
 * device): answered in place and at once, where the kernel's proxy would delay. Everything else about ARP is Linux's:
 * gratuitous ARP, probes, replies.
 */
#ifndef FL_ARP_H
#define FL_ARP_H

#include "lib/base.h"
#include "lib/ctx.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/tunnel.h"
#include "lib/verdict.h"
#include "lib/wire.h"

struct fl_arp_reply {
	struct fl_eth eth;
	struct fl_arp_body arp;
};

#define FL_ARP_FRAME_LEN sizeof(struct fl_arp_reply)

/* In terms of its two 16-bit words; both in wire order. */
fl_inline __be32 fl_arp_ip(const __be16 words[2])
{
	return words[0] | (__be32)words[1] << 16;
}

fl_inline bool fl_is_arp_question(const struct fl_arp_body *arp, const struct fl_inner *inner)
{
	const __be32 sender = fl_arp_ip(arp->sender_ip);

	return arp->hardware == bpf_htons(FL_ARP_ETHERNET) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_len == sizeof(struct fl_mac) && arp->protocol_len == sizeof(__be32) &&
	       arp->operation == bpf_htons(FL_ARP_REQUEST) && !fl_is_martian(sender) &&
	       sender != fl_arp_ip(arp->target_ip) && fl_same_mac(&arp->sender_mac, &inner->eth.smac);
}

/* A reply goes back where the request came from: through the tunnel with its ends exchanged, out of the port, or up
 * into the host's stack. */
fl_inline struct fl_verdict fl_arp_send(struct fl_ctx *ctx, const struct fl_frame *frame,
					const struct fl_arp_reply *reply, const struct fl_outer *outer, __u32 outer_len)
{
	const __u32 base = frame->base;
	const bool wrapped = fl_is_underlay(frame);
	const bool written = (wrapped ? ctx_write(ctx, base, &reply->eth, FL_ETH_LEN) :
					ctx_write_plain(ctx, base, &reply->eth, FL_ETH_LEN)) &&
			     ctx_write(ctx, base + FL_ETH_LEN, &reply->arp, sizeof(reply->arp)) &&
			     (!wrapped || fl_write_outer(ctx, outer, outer_len));

	if (!written)
		return fl_drop(FL_REASON_DROP_REWRITE);
	return (struct fl_verdict){.kind = frame->hook == FL_HOOK_TC_HOST ? FL_RECEIVE : FL_SEND,
				   .reason = FL_REASON_ARP_REPLY,
				   .ifindex = ctx_ifindex(ctx)};
}

/* The outer headers of the answer to the tunnel packet in front of us. Their length, 0 if there is no answer. */
fl_inline __u32 fl_arp_outer(const struct fl_ctx *ctx, const struct fl_frame *frame, struct fl_outer *outer)
{
	const struct fl_eth *eth = ctx_at(ctx, 0, FL_OUTER_MAX);

	if (!eth || !frame->peer)
		return 0;
	const void *ip = eth + 1;
	const struct udphdr *udp = fl_udp_of(frame->tunnel, ip);
	struct fl_out back = {
		.tunnel = frame->tunnel,
		.tunnel_id = fl_tunnel_id(frame->tunnel, fl_shim_of(frame->tunnel, ip)->id),
	};

	*(struct fl_address *)back.remote = *frame->peer;
	*(struct fl_mac *)back.outer_dmac = eth->smac;
	*(struct fl_mac *)back.outer_smac = eth->dmac;
	return fl_checked_len(frame, fl_build_outer(outer, &back, fl_kept_port(udp->source), FL_ARP_FRAME_LEN, 0));
}

/*
 * @port: row of the VM port that the frame came from, NULL at other hooks. FL_CONTINUE: a unicast ARP packet that is
 * not answered here and may be forwarded like any frame.
 */
fl_inline struct fl_verdict fl_arp_stage(struct fl_ctx *ctx, const struct fl_frame *frame, const struct fl_inner *inner,
					 const struct fl_source *port)
{
	const struct fl_arp_body *arp = ctx_at(ctx, frame->base + FL_ETH_LEN, sizeof(*arp));
	const struct fl_verdict not_answered =
		fl_is_multicast_mac(&inner->eth.dmac) ? fl_to_linux(FL_REASON_ARP_OTHER) : fl_go_on();
	struct fl_arp_key key = {.segment = frame->segment};
	struct fl_arp_reply reply;
	struct fl_outer outer = {};
	__u32 outer_len = 0;
	const struct fl_arp *row;
	__be32 sender, target;

	if (!arp)
		return fl_to_linux(FL_REASON_SHORT_FRAME);
	sender = fl_arp_ip(arp->sender_ip);
	target = fl_arp_ip(arp->target_ip);
	if (port && port->flags & FL_SRC_CHECK &&
	    (!fl_same_mac(&arp->sender_mac, fl_mac(port->mac)) || (sender && sender != fl_ip(port->ip))))
		return fl_to_linux(FL_REASON_NOT_OWN_ADDRESS);
	if (!fl_is_arp_question(arp, inner) || (port && target == fl_ip(port->ip)))
		return not_answered;
	fl_set_ip(key.ip, target);
	row = bpf_map_lookup_elem(&fl_arp, &key);
	if (!row)
		return not_answered;
	/* A distributed router's MAC is on every node, so its answers do not cross tunnels. */
	if (row->flags & FL_ARP_NO_TUNNEL && (fl_is_underlay(frame) || frame->hook == FL_HOOK_TC_TUNNEL))
		return not_answered;
	/* A unicast request reaches only the owner of its MAC. */
	if (!fl_is_broadcast_mac(&inner->eth.dmac) && !fl_same_mac(&inner->eth.dmac, fl_mac(row->mac)))
		return not_answered;

	reply.eth.dmac = inner->eth.smac;
	reply.eth.smac = *fl_mac(row->mac);
	reply.eth.proto = bpf_htons(ETH_P_ARP);
	reply.arp = *arp;
	reply.arp.operation = bpf_htons(FL_ARP_ANSWER);
	reply.arp.sender_mac = *fl_mac(row->mac);
	reply.arp.sender_ip[0] = arp->target_ip[0];
	reply.arp.sender_ip[1] = arp->target_ip[1];
	reply.arp.target_mac = arp->sender_mac;
	reply.arp.target_ip[0] = arp->sender_ip[0];
	reply.arp.target_ip[1] = arp->sender_ip[1];
	if (fl_is_underlay(frame)) {
		outer_len = fl_arp_outer(ctx, frame, &outer);
		if (!outer_len)
			return not_answered;
	}
	/* Requests come padded from real wires, Linux's replies are not. */
	if (frame->len > frame->base + FL_ARP_FRAME_LEN && !ctx_trim(ctx, frame->base + FL_ARP_FRAME_LEN))
		return not_answered;
	return fl_arp_send(ctx, frame, &reply, &outer, outer_len);
}

#endif
