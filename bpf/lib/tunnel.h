/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnels over IP: what is accepted, and the one builder of outer headers. lib/encap.h has what the types differ in. */
#ifndef FL_TUNNEL_H
#define FL_TUNNEL_H

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/ctx.h"
#include "lib/encap.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/verdict.h"

#define FL_OUTER_LEN_MASK 127 /* for the verifier, which does not know what a row holds */
#define FL_ECN_MASK 3
#define FL_ECN_ECT0 2
#define FL_ECN_CE 3
#define FL_PORT_COUNT (FL_SOURCE_PORT_END - FL_SOURCE_PORT_FIRST)

fl_inline const struct fl_config *fl_get_config(void)
{
	const __u32 zero = 0;

	return bpf_map_lookup_elem(&fl_config, &zero);
}

fl_inline const struct udphdr *fl_udp_of(enum fl_tunnel_type type, const void *ip)
{
	return ip + (fl_is_over_ipv6(type) ? FL_IP6_LEN : FL_IP_LEN);
}

/* The last header before the inner frame. */
fl_inline const struct fl_shim *fl_shim_of(enum fl_tunnel_type type, const void *ip)
{
	return fl_is_over_udp(type) ? (const struct fl_shim *)(fl_udp_of(type, ip) + 1) : ip + FL_IP_LEN;
}

/*
 * Which tunnel type, of those that this node has, a packet to its VTEP may be. With options the next header is
 * elsewhere: then it is one that only Linux can tell. In a later fragment there is none.
 */
fl_inline enum fl_tunnel_type fl_ipv4_type(const struct fl_config *config, const struct iphdr *ip)
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

fl_inline struct fl_address fl_source_of(enum fl_tunnel_type type, const void *ip)
{
	if (fl_is_over_ipv6(type))
		return *(const struct fl_address *)&((const struct ipv6hdr *)ip)->saddr;
	return fl_mapped(((const struct iphdr *)ip)->saddr);
}

/* With an extension header, a fragment's among them, the packet is none that is known here: Linux takes it. */
fl_inline enum fl_tunnel_type fl_ipv6_type(const struct fl_config *config, const struct ipv6hdr *ip)
{
	const struct udphdr *udp = (const struct udphdr *)(ip + 1);

	if (ip->nexthdr == IPPROTO_UDP && config->vxlan_port && udp->dest == bpf_htons(config->vxlan_port))
		return FL_TUNNEL_VXLAN6;
	return FL_TUNNEL_NONE;
}

fl_inline bool fl_is_plain_ipv4(const struct iphdr *ip, __u32 len)
{
	return *(const __u8 *)ip == 0x45 && !(ip->frag_off & bpf_htons(FL_IP_MORE_FRAGMENTS)) &&
	       bpf_ntohs(ip->tot_len) == len && csum_ip_is_right(ip);
}

/* The flow label is free. */
fl_inline bool fl_is_plain_ipv6(const struct ipv6hdr *ip, __u32 len)
{
	return *(const __u8 *)ip >> 4 == 6 && bpf_ntohs(ip->payload_len) == len - FL_IP6_LEN;
}

/* The type-of-service byte or traffic class of an IP header of @version. */
fl_inline __u8 fl_tos_of(const __u8 *ip, bool ipv6)
{
	return ipv6 ? ip[0] << 4 | ip[1] >> 4 : ip[1];
}

/*
 * A tunnel packet to this node's VTEP: do its headers hold no question that Linux would have to answer? Padding behind
 * the outer packet and lengths that disagree are such a question. That an IPv6 header may come without a UDP checksum
 * is the device's choice (RFC 6936), for which the tunnel's row stands.
 */
fl_inline struct fl_verdict fl_check_outer(const struct fl_frame *frame, enum fl_tunnel_type type, const void *ip)
{
	const __u32 len = frame->len - FL_ETH_LEN;
	const bool ipv6 = fl_is_over_ipv6(type);
	const struct udphdr *udp = fl_udp_of(type, ip);
	__u8 tos;

	if (!(ipv6 ? fl_is_plain_ipv6(ip, len) : fl_is_plain_ipv4(ip, len)) ||
	    !fl_is_plain_shim(type, fl_shim_of(type, ip)))
		return fl_to_linux(FL_REASON_TUNNEL_HEADER);
	if (fl_is_over_udp(type)) {
		if (bpf_ntohs(udp->len) != len - (ipv6 ? FL_IP6_LEN : FL_IP_LEN))
			return fl_to_linux(FL_REASON_TUNNEL_HEADER);
		if (udp->check)
			return fl_to_linux(FL_REASON_OUTER_CHECKSUM);
	}
	/* RFC 6040: CE is copied to the inner header, or the packet dropped; ECT(1) turns an inner ECT(0) to ECT(1). */
	tos = fl_tos_of(ip, ipv6);
	if (unlikely(tos & 1))
		return fl_to_linux((tos & FL_ECN_MASK) == FL_ECN_CE ? FL_REASON_OUTER_CE : FL_REASON_TUNNEL_HEADER);
	return fl_go_on();
}

/* What is in front of the inner frame of a packet to this node's VTEP. */
struct fl_found {
	enum fl_tunnel_type type;
	const void *ip; /* into the packet; NULL: no tunnel packet to this node */
};

fl_inline struct fl_found fl_find_outer(struct fl_ctx *ctx, const struct fl_config *config)
{
	/* The shortest of a tunnel packet; an inner Ethernet header makes all longer than the longest of outer headers
	 * over IPv4. */
	const struct fl_eth *eth = ctx_at(ctx, 0, FL_UDP_OUTER_LEN);
	struct fl_found found = {};
	struct fl_address destination;

	if (!eth)
		return found;
	if (eth->proto == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = (const struct iphdr *)(eth + 1);

		destination = fl_mapped(ip->daddr);
		found.type = fl_ipv4_type(config, ip);
	} else if (eth->proto == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip;

		eth = ctx_at(ctx, 0, FL_OUTER_MAX);
		if (!eth)
			return found;
		ip = (const struct ipv6hdr *)(eth + 1);
		destination = *(const struct fl_address *)&ip->daddr;
		found.type = fl_ipv6_type(config, ip);
	} else {
		return found;
	}
	if (found.type != FL_TUNNEL_NONE && fl_same_address(&destination, fl_address(config->vtep)))
		found.ip = eth + 1;
	return found;
}

/* Sets what is not known of the frame yet if the packet came through the tunnel of a known peer. */
fl_inline struct fl_verdict fl_parse_outer(struct fl_ctx *ctx, struct fl_frame *frame)
{
	const struct fl_config *config = fl_get_config();
	struct fl_tunnel_key key = {};
	const struct fl_tunnel *tunnel;
	struct fl_verdict verdict;
	struct fl_found found;

	if (!ctx_pull(ctx, FL_OUTER_MAX))
		return fl_to_linux(FL_REASON_PULL_FAILED);
	if (!config || ctx_has_vlan(ctx))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	found = fl_find_outer(ctx, config);
	if (!found.ip)
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	/* A GSO packet's lengths are not those of its segments; the tunnel device takes it whole. */
	if (ctx_gso_size(ctx))
		return fl_to_linux(FL_REASON_TO_TUNNEL_DEV);

	verdict = fl_check_outer(frame, found.type, found.ip);
	if (fl_is_decided(verdict))
		return verdict;
	key.type = found.type;
	key.id = fl_tunnel_id(key.type, fl_shim_of(key.type, found.ip)->id);
	*(struct fl_address *)key.peer = fl_source_of(found.type, found.ip);
	tunnel = bpf_map_lookup_elem(&fl_tunnels, &key);
	if (!tunnel)
		return fl_to_linux(FL_REASON_UNKNOWN_PEER);
	/* A promiscuous device sees frames for other hosts, too, which ip_rcv drops. */
	if (!fl_same_mac(&((const struct fl_eth *)found.ip - 1)->dmac, fl_mac(tunnel->mac)))
		return fl_to_linux(FL_REASON_NOT_OVERLAY);
	/* From the row, although the key has the same: the verifier follows all that comes after once for each constant. */
	frame->tunnel = tunnel->type;
	frame->peer = fl_address(tunnel->peer);
	frame->base = tunnel->outer_len & FL_OUTER_LEN_MASK;
	frame->segment = tunnel->segment;
	frame->port = tunnel->ifindex;
	frame->flags = tunnel->flags;
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

fl_inline void fl_build_udp(struct fl_over_udp *to, const struct fl_config *config, enum fl_tunnel_type type,
			    __be16 source_port, __u32 len)
{
	to->udp.source = source_port;
	to->udp.dest = fl_tunnel_port(config, type);
	to->udp.len = bpf_htons(len);
	to->udp.check = 0;
}

fl_inline void fl_build_ipv4(struct fl_outer *outer, const struct fl_config *config, const struct fl_out *out,
			     __u8 protocol, __u32 payload_len, __u8 tos)
{
	outer->eth.proto = bpf_htons(ETH_P_IP);
	*(__u8 *)&outer->ip = 0x45;
	outer->ip.tos = tos;
	outer->ip.tot_len = bpf_htons(FL_IP_LEN + payload_len);
	outer->ip.id = bpf_get_prandom_u32();
	outer->ip.frag_off = 0;
	outer->ip.ttl = FL_TUNNEL_TTL;
	outer->ip.protocol = protocol;
	outer->ip.saddr = fl_address(config->vtep)->w[3];
	outer->ip.daddr = fl_address(out->remote)->w[3];
	csum_ip_fill(&outer->ip);
}

/* No flow label: a vxlan device has none unless it is told. */
fl_inline void fl_build_ipv6(struct fl_outer *outer, const struct fl_config *config, const struct fl_out *out,
			     __u32 payload_len, __u8 tos)
{
	outer->eth.proto = bpf_htons(ETH_P_IPV6);
	*(__be32 *)&outer->ip6 = bpf_htonl(0x60000000 | (__u32)tos << 20);
	outer->ip6.payload_len = payload_len > 0xffff ? 0 : bpf_htons(payload_len);
	outer->ip6.nexthdr = IPPROTO_UDP;
	outer->ip6.hop_limit = FL_TUNNEL_TTL;
	*(struct fl_address *)&outer->ip6.saddr = *fl_address(config->vtep);
	*(struct fl_address *)&outer->ip6.daddr = *fl_address(out->remote);
}

/*
 * The outer headers as Linux's tunnel device writes them if it has no UDP checksum, TTL 64 and no path MTU discovery.
 * @source_port: of UDP. @inner_len: the inner frame with its Ethernet header. A GSO packet's lengths are wrong here if
 * they exceed 16 bits; segmentation sets them for each segment. Returns their length, fl_outer_len(), or 0 while the
 * node has no address to send from.
 *
 * Global, so that the verifier sees it alone and once, and follows what comes after for no type in particular.
 */
__noinline __u32 fl_build_outer(struct fl_outer *outer, const struct fl_out *out, __u32 source_port, __u32 inner_len,
				__u32 inner_tos)
{
	const struct fl_config *config = fl_get_config();
	const __u32 udp_len = inner_len + sizeof(struct fl_over_udp);
	const __u8 tos = fl_outer_tos(inner_tos);
	enum fl_tunnel_type type;
	struct fl_shim *shim;

	if (!outer || !out || !config || fl_is_unset(fl_address(config->vtep)))
		return 0;
	type = out->tunnel;
	outer->eth.dmac = *fl_mac(out->outer_dmac);
	outer->eth.smac = *fl_mac(out->outer_smac);
	if (fl_is_over_ipv6(type)) {
		fl_build_ipv6(outer, config, out, udp_len, tos);
		fl_build_udp(&outer->over_udp6, config, type, source_port, udp_len);
		shim = &outer->over_udp6.shim;
	} else if (fl_is_over_udp(type)) {
		fl_build_ipv4(outer, config, out, IPPROTO_UDP, udp_len, tos);
		fl_build_udp(&outer->over_udp, config, type, source_port, udp_len);
		shim = &outer->over_udp.shim;
	} else {
		fl_build_ipv4(outer, config, out, IPPROTO_GRE, inner_len + sizeof(struct fl_shim), tos);
		shim = &outer->gre;
	}
	shim->first = fl_shim_first(type);
	shim->id = fl_shim_id(type, out->tunnel_id);
	return fl_outer_len(type);
}

/* @len, of outer headers for this frame; 0 if they cannot replace what it has: between headers of different lengths
 * bytes would have to move. */
fl_inline __u32 fl_checked_len(const struct fl_frame *frame, __u32 len)
{
	return fl_is_underlay(frame) && len != frame->base ? 0 : len;
}

/* All @len bytes of the outer headers, at the front of the frame. */
fl_inline bool fl_write_outer(struct fl_ctx *ctx, const struct fl_outer *outer, __u32 len)
{
	return ctx_write_plain(ctx, 0, &outer->eth, FL_ETH_LEN) && ctx_write_outer(ctx, outer, len);
}

#endif
