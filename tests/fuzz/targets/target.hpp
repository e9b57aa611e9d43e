// SPDX-License-Identifier: Apache-2.0
// What the libFuzzer targets share. Each is one LLVMFuzzerTestOneInput() with ASan and UBSan; a crash, a leak, a hang
// or a broken demand() is a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace fiplane::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
    return {static_cast<const char*>(static_cast<const void*>(data)), size};
}

/// Ends the process with a stack trace if the property does not hold.
inline void demand(bool holds) {
    if (!holds) std::abort();
}

}  // namespace fiplane::fuzz
