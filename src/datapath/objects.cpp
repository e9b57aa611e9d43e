// SPDX-License-Identifier: Apache-2.0
#include "datapath/objects.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "core/reasons.hpp"
#include "datapath/datapath.hpp"
#include "datapath/load_log.hpp"
#include "datapath/map_set.hpp"
#include "datapath/router_attacher.hpp"
#include "tc_host.skel.h"
#include "tc_port.skel.h"
#include "tc_router.skel.h"
#include "tc_tunnel.skel.h"
#include "tc_underlay.skel.h"
#include "xdp_underlay.skel.h"

namespace fiplane {

namespace {

/// An opened object of any skeleton type. Each holds one program, named like its hook.
class Object {
  public:
    template <typename Skeleton>
    [[nodiscard]] static Result<Object> open(fl_hook hook, const std::string& pin_root) {
        bpf_object_open_opts options{};
        options.sz = sizeof(options);
        options.pin_root_path = pin_root.c_str();
        Skeleton* skeleton = Skeleton::open(&options);
        if (skeleton == nullptr) {
            return fail_errno(errno, fmt::format("cannot open BPF object {}", hook_name(hook)));
        }
        return Object(hook, skeleton->obj,
                      Owner(skeleton, [](void* raw) { Skeleton::destroy(static_cast<Skeleton*>(raw)); }),
                      [](void* raw) { return Skeleton::load(static_cast<Skeleton*>(raw)); });
    }

    [[nodiscard]] fl_hook hook() const { return hook_; }
    [[nodiscard]] bpf_object* raw() const { return raw_; }
    [[nodiscard]] int load() { return load_(owner_.get()); }

  private:
    using Owner = std::unique_ptr<void, void (*)(void*)>;
    using Loader = int (*)(void*);
    Object(fl_hook hook, bpf_object* raw, Owner owner, Loader loader)
        : hook_(hook), raw_(raw), owner_(std::move(owner)), load_(loader) {}

    fl_hook hook_{};
    bpf_object* raw_ = nullptr;
    Owner owner_;
    Loader load_ = nullptr;
};

Result<std::vector<Object>> open_all(const std::string& pin_root, bool follows) {
    const LibbpfMessages messages;
    std::vector<Object> out;
    Result<> failed;
    const auto add = [&](Result<Object> opened) {
        if (opened) {
            out.push_back(std::move(*opened));
        } else if (failed) {
            failed = pass_on(opened);
        }
    };
    if (follows) {
        add(Object::open<tc_router>(FL_HOOK_TC_ROUTER, pin_root));
    } else {
        add(Object::open<xdp_underlay>(FL_HOOK_XDP_UNDERLAY, pin_root));
        add(Object::open<tc_underlay>(FL_HOOK_TC_UNDERLAY, pin_root));
        add(Object::open<tc_tunnel>(FL_HOOK_TC_TUNNEL, pin_root));
        add(Object::open<tc_port>(FL_HOOK_TC_PORT, pin_root));
        add(Object::open<tc_host>(FL_HOOK_TC_HOST, pin_root));
    }
    if (!failed) return pass_on(failed);
    return out;
}

bool is_shared(const bpf_map* map) {
    return std::find(kSharedMaps.begin(), kSharedMaps.end(), bpf_map__name(map)) != kSharedMaps.end();
}

bool sized_by_option(std::string_view name) {
    return name == kMapName<fl_fip_key> || name == kMapName<fl_fip_stat_key>;
}

template <typename Visit>
void for_each_shared_map(const Object& object, Visit visit) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object.raw()) {
        if (is_shared(map)) visit(map);
    }
}

/// Why a pinned map cannot serve as `wanted`; empty if it can.
std::string incompatibility(const bpf_map* wanted, int pinned_fd) {
    bpf_map_info info{};
    std::uint32_t length = sizeof(info);
    if (bpf_map_get_info_by_fd(pinned_fd, &info, &length) != 0) return "is no map";
    if (info.type != static_cast<std::uint32_t>(bpf_map__type(wanted))) return "is of another type";
    if (info.key_size != bpf_map__key_size(wanted)) return "has keys of another size";
    if (info.value_size != bpf_map__value_size(wanted)) return "has values of another size";
    // The kernel adds BPF_F_RDONLY_PROG to device maps, and no program may ask for it.
    constexpr std::uint32_t kAddedByKernel = BPF_F_RDONLY_PROG;
    if (((info.map_flags ^ bpf_map__map_flags(wanted)) & ~kAddedByKernel) != 0) return "has other flags";
    if (!sized_by_option(bpf_map__name(wanted)) && info.max_entries != bpf_map__max_entries(wanted)) {
        return "has another number of entries";
    }
    return {};
}

/// Why the layout number in fl_config forbids reading the pinned maps; empty if it does not.
std::string foreign_layout(int config_fd) {
    bpf_map_info info{};
    std::uint32_t length = sizeof(info);
    if (bpf_map_get_info_by_fd(config_fd, &info, &length) != 0) return "is no map";
    std::vector<std::byte> value(std::max<std::size_t>(info.value_size, sizeof(fl_config)));
    const std::uint32_t key = 0;
    if (info.key_size != sizeof(key) || bpf_map_lookup_elem(config_fd, &key, value.data()) != 0) return "is unreadable";
    std::uint32_t layout = 0;
    std::memcpy(&layout, value.data(), sizeof(layout));
    // Zero: whoever made the maps died before it wrote anything, so it may have been any version.
    if (layout != FL_ABI_LAYOUT) return fmt::format("has layout {}, this version has {}", layout, FL_ABI_LAYOUT);
    return {};
}

/// The first thing that speaks against taking over what is pinned; none if nothing does.
std::optional<std::string> why_rebuild(const std::vector<Object>& objects, const PinPaths& paths) {
    const UniqueFd config(bpf_obj_get(paths.map(kConfigMap).c_str()));
    if (config) {
        if (const auto why = foreign_layout(config.get()); !why.empty()) return fmt::format("{} {}", kConfigMap, why);
    }
    std::optional<std::string> found;
    for (const auto& object : objects) {
        for_each_shared_map(object, [&](const bpf_map* map) {
            const UniqueFd pinned(bpf_obj_get(paths.map(bpf_map__name(map)).c_str()));
            if (!pinned || found) return;
            // Rows that a layout number does not vouch for.
            if (!config) found = fmt::format("{} is missing beside {}", kConfigMap, bpf_map__name(map));
            if (const auto why = incompatibility(map, pinned.get()); !why.empty()) {
                found = fmt::format("{} {}", bpf_map__name(map), why);
            }
        });
    }
    return found;
}

/// Hands pinned maps to the object and sizes those that libbpf will make. libbpf would look up the pins by itself, but
/// up to 1.6 it then refuses device maps for the flag that the kernel added.
Result<> prepare_maps(const Object& object, const PinPaths& paths, std::uint32_t max_floating_ips) {
    Result<> done;
    for_each_shared_map(object, [&](bpf_map* map) {
        if (!done) return;
        int error = 0;
        if (const UniqueFd pinned{bpf_obj_get(paths.map(bpf_map__name(map)).c_str())}) {
            error = bpf_map__reuse_fd(map, pinned.get());
            if (error == 0) error = bpf_map__set_pin_path(map, nullptr);
        } else if (sized_by_option(bpf_map__name(map))) {
            error = bpf_map__set_max_entries(map, max_floating_ips);
        }
        if (error != 0) done = fail_errno(error, fmt::format("cannot prepare BPF map {}", bpf_map__name(map)));
    });
    return done;
}

Result<UniqueFd> duplicate(int fd) {
    UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail_errno(errno, "cannot duplicate a BPF file descriptor");
    return copy;
}

/// Loads one object and keeps its program and the maps that no earlier object brought.
Result<> load_one(Object& object, const PinPaths& paths, std::uint32_t max_floating_ips, LoadedObjects& loaded) {
    if (auto done = prepare_maps(object, paths, max_floating_ips); !done) return done;
    const LibbpfMessages messages;
    const VerifierLogs logs(object.raw());
    if (const int error = object.load(); error != 0) {
        return std::unexpected(
            explain_load_failure(-error, hook_name(object.hook()), logs.refused(), messages.lines()));
    }
    const bpf_program* program = bpf_object__next_program(object.raw(), nullptr);
    if (program == nullptr)
        return fail(ExitCode::kFailed, "BPF object holds no program", std::string(hook_name(object.hook())));
    auto program_fd = duplicate(bpf_program__fd(program));
    if (!program_fd) return pass_on(program_fd);
    loaded.programs[object.hook()] = std::move(*program_fd);

    Result<> done;
    for_each_shared_map(object, [&](const bpf_map* map) {
        if (!done || loaded.maps.contains(bpf_map__name(map))) return;
        auto map_fd = duplicate(bpf_map__fd(map));
        if (!map_fd) {
            done = pass_on(map_fd);
            return;
        }
        loaded.maps.emplace(bpf_map__name(map), std::move(*map_fd));
    });
    return done;
}

void report_kept_size(const LoadedObjects& loaded, std::uint32_t max_floating_ips) {
    for (const auto& [name, fd] : loaded.maps) {
        bpf_map_info info{};
        std::uint32_t length = sizeof(info);
        if (!sized_by_option(name) || bpf_map_get_info_by_fd(fd.get(), &info, &length) != 0) continue;
        if (info.max_entries == max_floating_ips) continue;
        spdlog::warn("{} keeps its {} entries: the new limit of {} takes effect when the pinned maps are removed", name,
                     info.max_entries, max_floating_ips);
    }
}

}  // namespace

Result<LoadedObjects> load_objects(const PinPaths& paths, std::uint32_t max_floating_ips, bool follows) {
    auto objects = open_all(paths.maps(), follows);
    if (!objects) return pass_on(objects);
    LoadedObjects loaded;
    if (const auto why = why_rebuild(*objects, paths)) {
        spdlog::warn("BPF maps are rebuilt because pinned {}; until the next sync all traffic goes through Linux",
                     *why);
        if (auto done = remove_links(paths); !done) return pass_on(done);
        if (auto done = RouterAttacher::remove_pins(paths); !done) return pass_on(done);
        if (auto done = remove_maps(paths); !done) return pass_on(done);
        loaded.rebuilt = true;
    }
    for (auto& object : *objects) {
        if (auto done = load_one(object, paths, max_floating_ips, loaded); !done) return pass_on(done);
    }
    report_kept_size(loaded, max_floating_ips);
    return loaded;
}

}  // namespace fiplane
