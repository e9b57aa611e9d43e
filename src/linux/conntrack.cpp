// SPDX-License-Identifier: Apache-2.0
#include "linux/conntrack.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "linux/nl_socket.hpp"
#include "linux/sysctl.hpp"

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

void put_tuple(nl::Request& request, int attribute, std::uint8_t protocol, const ConnectionTuple& tuple) {
    const nl::Nest whole(request, attribute);
    {
        const nl::Nest addresses(request, CTA_TUPLE_IP);
        request.ipv4(CTA_IP_V4_SRC, tuple.source).ipv4(CTA_IP_V4_DST, tuple.destination);
    }
    const nl::Nest transport(request, CTA_TUPLE_PROTO);
    request.number(CTA_PROTO_NUM, protocol)
        .number(CTA_PROTO_SRC_PORT, htons(tuple.source_port))
        .number(CTA_PROTO_DST_PORT, htons(tuple.destination_port));
}

/// A range of one address and one port: from that the kernel chooses without asking whether it is free. Whether it was,
/// the insertion says.
void put_nat(nl::Request& request, int attribute, Ipv4 address, std::uint16_t port) {
    const nl::Nest range(request, attribute);
    request.ipv4(CTA_NAT_V4_MINIP, address).ipv4(CTA_NAT_V4_MAXIP, address);
    const nl::Nest ports(request, CTA_NAT_PROTO);
    request.number(CTA_PROTONAT_PORT_MIN, htons(port)).number(CTA_PROTONAT_PORT_MAX, htons(port));
}

/// In FIN_WAIT Linux takes more data from the side that has not ended, and further FINs.
void put_tcp(nl::Request& request, bool closing) {
    const nl::Nest info(request, CTA_PROTOINFO);
    const nl::Nest tcp(request, CTA_PROTOINFO_TCP);
    const std::uint8_t state = closing ? TCP_CONNTRACK_FIN_WAIT : TCP_CONNTRACK_ESTABLISHED;
    const nf_ct_tcp_flags liberal{.flags = IP_CT_TCP_FLAG_BE_LIBERAL, .mask = IP_CT_TCP_FLAG_BE_LIBERAL};
    request.number(CTA_PROTOINFO_TCP_STATE, state)
        .bytes(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &liberal, sizeof liberal)
        .bytes(CTA_PROTOINFO_TCP_FLAGS_REPLY, &liberal, sizeof liberal);
}

/// See ctnetlink_create_conntrack(): the reply must come in untranslated, for it is what both NAT attributes change,
/// and they set the bits of the status that are about NAT. Both are given even where one changes nothing, since the
/// kernel else makes a binding of its own, which may move a port.
nl::Request creation_of(const TrackedConnection& connection) {
    auto request = conntrack_request(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL);
    const ConnectionTuple& from = connection.original;
    put_tuple(request, CTA_TUPLE_ORIG, connection.protocol, from);
    put_tuple(request, CTA_TUPLE_REPLY, connection.protocol,
              {from.destination, from.destination_port, from.source, from.source_port});
    put_nat(request, CTA_NAT_DST, connection.reply.source, connection.reply.source_port);
    put_nat(request, CTA_NAT_SRC, connection.reply.destination, connection.reply.destination_port);
    const std::uint32_t status = connection.answered ? IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED : IPS_CONFIRMED;
    request.number(CTA_STATUS, htonl(status));
    request.number(CTA_TIMEOUT, htonl(connection.timeout));
    if (connection.protocol == IPPROTO_TCP) put_tcp(request, connection.closing);
    return request;
}

/// Whether the opener's packets have an entry, in either direction of it.
bool is_tracked(nl::Socket& socket, const TrackedConnection& connection) {
    auto request = conntrack_request(IPCTNL_MSG_CT_GET, 0);
    put_tuple(request, CTA_TUPLE_ORIG, connection.protocol, connection.original);
    return socket.transact(request).has_value();
}

std::optional<std::uint32_t> conntrack_setting(const Netns& netns, const char* name) {
    const auto text = read_sysctl(netns, fmt::format("netfilter/nf_conntrack_{}", name));
    if (!text) return std::nullopt;
    std::uint32_t value = 0;
    const auto [end, status] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (status != std::errc{} || end != text->data() + text->size()) return std::nullopt;
    return value;
}

}  // namespace

ConntrackLimits read_conntrack_limits(const Netns& netns) {
    ConntrackLimits limits;
    const auto most = conntrack_setting(netns, "max");
    const auto count = conntrack_setting(netns, "count");
    // Zero: no limit.
    if (most && count && *most != 0) limits.room = *most > *count ? *most - *count : 0;
    const auto read = [&](const char* name, std::uint32_t& into) {
        into = conntrack_setting(netns, name).value_or(into);
    };
    read("tcp_timeout_established", limits.tcp_established);
    read("tcp_timeout_fin_wait", limits.tcp_closing);
    read("tcp_timeout_unacknowledged", limits.tcp_unanswered);
    read("udp_timeout_stream", limits.udp_stream);
    read("udp_timeout", limits.udp_unanswered);
    read("icmp_timeout", limits.icmp);
    return limits;
}

Result<AddedConnections> add_conntrack(const Netns& netns, std::span<const TrackedConnection> connections) {
    AddedConnections out;
    if (connections.empty()) return out;
    auto socket = nl::Socket::open(netns, NETLINK_NETFILTER);
    if (!socket) return pass_on(socket);
    for (const TrackedConnection& connection : connections) {
        auto request = creation_of(connection);
        const auto answer = socket->transact(request);
        if (answer) {
            ++out.added;
        } else if (answer.error().number == EEXIST) {
            ++(is_tracked(*socket, connection) ? out.present : out.taken);
        } else {
            ++out.refused;
            auto error = nl::fail_kernel(answer.error(), "cannot add a tracked connection", nl::where_of(netns));
            if (!out.refusal) out.refusal = std::move(error.error());
        }
    }
    return out;
}

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
