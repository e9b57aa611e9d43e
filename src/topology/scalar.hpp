// SPDX-License-Identifier: Apache-2.0
// Text of one value -> value, or what is wrong with it. Pure; places and objects are the caller's business.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "core/types.hpp"

namespace fiplane::topology {

inline constexpr std::size_t kMaxDeviceName = 15;  ///< IFNAMSIZ - 1

/// `what` follows the quoted text: "is not an IPv4 address".
struct Complaint {
    std::string what;
    std::string hint;
};

template <typename T>
using Parsed = std::expected<T, Complaint>;

/// Name of an object: 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or a digit. Names go into interface
/// aliases, file names and nft comments.
[[nodiscard]] Parsed<std::string> parse_name(std::string_view text);

/// Reference to an object by name: any text, so that a wrong name is reported as unknown, with a suggestion.
[[nodiscard]] Parsed<std::string> parse_text(std::string_view text);

/// RFC 9562 text form, lower case, not nil.
[[nodiscard]] Parsed<std::string> parse_uuid(std::string_view text);

/// Linux interface name: 1 to 15 bytes without '/', ':' and white space, not "." or ".." (dev_valid_name).
[[nodiscard]] Parsed<std::string> parse_device(std::string_view text);

/// A unicast, non-zero MAC.
[[nodiscard]] Parsed<Mac> parse_mac(std::string_view text);

/// An address that a host can have: not of 0/8, 127/8, 224/4 or 240/4.
[[nodiscard]] Parsed<Ipv4> parse_address(std::string_view text);

/// An IPv4 address that a host can have, or a global or unique local IPv6 address.
[[nodiscard]] Parsed<IpAddress> parse_underlay_address(std::string_view text);

/// A prefix without host bits; any prefix, 0.0.0.0/0 too.
[[nodiscard]] Parsed<Prefix> parse_destination(std::string_view text);

/// A prefix that can be a subnet: no host bits, at most /30, in unicast space, apart from the link-local addresses
/// that rfp-/fpr- pairs take (169.254.64.0/18).
[[nodiscard]] Parsed<Prefix> parse_cidr(std::string_view text);

/// An interface address with its prefix length; host bits are kept.
[[nodiscard]] Parsed<Prefix> parse_interface_address(std::string_view text);

/// A decimal number from low to high.
[[nodiscard]] Parsed<std::uint32_t> parse_number(std::string_view text, std::uint32_t low, std::uint32_t high);

[[nodiscard]] Parsed<bool> parse_bool(std::string_view text);

}  // namespace fiplane::topology
