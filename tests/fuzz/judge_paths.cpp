// SPDX-License-Identifier: Apache-2.0
// Which row explains the frame that was sent, and the whole frame that follows from it.
#include <fmt/format.h>

#include "fuzz/judge.hpp"

namespace fiplane::test {
namespace {

bool is_martian(Ipv4 address) {
    const std::uint32_t first = address.value >> 24;
    return first == 0 || first == 127 || first >= 224;
}

bool is_broadcast(View frame) {
    return has_mac(frame, 0, Mac{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}});
}

std::string describe(const Exit& exit) {
    return fmt::format("exit kind {} device {} port {:x}{}", int{exit.kind}, exit.ifindex, exit.port,
                       exit.crosses ? " across" : "");
}

}  // namespace

Judge::Complaint Judge::check_exit(const Exit& expected) const {
    const Exit& exit = out_.exit;
    if (expected.kind != exit.kind || expected.ifindex != exit.ifindex || expected.crosses != exit.crosses ||
        expected.port != exit.port)
        return fmt::format("sent by {}, the row says {}", describe(exit), describe(expected));
    if (exit.kind == FL_OUT_TUNNEL && expected.tunnel != exit.tunnel)
        return fmt::format("sent to {} with id {}, the row says {} and {}", exit.tunnel->peer.str(), exit.tunnel->id,
                           expected.tunnel->peer.str(), expected.tunnel->id);
    return std::nullopt;
}

Judge::Complaint Judge::check_l2(const Input& input, fl_reason reason) const {
    if (!std::ranges::equal(in_.frame, out_.frame)) return "changed a frame inside its segment";
    if (in_.segment != out_.segment) return "forwarded into another segment";
    if ((reason == FL_REASON_L2_TO_HOST) != (out_.exit.kind == FL_OUT_HOST))
        return "to the host, or not, unlike its reason";
    if ((in_.frame[0] & 1) != 0) return "forwarded a multicast frame";
    const auto row = std::ranges::find_if(cloud_.fdb, [this](const FdbRow& each) {
        return each.segment == in_.segment->bridge && has_mac(in_.frame, 0, each.mac);
    });
    if (row == cloud_.fdb.end()) return "forwarded to a MAC that is not known";
    if (auto complaint = check_exit(row->exit)) return complaint;
    if (out_.port != nullptr && out_.port == in_.port) return "sent back to where it came from";
    if (in_.tunnel != nullptr && out_.tunnel != nullptr) {
        if (in_.tunnel->device == out_.tunnel->device) return "sent back into the tunnel device that it came from";
        if (in_.tunnel->isolated && out_.tunnel->isolated) return "sent from one isolated port to another";
    }
    if (input.hook == FL_HOOK_TC_HOST && out_.exit.kind == FL_OUT_HOST) return "sent back to the host";
    if (input.gso_size == 0 && in_.frame.size() - kEthSize > row->exit.mtu) return "sent a frame that is too large";
    if (in_.outer.empty()) return std::nullopt;
    if (read16(in_.frame, 12) != kTypeIp) return "decapsulated what is not IPv4";
    return check_tcp(input);
}

/// The kernel's tunnel device keeps TCP's GRO. Only XDP, in front of GRO, sends it on, and only into another tunnel.
Judge::Complaint Judge::check_tcp(const Input& input) const {
    if (in_.outer.empty() || in_.frame[kEthSize + 9] != kTcp) return std::nullopt;
    if (input.hook == FL_HOOK_XDP_UNDERLAY && out_.exit.kind == FL_OUT_TUNNEL) return std::nullopt;
    return "decapsulated TCP";
}

Judge::Complaint Judge::check_arp_reply(const Input& input, const Outcome& outcome) {
    constexpr std::size_t kArpFrame = kEthSize + 28;
    const View in = in_.frame;
    if (in.size() < kArpFrame || read16(in, 12) != kTypeArp) return "answered what is no ARP";
    if (read32(in, 14) != 0x00010800 || read32(in, 18) != 0x06040001) return "answered what is no ARP request for IPv4";
    if (std::memcmp(&in[6], &in[22], 6) != 0) return "answered a request for somebody else";
    const Ipv4 sender = read_ip(in, 28);
    const Ipv4 target = read_ip(in, 38);
    if (is_martian(sender) || sender == target) return "answered a probe or an announcement";
    if (in_.port != nullptr && in_.port->ip == target) return "answered a port for its own address";
    const auto row = std::ranges::find_if(
        cloud_.arp, [&](const ArpRow& each) { return each.segment == in_.segment->bridge && each.ip == target; });
    if (row == cloud_.arp.end()) return "answered for an address that is not known";
    if (in_.tunnel != nullptr && !row->crosses_tunnels) return "answered into a tunnel for a distributed router";
    if (!is_broadcast(in) && !has_mac(in, 0, row->mac)) return "answered what was sent to somebody else";

    expected_.assign(in_.outer.begin(), in_.outer.end());
    expected_.insert(expected_.end(), in.begin(), in.begin() + kArpFrame);
    const std::span<std::uint8_t> reply = std::span(expected_).subspan(in_.outer.size());
    std::copy_n(in.begin() + 6, 6, reply.begin());
    write_mac(reply, 6, row->mac);
    reply[21] = 2;
    write_mac(reply, 22, row->mac);
    write32(reply, 28, target.value);
    std::copy_n(in.begin() + 22, 10, reply.begin() + 32);
    out_ = {.frame = outcome.frame};
    const fl_record& record = outcome.record;
    if (in_.outer.empty()) {
        const std::uint32_t device = in_.router_port != nullptr ? in_.router_port->ifindex : input.device;
        if (record.redirects != 1 || record.via != FL_VIA_REDIRECT || record.ifindex != device ||
            record.flags != (input.hook == FL_HOOK_TC_HOST ? 1U : 0U))
            return "the ARP reply does not go back";
        return std::ranges::equal(expected_, outcome.frame) ? Complaint{} : "ARP reply";
    }
    if (input.hook == FL_HOOK_TC_UNDERLAY ? record.redirects != 1 || record.ifindex != kUnderlayDevice
                                          : record.redirects != 0)
        return "the ARP reply does not go back";
    const std::span<std::uint8_t> outer(expected_);
    if (outcome.frame.size() != expected_.size()) return "length of the ARP reply";
    std::swap_ranges(outer.begin(), outer.begin() + 6, outer.begin() + 6);
    const bool gre = in_.outer.size() == kGreOuterSize;
    if (!gre) {
        if (!is_source_port(read16(outcome.frame, 34))) return "outer UDP source port of the ARP reply";
        std::copy_n(outcome.frame.begin() + 34, 2, outer.begin() + 34);
    }
    outer[15] = 0;
    write16(outer, 16, expected_.size() - kEthSize);
    std::copy_n(outcome.frame.begin() + 18, 2, outer.begin() + 18);  // ID: free
    write16(outer, 20, 0);
    outer[22] = 64;
    std::swap_ranges(outer.begin() + 26, outer.begin() + 30, outer.begin() + 30);
    write16(outer, 24, 0);
    write16(outer, 24, checksum_of(word_sum(outer.subspan(kEthSize, kIpSize))));
    if (!gre) write16(outer, 38, expected_.size() - kEthSize - kIpSize);
    return std::ranges::equal(expected_, outcome.frame) ? Complaint{} : "ARP reply in its tunnel";
}

/// What a router domain says of a destination: the longest prefix.
const Journey* Judge::find_destination(std::uint32_t domain, Ipv4 dst) const {
    const DestRow* best = nullptr;
    for (const DestRow& row : cloud_.dests) {
        if (row.domain != domain || !row.prefix.contains(dst)) continue;
        if (row.prefix.length < 32 && is_martian(dst)) continue;
        if (best == nullptr || row.prefix.length > best->prefix.length) best = &row;
    }
    return best == nullptr || best->journey.exit.kind == FL_OUT_NONE ? nullptr : &best->journey;
}

/// Of who is behind another router; tc_host knows VMs' routers only.
const Journey* Judge::find_transit(const Input& input, Ipv4 src, Ipv4 dst) const {
    const SenderRow* best = nullptr;
    for (const SenderRow& row : cloud_.senders) {
        if (row.segment != in_.segment->bridge || !has_mac(in_.frame, 0, row.router_mac)) continue;
        if (!row.sources.contains(src)) continue;
        if (best == nullptr || row.sources.length > best->sources.length) best = &row;
    }
    if (best == nullptr || input.hook == FL_HOOK_TC_HOST) return nullptr;
    return find_destination(best->domain, dst);
}

/// The row that Linux's routers amount to. `fip`: what the source becomes.
const Journey* Judge::find_journey(const Input& input, Ipv4& fip) {
    if (input.hook == FL_HOOK_TC_ROUTER) return find_followed(fip);
    const Ipv4 src = read_ip(in_.frame, 26);
    const Ipv4 dst = read_ip(in_.frame, 30);
    const auto out = std::ranges::find_if(cloud_.vms, [&](const VmRow& each) {
        const bool here = input.hook == FL_HOOK_TC_PORT ? each.port == input.device
                                                        : in_.tunnel != nullptr && each.port == in_.tunnel->device;
        return here && each.fixed == src && has_mac(in_.frame, 6, each.vm_mac) &&
               has_mac(in_.frame, 0, each.router_mac);
    });
    if (out != cloud_.vms.end()) {
        fip = out->fip;
        return find_destination(out->domain, dst);
    }
    const auto in = std::ranges::find_if(cloud_.fip_in, [&](const FipInRow& each) {
        return each.segment == in_.segment->bridge && each.fip == dst && has_mac(in_.frame, 0, each.router_mac);
    });
    return in == cloud_.fip_in.end() ? find_transit(input, src, dst) : &in->journey;
}

Judge::Complaint Judge::check_routable(const Input& input) const {
    const View frame = in_.frame;
    if (frame.size() < kEthSize + kIpSize || read16(frame, 12) != kTypeIp) return "routed what is not IPv4";
    if (frame[14] != 0x45) return "routed a packet with IPv4 options or a wrong version";
    if (read16(frame, 16) != frame.size() - kEthSize) return "routed a packet whose length is wrong";
    if (residue(word_sum(frame.subspan(kEthSize, kIpSize))) != 0) return "routed a packet with a wrong IPv4 checksum";
    if ((read16(frame, 20) & 0x3fff) != 0) return "routed a fragment";
    if (is_martian(read_ip(frame, 26))) return "routed a packet from an address that is no source";
    if (is_martian(read_ip(frame, 30))) return "routed a packet to an address that is not routed";
    if (auto complaint = check_tcp(input)) return complaint;
    if (input.gso_size != 0 && frame[23] != kTcp && frame[23] != kUdp) return "routed GSO of an unknown protocol";
    return std::nullopt;
}

Judge::Complaint Judge::check_routed(const Input& input, fl_reason reason) {
    if (auto complaint = check_routable(input)) return complaint;
    Ipv4 fip;
    const Journey* journey = find_journey(input, fip);
    if (journey == nullptr) return "routed without a row";
    if (auto complaint = check_exit(journey->exit)) return complaint;
    const fl_reason expected_reason = journey->hairpin           ? FL_REASON_FIP_HAIRPIN
                                      : journey->snat            ? FL_REASON_FIP_OUT
                                      : journey->dnat.is_unset() ? FL_REASON_ROUTED
                                                                 : FL_REASON_FIP_IN;
    if (reason != expected_reason) return "counted with another reason than its journey has";
    const std::uint8_t ttl = in_.frame[22];
    if (ttl <= journey->hops) return "routed a packet whose TTL expires";
    if (input.gso_size == 0 && in_.frame.size() - kEthSize > std::min(journey->mtu, journey->exit.mtu))
        return "routed a packet that is too large";
    const bool translated_both = journey->snat && !journey->dnat.is_unset();
    if (in_.segment->tenant != out_.segment->tenant && in_.segment->tenant != kNobody &&
        out_.segment->tenant != kNobody && !translated_both)
        return "went from one tenant to another without floating IPs";

    const Ipv4 src = journey->snat ? fip : read_ip(in_.frame, 26);
    const Ipv4 dst = journey->dnat.is_unset() ? read_ip(in_.frame, 30) : journey->dnat;
    expected_.assign(in_.frame.begin(), in_.frame.end());
    if (auto complaint = translate_transport(src, dst)) return complaint;
    if (in_.router_port != nullptr) {
        if (auto complaint = check_flow(*journey, in_.vm != nullptr ? fip : read_ip(in_.frame, 30))) return complaint;
    }
    write_mac(expected_, 0, journey->dmac);
    write_mac(expected_, 6, journey->smac);
    expected_[22] = static_cast<std::uint8_t>(ttl - journey->hops);
    write32(expected_, 26, src.value);
    write32(expected_, 30, dst.value);
    write16(expected_, 24, read16(out_.frame, 24));
    if (residue(word_sum(out_.frame.subspan(kEthSize, kIpSize))) != 0) return "IPv4 checksum of the output";
    const auto [wanted, got] = std::ranges::mismatch(expected_, out_.frame);
    if (wanted != expected_.end())
        return fmt::format("byte {} of the routed frame is {:02x}, expected {:02x}", wanted - expected_.begin(), *got,
                           *wanted);
    return std::nullopt;
}

}  // namespace fiplane::test
