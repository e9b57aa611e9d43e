/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tunnel types differ in. A new one is a line in each of these functions; it has to have a shim of 8 bytes
 * whose first half is a constant.
 *
 *	VXLAN	UDP, then flags (the I bit alone) and the VNI		RFC 7348
 *	VXLAN6	the same over IPv6					RFC 6935
 *	Geneve	UDP, then version, no options, Ethernet and the VNI	RFC 8926
 *	GRE	flags (the K bit alone), Ethernet and the key		RFC 2784, RFC 2890
 */
#ifndef FL_ENCAP_H
#define FL_ENCAP_H

#include "lib/base.h"

#define FL_VXLAN_FIRST 0x08000000 /* no GBP, no GPE, no remote checksum offload */
#define FL_GENEVE_FIRST 0x00006558
#define FL_GRE_FIRST 0x20006558
#define FL_GRE_LEN (FL_ETH_LEN + FL_IP_LEN + sizeof(struct fl_shim))

fl_inline bool fl_is_over_udp(enum fl_tunnel_type type)
{
	return type != FL_TUNNEL_GRE;
}

fl_inline bool fl_is_over_ipv6(enum fl_tunnel_type type)
{
	return type == FL_TUNNEL_VXLAN6;
}

/* Length of the outer headers, and so the offset of the inner frame. All types of one length have the same headers but
 * for the shim. */
fl_inline __u32 fl_outer_len(enum fl_tunnel_type type)
{
	if (fl_is_over_ipv6(type))
		return FL_OUTER_MAX;
	return fl_is_over_udp(type) ? FL_UDP_OUTER_LEN : FL_GRE_LEN;
}

fl_inline __be32 fl_shim_first(enum fl_tunnel_type type)
{
	switch (type) {
	case FL_TUNNEL_GENEVE:
		return bpf_htonl(FL_GENEVE_FIRST);
	case FL_TUNNEL_GRE:
		return bpf_htonl(FL_GRE_FIRST);
	default:
		return bpf_htonl(FL_VXLAN_FIRST);
	}
}

/* A VNI stands in the upper 24 bits; the lowest byte is reserved. */
fl_inline __be32 fl_shim_id(enum fl_tunnel_type type, __u32 id)
{
	return bpf_htonl(fl_is_over_udp(type) ? id << 8 : id);
}

fl_inline __u32 fl_tunnel_id(enum fl_tunnel_type type, __be32 id)
{
	return fl_is_over_udp(type) ? bpf_ntohl(id) >> 8 : bpf_ntohl(id);
}

/* Nothing but what all packets of the type have. */
fl_inline bool fl_is_plain_shim(enum fl_tunnel_type type, const struct fl_shim *shim)
{
	return shim->first == fl_shim_first(type) && !(fl_is_over_udp(type) && shim->id & bpf_htonl(0xff));
}

fl_inline __be16 fl_tunnel_port(const struct fl_config *config, enum fl_tunnel_type type)
{
	return bpf_htons(type == FL_TUNNEL_GENEVE ? config->geneve_port : config->vxlan_port);
}

#endif
