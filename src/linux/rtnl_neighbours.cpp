// SPDX-License-Identifier: Apache-2.0
// Neighbours and forwarding databases: both are RTM_*NEIGH, of AF_INET and AF_BRIDGE.
#include <fmt/format.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Attributes;
using nl::Request;

std::optional<Neighbour> parse_neighbour(const nlmsghdr& message) {
    const auto* header = nl::header_of<ndmsg>(message);
    if (message.nlmsg_type != RTM_NEWNEIGH || header == nullptr || header->ndm_family != AF_INET) return std::nullopt;
    const Attributes attributes(message, sizeof(ndmsg));
    const auto address = attributes.ipv4(NDA_DST);
    if (!address || (header->ndm_flags & NTF_PROXY) != 0) return std::nullopt;
    return Neighbour{.ifindex = header->ndm_ifindex,
                     .address = *address,
                     .mac = attributes.mac(NDA_LLADDR).value_or(Mac{}),
                     .state = header->ndm_state};
}

/// A vxlan entry that sends elsewhere than to the device's own VNI and port at a VTEP, which FdbEntry cannot say in
/// detail.
bool has_special_destination(const Attributes& attributes) {
    return attributes.has(NDA_PORT) || attributes.has(NDA_VNI) || attributes.has(NDA_NH_ID) ||
           attributes.has(NDA_SRC_VNI);
}

std::optional<FdbEntry> parse_fdb(const nlmsghdr& message) {
    const auto* header = nl::header_of<ndmsg>(message);
    if (message.nlmsg_type != RTM_NEWNEIGH || header == nullptr || header->ndm_family != AF_BRIDGE) return std::nullopt;
    const Attributes attributes(message, sizeof(ndmsg));
    const auto mac = attributes.mac(NDA_LLADDR);
    if (!mac || mac->is_multicast()) return std::nullopt;
    FdbEntry entry{.ifindex = header->ndm_ifindex,
                   .bridge = attributes.number<int>(NDA_MASTER),
                   .mac = *mac,
                   .destination = attributes.address(NDA_DST),
                   .underlay_ifindex = attributes.number<int>(NDA_IFINDEX),
                   .elsewhere = has_special_destination(attributes),
                   .vlan = attributes.number<std::uint16_t>(NDA_VLAN),
                   .state = header->ndm_state,
                   .flags = header->ndm_flags};
    // A bridge keeps each port's and static MAC once without a VLAN and again for each of the port's VLANs.
    if (entry.vlan != 0 && (entry.state & NUD_PERMANENT) == 0) return std::nullopt;
    return entry;
}

ndmsg neighbour_header(unsigned char family, int ifindex, std::uint16_t state, std::uint8_t flags) {
    ndmsg header{};
    header.ndm_family = family;
    header.ndm_ifindex = ifindex;
    header.ndm_state = state;
    header.ndm_flags = flags;
    return header;
}

/// The part of an FDB request that addition and removal share.
Request fdb_request(int type, int flags, int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    Request request(type, flags);
    // A static entry neither ages nor moves. The bridge reads NUD_NOARP as static; vxlan wants NUD_REACHABLE or
    // NUD_PERMANENT besides, and only in a bridge's table would NUD_PERMANENT mean "this host's own".
    const std::uint16_t state = destination ? NUD_NOARP | NUD_REACHABLE : NUD_NOARP;
    request.header(neighbour_header(AF_BRIDGE, ifindex, state, destination ? NTF_SELF : NTF_MASTER));
    request.mac(NDA_LLADDR, mac);
    if (destination) request.address(NDA_DST, *destination);
    return request;
}

std::string describe_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    return fmt::format("FDB entry {} on device with index {}{}", mac.str(), ifindex,
                       destination ? fmt::format(" to {}", destination->str()) : "");
}

}  // namespace

Result<std::vector<Neighbour>> Rtnl::neighbours() {
    auto request = dump_request<ndmsg>(RTM_GETNEIGH, AF_INET);
    return impl_->collect<Neighbour>(request, "list neighbours", parse_neighbour);
}

Result<std::vector<FdbEntry>> Rtnl::fdb() {
    auto request = dump_request<ndmsg>(RTM_GETNEIGH, AF_BRIDGE);
    return impl_->collect<FdbEntry>(request, "list forwarding databases", parse_fdb);
}

Result<> Rtnl::set_neighbour(int ifindex, Ipv4 address, const Mac& mac) {
    Request request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    request.header(neighbour_header(AF_INET, ifindex, NUD_PERMANENT, 0));
    request.ipv4(NDA_DST, address).mac(NDA_LLADDR, mac);
    return impl_->change(
        request, fmt::format("set neighbour {} to {} on device with index {}", address.str(), mac.str(), ifindex));
}

Result<> Rtnl::remove_neighbour(int ifindex, Ipv4 address) {
    Request request(RTM_DELNEIGH, 0);
    request.header(neighbour_header(AF_INET, ifindex, 0, 0)).ipv4(NDA_DST, address);
    return impl_->change(request, fmt::format("remove neighbour {} of device with index {}", address.str(), ifindex));
}

Result<> Rtnl::use_neighbour(int ifindex, const IpAddress& address) {
    const unsigned char family = address.is_ipv4() ? AF_INET : AF_INET6;
    Request request(RTM_NEWNEIGH, NLM_F_CREATE);
    request.header(neighbour_header(family, ifindex, NUD_NONE, NTF_USE)).address(NDA_DST, address);
    return impl_->change(request, fmt::format("resolve neighbour {} on device with index {}", address.str(), ifindex));
}

Result<> Rtnl::set_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    // The all-zero MAC of a vxlan device has a list of destinations, to each of which a flooded frame goes.
    const int how = destination && mac.is_unset() ? NLM_F_APPEND : NLM_F_REPLACE;
    auto request = fdb_request(RTM_NEWNEIGH, NLM_F_CREATE | how, ifindex, mac, destination);
    return impl_->change(request, "set " + describe_fdb(ifindex, mac, destination));
}

Result<> Rtnl::remove_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    auto request = fdb_request(RTM_DELNEIGH, 0, ifindex, mac, destination);
    return impl_->change(request, "remove " + describe_fdb(ifindex, mac, destination));
}

/// NTF_USE is a frame from this port to a bridge (br_fdb_update): it would bring back a MAC that has moved. A vxlan
/// device neither makes nor moves an entry without NLM_F_CREATE and NLM_F_REPLACE, but takes the state of the request
/// (vxlan_fdb_update_existing): it would make a static entry age. So the entry is looked at first. What happens between
/// the two requests is undone by the MAC's next frame.
Result<bool> Rtnl::refresh_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    const std::uint8_t table = destination ? NTF_SELF : NTF_MASTER;
    std::optional<FdbEntry> current;
    const auto ask = [&](Request& request) -> Result<bool> {
        const auto answer =
            impl_->socket.transact(request, [&](const nlmsghdr& message) { current = parse_fdb(message); });
        if (answer) return true;
        if (answer.error().number == ENOENT) return false;
        return nl::fail_kernel(answer.error(), "cannot refresh " + describe_fdb(ifindex, mac, destination),
                               impl_->where);
    };
    Request question(RTM_GETNEIGH, 0);
    question.header(neighbour_header(AF_BRIDGE, ifindex, 0, table)).mac(NDA_LLADDR, mac);
    if (auto there = ask(question); !there || !*there) return there;
    const bool learned = current && (current->state & (NUD_PERMANENT | NUD_NOARP)) == 0;
    if (!learned || current->ifindex != ifindex || current->destination != destination) return false;
    // The bridge refuses a request without a state that it knows.
    Request request(RTM_NEWNEIGH, 0);
    request.header(neighbour_header(AF_BRIDGE, ifindex, NUD_REACHABLE, NTF_USE | table)).mac(NDA_LLADDR, mac);
    if (destination) request.address(NDA_DST, *destination);
    return ask(request);
}

}  // namespace fiplane
