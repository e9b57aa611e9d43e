// SPDX-License-Identifier: Apache-2.0
// Connection tracking entries of a namespace, over libnl-nf-3.
#pragma once

#include "core/result.hpp"
#include "core/types.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// Deletes every IPv4 entry in which `address` is a source or destination of either direction. Returns how many.
[[nodiscard]] Result<int> flush_conntrack(const Netns& netns, Ipv4 address);

}  // namespace fiplane
