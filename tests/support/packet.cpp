// SPDX-License-Identifier: Apache-2.0
#include "support/packet.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <span>

namespace fiplane::test {
namespace {

template <typename T>
T parsed(std::optional<T> value, std::string_view text) {
    if (!value) {
        std::cerr << "not an address: " << text << '\n';
        std::abort();
    }
    return *value;
}

void put8(Bytes& out, std::uint8_t value) {
    out.push_back(value);
}

void put16(Bytes& out, std::uint16_t value) {
    put8(out, static_cast<std::uint8_t>(value >> 8));
    put8(out, static_cast<std::uint8_t>(value));
}

void put32(Bytes& out, std::uint32_t value) {
    put16(out, static_cast<std::uint16_t>(value >> 16));
    put16(out, static_cast<std::uint16_t>(value));
}

void put(Bytes& out, const Mac& address) {
    out.insert(out.end(), address.bytes.begin(), address.bytes.end());
}

void put(Bytes& out, const Bytes& bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
}

void set16(Bytes& out, std::size_t at, std::uint16_t value) {
    out[at] = static_cast<std::uint8_t>(value >> 8);
    out[at + 1] = static_cast<std::uint8_t>(value);
}

std::uint16_t length16(std::size_t length) {
    return static_cast<std::uint16_t>(length);
}

std::uint16_t ether_type_of(const Layer* next) {
    if (next == nullptr) return 0x88b5;  // IEEE 802 local experimental
    if (std::holds_alternative<Ip4>(*next)) return 0x0800;
    if (std::holds_alternative<Ip6>(*next)) return 0x86dd;
    if (std::holds_alternative<Arp>(*next)) return 0x0806;
    if (std::holds_alternative<Vlan>(*next)) return 0x8100;
    return 0x88b5;
}

std::uint8_t protocol_of(const Layer* next) {
    if (next == nullptr) return 253;  // RFC 3692 experimental
    if (std::holds_alternative<Tcp>(*next)) return 6;
    if (std::holds_alternative<Udp>(*next)) return 17;
    if (std::holds_alternative<Icmp>(*next)) return 1;
    if (std::holds_alternative<Gre>(*next)) return 47;
    return 253;
}

/// Serialises one layer in front of what follows it.
struct Writer {
    std::span<const Layer> rest;  ///< layers after this one
    const Layer* before;          ///< layer in front of this one
    const Bytes& payload;         ///< `rest`, serialised

    [[nodiscard]] const Layer* next() const { return rest.empty() ? nullptr : rest.data(); }

    /// Over a transport header with a zero checksum field, the payload, and the IPv4 header's pseudo header.
    [[nodiscard]] std::uint16_t transport_checksum(const Bytes& header, std::uint8_t protocol) const {
        Bytes covered;
        if (before != nullptr) {
            if (const auto* ip4 = std::get_if<Ip4>(before)) {
                put32(covered, ip4->src.value);
                put32(covered, ip4->dst.value);
                put16(covered, protocol);
                put16(covered, length16(header.size() + payload.size()));
            }
        }
        put(covered, header);
        put(covered, payload);
        return internet_checksum(covered);
    }

    Bytes operator()(const Eth& eth) const {
        Bytes out;
        put(out, eth.dst);
        put(out, eth.src);
        put16(out, eth.type.value_or(ether_type_of(next())));
        return out;
    }

    Bytes operator()(const Vlan& vlan) const {
        Bytes out;
        put16(out, vlan.id);
        put16(out, vlan.type.value_or(ether_type_of(next())));
        return out;
    }

    Bytes operator()(const Ip4& ip4) const {
        const std::size_t header = 20 + ip4.options.size();
        const auto words = ip4.header_words.value_or(static_cast<std::uint8_t>(header / 4));
        const int flags = (ip4.dont_fragment ? 0x4000 : 0) | (ip4.more_fragments ? 0x2000 : 0);
        Bytes out;
        put8(out, static_cast<std::uint8_t>(ip4.version << 4 | words));
        put8(out, ip4.tos);
        put16(out, ip4.total_length.value_or(length16(header + payload.size())));
        put16(out, ip4.id);
        put16(out, static_cast<std::uint16_t>(flags | ip4.fragment_offset));
        put8(out, ip4.ttl);
        put8(out, ip4.protocol.value_or(protocol_of(next())));
        put16(out, 0);
        put32(out, ip4.src.value);
        put32(out, ip4.dst.value);
        put(out, ip4.options);
        set16(out, 10, ip4.checksum.value_or(internet_checksum(out)));
        return out;
    }

    Bytes operator()(const Ip6& ip6) const {
        Bytes out;
        put32(out, std::uint32_t{ip6.version} << 28 | std::uint32_t{ip6.traffic_class} << 20 | ip6.flow_label);
        put16(out, ip6.payload_length.value_or(length16(payload.size())));
        put8(out, ip6.next_header.value_or(protocol_of(next())));
        put8(out, ip6.hop_limit);
        out.insert(out.end(), ip6.src.bytes().begin(), ip6.src.bytes().end());
        out.insert(out.end(), ip6.dst.bytes().begin(), ip6.dst.bytes().end());
        return out;
    }

    Bytes operator()(const Udp& udp) const {
        Bytes out;
        put16(out, udp.src);
        put16(out, udp.dst);
        put16(out, udp.length.value_or(length16(8 + payload.size())));
        put16(out, 0);
        const auto computed = transport_checksum(out, 17);
        set16(out, 6, udp.checksum.value_or(computed == 0 ? 0xffff : computed));
        return out;
    }

    Bytes operator()(const Tcp& tcp) const {
        Bytes out;
        put16(out, tcp.src);
        put16(out, tcp.dst);
        put32(out, tcp.seq);
        put32(out, tcp.ack);
        put16(out, static_cast<std::uint16_t>((5 + tcp.options.size() / 4) << 12 | tcp.flags));
        put16(out, tcp.window);
        put32(out, 0);
        put(out, tcp.options);
        set16(out, 16, tcp.checksum.value_or(transport_checksum(out, 6)));
        return out;
    }

    Bytes operator()(const Icmp& icmp) const {
        Bytes out;
        put8(out, icmp.type);
        put8(out, icmp.code);
        put16(out, 0);
        put32(out, icmp.rest);
        Bytes covered = out;
        put(covered, payload);
        set16(out, 2, icmp.checksum.value_or(internet_checksum(covered)));
        return out;
    }

    Bytes operator()(const Arp& arp) const {
        Bytes out;
        put16(out, arp.hardware);
        put16(out, arp.protocol);
        put8(out, arp.hardware_length);
        put8(out, arp.protocol_length);
        put16(out, arp.operation);
        put(out, arp.sender_mac);
        put32(out, arp.sender_ip.value);
        put(out, arp.target_mac);
        put32(out, arp.target_ip.value);
        return out;
    }

    Bytes operator()(const Vxlan& vxlan) const {
        Bytes out;
        put32(out, vxlan.flags);
        put32(out, vxlan.vni << 8 | vxlan.reserved);
        return out;
    }

    Bytes operator()(const Geneve& geneve) const {
        Bytes out;
        put8(out, geneve.version_and_length);
        put8(out, geneve.flags);
        put16(out, geneve.protocol);
        put32(out, geneve.vni << 8 | geneve.reserved);
        return out;
    }

    Bytes operator()(const Gre& gre) const {
        Bytes out;
        put16(out, gre.flags);
        put16(out, gre.protocol);
        put32(out, gre.key);
        return out;
    }

    Bytes operator()(const Payload& raw) const { return raw.bytes; }
};

}  // namespace

Ipv4 ip(std::string_view text) {
    return parsed(Ipv4::parse(text), text);
}

Mac mac(std::string_view text) {
    return parsed(Mac::parse(text), text);
}

std::uint16_t internet_checksum(const Bytes& bytes) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        sum += i % 2 == 0 ? bytes[i] << 8 : bytes[i];
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

Payload Payload::counting(std::size_t count) {
    Payload payload;
    for (std::size_t i = 0; i < count; ++i)
        payload.bytes.push_back(static_cast<std::uint8_t>(i));
    return payload;
}

Bytes Packet::bytes() const {
    Bytes out;
    for (std::size_t i = layers_.size(); i-- > 0;) {
        const Writer writer{std::span(layers_).subspan(i + 1), i == 0 ? nullptr : &layers_[i - 1], out};
        Bytes front = std::visit(writer, layers_[i]);
        put(front, out);
        out = std::move(front);
    }
    return out;
}

Packet Packet::with(const Packet& inner) const {
    Packet out = *this;
    out.layers_.insert(out.layers_.end(), inner.layers_.begin(), inner.layers_.end());
    return out;
}

Payload quote(const Packet& packet, std::size_t length) {
    Bytes bytes = packet.bytes();
    bytes.resize(std::min(length, bytes.size()));
    return Payload(std::move(bytes));
}

}  // namespace fiplane::test
