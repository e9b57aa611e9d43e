// SPDX-License-Identifier: Apache-2.0
// Floating IPs and their walks as JSON, as `status`, `explain` and `survey` give them.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "core/compile.hpp"
#include "core/neutron.hpp"

namespace fiplane {

/// What compile says of a floating IP: addresses, router, network, port, state and reasons.
[[nodiscard]] nlohmann::json report_json(const FipReport& report);

/// A router with its Neutron id, kind, namespaces, ports and floating IPs.
[[nodiscard]] nlohmann::json router_json(const NeutronRouter& router, const std::vector<FipReport>& floating_ips);

/// The steps of both directions, to be added to that.
[[nodiscard]] nlohmann::json steps_json(const FipReport& report);

}  // namespace fiplane
