// SPDX-License-Identifier: Apache-2.0
#include "datapath/device_query.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

namespace fiplane {

namespace {

/// The kernel fills dump buffers of up to 32 KiB; a larger receive buffer never truncates.
constexpr std::size_t kReceiveBuffer = 65536;
constexpr int kDumpAttempts = 5;
constexpr std::uint16_t kTypeMask = 0x3fff;  // NLA_TYPE_MASK without its int sign

using Bytes = std::span<const std::byte>;

template <typename T>
std::optional<T> read_as(Bytes bytes) {
    if (bytes.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
}

constexpr std::size_t aligned(std::size_t length) {
    return (length + 3) & ~std::size_t{3};
}

/// Calls visit(type, payload) for each attribute; stops at a malformed one.
template <typename Visit>
void for_each_attribute(Bytes bytes, Visit visit) {
    while (const auto header = read_as<rtattr>(bytes)) {
        if (header->rta_len < sizeof(rtattr) || header->rta_len > bytes.size()) return;
        visit(static_cast<std::uint16_t>(header->rta_type & kTypeMask),
              bytes.subspan(sizeof(rtattr), header->rta_len - sizeof(rtattr)));
        bytes = bytes.subspan(std::min(aligned(header->rta_len), bytes.size()));
    }
}

std::string text_of(Bytes bytes) {
    std::string out(bytes.size(), '\0');
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    out.resize(std::strlen(out.c_str()));
    return out;
}

void read_xdp(Bytes nested, DeviceFacts& facts) {
    std::uint8_t mode = XDP_ATTACHED_NONE;
    std::uint32_t single = 0;
    for_each_attribute(nested, [&](std::uint16_t type, Bytes value) {
        const auto id = read_as<std::uint32_t>(value).value_or(0);
        if (type == IFLA_XDP_ATTACHED) mode = read_as<std::uint8_t>(value).value_or(0);
        if (type == IFLA_XDP_PROG_ID) single = id;
        if (type == IFLA_XDP_DRV_PROG_ID) facts.xdp_native = id;
        if (type == IFLA_XDP_SKB_PROG_ID) facts.xdp_generic = id;
        if (type == IFLA_XDP_HW_PROG_ID) facts.xdp_hardware = id;
    });
    if (mode == XDP_ATTACHED_DRV && facts.xdp_native == 0) facts.xdp_native = single;
    if (mode == XDP_ATTACHED_SKB && facts.xdp_generic == 0) facts.xdp_generic = single;
    if (mode == XDP_ATTACHED_HW && facts.xdp_hardware == 0) facts.xdp_hardware = single;
}

DeviceFacts parse_link(Bytes attributes) {
    DeviceFacts facts;
    for_each_attribute(attributes, [&facts](std::uint16_t type, Bytes value) {
        if (type == IFLA_IFNAME) facts.name = text_of(value);
        if (type == IFLA_XDP) read_xdp(value, facts);
        if (type == IFLA_LINKINFO) {
            for_each_attribute(value, [&facts](std::uint16_t inner, Bytes text) {
                if (inner == IFLA_INFO_KIND) facts.kind = text_of(text);
            });
        }
    });
    return facts;
}

FilterFacts parse_filter(const tcmsg& message, Bytes attributes) {
    FilterFacts facts;
    facts.handle = message.tcm_handle;
    facts.priority = static_cast<std::uint16_t>(message.tcm_info >> 16);
    for_each_attribute(attributes, [&facts](std::uint16_t type, Bytes value) {
        if (type == TCA_KIND) facts.kind = text_of(value);
        if (type != TCA_OPTIONS) return;
        for_each_attribute(value, [&facts](std::uint16_t inner, Bytes option) {
            if (facts.kind != "bpf") return;
            if (inner == TCA_BPF_ID) facts.program_id = read_as<std::uint32_t>(option).value_or(0);
            if (inner == TCA_BPF_NAME) facts.program_name = text_of(option);
        });
    });
    return facts;
}

template <typename Request>
Bytes bytes_of(const Request& request) {
    return std::as_bytes(std::span(&request, 1));
}

}  // namespace

std::vector<TcxFacts> tcx_programs(int ifindex, bool egress) {
    constexpr std::size_t kMost = 64;  // the kernel allows no more per hook
    std::array<std::uint32_t, kMost> programs{};
    std::array<std::uint32_t, kMost> links{};
    struct bpf_prog_query_opts options{};
    options.sz = sizeof(options);
    options.prog_ids = programs.data();
    options.link_ids = links.data();
    options.count = kMost;
    // A kernel without tcx refuses the question.
    if (bpf_prog_query_opts(ifindex, egress ? BPF_TCX_EGRESS : BPF_TCX_INGRESS, &options) != 0) return {};
    std::vector<TcxFacts> out;
    for (std::size_t i = 0; i < options.count && i < kMost; ++i)
        out.push_back({programs[i], links[i]});
    return out;
}

Result<DeviceQuery> DeviceQuery::open() {
    UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!fd) return fail_errno(errno, "cannot open a netlink socket");
    return DeviceQuery(std::move(fd));
}

Result<DeviceFacts> DeviceQuery::device(int ifindex) {
    struct {
        nlmsghdr header;
        ifinfomsg link;
        rtattr mask_header;
        std::uint32_t mask;
    } request{};
    request.header.nlmsg_len = sizeof(request);
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request.header.nlmsg_seq = ++sequence_;
    request.link.ifi_index = ifindex;
    request.mask_header = {sizeof(rtattr) + sizeof(request.mask), IFLA_EXT_MASK};
    request.mask = RTEXT_FILTER_SKIP_STATS;
    std::optional<DeviceFacts> facts;
    auto done = talk(bytes_of(request), fmt::format("cannot query device {}", ifindex),
                     [&facts](std::uint16_t type, Bytes payload) {
                         if (type != RTM_NEWLINK || payload.size() < sizeof(ifinfomsg)) return;
                         facts = parse_link(payload.subspan(aligned(sizeof(ifinfomsg))));
                     });
    if (!done) return pass_on(done);
    if (!facts) return fail(ExitCode::kMissingDevice, fmt::format("no device has index {}", ifindex));
    return *facts;
}

struct DeviceQuery::TcObject {
    tcmsg message;
    std::vector<std::byte> attributes;
};

Result<std::vector<DeviceQuery::TcObject>> DeviceQuery::dump(std::uint16_t type, std::uint16_t answers, int ifindex,
                                                             std::uint32_t parent, const std::string& what) {
    struct {
        nlmsghdr header;
        tcmsg about;
    } request{};
    request.header.nlmsg_len = sizeof(request);
    request.header.nlmsg_type = type;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.about.tcm_ifindex = ifindex;
    request.about.tcm_parent = parent;
    Result<> done;
    for (int attempt = 0; attempt < kDumpAttempts; ++attempt) {
        std::vector<TcObject> out;
        request.header.nlmsg_seq = ++sequence_;
        done = talk(bytes_of(request), fmt::format("cannot list the {} of device {}", what, ifindex),
                    [&out, answers](std::uint16_t answer, Bytes payload) {
                        const auto message = read_as<tcmsg>(payload);
                        if (answer != answers || !message) return;
                        const Bytes attributes = payload.subspan(aligned(sizeof(tcmsg)));
                        out.push_back({*message, {attributes.begin(), attributes.end()}});
                    });
        if (done) return out;
        if (done.error().code == ExitCode::kMissingDevice) return std::vector<TcObject>{};
    }
    return pass_on(done);
}

/// By a dump, which is of all devices: where one qdisc is asked for, the kernel tells everybody who listens to changes.
bool DeviceQuery::has_ingress_alone(int ifindex) {
    const auto qdiscs = dump(RTM_GETQDISC, RTM_NEWQDISC, ifindex, TC_H_UNSPEC, "qdiscs");
    return qdiscs && std::ranges::any_of(*qdiscs, [&](const TcObject& qdisc) {
               if (qdisc.message.tcm_ifindex != ifindex || qdisc.message.tcm_parent != TC_H_INGRESS) return false;
               std::string kind;
               for_each_attribute(qdisc.attributes, [&kind](std::uint16_t type, Bytes value) {
                   if (type == TCA_KIND) kind = text_of(value);
               });
               return kind == "ingress";
           });
}

Result<std::vector<FilterFacts>> DeviceQuery::filters(int ifindex, bool egress) {
    const std::uint32_t parent = TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
    auto found = dump(RTM_GETTFILTER, RTM_NEWTFILTER, ifindex, parent, "tc filters");
    if (!found) return pass_on(found);
    std::vector<FilterFacts> out;
    for (const TcObject& filter : *found) {
        // Handle 0 is the kernel's line for the priority as a whole, not a filter.
        if (filter.message.tcm_handle != 0) out.push_back(parse_filter(filter.message, filter.attributes));
    }
    if (egress && !out.empty() && has_ingress_alone(ifindex)) out.clear();
    return out;
}

Result<> DeviceQuery::talk(Bytes request, const std::string& what, const Visitor& visit) {
    if (send(socket_.get(), request.data(), request.size(), 0) < 0) return fail_errno(errno, what);
    std::vector<std::byte> buffer(kReceiveBuffer);
    bool interrupted = false;
    for (;;) {
        const ssize_t received = recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (received < 0 && errno == EINTR) continue;
        if (received < 0) return fail_errno(errno, what);
        Bytes rest(buffer.data(), static_cast<std::size_t>(received));
        while (const auto header = read_as<nlmsghdr>(rest)) {
            if (header->nlmsg_len < sizeof(nlmsghdr) || header->nlmsg_len > rest.size()) break;
            const Bytes payload = rest.subspan(sizeof(nlmsghdr), header->nlmsg_len - sizeof(nlmsghdr));
            rest = rest.subspan(std::min(aligned(header->nlmsg_len), rest.size()));
            if (header->nlmsg_seq != sequence_) continue;  // the tail of an exchange that failed half-way
            interrupted = interrupted || (header->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) {
                const int error = -read_as<std::int32_t>(payload).value_or(0);
                if (error == ENODEV) return fail(ExitCode::kMissingDevice, what + ": no such device");
                if (error != 0) return fail_errno(error, what);
                if (interrupted) return fail_errno(EINTR, what);
                return {};
            }
            visit(header->nlmsg_type, payload);
        }
    }
}

}  // namespace fiplane
