/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP, ARP and TCP options. UAPI's linux/icmp.h and linux/if_arp.h include a libc's headers, which the BPF target does
 * not have.
 */
#ifndef FL_WIRE_H
#define FL_WIRE_H

#include "lib/base.h"

/* RFC 792, RFC 4884: the part that all messages share, 8 bytes with .rest. */
struct fl_icmp {
	__u8 type;
	__u8 code;
	__sum16 check;
	__be32 rest;
};

#define FL_ICMP_ECHO_REPLY 0
#define FL_ICMP_UNREACHABLE 3
#define FL_ICMP_SOURCE_QUENCH 4
#define FL_ICMP_REDIRECT 5
#define FL_ICMP_ECHO 8
#define FL_ICMP_TIME_EXCEEDED 11
#define FL_ICMP_PARAMETER_PROBLEM 12

/* RFC 9293: the header without options, flags, and the option that offers a maximum segment size. */
#define FL_TCP_LEN 20
#define FL_TCP_FIN 1
#define FL_TCP_SYN 2
#define FL_TCP_RST 4
#define FL_TCP_ACK 16
#define FL_TCP_FLAGS 13 /* where they are */
#define FL_TCP_MSS 2
#define FL_TCP_MSS_LEN 4

/* RFC 826 for IPv4 over Ethernet. Addresses are 2-byte aligned in the frame. */
struct fl_arp_body {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	struct fl_mac sender_mac;
	__be16 sender_ip[2];
	struct fl_mac target_mac;
	__be16 target_ip[2];
};

#define FL_ARP_ETHERNET 1
#define FL_ARP_REQUEST 1
#define FL_ARP_ANSWER 2

FL_STATIC_ASSERT(sizeof(struct fl_icmp) == 8, "ICMP");
FL_STATIC_ASSERT(sizeof(struct fl_arp_body) == 28, "ARP");

#endif
