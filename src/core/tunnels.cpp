// SPDX-License-Identifier: Apache-2.0
#include "core/tunnels.hpp"

#include <fmt/format.h>

namespace fiplane {

namespace {

constexpr std::uint8_t kUdp = 17;
constexpr std::uint8_t kGre = 47;
constexpr std::uint32_t kMulticast = 0xe;  // 224/4

/// The hop limit that a device without a TTL takes is its own, which a router's advertisement may set
/// (ip6_dst_hoplimit), so it must have one.
std::string vxlan_ipv6_refusal(const std::string& name, const VxlanInfo& vxlan) {
    if (vxlan.local.is_link_local()) return name + " has a link-local address";
    if (!vxlan.sends_no_checksum6) return name + " sends UDP checksums over IPv6 (noudp6zerocsumtx)";
    if (!vxlan.takes_no_checksum6) return name + " drops packets without a UDP checksum (noudp6zerocsumrx)";
    if (vxlan.ttl == 0) return name + " has no TTL of its own, which IPv6 needs";
    if (vxlan.flow_label != 0 || vxlan.inherits_flow_label) return name + " sets a flow label";
    return {};
}

std::string vxlan_refusal(const std::string& name, const VxlanInfo& vxlan) {
    if (vxlan.collect_metadata) return name + " is in collect-metadata mode";
    if (vxlan.extensions) return name + " has extensions of the header (gbp, gpe or remcsum)";
    if (vxlan.inherits_ttl) return name + " copies the inner packet's TTL";
    if (vxlan.df != 0) return name + " sets DF, or copies that of the inner packet";
    if (vxlan.local.is_ipv6()) {
        if (auto why = vxlan_ipv6_refusal(name, vxlan); !why.empty()) return why;
    } else if (vxlan.udp_checksum) {
        return name + " sends UDP checksums";
    }
    if (vxlan.ttl != 0 && vxlan.ttl != FL_TUNNEL_TTL) return fmt::format("{} sends with TTL {}", name, vxlan.ttl);
    if (vxlan.tos != 0) return fmt::format("{} sends with TOS {}", name, vxlan.tos);
    if (vxlan.local.is_unset()) return name + " has no local address";
    return {};
}

/// A gretap device takes more from the inner packet than a vxlan device does (net/ipv4/ip_tunnel.c, ip_tunnel_xmit):
/// the TTL unless it has its own, DF unless it ignores it.
std::string gre_refusal(const std::string& name, const GreInfo& gre) {
    if (gre.collect_metadata) return name + " is in collect-metadata mode";
    if (gre.foreign_encapsulation) return name + " wraps GRE into UDP";
    if (!gre.in_key || gre.in_key != gre.out_key) return name + " has not one key for both directions";
    if (gre.other_flags) return name + " sends checksums or sequence numbers";
    if (gre.path_mtu_discovery) return name + " sets DF (pmtudisc)";
    if (!gre.ignore_df) return name + " copies DF of the inner packet (noignore-df)";
    if (gre.ttl != FL_TUNNEL_TTL) {
        return gre.ttl == 0 ? name + " copies the inner packet's TTL"
                            : fmt::format("{} sends with TTL {}", name, gre.ttl);
    }
    if (gre.tos != 0) return fmt::format("{} sends with TOS {}", name, gre.tos);
    if (gre.local.is_unset()) return name + " has no local address";
    if (gre.remote.is_unset() || gre.remote.value >> 28 == kMulticast) return name + " has no single remote address";
    return {};
}

/// drivers/net/geneve.c, geneve_xmit_skb. Source ports are Linux's choice and so the programs' own, within what the
/// device may use.
std::string geneve_refusal(const std::string& name, const GeneveInfo& geneve) {
    if (geneve.collect_metadata) return name + " is in collect-metadata mode";
    if (geneve.carries_ip) return name + " carries no Ethernet (innerprotoinherit)";
    if (geneve.gro_hint) return name + " sends options (GRO hints)";
    if (geneve.udp_checksum) return name + " sends UDP checksums";
    if (geneve.inherits_ttl) return name + " copies the inner packet's TTL";
    if (geneve.df != 0) return name + " sets DF, or copies that of the inner packet";
    if (geneve.ttl != 0 && geneve.ttl != FL_TUNNEL_TTL) return fmt::format("{} sends with TTL {}", name, geneve.ttl);
    if (geneve.tos != 0) return fmt::format("{} sends with TOS {}", name, geneve.tos);
    if (geneve.first_source_port > FL_SOURCE_PORT_FIRST || geneve.last_source_port < FL_SOURCE_PORT_END - 1) {
        return fmt::format("{} sends from UDP ports {}-{} only", name, geneve.first_source_port,
                           geneve.last_source_port);
    }
    if (!geneve.remote || geneve.remote->is_unset()) return name + " has no remote IPv4 address";
    return {};
}

}  // namespace

std::optional<Tunnel> tunnel_of(const Link& link) {
    if (link.vxlan) {
        const VxlanInfo& vxlan = *link.vxlan;
        return Tunnel{.type = vxlan.local.is_ipv6() ? FL_TUNNEL_VXLAN6 : FL_TUNNEL_VXLAN,
                      .id = vxlan.vni,
                      .local = vxlan.local,
                      .port = vxlan.port,
                      .remote = std::nullopt,
                      .underlay_ifindex = vxlan.underlay_ifindex,
                      .answers_arp = vxlan.proxy};
    }
    if (link.gre) {
        const GreInfo& gre = *link.gre;
        return Tunnel{.type = FL_TUNNEL_GRE,
                      .id = gre.in_key.value_or(0),
                      .local = gre.local,
                      .port = 0,
                      .remote = gre.remote,
                      .underlay_ifindex = gre.underlay_ifindex,
                      .answers_arp = false};
    }
    if (link.geneve) {
        const GeneveInfo& geneve = *link.geneve;
        return Tunnel{.type = FL_TUNNEL_GENEVE,
                      .id = geneve.vni,
                      .local = geneve.local ? *geneve.local : IpAddress{},
                      .port = geneve.port,
                      .remote = geneve.remote,
                      .underlay_ifindex = 0,
                      .answers_arp = false,
                      .route_gives_local = !geneve.local};
    }
    return std::nullopt;
}

std::string header_refusal(const Link& link) {
    if (link.vxlan) return vxlan_refusal(link.name, *link.vxlan);
    if (link.gre) return gre_refusal(link.name, *link.gre);
    if (link.geneve) return geneve_refusal(link.name, *link.geneve);
    return link.name + " is no tunnel";
}

std::uint32_t tunnel_overhead(fl_tunnel_type type) {
    constexpr std::uint32_t kIpv4 = 20, kIpv6 = 40, kUdpHeader = 8, kShim = 8, kEthernet = 14;
    const std::uint32_t ip = type == FL_TUNNEL_VXLAN6 ? kIpv6 : kIpv4;
    return ip + (type == FL_TUNNEL_GRE ? 0 : kUdpHeader) + kShim + kEthernet;
}

std::uint8_t outer_protocol(fl_tunnel_type type) {
    return type == FL_TUNNEL_GRE ? kGre : kUdp;
}

}  // namespace fiplane
