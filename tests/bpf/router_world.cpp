// SPDX-License-Identifier: Apache-2.0
#include "bpf/router_world.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <stdexcept>

#include "linux/clock.hpp"

namespace fiplane::test {
namespace {

NetnsGuard enter(const ScratchNetns& scratch) {
    auto guard = NetnsGuard::enter(scratch.netns());
    if (!guard) throw std::runtime_error(guard.error().message());
    return std::move(*guard);
}

}  // namespace

RouterWorld::RouterWorld() : inside(enter(scratch)) {
    vouch(1000);
    set_port(kGatewayPort);
    set_port(kRouterPort);
    set_arp(kGatewayPort, fip, fg_mac);
    set_in(in_across());
    set_host(fixed, fip);
    set_dest(client, out_across());
}

void RouterWorld::vouch(std::int32_t seconds) {
    auto config = programs.get<fl_config>("fl_config", std::uint32_t{0}).value();
    config.lease_end = monotonic_seconds() + static_cast<std::uint32_t>(seconds);
    programs.put("fl_config", std::uint32_t{0}, config);
}

void RouterWorld::set_port(std::uint32_t device, fl_role role) {
    put_source(device, role, device, 0, namespace_of(device));
}

void RouterWorld::set_in(const fl_next& next, std::int32_t netnsid) {
    set_in_of(fip, next, netnsid);
}

void RouterWorld::set_in_of(Ipv4 address, const fl_next& next, std::int32_t netnsid) {
    fl_fip_key key{.segment = kGatewayPort, .fip = {}};
    std::ranges::copy(address.bytes(), key.fip);
    fl_fip_in row{.router_mac = {}, .pad = {}, .next = next, .netnsid = netnsid};
    std::ranges::copy(fg_mac.bytes, row.router_mac);
    row.next.router = kTranslator;
    programs.put("fl_fip_in", key, row);
}

void RouterWorld::except(Ipv4 source) {
    fl_next in = in_across();
    in.flags |= FL_NEXT_EXCEPT;
    set_in(in);
    set_senders(kGatewayPort, fg_mac, {source, 32}, 0);
}

void RouterWorld::set_host(Ipv4 from, Ipv4 becomes, std::uint32_t domain, std::uint32_t port) {
    fl_vm_key key{.port = port, .fixed = {}, .router_mac = {}, .pad = {}};
    std::ranges::copy(from.bytes(), key.fixed);
    std::ranges::copy(qr_mac.bytes, key.router_mac);
    fl_vm row{.mac = {}, .pad = {}, .fip = {}, .domain = domain};
    std::ranges::copy(becomes.bytes(), row.fip);
    programs.put("fl_vms", key, row);
}

fl_out RouterWorld::across(std::uint32_t target) const {
    fl_out out = port_out(kVethDevice, FL_OUT_CROSS);
    out.port = target;
    return out;
}

fl_out RouterWorld::here(std::uint32_t ifindex) const {
    fl_out out = port_out(ifindex);
    out.port = ifindex == kRouterDevice ? kRouterPort : kGatewayPort;
    return out;
}

fl_next RouterWorld::in_across() const {
    fl_next next = next_to_vm();
    next.out = across(kRouterPort);
    return next;
}

fl_next RouterWorld::out_across() const {
    fl_next next = next_to_client();
    next.out = across(kGatewayPort);
    return next;
}

fl_next RouterWorld::next_to_neighbour() const {
    fl_next next = next_to_vm();
    std::ranges::fill(next.dnat, 0);
    next.hops = 1;
    std::ranges::copy(neighbour_mac.bytes, next.dmac);
    next.out = here(kRouterDevice);
    return next;
}

fl_next RouterWorld::hairpin() const {
    fl_next next = next_to_neighbour();
    next.flags = FL_NEXT_SNAT | FL_NEXT_HAIRPIN;
    std::ranges::copy(neighbour.bytes(), next.dnat);
    next.router = kTranslator;
    return next;
}

void RouterWorld::set_translated(Ipv4 floating, Ipv4 to) {
    fl_translated_key key{.router = kTranslator, .fip = {}};
    std::ranges::copy(floating.bytes(), key.fip);
    if (to.is_unset()) return programs.erase("fl_translated", key);
    fl_translated row{};
    std::ranges::copy(to.bytes(), row.fixed);
    programs.put("fl_translated", key, row);
}

void RouterWorld::set_turn(fl_next turn, std::uint32_t port) {
    constexpr std::uint32_t kNeighbourDomain = 8;
    turn.out.port = port;
    turn.router = namespace_of(port);
    set_dest(neighbour_fip, turn);
    set_host(neighbour, neighbour_fip, kNeighbourDomain, port);
    set_translated(neighbour_fip, neighbour);
    fl_next back = hairpin();
    std::ranges::copy(fixed.bytes(), back.dnat);
    std::ranges::copy(vm_mac.bytes, back.dmac);
    fl_dest_key to_fip{.domain = kNeighbourDomain, .ip = {}};
    std::ranges::copy(fip.bytes(), to_fip.ip);
    programs.put("fl_dests", to_fip, back);
}

RunResult RouterWorld::run(std::uint32_t device, const Packet& packet, std::uint32_t mark) {
    return programs.run(FL_HOOK_TC_ROUTER, packet.bytes(), {.device = device, .mark = mark});
}

void RouterWorld::left(std::uint32_t device, const Packet& packet, fl_reason reason, std::uint32_t mark) {
    const RunResult result = run(device, packet, mark);
    check_left(FL_HOOK_TC_ROUTER, result, reason, packet.bytes());
    CHECK(result.mark == mark);
}

void RouterWorld::given_back(std::uint32_t device, const Packet& packet, fl_reason reason, std::size_t rows) {
    const RunOptions options{.device = device, .once = true};
    check_left(FL_HOOK_TC_ROUTER, programs.run(FL_HOOK_TC_ROUTER, packet.bytes(), options), reason, packet.bytes());
    CHECK(flows() == rows);
}

fl_flow_key RouterWorld::flow_key(std::uint8_t protocol, std::uint16_t inside_port, std::uint16_t outside_port) const {
    fl_flow_key key{.router = kTranslator,
                    .protocol = protocol,
                    .pad = {},
                    .inside = {},
                    .outside = {},
                    .inside_port = inside_port,
                    .outside_port = outside_port};
    std::ranges::copy(fixed.bytes(), key.inside);
    std::ranges::copy(client.bytes(), key.outside);
    return key;
}

std::optional<fl_flow> RouterWorld::flow(const fl_flow_key& key) const {
    return programs.get<fl_flow>("fl_flows", key);
}

void RouterWorld::remember(const fl_flow_key& key, Ipv4 outside_address, Ipv4 dnat) {
    fl_flow row{.fip = {}, .dnat = {}, .flags = FL_FLOW_FROM_INSIDE, .last_use = 1};
    std::ranges::copy(outside_address.bytes(), row.fip);
    std::ranges::copy(dnat.bytes(), row.dnat);
    programs.put("fl_flows", key, row);
}

}  // namespace fiplane::test
