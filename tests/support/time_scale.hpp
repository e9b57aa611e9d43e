// SPDX-License-Identifier: Apache-2.0
// How long tests wait, and what they call too slow, on a machine that is slower than real ones: an emulated VM.
#pragma once

#include <chrono>
#include <cstdlib>
#include <string>

namespace fiplane::test {

/// FIPLANE_TIME_SCALE: how many times slower than a real machine this one is; 1 without it.
inline double time_scale() {
    static const double kScale = [] {
        const char* text = std::getenv("FIPLANE_TIME_SCALE");
        return text == nullptr ? 1.0 : std::stod(text);
    }();
    return kScale;
}

template <typename Rep, typename Period>
std::chrono::milliseconds scaled(std::chrono::duration<Rep, Period> limit) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(limit * time_scale());
}

}  // namespace fiplane::test
