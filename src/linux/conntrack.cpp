// SPDX-License-Identifier: Apache-2.0
#include "linux/conntrack.hpp"

#include <fmt/format.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include <cstddef>
#include <span>
#include <vector>

#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

using nl::Attributes;

constexpr int message_type(int type) {
    return NFNL_SUBSYS_CTNETLINK << 8 | type;
}

nl::Request conntrack_request(int type, int flags) {
    nl::Request request(message_type(type), flags);
    nfgenmsg header{};
    header.nfgen_family = AF_INET;
    header.version = NFNETLINK_V0;
    request.header(header);
    return request;
}

bool mentions(const Attributes& entry, Ipv4 address) {
    for (const int tuple : {CTA_TUPLE_ORIG, CTA_TUPLE_REPLY}) {
        const Attributes ip = entry.nested(tuple).nested(CTA_TUPLE_IP);
        if (ip.ipv4(CTA_IP_V4_SRC) == address || ip.ipv4(CTA_IP_V4_DST) == address) return true;
    }
    return false;
}

/// What identifies an entry for deletion, as the kernel sent it. The id keeps a connection with the same addresses that
/// was made in between from being taken for it.
struct EntryName {
    struct Part {
        int attribute;
        std::vector<std::byte> bytes;
    };
    std::vector<Part> parts;
};

EntryName name_of(const Attributes& entry) {
    EntryName name;
    for (const int attribute : {CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID}) {
        const nlattr* found = entry.find(attribute);
        if (found == nullptr) continue;
        const std::span bytes(static_cast<const std::byte*>(nla_data(found)), static_cast<std::size_t>(nla_len(found)));
        name.parts.push_back({attribute, {bytes.begin(), bytes.end()}});
    }
    return name;
}

}  // namespace

Result<int> flush_conntrack(const Netns& netns, Ipv4 address) {
    auto socket = nl::Socket::open(netns, NETLINK_NETFILTER);
    if (!socket) return pass_on(socket);
    std::vector<EntryName> doomed;
    auto list = conntrack_request(IPCTNL_MSG_CT_GET, NLM_F_DUMP);
    const auto listed = socket->dump(
        list, [&] { doomed.clear(); },
        [&](const nlmsghdr& message) {
            if (message.nlmsg_type != message_type(IPCTNL_MSG_CT_NEW)) return;
            const Attributes entry(message, sizeof(nfgenmsg));
            if (mentions(entry, address)) doomed.push_back(name_of(entry));
        });
    if (!listed) return nl::fail_kernel(listed.error(), "cannot list tracked connections", nl::where_of(netns));

    int deleted = 0;
    for (const auto& name : doomed) {
        auto request = conntrack_request(IPCTNL_MSG_CT_DELETE, 0);
        for (const auto& part : name.parts) {
            const int nested = part.attribute == CTA_TUPLE_ORIG ? NLA_F_NESTED : 0;
            request.bytes(part.attribute | nested, part.bytes.data(), part.bytes.size());
        }
        const auto answer = socket->transact(request);
        if (answer) {
            ++deleted;
        } else if (answer.error().number != ENOENT) {  // ENOENT: it expired in the meantime
            return nl::fail_kernel(answer.error(),
                                   fmt::format("cannot delete a tracked connection of {}", address.str()),
                                   nl::where_of(netns));
        }
    }
    return deleted;
}

}  // namespace fiplane
