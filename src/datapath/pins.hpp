// SPDX-License-Identifier: Apache-2.0
// Where things are pinned below <pin_dir>, and getting rid of them.
//
// bpffs refuses names with a dot (they are reserved for the kernel), hence "<hook>-<ifindex>".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.hpp"
#include "fiplane/abi.h"

namespace fiplane {

/// A program at one place of one device.
struct HookPoint {
    fl_hook hook{};
    int ifindex = 0;
    auto operator<=>(const HookPoint&) const = default;
};

/// The paths below one pin directory.
class PinPaths {
  public:
    explicit PinPaths(std::string pin_dir) : root_(std::move(pin_dir)) {}
    [[nodiscard]] const std::string& root() const { return root_; }
    [[nodiscard]] std::string maps() const { return root_ + "/maps"; }
    [[nodiscard]] std::string links() const { return root_ + "/links"; }
    [[nodiscard]] std::string routers() const { return root_ + "/routers"; }
    [[nodiscard]] std::string map(std::string_view name) const { return maps() + "/" + std::string(name); }
    /// What is pinned there is a link; where the kernel has no tcx links, the program of our clsact filter.
    [[nodiscard]] std::string link(const HookPoint& point) const;

  private:
    std::string root_;
};

/// The inverse of PinPaths::link for a file name; none for names that are not ours.
[[nodiscard]] std::optional<HookPoint> parse_link_name(std::string_view name);

/// File names in a directory, sorted; empty if there is no such directory.
[[nodiscard]] Result<std::vector<std::string>> list_pins(const std::string& directory);

/// kForeignObject where an agent of the other mode has left its programs: a node's routers are either ours or
/// another's. `follows`: they are another's.
[[nodiscard]] Result<> check_mode(const PinPaths& paths, bool follows);

/// Unlinks; absence is fine.
[[nodiscard]] Result<> unlink_pin(const std::string& path);

/// Detaches and unpins everything in <pin_dir>/links.
[[nodiscard]] Result<> remove_links(const PinPaths& paths);

/// Unpins everything in <pin_dir>/maps. The maps live on while a program that is still attached uses them.
[[nodiscard]] Result<> remove_maps(const PinPaths& paths);

}  // namespace fiplane
