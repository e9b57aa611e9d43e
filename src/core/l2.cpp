// SPDX-License-Identifier: Apache-2.0
#include "core/l2.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace fiplane {

namespace {

constexpr std::uint16_t kNudNoarp = 0x40;
constexpr std::uint16_t kNudPermanent = 0x80;
constexpr std::uint8_t kNtfExtLearned = 0x10;
constexpr std::uint8_t kForwarding = 3;  // BR_STATE_FORWARDING
/// The agent looks once a second at what is used: what a bridge forgets sooner than this is left to it. Seconds.
constexpr std::uint32_t kMinAgeing = 3;
/// Of one port. A guest may invent addresses, and must not take the room of others' rows.
constexpr std::size_t kMaxLearned = FL_MAX_FDB / 8;

/// Nobody but the kernel's ageing, and what it sees of the traffic, decides how long it stays.
bool is_learned(const FdbEntry& entry) {
    return (entry.state & (kNudNoarp | kNudPermanent)) == 0 && (entry.flags & kNtfExtLearned) == 0;
}

/// Rules that bridged frames pass although the walk of the bridge does not see them.
std::string bridge_netfilter_refusal(const NetnsIndex& root) {
    const nf::Evaluator& netfilter = root.netfilter();
    if (netfilter.has_effect(nf::Family::kBridge)) return "the root namespace has netfilter rules of family bridge";
    if (!root.view().sysctls.bridge_nf_call_iptables) return {};
    const nf::Ruleset& ruleset = root.view().netfilter;
    for (const auto* opaque : {&ruleset.opaque, &ruleset.opaque_ipv4}) {
        if (!opaque->empty()) return "bridge-nf-call-iptables is on, and " + opaque->front() + " cannot be read";
    }
    for (const nf::Family family : {nf::Family::kIp, nf::Family::kInet}) {
        for (const nf::Hook hook : {nf::Hook::kPrerouting, nf::Hook::kForward, nf::Hook::kPostrouting}) {
            if (netfilter.has_effect(family, hook)) {
                return "bridge-nf-call-iptables is on, and the root namespace filters or translates IPv4";
            }
        }
    }
    return {};
}

std::string bridge_refusal(const NetnsIndex& root, const Link& bridge) {
    if (bridge.kind != "bridge" || !bridge.bridge) return bridge.name + " is not a bridge";
    if (!bridge.admin_up) return bridge.name + " is down";
    if (!bridge.running) return bridge.name + " has no carrier";
    if (bridge.bridge->vlan_filtering) return bridge.name + " filters VLANs";
    if (bridge.bridge->stp) return bridge.name + " runs STP";
    return bridge_netfilter_refusal(root);
}

std::string endpoint(const IpAddress& address, std::uint16_t port) {
    return fmt::format(fmt::runtime(address.is_ipv6() ? "[{}]:{}" : "{}:{}"), address.str(), port);
}

MacTarget left_to_bridge(const BridgePort& port, const char* why) {
    MacTarget target;
    target.port = &port;
    target.reason = fmt::format("{} {}", port.link->name, why);
    return target;
}

MacTarget host_target(const Segment& segment) {
    MacTarget target;
    target.kind = MacTarget::Kind::kHost;
    target.port = &segment.host;
    target.out.kind = FL_OUT_HOST;
    target.out.ifindex = target.out.port = segment.id();
    target.out.mtu = segment.bridge->mtu;
    return target;
}

}  // namespace

bool BridgePort::learns() const {
    const bool bridge_learns = segment->bridge->bridge && segment->bridge->bridge->ageing_time != 0;
    return bridge_learns && (!link->bridge_port || link->bridge_port->learning);
}

std::uint32_t BridgePort::id() const {
    return segment->is_foreign() ? segment->id() : static_cast<std::uint32_t>(link->ifindex);
}

const MacTarget* Segment::find(const Mac& mac) const {
    if (anybody) return &*anybody;
    const auto entry = macs.find(mac);
    if (entry != macs.end()) return &entry->second;
    const auto leg = leg_macs.find(mac);
    return leg == leg_macs.end() ? nullptr : &leg->second;
}

L2::L2(const NetnsIndex& root, const std::map<NetnsName, NetnsIndex>& routers, const Scope& scope) : root_(root) {
    for (const auto& [ifindex, link] : root.view().links) {
        if (scope.bridges.contains(link.name)) add_segment(link, routers);
    }
    for (const std::string& name : scope.bridges) {
        if (root.view().find_link(name) == nullptr) notes_.push_back("bridge " + name + " does not exist");
    }
    if (scope.follows) follow(routers);
    elect_vtep();
    read_tunnel_tables();
    take_on_trunks();
    read_bridge_tables();
}

void L2::add_segment(const Link& bridge, const std::map<NetnsName, NetnsIndex>& routers) {
    Segment& segment = segments_[bridge.ifindex];
    segment.bridge = &bridge;
    segment.number = static_cast<std::uint32_t>(bridge.ifindex);
    segment.refusal = bridge_refusal(root_, bridge);
    if (!segment.refusal.empty()) notes_.push_back(bridge.name + " stays slow: " + segment.refusal);
    segment.host.link = segment.host.leg = &bridge;
    segment.host.kind = BridgePort::Kind::kLeg;
    segment.host.segment = &segment;
    segment.host.router = &root_;
    segment.host.refusal = root_.jump_refusal(bridge);
    for (const auto& [ifindex, link] : root_.view().links) {
        if (link.master == bridge.ifindex) add_port(segment, link, routers);
    }
}

void L2::add_port(Segment& segment, const Link& link, const std::map<NetnsName, NetnsIndex>& routers) {
    BridgePort& port = segment.ports[link.ifindex];
    port.link = &link;
    port.segment = &segment;
    segment_of_port_[link.ifindex] = &segment;
    port.tunnel = tunnel_of(link);
    if (port.tunnel) {
        add_tunnel(port);
    } else if (link.peer && link.peer->netns && routers.contains(*link.peer->netns)) {
        const NetnsIndex& router = routers.at(*link.peer->netns);
        port.leg = router.link(link.peer->ifindex);
        if (port.leg != nullptr) {
            port.kind = BridgePort::Kind::kLeg;
            port.router = &router;
            port.refusal = router.jump_refusal(*port.leg);
            segment.leg_macs[port.leg->mac] = {MacTarget::Kind::kRouter, &port, {}, {}};
        }
    }
    port.trunk = trunk_of(link);
    const bool jumped = port.kind != BridgePort::Kind::kVm;
    if (port.refusal.empty() && jumped) port.refusal = root_.jump_refusal(link);
    if (port.refusal.empty() && !link.admin_up) port.refusal = link.name + " is down";
    if (port.refusal.empty() && !link.running) port.refusal = link.name + " has no carrier";
    if (!port.refusal.empty() || !link.bridge_port) return;
    if (link.bridge_port->state != kForwarding) port.refusal = link.name + " is not in forwarding state";
    // The programs know which ports are isolated, but not by which leg a routed packet comes back to the bridge.
    if (port.kind == BridgePort::Kind::kLeg && port.is_isolated()) port.refusal = link.name + " is an isolated port";
}

/// Frames past a VLAN device miss what is attached to it and no more: what its own device has, they meet in both ways.
const Link* L2::trunk_of(const Link& link) const {
    constexpr std::uint16_t k8021q = 0x8100;
    if (!link.vlan || link.vlan->protocol != k8021q || link.vlan->other_flags || !link.vlan->reorder_header)
        return nullptr;
    const Link* trunk = root_.link(link.vlan->parent_ifindex);
    if (trunk == nullptr || !trunk->admin_up || !trunk->running || trunk->vlan) return nullptr;
    return root_.jump_refusal(link).empty() ? trunk : nullptr;
}

void L2::add_tunnel(BridgePort& port) const {
    port.kind = BridgePort::Kind::kTunnel;
    port.refusal = header_refusal(*port.link);
    Tunnel& tunnel = *port.tunnel;
    if (port.refusal.empty() && tunnel.route_gives_local) {
        const auto source = source_towards(root_, *tunnel.remote->ipv4());
        if (source) tunnel.local = *source;
        if (!source) port.refusal = fmt::format("{} has no local address: {}", port.link->name, source.error());
    }
    constexpr std::uint16_t kArp = 0x0806;
    nf::Packet request;
    request.oifname = port.link->name;
    request.ether_type = kArp;
    const nf::Outcome outcome = root_.netfilter().evaluate(nf::Hook::kEgress, request);
    port.passes_arp = !tunnel.answers_arp && outcome.accepted && !outcome.stopped;
}

const Segment* L2::segment(int bridge) const {
    const auto found = segments_.find(bridge);
    return found == segments_.end() ? nullptr : &found->second;
}

const BridgePort* L2::port(int ifindex) const {
    const auto segment = segment_of_port_.find(ifindex);
    return segment == segment_of_port_.end() ? nullptr : &segment->second->ports.at(ifindex);
}

std::vector<BridgePort*> L2::tunnels() {
    std::vector<BridgePort*> out;
    for (auto& [bridge, segment] : segments_) {
        for (auto& [ifindex, port] : segment.ports) {
            if (port.kind == BridgePort::Kind::kTunnel) out.push_back(&port);
        }
    }
    return out;
}

/// The programs have room for one own address: the one that most devices use.
void L2::elect_vtep() {
    std::map<IpAddress, int> votes;
    for (const BridgePort* port : tunnels()) {
        if (port->refusal.empty()) ++votes[port->tunnel->local];
    }
    const auto winner = std::ranges::max_element(votes, {}, [](const auto& vote) { return vote.second; });
    if (winner != votes.end()) vtep_ = winner->first;
    elect_ports();
    for (BridgePort* port : tunnels())
        refuse_tunnel(*port);
}

/// And for one UDP port of each type.
void L2::elect_ports() {
    std::map<fl_tunnel_type, std::map<std::uint16_t, int>> votes;
    for (const BridgePort* port : tunnels()) {
        const Tunnel& tunnel = *port->tunnel;
        if (port->refusal.empty() && tunnel.local == vtep_) ++votes[tunnel.type][tunnel.port];
    }
    for (const auto& [type, ports] : votes) {
        tunnel_ports_[type] = std::ranges::max_element(ports, {}, [](const auto& vote) { return vote.second; })->first;
    }
}

void L2::refuse_tunnel(BridgePort& port) {
    const Tunnel& tunnel = *port.tunnel;
    const std::uint16_t elected = port.refusal.empty() && tunnel.local == vtep_ ? tunnel_ports_.at(tunnel.type) : 0;
    if (port.refusal.empty() && (tunnel.local != vtep_ || tunnel.port != elected)) {
        port.refusal = fmt::format("{} uses {}, other tunnels {}", port.link->name, endpoint(tunnel.local, tunnel.port),
                                   endpoint(vtep_, tunnel_ports_[tunnel.type]));
    }
    if (!port.refusal.empty()) notes_.push_back("tunnel stays slow: " + port.refusal);
}

void L2::read_tunnel_tables() {
    for (const BridgePort* at : tunnels()) {
        if (at->tunnel->remote) add_path(*at, *at->tunnel->remote);
    }
    for (const FdbEntry& entry : root_.view().fdb) {
        if (entry.bridge != 0 || (!entry.destination && !entry.elsewhere)) continue;
        const BridgePort* at = port(entry.ifindex);
        if (at == nullptr || at->kind != BridgePort::Kind::kTunnel) continue;
        const bool by_another = entry.underlay_ifindex != 0 && entry.underlay_ifindex != at->tunnel->underlay_ifindex;
        if (entry.elsewhere || by_another) {
            remotes_[{entry.ifindex, entry.mac}].push_back({});
            continue;
        }
        remotes_[{entry.ifindex, entry.mac}].push_back({*entry.destination, is_learned(entry)});
        add_path(*at, *entry.destination);
    }
}

/// The underlay device has another program at its ingress.
void L2::take_on_trunks() {
    std::set<int> underlay;
    for (const auto& [key, path] : underlay_)
        underlay.insert(path.device);
    for (auto& [bridge, segment] : segments_) {
        for (auto& [ifindex, port] : segment.ports) {
            const bool open = port.trunk != nullptr && port.refusal.empty() && segment.refusal.empty() &&
                              port.trunk->foreign_programs.empty() && !underlay.contains(port.trunk->ifindex) &&
                              !root_.netfilter().has_ingress(port.trunk->name);
            if (open) port.taken_on = port.trunk;
        }
    }
}

void L2::add_path(const BridgePort& port, const IpAddress& peer) {
    if (!port.refusal.empty() || !port.segment->refusal.empty()) return;
    const std::pair<int, IpAddress> key{port.link->ifindex, peer};
    if (!underlay_.contains(key)) underlay_[key] = find_path(port, peer);
}

void L2::read_bridge_tables() {
    for (const FdbEntry& entry : root_.view().fdb) {
        const auto segment = segments_.find(entry.bridge);
        // Without VLAN filtering the bridge looks up with VLAN 0.
        if (entry.bridge == 0 || entry.vlan != 0 || segment == segments_.end()) continue;
        add_entry(segment->second, entry);
    }
    for (auto& [ifindex, segment] : segments_) {
        limit_learned(segment);
        note_floods(segment);
        if (!segment.forgetful) continue;
        notes_.push_back(fmt::format("{}: learned addresses are left to the bridge, which forgets them within {} s",
                                     segment.bridge->name, kMinAgeing));
    }
}

/// Keeps the first addresses of a port that has too many, so that the order of a dump does not matter.
void L2::limit_learned(Segment& segment) {
    std::map<const BridgePort*, std::size_t> counts;
    for (auto& [mac, target] : segment.macs) {
        if (target.ages && ++counts[target.port] > kMaxLearned)
            target = left_to_bridge(*target.port, "has too many learned addresses");
    }
    for (const auto& [port, count] : counts) {
        if (count <= kMaxLearned) continue;
        notes_.push_back(fmt::format("port {} has more than {} learned addresses: those beyond are left to the bridge",
                                     port->link->name, kMaxLearned));
    }
}

/// One sentence for a tunnel, not one for each address that comes and goes behind it.
void L2::note_floods(const Segment& segment) {
    std::set<const BridgePort*> floods;
    for (const auto& [mac, target] : segment.macs) {
        const bool tunnel = target.kind == MacTarget::Kind::kTunnel && target.port->refusal.empty();
        if (tunnel && target.ages && !peer_of(*target.port, mac)) floods.insert(target.port);
    }
    for (const BridgePort* port : floods) {
        notes_.push_back(
            fmt::format("{}: addresses that the bridge learned behind it are left to Linux, which sends to "
                        "all of its peers",
                        port->link->name));
    }
}

void L2::add_entry(Segment& segment, const FdbEntry& entry) {
    if (entry.mac.is_multicast() || entry.mac.is_unset()) return;
    const bool local = (entry.state & kNudPermanent) != 0;
    if (local) {
        // Only the bridge's own address makes a frame PACKET_HOST (br_handle_frame); other local entries are those of
        // port devices, for which the stack drops what the bridge hands up.
        if (entry.mac == segment.bridge->mac) segment.macs[entry.mac] = host_target(segment);
        return;
    }
    const auto port = segment.ports.find(entry.ifindex);
    if (port == segment.ports.end()) return;
    const bool ages = is_learned(entry);
    // What a leg's own address is, leg_macs says; others behind it get no rows, as frames for them are routed anyway.
    if (ages && port->second.kind == BridgePort::Kind::kLeg) return;
    if (ages && segment.bridge->bridge && segment.bridge->bridge->ageing_seconds() < kMinAgeing) {
        segment.forgetful = true;
        segment.macs[entry.mac] = left_to_bridge(port->second, "is on a bridge that forgets too fast");
        return;
    }
    MacTarget& target = segment.macs[entry.mac] = target_for(segment, entry);
    target.ages = ages;
}

MacTarget L2::target_for(const Segment& segment, const FdbEntry& entry) const {
    MacTarget target;
    const BridgePort& port = segment.ports.at(entry.ifindex);
    if (port.kind == BridgePort::Kind::kTunnel) return tunnel_target(port, entry.mac);
    target.port = &port;
    target.kind = port.kind == BridgePort::Kind::kLeg ? MacTarget::Kind::kRouter : MacTarget::Kind::kPort;
    if (target.kind == MacTarget::Kind::kRouter) return target;
    target.reason = port.refusal;
    const Link& link = *port.link;
    if (target.reason.empty() && root_.netfilter().has_egress(link.name)) {
        target.reason = link.name + " has a netdev egress chain";
    }
    target.out.kind = FL_OUT_PORT;
    target.out.ifindex = target.out.port = static_cast<std::uint32_t>(link.ifindex);
    target.out.mtu = link.mtu;
    if (port.is_isolated()) target.out.flags |= FL_OUT_ISOLATED;
    if (port.trunk != nullptr) {
        target.out.ifindex = static_cast<std::uint32_t>(port.trunk->ifindex);
        target.out.vlan = link.vlan->id;
        target.out.mtu = std::min(link.mtu, port.trunk->mtu);
        return target;
    }
    // Both shortcuts go past the port's own queue and its programs; plain redirect does not.
    const bool bare = link.foreign_programs.empty() && link.xdp_prog_id == 0;
    const bool in_other_netns = link.kind == "veth" && link.peer && link.peer->netns != NetnsName{};
    if (bare && in_other_netns && link.qdisc == "noqueue") target.out.flags |= FL_OUT_PEER;
    if (bare && link.is_tap && is_plain_qdisc(link.qdisc)) target.out.flags |= FL_OUT_XDP;
    return target;
}

/// Where a tunnel device sends a frame for a MAC, if that is one peer. A vxlan device sends what its table does not
/// list where the all-zero address leads (vxlan_xmit).
std::optional<L2::Remote> L2::peer_of(const BridgePort& port, const Mac& mac) const {
    if (port.tunnel->remote) return Remote{*port.tunnel->remote};
    auto listed = remotes_.find({port.link->ifindex, mac});
    if (listed == remotes_.end()) listed = remotes_.find({port.link->ifindex, Mac{}});
    if (listed == remotes_.end() || listed->second.size() != 1) return std::nullopt;
    const Remote& only = listed->second.front();
    if (only.peer.is_unset() || only.peer.is_multicast()) return std::nullopt;
    return only;
}

MacTarget L2::tunnel_target(const BridgePort& port, const Mac& mac) const {
    MacTarget target;
    target.kind = MacTarget::Kind::kTunnel;
    target.port = &port;
    target.reason = port.refusal;
    if (!target.reason.empty()) return target;
    const std::optional<Remote> remote = peer_of(port, mac);
    if (!remote) {
        target.reason = fmt::format("{} has no single peer for {}", port.link->name, mac.str());
        return target;
    }
    if (remote->learned) target.learned_peer = remote->peer;
    const auto path = underlay_.find({port.link->ifindex, remote->peer});
    if (path == underlay_.end()) {
        target.reason = port.segment->refusal;
        return target;
    }
    target.reason = path->second.reason;
    target.out = path->second.out;
    return target;
}

}  // namespace fiplane
