// SPDX-License-Identifier: Apache-2.0
// Netlink messages: a builder for requests and a view of the attributes of an answer. Over libnl-3's nlmsg and nla
// functions; private to this folder.
//
// Attributes are built and read directly rather than through libnl-route's objects, which lack some that fiplane
// needs (IFLA_LINK_NETNSID, IFLA_XDP, bridge slave data) and hide the kernel's error texts.
#pragma once

#include <netinet/in.h>  // before <linux/in.h>, which gives way to it
#include <netlink/attr.h>
#include <netlink/msg.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/types.hpp"

namespace fiplane::nl {

/// A request under construction. Running out of room is remembered and reported when it is sent.
class Request {
  public:
    /// `flags` are NLM_F_*; NLM_F_REQUEST is implied.
    Request(int type, int flags);

    /// The family's fixed header (ifinfomsg, rtmsg, ...); first of all.
    template <typename Header>
    Request& header(const Header& value) {
        static_assert(std::is_trivially_copyable_v<Header>);
        note(msg_ ? nlmsg_append(msg_.get(), const_cast<Header*>(&value), sizeof value, NLMSG_ALIGNTO) : -1);
        return *this;
    }
    Request& bytes(int attribute, const void* data, std::size_t size);
    /// Integers go in host byte order, as rtnetlink wants them unless its documentation says otherwise.
    template <typename Number>
    Request& number(int attribute, Number value) {
        static_assert(std::is_integral_v<Number>);
        return bytes(attribute, &value, sizeof value);
    }
    /// With a terminating NUL.
    Request& text(int attribute, const std::string& value);
    Request& ipv4(int attribute, Ipv4 value);
    /// 4 or 16 bytes.
    Request& address(int attribute, const IpAddress& value);
    Request& mac(int attribute, const Mac& value);

    [[nodiscard]] bool complete() const { return msg_ && !overflow_; }
    [[nodiscard]] nl_msg* get() const { return msg_.get(); }

  private:
    friend class Nest;
    void note(int status) { overflow_ = overflow_ || status < 0; }
    struct Free {
        void operator()(nl_msg* msg) const { nlmsg_free(msg); }
    };
    std::unique_ptr<nl_msg, Free> msg_;
    bool overflow_ = false;
};

/// An attribute that holds what is put into the request while this object lives.
class Nest {
  public:
    Nest(Request& request, int attribute);
    ~Nest();
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

  private:
    Request& request_;
    nlattr* start_;
};

/// The attributes of a message or of a nest. A view: valid as long as the message. Reading an attribute that is absent
/// or too short gives the fallback.
class Attributes {
  public:
    Attributes() = default;
    /// Those behind the family's fixed header.
    Attributes(const nlmsghdr& message, std::size_t header_size);

    [[nodiscard]] const nlattr* find(int attribute) const;
    [[nodiscard]] bool has(int attribute) const { return find(attribute) != nullptr; }
    template <typename Number>
    [[nodiscard]] Number number(int attribute, Number fallback = {}) const {
        static_assert(std::is_integral_v<Number>);
        const nlattr* found = find(attribute);
        if (found == nullptr || nla_len(found) < static_cast<int>(sizeof(Number))) return fallback;
        Number value{};
        std::memcpy(&value, nla_data(found), sizeof value);
        return value;
    }
    [[nodiscard]] bool flag(int attribute, bool fallback) const {
        return number<std::uint8_t>(attribute, fallback) != 0;
    }
    [[nodiscard]] std::string text(int attribute) const;
    [[nodiscard]] std::optional<Ipv4> ipv4(int attribute) const;
    /// Of either family, by its length.
    [[nodiscard]] std::optional<IpAddress> address(int attribute) const;
    [[nodiscard]] std::optional<Mac> mac(int attribute) const;
    /// What is nested in an attribute; empty if it is absent.
    [[nodiscard]] Attributes nested(int attribute) const;

    template <typename Visitor>
    void for_each(Visitor visit) const {
        int rest = size_;
        for (const nlattr* at = first_; at != nullptr && nla_ok(at, rest); at = nla_next(at, &rest))
            visit(*at);
    }
    /// An attribute's bytes up to the first NUL.
    [[nodiscard]] static std::string text_of(const nlattr& attribute);

  private:
    Attributes(const nlattr* first, int size) : first_(first), size_(size) {}
    const nlattr* first_ = nullptr;
    int size_ = 0;
};

/// The fixed header of a message's family; null if the message is too short to hold one.
template <typename Header>
[[nodiscard]] const Header* header_of(const nlmsghdr& message) {
    if (!nlmsg_valid_hdr(&message, sizeof(Header))) return nullptr;
    return static_cast<const Header*>(nlmsg_data(&message));
}

}  // namespace fiplane::nl
