/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet as the stages see it, the same for XDP and skb. An entry file defines FL_CTX_XDP or FL_CTX_SKB and
 * includes this file first. Both backends define struct fl_ctx and:
 *
 *  ctx_pull(ctx, len)            the first len bytes, or the whole frame if shorter, can be read through ctx_at()
 *  ctx_at(ctx, offset, size)     pointer to bytes of the linear part, NULL if they are not all there
 *  ctx_len(ctx)                  length of the frame from its first Ethernet header on
 *  ctx_ifindex(ctx)              device that the packet is on
 *  ctx_gso_size(ctx)             payload of one segment, 0 unless the packet will be segmented
 *  ctx_has_vlan(ctx)             a VLAN tag is kept beside the frame
 *  ctx_vlan(ctx)                 its 802.1Q id; 0: none, or a tag of another kind
 *  ctx_retag(ctx, from, to)      exchanges the 802.1Q tag beside the frame for another; 0 is none
 *  ctx_hash(ctx)                 flow hash of a plain frame
 *  ctx_push_outer(ctx, len)      makes room for outer headers of len bytes; its content is undefined until written
 *  ctx_pop_outer(ctx, len)       removes outer headers of len bytes from an inner IPv4 packet
 *  ctx_trim(ctx, len)            cuts the frame to len bytes
 *  ctx_write_plain(...)          writes bytes whose ones' complement sum does not change, or that precede the network
 *                                header
 *  ctx_write(...)                writes any bytes behind the outermost Ethernet header
 *  ctx_write_outer(ctx, outer, len)
 *                                the same of outer headers of len bytes in all
 *  ctx_fix_l4(ctx, at, change, udp)
 *                                updates a transport checksum with a pseudo header by the change of its addresses
 *
 * push and pop move bytes of the frame at its front: afterwards neither the outer headers nor the Ethernet header of
 * the inner frame are valid, and the caller writes all of them. They, and trim, leave the packet as it was if they fail.
 * A pointer from ctx_at() is dead after any call of push, pop, trim, write, fix_l4 or pull.
 */
#ifndef FL_CTX_H
#define FL_CTX_H

#include "lib/base.h"

#if defined(FL_CTX_XDP)
#include "lib/ctx_xdp.h"
#elif defined(FL_CTX_SKB)
#include "lib/ctx_skb.h"
#else
#error "an entry file says which context it has"
#endif

#endif
