// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "fuzz/generator.hpp"

namespace fiplane::test {
namespace {

/// Who talks to whom, at the first router or inside one segment.
struct Flow {
    std::uint32_t segment;
    Mac dmac;
    Mac smac;
    Ipv4 src;
    Ipv4 dst;
};

using Packets = std::vector<Packet>;

void add_icmp_errors(Packets& out, const Ip4& ip4) {
    const Ip4 quoted{.src = ip4.dst, .dst = ip4.src, .ttl = 1};
    const Packets causes = {quoted / Udp{} / Payload("lost"),
                            quoted / Udp{.checksum = 0} / Payload("lost"),
                            quoted / Tcp{} / Payload("lost"),
                            quoted / Icmp{} / Payload("lost"),
                            quoted / Icmp{.type = 3} / Payload::counting(28),
                            Ip4{.src = ip4.dst, .dst = ip4.src, .protocol = 136} / Payload::counting(16),
                            Ip4{.src = ip4.src, .dst = ip4.dst} / Udp{}};
    for (const Packet& cause : causes) {
        for (const std::uint8_t type : {std::uint8_t{3}, std::uint8_t{11}}) {
            out.push_back(ip4 / Icmp{.type = type, .rest = 0} / quote(cause, 48));
            out.push_back(ip4 / Icmp{.type = type, .rest = 0} / quote(cause, 28));
        }
    }
    out.push_back(ip4 / Icmp{.type = 4, .rest = 0} / quote(causes[0], 28));
    out.push_back(ip4 / Icmp{.type = 12, .rest = 0} / quote(causes[2], 44));
    out.push_back(ip4 / Icmp{.type = 5, .rest = 0} / quote(causes[0], 28));
}

/// Every kind of IPv4 packet from one address to another.
Packets ipv4_packets(Ipv4 src, Ipv4 dst) {
    Ip4 ip4{.src = src, .dst = dst};
    Packets out = {ip4 / Udp{} / Payload("query"),
                   ip4 / Udp{} / Payload(""),
                   ip4 / Udp{.checksum = 0} / Payload("query"),
                   ip4 / Udp{.checksum = 0x1234} / Payload("query"),
                   ip4 / Udp{} / Payload::counting(1422),
                   ip4 / Udp{} / Payload::counting(1423),
                   ip4 / Udp{} / Payload::counting(580),
                   ip4 / Tcp{} / Payload("GET /"),
                   ip4 / Tcp{.flags = 0x10} / Payload::counting(1410),
                   ip4 / Tcp{.checksum = 0x4321} / Payload("GET /"),
                   ip4 / Icmp{} / Payload("ping"),
                   ip4 / Icmp{.type = 0} / Payload("pong"),
                   ip4 / Payload::counting(40)};
    add_icmp_errors(out, ip4);
    ip4.more_fragments = true;
    out.push_back(ip4 / Udp{} / Payload::counting(64));
    out.push_back(ip4 / Tcp{} / Payload::counting(60));
    ip4.more_fragments = false;
    ip4.fragment_offset = 9;
    ip4.protocol = 17;
    out.push_back(ip4 / Payload::counting(30));
    ip4 = {.src = src, .dst = dst, .tos = 3};
    out.push_back(ip4 / Udp{} / Payload("congested"));
    for (const std::uint8_t flags : {std::uint8_t{0x12}, std::uint8_t{0x11}, std::uint8_t{0x04}})
        out.push_back(Ip4{.src = src, .dst = dst} / Tcp{.flags = flags});
    for (const std::uint8_t ttl : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{3}, std::uint8_t{4}})
        out.push_back(Ip4{.src = src, .dst = dst, .ttl = ttl} / Udp{});
    out.push_back(Ip4{.src = src, .dst = dst, .ttl = 1} / Tcp{.flags = 0x10});
    out.push_back(Ip4{.src = src, .dst = dst, .ttl = 1} / Tcp{.flags = 0x11});
    for (const std::uint8_t protocol : {std::uint8_t{33}, std::uint8_t{47}, std::uint8_t{132}, std::uint8_t{136}}) {
        for (const std::size_t size : {std::size_t{24}, std::size_t{7}})
            out.push_back(Ip4{.src = src, .dst = dst, .protocol = protocol} / Payload::counting(size));
    }
    out.push_back(Ip4{.src = src, .dst = dst, .options = {1, 1, 1, 0}} / Udp{});
    return out;
}

class Maker {
  public:
    Maker(const Cloud& cloud, fl_hook hook) : cloud_(cloud), hook_(hook) {}

    std::vector<Template> make() {
        if (hook_ == FL_HOOK_TC_ROUTER) return make_followed();
        traffic_ = Traffic::kOutside;
        outside();
        traffic_ = Traffic::kToRouter;
        for (const VmRow& row : cloud_.vms)
            to_router(row);
        for (const SenderRow& row : cloud_.senders)
            through_router(row);
        traffic_ = Traffic::kInSegment;
        for (const CloudPort& port : cloud_.ports)
            in_segment(port);
        traffic_ = Traffic::kArp;
        for (const CloudSegment& segment : cloud_.segments)
            questions(segment);
        return std::move(out_);
    }

  private:
    /// What comes in by ports of routers that somebody else has built, and what is on its way between them.
    std::vector<Template> make_followed() {
        const Mac stranger = mac("fa:16:3e:00:10:fe");
        traffic_ = Traffic::kOutside;
        for (const FipInRow& row : cloud_.fip_in) {
            for (const char* from : {"172.24.6.254", "203.0.113.7"})
                add_flow({row.segment, row.router_mac, stranger, ip(from), row.fip}, nullptr);
        }
        traffic_ = Traffic::kToRouter;
        for (const VmRow& row : cloud_.vms)
            to_router(row);
        traffic_ = Traffic::kArp;
        const Mac everybody{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
        for (const ArpRow& row : cloud_.arp) {
            const Arp arp{.sender_mac = stranger, .sender_ip = ip("172.24.6.254"), .target_ip = row.ip};
            add(row.segment, nullptr, Eth{.dst = everybody, .src = stranger} / arp);
            add(row.segment, nullptr, Eth{.dst = row.mac, .src = stranger} / arp / Payload(Bytes(18)));
        }
        traffic_ = Traffic::kCrossing;
        const Packet packet = Eth{} / Ip4{} / Udp{};
        for (const CrossingRow& row : cloud_.crossings) {
            out_.push_back({traffic_, row.veth, packet.bytes(), row.target});
            out_.push_back({traffic_, row.veth, packet.bytes()});
        }
        return std::move(out_);
    }

    /// A frame of a segment, as this hook sees it; `from` is the port of a frame that one sends.
    void add(std::uint32_t segment, const CloudPort* from, const Packet& packet) {
        const CloudSegment* where = cloud_.segment(segment);
        switch (hook_) {
            case FL_HOOK_TC_PORT:
                if (from != nullptr) out_.push_back({traffic_, from->ifindex, packet.bytes()});
                return;
            case FL_HOOK_TC_ROUTER:
                out_.push_back({traffic_, segment, packet.bytes()});
                return;
            case FL_HOOK_TC_HOST:
                out_.push_back({traffic_, where->bridge, packet.bytes()});
                return;
            case FL_HOOK_TC_TUNNEL:
                for (const std::uint32_t device : cloud_.devices(hook_)) {
                    if (cloud_.tunnel_of_device(device)->segment == segment)
                        out_.push_back({traffic_, device, packet.bytes()});
                }
                return;
            default:
                for (const CloudTunnel& tunnel : cloud_.tunnels) {
                    if (tunnel.segment == segment)
                        out_.push_back({traffic_, kUnderlayDevice, tunnel_packet(tunnel, packet)});
                }
        }
    }

    [[nodiscard]] Bytes tunnel_packet(const CloudTunnel& tunnel, const Packet& inner) const {
        const Packet outer = Eth{.dst = cloud_.underlay_mac, .src = cloud_.peer(tunnel.peer)->underlay_mac} /
                             Ip4{.src = tunnel.peer, .dst = cloud_.vtep};
        switch (tunnel.type) {
            case FL_TUNNEL_GRE:
                return (outer / Gre{.key = tunnel.id} / inner).bytes();
            case FL_TUNNEL_GENEVE:
                return (outer / Udp{.src = 50123, .dst = kGenevePort, .checksum = 0} / Geneve{.vni = tunnel.id} / inner)
                    .bytes();
            default:
                return (outer / Udp{.src = 50123, .dst = kVxlanPort, .checksum = 0} / Vxlan{.vni = tunnel.id} / inner)
                    .bytes();
        }
    }

    void add_flow(const Flow& flow, const CloudPort* from) {
        for (const Packet& packet : ipv4_packets(flow.src, flow.dst))
            add(flow.segment, from, Eth{.dst = flow.dmac, .src = flow.smac} / packet);
        const Eth eth{.dst = flow.dmac, .src = flow.smac};
        add(flow.segment, from, eth / Ip6{} / Udp{.checksum = 0x1111} / Payload("six"));
        add(flow.segment, from, eth / Payload::counting(46));
        add(flow.segment, from, eth / Vlan{.id = 5} / Ip4{.src = flow.src, .dst = flow.dst} / Udp{});
    }

    /// From the external network to each floating IP, and to the host.
    void outside() {
        const std::uint32_t external = cloud_.fip_in.front().segment;
        const FdbRow& client = *std::ranges::find_if(cloud_.fdb, [external](const FdbRow& row) {
            return row.segment == external && row.exit.kind == FL_OUT_TUNNEL;
        });
        for (const FipInRow& row : cloud_.fip_in)
            add_flow({external, row.router_mac, client.mac, ip("172.24.4.2"), row.fip}, nullptr);
        for (const FdbRow& row : cloud_.fdb) {
            if (row.segment == external)
                add_flow({external, row.mac, client.mac, ip("172.24.4.2"), ip("172.24.4.1")}, nullptr);
        }
    }

    /// From a VM, here or behind a tunnel or a router's port, to all that its router knows.
    void to_router(const VmRow& row) {
        const CloudPort* port = cloud_.port(row.port);
        const std::uint32_t segment = hook_ == FL_HOOK_TC_ROUTER ? row.port
                                      : port != nullptr          ? port->segment
                                                                 : cloud_.tunnel_of_device(row.port)->segment;
        for (const DestRow& dest : cloud_.dests) {
            const Ipv4 to{dest.prefix.address.value | (dest.prefix.length == 32 ? 0U : 9U)};
            if (dest.domain == row.domain) add_flow({segment, row.router_mac, row.vm_mac, row.fixed, to}, port);
        }
        add_flow({segment, row.router_mac, row.vm_mac, row.fixed, ip("192.0.2.77")}, port);
    }

    /// From behind another router of the segment, to all that the router knows.
    void through_router(const SenderRow& row) {
        const Ipv4 from{row.sources.address.value | (row.sources.length == 32 ? 0U : 7U)};
        const FdbRow& neighbour = *std::ranges::find_if(cloud_.fdb, [&row](const FdbRow& each) {
            return each.segment == row.segment && each.exit.kind == FL_OUT_TUNNEL;
        });
        for (const DestRow& dest : cloud_.dests) {
            const Ipv4 to{dest.prefix.address.value | (dest.prefix.length == 32 ? 0U : 9U)};
            if (row.domain == 0 || dest.domain == row.domain)
                add_flow({row.segment, row.router_mac, neighbour.mac, from, to}, nullptr);
        }
    }

    /// From a VM to every MAC of its segment, and from another VM to it.
    void in_segment(const CloudPort& port) {
        for (const FdbRow& row : cloud_.fdb) {
            if (row.segment == port.segment)
                add_flow({port.segment, row.mac, port.mac, port.ip, ip("10.1.0.8")}, &port);
        }
        if (hook_ != FL_HOOK_TC_PORT)
            add_flow({port.segment, port.mac, mac("fa:16:3e:00:01:08"), ip("10.1.0.8"), port.ip}, nullptr);
    }

    void questions(const CloudSegment& segment) {
        const Mac everybody{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
        for (const ArpRow& row : cloud_.arp) {
            if (row.segment != segment.bridge) continue;
            const auto ask = [&](const Mac& to, const Mac& who, Ipv4 address, const CloudPort* from) {
                const Arp arp{.sender_mac = who, .sender_ip = address, .target_ip = row.ip};
                add(segment.bridge, from, Eth{.dst = to, .src = who} / arp);
                add(segment.bridge, from, Eth{.dst = to, .src = who} / arp / Payload(Bytes(18)));
                Arp reply = arp;
                reply.operation = 2;
                add(segment.bridge, from, Eth{.dst = to, .src = who} / reply);
            };
            for (const CloudPort& port : cloud_.ports) {
                if (port.segment != segment.bridge) continue;
                ask(everybody, port.mac, port.ip, &port);
                ask(row.mac, port.mac, port.ip, &port);
                ask(everybody, port.mac, {}, &port);
            }
            ask(everybody, mac("fa:16:3e:00:00:c2"), ip("172.24.4.2"), nullptr);
            ask(row.mac, mac("fa:16:3e:00:00:c2"), ip("172.24.4.2"), nullptr);
        }
    }

    const Cloud& cloud_;
    fl_hook hook_;
    Traffic traffic_{};
    std::vector<Template> out_;
};

}  // namespace

std::vector<Template> make_templates(const Cloud& cloud, fl_hook hook) {
    return Maker(cloud, hook).make();
}

}  // namespace fiplane::test
