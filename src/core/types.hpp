// SPDX-License-Identifier: Apache-2.0
// IP addresses, prefixes and MAC addresses as values: ordered, hashable by std::map, printable, parsable.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fiplane {

/// An IPv4 address. `value` is in host byte order; bytes() is wire order.
struct Ipv4 {
    std::uint32_t value = 0;

    auto operator<=>(const Ipv4&) const = default;
    [[nodiscard]] std::array<std::uint8_t, 4> bytes() const;
    [[nodiscard]] bool is_unset() const { return value == 0; }
    [[nodiscard]] std::string str() const;

    static Ipv4 from_bytes(const std::uint8_t* wire);
    /// From an in_addr_t-like number in network byte order.
    static Ipv4 from_network(std::uint32_t network_order);
    [[nodiscard]] std::uint32_t network() const;
    /// Dotted quad only; nothing before or after it.
    static std::optional<Ipv4> parse(std::string_view text);
};

/// An address of either family: a tunnel's end. Ordered with the IPv4 addresses as IPv4-mapped ones (RFC
/// 4291, 2.5.5.2).
class IpAddress {
  public:
    static constexpr std::size_t kSize = 16;

    IpAddress() = default;
    /// Unset, if `address` is.
    IpAddress(Ipv4 address);  // NOLINT(google-explicit-constructor): an IPv4 address is one

    auto operator<=>(const IpAddress&) const = default;
    /// "::", which stands for both families' unset address.
    [[nodiscard]] bool is_unset() const { return *this == IpAddress{}; }
    [[nodiscard]] bool is_ipv4() const { return ipv4().has_value(); }
    [[nodiscard]] bool is_ipv6() const { return !is_unset() && !is_ipv4(); }
    [[nodiscard]] std::optional<Ipv4> ipv4() const;
    [[nodiscard]] bool is_multicast() const;
    [[nodiscard]] bool is_link_local() const;
    /// Wire order; IPv4 in mapped form.
    [[nodiscard]] const std::array<std::uint8_t, kSize>& bytes() const { return bytes_; }
    /// Dotted quad, or IPv6 as RFC 5952 writes it.
    [[nodiscard]] std::string str() const;

    /// From 16 bytes in wire order.
    static IpAddress from_bytes(const std::uint8_t* wire);
    /// An address of either family, without a zone, and nothing before or after it.
    static std::optional<IpAddress> parse(std::string_view text);

  private:
    std::array<std::uint8_t, kSize> bytes_{};
};

/// An IPv4 prefix. `address` may have host bits set (an interface address); network() has none.
struct Prefix {
    Ipv4 address;
    std::uint8_t length = 0;

    auto operator<=>(const Prefix&) const = default;
    [[nodiscard]] std::uint32_t mask() const { return length == 0 ? 0 : ~std::uint32_t{0} << (32 - length); }
    [[nodiscard]] Prefix network() const { return {{address.value & mask()}, length}; }
    [[nodiscard]] bool contains(Ipv4 other) const { return (other.value & mask()) == (address.value & mask()); }
    [[nodiscard]] bool contains(const Prefix& other) const { return other.length >= length && contains(other.address); }
    [[nodiscard]] bool overlaps(const Prefix& other) const { return contains(other) || other.contains(*this); }
    [[nodiscard]] Ipv4 broadcast() const { return {address.value | ~mask()}; }
    [[nodiscard]] std::string str() const;

    static Prefix host(Ipv4 address) { return {address, 32}; }
    /// "a.b.c.d/len"; host bits are kept.
    static std::optional<Prefix> parse(std::string_view text);
};

/// A 48-bit Ethernet address, bytes in wire order.
struct Mac {
    std::array<std::uint8_t, 6> bytes{};

    auto operator<=>(const Mac&) const = default;
    [[nodiscard]] bool is_unset() const { return *this == Mac{}; }
    [[nodiscard]] bool is_multicast() const { return (bytes[0] & 1) != 0; }
    [[nodiscard]] std::string str() const;

    /// "fa:16:3e:00:00:01", two hex digits each.
    static std::optional<Mac> parse(std::string_view text);
};

/// Writes an address in wire order to `to`, which has room for its 4, 16 or 6 bytes: a field of a map's row.
void copy_bytes(std::uint8_t* to, Ipv4 address);
void copy_bytes(std::uint8_t* to, const IpAddress& address);
void copy_bytes(std::uint8_t* to, const Mac& mac);

}  // namespace fiplane
