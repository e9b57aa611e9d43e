// SPDX-License-Identifier: Apache-2.0
// Values that the file need not say: ids, MAC addresses, device names. All are functions of the file alone, so that
// every node that reads the same file derives the same values, today and after an upgrade.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/types.hpp"

namespace fiplane::topology {

/// UUID of an object that has none in the file: version 8 (RFC 9562 section 5.8), made of the first 128 bits of
/// SHA-256("<topology>/<kind>/<name>").
[[nodiscard]] std::string derived_id(std::string_view topology, std::string_view kind, std::string_view name);

/// Neutron's base_mac fa:16:3e and the first three bytes of SHA-256(seed). `attempt` 2, 3... hashes "<seed>/<attempt>"
/// instead: 24 bits do collide in a large topology.
[[nodiscard]] Mac derived_mac(std::string_view seed, unsigned attempt = 1);

/// Prefix and as much of the id as fits in 14 characters: Neutron's DEV_NAME_LEN ("qr-369f59a5-2c").
[[nodiscard]] std::string device_name(std::string_view prefix, std::string_view id);

/// "eth1.101". Where that is longer than 15 characters, the device's name is cut to 4 and the first 6 hex digits of its
/// SHA-1 follow, as Neutron's linuxbridge agent does: "enp197e4a1.101" of enp129s0f0np0.
[[nodiscard]] std::string vlan_device_name(std::string_view device, std::uint32_t vlan);

/// The same as Neutron's macvtap agent has it: what counts is whether the device alone is longer than 10 characters.
[[nodiscard]] std::string macvtap_vlan_device_name(std::string_view device, std::uint32_t vlan);

}  // namespace fiplane::topology
