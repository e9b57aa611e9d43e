// SPDX-License-Identifier: Apache-2.0
// The clock that userspace has in common with the programs.
#pragma once

#include <cstdint>

namespace fiplane {

/// Seconds of CLOCK_MONOTONIC, as of the last tick: what bpf_ktime_get_coarse_ns() gives the programs, which stamp rows
/// with it (fl_next.last_use) and compare it with fl_config.lease_end.
[[nodiscard]] std::uint32_t monotonic_seconds();

}  // namespace fiplane
