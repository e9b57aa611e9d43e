// SPDX-License-Identifier: Apache-2.0
#include "core/neutron.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include "core/l2.hpp"

namespace fiplane {

namespace {

void add_devices(NeutronRouter& router, const NetnsView& view) {
    std::vector<std::string> ports;
    for (const auto& [ifindex, link] : view.links) {
        router.distributed = router.distributed || link.name.starts_with("rfp-");
        router.central = router.central || link.name.starts_with("qg-");
        router.highly_available = router.highly_available || link.name.starts_with("ha-");
        if (is_router_port(link.name)) ports.push_back(link.name);
    }
    std::ranges::sort(ports);
    router.ports.insert(router.ports.end(), ports.begin(), ports.end());
}

}  // namespace

std::string neutron_id(const NetnsName& netns) {
    static constexpr std::array<std::string_view, 3> kPrefixes{"qrouter-", "snat-", "fip-"};
    const auto prefix = std::ranges::find_if(kPrefixes, [&](std::string_view one) { return netns.starts_with(one); });
    return prefix == kPrefixes.end() ? std::string{} : netns.substr(prefix->size());
}

std::vector<NeutronRouter> neutron_routers(const Snapshot& snapshot) {
    std::map<std::string, NeutronRouter> routers;
    for (const auto& [name, view] : snapshot.routers) {
        if (!name.starts_with("qrouter-") && !name.starts_with("snat-")) continue;
        NeutronRouter& router = routers[neutron_id(name)];
        router.id = neutron_id(name);
        router.namespaces.push_back(name);
        add_devices(router, view);
    }
    std::vector<NeutronRouter> out;
    out.reserve(routers.size());
    for (auto& [id, router] : routers)
        out.push_back(std::move(router));
    return out;
}

std::string describe(const NeutronRouter& router) {
    std::string kind = router.distributed ? "distributed" : router.central ? "legacy" : "no gateway";
    if (router.distributed && router.central) kind += " with SNAT";
    if (router.highly_available) kind += ", HA";
    return kind;
}

}  // namespace fiplane
