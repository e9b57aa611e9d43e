// SPDX-License-Identifier: Apache-2.0
#include "topology/sha1.hpp"

#include <bit>

#include "topology/sha_padding.hpp"

namespace fiplane::topology {
namespace {

using State = std::array<std::uint32_t, 5>;

constexpr std::size_t kRounds = 80;

// FIPS 180-4 section 5.3.1.
constexpr State kInitial = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};

/// Sections 4.1.1 and 4.2.1: what each fifth of the rounds mixes in.
std::uint32_t mix(std::size_t round, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    switch (round / 20) {
        case 0:
            return ((b & c) | (~b & d)) + 0x5a827999;
        case 1:
            return (b ^ c ^ d) + 0x6ed9eba1;
        case 2:
            return ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
        default:
            return (b ^ c ^ d) + 0xca62c1d6;
    }
}

void absorb(State& state, std::string_view block) {
    std::array<std::uint32_t, kRounds> w{};
    for (std::size_t i = 0; i < kShaBlock; ++i) {
        w[i / 4] = w[i / 4] << 8 | static_cast<std::uint8_t>(block[i]);
    }
    for (std::size_t t = 16; t < kRounds; ++t)
        w[t] = std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    auto [a, b, c, d, e] = state;
    for (std::size_t t = 0; t < kRounds; ++t) {
        const std::uint32_t next = std::rotl(a, 5) + mix(t, b, c, d) + e + w[t];
        e = d;
        d = c;
        c = std::rotl(b, 30);
        b = a;
        a = next;
    }
    const State add = {a, b, c, d, e};
    for (std::size_t i = 0; i < state.size(); ++i)
        state[i] += add[i];
}

}  // namespace

std::array<std::uint8_t, 20> sha1(std::string_view text) {
    const std::string message = sha_padded(text);
    State state = kInitial;
    for (std::size_t at = 0; at < message.size(); at += kShaBlock)
        absorb(state, std::string_view(message).substr(at, kShaBlock));
    std::array<std::uint8_t, 20> out{};
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<std::uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
    return out;
}

}  // namespace fiplane::topology
