/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Linux's connection tracking, by its kfuncs (net/netfilter/nf_conntrack_bpf.c and nf_nat_bpf.c, Linux 6.1): TCP and
 * UDP only. They are of modules that a node with such routers has loaded; where they are not, the program is not
 * loaded either.
 */
#ifndef FL_CONNTRACK_H
#define FL_CONNTRACK_H

#include "lib/base.h"

#ifndef FL_CTX_SKB
#error "the kfuncs for XDP are others"
#endif

/* The first 12 bytes of struct bpf_ct_opts, which is all that Linux 6.1 has. */
struct bpf_ct_opts {
	__s32 netns_id; /* -1: the one that the packet is in */
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

union nf_inet_addr {
	__u32 all[4];
	__be32 ip;
};

enum nf_nat_manip_type {
	NF_NAT_MANIP_SRC,
	NF_NAT_MANIP_DST,
};

/* Nothing of them is read here: libbpf compares the kinds of the kfuncs' types. */
struct nf_conn {
	unsigned long status;
};

struct nf_conn___init {
	struct nf_conn ct;
};

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					 struct bpf_ct_opts *opts, __u32 opts__sz) __ksym;
extern struct nf_conn___init *bpf_skb_ct_alloc(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple__sz,
					       struct bpf_ct_opts *opts, __u32 opts__sz) __ksym;
extern int bpf_ct_set_nat_info(struct nf_conn___init *entry, union nf_inet_addr *address, int port,
			       enum nf_nat_manip_type manip) __ksym;
extern void bpf_ct_set_timeout(struct nf_conn___init *entry, __u32 timeout) __ksym;
extern struct nf_conn *bpf_ct_insert_entry(struct nf_conn___init *entry) __ksym;
extern void bpf_ct_release(struct nf_conn *entry) __ksym;

FL_STATIC_ASSERT(sizeof(struct bpf_ct_opts) == 12, "bpf_ct_opts");

/* The part for IPv4 of struct bpf_sock_tuple, which is three times as long; the stack is short. */
struct fl_tuple {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

FL_STATIC_ASSERT(sizeof(struct fl_tuple) == sizeof(((struct bpf_sock_tuple *)0)->ipv4), "fl_tuple");

/* Of a connection that nobody has told more about: Linux sets its own time with the next packet. */
#define FL_CT_TIMEOUT_MS 60000

#define FL_CT_NO_ENTRY (-2) /* ENOENT */

/* Is it certain that the namespace has no entry, in either direction, for a packet with these addresses and ports? */
fl_inline bool fl_ct_lacks(struct __sk_buff *ctx, struct fl_tuple *tuple, __u8 protocol, __s32 netnsid)
{
	struct bpf_ct_opts opts = {.netns_id = netnsid, .l4proto = protocol};
	struct nf_conn *entry =
		bpf_skb_ct_lookup(ctx, (struct bpf_sock_tuple *)tuple, sizeof(*tuple), &opts, sizeof(opts));

	if (entry) {
		bpf_ct_release(entry);
		return false;
	}
	return opts.error == FL_CT_NO_ENTRY;
}

/*
 * Makes the entry that Linux would have, had it carried the flow from its first packet: packets of the tuple's direction
 * get the source @snat and the destination @dnat, unless that is 0, and keep their ports. @netnsid: as of
 * fl_ct_lacks(). No word of success: where there is an entry already, or no memory, Linux does what it can.
 */
fl_inline void fl_ct_adopt(struct __sk_buff *ctx, struct fl_tuple *tuple, __u8 protocol, __s32 netnsid, __be32 snat,
			   __be32 dnat)
{
	struct bpf_ct_opts opts = {.netns_id = netnsid, .l4proto = protocol};
	union nf_inet_addr source = {.ip = snat};
	union nf_inet_addr destination = {.ip = dnat};
	struct nf_conn___init *fresh =
		bpf_skb_ct_alloc(ctx, (struct bpf_sock_tuple *)tuple, sizeof(*tuple), &opts, sizeof(opts));
	struct nf_conn *entry;

	if (!fresh)
		return;
	bpf_ct_set_timeout(fresh, FL_CT_TIMEOUT_MS);
	/* In the order in which a packet meets them. */
	if (dnat)
		bpf_ct_set_nat_info(fresh, &destination, bpf_ntohs(tuple->dport), NF_NAT_MANIP_DST);
	if (snat)
		bpf_ct_set_nat_info(fresh, &source, bpf_ntohs(tuple->sport), NF_NAT_MANIP_SRC);
	entry = bpf_ct_insert_entry(fresh);
	if (entry)
		bpf_ct_release(entry);
}

#endif
