// SPDX-License-Identifier: Apache-2.0
// Flows that the programs carry, as conntrack would have them if Linux had carried them from their first packet: what
// must be told to Linux before the programs go, so that no flow gets another port in mid-life. Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/snapshot.hpp"
#include "core/tables.hpp"
#include "core/types.hpp"

namespace fiplane {

/// Where packets of one direction come from and go to, before anything translates them. Ports in host byte order.
struct ConnectionTuple {
    Ipv4 source;
    std::uint16_t source_port = 0;
    Ipv4 destination;
    std::uint16_t destination_port = 0;
    auto operator<=>(const ConnectionTuple&) const = default;
};

/// A connection of TCP or UDP with both directions known. What is translated is where `reply` is not `original` turned
/// round: its destination is what the opener's source becomes, its source what the opener's destination becomes.
struct TrackedConnection {
    std::uint8_t protocol = 0;  ///< IPPROTO_TCP or IPPROTO_UDP
    ConnectionTuple original;   ///< of the side that opened it
    ConnectionTuple reply;
    std::uint32_t timeout = 0;  ///< after which it is forgotten if no packet comes, seconds; not 0
    bool closing = false;       ///< TCP: one side at least has ended
    bool answered = true;       ///< false: conntrack may give it up for another one when it is full
    bool operator==(const TrackedConnection&) const = default;
};

/// What a namespace's conntrack takes, and for how long it keeps it (seconds). The defaults are Linux's.
struct ConntrackLimits {
    std::uint64_t room = std::numeric_limits<std::uint64_t>::max();  ///< entries that it still has room for
    std::uint32_t tcp_established = 432000;
    std::uint32_t tcp_closing = 120;
    std::uint32_t tcp_unanswered = 300;
    std::uint32_t udp_stream = 120;
    std::uint32_t udp_unanswered = 30;
    std::uint32_t icmp = 30;
};

/// A namespace that takes flows over.
struct HandoverTarget {
    ConntrackLimits limits;
    /// Its floating IPs and their fixed IPs, as its rules have them now. None: it is not known; what the programs
    /// carried goes over then.
    std::optional<std::map<Ipv4, Ipv4>> floating_ips;
};

enum class LeftOut {
    kNoRouter,      ///< the namespace is gone, and its connections with it
    kNoPorts,       ///< an echo: whoever carries it, its answer finds who sent it
    kIdle,          ///< Linux would have forgotten it
    kUntranslated,  ///< nothing in it is translated, so that Linux can begin it anew
    kNoFloatingIp,  ///< a floating IP is gone, or another VM's: Linux has forgotten such connections
    kNoRoom,        ///< conntrack would be full; others were used later
};
/// "its router's namespace is gone": completes "3 flows left out: ".
[[nodiscard]] std::string describe(LeftOut reason);

struct FlowHandover {
    /// By namespace, those used last first, and behind them what nobody has answered yet. All namespaces that were
    /// given, also those without any.
    std::map<NetnsName, std::vector<TrackedConnection>> connections;
    std::map<LeftOut, std::size_t> left_out;  ///< flows, by the reason why
};

/// `now`: seconds of CLOCK_MONOTONIC. Where two names of `routers` have the same number, the first has its flows, as
/// when tables are compiled.
[[nodiscard]] FlowHandover plan_handover(const Table<fl_flow_key, fl_flow>& flows,
                                         const std::map<NetnsName, HandoverTarget>& routers, std::uint32_t now);

/// Flows that conntrack would have forgotten: their rows only stand in the way of others that get their ports some day.
class ForgottenFlows {
  public:
    /// `now`: as above. Of a namespace that `routers` has not, Linux's defaults count.
    ForgottenFlows(const std::map<NetnsName, ConntrackLimits>& routers, std::uint32_t now);
    [[nodiscard]] bool contain(const fl_flow_key& key, const fl_flow& flow) const;

  private:
    std::map<std::uint32_t, ConntrackLimits> limits_;  ///< by the router's number
    std::uint32_t now_;
};

}  // namespace fiplane
