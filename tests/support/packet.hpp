// SPDX-License-Identifier: Apache-2.0
// Frames for tests, built from plain structs: Eth{} / Ip4{.ttl = 3} / Udp{.dst = 53} / Payload{"hi"}. Layers nest as
// often as needed (Eth / Ip4 / Udp / Vxlan / Eth / Arp). Lengths, next-protocol fields and checksums are filled in from
// what follows, unless a test sets them, which is how malformed frames are made. Shares no code with the programs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "core/types.hpp"

namespace fiplane::test {

using Bytes = std::vector<std::uint8_t>;

/// Addresses from text; a text that is none ends the test program.
[[nodiscard]] Ipv4 ip(std::string_view text);
[[nodiscard]] Mac mac(std::string_view text);

/// RFC 1071 over the bytes: what belongs in a header's checksum field that is zero in them.
[[nodiscard]] std::uint16_t internet_checksum(const Bytes& bytes);

/// The two bytes at an offset, in network order. Throws std::out_of_range where the frame ends before.
[[nodiscard]] inline std::uint16_t word_at(const Bytes& frame, std::size_t at) {
    return static_cast<std::uint16_t>(frame.at(at) << 8 | frame.at(at + 1));
}

// All numbers are in host order; defaults are documentation addresses (RFC 5737, RFC 7042).
struct Eth {
    Mac dst{{0x00, 0x00, 0x5e, 0x00, 0x53, 0x02}};
    Mac src{{0x00, 0x00, 0x5e, 0x00, 0x53, 0x01}};
    std::optional<std::uint16_t> type{};
};

struct Vlan {
    std::uint16_t id = 1;
    std::optional<std::uint16_t> type{};
};

struct Ip4 {
    Ipv4 src{0xc0000201};
    Ipv4 dst{0xc6336401};
    std::uint8_t ttl = 64;
    std::uint8_t tos = 0;
    std::uint16_t id = 0x1234;
    bool dont_fragment = false;
    bool more_fragments = false;
    std::uint16_t fragment_offset = 0;  ///< in units of 8 bytes
    std::optional<std::uint8_t> protocol{};
    std::optional<std::uint16_t> total_length{};
    std::optional<std::uint16_t> checksum{};
    std::uint8_t version = 4;
    std::optional<std::uint8_t> header_words{};
    Bytes options{};
};

struct Ip6 {
    IpAddress src = IpAddress::parse("2001:db8::1").value();
    IpAddress dst = IpAddress::parse("2001:db8::2").value();
    std::uint8_t hop_limit = 64;
    std::uint8_t traffic_class = 0;
    std::uint32_t flow_label = 0;
    std::uint8_t version = 6;
    std::optional<std::uint8_t> next_header{};
    std::optional<std::uint16_t> payload_length{};
};

struct Udp {
    std::uint16_t src = 40000;
    std::uint16_t dst = 53;
    std::optional<std::uint16_t> length{};
    std::optional<std::uint16_t> checksum{};  ///< 0: none, as in tunnel packets
};

struct Tcp {
    std::uint16_t src = 40000;
    std::uint16_t dst = 80;
    std::uint32_t seq = 1;
    std::uint32_t ack = 0;
    std::uint8_t flags = 0x02;
    std::uint16_t window = 64240;
    Bytes options{};  ///< a multiple of four bytes
    std::optional<std::uint16_t> checksum{};
};

struct Icmp {
    std::uint8_t type = 8;
    std::uint8_t code = 0;
    std::uint32_t rest = 0x00010001;  ///< echo: identifier and sequence number
    std::optional<std::uint16_t> checksum{};
};

struct Arp {
    std::uint16_t operation = 1;
    Mac sender_mac{};
    Ipv4 sender_ip{};
    Mac target_mac{};
    Ipv4 target_ip{};
    std::uint16_t hardware = 1;
    std::uint16_t protocol = 0x0800;
    std::uint8_t hardware_length = 6;
    std::uint8_t protocol_length = 4;
};

struct Vxlan {
    std::uint32_t vni = 0;
    std::uint32_t flags = 0x08000000;
    std::uint8_t reserved = 0;
};

/// Without options.
struct Geneve {
    std::uint32_t vni = 0;
    std::uint8_t version_and_length = 0;
    std::uint8_t flags = 0;
    std::uint16_t protocol = 0x6558;
    std::uint8_t reserved = 0;
};

/// With a key.
struct Gre {
    std::uint32_t key = 0;
    std::uint16_t flags = 0x2000;
    std::uint16_t protocol = 0x6558;
};

struct Payload {
    Bytes bytes{};
    Payload() = default;
    explicit Payload(std::string_view text) : bytes(text.begin(), text.end()) {}
    explicit Payload(Bytes raw) : bytes(std::move(raw)) {}
    /// `count` bytes 0, 1, 2, ...
    static Payload counting(std::size_t count);
};

using Layer = std::variant<Eth, Vlan, Ip4, Ip6, Udp, Tcp, Icmp, Arp, Vxlan, Geneve, Gre, Payload>;

/// A stack of layers, outermost first.
class Packet {
  public:
    Packet() = default;
    template <typename T>
        requires std::constructible_from<Layer, T>
    Packet(T layer)
        : layers_{Layer(std::move(layer))} {}  // NOLINT(google-explicit-constructor): Eth{} / Ip4{} needs it

    [[nodiscard]] Bytes bytes() const;
    [[nodiscard]] Packet with(const Packet& inner) const;

  private:
    std::vector<Layer> layers_;
};

template <typename A, typename B>
    requires(std::constructible_from<Packet, A> && std::constructible_from<Packet, B>)
[[nodiscard]] Packet operator/(const A& outer, const B& inner) {
    return Packet(outer).with(Packet(inner));
}

/// The first `length` bytes of a packet, as an ICMP error quotes it.
[[nodiscard]] Payload quote(const Packet& packet, std::size_t length);

}  // namespace fiplane::test
