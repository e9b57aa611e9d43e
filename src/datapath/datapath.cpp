// SPDX-License-Identifier: Apache-2.0
#include "datapath/datapath.hpp"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <optional>
#include <set>

#include "datapath/attacher.hpp"
#include "datapath/clsact.hpp"
#include "datapath/map_set.hpp"
#include "datapath/objects.hpp"
#include "datapath/pins.hpp"
#include "datapath/preflight.hpp"
#include "datapath/router_attacher.hpp"
#include "datapath/table_sync.hpp"
#include "linux/clock.hpp"

namespace fiplane {

struct Datapath::Impl {
    MapSet maps;
    Attacher attacher;
    std::optional<RouterAttacher> routers;  ///< if routers of others are followed
    std::vector<Attachment> attachments{};
    MapContents actual{};  ///< what the maps hold, as far as this process knows
    bool stale = true;     ///< `actual` is to be read from the kernel before it is used

    [[nodiscard]] Result<> refresh() {
        if (!stale) return {};
        auto contents = maps.read();
        if (!contents) return pass_on(contents);
        actual = std::move(*contents);
        stale = false;
        return {};
    }
};

std::uint64_t SyncReport::total() const {
    std::uint64_t sum = 0;
    for (const auto& [name, change] : changes)
        sum += change.written + change.removed;
    return sum;
}

namespace {

/// New maps say their layout from the start, so that a successor need not guess; the rest of fl_config stays zero,
/// with which every program passes everything.
Result<> stamp_layout(MapSet& maps) {
    auto config = maps.config();
    if (!config) return pass_on(config);
    if (config->layout == FL_ABI_LAYOUT) return {};
    config->layout = FL_ABI_LAYOUT;
    return maps.put_config(*config);
}

}  // namespace

Result<Datapath> Datapath::open(const DatapathOptions& options) {
    if (options.max_floating_ips == 0) return fail(ExitCode::kUsage, "the limit on floating IPs cannot be zero");
    const PinPaths paths(options.pin_dir);
    if (auto ready = check_capabilities(); !ready) return pass_on(ready);
    if (auto ready = check_kernel_btf(); !ready) return pass_on(ready);
    if (auto ready = check_mode(paths, options.follows); !ready) return pass_on(ready);
    if (auto ready = make_pin_directory(paths.maps()); !ready) return pass_on(ready);

    std::error_code unreadable;
    const bool nothing_pinned = std::filesystem::is_empty(paths.maps(), unreadable) && !unreadable;
    auto opened = open_pinned(options, paths);
    if (opened || !nothing_pinned) return opened;
    if (auto done = remove_pins(options.pin_dir); !done)
        spdlog::warn("what was pinned stays: {}", done.error().message());
    return opened;
}

Result<Datapath> Datapath::open_pinned(const DatapathOptions& options, const PinPaths& paths) {
    auto loaded = load_objects(paths, options.max_floating_ips, options.follows);
    if (!loaded) return pass_on(loaded);
    auto maps = MapSet::open([&loaded](std::string_view name) -> Result<UniqueFd> {
        const auto found = loaded->maps.find(name);
        return found == loaded->maps.end() ? UniqueFd{} : std::move(found->second);
    });
    if (!maps) return pass_on(maps);
    if (auto done = stamp_layout(*maps); !done) return pass_on(done);
    if (auto done = maps->name_counters(); !done) return pass_on(done);
    const TcBackend tc = kernel_has_tcx() ? TcBackend::kTcx : TcBackend::kClsact;
    std::optional<RouterAttacher> routers;
    if (options.follows) {
        auto opened = RouterAttacher::open(paths, std::move(loaded->programs[FL_HOOK_TC_ROUTER]), tc);
        if (!opened) return pass_on(opened);
        routers = std::move(*opened);
    }
    auto attacher = Attacher::open(paths, std::move(loaded->programs), options.xdp, tc);
    if (!attacher) return pass_on(attacher);

    auto impl = std::make_unique<Impl>(Impl{std::move(*maps), std::move(*attacher), std::move(routers)});
    if (auto done = impl->refresh(); !done) return pass_on(done);
    return Datapath(std::move(impl));
}

Datapath::Datapath(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Datapath::Datapath(Datapath&&) noexcept = default;
Datapath& Datapath::operator=(Datapath&&) noexcept = default;
Datapath::~Datapath() = default;

Result<SyncReport> Datapath::sync(const Tables& desired) {
    if (auto done = impl_->refresh(); !done) return pass_on(done);
    TableSync sync(impl_->maps, impl_->actual);
    auto report = sync.run(desired);
    impl_->stale = sync.inconsistent();
    return report;
}

Result<> Datapath::withdraw(const std::vector<Ipv4>& addresses) {
    if (auto done = impl_->refresh(); !done) return done;
    TableSync sync(impl_->maps, impl_->actual);
    auto done = sync.withdraw({addresses.begin(), addresses.end()});
    impl_->stale = sync.inconsistent();
    return done;
}

Result<> Datapath::vouch(std::chrono::seconds lease) {
    if (auto done = impl_->refresh(); !done) return done;
    fl_config config = impl_->actual.tables.config;
    config.lease_end = monotonic_seconds() + static_cast<std::uint32_t>(lease.count());
    if (auto done = impl_->maps.put_config(config); !done) return done;
    impl_->actual.tables.config = config;
    return {};
}

Result<> Datapath::attach(const std::vector<DeviceRole>& devices, const std::set<NetnsName>& unread) {
    std::vector<DeviceRole> own;
    std::vector<DeviceRole> of_routers;
    for (const DeviceRole& device : devices)
        (device.kind == DeviceRole::Kind::kRouter ? of_routers : own).push_back(device);
    Result<> done = impl_->attacher.attach(own);
    impl_->attachments = impl_->attacher.attachments();
    if (!impl_->routers) return done;
    auto also = impl_->routers->attach(of_routers, unread);
    const auto& more = impl_->routers->attachments();
    impl_->attachments.insert(impl_->attachments.end(), more.begin(), more.end());
    return done ? also : done;
}

const std::vector<Attachment>& Datapath::attachments() const {
    return impl_->attachments;
}

Result<> Datapath::detach() {
    impl_->attachments.clear();
    Result<> done = impl_->attacher.detach_all();
    if (!impl_->routers) return done;
    auto also = impl_->routers->detach_all();
    return done ? also : done;
}

std::vector<std::string> Datapath::foreign_programs(int ifindex) const {
    return impl_->attacher.foreign_programs(ifindex);
}

Result<Tables> Datapath::read_tables() const {
    return impl_->maps.read_tables();
}

Result<std::vector<CounterValue>> Datapath::read_counters() const {
    return impl_->maps.read_counters();
}

Result<std::map<Ipv4, FipCounters>> Datapath::read_fip_counters() const {
    return impl_->maps.read_fip_counters();
}

// A row that is not there was never used.

Result<std::uint32_t> Datapath::last_use(const fl_dest_key& key) const {
    auto row = impl_->maps.get<fl_next>(key);
    if (!row) return pass_on(row);
    return *row ? (*row)->last_use : 0;
}

Result<std::uint32_t> Datapath::last_use(const fl_fdb_key& key) const {
    auto row = impl_->maps.get<fl_fdb>(key);
    if (!row) return pass_on(row);
    return *row ? (*row)->last_use : 0;
}

}  // namespace fiplane
