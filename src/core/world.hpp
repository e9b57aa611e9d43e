// SPDX-License-Identifier: Apache-2.0
// What compile derives once from a snapshot and its parts share. Private to src/core.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/compile.hpp"
#include "core/l2.hpp"
#include "core/netns_index.hpp"
#include "core/walk.hpp"

namespace fiplane {

/// The indexed snapshot and the result under construction. Everything points into the snapshot and
/// the scope, which must outlive it.
struct World {
    World(const Snapshot& snapshot, const Scope& scope);
    ~World() = default;
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    const Scope& scope;
    NetnsIndex root;
    std::map<NetnsName, NetnsIndex> routers;
    L2 l2;
    Walker walker;
    /// Router legs on segments that are not refused, by ifindex of the bridge, then of the port.
    std::vector<const BridgePort*> legs;

    Compiled out;

    void note(std::string sentence) { out.notes.push_back(std::move(sentence)); }
    /// Records that rows rest on these neighbours. `rows`: the rows whose use shows that the neighbour is needed;
    /// none: it is kept alive in any case.
    void keep_alive(const std::vector<NeighbourUse>& neighbours, const fl_dest_key* row);
    void keep_alive(const Keepalive& wanted);
    /// Takes the rows of journeys between routers. False, and none taken, if fl_crossings has no room: a finished
    /// packet that finds no row is lost, so the map must hold the new rows beside the old ones, which are removed after
    /// them.
    [[nodiscard]] bool add_crossings(const Table<fl_crossing_key, fl_crossing>& rows);
    /// Moves what was recorded into `out`.
    void finish_keepalives();

  private:
    std::map<std::tuple<NetnsName, int, IpAddress>, Keepalive> keepalives_;
};

[[nodiscard]] fl_arp_key arp_key(const Segment& segment, Ipv4 address);
[[nodiscard]] fl_fip_key fip_key(const Segment& segment, Ipv4 address);

/// fl_fdb, fl_tunnels, fl_config and the devices that want programs.
void compile_l2(World& world);
/// fl_sources: which frames a device may send, as far as that is proven.
void compile_sources(World& world);
/// fl_arp.
void compile_arp(World& world);
/// fl_fip_in, and a report for each floating IP.
void compile_floating_ips(World& world);
/// fl_vms, fl_dests and fl_routes: what hosts send to their routers; completes the reports.
void compile_domains(World& world);

}  // namespace fiplane
