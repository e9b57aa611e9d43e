// SPDX-License-Identifier: Apache-2.0
// Links: creation, change, removal.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_tunnel.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

#include "fiplane/abi.h"
#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Nest;
using nl::Request;

ifinfomsg link_header(int ifindex) {
    ifinfomsg header{};
    header.ifi_family = AF_UNSPEC;
    header.ifi_index = ifindex;
    return header;
}

Request new_link(const std::string& name) {
    Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    request.header(link_header(0)).text(IFLA_IFNAME, name);
    return request;
}

/// The alias goes without its NUL: the kernel stores the attribute's bytes, and an empty one removes the alias.
void put_alias(Request& request, const std::string& alias) {
    request.bytes(IFLA_IFALIAS, alias.data(), alias.size());
}

std::string describe(const LinkChange& change) {
    std::string text;
    const auto add = [&text](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
    if (change.mtu) add(fmt::format("MTU {}", *change.mtu));
    if (change.mac) add(fmt::format("MAC {}", change.mac->str()));
    if (change.up) add(*change.up ? "up" : "down");
    if (change.all_multicast) add(*change.all_multicast ? "all multicast" : "not all multicast");
    if (change.master) add(*change.master == 0 ? "no master" : fmt::format("master with index {}", *change.master));
    if (change.alias) add(fmt::format("alias \"{}\"", *change.alias));
    if (change.disable_ipv6_autoconf) add("IPv6 address generation");
    return text;
}

void put_ipv6_generation(Request& request, bool disable) {
    const Nest families(request, IFLA_AF_SPEC);
    const Nest ipv6(request, AF_INET6);
    const auto mode = disable ? IN6_ADDR_GEN_MODE_NONE : IN6_ADDR_GEN_MODE_EUI64;
    request.number(IFLA_INET6_ADDR_GEN_MODE, static_cast<std::uint8_t>(mode));
}

}  // namespace

Result<> Rtnl::require_kind(const std::string& kind) {
    // Kinds are looked up before attributes are checked, and none takes an all-zero address (EADDRNOTAVAIL, or EINVAL).
    Request request = new_link("fiplane-probe");
    request.mac(IFLA_ADDRESS, Mac{});
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, kind);
    }
    const auto answer = impl_->socket.transact(request);
    if (answer || answer.error().number != EOPNOTSUPP) return {};
    return fail(ExitCode::kMissingFeature, fmt::format("the kernel has no devices of kind {}", kind), impl_->where);
}

Result<> Rtnl::add_bridge(const BridgeSpec& spec) {
    const std::string what = fmt::format("create bridge {}", spec.name);
    // A bridge lowers its MTU to that of its ports unless its MTU was set by a change to a different value
    // (net/bridge/br_device.c, br_change_mtu). So it is made with another one than it shall keep.
    const std::uint32_t first_mtu = spec.mtu == ETH_DATA_LEN ? ETH_DATA_LEN - 1 : ETH_DATA_LEN;
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, first_mtu);
    if (spec.mac) request.mac(IFLA_ADDRESS, *spec.mac);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "bridge");
        const Nest data(request, IFLA_INFO_DATA);
        request.number(IFLA_BR_STP_STATE, std::uint32_t{spec.stp});
        request.number(IFLA_BR_MCAST_SNOOPING, static_cast<std::uint8_t>(spec.multicast_snooping));
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, spec.mtu, what);
}

Result<> Rtnl::add_vxlan(const VxlanSpec& spec) {
    const std::string what =
        fmt::format("create vxlan device {} (VNI {}, local {})", spec.name, spec.vni, spec.local.str());
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, spec.mtu);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "vxlan");
        const Nest data(request, IFLA_INFO_DATA);
        request.number(IFLA_VXLAN_ID, spec.vni);
        request.address(spec.local.is_ipv6() ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL, spec.local);
        request.number(IFLA_VXLAN_PORT, htons(spec.port));
        if (spec.underlay_ifindex != 0) request.number(IFLA_VXLAN_LINK, spec.underlay_ifindex);
        request.number(IFLA_VXLAN_LEARNING, static_cast<std::uint8_t>(spec.learning));
        request.number(IFLA_VXLAN_PROXY, static_cast<std::uint8_t>(spec.proxy));
        request.number(IFLA_VXLAN_UDP_CSUM, static_cast<std::uint8_t>(spec.udp_checksum));
        if (spec.local.is_ipv6()) {
            request.number(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, static_cast<std::uint8_t>(!spec.udp_checksum));
            request.number(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, static_cast<std::uint8_t>(!spec.udp_checksum));
            request.number(IFLA_VXLAN_TTL, std::uint8_t{FL_TUNNEL_TTL});
        }
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, std::nullopt, what);
}

Result<> Rtnl::add_gretap(const GretapSpec& spec) {
    const std::string what = fmt::format("create gretap device {} (key {}, local {}, remote {})", spec.name, spec.key,
                                         spec.local.str(), spec.remote.str());
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, spec.mtu);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "gretap");
        const Nest data(request, IFLA_INFO_DATA);
        request.number(IFLA_GRE_IFLAGS, static_cast<std::uint16_t>(GRE_KEY));
        request.number(IFLA_GRE_OFLAGS, static_cast<std::uint16_t>(GRE_KEY));
        request.number(IFLA_GRE_IKEY, htonl(spec.key));
        request.number(IFLA_GRE_OKEY, htonl(spec.key));
        request.ipv4(IFLA_GRE_LOCAL, spec.local);
        request.ipv4(IFLA_GRE_REMOTE, spec.remote);
        if (spec.underlay_ifindex != 0) request.number(IFLA_GRE_LINK, spec.underlay_ifindex);
        request.number(IFLA_GRE_TTL, std::uint8_t{FL_TUNNEL_TTL});
        // The kernel allows no ignore-df beside path MTU discovery (net/ipv4/ip_gre.c, ipgre_netlink_parms).
        request.number(IFLA_GRE_PMTUDISC, std::uint8_t{0});
        request.number(IFLA_GRE_IGNORE_DF, std::uint8_t{1});
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, std::nullopt, what);
}

Result<> Rtnl::add_vlan(const VlanSpec& spec) {
    const std::string what = fmt::format("create VLAN device {} (id {})", spec.name, spec.id);
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, spec.mtu);
    request.number(IFLA_LINK, spec.parent_ifindex);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "vlan");
        const Nest data(request, IFLA_INFO_DATA);
        request.number(IFLA_VLAN_ID, spec.id);
        request.number(IFLA_VLAN_PROTOCOL, htons(ETH_P_8021Q));
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, std::nullopt, what);
}

Result<> Rtnl::add_geneve(const GeneveSpec& spec) {
    const std::string what =
        fmt::format("create geneve device {} (VNI {}, remote {})", spec.name, spec.vni, spec.remote.str());
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, spec.mtu);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "geneve");
        const Nest data(request, IFLA_INFO_DATA);
        request.number(IFLA_GENEVE_ID, spec.vni);
        request.ipv4(IFLA_GENEVE_REMOTE, spec.remote);
        request.number(IFLA_GENEVE_PORT, htons(spec.port));
        request.number(IFLA_GENEVE_TTL, std::uint8_t{FL_TUNNEL_TTL});
        request.number(IFLA_GENEVE_UDP_CSUM, std::uint8_t{0});
        request.number(IFLA_GENEVE_DF, static_cast<std::uint8_t>(GENEVE_DF_UNSET));
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, std::nullopt, what);
}

Result<> Rtnl::add_veth(const VethSpec& spec) {
    const std::string what = fmt::format("create veth pair {} and {}", spec.name, spec.peer_name);
    Request request = new_link(spec.name);
    request.number(IFLA_MTU, spec.mtu);
    if (spec.mac) request.mac(IFLA_ADDRESS, *spec.mac);
    {
        const Nest info(request, IFLA_LINKINFO);
        request.text(IFLA_INFO_KIND, "veth");
        const Nest data(request, IFLA_INFO_DATA);
        const Nest peer(request, VETH_INFO_PEER);
        request.header(link_header(0)).text(IFLA_IFNAME, spec.peer_name).number(IFLA_MTU, spec.mtu);
        if (spec.peer_mac) request.mac(IFLA_ADDRESS, *spec.peer_mac);
        if (spec.peer_netns != nullptr) {
            request.number(IFLA_NET_NS_FD, static_cast<std::uint32_t>(spec.peer_netns->fd()));
        }
    }
    if (auto made = impl_->change(request, what); !made) return made;
    return impl_->finish_link(spec.name, spec.alias, std::nullopt, what);
}

Result<> Rtnl::Impl::finish_link(const std::string& name, const std::string& alias, std::optional<std::uint32_t> mtu,
                                 const std::string& what) {
    // The kernel ignores IFLA_IFALIAS in the request that creates a link.
    if (alias.empty() && !mtu) return {};
    Request request(RTM_SETLINK, 0);
    request.header(link_header(0)).text(IFLA_IFNAME, name);
    if (!alias.empty()) put_alias(request, alias);
    if (mtu) request.number(IFLA_MTU, *mtu);
    auto finished = change(request, what);
    if (finished) return {};
    // A link without its alias would look like somebody else's for ever.
    Request undo(RTM_DELLINK, 0);
    undo.header(link_header(0)).text(IFLA_IFNAME, name);
    if (auto undone = change(undo, fmt::format("remove link {} again", name)); !undone) {
        finished.error().hint = undone.error().what;
    }
    return finished;
}

Result<> Rtnl::change_link(int ifindex, const std::string& name_for_errors, const LinkChange& change) {
    const std::string what = fmt::format("set {} of {}", describe(change), name_for_errors);
    // First and alone: within one request the kernel brings the link up before it reads IFLA_AF_SPEC, and an address
    // would have been made by then.
    if (change.disable_ipv6_autoconf) {
        Request request(RTM_SETLINK, 0);
        request.header(link_header(ifindex));
        put_ipv6_generation(request, *change.disable_ipv6_autoconf);
        if (auto done = impl_->change(request, what); !done) return done;
    }
    const bool flags = change.up || change.all_multicast;
    if (!change.mtu && !change.mac && !flags && !change.master && !change.alias) return {};
    ifinfomsg header = link_header(ifindex);
    const auto put_flag = [&header](unsigned flag, std::optional<bool> on) {
        if (!on) return;
        header.ifi_change |= flag;
        if (*on) header.ifi_flags |= flag;
    };
    put_flag(IFF_UP, change.up);
    put_flag(IFF_ALLMULTI, change.all_multicast);
    Request request(RTM_SETLINK, 0);
    request.header(header);
    if (change.mtu) request.number(IFLA_MTU, *change.mtu);
    if (change.mac) request.mac(IFLA_ADDRESS, *change.mac);
    if (change.master) request.number(IFLA_MASTER, *change.master);
    if (change.alias) put_alias(request, *change.alias);
    return impl_->change(request, what);
}

Result<> Rtnl::change_bridge_port(int ifindex, const std::string& name_for_errors, const BridgePortChange& change) {
    Request request(RTM_SETLINK, 0);
    ifinfomsg header = link_header(ifindex);
    header.ifi_family = AF_BRIDGE;
    request.header(header);
    {
        const Nest port(request, IFLA_PROTINFO);
        const auto put = [&request](int attribute, std::optional<bool> value) {
            if (value) request.number(attribute, static_cast<std::uint8_t>(*value));
        };
        put(IFLA_BRPORT_LEARNING, change.learning);
        put(IFLA_BRPORT_UNICAST_FLOOD, change.unicast_flood);
        put(IFLA_BRPORT_NEIGH_SUPPRESS, change.neigh_suppress);
        put(IFLA_BRPORT_ISOLATED, change.isolated);
    }
    return impl_->change(request, fmt::format("set bridge port flags of {}", name_for_errors));
}

Result<> Rtnl::remove_link(int ifindex, const std::string& name_for_errors) {
    Request request(RTM_DELLINK, 0);
    request.header(link_header(ifindex));
    return impl_->change(request, fmt::format("remove link {}", name_for_errors));
}

}  // namespace fiplane
