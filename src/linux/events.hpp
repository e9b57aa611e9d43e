// SPDX-License-Identifier: Apache-2.0
// Change notifications of one network namespace: rtnetlink groups and nf_tables. They only say "something changed";
// what holds now is read by a dump. So a lost message costs nothing but that dump.
#pragma once

#include <memory>

#include "core/result.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// What a batch of notifications was about.
struct EventBatch {
    bool links = false;  ///< links, bridge ports, addresses of links
    bool addresses = false;
    bool routes = false;
    bool rules = false;
    bool neighbours = false;  ///< neighbours and FDB entries
    bool netfilter = false;
    bool ipsec = false;     ///< IPsec policies
    bool programs = false;  ///< qdiscs and filters of devices; of programs without a filter (tcx, XDP) nothing tells
    bool ipv6 = false;      ///< IPv6 addresses, routes, rules or neighbours
    bool overrun = false;   ///< ENOBUFS: messages were lost, everything may have changed
    [[nodiscard]] bool any() const {
        return links || addresses || routes || rules || neighbours || netfilter || ipsec || programs || ipv6 || overrun;
    }
};

/// Non-blocking sockets in one namespace. Their descriptors are for epoll; receive() drains all and says what was seen.
class NetnsEvents {
  public:
    [[nodiscard]] static Result<NetnsEvents> open(const Netns& netns);
    NetnsEvents(NetnsEvents&&) noexcept;
    NetnsEvents& operator=(NetnsEvents&&) noexcept;
    ~NetnsEvents();

    [[nodiscard]] int rtnl_fd() const;
    [[nodiscard]] int netfilter_fd() const;
    /// -1 on a kernel without IPsec.
    [[nodiscard]] int ipsec_fd() const;
    /// Reads all that is queued. Never blocks.
    [[nodiscard]] EventBatch receive();

  private:
    struct Impl;
    explicit NetnsEvents(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
