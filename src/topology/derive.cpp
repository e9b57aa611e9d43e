// SPDX-License-Identifier: Apache-2.0
#include "topology/derive.hpp"

#include <fmt/format.h>

#include "topology/scalar.hpp"
#include "topology/sha1.hpp"
#include "topology/sha256.hpp"

namespace fiplane::topology {
namespace {

constexpr std::size_t kDeviceNameLength = 14;
// neutron-lib, plugins/utils.py, get_interface_name().
constexpr std::size_t kKeptOfLongName = 4;
constexpr std::size_t kHashedBytes = 3;
// neutron, plugins/ml2/drivers/macvtap/macvtap_common.py: leaves room for the dot and any VLAN id.
constexpr std::size_t kMaxMacvtapParent = 10;

/// "enp197e4a1" of enp129s0f0np0.
std::string hashed_name(std::string_view device) {
    const auto hash = sha1(device);
    std::string out(device.substr(0, kKeptOfLongName));
    for (std::size_t i = 0; i < kHashedBytes; ++i)
        out += fmt::format("{:02x}", hash[i]);
    return out;
}

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

std::string vlan_device_name(std::string_view device, std::uint32_t vlan) {
    std::string whole = fmt::format("{}.{}", device, vlan);
    if (whole.size() <= kMaxDeviceName) return whole;
    return fmt::format("{}.{}", hashed_name(device), vlan);
}

std::string macvtap_vlan_device_name(std::string_view device, std::uint32_t vlan) {
    if (device.size() <= kMaxMacvtapParent) return fmt::format("{}.{}", device, vlan);
    return fmt::format("{}.{}", hashed_name(device), vlan);
}

}  // namespace fiplane::topology
