// SPDX-License-Identifier: Apache-2.0
#include "datapath/pins.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>

#include "core/reasons.hpp"
#include "datapath/clsact.hpp"
#include "datapath/datapath.hpp"
#include "datapath/router_attacher.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

std::string PinPaths::link(const HookPoint& point) const {
    return fmt::format("{}/{}-{}", links(), hook_name(point.hook), point.ifindex);
}

std::optional<HookPoint> parse_link_name(std::string_view name) {
    const auto dash = name.rfind('-');
    if (dash == std::string_view::npos) return std::nullopt;
    const std::string_view number = name.substr(dash + 1);
    HookPoint point;
    const auto parsed = std::from_chars(number.data(), number.data() + number.size(), point.ifindex);
    if (parsed.ec != std::errc{} || parsed.ptr != number.data() + number.size() || point.ifindex <= 0) {
        return std::nullopt;
    }
    for (int hook = 0; hook < FL_HOOK_COUNT; ++hook) {
        point.hook = static_cast<fl_hook>(hook);
        if (name.substr(0, dash) == hook_name(point.hook)) return point;
    }
    return std::nullopt;
}

Result<std::vector<std::string>> list_pins(const std::string& directory) {
    std::vector<std::string> out;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator{}; entry.increment(error)) {
        out.push_back(entry->path().filename().string());
    }
    if (error && error != std::errc::no_such_file_or_directory) {
        return fail_errno(error.value(), "cannot list pins", directory);
    }
    std::sort(out.begin(), out.end());
    return out;
}

Result<> check_mode(const PinPaths& paths, bool follows) {
    const auto others = list_pins(follows ? paths.links() : paths.routers());
    if (!others) return std::unexpected(others.error());
    if (others->empty()) return {};
    return fail(ExitCode::kForeignObject,
                follows ? "an agent with a topology has left its programs here"
                        : "an agent that followed another's routers has left its programs here",
                follows ? paths.links() : paths.routers(),
                follows ? "`fiplane teardown` removes them" : "`fiplane detach` removes them");
}

Result<> unlink_pin(const std::string& path) {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return fail_errno(errno, "cannot remove a pin", path);
}

Result<> remove_links(const PinPaths& paths) {
    auto names = list_pins(paths.links());
    if (!names) return pass_on(names);
    for (const auto& name : *names) {
        const std::string path = paths.links() + "/" + name;
        const UniqueFd fd(bpf_obj_get(path.c_str()));
        // EINVAL: a program, which marks one of our clsact filters.
        if (fd && bpf_link_detach(fd.get()) == -EINVAL) {
            if (const auto point = parse_link_name(name)) {
                if (auto done = clsact_detach(*point); !done) return done;
            }
        }
        if (auto done = unlink_pin(path); !done) return done;
    }
    return {};
}

Result<> remove_maps(const PinPaths& paths) {
    auto names = list_pins(paths.maps());
    if (!names) return pass_on(names);
    for (const auto& name : *names) {
        if (auto done = unlink_pin(paths.maps() + "/" + name); !done) return done;
    }
    return {};
}

Result<> Datapath::remove_pins(const std::string& pin_dir) {
    const PinPaths paths(pin_dir);
    if (auto done = remove_links(paths); !done) return done;
    if (auto done = RouterAttacher::remove_pins(paths); !done) return done;
    if (auto done = remove_maps(paths); !done) return done;
    for (const std::string& directory : std::array{paths.links(), paths.maps(), paths.root()}) {
        if (rmdir(directory.c_str()) != 0 && errno != ENOENT) {
            return fail_errno(errno, "cannot remove a directory of pins", directory);
        }
    }
    return {};
}

}  // namespace fiplane
