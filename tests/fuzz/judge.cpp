// SPDX-License-Identifier: Apache-2.0
#include "fuzz/judge.hpp"

#include <fmt/format.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <array>

#include "core/reasons.hpp"

namespace fiplane::test {
namespace {

bool is_xdp(fl_hook hook) {
    return hook == FL_HOOK_XDP_UNDERLAY;
}

bool is_underlay(fl_hook hook) {
    return hook == FL_HOOK_XDP_UNDERLAY || hook == FL_HOOK_TC_UNDERLAY;
}

bool was_sent(fl_hook hook, const Outcome& outcome) {
    if (!is_xdp(hook)) return outcome.action == TC_ACT_REDIRECT;
    return outcome.action == XDP_TX || outcome.action == XDP_REDIRECT ||
           (outcome.action == XDP_PASS && outcome.meta.has_value());
}

bool was_left(fl_hook hook, const Outcome& outcome) {
    return is_xdp(hook) ? outcome.action == XDP_PASS && !outcome.meta : outcome.action == TC_ACT_UNSPEC;
}

bool equal(View a, View b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

View Judge::unpadded(const Input& input) {
    const View frame = input.frame;
    if (input.gso_size != 0 || frame.size() < kL4 || read16(frame, 12) != kTypeIp || frame[14] != 0x45) return frame;
    const std::size_t length = read16(frame, 16);
    if (length < kIpSize || kEthSize + length > frame.size()) return frame;
    return residue(word_sum(frame.subspan(kEthSize, kIpSize))) == 0 ? frame.first(kEthSize + length) : frame;
}

std::optional<std::string> Judge::judge(const Input& input, const Outcome& outcome) {
    const fl_record& record = outcome.record;
    if (record.counts != 1) return fmt::format("counted {} times", record.counts);
    if (record.hook != static_cast<std::uint32_t>(input.hook) || record.reason >= FL_REASON_COUNT)
        return fmt::format("counted as hook {} reason {}", record.hook, record.reason);
    if (record.bytes != input.frame.size()) return fmt::format("counted with {} bytes", record.bytes);
    const auto reason = static_cast<fl_reason>(record.reason);

    if (was_left(input.hook, outcome)) return judge_left(input, outcome, reason);
    if (input.hook == FL_HOOK_TC_ROUTER && cloud_.router_port(input.device) == nullptr)
        return judge_between(input, outcome);
    if (!was_sent(input.hook, outcome)) return fmt::format("action {}", outcome.action);
    if (reason_class(reason) != FL_CLASS_FAST) return "sent, but counted as not finished";

    if (auto complaint = open_input(input)) return complaint;
    if (auto complaint = check_source()) return complaint;
    if (auto complaint = check_learned()) return complaint;
    if (reason == FL_REASON_ARP_REPLY) return check_arp_reply(input, outcome);
    if (auto complaint = open_output(input, outcome)) return complaint;
    if (reason == FL_REASON_L2_FORWARD || reason == FL_REASON_L2_TO_HOST) return check_l2(input, reason);
    return check_routed(input, reason);
}

Judge::Complaint Judge::judge_left(const Input& input, const Outcome& outcome, fl_reason reason) {
    if (reason_class(reason) == FL_CLASS_FAST || reason_class(reason) == FL_CLASS_DROP ||
        reason == FL_REASON_XDP_DONE || reason == FL_REASON_CROSSED)
        return "left to Linux, but counted as finished";
    if (outcome.record.redirects != 0) return "left to Linux, but a redirect is set up";
    if (outcome.mark != input.mark) return "left to Linux, but with another mark";
    if (!equal(input.frame, outcome.frame) &&
        !(input.hook == FL_HOOK_TC_ROUTER && equal(unpadded(input), outcome.frame)))
        return "left to Linux, but not as it came";
    if (input.hook != FL_HOOK_TC_ROUTER) return std::nullopt;
    if (input.mark >= FL_FIRST_NUMBER && cloud_.router_port(input.device) == nullptr)
        return "left to Linux, but it was finished before";
    const auto flow = flow_of_left(input);
    if (outcome.fin_put_off && (reason == FL_REASON_LINUX_FLOW || !flow || !flows_.contains(*flow)))
        return "put off a FIN of a flow that was Linux's";
    // Of other reasons it cannot be said from here whether the program has come to look for the flow.
    if (flow && (reason == FL_REASON_TTL || reason == FL_REASON_MTU || reason == FL_REASON_NO_DEST))
        flows_.erase(*flow);
    return std::nullopt;
}

bool Judge::same_but_choices(View a, View b, bool is_tunnel_packet) {
    if (!is_tunnel_packet) return equal(a, b);
    if (a.size() != b.size() || a.size() < kGreOuterSize) return false;
    // IPv4 ID 18-19, IPv4 checksum 24-25, UDP source port 34-35
    const std::size_t choices_end = a[23] == kGre ? 34 : 36;
    return equal(a.subspan(0, 18), b.subspan(0, 18)) && equal(a.subspan(20, 4), b.subspan(20, 4)) &&
           equal(a.subspan(26, 8), b.subspan(26, 8)) && equal(a.subspan(choices_end), b.subspan(choices_end));
}

Judge::Complaint Judge::open_input(const Input& input) {
    in_ = {.frame = input.frame};
    if (input.hook == FL_HOOK_TC_ROUTER) {
        in_.frame = unpadded(input);
        in_.router_port = cloud_.router_port(input.device);
        if (in_.router_port == nullptr) return "sent from a device that is no source for this program";
        in_.segment = &in_.router_port->segment;
        return input.mark != 0 ? Complaint("sent what somebody has marked") : std::nullopt;
    }
    if (!is_underlay(input.hook)) {
        in_.port = input.hook == FL_HOOK_TC_PORT ? cloud_.port(input.device) : nullptr;
        if (in_.port != nullptr) in_.segment = cloud_.segment(in_.port->segment);
        if (input.hook == FL_HOOK_TC_HOST) in_.segment = cloud_.segment(input.device);
        if (input.hook == FL_HOOK_TC_TUNNEL) {
            in_.tunnel = cloud_.tunnel_of_device(input.device);
            if (in_.tunnel != nullptr) in_.segment = cloud_.segment(in_.tunnel->segment);
        }
        if (in_.segment == nullptr) return "sent from a device that is no source for this program";
        return std::nullopt;
    }
    if (input.frame.size() < kUdpOuterSize) return "sent a frame that is too short for a tunnel packet";
    const std::size_t size = outer_size(input.frame);
    if (input.frame.size() < size + kEthSize) return "sent a tunnel packet without inner Ethernet header";
    if (input.gso_size != 0) return "sent a GSO tunnel packet";
    in_.outer = in_.frame.first(size);
    in_.frame = in_.frame.subspan(size);
    const View ip = in_.outer.subspan(kEthSize);
    if (read16(in_.outer, 12) != kTypeIp || ip[0] != 0x45 || read_ip(ip, 16) != cloud_.vtep)
        return "sent what is no tunnel packet to this node";
    if (!has_mac(in_.outer, 0, cloud_.underlay_mac)) return "sent a tunnel packet that is for another host's MAC";
    if ((read16(ip, 6) & 0x3fff) != 0) return "sent a fragment of a tunnel packet";
    if (read16(ip, 2) != input.frame.size() - kEthSize) return "sent a tunnel packet whose lengths are wrong";
    if (residue(word_sum(ip.first(kIpSize))) != 0) return "sent a tunnel packet with a wrong IPv4 checksum";
    if ((ip[1] & 1) != 0) return "sent a tunnel packet with ECT(1) or CE";
    return open_tunnel(ip, input.frame.size() - kEthSize - kIpSize);
}

/// What stands behind the outer IPv4 header, `length` bytes with the inner frame.
Judge::Complaint Judge::open_tunnel(View ip, std::size_t length) {
    const auto found = [this, ip](fl_tunnel_type type, std::uint32_t id) -> Complaint {
        in_.tunnel = cloud_.tunnel(type, id, read_ip(ip, 12));
        if (in_.tunnel == nullptr) return "sent a stranger's packet";
        in_.segment = cloud_.segment(in_.tunnel->segment);
        return std::nullopt;
    };
    if (ip[9] == kGre) {
        if (read32(ip, 20) != 0x20006558) return "sent with other GRE flags, or not Ethernet in GRE";
        return found(FL_TUNNEL_GRE, read32(ip, 24));
    }
    const bool vxlan = read16(ip, 22) == kVxlanPort;
    if (ip[9] != kUdp || (!vxlan && read16(ip, 22) != kGenevePort)) return "sent what is no tunnel packet";
    if (read16(ip, 24) != length) return "sent a tunnel packet whose UDP length is wrong";
    if (read16(ip, 26) != 0) return "sent a tunnel packet with a UDP checksum";
    if (read32(ip, 28) != (vxlan ? 0x08000000U : 0x00006558U) || (read32(ip, 32) & 0xff) != 0)
        return "sent with other VXLAN flags, or with Geneve options";
    return found(vxlan ? FL_TUNNEL_VXLAN : FL_TUNNEL_GENEVE, read32(ip, 32) >> 8);
}

Judge::Complaint Judge::check_source() const {
    if (in_.frame.size() < kEthSize) return "sent a frame without Ethernet header";
    const std::uint16_t type = read16(in_.frame, 12);
    if (type == 0x8100 || type == 0x88a8) return "sent a frame with a VLAN tag";
    if ((in_.frame[6] & 1) != 0 || has_mac(in_.frame, 6, Mac{})) return "sent a frame from a multicast or zero MAC";
    if (in_.port == nullptr || !in_.port->checked) return std::nullopt;
    if (!has_mac(in_.frame, 6, in_.port->mac)) return "sent from a MAC that the port does not own";
    if (type == kTypeIp && (in_.frame.size() < kEthSize + kIpSize || read_ip(in_.frame, 26) != in_.port->ip))
        return "sent from an address that the port does not own";
    if (type == kTypeArp && (in_.frame.size() < kEthSize + 28 || !has_mac(in_.frame, 22, in_.port->mac)))
        return "sent ARP with a MAC that the port does not own";
    if (type == kTypeArp && read32(in_.frame, 28) != 0 && read_ip(in_.frame, 28) != in_.port->ip)
        return "sent ARP with an address that the port does not own";
    return std::nullopt;
}

/// A bridge or a tunnel device that learns has seen this MAC here before: Linux sees every frame that says otherwise.
Judge::Complaint Judge::check_learned() const {
    const bool learns = in_.port != nullptr ? !in_.port->checked : in_.tunnel != nullptr && in_.tunnel->learns;
    if (!learns) return std::nullopt;
    const auto row = std::ranges::find_if(cloud_.fdb, [this](const FdbRow& each) {
        return each.segment == in_.segment->bridge && has_mac(in_.frame, 6, each.mac);
    });
    if (row == cloud_.fdb.end()) return "sent from a MAC that Linux has to learn";
    if (in_.port != nullptr)
        return row->exit.kind == FL_OUT_PORT && row->exit.ifindex == in_.port->ifindex
                   ? Complaint{}
                   : "sent from a MAC that Linux knows on another port";
    if (row->exit.tunnel == nullptr || row->exit.tunnel->device != in_.tunnel->device)
        return "sent from a MAC that Linux knows on another port";
    // Behind its device a frame has no peer any more: the device has seen it.
    if (!in_.outer.empty() && row->exit.tunnel != in_.tunnel) return "sent from a MAC that Linux knows at another peer";
    return std::nullopt;
}

Judge::Complaint Judge::open_output(const Input& input, const Outcome& outcome) {
    out_ = {.frame = outcome.frame};
    if (auto complaint = find_exit(input, outcome)) return complaint;
    if (out_.exit.kind == FL_OUT_TUNNEL) {
        if (outcome.frame.size() < kUdpOuterSize + kEthSize) return "the output is no tunnel packet";
        const std::size_t size = outer_size(outcome.frame);
        out_.outer = outcome.frame.first(size);
        out_.frame = outcome.frame.subspan(size);
        if (auto complaint = check_outer(input)) return complaint;
        const View ip = out_.outer.subspan(kEthSize);
        const Ipv4 peer = read_ip(ip, 16);
        const bool vxlan = ip[9] == kUdp && read16(ip, 22) == kVxlanPort;
        out_.tunnel = ip[9] == kGre
                          ? cloud_.tunnel(FL_TUNNEL_GRE, read32(ip, 24), peer)
                          : cloud_.tunnel(vxlan ? FL_TUNNEL_VXLAN : FL_TUNNEL_GENEVE, read32(ip, 32) >> 8, peer);
        out_.exit.tunnel = out_.tunnel;
        if (out_.tunnel == nullptr) return "encapsulated for a stranger";
        out_.segment = cloud_.segment(out_.tunnel->segment);
        if (!has_mac(out_.outer, 0, cloud_.peer(peer)->underlay_mac))
            return "encapsulated for one peer, sent to another's MAC";
    }
    if (out_.segment == nullptr) return "sent into no segment";
    if (out_.frame.size() != in_.frame.size())
        return fmt::format("the inner frame had {} bytes and has {}", in_.frame.size(), out_.frame.size());
    return std::nullopt;
}

Judge::Complaint Judge::find_exit(const Input& input, const Outcome& outcome) {
    if (input.hook == FL_HOOK_TC_ROUTER) return find_router_exit(outcome);
    auto complaint = is_xdp(input.hook) ? find_xdp_exit(outcome) : find_tc_exit(input, outcome);
    if (complaint) return complaint;
    if (out_.exit.kind == FL_OUT_HOST) out_.segment = cloud_.segment(out_.exit.ifindex);
    if (out_.exit.kind == FL_OUT_PORT) {
        out_.port = cloud_.port(out_.exit.ifindex);
        if (out_.port == nullptr) return fmt::format("sent to device {}, which is no port", out_.exit.ifindex);
        out_.exit.flags = out_.port->flags;
        out_.segment = cloud_.segment(out_.port->segment);
    }
    return std::nullopt;
}

Judge::Complaint Judge::find_tc_exit(const Input& input, const Outcome& outcome) {
    const fl_record& record = outcome.record;
    if (record.redirects != 1) return fmt::format("{} redirects", record.redirects);
    out_.exit.ifindex = record.ifindex;
    out_.exit.kind = record.ifindex == kUnderlayDevice ? FL_OUT_TUNNEL : FL_OUT_PORT;
    if (record.via == FL_VIA_REDIRECT && record.flags == BPF_F_INGRESS) {
        out_.exit.kind = FL_OUT_HOST;
        return std::nullopt;
    }
    if (record.flags != 0) return "redirect with other flags";
    const CloudPort* port = cloud_.port(record.ifindex);
    const bool may_cross = port != nullptr && (port->flags & FL_OUT_PEER) != 0 && input.hook != FL_HOOK_TC_HOST;
    if (may_cross != (record.via == FL_VIA_PEER))
        return "bpf_redirect_peer where it is wrong, or not where it is right";
    return std::nullopt;
}

Judge::Complaint Judge::find_xdp_exit(const Outcome& outcome) {
    if (outcome.meta) {
        if (outcome.meta->magic != FL_META_MAGIC) return "metadata without its magic number";
        out_.exit = {.kind = outcome.meta->kind, .ifindex = outcome.meta->ifindex};
        if (out_.exit.kind != FL_OUT_PORT && out_.exit.kind != FL_OUT_HOST) return "metadata for another kind of exit";
        const CloudPort* port = cloud_.port(out_.exit.ifindex);
        if (outcome.meta->flags != (port == nullptr ? 0 : port->flags)) return "metadata with other flags";
        return std::nullopt;
    }
    out_.exit.ifindex = kUnderlayDevice;
    out_.exit.kind = FL_OUT_TUNNEL;
    if (outcome.action == XDP_TX) return std::nullopt;
    if (outcome.record.redirects != 1 || outcome.record.via != FL_VIA_MAP) return "XDP_REDIRECT without a device";
    out_.exit = {.kind = FL_OUT_PORT, .ifindex = outcome.record.ifindex};
    const CloudPort* port = cloud_.port(out_.exit.ifindex);
    if (port == nullptr || (port->flags & FL_OUT_XDP) == 0) return "XDP_REDIRECT to a device that does not take it";
    return std::nullopt;
}

/// One that Linux's vxlan device would choose (ip_local_port_range). From tunnel to tunnel such a port is kept.
bool Judge::is_source_port(std::uint16_t port) const {
    const auto may_be_chosen = [](std::uint16_t number) { return number >= 32768 && number < 60999; };
    // What comes in GRE has no port.
    const bool kept = in_.outer.size() == kUdpOuterSize && may_be_chosen(read16(in_.outer, 34));
    if (!kept) return may_be_chosen(port);
    return port == read16(in_.outer, 34);
}

/// All bytes but the peer's MAC and the VNI or key.
Judge::Complaint Judge::check_outer(const Input& input) const {
    const View eth = out_.outer;
    const View ip = eth.subspan(kEthSize);
    if (!has_mac(eth, 6, cloud_.underlay_mac) || read16(eth, 12) != kTypeIp) return "outer Ethernet header";
    const bool gre = ip[9] == kGre;
    if (ip[0] != 0x45 || read16(ip, 6) != 0 || ip[8] != 64 || (!gre && ip[9] != kUdp)) return "outer IPv4 header";
    if (read_ip(ip, 12) != cloud_.vtep) return "outer source";
    const std::size_t behind_ip = out_.outer.size() - kEthSize - kIpSize + out_.frame.size();
    if (input.gso_size == 0 && read16(ip, 2) != behind_ip + kIpSize) return "outer IPv4 length";
    if (residue(word_sum(ip.first(kIpSize))) != 0) return "outer IPv4 checksum";
    if (gre) {
        if (read32(ip, 20) != 0x20006558) return "GRE header";
    } else {
        const bool vxlan = read16(ip, 22) == kVxlanPort;
        if (input.gso_size == 0 && read16(ip, 24) != behind_ip) return "outer UDP length";
        if ((!vxlan && read16(ip, 22) != kGenevePort) || read16(ip, 26) != 0) return "outer UDP port or checksum";
        if (!is_source_port(read16(ip, 20))) return "outer UDP source port";
        if (read32(ip, 28) != (vxlan ? 0x08000000U : 0x00006558U) || (read32(ip, 32) & 0xff) != 0)
            return "VXLAN or Geneve header";
    }

    const std::uint16_t type = read16(in_.frame, 12);
    unsigned ecn = 0;
    if (type == kTypeIp && in_.frame.size() >= kEthSize + 2) ecn = in_.frame[15] & 3;
    if (type == 0x86dd && in_.frame.size() >= kEthSize + 2) ecn = in_.frame[15] >> 4 & 3;
    if (ip[1] != (ecn == 3 ? 2 : ecn)) return "outer congestion bits";
    return std::nullopt;
}

}  // namespace fiplane::test
