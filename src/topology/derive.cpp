// SPDX-License-Identifier: Apache-2.0
#include "topology/derive.hpp"

#include <fmt/format.h>

#include "topology/sha256.hpp"

namespace fiplane::topology {
namespace {

constexpr std::size_t kDeviceNameLength = 14;

}  // namespace

std::string derived_id(std::string_view topology, std::string_view kind, std::string_view name) {
    auto bytes = sha256(fmt::format("{}/{}/{}", topology, kind, name));
    bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0f) | 0x80);  // version 8
    bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3f) | 0x80);  // variant 10
    std::string out;
    for (std::size_t i = 0; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
        out += fmt::format("{:02x}", bytes[i]);
    }
    return out;
}

Mac derived_mac(std::string_view seed, unsigned attempt) {
    const auto hash = attempt == 1 ? sha256(seed) : sha256(fmt::format("{}/{}", seed, attempt));
    return {{0xfa, 0x16, 0x3e, hash[0], hash[1], hash[2]}};
}

std::string device_name(std::string_view prefix, std::string_view id) {
    return (std::string(prefix) += id).substr(0, kDeviceNameLength);
}

}  // namespace fiplane::topology
