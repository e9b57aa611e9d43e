// SPDX-License-Identifier: Apache-2.0
#include "build/desired.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ranges>

#include "build/desire.hpp"
#include "build/names.hpp"

namespace fiplane::build {

Desire::Desire(const Topology& topology, std::size_t node, const Allocations& allocations)
    : topology_(topology), node_index_(node), node_(topology.nodes[node]), allocations_(allocations) {
    placement_ = place(topology, node);
    out_.mark = mark_of(topology.name);
    out_.netns.try_emplace("");
    index_topology();
}

void Desire::index_topology() {
    for (std::size_t i = 0; i < topology_.nodes.size(); ++i) {
        if (i == node_index_) continue;
        for (const std::size_t network : place(topology_, i).networks)
            peers_[network].insert(i);
    }
    for (std::size_t i = 0; i < topology_.ports.size(); ++i) {
        const Port& port = topology_.ports[i];
        ports_of_network_[port.network].push_back(i);
        if (port.owner == PortOwner::kCompute) vms_of_subnet_[port.subnet].push_back(i);
        if (port.owner == PortOwner::kRouterCentralizedSnat && port.router) {
            snat_ports_.emplace(std::pair{*port.router, port.subnet}, i);
        }
        if (port.owner == PortOwner::kFloatingIpAgentGateway && port.node == node_index_) {
            agent_gateways_.emplace(port.network, i);
        }
    }
    for (const std::size_t index : placement_.floating_ips) {
        fips_of_router_[topology_.floating_ips[index].router].push_back(index);
    }
}

Result<DesiredNode> Desire::run() {
    for (const std::size_t network : placement_.networks) {
        if (auto done = network_on_node(network); !done) return pass_on(done);
    }
    if (auto done = vm_ports(); !done) return pass_on(done);
    for (const std::size_t router : placement_.routers) {
        if (auto done = router_on_node(router); !done) return pass_on(done);
    }
    for (const std::size_t router : placement_.central_snats) {
        if (auto done = central_snat(router); !done) return pass_on(done);
    }
    if (auto done = fips_without_router(); !done) return pass_on(done);
    lower_mss();
    root_tables();
    return std::move(out_);
}

Result<> Desire::fips_without_router() const {
    for (const std::size_t index : placement_.floating_ips) {
        const FloatingIp& fip = topology_.floating_ips[index];
        if (std::ranges::find(placement_.routers, fip.router) != placement_.routers.end()) continue;
        return fail(ExitCode::kBadTopology,
                    fmt::format("floating IP {} has its VM on node {}, where router {} has no leg", fip.address.str(),
                                node_.name, topology_.routers[fip.router].name),
                    topology_.file, "give the router an interface in the VM's subnet");
    }
    return {};
}

Result<> Desire::add_device(const NetnsName& netns, const std::string& name, DesiredDevice device) {
    if (out_.netns[netns].devices.emplace(name, std::move(device)).second) return {};
    return fail(ExitCode::kBadTopology, fmt::format("two devices on node {} would both be named {}", node_.name, name),
                topology_.file, "ids that share their first characters make equal names: give one of them another id");
}

void Desire::set_sysctl(const NetnsName& netns, const std::string& key, const std::string& value, bool conntrack) {
    out_.netns[netns].sysctls.push_back({"", key, value, conntrack});
}

void Desire::set_device_sysctl(const NetnsName& netns, const std::string& device, std::string_view path,
                               const std::string& value) {
    out_.netns[netns].sysctls.push_back({device, fmt::format(fmt::runtime(path), device), value, false});
}

/// A device that only carries frames for others must not speak IPv6 itself: no router solicitations, no MLD.
void Desire::silence_ipv6(const NetnsName& netns, const std::string& device) {
    set_device_sysctl(netns, device, "ipv6/conf/{}/disable_ipv6", "1");
}

Result<> Desire::network_on_node(std::size_t index) {
    if (node_.vif_type == VifType::kMacvtap) return below_macvtaps(index);
    const Network& network = topology_.networks[index];
    DesiredDevice bridge;
    bridge.kind = BridgeKind{.tenant = !network.external && !network.is_provider()};
    bridge.mtu = network.mtu;
    // A bridge whose address follows its ports would change it whenever a VM comes or goes.
    bridge.mac = derived_mac(fmt::format("{}/{}/bridge", node_.name, network.name));
    for (const auto& own : node_.bridge_addresses) {
        if (own.network != index) continue;
        bridge.mac = own.mac;
        root().addresses.emplace(network.bridge, own.address);
    }
    if (auto added = add_device("", network.bridge, std::move(bridge)); !added) return added;
    // An external bridge belongs to the node as much as to the network: only automatic addresses are kept off it.
    if (network.external) {
        set_device_sysctl("", network.bridge, "ipv6/conf/{}/addr_gen_mode", "1");
    } else {
        silence_ipv6("", network.bridge);
    }
    out_.uplink_marks.emplace(network.bridge, derived_mac(fmt::format("{}/{}/uplink", node_.name, network.bridge)));
    for (const std::size_t subnet : network.subnets) {
        out_.bridge_subnets[network.bridge].push_back(topology_.subnets[subnet].cidr);
    }
    if (network.is_provider()) return uplink(index);
    for (const Tunnel& tunnel : tunnels_of(index)) {
        if (auto done = tunnel_on_node(index, tunnel); !done) return done;
    }
    return {};
}

std::vector<Desire::Tunnel> Desire::tunnels_of(std::size_t network) const {
    const Network& item = topology_.networks[network];
    std::vector<Tunnel> tunnels;
    const auto there = peers_.find(network);
    if (there == peers_.end()) {
        // A tunnel device without peers, which those of another node will find when they come.
        if (item.shares_device()) tunnels.push_back({topology_.tunnel_ends(item, node_index_).front(), {}});
        return tunnels;
    }
    const bool at_spoke = item.shape == Shape::kStar && node_index_ != item.hub;
    for (TunnelEnd& end : topology_.tunnel_ends(item, node_index_)) {
        std::erase_if(end.peers, [&](std::size_t peer) { return !there->second.contains(peer); });
        if (end.peers.empty() && !item.shares_device()) continue;
        std::vector<std::size_t> behind = end.peers;
        if (at_spoke) behind.assign(there->second.begin(), there->second.end());
        tunnels.push_back({std::move(end), std::move(behind)});
    }
    return tunnels;
}

/// Where the topology knows every address, and a distributed router's may be on each node, no ARP crosses a tunnel.
bool Desire::keeps_arp_local(const Network& network) {
    return !network.external && !network.learning;
}

DesiredDevice Desire::tunnel_device(const Network& network, const Tunnel& tunnel) const {
    DesiredDevice device;
    device.mtu = network.mtu;
    device.master = network.bridge;
    device.port_flags =
        DesiredDevice::PortFlags{.learning = network.learning, .isolated = false, .neigh_suppress = false};
    const bool keeps_arp = keeps_arp_local(network);
    if (network.type == NetworkType::kVxlan) {
        device.kind =
            VxlanKind{tunnel.end.id, node_.underlay_address, topology_.vxlan_port, node_.underlay_device, keeps_arp};
        return device;
    }
    const std::size_t peer = tunnel.end.peers.front();
    // Only VXLAN runs over IPv6.
    const Ipv4 local = node_.underlay_address.ipv4().value();
    const Ipv4 remote = topology_.nodes[peer].underlay_address.ipv4().value();
    if (network.type == NetworkType::kGeneve) {
        device.kind = GeneveKind{tunnel.end.id, remote, topology_.geneve_port};
    } else {
        device.kind = GretapKind{tunnel.end.id, local, remote, node_.underlay_device};
    }
    // Between the devices of a mesh the bridge must not forward: every node has its own tunnel to every other.
    device.port_flags->isolated = network.shape == Shape::kMesh;
    device.port_flags->neigh_suppress = keeps_arp;
    return device;
}

Result<> Desire::tunnel_on_node(std::size_t index, const Tunnel& tunnel) {
    const Network& network = topology_.networks[index];
    const std::string& name = tunnel.end.device;
    if (auto added = add_device("", name, tunnel_device(network, tunnel)); !added) return added;
    silence_ipv6("", name);
    if (network.type != NetworkType::kVxlan && keeps_arp_local(network)) arp_ends_.insert(name);
    if (network.type == NetworkType::kVxlan) {
        for (const std::size_t peer : tunnel.end.peers)
            root().fdb.insert({name, Mac{}, topology_.nodes[peer].underlay_address});
    }
    for (const std::size_t node : tunnel.behind) {
        for (const auto& own : topology_.nodes[node].bridge_addresses) {
            if (own.network == index) remote_mac(network, tunnel, node, own.mac);
        }
    }
    for (const std::size_t port : ports_of_network_[index])
        remote_port(network, tunnel, topology_.ports[port]);
    return {};
}

/// In the bridge's table the MAC is behind the tunnel's port. In a vxlan device's own it is at a node: the one that has
/// it, or the only one that the device leads to.
void Desire::remote_mac(const Network& network, const Tunnel& tunnel, std::size_t node, const Mac& mac) {
    root().fdb.insert({tunnel.end.device, mac, std::nullopt});
    if (network.type != NetworkType::kVxlan) return;
    const std::size_t peer = network.shares_device() ? node : tunnel.end.peers.front();
    root().fdb.insert({tunnel.end.device, mac, topology_.nodes[peer].underlay_address});
}

/// A port on another node: reached through the tunnel, and answered for where ARP may not pass: by the vxlan device, or
/// by the bridge in front of a gretap or geneve device.
void Desire::remote_port(const Network& network, const Tunnel& tunnel, const Port& port) {
    const auto node = node_of(port);
    if (!node || std::ranges::find(tunnel.behind, *node) == tunnel.behind.end()) return;
    remote_mac(network, tunnel, *node, port.mac);
    if (!keeps_arp_local(network)) return;
    const std::string& answerer = network.type == NetworkType::kVxlan ? tunnel.end.device : network.bridge;
    root().neighbours[{answerer, port.fixed_ip}] = port.mac;
}

/// A legacy router's ports live where the router does; a distributed one's are everywhere.
std::optional<std::size_t> Desire::node_of(const Port& port) const {
    if (port.node || !port.router || topology_.routers[*port.router].distributed) return port.node;
    return topology_.routers[*port.router].node;
}

Result<> Desire::vm_ports() {
    if (node_.vif_type == VifType::kMacvtap) return {};
    for (const Port& port : topology_.ports) {
        if (port.owner != PortOwner::kCompute || port.node != node_index_) continue;
        const Network& network = topology_.networks[port.network];
        DesiredDevice device;
        device.kind = VmPortKind{port.name};
        device.mtu = network.mtu;
        device.master = network.bridge;
        if (auto added = add_device("", port.device, std::move(device)); !added) return added;
        silence_ipv6("", port.device);
        root().fdb.insert({port.device, port.mac, std::nullopt});
        guarded_.push_back({port.device, {port.mac, port.fixed_ip}});
    }
    return {};
}

void Desire::root_tables() {
    std::map<NetworkType, AdmittedTunnels> admitted;
    for (const std::size_t index : placement_.networks) {
        const Network& network = topology_.networks[index];
        const auto port = topology_.udp_port(network.type);
        // A gretap device takes packets from its one peer only; GRE of others is none of fiplane's.
        if (!port) continue;
        AdmittedTunnels& type = admitted[network.type];
        type.set = network.type == NetworkType::kVxlan ? "vteps" : fmt::format("{}_vteps", word_of(network.type));
        // Another name, since a set cannot change its type.
        type.peers.ipv6 = topology_.is_over_ipv6();
        if (type.peers.ipv6) type.set += "6";
        type.port = *port;
        for (const Tunnel& tunnel : tunnels_of(index)) {
            for (const std::size_t peer : tunnel.end.peers)
                type.peers.members.insert(topology_.nodes[peer].underlay_address);
        }
    }
    if (!admitted.empty()) {
        const auto types = std::views::values(admitted);
        root().tables.push_back(tunnel_table(node_.underlay_device, {types.begin(), types.end()}));
    }
    if (!guarded_.empty() || !guarded_uplinks_.empty() || !arp_ends_.empty()) {
        root().tables.push_back(guard_table(guarded_, guarded_uplinks_, arp_ends_));
    }
}

Result<DesiredNode> desire(const Topology& topology, std::size_t node, const Allocations& allocations) {
    return Desire(topology, node, allocations).run();
}

}  // namespace fiplane::build
