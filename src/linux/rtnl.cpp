// SPDX-License-Identifier: Apache-2.0
#include "linux/rtnl.hpp"

#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "linux/rtnl_impl.hpp"

namespace fiplane {

Rtnl::Rtnl(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Rtnl::Rtnl(Rtnl&&) noexcept = default;
Rtnl& Rtnl::operator=(Rtnl&&) noexcept = default;
Rtnl::~Rtnl() = default;

Result<Rtnl> Rtnl::open(const Netns& netns) {
    auto socket = nl::Socket::open(netns, NETLINK_ROUTE);
    if (!socket) return pass_on(socket);
    return Rtnl(std::make_unique<Impl>(Impl{std::move(*socket), nl::where_of(netns)}));
}

Result<std::optional<int>> Rtnl::nsid_of(const Netns& other) {
    nl::Request request(RTM_GETNSID, 0);
    rtgenmsg header{};
    header.rtgen_family = AF_UNSPEC;
    request.header(header).number(NETNSA_FD, static_cast<std::uint32_t>(other.fd()));
    std::optional<int> nsid;
    const auto answer = impl_->socket.transact(request, [&](const nlmsghdr& message) {
        const int id = nl::Attributes(message, sizeof(rtgenmsg)).number<int>(NETNSA_NSID, NETNSA_NSID_NOT_ASSIGNED);
        if (id != NETNSA_NSID_NOT_ASSIGNED) nsid = id;
    });
    if (!answer) {
        return nl::fail_kernel(answer.error(), "cannot find the id of network namespace " + other.name(), impl_->where);
    }
    return nsid;
}

}  // namespace fiplane
