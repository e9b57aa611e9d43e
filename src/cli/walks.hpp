// SPDX-License-Identifier: Apache-2.0
// Floating IPs and their walks, as several verbs print them. Rows are those of agent/walk_json.hpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "cli/terminal.hpp"

namespace fiplane::cli {

/// "fast", with what is slow nevertheless, or why not; one reason if both directions have the same.
[[nodiscard]] std::string state_of(const nlohmann::json& row);
/// Green where nothing is slow.
[[nodiscard]] Colour colour_of(const nlohmann::json& row);

/// A table of routers: id, kind, ports, how many floating IPs.
void print_routers(const nlohmann::json& rows);

/// What becomes of packets in each direction, and the numbered steps of it.
void print_directions(const nlohmann::json& walk);

}  // namespace fiplane::cli
