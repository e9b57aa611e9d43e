// SPDX-License-Identifier: Apache-2.0
#include "linux/ipsec.hpp"

#include <linux/xfrm.h>
#include <sys/socket.h>

#include <optional>

#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

constexpr std::uint8_t kIpv4Offset = 96;  // of an IPv4 address in its mapped form, bits

struct Block {
    IpAddress address;
    std::uint8_t length = 0;
};

/// A selector's address and prefix length. Of no family in particular where it selects everybody.
Block block_of(const xfrm_address_t& address, std::uint8_t length, std::uint16_t family) {
    if (family == AF_INET) {
        return {Ipv4::from_network(address.a4), static_cast<std::uint8_t>(kIpv4Offset + length)};
    }
    const void* bytes = &address;
    return {IpAddress::from_bytes(static_cast<const std::uint8_t*>(bytes)), length};
}

std::optional<IpsecPolicy> policy_of(const nlmsghdr& message) {
    const auto* info = nl::header_of<xfrm_userpolicy_info>(message);
    if (message.nlmsg_type != XFRM_MSG_NEWPOLICY || info == nullptr || info->dir >= XFRM_POLICY_MAX) {
        return std::nullopt;
    }
    const Block source = block_of(info->sel.saddr, info->sel.prefixlen_s, info->sel.family);
    const Block destination = block_of(info->sel.daddr, info->sel.prefixlen_d, info->sel.family);
    return IpsecPolicy{info->dir, source.address, source.length, destination.address, destination.length};
}

/// Directions in which what no policy selects is refused (`ip xfrm policy setdefault`): each as a policy for everybody.
nl::Answer add_refusing_defaults(nl::Socket& socket, std::vector<IpsecPolicy>& policies) {
    nl::Request request(XFRM_MSG_GETDEFAULT, 0);
    request.header(xfrm_userpolicy_default{});
    return socket.transact(request, [&](const nlmsghdr& message) {
        const auto* defaults = nl::header_of<xfrm_userpolicy_default>(message);
        if (message.nlmsg_type != XFRM_MSG_GETDEFAULT || defaults == nullptr) return;
        const auto add = [&](std::uint8_t direction, std::uint8_t action) {
            if (action == XFRM_USERPOLICY_BLOCK) policies.push_back({direction, {}, 0, {}, 0});
        };
        add(XFRM_POLICY_IN, defaults->in);
        add(XFRM_POLICY_FWD, defaults->fwd);
        add(XFRM_POLICY_OUT, defaults->out);
    });
}

}  // namespace

bool kernel_has_ipsec() {
    const UniqueFd probe(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM));
    return probe || errno != EPROTONOSUPPORT;
}

Result<std::vector<IpsecPolicy>> list_ipsec_policies(const Netns& netns) {
    std::vector<IpsecPolicy> policies;
    if (!kernel_has_ipsec()) return policies;
    auto socket = nl::Socket::open(netns, NETLINK_XFRM);
    if (!socket) return pass_on(socket);
    nl::Request request(XFRM_MSG_GETPOLICY, NLM_F_DUMP);
    request.header(xfrm_userpolicy_id{});
    auto answer = socket->dump(
        request, [&] { policies.clear(); },
        [&](const nlmsghdr& message) {
            if (const auto policy = policy_of(message)) policies.push_back(*policy);
        });
    if (answer) answer = add_refusing_defaults(*socket, policies);
    if (!answer) return nl::fail_kernel(answer.error(), "cannot list IPsec policies", nl::where_of(netns));
    return policies;
}

}  // namespace fiplane
