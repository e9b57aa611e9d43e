// SPDX-License-Identifier: Apache-2.0
// Addresses, routes and policy rules.
#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>

#include <algorithm>

#include "linux/rtnl_impl.hpp"

namespace fiplane {
namespace {

using nl::Attributes;
using nl::Nest;
using nl::Request;

/// Tables above 255 do not fit the headers' byte; RTA_TABLE and FRA_TABLE carry them.
std::uint8_t table_byte(std::uint32_t table) {
    return table < 256 ? static_cast<std::uint8_t>(table) : std::uint8_t{RT_TABLE_UNSPEC};
}

std::optional<Address> parse_address(const nlmsghdr& message) {
    const auto* header = nl::header_of<ifaddrmsg>(message);
    if (message.nlmsg_type != RTM_NEWADDR || header == nullptr || header->ifa_family != AF_INET) return std::nullopt;
    const Attributes attributes(message, sizeof(ifaddrmsg));
    const auto remote = attributes.ipv4(IFA_ADDRESS);
    const auto local = attributes.ipv4(IFA_LOCAL);
    if (!remote && !local) return std::nullopt;
    // With a point-to-point peer the prefix length is the peer's; what is local is one address.
    const bool has_peer = remote && local && *remote != *local;
    const std::uint8_t length = has_peer ? 32 : header->ifa_prefixlen;
    // The header's byte has the flags below 256, all of them the attribute (Linux 3.14 and later).
    const auto flags = attributes.number<std::uint32_t>(IFA_FLAGS, header->ifa_flags);
    return Address{.ifindex = static_cast<int>(header->ifa_index),
                   .address = {local ? *local : *remote, length},
                   .secondary = (flags & IFA_F_SECONDARY) != 0,
                   .scope = header->ifa_scope};
}

RouteType route_type(unsigned char type) {
    switch (type) {
        case RTN_UNICAST:
            return RouteType::kUnicast;
        case RTN_LOCAL:
            return RouteType::kLocal;
        case RTN_BROADCAST:
            return RouteType::kBroadcast;
        case RTN_BLACKHOLE:
            return RouteType::kBlackhole;
        case RTN_UNREACHABLE:
            return RouteType::kUnreachable;
        case RTN_PROHIBIT:
            return RouteType::kProhibit;
        case RTN_THROW:
            return RouteType::kThrow;
        default:
            return RouteType::kOther;
    }
}

std::uint8_t kernel_route_type(RouteType type) {
    switch (type) {
        case RouteType::kUnicast:
            return RTN_UNICAST;
        case RouteType::kLocal:
            return RTN_LOCAL;
        case RouteType::kBroadcast:
            return RTN_BROADCAST;
        case RouteType::kBlackhole:
            return RTN_BLACKHOLE;
        case RouteType::kUnreachable:
            return RTN_UNREACHABLE;
        case RouteType::kProhibit:
            return RTN_PROHIBIT;
        case RouteType::kThrow:
            return RTN_THROW;
        case RouteType::kOther:
            break;
    }
    return RTN_UNSPEC;
}

std::optional<Route> parse_route(const nlmsghdr& message) {
    const auto* header = nl::header_of<rtmsg>(message);
    if (message.nlmsg_type != RTM_NEWROUTE || header == nullptr || header->rtm_family != AF_INET) return std::nullopt;
    // A cached exception (a learned path MTU), not configuration.
    if ((header->rtm_flags & RTM_F_CLONED) != 0) return std::nullopt;
    const Attributes attributes(message, sizeof(rtmsg));
    Route route;
    route.table = attributes.number<std::uint32_t>(RTA_TABLE, header->rtm_table);
    route.destination = {attributes.ipv4(RTA_DST).value_or(Ipv4{}), header->rtm_dst_len};
    route.type = route_type(header->rtm_type);
    // An IPv6 gateway or a lightweight tunnel: Route cannot say where the packet goes.
    if (attributes.has(RTA_VIA) || attributes.has(RTA_ENCAP)) route.type = RouteType::kOther;
    route.oif = attributes.number<int>(RTA_OIF);
    route.gateway = attributes.ipv4(RTA_GATEWAY);
    route.preferred_source = attributes.ipv4(RTA_PREFSRC);
    route.priority = attributes.number<std::uint32_t>(RTA_PRIORITY);
    route.protocol = header->rtm_protocol;
    route.scope = header->rtm_scope;
    route.tos = header->rtm_tos;
    route.multipath = attributes.has(RTA_MULTIPATH) || attributes.has(RTA_NH_ID);
    route.mtu = attributes.nested(RTA_METRICS).number<std::uint32_t>(RTAX_MTU);
    return route;
}

/// Whether an attribute narrows a rule beyond what PolicyRule holds. Whatever a newer kernel adds does.
bool narrows(int attribute, const Attributes& attributes) {
    switch (attribute) {
        case FRA_UNSPEC:
        case FRA_DST:
        case FRA_SRC:
        case FRA_IIFNAME:
        case FRA_OIFNAME:
        case FRA_PRIORITY:
        case FRA_TABLE:
        case FRA_PROTOCOL:
        case FRA_FLOW:  // route classifier tag
        case FRA_GOTO:  // `lookup` is false then
        case FRA_PAD:
            return false;
        case FRA_SUPPRESS_PREFIXLEN:
        case FRA_SUPPRESS_IFGROUP:
            return attributes.number<std::uint32_t>(attribute) != ~std::uint32_t{0};
        case FRA_L3MDEV:
            return attributes.number<std::uint8_t>(attribute) != 0;
        default:
            return true;
    }
}

bool has_other_selector(const fib_rule_hdr& header, const Attributes& attributes) {
    bool other = header.tos != 0 || (header.flags & FIB_RULE_INVERT) != 0;
    attributes.for_each([&](const nlattr& attribute) { other = other || narrows(nla_type(&attribute), attributes); });
    return other;
}

std::optional<PolicyRule> parse_rule(const nlmsghdr& message) {
    const auto* header = nl::header_of<fib_rule_hdr>(message);
    if (message.nlmsg_type != RTM_NEWRULE || header == nullptr || header->family != AF_INET) return std::nullopt;
    const Attributes attributes(message, sizeof(fib_rule_hdr));
    PolicyRule rule;
    rule.priority = attributes.number<std::uint32_t>(FRA_PRIORITY);
    rule.source = {attributes.ipv4(FRA_SRC).value_or(Ipv4{}), header->src_len};
    rule.destination = {attributes.ipv4(FRA_DST).value_or(Ipv4{}), header->dst_len};
    rule.iifname = attributes.text(FRA_IIFNAME);
    rule.oifname = attributes.text(FRA_OIFNAME);
    rule.table = attributes.number<std::uint32_t>(FRA_TABLE, header->table);
    rule.lookup = header->action == FR_ACT_TO_TBL;
    rule.other_selector = has_other_selector(*header, attributes);
    rule.inverted = (header->flags & FIB_RULE_INVERT) != 0;
    return rule;
}

Request address_request(int type, int flags, int ifindex, const Prefix& address) {
    Request request(type, flags);
    ifaddrmsg header{};
    header.ifa_family = AF_INET;
    header.ifa_prefixlen = address.length;
    header.ifa_index = static_cast<std::uint32_t>(ifindex);
    // The loopback range is host scope, as ip-address(8) does it.
    header.ifa_scope = address.address.value >> 24 == 127 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
    request.header(header).ipv4(IFA_LOCAL, address.address).ipv4(IFA_ADDRESS, address.address);
    return request;
}

Request route_request(int type, int flags, const Route& route) {
    Request request(type, flags);
    rtmsg header{};
    header.rtm_family = AF_INET;
    header.rtm_dst_len = route.destination.length;
    header.rtm_tos = route.tos;
    header.rtm_table = table_byte(route.table);
    header.rtm_protocol = route.protocol;
    header.rtm_scope = route.scope;
    header.rtm_type = kernel_route_type(route.type);
    request.header(header).number(RTA_TABLE, route.table);
    if (route.destination.length > 0) request.ipv4(RTA_DST, route.destination.address);
    if (route.oif != 0) request.number(RTA_OIF, route.oif);
    if (route.gateway) request.ipv4(RTA_GATEWAY, *route.gateway);
    if (route.preferred_source) request.ipv4(RTA_PREFSRC, *route.preferred_source);
    if (route.priority != 0) request.number(RTA_PRIORITY, route.priority);
    if (route.mtu != 0) {
        const Nest metrics(request, RTA_METRICS);
        request.number(RTAX_MTU, route.mtu);
    }
    return request;
}

std::string describe(const Route& route) {
    std::string text = fmt::format("route {}", route.destination.str());
    if (route.gateway) text += fmt::format(" via {}", route.gateway->str());
    if (route.oif != 0) text += fmt::format(" dev with index {}", route.oif);
    return text + fmt::format(" table {}", route.table);
}

Result<> check_expressible(const Route& route, const std::string& where) {
    if (!route.multipath && route.type != RouteType::kOther) return {};
    return fail(ExitCode::kFailed,
                fmt::format("cannot set {}: multipath and special routes are read only", describe(route)), where);
}

Request rule_request(int type, int flags, const PolicyRule& rule) {
    Request request(type, flags);
    fib_rule_hdr header{};
    header.family = AF_INET;
    header.src_len = rule.source.length;
    header.dst_len = rule.destination.length;
    header.table = table_byte(rule.table);
    header.action = FR_ACT_TO_TBL;
    request.header(header).number(FRA_TABLE, rule.table).number(FRA_PRIORITY, rule.priority);
    if (rule.source.length > 0) request.ipv4(FRA_SRC, rule.source.address);
    if (rule.destination.length > 0) request.ipv4(FRA_DST, rule.destination.address);
    if (!rule.iifname.empty()) request.text(FRA_IIFNAME, rule.iifname);
    if (!rule.oifname.empty()) request.text(FRA_OIFNAME, rule.oifname);
    return request;
}

std::string describe(const PolicyRule& rule) {
    std::string text = fmt::format("rule {}:{} from {}", rule.priority, rule.inverted ? " not" : "",
                                   rule.source.length == 0 ? std::string("all") : rule.source.str());
    if (rule.destination.length > 0) text += fmt::format(" to {}", rule.destination.str());
    if (!rule.iifname.empty()) text += fmt::format(" iif {}", rule.iifname);
    if (!rule.oifname.empty()) text += fmt::format(" oif {}", rule.oifname);
    return text + fmt::format(" lookup {}", rule.table);
}

Result<> check_expressible(const PolicyRule& rule, const std::string& where) {
    if (rule.lookup && !rule.other_selector) return {};
    return fail(ExitCode::kFailed,
                fmt::format("cannot set {}: it has selectors or actions that are read only", describe(rule)), where);
}

}  // namespace

Result<std::vector<Address>> Rtnl::addresses() {
    auto request = dump_request<ifaddrmsg>(RTM_GETADDR, AF_INET);
    return impl_->collect<Address>(request, "list addresses", parse_address);
}

Result<std::optional<Ipv4>> Rtnl::source_towards(Ipv4 destination) {
    Request request(RTM_GETROUTE, 0);
    rtmsg header{};
    header.rtm_family = AF_INET;
    header.rtm_dst_len = 32;
    request.header(header).ipv4(RTA_DST, destination);
    std::optional<Ipv4> source;
    const auto answer = impl_->socket.transact(request, [&](const nlmsghdr& message) {
        if (message.nlmsg_type == RTM_NEWROUTE) source = Attributes(message, sizeof(rtmsg)).ipv4(RTA_PREFSRC);
    });
    if (answer) return source;
    const int number = answer.error().number;
    if (number == ENETUNREACH || number == EHOSTUNREACH || number == EACCES || number == EINVAL) {
        return std::optional<Ipv4>{};  // no route; one of type unreachable, prohibit or blackhole
    }
    return nl::fail_kernel(answer.error(), fmt::format("cannot look up the route to {}", destination.str()),
                           impl_->where);
}

Result<std::vector<Route>> Rtnl::routes() {
    auto request = dump_request<rtmsg>(RTM_GETROUTE, AF_INET);
    return impl_->collect<Route>(request, "list routes", parse_route);
}

Result<std::vector<PolicyRule>> Rtnl::rules() {
    auto request = dump_request<fib_rule_hdr>(RTM_GETRULE, AF_INET);
    return impl_->collect<PolicyRule>(request, "list policy rules", parse_rule);
}

Result<bool> Rtnl::has_other_ipv6_rules() {
    auto request = dump_request<fib_rule_hdr>(RTM_GETRULE, AF_INET6);
    const auto parse = [](const nlmsghdr& message) -> std::optional<bool> {
        const auto* rule = nl::header_of<fib_rule_hdr>(message);
        if (message.nlmsg_type != RTM_NEWRULE || rule == nullptr || rule->family != AF_INET6) return std::nullopt;
        return has_other_selector(*rule, Attributes(message, sizeof(fib_rule_hdr)));
    };
    auto others = impl_->collect<bool>(request, "list IPv6 policy rules", parse);
    if (!others) return pass_on(others);
    return std::ranges::find(*others, true) != others->end();
}

Result<> Rtnl::add_address(int ifindex, const Prefix& address, bool with_broadcast) {
    auto request = address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, ifindex, address);
    if (with_broadcast && address.length < 31) request.ipv4(IFA_BROADCAST, address.broadcast());
    return impl_->change(request, fmt::format("add address {} to device with index {}", address.str(), ifindex));
}

Result<> Rtnl::remove_address(int ifindex, const Prefix& address) {
    auto request = address_request(RTM_DELADDR, 0, ifindex, address);
    return impl_->change(request, fmt::format("remove address {} from device with index {}", address.str(), ifindex));
}

Result<> Rtnl::set_route(const Route& route) {
    if (auto good = check_expressible(route, impl_->where); !good) return good;
    auto request = route_request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
    return impl_->change(request, fmt::format("set {}", describe(route)));
}

Result<> Rtnl::remove_route(const Route& route) {
    if (auto good = check_expressible(route, impl_->where); !good) return good;
    auto request = route_request(RTM_DELROUTE, 0, route);
    return impl_->change(request, fmt::format("remove {}", describe(route)));
}

Result<> Rtnl::add_rule(const PolicyRule& rule) {
    if (auto good = check_expressible(rule, impl_->where); !good) return good;
    auto request = rule_request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule);
    return impl_->change(request, fmt::format("add {}", describe(rule)));
}

Result<> Rtnl::remove_rule(const PolicyRule& rule) {
    if (auto good = check_expressible(rule, impl_->where); !good) return good;
    auto request = rule_request(RTM_DELRULE, 0, rule);
    return impl_->change(request, fmt::format("remove {}", describe(rule)));
}

}  // namespace fiplane
