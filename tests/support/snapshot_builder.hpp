// SPDX-License-Identifier: Apache-2.0
// Snapshots by hand, for tests of the walk: each helper adds what the kernel would hold after the `ip`, `bridge` or
// `nft` command of the same name. Header only, so that unit tests need no library of the Linux edge.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/snapshot.hpp"

namespace fiplane::test {

inline Ipv4 ip(std::string_view text) {
    const auto address = Ipv4::parse(text);
    if (!address) throw std::invalid_argument("no IPv4 address: " + std::string(text));
    return *address;
}

inline Prefix net(std::string_view text) {
    const auto prefix = Prefix::parse(text);
    if (!prefix) throw std::invalid_argument("no IPv4 prefix: " + std::string(text));
    return *prefix;
}

inline Mac mac(std::string_view text) {
    const auto address = Mac::parse(text);
    if (!address) throw std::invalid_argument("no MAC address: " + std::string(text));
    return *address;
}

inline constexpr std::uint16_t kNudReachable = 0x02;
inline constexpr std::uint16_t kNudStale = 0x04;
inline constexpr std::uint16_t kNudFailed = 0x20;
inline constexpr std::uint16_t kNudNoarp = 0x40;
inline constexpr std::uint16_t kNudPermanent = 0x80;
inline constexpr std::uint32_t kMainTable = 254;
inline constexpr std::uint32_t kLocalTable = 255;

/// A namespace with the rules and routes that the kernel makes by itself.
inline NetnsView make_netns(const NetnsName& name) {
    NetnsView view;
    view.name = name;
    for (const auto& [priority, table] : {std::pair{0U, 255U}, {32766U, 254U}, {32767U, 253U}}) {
        PolicyRule rule;
        rule.priority = priority;
        rule.table = table;
        view.rules.push_back(rule);
    }
    return view;
}

inline Link& add_link(NetnsView& view, int ifindex, const std::string& name, const std::string& kind,
                      std::string_view address, std::uint32_t mtu = 1450) {
    Link link;
    link.ifindex = ifindex;
    link.name = name;
    link.kind = kind;
    link.mac = mac(address);
    link.mtu = mtu;
    link.admin_up = true;
    link.running = true;
    link.qdisc = kind == "tun" || kind.empty() ? "fq_codel" : "noqueue";
    link.is_tap = kind == "tun";
    return view.links[ifindex] = link;
}

inline Link& add_bridge(NetnsView& view, int ifindex, const std::string& name, std::string_view address) {
    Link& link = add_link(view, ifindex, name, "bridge", address);
    link.bridge = BridgeInfo{.vlan_filtering = false, .stp = false, .ageing_time = 30000, .multicast_snooping = false};
    view.fdb.push_back({.ifindex = ifindex,
                        .bridge = ifindex,
                        .mac = link.mac,
                        .destination = std::nullopt,
                        .vlan = 0,
                        .state = kNudPermanent,
                        .flags = 0});
    return link;
}

inline void enslave(Link& link, int bridge) {
    link.master = bridge;
    link.bridge_port = BridgePortInfo{};
}

/// Both ends of a veth; returns the first.
inline Link& add_veth(NetnsView& view, int ifindex, const std::string& name, std::string_view address,
                      NetnsView& peer_view, int peer_ifindex, const std::string& peer_name,
                      std::string_view peer_address) {
    add_link(peer_view, peer_ifindex, peer_name, "veth", peer_address).peer = PeerInfo{ifindex, view.name};
    Link& link = add_link(view, ifindex, name, "veth", address);
    link.peer = PeerInfo{peer_ifindex, peer_view.name};
    return link;
}

inline Route& add_route(NetnsView& view, std::string_view destination, int oif, std::string_view gateway = {},
                        std::uint32_t table = kMainTable) {
    Route route;
    route.table = table;
    route.destination = net(destination);
    route.oif = oif;
    if (!gateway.empty()) route.gateway = ip(gateway);
    return view.routes.emplace_back(route);
}

/// `ip address add`, with the routes that fib_add_ifaddr makes.
inline void add_address(NetnsView& view, int ifindex, std::string_view address) {
    const Prefix prefix = net(address);
    view.addresses.push_back({ifindex, prefix});
    add_route(view, prefix.address.str() + "/32", ifindex, {}, kLocalTable).type = RouteType::kLocal;
    if (prefix.length == 32) return;
    Route& connected = add_route(view, prefix.network().str(), ifindex);
    connected.preferred_source = prefix.address;
    connected.scope = 253;  // RT_SCOPE_LINK
    if (prefix.length >= 31) return;
    add_route(view, prefix.broadcast().str() + "/32", ifindex, {}, kLocalTable).type = RouteType::kBroadcast;
}

inline void add_rule(NetnsView& view, std::uint32_t priority, std::string_view source, const std::string& iifname,
                     std::uint32_t table) {
    PolicyRule rule;
    rule.priority = priority;
    if (!source.empty()) rule.source = net(source);
    rule.iifname = iifname;
    rule.table = table;
    view.rules.push_back(rule);
}

/// What a router of Neutron sets in its namespace. `redirects`: send_redirects of each device.
inline void set_sysctls(NetnsView& view, bool redirects) {
    view.sysctls.ip_forward = true;
    for (const auto& [ifindex, link] : view.links) {
        view.sysctls.devices[link.name] = {.forwarding = true,
                                           .proxy_arp = link.name.starts_with("fg-"),
                                           .arp_ignore = 1,
                                           .rp_filter = 0,
                                           .send_redirects = redirects};
    }
}

inline void add_neighbour(NetnsView& view, int ifindex, std::string_view address, std::string_view lladdr,
                          std::uint16_t state = kNudPermanent) {
    view.neighbours.push_back({ifindex, ip(address), mac(lladdr), state});
}

/// `bridge fdb add MAC dev PORT master static`.
inline void add_static_fdb(NetnsView& view, int port, std::string_view address) {
    view.fdb.push_back({.ifindex = port,
                        .bridge = view.links.at(port).master,
                        .mac = mac(address),
                        .destination = std::nullopt,
                        .vlan = 0,
                        .state = kNudNoarp,
                        .flags = 0});
}

/// `bridge fdb append MAC dev VXLAN dst PEER`.
inline void add_vxlan_fdb(NetnsView& view, int vxlan, std::string_view address, std::string_view peer) {
    view.fdb.push_back({.ifindex = vxlan,
                        .bridge = 0,
                        .mac = mac(address),
                        .destination = ip(peer),
                        .vlan = 0,
                        .state = kNudPermanent,
                        .flags = 0});
}

/// A MAC behind a tunnel: both tables, as l2pop fills them.
inline void add_remote_mac(NetnsView& view, int vxlan, std::string_view address, std::string_view peer) {
    add_static_fdb(view, vxlan, address);
    add_vxlan_fdb(view, vxlan, address, peer);
}

// nft

inline nf::Match match(nf::Field field, std::vector<nf::Value> any_of, bool negate = false) {
    return {.field = field, .negate = negate, .any_of = std::move(any_of), .set_name = std::nullopt};
}

inline nf::AddressSource from_map(const std::string& name, nf::Field key) {
    return {.address = std::nullopt, .map_name = name, .map_key = key, .anonymous_map = {}};
}

inline nf::AddressSource to_address(std::string_view address) {
    return {.address = ip(address), .map_name = std::nullopt, .map_key = nf::Field::kOther, .anonymous_map = {}};
}

inline nf::Verdict verdict(nf::VerdictKind kind, const std::string& chain = {}) {
    return {kind, chain};
}

inline nf::Rule rule(const std::string& text, std::vector<nf::Statement> statements) {
    return {std::move(statements), text};
}

inline nf::Chain& add_chain(NetnsView& view, nf::Family family, const std::string& table, const std::string& name,
                            std::optional<nf::Hook> hook = std::nullopt, nf::ChainType type = nf::ChainType::kFilter,
                            int priority = 0) {
    nf::Chain chain;
    chain.family = family;
    chain.table = table;
    chain.name = name;
    chain.hook = hook;
    chain.type = type;
    chain.priority = priority;
    return view.netfilter.chains.emplace_back(chain);
}

}  // namespace fiplane::test
