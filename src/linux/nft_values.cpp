// SPDX-License-Identifier: Apache-2.0
// Literals of nft's JSON as values of nf::Match.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>

#include <bit>
#include <utility>

#include "linux/nft_json.hpp"

namespace fiplane::nft {
namespace {

using nf::Field;
using nf::Value;
using Values = std::vector<Value>;

std::optional<std::uint64_t> named_number(std::initializer_list<std::pair<const char*, std::uint64_t>> names,
                                          const Json& value) {
    if (value.is_number_unsigned()) return value.get<std::uint64_t>();
    if (!value.is_string()) return std::nullopt;
    for (const auto& [name, number] : names) {
        if (value.get_ref<const std::string&>() == name) return number;
    }
    return std::nullopt;
}

std::optional<std::uint64_t> ether_type(const Json& value) {
    return named_number({{"ip", ETH_P_IP},
                         {"arp", ETH_P_ARP},
                         {"ip6", ETH_P_IPV6},
                         {"vlan", ETH_P_8021Q},
                         {"8021q", ETH_P_8021Q},
                         {"8021ad", ETH_P_8021AD}},
                        value);
}

std::optional<std::uint64_t> ip_protocol(const Json& value) {
    return named_number({{"icmp", IPPROTO_ICMP},
                         {"igmp", IPPROTO_IGMP},
                         {"tcp", IPPROTO_TCP},
                         {"udp", IPPROTO_UDP},
                         {"dccp", IPPROTO_DCCP},
                         {"gre", IPPROTO_GRE},
                         {"esp", IPPROTO_ESP},
                         {"ah", IPPROTO_AH},
                         {"comp", IPPROTO_COMP},
                         {"sctp", IPPROTO_SCTP},
                         {"udplite", IPPROTO_UDPLITE},
                         {"icmpv6", IPPROTO_ICMPV6},
                         {"ipv6-icmp", IPPROTO_ICMPV6}},
                        value);
}

/// The fewest prefixes that together are first..last.
void append_range(Values& out, Ipv4 first, Ipv4 last) {
    std::uint64_t at = first.value;
    while (at <= last.value) {
        int host_bits = at == 0 ? 32 : std::countr_zero(at);
        while (at + (std::uint64_t{1} << host_bits) - 1 > last.value)
            --host_bits;
        out.emplace_back(Prefix{{static_cast<std::uint32_t>(at)}, static_cast<std::uint8_t>(32 - host_bits)});
        at += std::uint64_t{1} << host_bits;
    }
}

bool append_address(Values& out, const Json& value) {
    if (value.is_string()) {
        const auto address = Ipv4::parse(value.get_ref<const std::string&>());
        if (address) out.emplace_back(Prefix::host(*address));
        return address.has_value();
    }
    if (value.is_object() && value.contains("prefix")) {
        const auto address = Ipv4::parse(value["prefix"].at("addr").get<std::string>());
        const auto length = value["prefix"].at("len").get<unsigned>();
        if (!address || length > 32) return false;
        out.emplace_back(Prefix{*address, static_cast<std::uint8_t>(length)}.network());
        return true;
    }
    if (value.is_object() && value.contains("range")) {
        const auto first = Ipv4::parse(value["range"].at(0).get<std::string>());
        const auto last = Ipv4::parse(value["range"].at(1).get<std::string>());
        if (!first || !last || *last < *first) return false;
        append_range(out, *first, *last);
        return true;
    }
    return false;
}

template <typename T>
bool append_if(Values& out, const std::optional<T>& value) {
    if (value) out.emplace_back(*value);
    return value.has_value();
}

bool append_value(Values& out, Field field, const Json& value) {
    switch (field) {
        case Field::kIifname:
        case Field::kOifname:
        case Field::kCtState:
        case Field::kCtStatus:
            if (!value.is_string()) return false;
            out.emplace_back(value.get<std::string>());
            return true;
        case Field::kEtherSaddr:
        case Field::kEtherDaddr:
        case Field::kArpSaddrEther:
            return value.is_string() && append_if(out, Mac::parse(value.get<std::string>()));
        case Field::kIpSaddr:
        case Field::kIpDaddr:
        case Field::kArpSaddrIp:
            return append_address(out, value);
        case Field::kEtherType:
            return append_if(out, ether_type(value));
        case Field::kIpProtocol:
            return append_if(out, ip_protocol(value));
        case Field::kMark:
        case Field::kCtMark:
            if (!value.is_number_unsigned()) return false;
            out.emplace_back(value.get<std::uint64_t>());
            return true;
        case Field::kOther:
            break;
    }
    return false;
}

}  // namespace

std::string only_key(const Json& object) {
    return object.is_object() && object.size() == 1 ? object.begin().key() : std::string();
}

Json element_value(const Json& element) {
    if (!element.is_object() || !element.contains("elem")) return element;
    const Json& wrapped = element["elem"];
    return wrapped.contains("timeout") || wrapped.contains("expires") ? Json() : wrapped.at("val");
}

std::optional<Values> parse_values(Field field, const Json& values) {
    const Json list = values.is_object() && values.contains("set") ? values["set"] : values;
    Values out;
    if (!list.is_array()) {
        if (!append_value(out, field, element_value(list))) return std::nullopt;
        return out;
    }
    for (const auto& element : list) {
        if (!append_value(out, field, element_value(element))) return std::nullopt;
    }
    return out;
}

std::optional<Values> parse_ipv6_addresses(const Json& elements) {
    Values out;
    for (const auto& element : elements) {
        const Json value = element_value(element);
        const auto address = value.is_string() ? IpAddress::parse(value.get<std::string>()) : std::nullopt;
        if (!address) return std::nullopt;
        out.emplace_back(*address);
    }
    return out;
}

std::optional<std::map<Ipv4, Ipv4>> parse_address_map(const Json& elements) {
    std::map<Ipv4, Ipv4> out;
    for (const auto& element : elements) {
        if (!element.is_array() || element.size() != 2) return std::nullopt;
        const Json key = element_value(element[0]);
        const Json value = element_value(element[1]);
        if (!key.is_string() || !value.is_string()) return std::nullopt;
        const auto from = Ipv4::parse(key.get<std::string>());
        const auto to = Ipv4::parse(value.get<std::string>());
        if (!from || !to) return std::nullopt;
        out.insert_or_assign(*from, *to);
    }
    return out;
}

}  // namespace fiplane::nft
