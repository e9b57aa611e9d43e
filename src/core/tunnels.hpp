// SPDX-License-Identifier: Apache-2.0
// Tunnel devices of all kinds, as the walk sees them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/snapshot.hpp"
#include "fiplane/abi.h"

namespace fiplane {

/// What a tunnel device puts around frames.
struct Tunnel {
    fl_tunnel_type type = FL_TUNNEL_NONE;
    std::uint32_t id = 0;             ///< VNI or GRE key
    IpAddress local;                  ///< unset: what the route to `remote` has as its source
    std::uint16_t port = 0;           ///< UDP, host order; 0 for GRE
    std::optional<IpAddress> remote;  ///< the only peer of the device; none: its own table has the peers
    int underlay_ifindex = 0;         ///< device that packets must leave by, 0: any
    bool answers_arp = false;         ///< vxlan `proxy`
    bool route_gives_local = false;   ///< geneve: the route is looked up without a source
    bool operator==(const Tunnel&) const = default;
};

/// None if the device is no tunnel of a type that the programs know.
[[nodiscard]] std::optional<Tunnel> tunnel_of(const Link& link);

/// Why the headers that the programs write would not equal the device's; empty: they do.
[[nodiscard]] std::string header_refusal(const Link& link);

/// Bytes that a tunnel takes of the underlay's MTU: outer headers from IP on, and the inner Ethernet header.
[[nodiscard]] std::uint32_t tunnel_overhead(fl_tunnel_type type);

/// Of the outer IP packet (IANA): UDP or GRE.
[[nodiscard]] std::uint8_t outer_protocol(fl_tunnel_type type);

}  // namespace fiplane
