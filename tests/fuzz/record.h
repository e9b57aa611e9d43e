/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a traced program did with the last packet. One instance lies in the .bss map of each traced object, which user
 * space maps and clears before each run: no system call is needed to read it.
 */
#ifndef FL_FUZZ_RECORD_H
#define FL_FUZZ_RECORD_H

enum fl_record_via {
    FL_VIA_NONE,
    FL_VIA_REDIRECT, /* bpf_redirect */
    FL_VIA_PEER,     /* bpf_redirect_peer */
    FL_VIA_MAP,      /* bpf_redirect_map, when it found the device */
};

/* Native byte order. */
struct fl_record {
    __u32 counts; /* calls of fl_count; the other fields are those of the last call */
    __u32 hook;
    __u32 reason;
    __u32 bytes;
    __u32 redirects; /* redirects set up; the other fields are those of the last one */
    __u32 via;       /* enum fl_record_via */
    __u32 ifindex;
    __u32 flags;
};

#endif
