// SPDX-License-Identifier: Apache-2.0
// Expected rows, written from what Linux would do, not from what the walk computes.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/tables.hpp"
#include "walk_scenario.hpp"

namespace fiplane::test {

inline void put(std::uint8_t (&to)[4], std::string_view text) {
    const auto bytes = ip(text).bytes();
    std::memcpy(to, bytes.data(), sizeof to);
}

/// A tunnel's end, of either IP version.
inline void put_end(std::uint8_t (&to)[16], std::string_view text) {
    copy_bytes(to, IpAddress::parse(text).value());
}

inline void put(std::uint8_t (&to)[6], std::string_view text) {
    const auto bytes = mac(text).bytes;
    std::memcpy(to, bytes.data(), sizeof to);
}

/// A sentence about what stays slow has this part.
inline bool has_note(const Compiled& compiled, const std::string& part) {
    return std::ranges::any_of(compiled.notes,
                               [&](const std::string& note) { return note.find(part) != std::string::npos; });
}

inline fl_out out_port(int ifindex, std::uint32_t mtu = 1450, std::uint32_t flags = FL_OUT_XDP) {
    fl_out out{};
    out.kind = FL_OUT_PORT;
    out.ifindex = out.port = static_cast<std::uint32_t>(ifindex);
    out.flags = flags;
    out.mtu = mtu;
    return out;
}

inline fl_out out_host(int bridge) {
    fl_out out{};
    out.kind = FL_OUT_HOST;
    out.ifindex = out.port = static_cast<std::uint32_t>(bridge);
    out.mtu = 1450;
    return out;
}

inline fl_out out_router() {
    fl_out out{};
    out.kind = FL_OUT_ROUTER;
    return out;
}

inline fl_out out_tunnel(std::uint32_t vni, std::string_view peer, std::string_view peer_mac) {
    fl_out out{};
    out.kind = FL_OUT_TUNNEL;
    out.ifindex = kEth0;
    out.mtu = 1450;
    out.port = vni == 100 ? kVxlanEx : kVxlanTenant;
    out.tunnel = FL_TUNNEL_VXLAN;
    out.tunnel_id = vni;
    put_end(out.remote, peer);
    put(out.outer_dmac, peer_mac);
    put(out.outer_smac, kEthMac);
    return out;
}

inline fl_next journey(std::string_view dmac, std::string_view smac, std::uint32_t hops, const fl_out& out,
                       std::uint32_t flags = 0, std::string_view dnat = "0.0.0.0") {
    fl_next next{};
    put(next.dmac, dmac);
    put(next.smac, smac);
    put(next.dnat, dnat);
    next.hops = hops;
    next.mtu = 1450;
    next.flags = flags;
    next.out = out;
    return next;
}

inline fl_fip_key fip_row_key(int segment, std::string_view fip) {
    fl_fip_key key{};
    key.segment = static_cast<std::uint32_t>(segment);
    put(key.fip, fip);
    return key;
}

inline fl_fip_in fip_row(std::string_view router_mac, const fl_next& next) {
    fl_fip_in row{};
    put(row.router_mac, router_mac);
    row.next = next;
    return row;
}

inline fl_vm_key vm_key(int port, std::string_view fixed, std::string_view router = "fa:16:3e:0a:00:01") {
    fl_vm_key key{};
    key.port = static_cast<std::uint32_t>(port);
    put(key.fixed, fixed);
    put(key.router_mac, router);
    return key;
}

inline fl_vm vm_row(std::string_view mac, std::string_view fip, std::uint32_t domain) {
    fl_vm row{};
    put(row.mac, mac);
    put(row.fip, fip);
    row.domain = domain;
    return row;
}

inline fl_sender_key sender_key(int segment, std::string_view router, std::string_view sources) {
    fl_sender_key key{};
    key.prefixlen = FL_SENDER_KEY_BITS + net(sources).length;
    key.segment = static_cast<std::uint32_t>(segment);
    put(key.router_mac, router);
    put(key.ip, net(sources).address.str());
    return key;
}

inline fl_dest_key dest_row_key(std::uint32_t domain, std::string_view address) {
    fl_dest_key key{};
    key.domain = domain;
    put(key.ip, address);
    return key;
}

inline fl_route_key route_row_key(std::uint32_t domain, std::string_view prefix) {
    fl_route_key key{};
    key.prefixlen = 32U + net(prefix).length;
    key.domain = domain;
    put(key.ip, net(prefix).address.str());
    return key;
}

inline fl_fdb_key fdb_row_key(int segment, std::string_view address) {
    fl_fdb_key key{};
    key.segment = static_cast<std::uint32_t>(segment);
    put(key.mac, address);
    return key;
}

inline fl_arp_key arp_row_key(int segment, std::string_view address) {
    fl_arp_key key{};
    key.segment = static_cast<std::uint32_t>(segment);
    put(key.ip, address);
    return key;
}

inline fl_source_key source_row_key(int ifindex) {
    fl_source_key key{};
    key.ifindex = static_cast<std::uint32_t>(ifindex);
    return key;
}

template <typename T>
std::string hex(const T& value) {
    std::string text;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
    for (std::size_t i = 0; i < sizeof(T); ++i)
        text += fmt::format("{:02x}", bytes[i]);
    return text;
}

/// Differences between two tables, one line each; empty: the same.
template <typename K, typename V>
std::string differences(const Table<K, V>& wanted, const Table<K, V>& found) {
    std::string text;
    for (const auto& [key, value] : wanted) {
        const auto at = found.find(key);
        if (at == found.end()) {
            text += "missing " + hex(key) + "\n";
        } else if (!same_bytes(value, at->second)) {
            text += "row " + hex(key) + "\n  wanted " + hex(value) + "\n  found  " + hex(at->second) + "\n";
        }
    }
    for (const auto& [key, value] : found) {
        if (!wanted.contains(key)) text += "unexpected " + hex(key) + " -> " + hex(value) + "\n";
    }
    return text;
}

inline std::string differences(const Tables& wanted, const Tables& found) {
    std::string text;
    if (!same_bytes(wanted.config, found.config)) text += "config\n";
    const auto add = [&](const char* name, const std::string& lines) {
        if (!lines.empty()) text += std::string(name) + ":\n" + lines;
    };
    add("sources", differences(wanted.sources, found.sources));
    add("tunnels", differences(wanted.tunnels, found.tunnels));
    add("fdb", differences(wanted.fdb, found.fdb));
    add("arp", differences(wanted.arp, found.arp));
    add("fip_in", differences(wanted.fip_in, found.fip_in));
    add("vms", differences(wanted.vms, found.vms));
    add("senders", differences(wanted.senders, found.senders));
    add("dests", differences(wanted.dests, found.dests));
    add("routes", differences(wanted.routes, found.routes));
    return text;
}

/// The domain of a VM that must have a row.
inline std::uint32_t domain_of(const Compiled& compiled, int port, const char* fixed) {
    const auto row = compiled.tables.vms.find(vm_key(port, fixed));
    if (row == compiled.tables.vms.end()) throw std::invalid_argument(std::string("no row for ") + fixed);
    return row->second.domain;
}

inline const FipReport& report_of(const Compiled& compiled, std::string_view fip) {
    for (const FipReport& report : compiled.fips) {
        if (report.fip == ip(fip)) return report;
    }
    throw std::invalid_argument("no report for " + std::string(fip));
}

}  // namespace fiplane::test
