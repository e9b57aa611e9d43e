// SPDX-License-Identifier: Apache-2.0
#include "fuzz/cloud.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "support/packet.hpp"
#include "support/run_process.hpp"

namespace fiplane::test {
namespace {

constexpr std::uint32_t kEx = 10;
constexpr std::uint32_t kA = 20;
constexpr std::uint32_t kB = 30;
constexpr std::uint32_t kA2 = 40;
constexpr std::uint32_t kDomainA = 7;
constexpr std::uint32_t kDomainB = 8;
constexpr std::uint32_t kDomainTransit = 11;  // of who comes to B's router from outside, for fixed addresses
constexpr std::uint32_t kDomainFixed = 9;     // of VMs without a floating IP, and of a router that has none
constexpr std::uint32_t kMtu = 1450;
constexpr std::uint32_t kNarrowMtu = 600;

const Ipv4 kPeer2 = ip("10.0.0.2");
const Ipv4 kPeer3 = ip("10.0.0.3");
const Mac kFg = mac("fa:16:3e:00:00:f9");
const Mac kQg = mac("fa:16:3e:00:00:f8");
const Mac kBrEx = mac("fa:16:3e:00:00:e1");
const Mac kClient = mac("fa:16:3e:00:00:c2");
const Mac kGateway = mac("fa:16:3e:00:00:fe");
const Mac kQrA = mac("fa:16:3e:00:00:01");
const Mac kQrA2 = mac("fa:16:3e:00:00:02");
const Mac kQrA3 = mac("fa:16:3e:00:00:03");  // a second router of tenant A's network
const Mac kQrB = mac("fa:16:3e:00:00:01");   // the same as tenant A's: nothing forbids it
const Mac kVm5 = mac("fa:16:3e:00:01:05");
const Mac kVm6 = mac("fa:16:3e:00:01:06");
const Mac kVm7 = mac("fa:16:3e:00:01:07");
const Mac kVm8 = mac("fa:16:3e:00:01:08");
const Mac kVm9 = mac("fa:16:3e:00:01:09");
const Mac kVm2006 = mac("fa:16:3e:00:02:06");
const Mac kVm2009 = mac("fa:16:3e:00:02:09");

Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

}  // namespace

Cloud::Cloud(Kind kind) : vtep(ip("10.0.0.1")), underlay_mac(mac("02:00:00:00:00:01")) {
    if (kind == Kind::kRouters) {
        add_routers();
        return;
    }
    segments = {{"ex", kEx, kNobody}, {"a", kA, 1}, {"a-2", kA2, 1}, {"b", kB, 2}};
    peers = {{kPeer2, mac("02:00:00:00:00:02")}, {kPeer3, mac("02:00:00:00:00:03")}};
    tunnels = {
        {FL_TUNNEL_VXLAN, 1001, kPeer2, kEx, 60, false, true}, {FL_TUNNEL_VXLAN, 1002, kPeer3, kEx, 61, false, true},
        {FL_TUNNEL_VXLAN, 2001, kPeer2, kA, 70, false, true},  {FL_TUNNEL_VXLAN, 2001, kPeer3, kA, 70, false, true},
        {FL_TUNNEL_GRE, 2002, kPeer2, kA2, 90, true, false},   {FL_TUNNEL_GRE, 2002, kPeer3, kA2, 91, true, false},
        {FL_TUNNEL_GENEVE, 3001, kPeer2, kB, 80, false, false}};
    ports = {{"a1", 101, kA, kVm5, ip("10.1.0.5"), true, FL_OUT_PEER},
             {"a2", 102, kA, kVm6, ip("10.1.0.6"), true, FL_OUT_XDP},
             {"a3", 103, kA, kVm7, ip("10.1.0.7"), false, 0},
             {"a4", 104, kA2, kVm2009, ip("10.2.0.9"), true, 0},
             {"b1", 111, kB, kVm5, ip("10.1.0.5"), true, FL_OUT_XDP},
             {"b2", 112, kB, kVm6, ip("10.1.0.6"), true, FL_OUT_PEER}};
    add_segment_rows();
    add_journeys();
}

Exit Cloud::to_port(const std::string& name) const {
    const CloudPort& target = port(name);
    return {.kind = FL_OUT_PORT, .ifindex = target.ifindex, .flags = target.flags, .mtu = kMtu};
}

Exit Cloud::to_tunnel(std::uint32_t segment, Ipv4 peer) const {
    const auto found = std::ranges::find_if(
        tunnels, [&](const CloudTunnel& each) { return each.segment == segment && each.peer == peer; });
    if (found == tunnels.end()) throw std::logic_error("no tunnel to " + peer.str());
    return {.kind = FL_OUT_TUNNEL, .ifindex = kUnderlayDevice, .mtu = kMtu, .tunnel = &*found};
}

void Cloud::add_segment_rows() {
    const Exit router{.kind = FL_OUT_ROUTER};
    for (const CloudPort& each : ports)
        fdb.push_back({each.segment, each.mac, to_port(each.name)});
    fdb.insert(fdb.end(), {{kEx, kBrEx, {.kind = FL_OUT_HOST, .ifindex = kEx, .mtu = kMtu}},
                           {kEx, kClient, to_tunnel(kEx, kPeer2)},
                           {kEx, kGateway, to_tunnel(kEx, kPeer3)},
                           {kEx, kFg, router},
                           {kEx, kQg, router},
                           {kA, kVm8, to_tunnel(kA, kPeer2)},
                           {kA, kVm9, to_tunnel(kA, kPeer3)},
                           {kA, kQrA, router},
                           {kA, kQrA3, router},
                           {kA2, kVm2006, to_tunnel(kA2, kPeer3)},
                           {kA2, kQrA2, router},
                           {kB, kVm8, to_tunnel(kB, kPeer2)},
                           {kB, kQrB, router}});
    arp = {{kEx, ip("172.24.5.11"), kFg},       {kEx, ip("172.24.5.12"), kFg}, {kEx, ip("172.24.5.21"), kQg},
           {kEx, ip("172.24.5.22"), kQg},       {kEx, ip("172.24.5.29"), kQg}, {kA, ip("10.1.0.8"), kVm8},
           {kA, ip("10.1.0.9"), kVm9},          {kB, ip("10.1.0.8"), kVm8},    {kA, ip("10.1.0.1"), kQrA, false},
           {kA2, ip("10.2.0.1"), kQrA2, false}, {kB, ip("10.1.0.1"), kQrB}};
}

void Cloud::add_journeys() {
    const auto deliver = [this](const char* to, const Mac& router, std::uint32_t hops) {
        const CloudPort& vm = port(to);
        return Journey{.dmac = vm.mac, .smac = router, .dnat = vm.ip, .hops = hops, .mtu = kMtu, .exit = to_port(to)};
    };
    const auto turn = [](Journey journey, std::uint32_t hops) {
        journey.hops = hops;
        journey.snat = journey.hairpin = true;
        return journey;
    };
    const auto leave = [](const Mac& to, const Mac& router, std::uint32_t hops, const Exit& exit) {
        return Journey{.dmac = to, .smac = router, .hops = hops, .mtu = kMtu, .snat = true, .exit = exit};
    };
    const auto untranslated = [](Journey journey) {
        journey.dnat = {};
        return journey;
    };
    const Journey to_a1 = deliver("a1", kQrA, 2);
    const Journey to_a2 = deliver("a2", kQrA, 2);
    const Journey to_b1 = deliver("b1", kQrB, 1);
    const Journey to_b2 = deliver("b2", kQrB, 1);
    const Journey to_b8{
        .dmac = kVm8, .smac = kQrB, .dnat = ip("10.1.0.8"), .hops = 1, .mtu = kMtu, .exit = to_tunnel(kB, kPeer2)};
    fip_in = {{kEx, ip("172.24.5.11"), kFg, to_a1},
              {kEx, ip("172.24.5.12"), kFg, to_a2},
              {kEx, ip("172.24.5.21"), kQg, to_b1},
              {kEx, ip("172.24.5.22"), kQg, to_b2},
              {kEx, ip("172.24.5.29"), kQg, to_b8}};
    vms = {{101, ip("10.1.0.5"), kVm5, kQrA, ip("172.24.5.11"), kDomainA},
           {102, ip("10.1.0.6"), kVm6, kQrA, ip("172.24.5.12"), kDomainA},
           {111, ip("10.1.0.5"), kVm5, kQrB, ip("172.24.5.21"), kDomainB},
           {112, ip("10.1.0.6"), kVm6, kQrB, ip("172.24.5.22"), kDomainB},
           {80, ip("10.1.0.8"), kVm8, kQrB, ip("172.24.5.29"), kDomainB},
           {104, ip("10.2.0.9"), kVm2009, kQrA2, {}, kDomainFixed},
           {101, ip("10.1.0.5"), kVm5, kQrA3, {}, kDomainFixed}};

    senders = {{kA, kQrA3, prefix("10.9.0.0/16"), kDomainFixed},
               {kA, kQrA3, prefix("10.9.3.0/24"), 0},
               {kEx, kQg, prefix("10.8.0.0/16"), kDomainTransit},
               {kEx, kQg, prefix("10.8.0.9/32"), 0}};

    const Journey host = leave(kBrEx, kFg, 2, {.kind = FL_OUT_HOST, .ifindex = kEx, .mtu = kMtu});
    const Journey stay_in_a{.dmac = kVm2009, .smac = kQrA2, .hops = 1, .mtu = kMtu, .exit = to_port("a4")};
    const auto plain = [](const Mac& to, const Exit& exit) {
        return Journey{.dmac = to, .smac = kQrA3, .hops = 1, .mtu = kMtu, .exit = exit};
    };
    const Journey narrow{.dmac = kVm2006, .smac = kQrA2, .hops = 1, .mtu = kNarrowMtu, .exit = to_tunnel(kA2, kPeer3)};
    dests = {{kDomainA, prefix("172.24.4.1/32"), host},
             {kDomainA, prefix("172.24.4.2/32"), leave(kClient, kFg, 2, to_tunnel(kEx, kPeer2))},
             {kDomainA, prefix("172.24.5.11/32"), turn(to_a1, 3)},
             {kDomainA, prefix("172.24.5.12/32"), turn(to_a2, 3)},
             {kDomainA, prefix("172.24.5.21/32"), turn(to_b1, 3)},
             {kDomainA, prefix("172.24.5.29/32"), turn(to_b8, 3)},
             {kDomainA, prefix("10.2.0.9/32"), stay_in_a},
             {kDomainA, prefix("10.2.0.6/32"), narrow},
             {kDomainA, prefix("172.24.4.0/23"), {}},
             {kDomainA, prefix("198.51.100.0/24"), {}},
             {kDomainA, prefix("0.0.0.0/0"), leave(kGateway, kFg, 2, to_tunnel(kEx, kPeer3))},
             {kDomainB, prefix("172.24.4.2/32"), leave(kClient, kQg, 1, to_tunnel(kEx, kPeer2))},
             {kDomainB, prefix("172.24.5.11/32"), turn(to_a1, 3)},
             {kDomainB, prefix("172.24.5.21/32"), turn(to_b1, 1)},
             {kDomainB, prefix("172.24.5.22/32"), turn(to_b2, 1)},
             {kDomainB, prefix("172.24.5.29/32"), turn(to_b8, 1)},
             {kDomainB, prefix("203.0.113.0/24"), leave(kGateway, kQg, 1, to_tunnel(kEx, kPeer3))},
             {kDomainFixed, prefix("10.1.0.6/32"), plain(kVm6, to_port("a2"))},
             {kDomainFixed, prefix("10.2.0.9/32"), stay_in_a},
             {kDomainFixed, prefix("10.3.0.0/16"), plain(kVm8, to_tunnel(kA, kPeer2))},
             {kDomainFixed, prefix("10.3.7.0/24"), {}},
             {kDomainTransit, prefix("10.1.0.5/32"), untranslated(to_b1)},
             {kDomainTransit, prefix("10.1.0.8/32"), untranslated(to_b8)}};
}

const CloudSegment* Cloud::segment(std::uint32_t bridge) const {
    const auto found = std::ranges::find(segments, bridge, &CloudSegment::bridge);
    return found == segments.end() ? nullptr : &*found;
}

const CloudTunnel* Cloud::tunnel(fl_tunnel_type type, std::uint32_t id, Ipv4 peer) const {
    const auto found = std::ranges::find_if(
        tunnels, [&](const CloudTunnel& each) { return each.type == type && each.id == id && each.peer == peer; });
    return found == tunnels.end() ? nullptr : &*found;
}

const CloudTunnel* Cloud::tunnel_of_device(std::uint32_t ifindex) const {
    const auto found = std::ranges::find(tunnels, ifindex, &CloudTunnel::device);
    return found == tunnels.end() ? nullptr : &*found;
}

bool Cloud::is_routed(std::uint32_t device) const {
    return std::ranges::find(vms, device, &VmRow::port) != vms.end();
}

const CloudPort* Cloud::port(std::uint32_t ifindex) const {
    const auto found = std::ranges::find(ports, ifindex, &CloudPort::ifindex);
    return found == ports.end() ? nullptr : &*found;
}

const CloudPort& Cloud::port(const std::string& name) const {
    const auto found = std::ranges::find_if(ports, [&name](const CloudPort& each) { return name == each.name; });
    if (found == ports.end()) throw std::logic_error("no port " + name);
    return *found;
}

const CloudPeer* Cloud::peer(Ipv4 address) const {
    const auto found = std::ranges::find(peers, address, &CloudPeer::vtep);
    return found == peers.end() ? nullptr : &*found;
}

const RouterPort* Cloud::router_port(std::uint32_t number) const {
    const auto found =
        std::ranges::find(router_ports, number, [](const RouterPort& each) { return each.segment.bridge; });
    return found == router_ports.end() ? nullptr : &*found;
}

const RouterPort* Cloud::router_port_of_device(std::uint32_t ifindex) const {
    const auto found = std::ranges::find(router_ports, ifindex, &RouterPort::ifindex);
    return found == router_ports.end() ? nullptr : &*found;
}

std::vector<std::uint32_t> Cloud::devices(fl_hook hook) const {
    std::vector<std::uint32_t> out;
    if (hook == FL_HOOK_TC_PORT) {
        for (const CloudPort& each : ports)
            out.push_back(each.ifindex);
    } else if (hook == FL_HOOK_TC_HOST) {
        for (const CloudSegment& each : segments)
            out.push_back(each.bridge);
    } else if (hook == FL_HOOK_TC_TUNNEL) {
        for (const CloudTunnel& each : tunnels) {
            if (out.empty() || out.back() != each.device) out.push_back(each.device);
        }
    } else if (hook == FL_HOOK_TC_ROUTER) {
        for (const RouterPort& each : router_ports)
            out.push_back(each.segment.bridge);
        for (const CrossingRow& each : crossings)
            out.push_back(each.veth);
    } else {
        out.push_back(kUnderlayDevice);
    }
    return out;
}

void Cloud::make_devices() const {
    const auto make = [](std::uint32_t ifindex, const std::string& name) {
        const ProcessResult result =
            run_process({"ip", "link", "add", name, "index", std::to_string(ifindex), "type", "bridge"});
        if (result.exit_status != 0) throw std::runtime_error("cannot make " + name + ": " + result.err);
    };
    for (const CloudSegment& each : segments)
        make(each.bridge, fmt::format("br-{}", each.name));
    for (const std::uint32_t device : devices(FL_HOOK_TC_TUNNEL))
        make(device, fmt::format("tunnel-{}", device));
    for (const CloudPort& each : ports)
        make(each.ifindex, each.name);
    for (const RouterPort& each : router_ports)
        make(each.ifindex, each.segment.name);
}

}  // namespace fiplane::test
