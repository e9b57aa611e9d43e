// SPDX-License-Identifier: Apache-2.0
// SHA-256 (RFC 6234). Spreads names over ids and MAC addresses; nothing secret depends on it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fiplane::topology {

[[nodiscard]] std::array<std::uint8_t, 32> sha256(std::string_view text);

}  // namespace fiplane::topology
