// SPDX-License-Identifier: Apache-2.0
#include "datapath/xdp_choice.hpp"

#include <fmt/format.h>
#include <linux/netdev.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace fiplane {

namespace {

/// Kinds that rtnetlink names though the frames come from hardware: native XDP on them runs in the slaves' drivers.
constexpr std::array<std::string_view, 1> kHardwareKinds = {"bond"};

bool is_virtual(const DeviceFacts& device) {
    return !device.kind.empty() &&
           std::find(kHardwareKinds.begin(), kHardwareKinds.end(), device.kind) == kHardwareKinds.end();
}

}  // namespace

XdpChoice choose_xdp(XdpMode wanted, const DeviceFacts& device, bool wire_to_wire) {
    using Mode = XdpChoice::Mode;
    switch (wanted) {
        case XdpMode::kOff:
            return {Mode::kNone, "switched off", false};
        case XdpMode::kNative:
            return {Mode::kNative, "native mode was asked for", true};
        case XdpMode::kGeneric:
            return {Mode::kGeneric, "generic mode was asked for", true};
        case XdpMode::kAuto:
            break;
    }
    if (!is_virtual(device)) return {Mode::kNative, "the driver has native XDP", false};
    if (wire_to_wire) {
        return {Mode::kNative, fmt::format("{} device, but packets go from tunnel to tunnel here", device.kind), false};
    }
    return {Mode::kNone,
            fmt::format("on a {} device native XDP would switch off its peer's GSO, and nothing goes from wire to wire "
                        "here; tc does the work",
                        device.kind),
            false};
}

std::string mode_name(XdpChoice::Mode mode) {
    switch (mode) {
        case XdpChoice::Mode::kNative:
            return "xdp native";
        case XdpChoice::Mode::kGeneric:
            return "xdp generic";
        case XdpChoice::Mode::kNone:
            break;
    }
    return "none";
}

XdpChoice::Mode mode_of_program(const DeviceFacts& device, std::uint32_t program_id) {
    if (program_id == 0) return XdpChoice::Mode::kNone;
    if (device.xdp_native == program_id) return XdpChoice::Mode::kNative;
    if (device.xdp_generic == program_id) return XdpChoice::Mode::kGeneric;
    return XdpChoice::Mode::kNone;
}

std::string explain_native_refusal(int error, std::uint64_t features) {
    if (error == EOPNOTSUPP) return "the driver has no native XDP";
    std::string why = fmt::format("the driver refused native XDP: {}", std::strerror(error));
    if (error == EINVAL || error == ERANGE || error == E2BIG) {
        why += (features & NETDEV_XDP_ACT_RX_SG) != 0 ? "; try a smaller MTU"
                                                      : "; the MTU may be over what one page holds, and it has no "
                                                        "multi-buffer XDP";
    } else if (error == EBUSY || error == EEXIST) {
        why += "; another XDP program or mode is active";
    } else if (error == ENOMEM || error == ENOSPC) {
        why += "; it may need more transmit queues";
    }
    return why;
}

}  // namespace fiplane
