// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// For the far end of a veth whose near end transmits from XDP (XDP_TX): veth_xdp_flush() of drivers/net/veth.c wakes
// the receiver only if that has an XDP program. Without one the frames wait for some other packet to come along.
#define SEC(name) __attribute__((section(name), used))

struct xdp_md;

SEC("xdp")
int xdp_pass(struct xdp_md* ctx) {
    (void)ctx;
    return 2; /* XDP_PASS */
}

char _license[] SEC("license") = "Dual BSD/GPL";
