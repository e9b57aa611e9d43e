// SPDX-License-Identifier: Apache-2.0
#include "bpf/world.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstring>

#include "core/reasons.hpp"
#include "support/frame_diff.hpp"

namespace fiplane::test {
namespace {

void copy(const Mac& from, __u8 (&to)[6]) {
    std::copy(from.bytes.begin(), from.bytes.end(), to);
}

void copy(Ipv4 from, __u8 (&to)[4]) {
    const auto bytes = from.bytes();
    std::copy(bytes.begin(), bytes.end(), to);
}

Ip4 between(Ip4 fields, Ipv4 src, Ipv4 dst, std::uint8_t hops) {
    fields.src = src;
    fields.dst = dst;
    fields.ttl = static_cast<std::uint8_t>(fields.ttl - hops);
    return fields;
}

}  // namespace

World::World(fl_tunnel_type type) : tunnel(type) {
    programs.clear();
    fl_config config{.layout = FL_ABI_LAYOUT,
                     .vtep = {},
                     .vxlan_port = 4789,
                     .geneve_port = 6081,
                     .gre = 1,
                     .pad = {},
                     .lease_end = 0};
    copy_bytes(config.vtep, end(vtep));
    programs.put("fl_config", std::uint32_t{0}, config);
    for (const auto& [vni, segment] : {std::pair{kExternalVni, kExternal}, {kTenantVni, kTenant}}) {
        const fl_tunnel row = tunnel_row(segment, tunnel_device(segment));
        put_tunnel(vni, peer_vtep, row);
    }
    set_fdb(kTenant, vm_mac, port_out(kVmPort));
    set_fdb(kTenant, remote_mac, tunnel_out(kTenantVni));
    set_fdb(kTenant, qr_mac, router_out());
    set_fdb(kExternal, client_mac, tunnel_out(kExternalVni));
    set_fdb(kExternal, fg_mac, router_out());
    set_arp(kExternal, fip, fg_mac);
    set_arp(kTenant, remote, remote_mac);

    set_fip_in(next_to_vm());
    set_vm(kThisDevice, fixed, vm_mac, fip);
    set_dest(client, next_to_client());
    programs.put_fip_stat_row(fip_stat_key(fip));
    programs.put_fip_stat_row(fip_stat_key(neighbour_fip));
}

fl_source source_row(fl_role role, std::uint32_t segment, std::uint32_t port, std::uint32_t flags,
                     std::uint32_t router) {
    return {.role = role,
            .segment = segment,
            .mac = {},
            .pad = {},
            .ip = {},
            .flags = flags,
            .port = port,
            .router = router};
}

void World::put_source(std::uint32_t device, fl_role role, std::uint32_t segment, std::uint32_t flags,
                       std::uint32_t router) {
    programs.put("fl_sources", fl_source_key{.ifindex = device, .vlan = 0, .pad = {}},
                 source_row(role, segment, device, flags, router));
}

void World::put_port(std::uint32_t flags) {
    fl_source source = source_row(FL_ROLE_PORT, kTenant, kThisDevice, flags);
    copy(vm_mac, source.mac);
    copy(fixed, source.ip);
    programs.put("fl_sources", fl_source_key{.ifindex = kThisDevice, .vlan = 0, .pad = {}}, source);
}

void World::on_external_port() {
    put_source(kThisDevice, FL_ROLE_PORT, kExternal);
}

void World::on_port() {
    put_port(FL_SRC_CHECK);
}

void World::on_unchecked_port() {
    put_port(0);
}

void World::on_learning_port() {
    put_port(FL_SRC_LEARNS);
}

void World::on_tunnel(std::uint32_t segment, std::uint32_t flags) {
    put_source(kThisDevice, FL_ROLE_TUNNEL, segment, flags);
}

fl_tunnel World::tunnel_row(std::uint32_t segment, std::uint32_t device, std::uint32_t flags) const {
    fl_tunnel row{};
    row.segment = segment;
    row.ifindex = device;
    copy(underlay_mac, row.mac);
    row.outer_len = tunnel == FL_TUNNEL_GRE ? 42 : tunnel == FL_TUNNEL_VXLAN6 ? 70 : 50;
    row.flags = flags;
    return row;
}

void World::put_tunnel(std::uint32_t vni, Ipv4 peer, const fl_tunnel& row) {
    fl_tunnel_key key{.type = tunnel, .id = vni, .peer = {}};
    copy_bytes(key.peer, end(peer));
    fl_tunnel whole = row;
    whole.type = static_cast<std::uint8_t>(tunnel);
    copy_bytes(whole.peer, end(peer));
    programs.put("fl_tunnels", key, whole);
}

void World::on_host(std::uint32_t segment) {
    put_source(kThisDevice, FL_ROLE_HOST, segment);
}

fl_out World::port_out(std::uint32_t ifindex, std::uint32_t flags) const {
    fl_out out{};
    out.kind = FL_OUT_PORT;
    out.ifindex = out.port = ifindex;
    out.flags = flags;
    out.mtu = kMtu;
    return out;
}

fl_out World::host_out() const {
    fl_out out = port_out(kExternal);
    out.kind = FL_OUT_HOST;
    return out;
}

fl_out World::router_out() const {
    fl_out out{};
    out.kind = FL_OUT_ROUTER;
    return out;
}

fl_out World::tunnel_out(std::uint32_t vni) const {
    fl_out out = port_out(kUnderlay);
    out.kind = FL_OUT_TUNNEL;
    out.port = tunnel_device(vni == kTenantVni ? kTenant : kExternal);
    out.tunnel = tunnel;
    out.tunnel_id = vni;
    copy_bytes(out.remote, end(peer_vtep));
    copy(peer_underlay_mac, out.outer_dmac);
    copy(underlay_mac, out.outer_smac);
    return out;
}

fl_next World::next_to_vm() const {
    fl_next next{};
    copy(vm_mac, next.dmac);
    copy(qr_mac, next.smac);
    copy(fixed, next.dnat);
    next.hops = 2;
    next.mtu = kMtu;
    next.out = port_out(kVmPort);
    return next;
}

fl_next World::next_to_client() const {
    fl_next next{};
    copy(client_mac, next.dmac);
    copy(fg_mac, next.smac);
    next.hops = 2;
    next.mtu = kMtu;
    next.flags = FL_NEXT_SNAT;
    next.out = tunnel_out(kExternalVni);
    return next;
}

void World::set_fip_in(const fl_next& next) {
    fl_fip_key key{.segment = kExternal, .fip = {}};
    copy(fip, key.fip);
    fl_fip_in row{.router_mac = {}, .pad = {}, .next = next, .netnsid = 0};
    copy(fg_mac, row.router_mac);
    programs.put("fl_fip_in", key, row);
}

fl_vm_key World::vm_key(std::uint32_t port, Ipv4 from) const {
    fl_vm_key key{.port = port, .fixed = {}, .router_mac = {}, .pad = {}};
    copy(from, key.fixed);
    copy(qr_mac, key.router_mac);
    return key;
}

void World::remove_vm(std::uint32_t port, Ipv4 from) {
    programs.erase("fl_vms", vm_key(port, from));
}

void World::set_vm(std::uint32_t port, Ipv4 from, const Mac& from_mac, Ipv4 becomes) {
    fl_vm row{.mac = {}, .pad = {}, .fip = {}, .domain = kDomain};
    copy(from_mac, row.mac);
    copy(becomes, row.fip);
    programs.put("fl_vms", vm_key(port, from), row);
}

void World::set_senders(std::uint32_t segment, const Mac& router, const Prefix& sources, std::uint32_t domain) {
    fl_sender_key key{};
    key.prefixlen = FL_SENDER_KEY_BITS + sources.length;
    key.segment = segment;
    copy(router, key.router_mac);
    copy(sources.address, key.ip);
    programs.put("fl_senders", key, fl_sender{.domain = domain});
}

void World::set_dest(Ipv4 address, const fl_next& next) {
    fl_dest_key key{.domain = kDomain, .ip = {}};
    copy(address, key.ip);
    programs.put("fl_dests", key, next);
}

void World::set_fdb(std::uint32_t segment, const Mac& address, const fl_out& out) {
    fl_fdb_key key{.segment = segment, .mac = {}, .pad = {}};
    copy(address, key.mac);
    programs.put("fl_fdb", key, fl_fdb{.out = out, .flags = 0, .last_use = 0});
}

std::optional<std::uint32_t> World::last_use_of(std::uint32_t segment, const Mac& address) const {
    fl_fdb_key key{.segment = segment, .mac = {}, .pad = {}};
    copy(address, key.mac);
    const auto row = programs.get<fl_fdb>("fl_fdb", key);
    return row ? std::optional(row->last_use) : std::nullopt;
}

void World::set_arp(std::uint32_t segment, Ipv4 address, const Mac& answer) {
    fl_arp_key key{.segment = segment, .ip = {}};
    copy(address, key.ip);
    fl_arp row{};
    copy(answer, row.mac);
    programs.put("fl_arp", key, row);
}

Packet World::wrapped(std::uint32_t id, const Packet& inner) const {
    switch (tunnel) {
        case FL_TUNNEL_GRE:
            return Gre{.key = id} / inner;
        case FL_TUNNEL_GENEVE:
            return Udp{.src = 51515, .dst = 6081, .checksum = 0} / Geneve{.vni = id} / inner;
        default:
            return Udp{.src = 51515, .dst = 4789, .checksum = 0} / Vxlan{.vni = id} / inner;
    }
}

IpAddress World::end(Ipv4 node) const {
    if (tunnel != FL_TUNNEL_VXLAN6) return node;
    auto bytes = IpAddress::parse("2001:db8:77::").value().bytes();
    std::ranges::copy(node.bytes(), bytes.end() - 4);
    return IpAddress::from_bytes(bytes.data());
}

Packet World::outer(Ipv4 from, Ipv4 to, std::uint8_t tos, std::uint16_t id) const {
    if (tunnel == FL_TUNNEL_VXLAN6) return Packet{Ip6{.src = end(from), .dst = end(to), .traffic_class = tos}};
    return Packet{Ip4{.src = from, .dst = to, .tos = tos, .id = id}};
}

Packet World::from_peer(std::uint32_t vni, const Packet& inner) const {
    return Eth{.dst = underlay_mac, .src = peer_underlay_mac} /
           (outer(peer_vtep, vtep, 0, 0x7777) / wrapped(vni, inner));
}

Packet World::to_peer(std::uint32_t vni, const Packet& inner, std::uint8_t tos) const {
    return Eth{.dst = peer_underlay_mac, .src = underlay_mac} / (outer(vtep, peer_vtep, tos) / wrapped(vni, inner));
}

Packet World::to_fip(const Ip4& fields) const {
    return Eth{.dst = fg_mac, .src = client_mac} / between(fields, client, fip, 0);
}

Packet World::to_vm(const Ip4& fields) const {
    return Eth{.dst = vm_mac, .src = qr_mac} / between(fields, client, fixed, 2);
}

Packet World::from_vm(const Ip4& fields) const {
    return Eth{.dst = qr_mac, .src = vm_mac} / between(fields, fixed, client, 0);
}

Packet World::from_fip(const Ip4& fields) const {
    return Eth{.dst = client_mac, .src = fg_mac} / between(fields, fip, client, 2);
}

Packet World::who_has_fip() const {
    return Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = client_mac} /
           Arp{.sender_mac = client_mac, .sender_ip = client, .target_ip = fip};
}

Packet World::fip_is_at() const {
    return Eth{.dst = client_mac, .src = fg_mac} /
           Arp{.operation = 2, .sender_mac = fg_mac, .sender_ip = fip, .target_mac = client_mac, .target_ip = client};
}

Packet World::remote_to_vm() const {
    return Eth{.dst = vm_mac, .src = remote_mac} / Ip4{.src = remote, .dst = fixed};
}

Packet World::vm_to_remote() const {
    return Eth{.dst = remote_mac, .src = vm_mac} / Ip4{.src = fixed, .dst = remote};
}

fl_fip_stat_key fip_stat_key(Ipv4 address) {
    fl_fip_stat_key key{};
    copy(address, key.fip);
    return key;
}

void check_sent(const RunResult& result, int action, fl_reason reason, const Packet& expected) {
    CHECK(reason_name(result.reason) == reason_name(reason));
    CHECK(result.action == action);
    const auto difference = frame_difference(expected.bytes(), result.frame, Freedom::kOuterPortAndId);
    if (difference) FAIL_CHECK(*difference);
}

void check_left(fl_hook hook, const RunResult& result, fl_reason reason, const Bytes& frame) {
    CHECK(reason_name(result.reason) == reason_name(reason));
    CHECK(result.action == (hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcNext));
    CHECK_FALSE(result.meta);
    const auto difference = frame_difference(frame, result.frame);
    if (difference) FAIL_CHECK("a frame that is left to Linux was changed:\n" << *difference);
}

void expect_left_at_underlay(World& world, const Packet& packet, fl_reason reason) {
    const Bytes frame = packet.bytes();
    check_left(FL_HOOK_TC_UNDERLAY, world.programs.run(FL_HOOK_TC_UNDERLAY, frame), reason, frame);
    check_left(FL_HOOK_XDP_UNDERLAY, world.programs.run(FL_HOOK_XDP_UNDERLAY, frame),
               reason == FL_REASON_NOT_OVERLAY ? FL_REASON_NOT_OVERLAY : FL_REASON_TO_TC, frame);
}

void expect_left(World& world, fl_hook hook, const Packet& packet, fl_reason reason, const RunOptions& options) {
    const Bytes frame = packet.bytes();
    if (hook == FL_HOOK_XDP_UNDERLAY) reason = FL_REASON_TO_TC;
    if (hook == FL_HOOK_TC_UNDERLAY) reason = FL_REASON_TO_TUNNEL_DEV;
    check_left(hook, world.programs.run(hook, frame, options), reason, frame);
}

}  // namespace fiplane::test
