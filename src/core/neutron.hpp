// SPDX-License-Identifier: Apache-2.0
// Routers as Neutron knows them, told from the namespaces that its L3 agent made.
#pragma once

#include <string>
#include <vector>

#include "core/snapshot.hpp"

namespace fiplane {

struct NeutronRouter {
    std::string id;            ///< the router's UUID in Neutron, from the namespaces' names
    bool distributed = false;  ///< has a link to a fip namespace (rfp-)
    bool central = false;  ///< has a gateway port here (qg-): a legacy router's, or a distributed one's central part
    bool highly_available = false;  ///< has a port for VRRP (ha-)
    std::vector<NetnsName> namespaces;
    std::vector<std::string> ports;  ///< qr-, qg- and sg- devices, by namespace, then by name
    bool operator==(const NeutronRouter&) const = default;
};

/// By id. A router is in the namespaces qrouter-ID and snat-ID.
[[nodiscard]] std::vector<NeutronRouter> neutron_routers(const Snapshot& snapshot);

/// "legacy", "distributed", "distributed with SNAT", "no gateway", with ", HA" behind it.
[[nodiscard]] std::string describe(const NeutronRouter& router);

/// The UUID in a namespace's name: "qrouter-…", "snat-…", "fip-…"; empty for other names.
[[nodiscard]] std::string neutron_id(const NetnsName& netns);

}  // namespace fiplane
