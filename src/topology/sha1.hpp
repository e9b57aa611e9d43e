// SPDX-License-Identifier: Apache-2.0
// SHA-1 (FIPS 180-4), for names that Neutron makes of it. Never for anything that must resist an attacker.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fiplane::topology {

[[nodiscard]] std::array<std::uint8_t, 20> sha1(std::string_view text);

}  // namespace fiplane::topology
