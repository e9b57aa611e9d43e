// SPDX-License-Identifier: Apache-2.0
#include "topology/scalar.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace fiplane::topology {
namespace {

constexpr std::size_t kMaxName = 63;
constexpr unsigned kMaxSubnetLength = 30;
// neutron-lib's pool of /31 for rfp-/fpr- pairs.
constexpr Prefix kLinkLocalPool{{0xa9fe4000}, 18};

// Not std::isalnum: the answer must not depend on the locale.
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_alnum(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

std::unexpected<Complaint> refuse(std::string what, std::string hint = {}) {
    return std::unexpected(Complaint{std::move(what), std::move(hint)});
}

/// Why no host can have this address; nothing if one can.
std::optional<std::string> not_unicast(Ipv4 address) {
    const auto first = address.bytes()[0];
    if (first == 0) return "is in 0.0.0.0/8 (\"this network\")";
    if (first == 127) return "is a loopback address";
    if (first >= 224) return first < 240 ? "is a multicast address" : "is in the reserved range 240.0.0.0/4";
    return std::nullopt;
}

std::string address_hint(std::string_view text) {
    if (text.find(':') != std::string_view::npos) return "only an underlay address may be IPv6";
    if (const auto prefix = Prefix::parse(text)) {
        return fmt::format("without the prefix length: {}", prefix->address.str());
    }
    return "four numbers from 0 to 255 without leading zeros, like 10.1.0.11";
}

std::string prefix_hint(std::string_view text) {
    if (text.find(':') != std::string_view::npos) return "subnets are IPv4 only";
    if (const auto address = Ipv4::parse(text)) return fmt::format("with a prefix length: {}/24", address->str());
    return "an address, a slash and a length from 0 to 32, like 10.1.0.0/20";
}

}  // namespace

Parsed<std::string> parse_name(std::string_view text) {
    if (text.empty()) return refuse("is empty", "write a name");
    if (text.size() > kMaxName) {
        return refuse(fmt::format("is {} characters long", text.size()), fmt::format("at most {}", kMaxName));
    }
    const bool fits = is_alnum(text.front()) &&
                      std::ranges::all_of(text, [](char c) { return is_alnum(c) || c == '.' || c == '_' || c == '-'; });
    if (!fits) {
        return refuse("is not a valid name", "letters, digits, '.', '_' and '-', beginning with a letter or a digit");
    }
    return std::string(text);
}

Parsed<std::string> parse_text(std::string_view text) {
    if (text.empty()) return refuse("is empty", "write a name");
    return std::string(text);
}

Parsed<std::string> parse_uuid(std::string_view text) {
    bool fits = text.size() == 36;
    bool upper = false;
    for (std::size_t i = 0; fits && i < text.size(); ++i) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        fits = dash ? text[i] == '-' : is_hex(text[i]);
        upper = upper || (text[i] >= 'A' && text[i] <= 'F');
    }
    if (!fits) {
        return refuse("is not a UUID", "8-4-4-4-12 hex digits, as uuidgen prints; or leave id out: one is derived");
    }
    if (upper) {
        std::string lower(text);
        std::ranges::transform(lower, lower.begin(),
                               [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c; });
        return refuse("has upper-case digits", "device and namespace names are lower case: " + lower);
    }
    if (text.find_first_not_of("0-") == std::string_view::npos) return refuse("is the nil UUID");
    return std::string(text);
}

Parsed<std::string> parse_device(std::string_view text) {
    if (text.empty()) return refuse("is empty", "write a device name");
    if (text.size() > kMaxDeviceName) {
        return refuse(fmt::format("is {} bytes long", text.size()),
                      fmt::format("a Linux device name has at most {}", kMaxDeviceName));
    }
    const bool fits = text != "." && text != ".." && std::ranges::all_of(text, [](char c) {
                          return c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%';
                      });
    if (!fits) {
        return refuse("is not a device name", "printable ASCII without white space, '/', ':' and '%', not . or ..");
    }
    return std::string(text);
}

Parsed<Mac> parse_mac(std::string_view text) {
    const auto mac = Mac::parse(text);
    if (!mac) return refuse("is not a MAC address", "six pairs of hex digits, like fa:16:3e:00:00:01");
    if (mac->is_unset()) return refuse("is the zero address", "leave mac out: one is derived");
    if (mac->is_multicast()) {
        Mac unicast = *mac;
        unicast.bytes[0] = static_cast<std::uint8_t>(unicast.bytes[0] & ~1U);
        return refuse("is a multicast address", "the first byte of a unicast address is even: " + unicast.str());
    }
    return *mac;
}

Parsed<Ipv4> parse_address(std::string_view text) {
    const auto address = Ipv4::parse(text);
    if (!address) return refuse("is not an IPv4 address", address_hint(text));
    if (const auto why = not_unicast(*address)) return refuse(*why, "an address that a host can have");
    return *address;
}

Parsed<IpAddress> parse_underlay_address(std::string_view text) {
    if (text.find(':') == std::string_view::npos) {
        const auto four = parse_address(text);
        if (!four) return std::unexpected(four.error());
        return *four;
    }
    const auto address = IpAddress::parse(text);
    if (!address) return refuse("is not an IPv6 address", "eight groups of hex digits or fewer around '::', no zone");
    constexpr const char* kHint = "a global or unique local address, like 2001:db8::11";
    if (address->is_ipv4()) return refuse("is an IPv4 address in IPv6 form", address->str());
    if (address->is_multicast()) return refuse("is a multicast address", kHint);
    if (address->is_link_local()) return refuse("is a link-local address, which no route leads to", kHint);
    if (address->is_unset() || *address == IpAddress::parse("::1")) return refuse("is no address of a host", kHint);
    return *address;
}

Parsed<Prefix> parse_destination(std::string_view text) {
    const auto prefix = Prefix::parse(text);
    if (!prefix) return refuse("is not an IPv4 prefix", prefix_hint(text));
    if (prefix->network() != *prefix) return refuse("has host bits set", prefix->network().str());
    return *prefix;
}

Parsed<Prefix> parse_cidr(std::string_view text) {
    const auto prefix = parse_destination(text);
    if (!prefix) return prefix;
    if (prefix->length > kMaxSubnetLength) {
        return refuse("has no room for hosts", fmt::format("at most /{}", kMaxSubnetLength));
    }
    for (const Ipv4 edge : {prefix->address, prefix->broadcast()}) {
        if (const auto why = not_unicast(edge)) return refuse("reaches " + edge.str() + ", which " + *why);
    }
    if (prefix->overlaps(kLinkLocalPool)) {
        return refuse("overlaps " + kLinkLocalPool.str(), "rfp-/fpr- pairs take their addresses from there");
    }
    return *prefix;
}

Parsed<Prefix> parse_interface_address(std::string_view text) {
    const auto prefix = Prefix::parse(text);
    if (!prefix) return refuse("is not an address with a prefix length", prefix_hint(text));
    if (const auto why = not_unicast(prefix->address)) return refuse(*why, "an address that a host can have");
    return *prefix;
}

Parsed<std::uint32_t> parse_number(std::string_view text, std::uint32_t low, std::uint32_t high) {
    const std::string range = fmt::format("a whole number from {} to {}", low, high);
    std::uint64_t value = 0;
    const auto [next, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool digits = !text.empty() && std::ranges::all_of(text, is_digit);
    if (!digits) return refuse("is not a number", range);
    if (status != std::errc{} || next != text.data() + text.size() || value < low || value > high) {
        return refuse("is out of range", range);
    }
    return static_cast<std::uint32_t>(value);
}

Parsed<bool> parse_bool(std::string_view text) {
    if (text == "true") return true;
    if (text == "false") return false;
    return refuse("is not a truth value", "true or false");
}

}  // namespace fiplane::topology
