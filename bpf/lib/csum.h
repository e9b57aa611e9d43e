/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Internet checksums by difference (RFC 1624, equation 3). A "sum" is an unfolded ones' complement sum.
 * Updated this way a checksum has the same representation of zero as one that Linux computed or updated.
 */
#ifndef FL_CSUM_H
#define FL_CSUM_H

#include "lib/base.h"

/* @sum: below 2^48, so three times is enough. */
fl_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* What replacing one 32-bit word of the covered bytes adds to their sum. */
fl_inline __u64 csum_change32(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

fl_inline __u64 csum_change16(__u16 from, __u16 to)
{
	return (__u64)(__u16)~from + to;
}

/* The checksum field after the covered bytes' sum has changed by @change. */
fl_inline __sum16 csum_update(__sum16 check, __u64 change)
{
	return ~csum_fold((__u64)(__u16)~check + change);
}

/* A change folded to the 32 bits that bpf_l4_csum_replace takes. */
fl_inline __u32 csum_change_to32(__u64 change)
{
	change = (change & 0xffffffff) + (change >> 32);
	change = (change & 0xffffffff) + (change >> 32);
	return change;
}

fl_inline __u64 csum_ip_sum(const struct iphdr *ip)
{
	const __u32 *w = (const __u32 *)ip;

	return (__u64)w[0] + w[1] + w[2] + w[3] + w[4];
}

fl_inline bool csum_ip_is_right(const struct iphdr *ip)
{
	return csum_fold(csum_ip_sum(ip)) == 0xffff;
}

/* Sets ip->check; its old value does not matter. */
fl_inline void csum_ip_fill(struct iphdr *ip)
{
	ip->check = 0;
	ip->check = ~csum_fold(csum_ip_sum(ip));
}

#endif
