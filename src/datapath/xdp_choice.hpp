// SPDX-License-Identifier: Apache-2.0
// Which XDP mode an underlay device gets, and why. Pure.
#pragma once

#include <cstdint>
#include <string>

#include "datapath/datapath.hpp"
#include "datapath/device_query.hpp"

namespace fiplane {

struct XdpChoice {
    enum class Mode { kNone, kNative, kGeneric } mode = Mode::kNone;
    std::string why;
    bool forced = false;  ///< not to get it is an error
};

/// `auto`: native on hardware; on virtual links only where packets go from wire to wire, because a native program
/// there switches off the GSO of the link's other end and so costs the host's own TCP more than it saves. Generic is
/// never chosen: it runs after the skb was built, where tc does the same for less.
[[nodiscard]] XdpChoice choose_xdp(XdpMode wanted, const DeviceFacts& device, bool wire_to_wire);

/// "xdp native", "xdp generic" or "none".
[[nodiscard]] std::string mode_name(XdpChoice::Mode mode);

/// The mode in which `program_id` runs on the device; kNone if it does not.
[[nodiscard]] XdpChoice::Mode mode_of_program(const DeviceFacts& device, std::uint32_t program_id);

/// Why the kernel refused native XDP. `features`: what the driver says it can do (NETDEV_XDP_ACT_*), 0 if unknown.
[[nodiscard]] std::string explain_native_refusal(int error, std::uint64_t features);

}  // namespace fiplane
