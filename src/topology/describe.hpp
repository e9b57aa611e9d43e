// SPDX-License-Identifier: Apache-2.0
// The resolved topology as JSON, for `fiplane validate -o json` and for test beds. Keys are stable and documented in
// docs/topology.md ("Resolved topology").
#pragma once

#include <nlohmann/json.hpp>

#include "core/model.hpp"

namespace fiplane {

/// Neutron's word for the owner of a port: "network:floatingip_agent_gateway".
[[nodiscard]] std::string device_owner_name(const Topology& topology, const Port& port);

/// All of it, derived values included. References are by name. A value that does not apply is null, never absent.
[[nodiscard]] nlohmann::json describe(const Topology& topology);

}  // namespace fiplane
