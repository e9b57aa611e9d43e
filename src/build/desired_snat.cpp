// SPDX-License-Identifier: Apache-2.0
// The central part of a distributed router, by which VMs without a floating IP go out (Neutron: l3/dvr_snat_ns.py,
// l3/dvr_edge_router.py). Their packets come from the router's instance on their own node by the tenant network;
// answers go to the VM directly.
#include "build/desire.hpp"
#include "build/names.hpp"

namespace fiplane::build {

Result<> Desire::central_snat(std::size_t index) {
    const Router& router = topology_.routers[index];
    const NetnsName netns = snat_netns(router);
    open_netns(netns);
    for (const std::size_t interface : router.interfaces) {
        const auto snat = snat_ports_.find({index, topology_.ports[interface].subnet});
        if (snat == snat_ports_.end()) continue;
        const Port& leg = topology_.ports[snat->second];
        if (auto added = add_leg(netns, leg); !added) return added;
        know_vms(netns, leg);
        routes_by(router, netns, leg, kMainTable);
    }
    const Port& gateway = topology_.ports[*router.gateway_port];
    if (auto added = add_leg(netns, gateway); !added) return added;
    external_routes(netns, gateway, kMainTable);
    routes_by(router, netns, gateway, kMainTable);
    if (router.enable_snat) add_table(netns, snat_table(gateway.device, gateway.fixed_ip));
    return {};
}

}  // namespace fiplane::build
