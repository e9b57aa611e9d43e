// SPDX-License-Identifier: Apache-2.0
// compile: Snapshot -> Tables. A walk: for each place where packets enter and each known destination it follows what
// Linux would do, and flattens the journey into one entry. Where it meets something that it does not understand it
// makes no entry and records why. Pure: no I/O, no clock, the same input gives the same bytes.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/snapshot.hpp"
#include "core/tables.hpp"

namespace fiplane {

/// What fiplane may accelerate on this node. In own mode: the bridges that the topology names.
struct Scope {
    std::set<std::string> bridges;  ///< names in the root namespace
    /// Distributed routers: VMs of other nodes are served by theirs. Nothing depends on it but the room in the tables,
    /// which would else have rows for all the cloud.
    std::set<NetnsName> distributed_routers{};
    /// The node's own namespace is a router as well (nova-network): its bridges' addresses are the legs.
    bool root_is_router = false;
    /// Routers that somebody else built, on an L2 that is not ours: what their ports bring is carried to the port by
    /// which it leaves them, and no further. Flows are carried whole.
    bool follows = false;
};

/// One step of a walk, for `explain`: "fip-…: route 172.24.5.11/32 via 169.254.64.0 dev fpr-… (table main)".
struct WalkStep {
    NetnsName netns;
    std::string text;
};

/// A floating IP as compile saw it.
struct FipReport {
    Ipv4 fip;
    Ipv4 fixed;
    NetnsName router;     ///< namespace that translates it
    std::string segment;  ///< external bridge
    std::string port;     ///< VM port device, if the walk reached one on this node
    bool fast_in = false;
    bool fast_out = false;
    std::string reason_in;  ///< why not, where it is not fast; names the object
    std::string reason_out;
    /// Why packets to addresses that nobody on the way knows better (0.0.0.0/0) are not fast, where those to others
    /// are.
    std::string reason_outside;
    std::vector<WalkStep> steps_in;
    std::vector<WalkStep> steps_out;
};

/// A device that wants one of our programs.
struct DeviceRole {
    int ifindex = 0;
    std::string name;
    enum class Kind { kUnderlay, kTunnel, kPort, kHost, kTrunk, kRouter } kind = Kind::kPort;
    bool wire_to_wire = false;  ///< underlay: journeys from tunnel to tunnel exist here
    std::string refused;        ///< why nothing may be attached (a foreign program); empty: attach
    NetnsName netns{};          ///< kRouter: where it is
    std::uint32_t number = 0;   ///< kRouter: see fl_source_key
    bool operator==(const DeviceRole&) const = default;
};

/// A neighbour or FDB entry that entries rest on and that would age out unseen: the agent keeps it alive while used.
struct Keepalive {
    NetnsName netns;
    int ifindex = 0;
    IpAddress address;
    std::uint16_t state = 0;         ///< NUD_*, 0: not in the table yet, wanted
    bool always = false;             ///< underlay next hops: kept alive whether used or not
    std::vector<fl_dest_key> dests;  ///< rows whose last_use tells whether it is used
};

/// A learned entry of a bridge's table, or of a vxlan device's own, that a row rests on. Linux does not see the frames
/// that BPF carries, so it would let the entry age: the agent keeps it alive while they come.
struct LearnedEntry {
    int ifindex = 0;                ///< the bridge's port; the vxlan device
    std::optional<IpAddress> peer;  ///< set: an entry of the vxlan device's own table, which leads there
    Mac mac;
    std::uint32_t ageing = 0;  ///< for how long Linux keeps it after the last frame, seconds; not 0
    fl_fdb_key row{};          ///< whose last_use moves while frames come from the MAC
};

struct Compiled {
    Tables tables;
    std::vector<FipReport> fips;
    std::vector<DeviceRole> devices;
    std::vector<Keepalive> keepalives;
    std::vector<LearnedEntry> learned;
    /// Namespaces of which what is known may be out of date. They may have devices that `devices` lacks.
    std::set<NetnsName> unread;
    std::vector<std::string> notes;  ///< other things that stay slow, one sentence each
};

[[nodiscard]] Compiled compile(const Snapshot& snapshot, const Scope& scope);

}  // namespace fiplane
