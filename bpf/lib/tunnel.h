/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* VXLAN over IPv4 (RFC 7348): what is accepted, and the one builder of outer headers. */
#ifndef FL_TUNNEL_H
#define FL_TUNNEL_H

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/ctx.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

#define FL_VXLAN_FLAGS 0x08000000 /* the I bit and nothing else: no GBP, no GPE, no remote checksum offload */
#define FL_TUNNEL_TTL 64
#define FL_ECN_MASK 3
#define FL_ECN_ECT0 2
#define FL_ECN_CE 3
/* Source ports of tunnel packets: Linux's default ip_local_port_range, which its vxlan devices use. */
#define FL_PORT_FIRST 32768
#define FL_PORT_COUNT (60999 - 32768)

fl_inline const struct fl_config *fl_get_config(void)
{
	const __u32 zero = 0;

	return bpf_map_lookup_elem(&fl_config, &zero);
}

/* A UDP packet to this node's VTEP: is it a tunnel packet whose headers hold no question that Linux would have to
 * answer? Padding behind the outer packet and lengths that disagree are such a question. */
fl_inline struct fl_verdict fl_check_outer(const struct fl_frame *frame, const struct fl_eth *eth,
					   const struct iphdr *ip, const struct udphdr *udp,
					   const struct fl_vxlan *vxlan)
{
	const __u32 len = frame->len - FL_ETH_LEN;

	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(FL_IP_MORE_FRAGMENTS) ||
	    bpf_ntohs(ip->tot_len) != len || bpf_ntohs(udp->len) != len - FL_IP_LEN ||
	    vxlan->flags != bpf_htonl(FL_VXLAN_FLAGS) || vxlan->vni & bpf_htonl(0xff) || !csum_ip_is_right(ip))
		return fl_to_linux(FL_REASON_TUNNEL_HEADER);
	if (udp->check)
		return fl_to_linux(FL_REASON_OUTER_CHECKSUM);
	/* RFC 6040: CE is copied to the inner header, or the packet dropped; ECT(1) turns an inner ECT(0) to ECT(1). */
	if (unlikely(ip->tos & 1))
		return fl_to_linux((ip->tos & FL_ECN_MASK) == FL_ECN_CE ? FL_REASON_OUTER_CE : FL_REASON_TUNNEL_HEADER);
	return fl_go_on();
}

/* Sets frame->segment if the packet came through the tunnel of a known peer. */
fl_inline struct fl_verdict fl_parse_outer(struct fl_ctx *ctx, struct fl_frame *frame)
{
	const struct fl_config *config = fl_get_config();
	struct fl_tunnel_key key;
	const struct fl_tunnel *tunnel;
	struct fl_verdict verdict;

	if (!ctx_pull(ctx, FL_OUTER_LEN))
		return fl_to_linux(FL_REASON_PULL_FAILED);
	const struct fl_eth *eth = ctx_at(ctx, 0, FL_OUTER_LEN);

	if (!eth || !config || ctx_has_vlan(ctx))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	const struct iphdr *ip = (const struct iphdr *)(eth + 1);
	const struct udphdr *udp = (const struct udphdr *)(ip + 1);
	const struct fl_vxlan *vxlan = (const struct fl_vxlan *)(udp + 1);

	if (eth->proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP || fl_ip(config->vtep) == 0 ||
	    ip->daddr != fl_ip(config->vtep))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	/* With options the port is elsewhere, in a later fragment it is missing. */
	if (*(const __u8 *)ip == 0x45 &&
	    (ip->frag_off & bpf_htons(FL_IP_FRAGMENT_OFFSET) || udp->dest != bpf_htons(config->vxlan_port)))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	/* A GSO packet's lengths are not those of its segments; the tunnel device takes it whole. */
	if (ctx_gso_size(ctx))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);

	verdict = fl_check_outer(frame, eth, ip, udp, vxlan);
	if (fl_is_decided(verdict))
		return verdict;
	key.vni = bpf_ntohl(vxlan->vni) >> 8;
	fl_set_ip(key.peer, ip->saddr);
	tunnel = bpf_map_lookup_elem(&fl_tunnels, &key);
	if (!tunnel)
		return fl_to_linux(FL_REASON_UNKNOWN_PEER);
	/* A promiscuous device sees frames for other hosts, too, which ip_rcv drops. */
	if (!fl_same_mac(&eth->dmac, fl_mac(tunnel->mac)))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	frame->segment = tunnel->segment;
	return fl_go_on();
}

/* Congestion bits of the outer header for those of the inner one (RFC 6040, as INET_ECN_encapsulate does it). */
fl_inline __u8 fl_outer_tos(__u8 inner_tos)
{
	const __u8 ecn = inner_tos & FL_ECN_MASK;

	return ecn == FL_ECN_CE ? FL_ECN_ECT0 : ecn;
}

fl_inline __be16 fl_source_port(__u32 hash)
{
	hash ^= hash << 16;
	return bpf_htons((((__u64)hash * FL_PORT_COUNT) >> 32) + FL_PORT_FIRST);
}

/* From tunnel to tunnel the source port, which spreads flows over paths and queues, is kept; unless it is none that
 * Linux would have chosen. */
fl_inline __be16 fl_kept_port(__be16 port)
{
	const __u32 above = (__u32)bpf_ntohs(port) - FL_PORT_FIRST;

	return above < FL_PORT_COUNT ? port : fl_source_port(port);
}

/*
 * The outer headers as Linux's vxlan device with no UDP checksum writes them. @inner_len: the inner frame with its
 * Ethernet header. A GSO packet's lengths are wrong here if they exceed 16 bits; segmentation sets them for each
 * segment.
 */
fl_inline void fl_build_outer(struct fl_outer *outer, const struct fl_out *out, __be16 source_port, __be16 vxlan_port,
			      __u32 inner_len, __u8 inner_tos)
{
	const __u32 udp_len = inner_len + sizeof(struct udphdr) + sizeof(struct fl_vxlan);

	outer->eth.dmac = *fl_mac(out->outer_dmac);
	outer->eth.smac = *fl_mac(out->outer_smac);
	outer->eth.proto = bpf_htons(ETH_P_IP);

	*(__u8 *)&outer->ip = 0x45;
	outer->ip.tos = fl_outer_tos(inner_tos);
	outer->ip.tot_len = bpf_htons(udp_len + FL_IP_LEN);
	outer->ip.id = bpf_get_prandom_u32();
	outer->ip.frag_off = 0;
	outer->ip.ttl = FL_TUNNEL_TTL;
	outer->ip.protocol = IPPROTO_UDP;
	outer->ip.saddr = fl_ip(out->local);
	outer->ip.daddr = fl_ip(out->remote);
	csum_ip_fill(&outer->ip);

	outer->udp.source = source_port;
	outer->udp.dest = vxlan_port;
	outer->udp.len = bpf_htons(udp_len);
	outer->udp.check = 0;

	outer->vxlan.flags = bpf_htonl(FL_VXLAN_FLAGS);
	outer->vxlan.vni = bpf_htonl(out->vni << 8);
}

/* All FL_OUTER_LEN bytes, at the front of the frame. */
fl_inline bool fl_write_outer(struct fl_ctx *ctx, const struct fl_outer *outer)
{
	return ctx_write_plain(ctx, 0, &outer->eth, FL_ETH_LEN) &&
	       ctx_write(ctx, FL_ETH_LEN, &outer->ip, FL_OUTER_LEN - FL_ETH_LEN);
}

#endif
