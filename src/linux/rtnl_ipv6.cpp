// SPDX-License-Identifier: Apache-2.0
// What tunnels over IPv6 need of the node's own namespace: its addresses, and the way to a peer.
#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Attributes;
using nl::Request;

constexpr std::uint8_t kHostLength = 128;

std::optional<std::pair<int, IpAddress>> parse_address(const nlmsghdr& message) {
    const auto* header = nl::header_of<ifaddrmsg>(message);
    if (message.nlmsg_type != RTM_NEWADDR || header == nullptr || header->ifa_family != AF_INET6) return std::nullopt;
    const Attributes attributes(message, sizeof(ifaddrmsg));
    const auto address = attributes.address(attributes.has(IFA_LOCAL) ? IFA_LOCAL : IFA_ADDRESS);
    if (!address) return std::nullopt;
    return std::pair{static_cast<int>(header->ifa_index), *address};
}

RouteType route_type(unsigned char type) {
    if (type == RTN_UNICAST) return RouteType::kUnicast;
    return type == RTN_LOCAL ? RouteType::kLocal : RouteType::kOther;
}

void read_route(const nlmsghdr& message, Ipv6Way& way) {
    const auto* header = nl::header_of<rtmsg>(message);
    if (message.nlmsg_type != RTM_NEWROUTE || header == nullptr) return;
    const Attributes attributes(message, sizeof(rtmsg));
    way.type = route_type(header->rtm_type);
    if (attributes.has(RTA_VIA) || attributes.has(RTA_ENCAP)) way.type = RouteType::kOther;
    way.oif = attributes.number<int>(RTA_OIF);
    way.gateway = attributes.address(RTA_GATEWAY);
    way.multipath = attributes.has(RTA_MULTIPATH) || attributes.has(RTA_NH_ID);
    way.mtu = attributes.nested(RTA_METRICS).number<std::uint32_t>(RTAX_MTU);
}

/// "No such thing" of a lookup: no route, or one of type unreachable, prohibit or blackhole; a device that has gone.
bool is_absence(int number) {
    return number == ENETUNREACH || number == EHOSTUNREACH || number == EACCES || number == EINVAL || number == ENODEV;
}

}  // namespace

Result<std::vector<std::pair<int, IpAddress>>> Rtnl::ipv6_addresses() {
    Request request(RTM_GETADDR, NLM_F_DUMP);
    ifaddrmsg header{};
    header.ifa_family = AF_INET6;
    request.header(header);
    return impl_->collect<std::pair<int, IpAddress>>(request, "list IPv6 addresses", parse_address);
}

Result<Ipv6Way> Rtnl::ipv6_way(const IpAddress& local, const IpAddress& peer, int bound_to) {
    Ipv6Way way;
    way.local = local;
    way.peer = peer;
    way.bound_to = bound_to;
    Request route(RTM_GETROUTE, 0);
    rtmsg header{};
    header.rtm_family = AF_INET6;
    header.rtm_dst_len = header.rtm_src_len = kHostLength;
    // The route itself, with all its next hops, and not what the flow of this question would get.
    header.rtm_flags = RTM_F_FIB_MATCH;
    route.header(header).address(RTA_DST, peer).address(RTA_SRC, local);
    if (bound_to != 0) route.number(RTA_OIF, bound_to);
    const auto found = impl_->socket.transact(route, [&](const nlmsghdr& message) { read_route(message, way); });
    const std::string what = fmt::format("cannot look up the route to {}", peer.str());
    if (!found && !is_absence(found.error().number)) return nl::fail_kernel(found.error(), what, impl_->where);
    if (!found || way.type != RouteType::kUnicast || way.multipath) return way;

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
