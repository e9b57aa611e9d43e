// SPDX-License-Identifier: Apache-2.0
#include "datapath/flow_table.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "datapath/map_set.hpp"
#include "datapath/pins.hpp"
#include "datapath/router_attacher.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

namespace {

/// Both are made by whoever follows routers, before anything else, and by nobody else.
bool has_followed(const PinPaths& paths) {
    std::error_code ignored;
    return std::filesystem::exists(paths.routers(), ignored) || std::filesystem::exists(paths.map(kStagesMap), ignored);
}

constexpr const char* kOtherVersion =
    "detach with the version that made it; `fiplane teardown` removes everything and breaks flows";

/// A pinned map; absence is fine.
template <typename M>
Result<> open_pinned(const PinPaths& paths, std::string_view name, std::optional<M>& into) {
    const std::string path = paths.map(name);
    UniqueFd fd(bpf_obj_get(path.c_str()));
    if (!fd) return errno == ENOENT ? Result<>{} : fail_errno(errno, "cannot open a pinned BPF map", path);
    auto map = M::open(std::move(fd), std::string(name));
    if (!map) {
        map.error().hint = kOtherVersion;
        return pass_on(map);
    }
    into.emplace(std::move(*map));
    return {};
}

/// Returns when every program that runs now has ended. Where the kernel has no such call (nohz_full), a program takes
/// less time than the system calls that follow.
void wait_for_programs() {
    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

}  // namespace

Result<std::optional<FlowTable>> FlowTable::open(const std::string& pin_dir) {
    const PinPaths paths(pin_dir);
    if (auto ours = check_mode(paths, true); !ours) return pass_on(ours);
    if (!has_followed(paths)) return std::nullopt;
    FlowTable table;
    auto devices = RouterAttacher::pinned(paths);
    if (!devices) return pass_on(devices);
    table.devices_ = std::move(*devices);
    if (auto done = open_pinned(paths, kConfigMap, table.config_); !done) return pass_on(done);
    const auto layout = table.layout();
    if (!layout) return std::unexpected(layout.error());
    if (*layout == 0) return table;
    if (*layout != FL_ABI_LAYOUT) {
        return fail(ExitCode::kFailed,
                    fmt::format("{} has layout {}, this version has {}", kConfigMap, *layout, FL_ABI_LAYOUT),
                    paths.maps(), kOtherVersion);
    }
    if (auto done = open_pinned(paths, kMapName<fl_flow_key>, table.flows_); !done) return pass_on(done);
    return table;
}

Result<std::uint32_t> FlowTable::layout() const {
    if (!config_) return FL_ABI_LAYOUT;
    const auto config = config_->get(0);
    if (!config) return std::unexpected(config.error());
    return *config ? (*config)->layout : 0;
}

Result<> FlowTable::end_lease() {
    if (!config_) return {};
    auto config = config_->get(0);
    if (!config) return pass_on(config);
    fl_config ended = config->value_or(fl_config{});
    ended.lease_end = 0;
    if (auto done = config_->put(0, ended); !done) return done;
    wait_for_programs();
    return {};
}

Result<Table<fl_flow_key, fl_flow>> FlowTable::flows() const {
    if (!flows_) return Table<fl_flow_key, fl_flow>{};
    return flows_->read();
}

Result<std::vector<fl_flow_key>> FlowTable::find(
    const std::function<bool(const fl_flow_key&, const fl_flow&)>& wanted) const {
    std::vector<fl_flow_key> keys;
    if (!flows_) return keys;
    auto done = flows_->for_each([&](const fl_flow_key& key, const fl_flow& flow) {
        if (wanted(key, flow)) keys.push_back(key);
    });
    if (!done) return pass_on(done);
    return keys;
}

Result<> FlowTable::forget(const std::vector<fl_flow_key>& keys) {
    for (const fl_flow_key& key : keys) {
        if (auto done = flows_->erase(key); !done) return pass_on(done);
    }
    return {};
}

}  // namespace fiplane
