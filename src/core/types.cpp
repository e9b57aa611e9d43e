// SPDX-License-Identifier: Apache-2.0
#include "core/types.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>

namespace fiplane {

std::array<std::uint8_t, 4> Ipv4::bytes() const {
    return {static_cast<std::uint8_t>(value >> 24), static_cast<std::uint8_t>(value >> 16),
            static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value)};
}

std::string Ipv4::str() const {
    const auto b = bytes();
    return fmt::format("{}.{}.{}.{}", b[0], b[1], b[2], b[3]);
}

Ipv4 Ipv4::from_bytes(const std::uint8_t* wire) {
    return {std::uint32_t{wire[0]} << 24 | std::uint32_t{wire[1]} << 16 | std::uint32_t{wire[2]} << 8 | wire[3]};
}

Ipv4 Ipv4::from_network(std::uint32_t network_order) {
    std::array<std::uint8_t, 4> wire{};
    std::memcpy(wire.data(), &network_order, wire.size());
    return from_bytes(wire.data());
}

std::uint32_t Ipv4::network() const {
    const auto wire = bytes();
    std::uint32_t out = 0;
    std::memcpy(&out, wire.data(), wire.size());
    return out;
}

std::optional<Ipv4> Ipv4::parse(std::string_view text) {
    std::uint32_t value = 0;
    const char* at = text.data();
    const char* const end = at + text.size();
    for (int part = 0; part < 4; ++part) {
        if (part > 0) {
            if (at == end || *at != '.') return std::nullopt;
            ++at;
        }
        unsigned octet = 0;
        const auto [next, status] = std::from_chars(at, end, octet);
        const bool leading_zero = next - at > 1 && *at == '0';
        if (status != std::errc{} || octet > 255 || leading_zero) return std::nullopt;
        value = value << 8 | octet;
        at = next;
    }
    if (at != end) return std::nullopt;
    return Ipv4{value};
}

namespace {

constexpr std::array<std::uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

IpAddress::IpAddress(Ipv4 address) {
    if (address.is_unset()) return;
    std::ranges::copy(kMapped, bytes_.begin());
    std::ranges::copy(address.bytes(), bytes_.begin() + kMapped.size());
}

std::optional<Ipv4> IpAddress::ipv4() const {
    if (!std::ranges::equal(kMapped, std::span(bytes_).first<kMapped.size()>())) return std::nullopt;
    return Ipv4::from_bytes(bytes_.data() + kMapped.size());
}

bool IpAddress::is_multicast() const {
    const auto four = ipv4();
    return four ? four->value >> 28 == 0xe : bytes_[0] == 0xff;
}

bool IpAddress::is_link_local() const {
    const auto four = ipv4();
    return four ? four->value >> 16 == 0xa9fe : bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
}

std::string IpAddress::str() const {
    if (const auto four = ipv4()) return four->str();
    std::array<char, INET6_ADDRSTRLEN> text{};
    inet_ntop(AF_INET6, bytes_.data(), text.data(), text.size());
    return text.data();
}

IpAddress IpAddress::from_bytes(const std::uint8_t* wire) {
    IpAddress address;
    std::copy_n(wire, kSize, address.bytes_.begin());
    return address;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
    if (const auto four = Ipv4::parse(text)) return *four;
    IpAddress address;
    if (inet_pton(AF_INET6, std::string(text).c_str(), address.bytes_.data()) != 1) return std::nullopt;
    return address;
}

std::string Prefix::str() const {
    return fmt::format("{}/{}", address.str(), length);
}

std::optional<Prefix> Prefix::parse(std::string_view text) {
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    const auto address = Ipv4::parse(text.substr(0, slash));
    const std::string_view digits = text.substr(slash + 1);
    unsigned length = 0;
    const auto [next, status] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
    if (!address || status != std::errc{} || next != digits.data() + digits.size() || length > 32) return std::nullopt;
    return Prefix{*address, static_cast<std::uint8_t>(length)};
}

std::string Mac::str() const {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
                       bytes[5]);
}

std::optional<Mac> Mac::parse(std::string_view text) {
    if (text.size() != 17) return std::nullopt;
    Mac mac;
    for (std::size_t i = 0; i < mac.bytes.size(); ++i) {
        const char* at = text.data() + i * 3;
        if (i > 0 && at[-1] != ':') return std::nullopt;
        const auto [next, status] = std::from_chars(at, at + 2, mac.bytes[i], 16);
        if (status != std::errc{} || next != at + 2) return std::nullopt;
    }
    return mac;
}

void copy_bytes(std::uint8_t* to, Ipv4 address) {
    std::ranges::copy(address.bytes(), to);
}
void copy_bytes(std::uint8_t* to, const IpAddress& address) {
    std::ranges::copy(address.bytes(), to);
}
void copy_bytes(std::uint8_t* to, const Mac& mac) {
    std::ranges::copy(mac.bytes, to);
}

}  // namespace fiplane
