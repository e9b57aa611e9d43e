/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnels over IPv4: what is accepted, and the one builder of outer headers. lib/encap.h has what the types differ in. */
#ifndef FL_TUNNEL_H
#define FL_TUNNEL_H

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/ctx.h"
#include "lib/encap.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

#define FL_TUNNEL_TTL 64
#define FL_OUTER_LEN_MASK 63 /* for the verifier, which does not know what a row holds */
#define FL_ECN_MASK 3
#define FL_ECN_ECT0 2
#define FL_ECN_CE 3
#define FL_PORT_COUNT (FL_SOURCE_PORT_END - FL_SOURCE_PORT_FIRST)

fl_inline const struct fl_config *fl_get_config(void)
{
	const __u32 zero = 0;

	return bpf_map_lookup_elem(&fl_config, &zero);
}

/* The last header before the inner frame. */
fl_inline const struct fl_shim *fl_shim_of(enum fl_tunnel_type type, const struct iphdr *ip)
{
	const struct fl_shim *behind_ip = (const struct fl_shim *)(ip + 1);

	return fl_is_over_udp(type) ? behind_ip + 1 : behind_ip;
}

/*
 * Which tunnel type, of those that this node has, a packet to its VTEP may be. With options the next header is
 * elsewhere: then it is one that only Linux can tell. In a later fragment there is none.
 */
fl_inline enum fl_tunnel_type fl_outer_type(const struct fl_config *config, const struct iphdr *ip)
{
	const struct udphdr *udp = (const struct udphdr *)(ip + 1);
	const bool has_options = *(const __u8 *)ip != 0x45;
	const bool is_later = !has_options && ip->frag_off & bpf_htons(FL_IP_FRAGMENT_OFFSET);

	if (ip->protocol == IPPROTO_UDP && !is_later) {
		if (config->vxlan_port && (has_options || udp->dest == bpf_htons(config->vxlan_port)))
			return FL_TUNNEL_VXLAN;
		if (config->geneve_port && (has_options || udp->dest == bpf_htons(config->geneve_port)))
			return FL_TUNNEL_GENEVE;
	}
	if (ip->protocol == IPPROTO_GRE && !is_later && config->gre) {
		const struct fl_shim *gre = (const struct fl_shim *)(ip + 1);

		/* GRE that carries no Ethernet is somebody else's. */
		if (has_options || (gre->first & bpf_htonl(0xffff)) == bpf_htonl(ETH_P_TEB))
			return FL_TUNNEL_GRE;
	}
	return FL_TUNNEL_NONE;
}

/* A tunnel packet to this node's VTEP: do its headers hold no question that Linux would have to answer? Padding behind
 * the outer packet and lengths that disagree are such a question. */
fl_inline struct fl_verdict fl_check_outer(const struct fl_frame *frame, enum fl_tunnel_type type,
					   const struct iphdr *ip)
{
	const __u32 len = frame->len - FL_ETH_LEN;
	const struct udphdr *udp = (const struct udphdr *)(ip + 1);

	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(FL_IP_MORE_FRAGMENTS) ||
	    bpf_ntohs(ip->tot_len) != len || !fl_is_plain_shim(type, fl_shim_of(type, ip)) || !csum_ip_is_right(ip))
		return fl_to_linux(FL_REASON_TUNNEL_HEADER);
	if (fl_is_over_udp(type)) {
		if (bpf_ntohs(udp->len) != len - FL_IP_LEN)
			return fl_to_linux(FL_REASON_TUNNEL_HEADER);
		if (udp->check)
			return fl_to_linux(FL_REASON_OUTER_CHECKSUM);
	}
	/* RFC 6040: CE is copied to the inner header, or the packet dropped; ECT(1) turns an inner ECT(0) to ECT(1). */
	if (unlikely(ip->tos & 1))
		return fl_to_linux((ip->tos & FL_ECN_MASK) == FL_ECN_CE ? FL_REASON_OUTER_CE : FL_REASON_TUNNEL_HEADER);
	return fl_go_on();
}

/* Sets what is not known of the frame yet if the packet came through the tunnel of a known peer. */
fl_inline struct fl_verdict fl_parse_outer(struct fl_ctx *ctx, struct fl_frame *frame)
{
	const struct fl_config *config = fl_get_config();
	struct fl_tunnel_key key = {};
	const struct fl_tunnel *tunnel;
	struct fl_verdict verdict;

	/* An inner Ethernet header makes the shortest tunnel packet longer than that, whatever its type. */
	if (!ctx_pull(ctx, FL_OUTER_MAX))
		return fl_to_linux(FL_REASON_PULL_FAILED);
	const struct fl_eth *eth = ctx_at(ctx, 0, FL_OUTER_MAX);

	if (!eth || !config || ctx_has_vlan(ctx))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	const struct iphdr *ip = (const struct iphdr *)(eth + 1);

	if (eth->proto != bpf_htons(ETH_P_IP) || fl_ip(config->vtep) == 0 || ip->daddr != fl_ip(config->vtep))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	key.type = fl_outer_type(config, ip);
	if (key.type == FL_TUNNEL_NONE)
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	/* A GSO packet's lengths are not those of its segments; the tunnel device takes it whole. */
	if (ctx_gso_size(ctx))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);

	verdict = fl_check_outer(frame, key.type, ip);
	if (fl_is_decided(verdict))
		return verdict;
	key.id = fl_tunnel_id(key.type, fl_shim_of(key.type, ip)->id);
	fl_set_ip(key.peer, ip->saddr);
	tunnel = bpf_map_lookup_elem(&fl_tunnels, &key);
	if (!tunnel)
		return fl_to_linux(FL_REASON_UNKNOWN_PEER);
	/* A promiscuous device sees frames for other hosts, too, which ip_rcv drops. */
	if (!fl_same_mac(&eth->dmac, fl_mac(tunnel->mac)))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	frame->tunnel = key.type;
	/* From the row and not by its type: the verifier follows all that comes after once for each constant. */
	frame->base = tunnel->outer_len & FL_OUTER_LEN_MASK;
	frame->segment = tunnel->segment;
	frame->port = tunnel->ifindex;
	frame->flags = tunnel->flags;
	frame->peer = fl_ip(key.peer);
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
	return bpf_htons((((__u64)hash * FL_PORT_COUNT) >> 32) + FL_SOURCE_PORT_FIRST);
}

/* From tunnel to tunnel the source port, which spreads flows over paths and queues, is kept; unless it is none that
 * Linux would have chosen. */
fl_inline __be16 fl_kept_port(__be16 port)
{
	const __u32 above = (__u32)bpf_ntohs(port) - FL_SOURCE_PORT_FIRST;

	return above < FL_PORT_COUNT ? port : fl_source_port(port);
}

/*
 * The outer headers as Linux's tunnel device writes them if it has no UDP checksum, TTL 64 and no path MTU discovery.
 * @source_port: of UDP. @inner_len: the inner frame with its Ethernet header. A GSO packet's lengths are wrong here if
 * they exceed 16 bits; segmentation sets them for each segment.
 */
fl_inline void fl_build_outer(struct fl_outer *outer, const struct fl_config *config, const struct fl_out *out,
			      __be16 source_port, __u32 inner_len, __u8 inner_tos)
{
	const bool over_udp = fl_is_over_udp(out->tunnel);
	const __u32 udp_len = inner_len + sizeof(outer->over_udp);
	struct fl_shim *shim = over_udp ? &outer->over_udp.shim : &outer->gre;

	outer->eth.dmac = *fl_mac(out->outer_dmac);
	outer->eth.smac = *fl_mac(out->outer_smac);
	outer->eth.proto = bpf_htons(ETH_P_IP);

	*(__u8 *)&outer->ip = 0x45;
	outer->ip.tos = fl_outer_tos(inner_tos);
	outer->ip.tot_len = bpf_htons(FL_IP_LEN + (over_udp ? udp_len : inner_len + sizeof(outer->gre)));
	outer->ip.id = bpf_get_prandom_u32();
	outer->ip.frag_off = 0;
	outer->ip.ttl = FL_TUNNEL_TTL;
	outer->ip.protocol = over_udp ? IPPROTO_UDP : IPPROTO_GRE;
	outer->ip.saddr = fl_ip(out->local);
	outer->ip.daddr = fl_ip(out->remote);
	csum_ip_fill(&outer->ip);

	if (over_udp) {
		outer->over_udp.udp.source = source_port;
		outer->over_udp.udp.dest = fl_tunnel_port(config, out->tunnel);
		outer->over_udp.udp.len = bpf_htons(udp_len);
		outer->over_udp.udp.check = 0;
	}
	shim->first = fl_shim_first(out->tunnel);
	shim->id = fl_shim_id(out->tunnel, out->tunnel_id);
}

/* All bytes of the outer headers, at the front of the frame. */
fl_inline bool fl_write_outer(struct fl_ctx *ctx, const struct fl_outer *outer, enum fl_tunnel_type type)
{
	if (!ctx_write_plain(ctx, 0, &outer->eth, FL_ETH_LEN))
		return false;
	return fl_is_over_udp(type) ? ctx_write(ctx, FL_ETH_LEN, &outer->ip, FL_OUTER_MAX - FL_ETH_LEN) :
				      ctx_write(ctx, FL_ETH_LEN, &outer->ip, FL_GRE_LEN - FL_ETH_LEN);
}

#endif
