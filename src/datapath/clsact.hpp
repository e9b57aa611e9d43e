// SPDX-License-Identifier: Apache-2.0
// tc programs on kernels without tcx links (before 6.6): a direct-action filter on the clsact qdisc, or on an ingress
// qdisc that the device has already (see linux/qdisc.hpp).
//
// A filter is no file descriptor, so it stays when the process dies. It is ours if it has our handle, our priority and
// the name of the hook's program; the pin <pin_dir>/links/<hook>-<ifindex> of its program says where to look for it.
#pragma once

#include <cstdint>

#include "core/result.hpp"
#include "datapath/device_query.hpp"
#include "datapath/pins.hpp"

namespace fiplane {

inline constexpr std::uint32_t kClsactHandle = 0x666c;    ///< "fl"
inline constexpr std::uint16_t kClsactPriority = 0x666c;  ///< before what tc numbers by itself (from 49152 down)

/// Whether the kernel has tcx. Asked of the loopback device, which every network namespace has.
[[nodiscard]] bool kernel_has_tcx();

/// tc_host looks at what the host sends out of a bridge, the other tc programs at what a device received.
[[nodiscard]] bool is_egress(fl_hook hook);

/// Makes a clsact if there is neither that nor an ingress qdisc, and adds our filter or replaces its program in one
/// step.
[[nodiscard]] Result<> clsact_attach(const HookPoint& point, int program_fd);

/// Removes our filter; absence of filter, qdisc or device is fine. The qdisc stays: others may use it by now.
[[nodiscard]] Result<> clsact_detach(const HookPoint& point);

[[nodiscard]] bool is_our_filter(const FilterFacts& filter);

}  // namespace fiplane
