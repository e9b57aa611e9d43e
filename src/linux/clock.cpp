// SPDX-License-Identifier: Apache-2.0
#include "linux/clock.hpp"

#include <ctime>

namespace fiplane {

std::uint32_t monotonic_seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return static_cast<std::uint32_t>(now.tv_sec);
}

}  // namespace fiplane
