// SPDX-License-Identifier: Apache-2.0
// Connection tracking entries of a namespace, over libnl-nf-3.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "core/flow_handover.hpp"
#include "core/result.hpp"
#include "core/types.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// Deletes every IPv4 entry in which `address` is a source or destination of either direction. Returns how many.
[[nodiscard]] Result<int> flush_conntrack(const Netns& netns, Ipv4 address);

/// How much room there is, and the timeouts (net.netfilter.nf_conntrack_*). What cannot be read has its default.
[[nodiscard]] ConntrackLimits read_conntrack_limits(const Netns& netns);

/// What became of entries that were to be added. Each is in one of the numbers.
struct AddedConnections {
    std::size_t added = 0;
    std::size_t present = 0;         ///< the connection has an entry already, which was left as it is
    std::size_t taken = 0;           ///< another connection has the address and port that this one has outside
    std::size_t refused = 0;         ///< by the kernel
    std::optional<Error> refusal{};  ///< the first of those
};

/// Makes the entries that these connections would have, had Linux carried them from their first packet: confirmed,
/// answered, assured, translated exactly so. TCP is established, or waits for the second FIN, and its windows are not
/// looked at, for they are not known. One that exists is not changed. An error only if nothing could be tried.
[[nodiscard]] Result<AddedConnections> add_conntrack(const Netns& netns,
                                                     std::span<const TrackedConnection> connections);

}  // namespace fiplane
