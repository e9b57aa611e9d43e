/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a program decided about a packet. Each stage returns one; FL_CONTINUE hands the packet to the next stage. */
#ifndef FL_VERDICT_H
#define FL_VERDICT_H

#include "lib/base.h"

enum fl_kind {
	FL_CONTINUE, /* no decision yet */
	FL_LINUX, /* the packet is unchanged and goes on in Linux */
	FL_DROP, /* a write failed half-way */
	FL_SEND, /* send out of .ifindex */
	FL_SEND_PEER, /* hand to the far end of the veth .ifindex, in its namespace */
	FL_RECEIVE, /* deliver to the host's stack as received on .ifindex */
	FL_XDP_TO_DEV, /* XDP: the redirect to .ifindex is already set up */
	FL_XDP_TO_TC, /* XDP: finished; the metadata tells the tc program where to deliver it */
};

struct fl_verdict {
	enum fl_kind kind;
	enum fl_reason reason; /* not with FL_CONTINUE */
	__u32 ifindex;
};

fl_inline struct fl_verdict fl_go_on(void)
{
	return (struct fl_verdict){.kind = FL_CONTINUE};
}

fl_inline struct fl_verdict fl_to_linux(enum fl_reason reason)
{
	return (struct fl_verdict){.kind = FL_LINUX, .reason = reason};
}

fl_inline struct fl_verdict fl_drop(enum fl_reason reason)
{
	return (struct fl_verdict){.kind = FL_DROP, .reason = reason};
}

fl_inline bool fl_is_decided(struct fl_verdict verdict)
{
	return verdict.kind != FL_CONTINUE;
}

fl_inline bool fl_is_sent(struct fl_verdict verdict)
{
	return verdict.kind > FL_DROP;
}

/*
 * A program of ours further up will see the same packet again. It is the one that says why Linux gets the packet,
 * so that each packet counts once; here the reason only says that it was handed over.
 */
fl_inline struct fl_verdict fl_leave_to_next(struct fl_verdict verdict, enum fl_reason handed_over)
{
	if (verdict.kind == FL_LINUX)
		verdict.reason = handed_over;
	return verdict;
}

#endif
