// SPDX-License-Identifier: Apache-2.0
// Layer 3 of the walk: one packet from a router's leg to the place where it leaves the routers, through as many
// namespaces as Linux would take it.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/claims.hpp"
#include "core/compile.hpp"
#include "core/l2.hpp"
#include "core/netns_index.hpp"

namespace fiplane {

/// A neighbour that a journey rests on and that Linux would let go stale.
struct NeighbourUse {
    NetnsName netns;
    const Neighbour* neighbour = nullptr;
};

/// A veth by which a journey leaves one router's namespace for the next.
struct Crossing {
    const NetnsIndex* from = nullptr;
    const Link* out = nullptr;
    const NetnsIndex* to = nullptr;
    const Link* in = nullptr;
};

/// What became of a packet.
struct Journey {
    bool fast = false;
    std::string reason;                      ///< why not fast; names the object
    fl_next next{};                          ///< if fast; flags hold FL_NEXT_SNAT only
    std::optional<Ipv4> dnat;                ///< last destination translation ...
    const NetnsIndex* translator = nullptr;  ///< ... and the namespace that does it
    std::optional<Ipv4> snat;
    const NetnsIndex* source_translator = nullptr;  ///< that does it
    std::string snat_by;                            ///< see nf::Outcome
    std::string via;                                ///< device by which it leaves its first router
    std::string port;                               ///< device by which it leaves: VM port, bridge or tunnel device
    std::set<SourceClaim> claims;
    std::vector<const NetnsIndex*> visited;  ///< namespaces that saw the destination untranslated
    std::vector<NeighbourUse> neighbours;
    std::vector<Crossing> crossings;                      ///< in order
    Table<fl_crossing_key, fl_crossing> crossing_rows{};  ///< of one that ends on a foreign segment
    std::vector<WalkStep> steps;                          ///< if asked for
    bool endless = false;                                 ///< ended at the limit of routers
};

/// Walks. Remembers the tails of journeys, which those of many sources share.
class Walker {
  public:
    Walker(const L2& l2, const std::map<NetnsName, NetnsIndex>& routers, bool by_flow)
        : l2_(l2), routers_(routers), by_flow_(by_flow) {}
    ~Walker() = default;
    Walker(const Walker&) = delete;
    Walker& operator=(const Walker&) = delete;

    /// A packet enters the namespace behind `leg`, a router's port on a segment, addressed to the leg's MAC.
    [[nodiscard]] Journey walk(const BridgePort& leg, const Source& source, const Prefix& destination, bool with_steps);

  private:
    struct State {
        const NetnsIndex* netns = nullptr;
        const Link* iif = nullptr;
        Source source;
        bool source_translated = false;
        Prefix destination;
        bool destination_translated = false;
        int routers = 0;  ///< passed so far
    };
    using TailKey = std::tuple<const NetnsIndex*, int, Prefix, bool, bool>;
    struct Traversal;

    Journey run(const State& state, bool with_steps);
    /// The rest of a journey from its second namespace on, where sources are no longer told apart.
    Journey tail(const State& state, bool with_steps);
    static void append(Journey& head, Journey&& rest);
    void shorten(Journey& journey, const NetnsIndex& start) const;
    [[nodiscard]] bool only_forged(const NetnsIndex& netns, const Link& iif, const nf::Outcome& outcome);

    const L2& l2_;
    const std::map<NetnsName, NetnsIndex>& routers_;
    bool by_flow_;  ///< see nf::Packet
    std::map<TailKey, Journey> tails_;
    std::map<std::tuple<const NetnsIndex*, int, nf::SourceTest>, bool> forged_;
};

}  // namespace fiplane
