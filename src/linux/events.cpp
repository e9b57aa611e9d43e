// SPDX-License-Identifier: Apache-2.0
#include "linux/events.hpp"

#include <fmt/format.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <vector>

#include "linux/ipsec.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

/// Enough for tens of thousands of notifications between two looks.
constexpr int kReceiveBuffer = 8 << 20;
/// Notifications are single messages; a longer one is cut, and its header is all that is read.
constexpr std::size_t kMessageRoom = 8 << 10;
/// Bound of one receive(): under a storm the caller gets its turn and is woken again at once.
constexpr int kMaxMessages = 1 << 16;

constexpr std::array kRouteGroups = {RTNLGRP_LINK,  RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE,   RTNLGRP_IPV4_RULE,
                                     RTNLGRP_NEIGH, RTNLGRP_NEXTHOP,     RTNLGRP_IPV4_NETCONF, RTNLGRP_TC};
/// Of the node's own namespace, in which tunnels may run over IPv6.
constexpr std::array kIpv6Groups = {RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE};
constexpr std::array kNetfilterGroups = {NFNLGRP_NFTABLES};
constexpr std::array kIpsecGroups = {XFRMNLGRP_POLICY};

template <typename Groups>
Result<> join(const UniqueFd& fd, const Netns& netns, const Groups& groups) {
    for (const int group : groups) {
        if (setsockopt(fd.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0) {
            return fail_errno(errno, fmt::format("cannot join netlink group {}", group), nl::where_of(netns));
        }
    }
    return {};
}

/// Opens a socket in the calling thread's namespace and joins the groups.
template <typename Groups>
Result<UniqueFd> open_groups(const Netns& netns, int protocol, const Groups& groups) {
    UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    if (!fd) return fail_errno(errno, "cannot open a netlink socket for notifications", nl::where_of(netns));
    nl::set_receive_buffer(fd.get(), kReceiveBuffer);
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    const void* raw = &address;
    if (bind(fd.get(), static_cast<const sockaddr*>(raw), sizeof address) != 0) {
        return fail_errno(errno, "cannot bind a netlink socket for notifications", nl::where_of(netns));
    }
    if (auto joined = join(fd, netns, groups); !joined) return pass_on(joined);
    return fd;
}

/// `family` is the first byte behind the header, in all of rtnetlink's messages.
void note_route_message(EventBatch& batch, int type, unsigned char family) {
    const bool of_link = type == RTM_NEWLINK || type == RTM_DELLINK;
    const bool of_nexthop = type == RTM_NEWNEXTHOP || type == RTM_DELNEXTHOP;
    if (family == AF_INET6 && !of_link && !of_nexthop) {
        batch.ipv6 = true;
        return;
    }
    switch (type) {
        case RTM_NEWLINK:
        case RTM_DELLINK:
        case RTM_NEWNETCONF:  // forwarding, rp_filter and proxy_arp, which are read along with the links
        case RTM_DELNETCONF:
            batch.links = true;
            break;
        case RTM_NEWQDISC:
        case RTM_DELQDISC:
        case RTM_NEWTFILTER:
        case RTM_DELTFILTER:
        case RTM_NEWCHAIN:
        case RTM_DELCHAIN:
            batch.programs = true;
            break;
        case RTM_NEWADDR:
        case RTM_DELADDR:
            batch.addresses = true;
            break;
        case RTM_NEWROUTE:
        case RTM_DELROUTE:
        case RTM_NEWNEXTHOP:
        case RTM_DELNEXTHOP:
            batch.routes = true;
            break;
        case RTM_NEWRULE:
        case RTM_DELRULE:
            batch.rules = true;
            break;
        case RTM_NEWNEIGH:
        case RTM_DELNEIGH:
            batch.neighbours = true;
            break;
        default:
            break;
    }
}

void note_netfilter_message(EventBatch& batch, int type, unsigned char /*family*/) {
    if (NFNL_SUBSYS_ID(type) == NFNL_SUBSYS_NFTABLES) batch.netfilter = true;
}

void note_ipsec_message(EventBatch& batch, int /*type*/, unsigned char /*family*/) {
    batch.ipsec = true;
}

/// Empties a socket; `note` gets the type and the family of each message.
template <typename Note>
void drain(int fd, std::vector<char>& buffer, EventBatch& batch, Note note) {
    for (int count = 0; count < kMaxMessages; ++count) {
        const ssize_t received = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (received < 0 && errno == EINTR) continue;
        if (received < 0 && errno == ENOBUFS) {
            batch.overrun = true;
            continue;
        }
        if (received <= 0) return;
        std::size_t at = 0;
        const auto size = static_cast<std::size_t>(received);
        while (at + sizeof(nlmsghdr) <= size) {
            nlmsghdr header{};
            std::memcpy(&header, buffer.data() + at, sizeof header);
            if (header.nlmsg_len < sizeof header) break;
            const std::size_t body = at + NLMSG_HDRLEN;
            const bool whole = header.nlmsg_len > NLMSG_HDRLEN && body < size;
            note(batch, header.nlmsg_type, whole ? static_cast<unsigned char>(buffer[body]) : AF_UNSPEC);
            if (header.nlmsg_len >= size - at) break;  // the last one, or cut; aligning a huge length would give 0
            at += NLMSG_ALIGN(header.nlmsg_len);
        }
    }
}

}  // namespace

struct NetnsEvents::Impl {
    UniqueFd rtnl;
    UniqueFd netfilter;
    UniqueFd ipsec;
    std::vector<char> buffer;
};

NetnsEvents::NetnsEvents(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NetnsEvents::NetnsEvents(NetnsEvents&&) noexcept = default;
NetnsEvents& NetnsEvents::operator=(NetnsEvents&&) noexcept = default;
NetnsEvents::~NetnsEvents() = default;

Result<NetnsEvents> NetnsEvents::open(const Netns& netns) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    auto impl = std::make_unique<Impl>();
    impl->buffer.resize(kMessageRoom);
    auto rtnl = open_groups(netns, NETLINK_ROUTE, kRouteGroups);
    if (!rtnl) return pass_on(rtnl);
    if (netns.name().empty()) {
        if (auto joined = join(*rtnl, netns, kIpv6Groups); !joined) return pass_on(joined);
    }
    auto netfilter = open_groups(netns, NETLINK_NETFILTER, kNetfilterGroups);
    if (!netfilter) return pass_on(netfilter);
    if (kernel_has_ipsec()) {
        auto ipsec = open_groups(netns, NETLINK_XFRM, kIpsecGroups);
        if (!ipsec) return pass_on(ipsec);
        impl->ipsec = std::move(*ipsec);
    }
    impl->rtnl = std::move(*rtnl);
    impl->netfilter = std::move(*netfilter);
    return NetnsEvents(std::move(impl));
}

int NetnsEvents::rtnl_fd() const {
    return impl_->rtnl.get();
}
int NetnsEvents::netfilter_fd() const {
    return impl_->netfilter.get();
}

int NetnsEvents::ipsec_fd() const {
    return impl_->ipsec.get();
}

EventBatch NetnsEvents::receive() {
    EventBatch batch;
    drain(impl_->rtnl.get(), impl_->buffer, batch, note_route_message);
    drain(impl_->netfilter.get(), impl_->buffer, batch, note_netfilter_message);
    if (impl_->ipsec) drain(impl_->ipsec.get(), impl_->buffer, batch, note_ipsec_message);
    return batch;
}

}  // namespace fiplane
