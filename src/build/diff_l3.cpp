// SPDX-License-Identifier: Apache-2.0
// Differences of sysctls, addresses, neighbours, routes, rules and netfilter tables.
#include <fmt/format.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <tuple>

#include "build/diff_impl.hpp"
#include "build/names.hpp"

namespace fiplane::build {
namespace {

std::string describe(const Prefix& destination, const std::optional<Ipv4>& gateway, const std::string& device,
                     std::uint32_t table) {
    return fmt::format("route {}{} dev {} table {}",
                       destination.length == 0 ? std::string{"default"} : destination.str(),
                       gateway ? " via " + gateway->str() : std::string{}, device, table);
}

std::string describe(const PolicyRule& rule) {
    return fmt::format("rule {} from {}{} lookup {}", rule.priority,
                       rule.source.length == 0 ? std::string{"all"} : rule.source.str(),
                       rule.iifname.empty() ? std::string{} : " iif " + rule.iifname, rule.table);
}

auto key_of(const PolicyRule& rule) {
    return std::tuple{rule.priority, rule.source, rule.destination, rule.iifname, rule.oifname, rule.table};
}

/// Routes that an administrator or build could have set; the kernel's own and routing daemons' stay out of it.
bool is_static(const Route& route) {
    return route.table != RT_TABLE_LOCAL && (route.protocol == RTPROT_STATIC || route.protocol == RTPROT_BOOT);
}

}  // namespace

void NodeDiff::sysctl_differences(const NetnsName& name, const DesiredNetns& wanted) {
    const bool has_ipv6 = actual_.netns.contains(name) ? now(name).has_ipv6 : now("").has_ipv6;
    for (const auto& sysctl : wanted.sysctls) {
        if (sysctl.key.starts_with("ipv6/") && !has_ipv6) continue;
        if (is_unplugged(name, sysctl.device)) continue;
        const auto found = now(name).sysctls.find(sysctl.key);
        const bool known = found != now(name).sysctls.end() && (sysctl.device.empty() || live(name, sysctl.device));
        if (known && found->second == sysctl.value) continue;
        draft_.add(sysctl.needs_conntrack ? Stage::kConntrackSysctls : Stage::kSysctls, name,
                   SetSysctl{sysctl.key, sysctl.value}, known ? Step::Action::kChange : Step::Action::kAdd,
                   "sysctl " + sysctl.key, known ? fmt::format("{} -> {}", found->second, sysctl.value) : sysctl.value);
    }
}

/// Addresses on router devices are ours alone. On a bridge the node's operator may have others, but for those of the
/// network's own subnets: there an old address of the node would answer beside the new one.
bool NodeDiff::may_remove_address(const NetnsName& name, const std::string& device, const Prefix& address) const {
    if (!name.empty()) return is_router_device(device);
    const auto subnets = desired_.bridge_subnets.find(device);
    return subnets != desired_.bridge_subnets.end() &&
           std::ranges::any_of(subnets->second, [&](const Prefix& cidr) { return cidr.contains(address.address); });
}

void NodeDiff::address_differences(const NetnsName& name, const DesiredNetns& wanted) {
    std::set<std::pair<std::string, Prefix>> present;
    for (const auto& address : now(name).addresses) {
        const auto device = now(name).names.find(address.ifindex);
        if (device == now(name).names.end() || live(name, device->second) == nullptr) continue;
        const auto entry = std::pair{device->second, address.address};
        present.insert(entry);
        if (wanted.addresses.contains(entry) || !may_remove_address(name, device->second, address.address)) continue;
        draft_.add(Stage::kRemoveAddresses, name, RemoveAddress{device->second, address.address}, Step::Action::kRemove,
                   fmt::format("address {} dev {}", address.address.str(), device->second));
        // With the last address of a subnet the kernel flushes the device's routes and neighbours.
        if (address.address.length < 32) {
            loses_routes_.insert({name, device->second});
            loses_neighbours_.insert({name, device->second});
        } else {
            draft_.withdrawn.insert(address.address.address);
        }
    }
    for (const auto& entry : wanted.addresses) {
        if (present.contains(entry)) continue;
        const auto& [device, address] = entry;
        draft_.add(Stage::kAddresses, name, AddAddress{device, address}, Step::Action::kAdd,
                   fmt::format("address {} dev {}", address.str(), device));
        const auto fip = desired_.fips.find(address.address);
        if (fip == desired_.fips.end() || address.length != 32 || fip->second.announcer_netns != name) continue;
        draft_.announcements.push_back(
            {fip->first, fip->second.announcer_netns, fip->second.announcer_device, fip->second.mac});
    }
}

/// In the node's own namespace PERMANENT neighbours are build's on devices that answer ARP with them.
bool NodeDiff::owns_neighbours(const NetnsName& netns, const Link& link) const {
    if (!netns.empty()) return true;
    if (link.alias != desired_.mark) return false;
    const auto* bridge = std::get_if<BridgeKind>(&desired_.netns.at("").devices.at(link.name).kind);
    return link.kind == "vxlan" || (bridge != nullptr && bridge->tenant);
}

void NodeDiff::neighbour_differences(const NetnsName& name, const DesiredNetns& wanted) {
    std::map<std::pair<std::string, Ipv4>, const Neighbour*> present;
    for (const auto& neighbour : now(name).neighbours) {
        const auto device = now(name).names.find(neighbour.ifindex);
        if (device == now(name).names.end()) continue;
        const Link* link = live(name, device->second);
        if (link == nullptr || (neighbour.state & NUD_PERMANENT) == 0) continue;
        const auto key = std::pair{device->second, neighbour.address};
        present.emplace(key, &neighbour);
        if (wanted.neighbours.contains(key) || !owns_neighbours(name, *link)) continue;
        draft_.add(Stage::kRemoveNeighbours, name, RemoveNeighbour{device->second, neighbour.address},
                   Step::Action::kRemove, fmt::format("neighbour {} dev {}", neighbour.address.str(), device->second));
    }
    for (const auto& [key, mac] : wanted.neighbours) {
        const auto& [device, address] = key;
        const auto found = present.find(key);
        const bool right = found != present.end() && found->second->mac == mac;
        if (right && !loses_neighbours_.contains({name, device})) continue;
        Operation operation{Stage::kNeighbours, name, SetNeighbour{device, address, mac}, {}};
        if (!right) {
            const bool known = found != present.end();
            operation.steps.push_back(
                {known ? Step::Action::kChange : Step::Action::kAdd, name,
                 fmt::format("neighbour {} dev {}", address.str(), device),
                 known ? fmt::format("{} -> {}", found->second->mac.str(), mac.str()) : mac.str()});
        }
        draft_.operations.push_back(std::move(operation));
    }
}

void NodeDiff::set_route(const NetnsName& name, const DesiredRoute& route, const Route* before) {
    std::string detail;
    if (before != nullptr) {
        const auto device = now(name).names.find(before->oif);
        detail = "was " + describe(before->destination, before->gateway,
                                   device == now(name).names.end() ? "none" : device->second, before->table);
    }
    draft_.add(Stage::kRoutes, name, SetRoute{route}, before == nullptr ? Step::Action::kAdd : Step::Action::kChange,
               describe(route.destination, route.gateway, route.device, route.table), detail);
    if (route.destination.length != 32) return;
    const auto fip = desired_.fips.find(route.destination.address);
    if (fip == desired_.fips.end() || fip->second.announcer_netns != name) return;
    draft_.announcements.push_back(
        {fip->first, fip->second.announcer_netns, fip->second.announcer_device, fip->second.mac});
}

void NodeDiff::route_differences(const NetnsName& name, const DesiredNetns& wanted) {
    using Key = std::pair<std::uint32_t, Prefix>;
    std::multimap<Key, const Route*> present;
    for (const auto& route : now(name).routes) {
        if (is_static(route)) present.emplace(Key{route.table, route.destination}, &route);
    }
    const auto is = [&](const Route& route, const DesiredRoute& other) {
        const Link* link = live(name, other.device);
        return link != nullptr && route.oif == link->ifindex && route.gateway == other.gateway &&
               route.type == RouteType::kUnicast && !route.multipath && route.priority == 0 && route.tos == 0 &&
               route.mtu == 0;
    };
    // Next hops must be on link before routes through them.
    for (const bool through_gateway : {false, true}) {
        for (const auto& route : wanted.routes) {
            if (route.gateway.has_value() != through_gateway) continue;
            const auto [first, last] = present.equal_range({route.table, route.destination});
            const auto same = std::find_if(first, last, [&](const auto& each) { return is(*each.second, route); });
            if (same != last) {
                present.erase(same);
                if (!loses_routes_.contains({name, route.device})) continue;
                draft_.operations.push_back({Stage::kRoutes, name, SetRoute{route}, {}});
                continue;
            }
            // NLM_F_REPLACE takes the place of the first route with the same key.
            const auto replaced = std::find_if(
                first, last, [](const auto& each) { return each.second->priority == 0 && each.second->tos == 0; });
            set_route(name, route, replaced == last ? nullptr : replaced->second);
            if (replaced != last) present.erase(replaced);
        }
    }
    for (const auto& [key, route] : present) {
        const auto device = now(name).names.find(route->oif);
        if (device != now(name).names.end() && device->second == "lo") continue;
        draft_.add(Stage::kRemoveRoutes, name, RemoveRoute{*route}, Step::Action::kRemove,
                   describe(route->destination, route->gateway,
                            device == now(name).names.end() ? "none" : device->second, route->table));
        if (route->destination.length == 32 && route->gateway) draft_.withdrawn.insert(route->destination.address);
    }
}

void NodeDiff::rule_differences(const NetnsName& name, const DesiredNetns& wanted) {
    std::set<decltype(key_of(PolicyRule{}))> present;
    std::set<decltype(key_of(PolicyRule{}))> desired;
    for (const auto& rule : wanted.rules)
        desired.insert(key_of(rule));
    for (const auto& rule : now(name).rules) {
        // A rule with selectors that build never uses is somebody's own.
        if (!rule.lookup || rule.other_selector) continue;
        present.insert(key_of(rule));
        if (desired.contains(key_of(rule))) continue;
        draft_.add(Stage::kRemoveRules, name, RemoveRule{rule}, Step::Action::kRemove, describe(rule));
    }
    for (const auto& rule : wanted.rules) {
        // A new namespace has the kernel's three rules from the start.
        const bool kernels_own = rule.source.length == 0 && rule.iifname.empty();
        if (present.contains(key_of(rule)) || (kernels_own && !actual_.netns.contains(name))) continue;
        draft_.add(Stage::kRules, name, AddRule{rule}, Step::Action::kAdd, describe(rule));
    }
}

void NodeDiff::nft_differences(const NetnsName& name, const DesiredNetns& wanted) {
    std::set<std::string> present;
    for (const auto& [device, kind] : wanted.devices) {
        if (!is_unplugged(name, device)) present.insert(device);
    }
    std::set<std::string> removed;
    for (const Operation& operation : draft_.operations) {
        const auto* removal = std::get_if<RemoveDevice>(&operation.change);
        if (removal != nullptr && operation.netns == name) removed.insert(removal->name);
    }
    // The steps that remove the devices speak for their chains as well.
    if (auto commands = delete_device_chains(now(name).netfilter, removed); !commands.empty()) {
        draft_.operations.push_back({Stage::kRemoveChains, name, RunNft{std::move(commands)}, {}});
    }
    auto change = diff_tables(wanted.tables, now(name).netfilter, present, removed);
    if (change.commands.empty()) return;
    for (auto& step : change.steps)
        step.netns = name;
    draft_.operations.push_back({Stage::kNft, name, RunNft{std::move(change.commands)}, std::move(change.steps)});
}

}  // namespace fiplane::build
