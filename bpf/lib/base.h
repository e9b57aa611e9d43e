/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every stage needs: types, byte order, and headers in a form that compiles to few loads.
 *
 * UAPI's struct ethhdr is packed, which makes clang copy it byte by byte; struct fl_eth has the same bytes with the
 * alignment that they really have. Headers on the stack are kept in "images" with two pad bytes in front, so that
 * the IPv4 header behind an Ethernet header is aligned: the verifier refuses unaligned stack access everywhere.
 */
#ifndef FL_BASE_H
#define FL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "fiplane/abi.h"

#define fl_inline static __always_inline
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define FL_IP_FRAGMENT_OFFSET 0x1fff /* of iphdr.frag_off, host order */
#define FL_IP_MORE_FRAGMENTS 0x2000
#define FL_VLAN_ID 0xfff /* of an 802.1Q tag's 16 bits */

/* A MAC address where it is 2-byte aligned, as it is in every header and every map value of ours. */
struct fl_mac {
	__u16 w[3];
};

struct fl_eth {
	struct fl_mac dmac;
	struct fl_mac smac;
	__be16 proto;
};

/* The last header in front of an inner frame. All three tunnel types have one of this shape: see lib/encap.h. */
struct fl_shim {
	__be32 first;
	__be32 id;
};

struct fl_over_udp {
	struct udphdr udp;
	struct fl_shim shim;
};

/* What fiplane puts in front of an inner frame, from .eth on: 50 bytes over UDP, 42 over GRE, 70 over UDP and IPv6. */
struct fl_outer {
	__u8 pad[2];
	struct fl_eth eth;
	union {
		struct {
			struct iphdr ip;
			union {
				struct fl_over_udp over_udp;
				struct fl_shim gre;
			};
		};
		struct {
			struct ipv6hdr ip6;
			struct fl_over_udp over_udp6;
		};
	};
};

/* An address of either version, in the form of the ABI's fields of 16 bytes. */
struct fl_address {
	__be32 w[4];
};

/* The inner frame's own headers: 34 bytes from .eth on. */
struct fl_inner {
	__u8 pad[2];
	struct fl_eth eth;
	struct iphdr ip;
};

#define FL_ETH_LEN sizeof(struct fl_eth)
#define FL_IP_LEN sizeof(struct iphdr)
#define FL_IP6_LEN sizeof(struct ipv6hdr)
#define FL_OUTER_MAX (sizeof(struct fl_outer) - offsetof(struct fl_outer, eth))
#define FL_UDP_OUTER_LEN (FL_ETH_LEN + FL_IP_LEN + sizeof(struct fl_over_udp))
#define FL_INNER_LEN (sizeof(struct fl_inner) - offsetof(struct fl_inner, eth))

FL_STATIC_ASSERT(FL_ETH_LEN == ETH_HLEN, "fl_eth");
FL_STATIC_ASSERT(FL_UDP_OUTER_LEN == 50, "VXLAN over IPv4");
FL_STATIC_ASSERT(FL_OUTER_MAX == 70, "VXLAN over IPv6");
FL_STATIC_ASSERT(FL_INNER_LEN == 34, "Ethernet and IPv4");

/* An IPv4 address of the ABI (wire order bytes) as one number in wire order, and back. */
fl_inline __be32 fl_ip(const __u8 bytes[4])
{
	return *(const __be32 *)bytes;
}

fl_inline void fl_set_ip(__u8 bytes[4], __be32 address)
{
	*(__be32 *)bytes = address;
}

fl_inline const struct fl_address *fl_address(const __u8 bytes[16])
{
	return (const struct fl_address *)bytes;
}

fl_inline struct fl_address fl_mapped(__be32 address)
{
	return (struct fl_address){{0, 0, bpf_htonl(0xffff), address}};
}

fl_inline bool fl_is_unset(const struct fl_address *address)
{
	return (address->w[0] | address->w[1] | address->w[2] | address->w[3]) == 0;
}

fl_inline bool fl_same_address(const struct fl_address *a, const struct fl_address *b)
{
	return ((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3])) == 0;
}

fl_inline const struct fl_mac *fl_mac(const __u8 bytes[6])
{
	return (const struct fl_mac *)bytes;
}

fl_inline bool fl_same_mac(const struct fl_mac *a, const struct fl_mac *b)
{
	return ((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2])) == 0;
}

fl_inline bool fl_is_multicast_mac(const struct fl_mac *mac)
{
	return mac->w[0] & bpf_htons(0x0100);
}

fl_inline bool fl_is_broadcast_mac(const struct fl_mac *mac)
{
	return (mac->w[0] & mac->w[1] & mac->w[2]) == 0xffff;
}

fl_inline bool fl_is_zero_mac(const struct fl_mac *mac)
{
	return (mac->w[0] | mac->w[1] | mac->w[2]) == 0;
}

/* 0/8, 127/8 and everything from 224/4 on: never a source and never a destination that a router forwards. */
fl_inline bool fl_is_martian(__be32 address)
{
	const __u8 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

#endif
