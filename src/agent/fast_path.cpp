// SPDX-License-Identifier: Apache-2.0
#include "agent/fast_path.hpp"

#include <fmt/format.h>
#include <net/if.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "agent/release.hpp"
#include "core/reasons.hpp"
#include "datapath/pins.hpp"

namespace fiplane {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::microseconds since(Clock::time_point start) {
    return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
}

/// "fast", or which direction is slow and why.
std::string describe(const FipReport& report) {
    if (report.fast_in && report.fast_out) return "fast";
    std::string text = "slow";
    if (!report.fast_in) text += fmt::format("; inbound: {}", report.reason_in);
    if (!report.fast_out) text += fmt::format("; outbound: {}", report.reason_out);
    return text;
}

bool is_at(const Attachment& attachment, const DeviceRole& role) {
    return attachment.netns == role.netns && attachment.ifindex == role.ifindex;
}

std::string place_of(const Attachment& attachment) {
    return attachment.netns.empty() ? attachment.device : attachment.netns + "/" + attachment.device;
}

}  // namespace

Result<> FastPath::turn_on() {
    if (!datapath_) {
        auto opened = Datapath::open(options_);
        if (!opened) return pass_on(opened);
        datapath_ = std::make_unique<Datapath>(std::move(*opened));
    }
    on_ = true;
    return {};
}

Result<> FastPath::try_forced_xdp(const std::string& underlay_device) {
    if (options_.xdp != XdpMode::kNative && options_.xdp != XdpMode::kGeneric) return {};
    std::error_code status;
    const std::string links = options_.pin_dir + "/links";
    if (!std::filesystem::is_empty(links, status) && !status) return {};
    const int ifindex = static_cast<int>(if_nametoindex(underlay_device.c_str()));
    if (ifindex == 0) return fail_errno(errno, "cannot find the underlay device", underlay_device);
    auto attached = datapath_->attach({{ifindex, underlay_device, DeviceRole::Kind::kUnderlay, false, {}}});
    if (attached) return {};
    if (auto removed = Datapath::remove_pins(options_.pin_dir); !removed) spdlog::warn("{}", removed.error().message());
    return attached;
}

Result<> FastPath::turn_off() {
    on_ = false;
    left_out_.clear();
    auto left = options_.follows ? leave_routers() : leave_node();
    has_left_ = left.has_value();
    return left;
}

Result<> FastPath::leave_node() {
    if (datapath_) return datapath_->detach();
    if (auto ours = check_mode(PinPaths(options_.pin_dir), options_.follows); !ours) return ours;
    return Datapath::remove_pins(options_.pin_dir);
}

/// With their flows. The maps go as well: what they say of flows ends with that.
Result<> FastPath::leave_routers() {
    datapath_.reset();
    auto table = FlowTable::open(options_.pin_dir);
    if (!table) return pass_on(table);
    if (!*table) return {};
    auto released = release_flows(**table);
    if (!released) return pass_on(released);
    spdlog::info("{} flows handed over to Linux", released->flows);
    for (const auto& [why, flows] : released->left_out)
        spdlog::info("{} flows left out: {}", flows, why);
    return Datapath::remove_pins(options_.pin_dir);
}

Result<> FastPath::withdraw(const std::vector<Ipv4>& addresses) {
    return on_ ? datapath_->withdraw(addresses) : Result<>{};
}

Result<> FastPath::update(const Snapshot& snapshot, const Scope& scope) {
    const auto start = Clock::now();
    in_step_ = false;
    const Compiled before = std::exchange(compiled_, compile(snapshot, scope));
    statistics_.last_compile = since(start);
    ++statistics_.updates;
    if (!on_) {
        log_differences(before);
        return {};
    }

    const auto attached = datapath_->attachments();
    if (auto detached = detach_from_lost_devices(); !detached) return detached;
    Result<> done;
    if (scope.follows) {
        done = datapath_->attach(compiled_.devices, compiled_.unread);
        // Whatever one device's error is, it is none of the whole agent's.
        if (!done) done.error().code = ExitCode::kFailed;
        if (const auto narrowed = without_unserved(snapshot)) compiled_ = compile(*narrowed, scope);
    }
    log_differences(before);
    auto synced = sync();
    in_step_ = synced || synced.error().code == ExitCode::kTableFull;
    if (!in_step_) return synced;
    if (!scope.follows) done = datapath_->attach(compiled_.devices, compiled_.unread);
    log_attachments(attached);
    return done ? synced : done;
}

/// The snapshot with what is known since: to which devices no program comes. None if all have theirs.
std::optional<Snapshot> FastPath::without_unserved(const Snapshot& snapshot) const {
    std::optional<Snapshot> narrowed;
    for (const Attachment& attachment : datapath_->attachments()) {
        const bool refused = std::ranges::any_of(compiled_.devices, [&](const DeviceRole& role) {
            return is_at(attachment, role) && !role.refused.empty();
        });
        if (attachment.netns.empty() || attachment.mode != "none" || refused) continue;
        if (!narrowed) narrowed = snapshot;
        auto& links = narrowed->routers.at(attachment.netns).links;
        links.at(attachment.ifindex).unserved = attachment.why;
    }
    return narrowed;
}

Result<> FastPath::forget_flows() {
    if (!on_ || !options_.follows) return {};
    auto table = FlowTable::open(options_.pin_dir);
    if (!table) return pass_on(table);
    if (!*table) return {};
    const auto forgotten = fiplane::forget_flows(**table);
    if (!forgotten) return std::unexpected(forgotten.error());
    if (*forgotten != 0) spdlog::debug("{} old flows forgotten", *forgotten);
    return {};
}

Result<> FastPath::detach_from_lost_devices() {
    const auto in_place = [&](const Attachment& attachment) {
        return attachment.mode == "none" || std::ranges::any_of(compiled_.devices, [&](const DeviceRole& role) {
                   return is_at(attachment, role) && (role.refused.empty() || role.kind == DeviceRole::Kind::kRouter);
               });
    };
    const auto& attached = datapath_->attachments();
    if (std::ranges::all_of(attached, in_place)) return {};
    std::vector<DeviceRole> kept;
    for (const DeviceRole& role : compiled_.devices) {
        const auto has_program = [&](const Attachment& a) { return a.mode != "none" && is_at(a, role); };
        if (std::ranges::any_of(attached, has_program)) kept.push_back(role);
    }
    return datapath_->attach(kept, compiled_.unread);
}

Result<> FastPath::sync() {
    const auto start = Clock::now();
    auto report = datapath_->sync(compiled_.tables);
    statistics_.last_sync = since(start);
    left_out_.clear();
    if (!report) {
        if (report.error().code == ExitCode::kTableFull) {
            if (auto found = find_left_out(); !found) return found;
        }
        return pass_on(report);
    }
    for (const auto& [map, change] : report->changes) {
        statistics_.rows_written += change.written;
        statistics_.rows_removed += change.removed;
        spdlog::debug("{}: {} rows written, {} removed", map, change.written, change.removed);
    }
    return {};
}

Result<> FastPath::find_left_out() {
    const auto tables = datapath_->read_tables();
    if (!tables) return std::unexpected(tables.error());
    for (const auto& [key, value] : compiled_.tables.fip_in) {
        if (!tables->fip_in.contains(key)) left_out_.insert(Ipv4::from_bytes(key.fip));
    }
    for (const auto& [key, value] : compiled_.tables.vms) {
        const Ipv4 fip = Ipv4::from_bytes(value.fip);
        if (!fip.is_unset() && !tables->vms.contains(key)) left_out_.insert(fip);
    }
    return {};
}

void FastPath::log_differences(const Compiled& before) const {
    std::map<Ipv4, std::string> known;
    for (const FipReport& report : before.fips)
        known[report.fip] = describe(report);
    for (const FipReport& report : compiled_.fips) {
        const std::string state = describe(report);
        const auto old = known.extract(report.fip);
        if (old && old.mapped() == state) continue;
        spdlog::info("floating IP {} ({} in {}): {}", report.fip.str(), report.fixed.str(), report.router, state);
    }
    for (const auto& [fip, state] : known)
        spdlog::info("floating IP {}: gone from this node", fip.str());
    for (const std::string& note : compiled_.notes) {
        if (std::ranges::find(before.notes, note) == before.notes.end()) spdlog::info("stays slow: {}", note);
    }
}

void FastPath::log_attachments(const std::vector<Attachment>& before) const {
    const auto& now = datapath_->attachments();
    const auto same_place = [](const Attachment& a, const Attachment& b) {
        return a.netns == b.netns && a.ifindex == b.ifindex && a.hook == b.hook;
    };
    for (const Attachment& attachment : now) {
        const auto old = std::ranges::find_if(before, [&](const Attachment& b) { return same_place(attachment, b); });
        if (old != before.end() && old->mode == attachment.mode && old->why == attachment.why) continue;
        spdlog::info("device {}: {} {}{}{}", place_of(attachment), hook_name(attachment.hook), attachment.mode,
                     attachment.why.empty() ? "" : ": ", attachment.why);
    }
    for (const Attachment& old : before) {
        if (std::ranges::none_of(now, [&](const Attachment& a) { return same_place(a, old); }))
            spdlog::info("device {}: {} detached", place_of(old), hook_name(old.hook));
    }
}

std::vector<std::string> FastPath::foreign_programs(const Link& link) const {
    return datapath_ ? datapath_->foreign_programs(link.ifindex) : std::vector<std::string>{};
}

std::vector<Attachment> FastPath::attachments() const {
    return datapath_ && on_ ? datapath_->attachments() : std::vector<Attachment>{};
}

std::vector<CounterValue> FastPath::counters() const {
    if (!datapath_) return {};
    auto values = datapath_->read_counters();
    if (!values) spdlog::warn("{}", values.error().message());
    return values ? std::move(*values) : std::vector<CounterValue>{};
}

std::map<Ipv4, FipCounters> FastPath::fip_counters() const {
    if (!datapath_) return {};
    auto values = datapath_->read_fip_counters();
    if (!values) spdlog::warn("{}", values.error().message());
    return values ? std::move(*values) : std::map<Ipv4, FipCounters>{};
}

std::uint32_t FastPath::last_use(const fl_dest_key& key) const {
    return on_ ? datapath_->last_use(key).value_or(0) : 0;
}

std::uint32_t FastPath::last_use(const fl_fdb_key& key) const {
    return on_ ? datapath_->last_use(key).value_or(0) : 0;
}

}  // namespace fiplane
