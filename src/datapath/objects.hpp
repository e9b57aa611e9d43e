// SPDX-License-Identifier: Apache-2.0
// Loading the BPF objects of one mode over one set of pinned maps.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "core/result.hpp"
#include "datapath/pins.hpp"
#include "fiplane/abi.h"
#include "linux/unique_fd.hpp"

namespace fiplane {

/// What is left of the objects after loading: the programs and the maps, as file descriptors.
struct LoadedObjects {
    std::array<UniqueFd, FL_HOOK_COUNT> programs;
    std::map<std::string, UniqueFd, std::less<>> maps;  ///< the shared ones, by name
    bool rebuilt = false;                               ///< pinned maps of another layout were thrown away
};

/// Loads the programs: tc_router alone where routers of others are followed, else all the others. Maps that are pinned
/// below `paths` are reused as they are; those that are not there yet are made and pinned. Where what is pinned has
/// another layout or definition, all links and maps below `paths` go first. `max_floating_ips` sizes maps that are
/// made; a reused map keeps its size.
[[nodiscard]] Result<LoadedObjects> load_objects(const PinPaths& paths, std::uint32_t max_floating_ips, bool follows);

}  // namespace fiplane
