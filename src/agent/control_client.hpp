// SPDX-License-Identifier: Apache-2.0
// The other end of the control socket: what the CLI's verbs use.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "agent/control_protocol.hpp"

namespace fiplane {

/// Sends one request and waits for its response. kNoAgent if nobody answers at `path`, kNotPrivileged if we may not
/// ask. `waiting` (may be empty) is called about once a second while the agent works, with the seconds so far.
[[nodiscard]] Response ask_agent(const std::string& path, const nlohmann::json& request,
                                 const std::function<void(int)>& waiting = {});

}  // namespace fiplane
