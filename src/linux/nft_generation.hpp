// SPDX-License-Identifier: Apache-2.0
// The generation of a namespace's nf_tables ruleset: every commit makes a new one. What is read of it in several steps
// belongs together only if the generation was the same before the first and after the last. Private to this folder.
#pragma once

#include <cstdint>

#include "core/result.hpp"
#include "linux/netns.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane::nft {

/// `socket` is one of NETLINK_NETFILTER in the namespace.
[[nodiscard]] Result<std::uint32_t> read_generation(nl::Socket& socket, const Netns& netns);

}  // namespace fiplane::nft
