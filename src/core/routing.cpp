// SPDX-License-Identifier: Apache-2.0
#include "core/routing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace fiplane {

namespace {

std::string table_name(std::uint32_t table) {
    if (table == 255) return "local";
    if (table == 254) return "main";
    if (table == 253) return "default";
    return std::to_string(table);
}

const char* type_name(RouteType type) {
    switch (type) {
        case RouteType::kUnicast:
            return "";
        case RouteType::kLocal:
            return "local ";
        case RouteType::kBroadcast:
            return "broadcast ";
        case RouteType::kBlackhole:
            return "blackhole ";
        case RouteType::kUnreachable:
            return "unreachable ";
        case RouteType::kProhibit:
            return "prohibit ";
        case RouteType::kThrow:
            return "throw ";
        case RouteType::kOther:
            return "unsupported type ";
    }
    return "";
}

void sort_unique(std::vector<Ipv4>& addresses) {
    std::ranges::sort(addresses);
    const auto rest = std::ranges::unique(addresses);
    addresses.erase(rest.begin(), rest.end());
}

}  // namespace

std::string describe(const PolicyRule& rule) {
    std::string text = fmt::format("rule {}:", rule.priority);
    if (rule.inverted) text += " not";
    text += rule.source.length == 0 ? " from all" : " from " + rule.source.str();
    if (rule.destination.length != 0) text += " to " + rule.destination.str();
    if (!rule.iifname.empty()) text += " iif " + rule.iifname;
    if (!rule.oifname.empty()) text += " oif " + rule.oifname;
    if (rule.other_selector) text += " (with further selectors)";
    return text + (rule.lookup ? " lookup " + table_name(rule.table) : " (no lookup)");
}

std::string describe(const Route& route, const NetnsView& view) {
    std::string text = fmt::format("{}{}", type_name(route.type), route.destination.str());
    if (route.gateway) text += " via " + route.gateway->str();
    const Link* device = view.link(route.oif);
    if (device != nullptr) text += " dev " + device->name;
    return text + " (table " + table_name(route.table) + ")";
}

Routing::Routing(const NetnsView& view) : view_(view) {
    for (const PolicyRule& rule : view.rules)
        rules_.push_back(&rule);
    std::ranges::stable_sort(rules_, {}, &PolicyRule::priority);
    for (std::size_t position = 0; position < rules_.size(); ++position) {
        const Prefix source = rules_[position]->source.network();
        if (source.length == 0 || rules_[position]->inverted) {
            general_.push_back(position);
        } else {
            by_source_order_.push_back(position);
            by_source_[source.length][source.address.value].push_back(position);
        }
    }
    for (const Route& route : view.routes) {
        const Prefix destination = route.destination.network();
        tables_[route.table][destination.length][destination.address.value].push_back(&route);
        const bool unicast = route.type == RouteType::kUnicast;
        if (route.type == RouteType::kLocal || route.type == RouteType::kBroadcast) {
            own_[destination.length][destination.address.value].push_back(&route);
        }
        if (route.type == RouteType::kLocal && destination.length == 32 && destination.address.value >> 24 != 127) {
            local_addresses_.push_back(destination.address);
        }
        if (unicast && destination.length == 32) host_routes_.push_back(destination.address);
        if (unicast && !route.gateway) on_link_[route.oif].push_back(destination);
    }
    const auto in_kernel_order = [](const Route* route) { return std::pair(route->tos == 0, route->priority); };
    for (auto& [id, table] : tables_) {
        for (auto& [length, networks] : table) {
            for (auto& [network, routes] : networks)
                std::ranges::stable_sort(routes, {}, in_kernel_order);
        }
    }
    sort_unique(local_addresses_);
    sort_unique(host_routes_);
}

bool Routing::applies(const PolicyRule& rule, const Prefix& region, const std::string& iifname, int oif) const {
    // Its selectors say what it leaves out: nobody is told apart, and the lookup stops there.
    if (rule.inverted) return true;
    if (rule.destination.length != 0 && !rule.destination.contains(region)) return false;
    if (!rule.iifname.empty() && rule.iifname != iifname) return false;
    if (rule.oifname.empty()) return true;
    const Link* bound = view_.link(oif);  // a forwarded packet is bound to no device, so such a rule never applies
    return bound != nullptr && bound->name == rule.oifname;
}

bool Routing::look_in_table(std::uint32_t table, const Prefix& region, int oif, Lookup& result) const {
    const auto found = tables_.find(table);
    if (found == tables_.end()) return false;
    for (const auto& [length, networks] : found->second) {
        if (length > region.length) continue;
        const auto routes = networks.find(Prefix{region.address, length}.network().address.value);
        if (routes == networks.end()) continue;
        for (const Route* route : routes->second) {
            if (route->tos != 0) {
                result.stopped = "route " + describe(*route, view_) + " depends on the packet's TOS";
                return true;
            }
            if (oif != 0 && route->oif != oif) continue;
            if (route->type == RouteType::kThrow) return false;
            result.route = route;
            return true;
        }
    }
    return false;
}

bool Routing::try_rule(std::size_t position, const Prefix& region, const std::string& iifname, int oif,
                       Lookup& result) const {
    const PolicyRule& rule = *rules_[position];
    if (!applies(rule, region, iifname, oif)) return false;
    if (rule.other_selector || !rule.lookup) {
        result.stopped = describe(rule) + " is not followed";
        return true;
    }
    if (!look_in_table(rule.table, region, oif, result)) return false;
    result.rule = &rule;
    result.rules_passed = position;
    return true;
}

std::vector<std::size_t> Routing::selected(Ipv4 source) const {
    std::vector<std::size_t> positions;
    for (const auto& [length, networks] : by_source_) {
        const auto found = networks.find(Prefix{source, length}.network().address.value);
        if (found != networks.end()) positions.insert(positions.end(), found->second.begin(), found->second.end());
    }
    std::ranges::sort(positions);
    return positions;
}

Lookup Routing::lookup(const Source& source, const Prefix& region, const std::string& iifname, int oif) const {
    // Merge of two ascending lists of positions: rules for every source, and those that (may) select this one.
    const bool known = source.kind == Source::Kind::kKnown;
    const std::vector<std::size_t> chosen = known ? selected(source.address) : std::vector<std::size_t>{};
    const bool anybody = source.kind == Source::Kind::kUnknown;
    const std::vector<std::size_t>& special = anybody ? by_source_order_ : chosen;
    Lookup result;
    auto next_special = special.begin();
    const auto until = [&](std::size_t end) {
        for (; next_special != special.end() && *next_special < end; ++next_special) {
            if (!anybody) {
                if (try_rule(*next_special, region, iifname, oif, result)) return true;
            } else if (applies(*rules_[*next_special], region, iifname, oif)) {
                result.stopped = "depends on the source: " + describe(*rules_[*next_special]);
                return true;
            }
        }
        return false;
    };
    for (const std::size_t position : general_) {
        if (until(position) || try_rule(position, region, iifname, oif, result)) return result;
    }
    if (until(rules_.size())) return result;
    result.rules_passed = rules_.size();
    result.stopped = "no route to " + region.str();
    return result;
}

std::string Routing::signature(Ipv4 source) const {
    // Rules that look at other things than the source are common to all, so that the place among them and the effect of
    // each chosen rule say everything. The place is named by the rule before it, so that a rule that is added elsewhere
    // does not change the text.
    std::string text;
    for (const std::size_t position : selected(source)) {
        const PolicyRule& rule = *rules_[position];
        std::uint32_t before = 0;
        std::size_t equal = 0;
        const auto end = std::ranges::lower_bound(general_, position);
        for (auto at = end; at != general_.begin(); ++equal) {
            const std::uint32_t priority = rules_[*--at]->priority;
            if (equal > 0 && priority != before) break;
            before = priority;
        }
        text += fmt::format("{}.{}:{}:{}:{}:{}:{}:{};", before, equal, rule.destination.str(), rule.iifname,
                            rule.oifname, rule.table, rule.lookup, rule.other_selector);
    }
    return text;
}

bool Routing::selected_before(Ipv4 source, std::size_t count) const {
    const std::vector<std::size_t> positions = selected(source);
    return !positions.empty() && positions.front() < count;
}

bool Routing::is_own(Ipv4 address) const {
    return std::ranges::any_of(own_, [&](const auto& entry) {
        return entry.second.contains(Prefix{address, entry.first}.network().address.value);
    });
}

std::vector<Prefix> Routing::own() const {
    std::vector<Prefix> prefixes;
    for (const auto& [length, networks] : own_) {
        for (const auto& [network, routes] : networks)
            prefixes.push_back({{network}, length});
    }
    return prefixes;
}

std::vector<Prefix> Routing::selectors(std::size_t count) const {
    std::vector<Prefix> prefixes;
    for (const std::size_t position : by_source_order_) {
        if (position < count) prefixes.push_back(rules_[position]->source.network());
    }
    return prefixes;
}

std::vector<Prefix> Routing::on_link(int ifindex) const {
    const auto prefixes = on_link_.find(ifindex);
    return prefixes == on_link_.end() ? std::vector<Prefix>{} : prefixes->second;
}

bool Routing::on_link(int ifindex, Ipv4 address) const {
    const auto prefixes = on_link_.find(ifindex);
    return prefixes != on_link_.end() &&
           std::ranges::any_of(prefixes->second, [&](const Prefix& prefix) { return prefix.contains(address); });
}

bool Routing::has_host_route(Ipv4 address) const {
    return std::ranges::binary_search(host_routes_, address) || std::ranges::binary_search(local_addresses_, address);
}

}  // namespace fiplane
