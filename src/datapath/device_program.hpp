// SPDX-License-Identifier: Apache-2.0
// What is attached to a device of a router's namespace: indices of devices repeat from namespace to namespace, so each
// has a program of its own that says which device it is, and calls tc_router as its tail.
#pragma once

#include <cstdint>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

/// The name of such a program, by which ours are told from foreign ones.
inline constexpr const char* kDeviceProgramName = "tc_router_port";

/// Loads the program for a device (see fl_source_key). `stages`: program array whose entry 0 is tc_router.
/// `attach_type`: that of tc_router, which the kernel wants callers of tails to share.
[[nodiscard]] Result<UniqueFd> load_device_program(std::uint32_t number, int stages, std::uint32_t attach_type);

}  // namespace fiplane
