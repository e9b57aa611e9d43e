// SPDX-License-Identifier: Apache-2.0
// Links: dump and look-up.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/if_tunnel.h>
#include <linux/if_vlan.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Attributes;

/// IFLA_VXLAN_LABEL_POLICY (Linux 6.8), which older headers do not have.
constexpr int kVxlanLabelPolicy = 32;

/// An IPv4 address in mapped form is no local address of an IPv4 device, and nothing to send from over IPv6.
IpAddress vxlan_local(const Attributes& data) {
    const auto six = data.address(IFLA_VXLAN_LOCAL6);
    if (six) return six->is_ipv6() ? *six : IpAddress{};
    return data.address(IFLA_VXLAN_LOCAL).value_or(IpAddress{});
}

VxlanInfo parse_vxlan(const Attributes& data) {
    VxlanInfo info;
    info.vni = data.number<std::uint32_t>(IFLA_VXLAN_ID);
    info.local = vxlan_local(data);
    info.remote = data.address(data.has(IFLA_VXLAN_GROUP6) ? IFLA_VXLAN_GROUP6 : IFLA_VXLAN_GROUP);
    info.port = ntohs(data.number<std::uint16_t>(IFLA_VXLAN_PORT));
    info.underlay_ifindex = data.number<int>(IFLA_VXLAN_LINK);
    info.learning = data.flag(IFLA_VXLAN_LEARNING, false);
    info.ageing = data.number<std::uint32_t>(IFLA_VXLAN_AGEING);
    info.proxy = data.flag(IFLA_VXLAN_PROXY, false);
    info.udp_checksum = data.flag(IFLA_VXLAN_UDP_CSUM, false);
    info.sends_no_checksum6 = data.flag(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, false);
    info.takes_no_checksum6 = data.flag(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, false);
    info.extensions = data.has(IFLA_VXLAN_GBP) || data.has(IFLA_VXLAN_GPE) || data.flag(IFLA_VXLAN_REMCSUM_TX, false) ||
                      data.flag(IFLA_VXLAN_REMCSUM_RX, false);
    info.flow_label = ntohl(data.number<std::uint32_t>(IFLA_VXLAN_LABEL));
    info.inherits_flow_label = data.number<std::uint32_t>(kVxlanLabelPolicy) != 0;
    info.collect_metadata = data.flag(IFLA_VXLAN_COLLECT_METADATA, false);
    info.inherits_ttl = data.flag(IFLA_VXLAN_TTL_INHERIT, false);
    info.df = data.number<std::uint8_t>(IFLA_VXLAN_DF);
    info.ttl = data.number<std::uint8_t>(IFLA_VXLAN_TTL);
    info.tos = data.number<std::uint8_t>(IFLA_VXLAN_TOS);
    return info;
}

GreInfo parse_gre(const Attributes& data) {
    GreInfo info;
    const auto key = [&](int flags, int attribute) -> std::optional<std::uint32_t> {
        if ((data.number<std::uint16_t>(flags) & GRE_KEY) == 0) return std::nullopt;
        return ntohl(data.number<std::uint32_t>(attribute));
    };
    info.in_key = key(IFLA_GRE_IFLAGS, IFLA_GRE_IKEY);
    info.out_key = key(IFLA_GRE_OFLAGS, IFLA_GRE_OKEY);
    const auto flags = data.number<std::uint16_t>(IFLA_GRE_IFLAGS) | data.number<std::uint16_t>(IFLA_GRE_OFLAGS);
    info.other_flags = (flags & ~GRE_KEY) != 0;
    info.local = data.ipv4(IFLA_GRE_LOCAL).value_or(Ipv4{});
    info.remote = data.ipv4(IFLA_GRE_REMOTE).value_or(Ipv4{});
    info.underlay_ifindex = data.number<int>(IFLA_GRE_LINK);
    info.path_mtu_discovery = data.flag(IFLA_GRE_PMTUDISC, true);
    info.ignore_df = data.flag(IFLA_GRE_IGNORE_DF, false);
    info.collect_metadata = data.has(IFLA_GRE_COLLECT_METADATA);
    info.foreign_encapsulation = data.number<std::uint16_t>(IFLA_GRE_ENCAP_TYPE) != TUNNEL_ENCAP_NONE;
    info.ttl = data.number<std::uint8_t>(IFLA_GRE_TTL);
    info.tos = data.number<std::uint8_t>(IFLA_GRE_TOS);
    return info;
}

VlanInfo parse_vlan(const Attributes& attributes, const Attributes& data) {
    VlanInfo info;
    info.id = data.number<std::uint16_t>(IFLA_VLAN_ID);
    info.protocol = ntohs(data.number<std::uint16_t>(IFLA_VLAN_PROTOCOL, htons(ETH_P_8021Q)));
    // An index of another namespace could be that of any device here.
    if (!attributes.has(IFLA_LINK_NETNSID)) info.parent_ifindex = attributes.number<int>(IFLA_LINK);
    constexpr std::uint32_t kReorder = VLAN_FLAG_REORDER_HDR;
    // The first of struct ifla_vlan_flags. The attribute is left out where no flag is set (vlan_fill_info).
    const auto flags = data.number<std::uint32_t>(IFLA_VLAN_FLAGS);
    info.reorder_header = (flags & kReorder) != 0;
    info.other_flags = (flags & ~kReorder) != 0 || data.has(IFLA_VLAN_INGRESS_QOS) || data.has(IFLA_VLAN_EGRESS_QOS);
    return info;
}

// Newer than the oldest headers that this builds with.
constexpr int kGenevePortRange = 15;  // IFLA_GENEVE_PORT_RANGE, Linux 6.15
constexpr int kGeneveGroHint = 16;    // IFLA_GENEVE_GRO_HINT
constexpr int kGeneveLocal = 17;      // IFLA_GENEVE_LOCAL

GeneveInfo parse_geneve(const Attributes& data) {
    GeneveInfo info;
    info.vni = data.number<std::uint32_t>(IFLA_GENEVE_ID);
    info.local = data.ipv4(kGeneveLocal);
    if (info.local && info.local->is_unset()) info.local.reset();
    info.remote = data.ipv4(IFLA_GENEVE_REMOTE);
    info.port = ntohs(data.number<std::uint16_t>(IFLA_GENEVE_PORT));
    info.udp_checksum = data.flag(IFLA_GENEVE_UDP_CSUM, false);
    info.collect_metadata = data.has(IFLA_GENEVE_COLLECT_METADATA);
    info.inherits_ttl = data.flag(IFLA_GENEVE_TTL_INHERIT, false);
    info.carries_ip = data.has(IFLA_GENEVE_INNER_PROTO_INHERIT);
    info.gro_hint = data.has(kGeneveGroHint);
    info.df = data.number<std::uint8_t>(IFLA_GENEVE_DF);
    info.ttl = data.number<std::uint8_t>(IFLA_GENEVE_TTL);
    info.tos = data.number<std::uint8_t>(IFLA_GENEVE_TOS);
    // Two numbers in network byte order: the lowest and the highest port.
    if (const auto range = data.number<std::uint32_t>(kGenevePortRange); range != 0) {
        info.first_source_port = static_cast<std::uint16_t>(ntohl(range) >> 16);
        info.last_source_port = static_cast<std::uint16_t>(ntohl(range));
    }
    return info;
}

BridgeInfo parse_bridge(const Attributes& data) {
    BridgeInfo info;
    info.vlan_filtering = data.flag(IFLA_BR_VLAN_FILTERING, false);
    info.stp = data.number<std::uint32_t>(IFLA_BR_STP_STATE) != 0;
    info.ageing_time = data.number<std::uint32_t>(IFLA_BR_AGEING_TIME);
    info.multicast_snooping = data.flag(IFLA_BR_MCAST_SNOOPING, false);
    return info;
}

BridgePortInfo parse_bridge_port(const Attributes& data) {
    BridgePortInfo info;
    info.state = data.number<std::uint8_t>(IFLA_BRPORT_STATE, BR_STATE_DISABLED);
    info.learning = data.flag(IFLA_BRPORT_LEARNING, true);
    info.unicast_flood = data.flag(IFLA_BRPORT_UNICAST_FLOOD, true);
    info.isolated = data.flag(IFLA_BRPORT_ISOLATED, false);
    info.neigh_suppress = data.flag(IFLA_BRPORT_NEIGH_SUPPRESS, false);
    info.hairpin = data.flag(IFLA_BRPORT_MODE, false);
    return info;
}

/// A device may have a generic, a native and an offloaded program at once; IFLA_XDP_PROG_ID is then absent.
std::uint32_t parse_xdp(const Attributes& xdp) {
    for (const int attribute : {IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID}) {
        if (const auto id = xdp.number<std::uint32_t>(attribute); id != 0) return id;
    }
    return 0;
}

std::optional<PeerInfo> parse_peer(const Attributes& attributes, const std::map<int, NetnsName>& nsid_names,
                                   const NetnsName& own_name) {
    const int ifindex = attributes.number<int>(IFLA_LINK);
    if (ifindex == 0) return std::nullopt;
    PeerInfo peer{.ifindex = ifindex, .netns = std::nullopt};
    if (!attributes.has(IFLA_LINK_NETNSID)) {
        peer.netns = own_name;
    } else if (const auto named = nsid_names.find(attributes.number<int>(IFLA_LINK_NETNSID, NETNSA_NSID_NOT_ASSIGNED));
               named != nsid_names.end()) {
        peer.netns = named->second;
    }
    return peer;
}

/// What a link of its kind has, and what it has as a port of a bridge.
void parse_kind(Link& link, const Attributes& attributes) {
    const Attributes info = attributes.nested(IFLA_LINKINFO);
    link.kind = info.text(IFLA_INFO_KIND);
    const Attributes data = info.nested(IFLA_INFO_DATA);
    if (link.kind == "vxlan") link.vxlan = parse_vxlan(data);
    if (link.kind == "gretap") link.gre = parse_gre(data);
    if (link.kind == "vlan") link.vlan = parse_vlan(attributes, data);
    if (link.kind == "geneve") link.geneve = parse_geneve(data);
    if (link.kind == "bridge") link.bridge = parse_bridge(data);
    if (link.kind == "tun") link.is_tap = data.number<std::uint8_t>(IFLA_TUN_TYPE) == IFF_TAP;
    if (info.text(IFLA_INFO_SLAVE_KIND) == "bridge") {
        link.bridge_port = parse_bridge_port(info.nested(IFLA_INFO_SLAVE_DATA));
    }
}

std::optional<Link> parse_link(const nlmsghdr& message, const std::map<int, NetnsName>& nsid_names,
                               const NetnsName& own_name) {
    const auto* header = nl::header_of<ifinfomsg>(message);
    if (message.nlmsg_type != RTM_NEWLINK || header == nullptr) return std::nullopt;
    const Attributes attributes(message, sizeof(ifinfomsg));
    Link link;
    link.ifindex = header->ifi_index;
    link.name = attributes.text(IFLA_IFNAME);
    link.alias = attributes.text(IFLA_IFALIAS);
    link.mac = attributes.mac(IFLA_ADDRESS).value_or(Mac{});
    link.mtu = attributes.number<std::uint32_t>(IFLA_MTU);
    link.admin_up = (header->ifi_flags & IFF_UP) != 0;
    link.all_multicast = (header->ifi_flags & IFF_ALLMULTI) != 0;
    const auto operstate = attributes.number<std::uint8_t>(IFLA_OPERSTATE, IF_OPER_UNKNOWN);
    link.running = (header->ifi_flags & IFF_RUNNING) != 0 && (header->ifi_flags & IFF_LOWER_UP) != 0 &&
                   (operstate == IF_OPER_UP || operstate == IF_OPER_UNKNOWN);
    link.master = attributes.number<int>(IFLA_MASTER);
    link.qdisc = attributes.text(IFLA_QDISC);
    link.gso_max_size = attributes.number<std::uint32_t>(IFLA_GSO_MAX_SIZE);
    link.xdp_prog_id = parse_xdp(attributes.nested(IFLA_XDP));
    parse_kind(link, attributes);
    if (link.kind == "veth") link.peer = parse_peer(attributes, nsid_names, own_name);
    return link;
}

nl::Request link_request(int flags) {
    nl::Request request(RTM_GETLINK, flags);
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    // Statistics are more than half of each message.
    request.header(header).number(IFLA_EXT_MASK, std::uint32_t{RTEXT_FILTER_SKIP_STATS});
    return request;
}

}  // namespace

Result<std::map<int, Link>> Rtnl::links(const std::map<int, NetnsName>& nsid_names, const NetnsName& own_name) {
    auto request = link_request(NLM_F_DUMP);
    auto found = impl_->collect<Link>(
        request, "list links", [&](const nlmsghdr& message) { return parse_link(message, nsid_names, own_name); });
    if (!found) return pass_on(found);
    std::map<int, Link> links;
    for (auto& link : *found) {
        const int ifindex = link.ifindex;
        links.insert_or_assign(ifindex, std::move(link));
    }
    return links;
}

Result<std::optional<Link>> Rtnl::link_by_name(const std::string& name) {
    auto request = link_request(0);
    request.text(IFLA_IFNAME, name);
    std::optional<Link> link;
    const auto answer =
        impl_->socket.transact(request, [&](const nlmsghdr& message) { link = parse_link(message, {}, NetnsName{}); });
    if (answer) return link;
    if (answer.error().number == ENODEV) return std::optional<Link>{};
    return nl::fail_kernel(answer.error(), fmt::format("cannot look up link {}", name), impl_->where);
}

}  // namespace fiplane
