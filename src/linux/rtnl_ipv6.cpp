// SPDX-License-Identifier: Apache-2.0
// What tunnels over IPv6 need of the node's own namespace: its addresses, and the way to a peer.
#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cerrno>

#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Attributes;
using nl::Request;

constexpr std::uint8_t kHostLength = 128;

std::optional<Ipv6Address> parse_address(const nlmsghdr& message) {
    const auto* header = nl::header_of<ifaddrmsg>(message);
    if (message.nlmsg_type != RTM_NEWADDR || header == nullptr || header->ifa_family != AF_INET6) return std::nullopt;
    const Attributes attributes(message, sizeof(ifaddrmsg));
    const auto flags = attributes.number<std::uint32_t>(IFA_FLAGS, header->ifa_flags);
    if ((flags & IFA_F_DADFAILED) != 0) return std::nullopt;
    const auto address = attributes.address(attributes.has(IFA_LOCAL) ? IFA_LOCAL : IFA_ADDRESS);
    if (!address) return std::nullopt;
    return Ipv6Address{static_cast<int>(header->ifa_index), *address, (flags & IFA_F_TENTATIVE) != 0};
}

RouteType route_type(unsigned char type) {
    if (type == RTN_UNICAST) return RouteType::kUnicast;
    return type == RTN_LOCAL ? RouteType::kLocal : RouteType::kOther;
}

std::uint32_t mtu_of(const Attributes& route) {
    return route.nested(RTA_METRICS).number<std::uint32_t>(RTAX_MTU);
}

void read_route(const nlmsghdr& message, Ipv6Way& way) {
    const auto* header = nl::header_of<rtmsg>(message);
    if (message.nlmsg_type != RTM_NEWROUTE || header == nullptr) return;
    const Attributes attributes(message, sizeof(rtmsg));
    way.type = route_type(header->rtm_type);
    if (attributes.has(RTA_VIA) || attributes.has(RTA_ENCAP) || attributes.has(RTA_NH_ID)) way.type = RouteType::kOther;
    way.oif = attributes.number<int>(RTA_OIF);
    way.gateway = attributes.address(RTA_GATEWAY);
    way.multipath = attributes.has(RTA_MULTIPATH);
    way.mtu = mtu_of(attributes);
}

/// "No such thing" of a lookup: no route, or one of type unreachable, prohibit or blackhole; a device that has gone.
bool is_absence(int number) {
    return number == ENETUNREACH || number == EHOSTUNREACH || number == EACCES || number == EINVAL || number == ENODEV;
}

}  // namespace

Result<std::vector<Ipv6Address>> Rtnl::ipv6_addresses() {
    auto request = dump_request<ifaddrmsg>(RTM_GETADDR, AF_INET6);
    return impl_->collect<Ipv6Address>(request, "list IPv6 addresses", parse_address);
}

Result<Ipv6Way> Rtnl::ipv6_way(const IpAddress& local, const IpAddress& peer, int bound_to) {
    Ipv6Way way;
    way.local = local;
    way.peer = peer;
    way.bound_to = bound_to;
    const auto ask = [&](unsigned flags, const nl::OnMessage& on_route) {
        Request route(RTM_GETROUTE, 0);
        rtmsg header{};
        header.rtm_family = AF_INET6;
        header.rtm_dst_len = header.rtm_src_len = kHostLength;
        header.rtm_flags = flags;
        route.header(header).address(RTA_DST, peer).address(RTA_SRC, local);
        if (bound_to != 0) route.number(RTA_OIF, bound_to);
        return impl_->socket.transact(route, on_route);
    };
    // The route itself, with all its next hops, and not what the flow of this question would get.
    const auto found = ask(RTM_F_FIB_MATCH, [&](const nlmsghdr& message) { read_route(message, way); });
    const std::string what = fmt::format("cannot look up the route to {}", peer.str());
    if (!found && !is_absence(found.error().number)) return nl::fail_kernel(found.error(), what, impl_->where);
    if (!found || way.type != RouteType::kUnicast || way.multipath) return way;

    // What "packet too big" taught the kernel of the path is not the route's: IPv6's routers do not fragment.
    const auto learned = ask(0, [&](const nlmsghdr& message) {
        if (message.nlmsg_type != RTM_NEWROUTE) return;
        const std::uint32_t path = mtu_of(Attributes(message, sizeof(rtmsg)));
        if (path != 0) way.mtu = way.mtu == 0 ? path : std::min(way.mtu, path);
    });
    if (!learned && !is_absence(learned.error().number)) return nl::fail_kernel(learned.error(), what, impl_->where);

    const IpAddress next_hop = way.gateway.value_or(peer);
    Request neighbour(RTM_GETNEIGH, 0);
    ndmsg wanted{};
    wanted.ndm_family = AF_INET6;
    wanted.ndm_ifindex = way.oif;
    neighbour.header(wanted).address(NDA_DST, next_hop);
    const auto known = impl_->socket.transact(neighbour, [&](const nlmsghdr& message) {
        const auto* entry = nl::header_of<ndmsg>(message);
        if (message.nlmsg_type != RTM_NEWNEIGH || entry == nullptr) return;
        way.mac = Attributes(message, sizeof(ndmsg)).mac(NDA_LLADDR).value_or(Mac{});
        way.state = entry->ndm_state;
    });
    if (known || known.error().number == ENOENT || is_absence(known.error().number)) return way;
    return nl::fail_kernel(known.error(), fmt::format("cannot look up neighbour {}", next_hop.str()), impl_->where);
}

}  // namespace fiplane
