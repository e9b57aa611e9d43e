// SPDX-License-Identifier: Apache-2.0
#include "linux/garp.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "linux/nl_socket.hpp"

namespace fiplane {
namespace {

struct [[gnu::packed]] ArpFrame {
    ether_header ethernet;
    ether_arp arp;
};
static_assert(sizeof(ArpFrame) == 42);

const Mac kBroadcast{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

/// As iputils' arping does it: -U asks with the broadcast address as target MAC, -A answers with the own one
/// (RFC 5944, 4.6 describes both).
ArpFrame make_frame(const Mac& mac, Ipv4 address, GarpKind kind) {
    ArpFrame frame{};
    std::ranges::copy(kBroadcast.bytes, frame.ethernet.ether_dhost);
    std::ranges::copy(mac.bytes, frame.ethernet.ether_shost);
    frame.ethernet.ether_type = htons(ETHERTYPE_ARP);
    frame.arp.ea_hdr.ar_hrd = htons(ARPHRD_ETHER);
    frame.arp.ea_hdr.ar_pro = htons(ETHERTYPE_IP);
    frame.arp.ea_hdr.ar_hln = ETHER_ADDR_LEN;
    frame.arp.ea_hdr.ar_pln = sizeof(in_addr);
    frame.arp.ea_hdr.ar_op = htons(kind == GarpKind::kRequest ? ARPOP_REQUEST : ARPOP_REPLY);
    std::ranges::copy(mac.bytes, frame.arp.arp_sha);
    std::ranges::copy(address.bytes(), frame.arp.arp_spa);
    std::ranges::copy(kind == GarpKind::kRequest ? kBroadcast.bytes : mac.bytes, frame.arp.arp_tha);
    std::ranges::copy(address.bytes(), frame.arp.arp_tpa);
    return frame;
}

}  // namespace

Result<> send_gratuitous_arp(const Netns& netns, const std::string& device, const Mac& mac, Ipv4 address,
                             GarpKind kind) {
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    const std::string what = fmt::format("cannot announce {} on {}", address.str(), device);
    const unsigned ifindex = if_nametoindex(device.c_str());
    if (ifindex == 0) return fail(ExitCode::kMissingDevice, what + ": No such device", nl::where_of(netns));
    // Protocol 0: the socket only sends, nothing is queued on it.
    const UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!fd) return fail_errno(errno, what, nl::where_of(netns));
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_protocol = htons(ETHERTYPE_ARP);
    to.sll_ifindex = static_cast<int>(ifindex);
    to.sll_halen = ETHER_ADDR_LEN;
    std::ranges::copy(kBroadcast.bytes, to.sll_addr);
    const ArpFrame frame = make_frame(mac, address, kind);
    const void* destination = &to;
    const ssize_t sent =
        sendto(fd.get(), &frame, sizeof frame, 0, static_cast<const sockaddr*>(destination), sizeof to);
    if (sent < 0) return fail_errno(errno, what, nl::where_of(netns));
    return {};
}

}  // namespace fiplane
