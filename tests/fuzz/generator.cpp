// SPDX-License-Identifier: Apache-2.0
#include "fuzz/generator.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "fuzz/wire.hpp"

namespace fiplane::test {
namespace {

struct FieldAt {
    std::size_t offset;
    std::size_t size;
};

/// From an Ethernet header on: Ethernet, IPv4 or ARP, transport, and what an ICMP error quotes.
constexpr auto kFields = std::to_array<FieldAt>({
    {0, 6},  {6, 6},  {12, 2},                                                                 // Ethernet
    {14, 1}, {15, 1}, {16, 2}, {18, 2}, {20, 2}, {22, 1}, {23, 1}, {24, 2}, {26, 4}, {30, 4},  // IPv4
    {14, 2}, {16, 2}, {18, 1}, {19, 1}, {20, 2}, {22, 6}, {28, 4}, {32, 6}, {38, 4},           // ARP
    {34, 1}, {34, 2}, {35, 1}, {36, 2}, {38, 2}, {40, 2}, {42, 4}, {46, 1}, {46, 4}, {50, 2},  // transport, VXLAN
    {47, 1},                                                                                   // TCP flags
    {42, 1}, {48, 2}, {51, 1}, {52, 2}, {54, 4}, {58, 4}, {62, 1}, {68, 2}, {78, 2},           // quote
});

constexpr auto kBytes =
    std::to_array<std::uint8_t>({0,    1,    2,    3,  4,  5,  8,  11, 12,  0x40, 0x44, 0x45, 0x46, 0x4f, 0x65,
                                 0x10, 0x12, 0x14, 17, 33, 47, 58, 64, 132, 136,  0x7f, 0x80, 0xfe, 0xff});
constexpr auto kShorts = std::to_array<std::uint16_t>(
    {0,      1,      2,      8,    20,   28,     0x0800, 0x0806, 0x8100, 0x88a8, 0x86dd, 0x88b5, 0x2000,
     0x1fff, 0x4000, 0x3fff, 4789, 6081, 0x6558, 1450,   1451,   0x7fff, 0x8000, 0xfffe, 0xffff});

}  // namespace

Generator::Generator(const Cloud& cloud, fl_hook hook, std::uint64_t seed)
    : hook_(hook),
      wrapped_(hook == FL_HOOK_XDP_UNDERLAY || hook == FL_HOOK_TC_UNDERLAY),
      random_(seed * FL_HOOK_COUNT + static_cast<std::uint64_t>(hook)),
      templates_(make_templates(cloud, hook)),
      devices_(cloud.devices(hook)),
      macs_{Mac{}, Mac{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, mac("01:00:5e:00:00:01"), cloud.underlay_mac},
      marks_{0, 1, FL_FIRST_NUMBER, 0xffffffff},
      words_{0,
             1,
             0x7f000001,
             0xe0000001,
             0xffffffff,
             0x08000000,
             0x0800000f,
             0x00006558,
             0x20006558,
             0x30006558,
             cloud.vtep.value,
             ip("10.255.0.1").value,
             ip("198.51.100.9").value,
             ip("172.24.4.9").value} {
    std::map<Traffic, std::vector<const Template*>> kinds;
    for (const Template& each : templates_)
        kinds[each.traffic].push_back(&each);
    for (auto& [traffic, members] : kinds)
        kinds_.push_back(std::move(members));
    for (const FdbRow& row : cloud.fdb)
        macs_.push_back(row.mac);
    for (const CloudPeer& peer : cloud.peers) {
        macs_.push_back(peer.underlay_mac);
        words_.push_back(peer.vtep.value);
    }
    for (const FipInRow& row : cloud.fip_in)
        words_.push_back(row.fip.value);
    for (const DestRow& row : cloud.dests)
        words_.push_back(row.prefix.address.value);
    for (const CloudPort& port : cloud.ports) {
        words_.push_back(port.ip.value);
        other_devices_.push_back(port.ifindex);
    }
    for (const CloudSegment& segment : cloud.segments)
        other_devices_.push_back(segment.bridge);
    for (const RouterPort& port : cloud.router_ports) {
        macs_.push_back(port.mac);
        marks_.push_back(port.segment.bridge);
        other_devices_.push_back(port.ifindex);
    }
    for (const VmRow& row : cloud.vms)
        words_.push_back(row.fixed.value);
    for (const CloudTunnel& tunnel : cloud.tunnels) {
        words_.insert(words_.end(), {tunnel.id, tunnel.id << 8});
        other_devices_.push_back(tunnel.device);
    }
}

void Generator::next(Input& input) {
    const Template& start = *random_.pick(random_.pick(kinds_));
    input.hook = hook_;
    input.device = start.device;
    input.gso_size = 0;
    input.mark = start.mark;
    input.frame.assign(start.frame.begin(), start.frame.end());
    base_ = wrapped_ ? outer_size(input.frame) : 0;
    if (hook_ != FL_HOOK_XDP_UNDERLAY) {
        if (random_.one_in(16)) input.gso_size = static_cast<std::uint32_t>(1 + random_.below(1500));
        if (!wrapped_ && random_.one_in(16)) input.device = random_.pick(devices_);
        if (!wrapped_ && random_.one_in(256)) input.device = random_.pick(other_devices_);
        if (hook_ == FL_HOOK_TC_ROUTER && random_.one_in(32)) input.mark = random_.pick(marks_);
    }
    for (std::size_t changes = random_.below(4); changes > 0; --changes)
        mutate(input.frame);
    input.frame.resize(std::clamp(input.frame.size(), smallest(input.frame), kLargest));
    if (!random_.one_in(8)) repair(input.frame);
}

/// Newer kernels refuse test runs of an skb whose network header is not complete.
std::size_t Generator::smallest(const Bytes& frame) const {
    if (hook_ == FL_HOOK_XDP_UNDERLAY || frame.size() < kEthSize) return kSmallest;
    const std::uint16_t type = read16(frame, 12);
    return type == kTypeIp ? kEthSize + kIpSize : type == 0x86dd ? kEthSize + 40 : kSmallest;
}

void Generator::mutate(Bytes& frame) {
    switch (random_.below(16)) {
        case 0:
            return change_length(frame);
        case 1:
            return splice(frame);
        case 2: {  // anywhere
            frame[random_.below(frame.size())] ^= static_cast<std::uint8_t>(1U << random_.below(8));
            return;
        }
        case 3: {  // near the front, any value
            frame[random_.below(std::min<std::size_t>(frame.size(), base_ + 96))] =
                static_cast<std::uint8_t>(random_.next());
            return;
        }
        default:
            return set_field(frame);
    }
}

/// Of the inner frame, or of the outer headers of a tunnel packet.
void Generator::set_field(Bytes& frame) {
    const FieldAt& field = random_.pick(kFields);
    const std::size_t at = field.offset + (base_ != 0 && random_.one_in(4) ? 0 : base_);
    if (at + field.size <= frame.size()) set_value(std::span(frame).subspan(at, field.size));
}

void Generator::set_value(std::span<std::uint8_t> field) {
    if (random_.one_in(4)) {  // a step up or down
        std::uint8_t& last = field.back();
        last = static_cast<std::uint8_t>(random_.one_in(2) ? last + 1 : last - 1);
        return;
    }
    switch (field.size()) {
        case 1:
            field[0] = random_.pick(kBytes);
            return;
        case 2:
            return write16(field, 0, random_.pick(kShorts));
        case 4:
            return write32(field, 0, random_.pick(words_));
        default:
            return write_mac(field, 0, random_.pick(macs_));
    }
}

void Generator::change_length(Bytes& frame) {
    if (random_.one_in(3)) {
        frame.resize(frame.size() + 1 + random_.below(40), static_cast<std::uint8_t>(random_.next()));
        return;
    }
    // Most interesting are ends inside a header.
    const std::size_t most = random_.one_in(2) ? frame.size() : std::min<std::size_t>(frame.size(), base_ + 90);
    frame.resize(1 + random_.below(most));
    frame.resize(std::max(frame.size(), kSmallest));
}

/// The front of this frame and the rest of another one.
void Generator::splice(Bytes& frame) {
    const Bytes& other = random_.pick(templates_).frame;
    const std::size_t at = random_.below(std::min({frame.size(), other.size(), base_ + 80}));
    frame.resize(at);
    frame.insert(frame.end(), other.begin() + static_cast<std::ptrdiff_t>(at), other.end());
}

void Generator::repair(std::span<std::uint8_t> frame) {
    if (wrapped_ && frame.size() >= base_) {
        const auto ip = frame.subspan(kEthSize);
        if (!random_.one_in(16)) {
            write16(ip, 2, static_cast<std::uint32_t>(ip.size()));
            if (base_ == kUdpOuterSize) write16(ip, 24, static_cast<std::uint32_t>(ip.size() - kIpSize));
        }
        if (!random_.one_in(16)) {
            write16(ip, 10, 0);
            write16(ip, 10, checksum_of(word_sum(ip.first(kIpSize))));
        }
    }
    if (frame.size() < base_ + kEthSize + kIpSize || read16(frame, base_ + 12) != kTypeIp) return;
    const auto ip = frame.subspan(base_ + kEthSize);
    if (!random_.one_in(16)) write16(ip, 2, static_cast<std::uint32_t>(ip.size()));
    if (!random_.one_in(16)) {
        write16(ip, 10, 0);
        write16(ip, 10, checksum_of(word_sum(ip.first(kIpSize))));
    }
    if (!random_.one_in(8)) repair_transport(ip);
}

void Generator::repair_transport(std::span<std::uint8_t> ip) {
    const auto payload = ip.subspan(kIpSize);
    const std::uint8_t protocol = ip[9];
    const std::size_t at = protocol == kTcp ? 16 : protocol == kUdp ? 6 : 2;
    if (payload.size() < at + 2 || (protocol != kTcp && protocol != kUdp && protocol != kIcmp)) return;
    if (protocol == kUdp) {
        write16(payload, 4, static_cast<std::uint32_t>(payload.size()));
        if (read16(payload, 6) == 0 && !random_.one_in(4)) return;
    }
    write16(payload, at, 0);
    std::uint64_t sum = word_sum(payload);
    if (protocol != kIcmp) sum += word_sum(ip.subspan(12, 8)) + protocol + payload.size();
    const std::uint16_t checksum = checksum_of(sum);
    write16(payload, at, protocol == kUdp && checksum == 0 ? 0xffff : checksum);
}

}  // namespace fiplane::test
