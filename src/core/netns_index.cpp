// SPDX-License-Identifier: Apache-2.0
#include "core/netns_index.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace fiplane {

namespace {

std::uint64_t neighbour_key(int ifindex, Ipv4 address) {
    return std::uint64_t{static_cast<std::uint32_t>(ifindex)} << 32 | address.value;
}

/// IPv4, IPv6 and a type that nobody filters by name. Not ARP: who makes rows for it asks for a chain himself.
constexpr std::array<std::uint16_t, 3> kFrameTypes{0x0800, 0x86dd, 0x88b5};

/// An egress chain that lets everything but ARP pass does not matter to what jumps over the device.
std::string egress_refusal(const std::string& device, const nf::Evaluator& netfilter) {
    if (!netfilter.has_egress(device)) return {};
    for (const std::uint16_t type : kFrameTypes) {
        nf::Packet packet;
        packet.oifname = device;
        packet.ether_type = type;
        const nf::Outcome outcome = netfilter.evaluate(nf::Hook::kEgress, packet);
        const bool passes = outcome.accepted && !outcome.stopped && !outcome.by_source && outcome.mss.empty();
        if (!passes) return device + " has a netdev egress chain";
    }
    return {};
}

std::string find_jump_refusal(const Link& link, const nf::Evaluator& netfilter) {
    if (!link.admin_up) return link.name + " is down";
    if (!link.running) return link.name + " has no carrier";
    if (auto refusal = link.program_refusal(); !refusal.empty()) return refusal;
    // fiplane puts XDP on underlay devices only, and those are never jumped over.
    if (link.xdp_prog_id != 0) return fmt::format("{} has XDP program {}", link.name, link.xdp_prog_id);
    if (!is_plain_qdisc(link.qdisc)) return fmt::format("{} has qdisc {}", link.name, link.qdisc);
    if (netfilter.has_ingress(link.name)) return link.name + " has a netdev ingress chain";
    return egress_refusal(link.name, netfilter);
}

/// See NetnsIndex::lowest_mss. get_tcpmss says TCP_MSS_DEFAULT where an MTU leaves no room.
std::uint16_t find_lowest_mss(const NetnsView& view) {
    constexpr std::uint32_t kHeaders = 40;  // IPv4 and TCP without options
    constexpr std::uint16_t kDefault = 536;
    std::uint32_t mtu = 0xffff;
    for (const auto& [ifindex, link] : view.links) {
        if (link.admin_up) mtu = std::min(mtu, link.mtu);  // no route leads to others, such as ip_gre's erspan0
    }
    for (const Route& route : view.routes) {
        if (route.mtu != 0) mtu = std::min(mtu, route.mtu);
    }
    return mtu > kHeaders ? static_cast<std::uint16_t>(mtu - kHeaders) : kDefault;
}

}  // namespace

bool is_plain_qdisc(const std::string& kind) {
    static constexpr std::array<std::string_view, 7> kPlain{"noqueue", "pfifo_fast", "fq_codel", "fq",
                                                            "mq",      "pfifo",      "clsact"};
    return std::ranges::find(kPlain, kind) != kPlain.end();
}

NetnsIndex::NetnsIndex(const NetnsView& view) : view_(view), routing_(view), netfilter_(view.netfilter) {
    for (const Neighbour& neighbour : view.neighbours) {
        neighbours_[neighbour_key(neighbour.ifindex, neighbour.address)] = &neighbour;
        neighbours_on_[neighbour.ifindex].push_back(&neighbour);
    }
    for (auto& [ifindex, list] : neighbours_on_)
        std::ranges::sort(list, {}, &Neighbour::address);
    for (const auto& [ifindex, link] : view.links)
        jump_refusals_[ifindex] = find_jump_refusal(link, netfilter_);
    collect_mentions();
    lowest_mss_ = find_lowest_mss(view);
}

void NetnsIndex::collect_mentions() {
    for (const Route& route : view_.routes)
        mentions_.push_back(route.destination.network());
    for (const PolicyRule& rule : view_.rules)
        mentions_.push_back(rule.destination.network());
    for (const Neighbour& neighbour : view_.neighbours)
        mentions_.push_back(Prefix::host(neighbour.address));
    const auto& filtered = netfilter_.destinations();
    mentions_.insert(mentions_.end(), filtered.begin(), filtered.end());
    std::ranges::sort(mentions_);
    const auto rest = std::ranges::unique(mentions_);
    mentions_.erase(rest.begin(), rest.end());
}

const Neighbour* NetnsIndex::neighbour(int ifindex, Ipv4 address) const {
    const auto found = neighbours_.find(neighbour_key(ifindex, address));
    return found == neighbours_.end() ? nullptr : found->second;
}

std::vector<const Neighbour*> NetnsIndex::neighbours_on(int ifindex) const {
    const auto found = neighbours_on_.find(ifindex);
    return found == neighbours_on_.end() ? std::vector<const Neighbour*>{} : found->second;
}

const Sysctls::Device& NetnsIndex::sysctls(const std::string& device) const {
    static const Sysctls::Device kNone{};
    const auto found = view_.sysctls.devices.find(device);
    return found == view_.sysctls.devices.end() ? kNone : found->second;
}

const std::string& NetnsIndex::jump_refusal(const Link& link) const {
    return jump_refusals_.at(link.ifindex);
}

}  // namespace fiplane
