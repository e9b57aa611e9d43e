// SPDX-License-Identifier: Apache-2.0
// What SHA-1 and SHA-256 do with a message before they hash it (FIPS 180-4 section 5.1.1).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fiplane::topology {

inline constexpr std::size_t kShaBlock = 64;

/// The message with a 1 bit, zeros, and its length in bits (64 bits, big endian): a multiple of 64 bytes.
inline std::string sha_padded(std::string_view text) {
    std::string out(text);
    out.push_back(static_cast<char>(0x80));
    while (out.size() % kShaBlock != kShaBlock - 8)
        out.push_back('\0');
    const std::uint64_t bits = std::uint64_t{text.size()} * 8;
    for (int shift = 56; shift >= 0; shift -= 8)
        out.push_back(static_cast<char>(bits >> shift & 0xff));
    return out;
}

}  // namespace fiplane::topology
