// SPDX-License-Identifier: Apache-2.0
#include "linux/nl_message.hpp"

#include <linux/netlink.h>

namespace fiplane::nl {
namespace {

/// Room for the largest request (a veth pair with both ends' attributes is about 300 bytes).
constexpr std::size_t kRequestRoom = 4096;

}  // namespace

Request::Request(int type, int flags) : msg_(nlmsg_alloc_size(kRequestRoom)) {
    if (!msg_ || nlmsg_put(msg_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, flags | NLM_F_REQUEST) == nullptr) {
        overflow_ = true;
    }
}

Request& Request::bytes(int attribute, const void* data, std::size_t size) {
    note(msg_ ? nla_put(msg_.get(), attribute, static_cast<int>(size), data) : -1);
    return *this;
}

Request& Request::text(int attribute, const std::string& value) {
    return bytes(attribute, value.c_str(), value.size() + 1);
}

Request& Request::ipv4(int attribute, Ipv4 value) {
    const auto wire = value.bytes();
    return bytes(attribute, wire.data(), wire.size());
}

Request& Request::address(int attribute, const IpAddress& value) {
    if (const auto four = value.ipv4()) return ipv4(attribute, *four);
    return bytes(attribute, value.bytes().data(), IpAddress::kSize);
}

Request& Request::mac(int attribute, const Mac& value) {
    return bytes(attribute, value.bytes.data(), value.bytes.size());
}

Nest::Nest(Request& request, int attribute)
    : request_(request), start_(request.msg_ ? nla_nest_start(request.msg_.get(), attribute | NLA_F_NESTED) : nullptr) {
    if (start_ == nullptr) request_.overflow_ = true;
}

Nest::~Nest() {
    if (start_ != nullptr) nla_nest_end(request_.msg_.get(), start_);
}

Attributes::Attributes(const nlmsghdr& message, std::size_t header_size) {
    const int size = static_cast<int>(header_size);
    if (!nlmsg_valid_hdr(&message, size)) return;
    first_ = nlmsg_attrdata(&message, size);
    size_ = nlmsg_attrlen(&message, size);
}

const nlattr* Attributes::find(int attribute) const {
    return first_ == nullptr ? nullptr : nla_find(first_, size_, attribute);
}

std::string Attributes::text(int attribute) const {
    const nlattr* found = find(attribute);
    return found == nullptr ? std::string() : text_of(*found);
}

std::string Attributes::text_of(const nlattr& attribute) {
    const std::string_view raw(static_cast<const char*>(nla_data(&attribute)),
                               static_cast<std::size_t>(nla_len(&attribute)));
    return std::string(raw.substr(0, raw.find('\0')));
}

std::optional<Ipv4> Attributes::ipv4(int attribute) const {
    const nlattr* found = find(attribute);
    if (found == nullptr || nla_len(found) != 4) return std::nullopt;
    return Ipv4::from_bytes(static_cast<const std::uint8_t*>(nla_data(found)));
}

std::optional<IpAddress> Attributes::address(int attribute) const {
    const nlattr* found = find(attribute);
    if (found != nullptr && nla_len(found) == static_cast<int>(IpAddress::kSize)) {
        return IpAddress::from_bytes(static_cast<const std::uint8_t*>(nla_data(found)));
    }
    const auto four = ipv4(attribute);
    return four ? std::optional<IpAddress>(*four) : std::nullopt;
}

std::optional<Mac> Attributes::mac(int attribute) const {
    Mac mac;
    const nlattr* found = find(attribute);
    if (found == nullptr || nla_len(found) != static_cast<int>(mac.bytes.size())) return std::nullopt;
    std::memcpy(mac.bytes.data(), nla_data(found), mac.bytes.size());
    return mac;
}

Attributes Attributes::nested(int attribute) const {
    const nlattr* found = find(attribute);
    if (found == nullptr) return {};
    return {static_cast<const nlattr*>(nla_data(found)), nla_len(found)};
}

}  // namespace fiplane::nl
