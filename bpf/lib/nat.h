/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Translation of addresses, one to one, ports untouched. First a plan, which only reads and finds what Linux would
 * have to decide; then the writes, which have nothing left to decide.
 *
 * What a translation changes in a packet:
 *  - the address and the IPv4 header's checksum, always;
 *  - the transport checksum where it covers a pseudo header (TCP, UDP unless it is zero). ICMP, SCTP, ESP, GRE and
 *    most others cover no address. UDP-Lite and DCCP do, and whether Linux updates theirs depends on its build: they
 *    stay with Linux;
 *  - in an ICMP error, the header that it quotes, which is the mirror image: what the packet's destination is now was
 *    the quoted packet's source, and the other way round (nf_nat_icmp_reply_translation). Its IPv4 checksum changes by
 *    as much as its addresses do, so the ICMP checksum changes only by what the quoted transport checksum does.
 */
#ifndef FL_NAT_H
#define FL_NAT_H

#include <linux/tcp.h>

#include "lib/base.h"
#include "lib/csum.h"
#include "lib/ctx.h"
#include "lib/parse.h"
#include "lib/verdict.h"
#include "lib/wire.h"

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif

#define FL_TCP_CHECK offsetof(struct tcphdr, check)
#define FL_UDP_CHECK offsetof(struct udphdr, check)
#define FL_QUOTED_L4 (sizeof(struct fl_icmp) + FL_IP_LEN)

/* Offsets are from the start of the inner IPv4 header's payload. */
struct fl_quote {
	__be32 saddr; /* new values of the quoted header */
	__be32 daddr;
	__sum16 ip_check;
	__sum16 l4_check;
	__sum16 icmp_check; /* of the error itself */
	__u16 l4_check_at; /* 0: the quote has no transport checksum that changes */
};

/*
 * What is to be written is kept as data rather than as a kind of packet: the verifier follows each kind through
 * everything that comes later, but not each offset.
 */
struct fl_nat {
	__be32 saddr; /* new addresses; the old ones where nothing is translated */
	__be32 daddr;
	__u64 change; /* of the sum of both addresses */
	__u16 l4_check_at; /* 0: no transport checksum changes */
	bool l4_is_udp;
	bool has_quote; /* an ICMP error */
	struct fl_quote quote;
};

fl_inline bool fl_is_icmp_error(__u8 type)
{
	return type == FL_ICMP_UNREACHABLE || type == FL_ICMP_SOURCE_QUENCH || type == FL_ICMP_TIME_EXCEEDED ||
	       type == FL_ICMP_PARAMETER_PROBLEM;
}

/* The transport header of the quoted packet, @at of the frame: what of its checksum is there to change? */
fl_inline struct fl_verdict fl_plan_quote_l4(struct fl_ctx *ctx, __u32 at, __u8 protocol, struct fl_nat *nat)
{
	const __u8 *l4 = ctx_at(ctx, at, 8); /* RFC 792 promises so much */
	struct fl_quote *quote = &nat->quote;
	__sum16 old;

	quote->l4_check_at = 0;
	quote->l4_check = 0; /* fl_write_quote copies it in any case: without a value that may be a packet pointer */
	if (!l4 || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_DCCP ||
	    (protocol == IPPROTO_ICMP && (fl_is_icmp_error(l4[0]) || l4[0] == FL_ICMP_REDIRECT)))
		return fl_to_linux(FL_REASON_ICMP_INNER);
	if (protocol == IPPROTO_UDP) {
		old = *(const __sum16 *)(l4 + FL_UDP_CHECK);
		if (!old)
			return fl_go_on();
		quote->l4_check_at = FL_QUOTED_L4 + FL_UDP_CHECK;
	} else if (protocol == IPPROTO_TCP) {
		l4 = ctx_at(ctx, at, sizeof(struct tcphdr));
		if (!l4)
			return fl_go_on(); /* as short as routers of old quoted: the checksum is not there */
		old = *(const __sum16 *)(l4 + FL_TCP_CHECK);
		quote->l4_check_at = FL_QUOTED_L4 + FL_TCP_CHECK;
	} else {
		return fl_go_on();
	}
	quote->l4_check = csum_update(old, nat->change);
	if (protocol == IPPROTO_UDP && !quote->l4_check)
		quote->l4_check = 0xffff;
	quote->icmp_check = csum_update(quote->icmp_check, csum_change16(old, quote->l4_check));
	return fl_go_on();
}

fl_inline struct fl_verdict fl_plan_icmp_error(struct fl_ctx *ctx, const struct fl_frame *frame, const struct iphdr *ip,
					       struct fl_nat *nat)
{
	const __u32 at = frame->base + FL_INNER_LEN;
	const struct fl_icmp *icmp = ctx_at(ctx, at, sizeof(*icmp) + FL_IP_LEN);
	struct fl_quote *quote = &nat->quote;

	if (!icmp)
		return fl_to_linux(FL_REASON_ICMP_INNER);
	const struct iphdr *quoted = (const struct iphdr *)(icmp + 1);

	if (*(const __u8 *)quoted != 0x45 || quoted->frag_off & bpf_htons(FL_IP_FRAGMENT_OFFSET) ||
	    (nat->daddr != ip->daddr && quoted->saddr != ip->daddr) ||
	    (nat->saddr != ip->saddr && quoted->daddr != ip->saddr))
		return fl_to_linux(FL_REASON_ICMP_INNER);
	quote->saddr = nat->daddr != ip->daddr ? nat->daddr : quoted->saddr;
	quote->daddr = nat->saddr != ip->saddr ? nat->saddr : quoted->daddr;
	quote->ip_check = csum_update(quoted->check, nat->change);
	quote->icmp_check = icmp->check;
	nat->has_quote = true;
	return fl_plan_quote_l4(ctx, at + FL_QUOTED_L4, quoted->protocol, nat);
}

/* @ip: no fragment. @saddr, @daddr: the new addresses, equal to the old ones where nothing is translated. */
fl_inline struct fl_verdict fl_plan_nat(struct fl_ctx *ctx, const struct fl_frame *frame, const struct iphdr *ip,
					__be32 saddr, __be32 daddr, struct fl_nat *nat)
{
	const __u32 at = frame->base + FL_INNER_LEN;
	const struct fl_icmp *icmp;

	nat->saddr = saddr;
	nat->daddr = daddr;
	nat->change = csum_change32(ip->saddr, saddr) + csum_change32(ip->daddr, daddr);
	nat->l4_check_at = 0;
	nat->l4_is_udp = ip->protocol == IPPROTO_UDP;
	nat->has_quote = false;
	if (saddr == ip->saddr && daddr == ip->daddr)
		return fl_go_on();

	if (ip->protocol == IPPROTO_UDPLITE || ip->protocol == IPPROTO_DCCP)
		return fl_to_linux(FL_REASON_L4_SHORT);
	switch (ip->protocol) {
	case IPPROTO_TCP:
		nat->l4_check_at = FL_TCP_CHECK;
		return ctx_at(ctx, at, sizeof(struct tcphdr)) ? fl_go_on() : fl_to_linux(FL_REASON_L4_SHORT);
	case IPPROTO_UDP:
		nat->l4_check_at = FL_UDP_CHECK;
		return ctx_at(ctx, at, sizeof(struct udphdr)) ? fl_go_on() : fl_to_linux(FL_REASON_L4_SHORT);
	case IPPROTO_ICMP:
		icmp = ctx_at(ctx, at, sizeof(*icmp));
		if (!icmp)
			return fl_to_linux(FL_REASON_L4_SHORT);
		if (icmp->type == FL_ICMP_REDIRECT) /* Linux drops one that it would have to translate */
			return fl_to_linux(FL_REASON_ICMP_INNER);
		if (fl_is_icmp_error(icmp->type))
			return fl_plan_icmp_error(ctx, frame, ip, nat);
		return fl_go_on();
	case IPPROTO_SCTP:
	case IPPROTO_GRE: /* Linux drops what has less: sctp_manip_pkt, gre_manip_pkt */
		return ctx_at(ctx, at, 8) ? fl_go_on() : fl_to_linux(FL_REASON_L4_SHORT);
	default:
		return fl_go_on();
	}
}

/* The IPv4 header as it leaves: new addresses, @hops routers passed. */
fl_inline void fl_rewrite_ip(struct iphdr *ip, const struct fl_nat *nat, __u32 hops)
{
	/* TTL and protocol are one 16-bit word of the header; the protocol cancels out. */
	const __u64 ttl_change = csum_change16(bpf_htons(ip->ttl << 8), bpf_htons((ip->ttl - hops) << 8));

	ip->check = csum_update(ip->check, nat->change + ttl_change);
	ip->ttl -= hops;
	ip->saddr = nat->saddr;
	ip->daddr = nat->daddr;
}

/* The sum of the ICMP message is what it was, so none of these writes has to correct skb->csum. */
fl_inline bool fl_write_quote(struct fl_ctx *ctx, __u32 icmp, const struct fl_quote *quote)
{
	const __u32 quoted = icmp + sizeof(struct fl_icmp);
	__sum16 ip_check = quote->ip_check;
	__be32 addresses[2] = {quote->saddr, quote->daddr};
	__sum16 icmp_check = quote->icmp_check;
	__sum16 l4_check = quote->l4_check;

	if (!ctx_write_plain(ctx, quoted + offsetof(struct iphdr, check), &ip_check, sizeof(ip_check)) ||
	    !ctx_write_plain(ctx, quoted + offsetof(struct iphdr, saddr), addresses, sizeof(addresses)))
		return false;
	if (!quote->l4_check_at)
		return true;
	return ctx_write_plain(ctx, icmp + offsetof(struct fl_icmp, check), &icmp_check, sizeof(icmp_check)) &&
	       ctx_write_plain(ctx, icmp + quote->l4_check_at, &l4_check, sizeof(l4_check));
}

/* Everything that a translation changes behind the IPv4 header. @base: where the inner frame is now. */
fl_inline bool fl_write_l4(struct fl_ctx *ctx, __u32 base, const struct fl_nat *nat)
{
	const __u32 l4 = base + FL_INNER_LEN;

	if (nat->l4_check_at)
		return ctx_fix_l4(ctx, l4 + nat->l4_check_at, csum_change_to32(nat->change), nat->l4_is_udp);
	return !nat->has_quote || fl_write_quote(ctx, l4, &nat->quote);
}

#endif
