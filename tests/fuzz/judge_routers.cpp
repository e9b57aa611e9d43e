// SPDX-License-Identifier: Apache-2.0
// Routers that somebody else has built: where a packet leaves, and whether its flow may be carried.
#include <fmt/format.h>
#include <linux/pkt_cls.h>

#include "fuzz/judge.hpp"

namespace fiplane::test {
namespace {

constexpr std::size_t kQuote = kL4 + 8;
constexpr std::size_t kTcpFlags = 13;
constexpr std::size_t kTcpChecksum = 16;
constexpr unsigned kFin = 1;
constexpr unsigned kSyn = 2;
constexpr unsigned kRst = 4;
constexpr unsigned kAck = 16;
constexpr std::uint8_t kEchoReply = 0;
constexpr std::uint8_t kEcho = 8;

bool has_hidden_flow(std::uint8_t protocol) {
    return protocol == kSctp || protocol == kDccp || protocol == kUdpLite;
}

unsigned kind_of(View tcp) {
    return tcp[kTcpFlags] & (kFin | kSyn | kRst | kAck);
}

/// What conntrack calls invalid whatever it knows. `l4` is whole.
bool is_malformed(std::uint8_t protocol, View l4) {
    if (protocol == kUdp) return read16(l4, 4) < 8 || read16(l4, 4) > l4.size();
    const std::size_t header = std::size_t{l4[12]} / 16 * 4;
    const unsigned kind = kind_of(l4);
    const bool is_one = kind == kSyn || kind == (kSyn | kAck) || kind == kAck || kind == kRst ||
                        kind == (kRst | kAck) || kind == (kFin | kAck);
    return header < 20 || header > l4.size() || !is_one;
}

}  // namespace

bool Judge::is_put_off(View a, View b) {
    if (a.size() != b.size() || a.size() < kL4 + 20 || a[14] != 0x45 || a[23] != kTcp) return false;
    const std::size_t flags = kL4 + kTcpFlags;
    if ((a[flags] & (kFin | kAck | kRst)) != (kFin | kAck) || b[flags] != (a[flags] & ~kFin)) return false;
    const auto sum = [flags](View frame) { return residue(frame[flags] + read16(frame, kL4 + kTcpChecksum)); };
    const auto same = [&](std::size_t from, std::size_t to) {
        return std::ranges::equal(a.subspan(from, to - from), b.subspan(from, to - from));
    };
    return sum(a) == sum(b) && same(0, flags) && same(flags + 1, kL4 + kTcpChecksum) &&
           same(kL4 + kTcpChecksum + 2, a.size());
}

/// What comes out of a veth, or by a device that is nobody's.
Judge::Complaint Judge::judge_between(const Input& input, const Outcome& outcome) const {
    const fl_record& record = outcome.record;
    if (input.mark < FL_FIRST_NUMBER) return "took a packet that is Linux's, between namespaces";
    const auto row = std::ranges::find_if(cloud_.crossings, [&input](const CrossingRow& each) {
        return each.veth == input.device && each.target == input.mark;
    });
    if (row == cloud_.crossings.end())
        return outcome.action == TC_ACT_SHOT && record.reason == FL_REASON_DROP_REWRITE
                   ? Complaint{}
                   : fmt::format("action {} for a packet that has no way on", outcome.action);
    if (outcome.action != TC_ACT_REDIRECT || record.reason != FL_REASON_CROSSED || record.redirects != 1)
        return fmt::format("action {} and {} redirects for a packet on its way", outcome.action, record.redirects);
    if (record.ifindex != row->ifindex || record.flags != 0 || (record.via == FL_VIA_PEER) != row->crosses_on)
        return "sent another way than across";
    if (outcome.mark != (row->crosses_on ? input.mark : 0)) return "crossed with another mark";
    return std::ranges::equal(input.frame, outcome.frame) ? Complaint{} : "changed a packet on its way";
}

Judge::Complaint Judge::find_router_exit(const Outcome& outcome) {
    const fl_record& record = outcome.record;
    if (record.redirects != 1 || record.flags != 0) return fmt::format("{} redirects", record.redirects);
    const bool crosses = record.via == FL_VIA_PEER;
    if (!crosses && outcome.mark != 0) return "sent with a mark";
    out_.router_port = crosses ? cloud_.router_port(outcome.mark) : cloud_.router_port_of_device(record.ifindex);
    if (out_.router_port == nullptr) return fmt::format("sent to device {}, which is no port", record.ifindex);
    if (crosses == (out_.router_port->netns == in_.router_port->netns))
        return "crossed within a namespace, or did not between two";
    out_.segment = &out_.router_port->segment;
    out_.exit = {
        .kind = FL_OUT_PORT, .ifindex = record.ifindex, .port = out_.router_port->segment.bridge, .crosses = crosses};
    return std::nullopt;
}

bool Judge::is_excepted(const FipInRow& row, Ipv4 source) const {
    return row.journey.excepts && std::ranges::any_of(cloud_.senders, [&](const SenderRow& each) {
               return each.segment == row.segment && each.router_mac == row.router_mac && each.sources.contains(source);
           });
}

const Journey* Judge::find_followed(Ipv4& fip) {
    const Ipv4 src = read_ip(in_.frame, 26);
    const Ipv4 dst = read_ip(in_.frame, 30);
    const auto vm = std::ranges::find_if(cloud_.vms, [&](const VmRow& each) {
        return each.port == in_.segment->bridge && each.fixed == src && has_mac(in_.frame, 0, each.router_mac);
    });
    if (vm != cloud_.vms.end()) {
        in_.vm = &*vm;
        fip = vm->fip;
        return find_destination(vm->domain, dst);
    }
    const auto row = std::ranges::find_if(cloud_.fip_in, [&](const FipInRow& each) {
        return each.segment == in_.segment->bridge && each.fip == dst && has_mac(in_.frame, 0, each.router_mac);
    });
    return row == cloud_.fip_in.end() || is_excepted(*row, src) ? nullptr : &row->journey;
}

/// Of the frame that came in, which is whole IPv4 without options. `fixed`: what the destination of a packet from
/// outside becomes. Nothing: its flow cannot be told.
std::optional<Judge::FlowPacket> Judge::flow_of(std::uint32_t router, Ipv4 fixed) const {
    const Ipv4 src = read_ip(in_.frame, 26);
    const Ipv4 dst = read_ip(in_.frame, 30);
    const View l4 = in_.frame.subspan(kL4);
    const bool from_inside = in_.vm != nullptr;
    if (l4.size() < 8) return std::nullopt;
    const auto flow = [&](std::uint8_t protocol, Ipv4 inside, Ipv4 outside, std::uint16_t inside_port,
                          std::uint16_t outside_port) {
        return Flow{router, protocol, inside, outside, inside_port, outside_port};
    };
    const std::uint8_t protocol = in_.frame[23];
    if (protocol == kTcp || protocol == kUdp) {
        const std::uint16_t from = read16(l4, 0);
        const std::uint16_t to = read16(l4, 2);
        const bool opens = protocol == kTcp && l4.size() >= 20 && kind_of(l4) == kSyn;
        const bool begins = opens || protocol == kUdp || (l4.size() >= 20 && kind_of(l4) == kAck);
        return FlowPacket{from_inside ? flow(protocol, src, dst, from, to) : flow(protocol, fixed, src, to, from),
                          begins, opens};
    }
    if (protocol != kIcmp) return std::nullopt;
    if (l4[0] == kEcho || l4[0] == kEchoReply) {
        const std::uint16_t id = read16(l4, 4);
        const bool asks = l4[0] == kEcho;
        return FlowPacket{flow(kIcmp, from_inside ? src : fixed, from_inside ? dst : src, id, id), asks, asks};
    }
    if (!is_icmp_error(l4[0]) || in_.frame.size() < kQuote + kIpSize + 8) return std::nullopt;
    // The packet that is quoted went the other way.
    const View quote = in_.frame.subspan(kQuote);
    const View ports = quote.subspan(kIpSize);
    const std::uint8_t quoted = quote[9];
    const Ipv4 inside = from_inside ? read_ip(quote, 16) : fixed;
    const Ipv4 outside = from_inside ? read_ip(quote, 12) : read_ip(quote, 16);
    if (quoted == kIcmp) return FlowPacket{flow(kIcmp, inside, outside, read16(ports, 4), read16(ports, 4))};
    if (quoted != kTcp && quoted != kUdp) return std::nullopt;
    const std::uint16_t from = read16(ports, 0);
    const std::uint16_t to = read16(ports, 2);
    return FlowPacket{flow(quoted, inside, outside, from_inside ? to : from, from_inside ? from : to)};
}

/// A translated packet is of a flow that was carried from its first packet, or is that, or of a kind for which Linux
/// chooses nothing. `fip`: the floating IP on this side of the router.
Judge::Complaint Judge::check_flow(const Journey& journey, Ipv4 fip) {
    if (!journey.snat && journey.dnat.is_unset()) return std::nullopt;
    const View l4 = in_.frame.subspan(kL4);
    const std::uint8_t protocol = in_.frame[23];
    if (has_hidden_flow(protocol)) return "translated a protocol with ports that conntrack cannot be asked about";
    if ((protocol == kTcp || protocol == kUdp) && is_malformed(protocol, l4))
        return "translated what is invalid to conntrack";
    const auto packet = flow_of(in_.vm != nullptr ? in_.router_port->netns : journey.router, journey.dnat);
    if (packet) return check_known(journey, fip, *packet);
    if (protocol != kIcmp) return std::nullopt;
    if (!is_icmp_error(l4[0])) return "translated ICMP that is neither an echo nor an error";
    const std::uint8_t quoted = in_.frame[kQuote + 9];
    return has_hidden_flow(quoted) || quoted == kIcmp ? Complaint("translated an error about a flow that is hidden")
                                                      : std::nullopt;
}

Judge::Complaint Judge::check_known(const Journey& journey, Ipv4 fip, const FlowPacket& packet) {
    const Flow& flow = packet.flow;
    const bool turns = in_.vm != nullptr && !journey.dnat.is_unset();
    // One that had another floating IP is none any more.
    const auto book = flows_.find(flow);
    const bool known = book != flows_.end() && book->second == fip && !packet.opens;
    if (!known && !packet.begins) return "took a flow over in mid-life";
    if (!known && !has_way_back(journey, fip, flow)) return "began a flow that has no way back";
    flows_[flow] = fip;
    if (turns && !known)
        flows_[{journey.router, flow.protocol, journey.dnat, fip, flow.outside_port, flow.inside_port}] = flow.outside;
    return std::nullopt;
}

/// Rows by which the flow's other packets would be carried.
bool Judge::has_way_back(const Journey& journey, Ipv4 fip, const Flow& flow) const {
    const bool from_inside = in_.vm != nullptr;
    if (from_inside && journey.dnat.is_unset())
        return std::ranges::any_of(cloud_.fip_in, [&](const FipInRow& each) {
            return each.segment == journey.exit.port && each.fip == fip && each.journey.dnat == flow.inside &&
                   !is_excepted(each, flow.outside);
        });
    const auto vm = std::ranges::find_if(cloud_.vms, [&](const VmRow& each) {
        return each.port == journey.exit.port && each.fixed == journey.dnat && each.router_mac == journey.smac;
    });
    if (vm == cloud_.vms.end() || vm->fip != (from_inside ? flow.outside : fip)) return false;
    const Journey* back = find_destination(vm->domain, from_inside ? fip : flow.outside);
    return back != nullptr && back->snat && (!from_inside || back->dnat == flow.inside);
}

/// Of a packet that went to Linux, if it is one that gives its flow back: TCP or UDP, whole, and a row is about it.
std::optional<Judge::Flow> Judge::flow_of_left(const Input& input) {
    if (open_input(input) || input.frame.size() < kL4 + 8 || input.frame[14] != 0x45) return std::nullopt;
    if (read16(input.frame, 12) != kTypeIp || (read16(input.frame, 20) & 0x1fff) != 0) return std::nullopt;
    const std::uint8_t protocol = input.frame[23];
    if (protocol != kTcp && protocol != kUdp) return std::nullopt;
    Ipv4 fip;
    const Journey* journey = find_followed(fip);
    const bool from_inside = in_.vm != nullptr;
    if (!from_inside && journey == nullptr) return std::nullopt;
    const auto packet =
        flow_of(from_inside ? in_.router_port->netns : journey->router, from_inside ? Ipv4{} : journey->dnat);
    return packet ? std::optional(packet->flow) : std::nullopt;
}

}  // namespace fiplane::test
