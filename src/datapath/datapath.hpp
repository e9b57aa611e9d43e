// SPDX-License-Identifier: Apache-2.0
// The libbpf edge: load, pin, attach, and keep the maps equal to the compiled tables.
//
// Everything is pinned (maps below <pin_dir>/maps, links below <pin_dir>/links), so traffic goes on when the process
// dies. open() takes over what an earlier process pinned: maps of the same layout are reused as they are, links get
// the new program by an atomic replace only if it differs.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"
#include "core/tables.hpp"

namespace fiplane {

enum class XdpMode { kAuto, kNative, kGeneric, kOff };

struct DatapathOptions {
    std::string pin_dir = "/sys/fs/bpf/fiplane";
    XdpMode xdp = XdpMode::kAuto;
    /// Entries of fl_fip_in and fl_fip_stats. Used when maps are made: those that are taken over keep their size.
    std::uint32_t max_floating_ips = FL_MAX_FLOATING_IPS;
    /// Routers that somebody else built are followed: tc_router at their ports, and nothing else.
    bool follows = false;
};

/// A program at a device.
struct Attachment {
    int ifindex = 0;
    std::string device;
    fl_hook hook{};
    std::string mode;  ///< "xdp native", "xdp generic", "tcx", "clsact", "none"
    std::string why;   ///< why this mode, or why none
    NetnsName netns{};
};

/// What a sync did, per map name.
struct SyncReport {
    struct Change {
        std::uint64_t written = 0;
        std::uint64_t removed = 0;
    };
    std::map<std::string, Change> changes;  ///< only maps that changed
    [[nodiscard]] std::uint64_t total() const;
};

/// Sum over CPUs of one counter row.
struct CounterValue {
    fl_hook hook{};
    fl_reason reason{};
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

struct FipCounters {
    std::uint64_t in_packets = 0, in_bytes = 0, out_packets = 0, out_bytes = 0;
};

/// Programs and filters of others on a device of the calling thread's namespace, one of a router, one phrase each ("tcx
/// ingress prog 17 name"). Not to be able to ask is a phrase, too.
[[nodiscard]] std::vector<std::string> programs_here(int ifindex);

class PinPaths;

class Datapath {
  public:
    /// Loads the programs and makes or takes over maps. kMissingFeature without BTF or BPF; kNotPrivileged without
    /// the capabilities; the verifier's last lines are in the message. kForeignObject where the other mode (`follows`)
    /// has left its programs. Where nothing was pinned before, an error leaves nothing.
    [[nodiscard]] static Result<Datapath> open(const DatapathOptions& options);
    Datapath(Datapath&&) noexcept;
    Datapath& operator=(Datapath&&) noexcept;
    ~Datapath();  ///< closes handles; pinned things stay

    /// Makes the maps equal to `desired`: additions first, from what is referred to to what refers, removals in the
    /// opposite order. Entries that are right are not written. A row that does not fit (kTableFull) is left out, the
    /// rest is done, and the error names the map, its size and the first row.
    [[nodiscard]] Result<SyncReport> sync(const Tables& desired);
    /// Routers that are followed: vouches for the tables as they are, for that long. What is not vouched for goes to
    /// Linux.
    [[nodiscard]] Result<> vouch(std::chrono::seconds lease);
    /// Removes every row that translates to or from one of these addresses, at once.
    [[nodiscard]] Result<> withdraw(const std::vector<Ipv4>& addresses);

    /// Attaches to exactly these devices and detaches from all others. A device that refuses gets an Attachment with
    /// mode "none" and the reason; that is no error. kMissingFeature if a forced XDP mode is not to be had. `unread`:
    /// see RouterAttacher.
    [[nodiscard]] Result<> attach(const std::vector<DeviceRole>& devices, const std::set<NetnsName>& unread = {});
    [[nodiscard]] const std::vector<Attachment>& attachments() const;
    /// Removes all links (traffic goes the slow path), keeps maps.
    [[nodiscard]] Result<> detach();
    /// Removes all links and maps below pin_dir, also those of a dead agent. Needs no open Datapath.
    [[nodiscard]] static Result<> remove_pins(const std::string& pin_dir);

    /// Programs of others on a device, one phrase each ("xdp native prog 17 other_name"): what compile must not jump.
    [[nodiscard]] std::vector<std::string> foreign_programs(int ifindex) const;

    [[nodiscard]] Result<Tables> read_tables() const;
    [[nodiscard]] Result<std::vector<CounterValue>> read_counters() const;  ///< rows that are not zero
    [[nodiscard]] Result<std::map<Ipv4, FipCounters>> read_fip_counters() const;
    /// last_use of fl_dests rows, seconds since boot.
    [[nodiscard]] Result<std::uint32_t> last_use(const fl_dest_key& key) const;
    /// The same of fl_fdb rows.
    [[nodiscard]] Result<std::uint32_t> last_use(const fl_fdb_key& key) const;

  private:
    struct Impl;
    explicit Datapath(std::unique_ptr<Impl> impl);
    static Result<Datapath> open_pinned(const DatapathOptions& options, const PinPaths& paths);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
