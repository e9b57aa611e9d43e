// SPDX-License-Identifier: Apache-2.0
// Reading and checksumming raw frames without allocation. Callers see to the bounds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/types.hpp"

namespace fiplane::test {

using View = std::span<const std::uint8_t>;

inline constexpr std::size_t kEthSize = 14;
inline constexpr std::size_t kIpSize = 20;
inline constexpr std::size_t kL4 = kEthSize + kIpSize;  ///< without options
inline constexpr std::size_t kUdpOuterSize = 50;        ///< Ethernet, IPv4, UDP, VXLAN or Geneve
inline constexpr std::size_t kGreOuterSize = 42;        ///< Ethernet, IPv4, GRE with a key
inline constexpr std::uint16_t kTypeIp = 0x0800;
inline constexpr std::uint16_t kTypeArp = 0x0806;
inline constexpr std::uint8_t kIcmp = 1;
inline constexpr std::uint8_t kTcp = 6;
inline constexpr std::uint8_t kUdp = 17;
inline constexpr std::uint8_t kDccp = 33;
inline constexpr std::uint8_t kGre = 47;
inline constexpr std::uint8_t kSctp = 132;
inline constexpr std::uint8_t kUdpLite = 136;

inline std::uint16_t read16(View bytes, std::size_t at) {
    return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

inline std::uint32_t read32(View bytes, std::size_t at) {
    return std::uint32_t{read16(bytes, at)} << 16 | read16(bytes, at + 2);
}

inline bool is_icmp_error(std::uint8_t type) {
    return type == 3 || type == 4 || type == 11 || type == 12;
}

/// Length of a tunnel packet's outer headers, by the protocol of its IPv4 header. At least 24 bytes must be there.
inline std::size_t outer_size(View frame) {
    return frame[23] == kGre ? kGreOuterSize : kUdpOuterSize;
}

inline Ipv4 read_ip(View bytes, std::size_t at) {
    return {read32(bytes, at)};
}

inline void write16(std::span<std::uint8_t> bytes, std::size_t at, std::uint32_t value) {
    bytes[at] = static_cast<std::uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<std::uint8_t>(value);
}

inline void write32(std::span<std::uint8_t> bytes, std::size_t at, std::uint32_t value) {
    write16(bytes, at, value >> 16);
    write16(bytes, at + 2, value);
}

inline bool has_mac(View bytes, std::size_t at, const Mac& mac) {
    return std::memcmp(&bytes[at], mac.bytes.data(), mac.bytes.size()) == 0;
}

inline void write_mac(std::span<std::uint8_t> bytes, std::size_t at, const Mac& mac) {
    std::ranges::copy(mac.bytes, bytes.begin() + static_cast<std::ptrdiff_t>(at));
}

/// Sum of the bytes as big-endian 16-bit words, an odd last byte padded with zero, not folded.
inline std::uint64_t word_sum(View bytes) {
    std::uint64_t sum = 0;
    std::size_t at = 0;
    for (; at + 2 <= bytes.size(); at += 2)
        sum += read16(bytes, at);
    return at < bytes.size() ? sum + (std::uint64_t{bytes[at]} << 8) : sum;
}

/// A sum as a number modulo 65535: ones' complement arithmetic without its two zeros. Bytes that hold a right Internet
/// checksum (RFC 1071) and are not all zero give 0.
inline std::uint32_t residue(std::uint64_t sum) {
    return static_cast<std::uint32_t>(sum % 0xffff);
}

/// What belongs in the checksum field when `sum` was taken with a zero there.
inline std::uint16_t checksum_of(std::uint64_t sum) {
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

}  // namespace fiplane::test
