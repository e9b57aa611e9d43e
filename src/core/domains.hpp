// SPDX-License-Identifier: Apache-2.0
// Router domains: groups of senders whose packets a router treats alike, and the table of destinations that they share.
// Private to src/core.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/world.hpp"

namespace fiplane {

/// A VM that could send through a router's leg.
struct Host {
    const BridgePort* leg = nullptr;
    const BridgePort* port = nullptr;
    Ipv4 address;
    Mac mac;                  ///< from which its frames come: its own, or that of the router that it is behind
    std::optional<Ipv4> fip;  ///< none: only what is not translated on its way is carried
    /// Has the floating IP: the leg's router, or one behind it.
    const NetnsIndex* translator = nullptr;
};

/// Senders of one leg that every rule on the way treats alike, but for the address that they are translated to. Either
/// VMs that are known by their address, which all have a floating IP or none has; or everybody from some prefixes,
/// untranslated.
struct Domain {
    std::string key;  ///< of names and rules, not of ifindexes: stable over restarts
    std::uint32_t id = 0;
    const BridgePort* leg = nullptr;
    Source source;              ///< of the one that stands for all
    std::optional<Ipv4> fip{};  ///< of that one
    std::vector<Host> hosts{};  ///< by address
    std::vector<Prefix> senders{};

    [[nodiscard]] bool is_translated() const { return fip.has_value(); }
};

/// What became of one destination.
struct Destination {
    bool fast = false;
    fl_next next{};
    std::vector<NeighbourUse> neighbours;
    Table<fl_crossing_key, fl_crossing> crossings{};
};

/// Destinations of a domain, in the order of their prefixes: each before those that it contains.
struct DestinationTree {
    std::map<Prefix, Destination> destinations{};
    std::vector<Ipv4> left_out{};  ///< addresses that stay slow without a walk, ascending
    std::set<SourceClaim> claims{};
    std::optional<Prefix>
        sample{};           ///< the widest fast destination; of hosts with a floating IP, one that is reached with it
    std::string refusal{};  ///< why no host of the domain may use it
};

/// Walks from the domain's source, which stands for all of it: they have the same signature, and what else a journey
/// assumes of its source is in `claims`, which each host and sender must satisfy. Addresses in `left_out` (ascending)
/// are not walked and stay slow.
[[nodiscard]] DestinationTree walk_destinations(World& world, const Domain& domain, std::vector<Ipv4> left_out);

/// Writes the rows of a tree; false, and none written, if the tables would grow over their limits.
[[nodiscard]] bool write_rows(World& world, const Domain& domain, const DestinationTree& tree);

/// fl_senders rows' key for sources of what comes to a leg.
[[nodiscard]] fl_sender_key sender_key(const BridgePort& leg, const Prefix& sources);

/// Sources that a leg's router itself would reach by a gateway on the leg: who sends through another router there.
[[nodiscard]] std::vector<Prefix> sender_prefixes(const World& world, const BridgePort& leg);

/// fl_senders rows of a domain of senders, without those that do not satisfy the tree's claims.
void write_senders(World& world, const Domain& domain, const DestinationTree& tree);

}  // namespace fiplane
