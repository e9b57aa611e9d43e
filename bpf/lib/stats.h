/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counters. A packet counts once per program with the length that it came with, Ethernet header and tunnel headers
 * included; a GSO packet counts as one, as in the kernel's own device counters.
 */
#ifndef FL_STATS_H
#define FL_STATS_H

#include "lib/base.h"
#include "lib/maps.h"
#include "lib/verdict.h"

fl_inline void fl_count(enum fl_hook hook, enum fl_reason reason, __u32 bytes)
{
	const __u32 index = hook * FL_REASON_COUNT + reason;
	struct fl_counter *counter = bpf_map_lookup_elem(&fl_counters, &index);

	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
}

/* @bytes: IPv4 header and payload. */
fl_inline void fl_count_fip_in(__be32 fip, __u32 bytes)
{
	struct fl_fip_stat_key key;
	struct fl_fip_stat *stat;

	fl_set_ip(key.fip, fip);
	stat = bpf_map_lookup_elem(&fl_fip_stats, &key);
	if (stat) {
		stat->in_packets++;
		stat->in_bytes += bytes;
	}
}

fl_inline void fl_count_fip_out(__be32 fip, __u32 bytes)
{
	struct fl_fip_stat_key key;
	struct fl_fip_stat *stat;

	fl_set_ip(key.fip, fip);
	stat = bpf_map_lookup_elem(&fl_fip_stats, &key);
	if (stat) {
		stat->out_packets++;
		stat->out_bytes += bytes;
	}
}

/*
 * Seconds of CLOCK_MONOTONIC, as of the last tick: much cheaper than the precise clocks where the hypervisor intercepts
 * the TSC.
 */
fl_inline __u32 fl_now(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
}

/* Userspace keeps alive in Linux what the fast path uses; a stamp per second is enough and spares the cache line. */
fl_inline void fl_stamp(__u32 *last_use)
{
	const __u32 now = fl_now();

	if (*last_use != now)
		*last_use = now;
}

#endif
