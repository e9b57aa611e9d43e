// SPDX-License-Identifier: Apache-2.0
// The fast path of this node: compiled from each snapshot, and, while it is on, written to the datapath.
//
// Off means that no program of ours is attached; the compiled tables are still made, so that `explain` and `status` can
// say what would be fast.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "datapath/datapath.hpp"

namespace fiplane {

class FastPath {
  public:
    explicit FastPath(DatapathOptions options) : options_(std::move(options)) {}

    /// Loads programs and takes over what an earlier process pinned. Nothing is attached before the next update().
    [[nodiscard]] Result<> turn_on();
    /// Finds out whether a forced XDP mode is to be had, before anything else is changed: attaches to the underlay
    /// device alone, where a program with empty tables passes everything. kMissingFeature, and nothing is left, if it
    /// is not. Where an earlier process left links nothing is tried: they carry traffic.
    [[nodiscard]] Result<> try_forced_xdp(const std::string& underlay_device);
    /// Detaches everything. Also removes what a dead agent left, without loading anything. After an error it is off,
    /// but something may be left: to be called again.
    [[nodiscard]] Result<> turn_off();
    [[nodiscard]] bool is_on() const { return on_; }
    [[nodiscard]] bool is_off() const { return !on_ && has_left_; }

    /// See Datapath.
    [[nodiscard]] Result<> vouch(std::chrono::seconds lease) { return on_ ? datapath_->vouch(lease) : Result<>{}; }
    /// Removes the rows that translate to or from these addresses, at once.
    [[nodiscard]] Result<> withdraw(const std::vector<Ipv4>& addresses);

    /// Compiles, and if the fast path is on brings maps and devices in line: programs go from devices that have no role
    /// any more, then rows change, then programs come to new devices. Where others' routers are followed programs come
    /// first: a row for what leaves by one device needs the program that meets the answer at the other, so a device
    /// that gets none is left to Linux. kTableFull: rows were left out, the rest is done.
    [[nodiscard]] Result<> update(const Snapshot& snapshot, const Scope& scope);
    /// The maps are what the last update() wanted, but for rows that did not fit: those packets are Linux's.
    [[nodiscard]] bool in_step() const { return in_step_; }
    /// Removes rows of flows that nobody goes on with; of routers that are followed.
    [[nodiscard]] Result<> forget_flows();

    /// As of the last update().
    [[nodiscard]] const Compiled& compiled() const { return compiled_; }
    /// Floating IPs whose rows did not fit.
    [[nodiscard]] const std::set<Ipv4>& left_out() const { return left_out_; }

    /// Programs of others on a device; none while the datapath is not loaded.
    [[nodiscard]] std::vector<std::string> foreign_programs(const Link& link) const;
    [[nodiscard]] std::vector<Attachment> attachments() const;
    [[nodiscard]] std::vector<CounterValue> counters() const;
    [[nodiscard]] std::map<Ipv4, FipCounters> fip_counters() const;
    /// Seconds since boot; 0: never, no such row, or the fast path is off.
    [[nodiscard]] std::uint32_t last_use(const fl_dest_key& key) const;
    [[nodiscard]] std::uint32_t last_use(const fl_fdb_key& key) const;

    struct Statistics {
        std::uint64_t updates = 0;
        std::uint64_t rows_written = 0;
        std::uint64_t rows_removed = 0;
        std::chrono::microseconds last_compile{};
        std::chrono::microseconds last_sync{};
    };
    [[nodiscard]] const Statistics& statistics() const { return statistics_; }

  private:
    [[nodiscard]] Result<> leave_node();
    [[nodiscard]] Result<> leave_routers();
    [[nodiscard]] Result<> detach_from_lost_devices();
    [[nodiscard]] std::optional<Snapshot> without_unserved(const Snapshot& snapshot) const;
    [[nodiscard]] Result<> sync();
    [[nodiscard]] Result<> find_left_out();
    void log_differences(const Compiled& before) const;
    void log_attachments(const std::vector<Attachment>& before) const;

    DatapathOptions options_;
    std::unique_ptr<Datapath> datapath_;
    bool on_ = false;
    bool has_left_ = false;  ///< while off: nothing is left
    bool in_step_ = false;
    Compiled compiled_;
    std::set<Ipv4> left_out_;
    Statistics statistics_;
};

}  // namespace fiplane
