// SPDX-License-Identifier: Apache-2.0
// Linux's connection tracking as a witness, by the tool conntrack.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/types.hpp"
#include "linux/netns.hpp"

namespace fiplane::test {

/// tc_router needs kfuncs of conntrack and of its NAT. Where they are modules, nothing else loads those on a machine
/// without routers; where they are built in, this does nothing.
void load_conntrack_modules();

/// An address with a port.
struct End {
    Ipv4 address{};
    std::uint16_t port = 0;
};

/// A tracked connection: what its first packet was, and what its answers are.
struct Tracked {
    std::string protocol;  ///< "tcp", "udp"
    End from, to;
    End answer_from, answer_to;
    /// "tcp 10.1.0.5:40000 > 172.24.4.2:80, answers 172.24.4.2:80 > 172.24.5.11:40000"
    [[nodiscard]] std::string str() const;
};

/// All of a namespace, as Tracked::str() has them, sorted.
[[nodiscard]] std::vector<std::string> tracked(const Netns& netns);

/// Adds one. Throws if that fails.
void track(const Netns& netns, const Tracked& connection);

}  // namespace fiplane::test
