/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Forced into the traced objects (clang's -include): the calls that decide about a packet are noted on their way to
 * the real ones. The sources themselves know nothing of it.
 */
#include "lib/stats.h"
#include "record.h"

struct fl_record fl_record;

fl_inline void fl_traced_count(enum fl_hook hook, enum fl_reason reason, __u32 bytes) {
    fl_record.counts++;
    fl_record.hook = hook;
    fl_record.reason = reason;
    fl_record.bytes = bytes;
    fl_count(hook, reason, bytes);
}

fl_inline void fl_traced_target(enum fl_record_via via, __u32 ifindex, __u32 flags) {
    fl_record.redirects++;
    fl_record.via = via;
    fl_record.ifindex = ifindex;
    fl_record.flags = flags;
}

fl_inline long fl_traced_redirect(__u32 ifindex, __u64 flags) {
    fl_traced_target(FL_VIA_REDIRECT, ifindex, flags);
    return bpf_redirect(ifindex, flags);
}

fl_inline long fl_traced_redirect_peer(__u32 ifindex, __u64 flags) {
    fl_traced_target(FL_VIA_PEER, ifindex, flags);
    return bpf_redirect_peer(ifindex, flags);
}

fl_inline long fl_traced_redirect_map(void* map, __u64 key, __u64 flags) {
    const long action = bpf_redirect_map(map, key, flags);

    if (action == XDP_REDIRECT) fl_traced_target(FL_VIA_MAP, key, flags);
    return action;
}

#define fl_count(hook, reason, bytes) fl_traced_count(hook, reason, bytes)
#define bpf_redirect(ifindex, flags) fl_traced_redirect(ifindex, flags)
#define bpf_redirect_peer(ifindex, flags) fl_traced_redirect_peer(ifindex, flags)
#define bpf_redirect_map(map, key, flags) fl_traced_redirect_map(map, key, flags)
