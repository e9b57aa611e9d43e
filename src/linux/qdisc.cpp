// SPDX-License-Identifier: Apache-2.0
#include "linux/qdisc.hpp"

#include <fmt/format.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "linux/nl_socket.hpp"

namespace fiplane {

Result<> ensure_ingress_qdisc(const Netns& netns, int ifindex) {
    auto socket = nl::Socket::open(netns, NETLINK_ROUTE);
    if (!socket) return pass_on(socket);
    nl::Request request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
    tcmsg header{};
    header.tcm_ifindex = ifindex;
    header.tcm_parent = TC_H_INGRESS;
    header.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
    request.header(header).text(TCA_KIND, "ingress");
    const auto answer = socket->transact(request);
    if (answer || answer.error().number == EEXIST) return {};
    return nl::fail_kernel(answer.error(), fmt::format("cannot make an ingress qdisc on device {}", ifindex),
                           nl::where_of(netns));
}

}  // namespace fiplane
