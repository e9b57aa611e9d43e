/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What Linux would learn from a frame, it must see: a bridge where a MAC is (br_fdb_update), a vxlan device with
 * `learning` behind which peer (vxlan_snoop). A frame that a program finishes teaches neither. So on ports that learn
 * only frames go on that tell nothing new; what they tell, that the MAC is alive, is stamped for the agent.
 */
#ifndef FL_LEARN_H
#define FL_LEARN_H

#include "lib/base.h"
#include "lib/maps.h"
#include "lib/parse.h"
#include "lib/stats.h"
#include "lib/verdict.h"

/*
 * Whether Linux would learn something from a frame of this source MAC (its three 16-bit words, the first one lowest).
 * @port, @peer: of the frame; a plain one has no peer. Global, so that the verifier sees it alone and once; inlined,
 * all that comes after would be followed once for each way through it.
 */
__noinline bool fl_teaches(__u32 segment, __u32 port, const struct fl_address *peer, __u64 smac)
{
	struct fl_fdb_key key = {.segment = segment};
	struct fl_mac *mac = (struct fl_mac *)key.mac;
	struct fl_fdb *row;

	mac->w[0] = smac;
	mac->w[1] = smac >> 16;
	mac->w[2] = smac >> 32;
	row = bpf_map_lookup_elem(&fl_fdb, &key);
	if (!row || row->out.port != port)
		return true;
	/* The tunnel device is still to come, and may learn another peer. */
	if (peer && !fl_same_address(fl_address(row->out.remote), peer))
		return true;
	fl_stamp(&row->last_use);
	return false;
}

fl_inline struct fl_verdict fl_learn_stage(const struct fl_frame *frame, const struct fl_inner *inner)
{
	const struct fl_mac *mac = &inner->eth.smac;
	const __u64 smac = mac->w[0] | (__u64)mac->w[1] << 16 | (__u64)mac->w[2] << 32;

	if (frame->flags & FL_SRC_LEARNS && fl_teaches(frame->segment, frame->port, frame->peer, smac))
		return fl_to_linux(FL_REASON_LEARN);
	return fl_go_on();
}

#endif
