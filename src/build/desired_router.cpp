// SPDX-License-Identifier: Apache-2.0
// Router and fip namespaces as Neutron's L3 agent builds them: l3/dvr_local_router.py, l3/dvr_fip_ns.py (distributed)
// and l3/legacy_router.py.
#include <fmt/format.h>

#include <algorithm>

#include "build/desire.hpp"
#include "build/names.hpp"

namespace fiplane::build {
namespace {

constexpr std::uint32_t kDefaultTable = 253;
constexpr std::uint32_t kLocalTable = 255;

PolicyRule rule(std::uint32_t priority, Prefix source, std::string iifname, std::uint32_t table) {
    PolicyRule out;
    out.priority = priority;
    out.source = source;
    out.iifname = std::move(iifname);
    out.table = table;
    return out;
}

}  // namespace

/// A namespace with what every one of ours has.
void Desire::open_netns(const NetnsName& netns) {
    auto [entry, fresh] = out_.netns.try_emplace(netns);
    if (!fresh) return;
    entry->second.rules = {rule(0, {}, "", kLocalTable), rule(32766, {}, "", kMainTable),
                           rule(32767, {}, "", kDefaultTable)};
    set_sysctl(netns, "ipv4/ip_forward", "1");
    set_sysctl(netns, "ipv4/conf/all/promote_secondaries", "1");
    set_sysctl(netns, "ipv4/conf/all/arp_ignore", "1");
    set_sysctl(netns, "ipv4/conf/all/arp_announce", "2");
    // Paths through these namespaces are asymmetric by design. A device starts with conf/default, and the kernel uses
    // the greater of conf/all and the device's own.
    for (const char* which : {"all", "default"}) {
        set_sysctl(netns, fmt::format("ipv4/conf/{}/rp_filter", which), "0");
        set_sysctl(netns, fmt::format("ipv4/conf/{}/send_redirects", which), "0");
        set_sysctl(netns, fmt::format("ipv6/conf/{}/disable_ipv6", which), "1");
    }
}

void Desire::add_table(const NetnsName& netns, NftTable table) {
    out_.netns[netns].tables.push_back(std::move(table));
    // The sysctl is there once conntrack is. Liberal: part of a flow may pass on the fast path, unseen by conntrack.
    set_sysctl(netns, "netfilter/nf_conntrack_tcp_be_liberal", "1", true);
}

/// A guest that takes its link for wider than it is, as without DHCP, must not need ICMP to find out.
void Desire::lower_mss() {
    if (!topology_.mss_clamp) return;
    for (const std::size_t index : placement_.routers) {
        const Router& router = topology_.routers[index];
        if (router.type != RouterType::kNovaNetwork) {
            lower_mss(router_netns(router), {});
            continue;
        }
        // The node's own namespace forwards for others, too.
        std::vector<std::string> bridges;
        bridges.reserve(router.subnets.size());
        for (const std::size_t subnet : router.subnets)
            bridges.push_back(topology_.networks[topology_.subnets[subnet].network].bridge);
        lower_mss("", bridges);
    }
    for (const std::size_t index : placement_.central_snats)
        lower_mss(snat_netns(topology_.routers[index]), {});
}

void Desire::lower_mss(const NetnsName& netns, const std::vector<std::string>& devices) {
    std::vector<NftTable>& tables = out_.netns[netns].tables;
    auto table = std::ranges::find(tables, nf::Family::kIp, &NftTable::family);
    if (table == tables.end()) table = tables.insert(tables.end(), NftTable{});
    table->chains.push_back(mss_chain(devices));
}

/// Devices that were made while conf/default said otherwise keep that: each is set by itself as well.
void Desire::configure_device(const NetnsName& netns, const std::string& device) {
    set_device_sysctl(netns, device, "ipv4/conf/{}/rp_filter", "0");
    set_device_sysctl(netns, device, "ipv4/conf/{}/send_redirects", "0");
}

/// qr-, qg-, fg- or sg-: a veth whose other end is plugged into the network's bridge.
Result<> Desire::add_leg(const NetnsName& netns, const Port& port) {
    const Network& network = topology_.networks[port.network];
    const std::string root_end = leg_device(port);
    DesiredDevice outside;
    outside.kind = VethKind{netns, port.device};
    outside.mtu = network.mtu;
    outside.master = network.bridge;
    if (auto added = add_device("", root_end, std::move(outside)); !added) return added;
    silence_ipv6("", root_end);
    // Also for distributed routers, whose address exists on every node: a frame to it stays here.
    root().fdb.insert({root_end, port.mac, std::nullopt});

    DesiredDevice inside;
    inside.kind = VethPeerKind{"", root_end};
    inside.mtu = network.mtu;
    inside.mac = port.mac;
    if (auto added = add_device(netns, port.device, std::move(inside)); !added) return added;
    configure_device(netns, port.device);
    const Subnet& subnet = topology_.subnets[port.subnet];
    out_.netns[netns].addresses.emplace(port.device, Prefix{port.fixed_ip, subnet.cidr.length});
    return {};
}

Result<> Desire::router_on_node(std::size_t index) {
    const Router& router = topology_.routers[index];
    if (router.type == RouterType::kNovaNetwork) {
        nova_network({router, index, NetnsName{}});
        return {};
    }
    const RouterSite site{router, index, router_netns(router)};
    open_netns(site.netns);
    for (const std::size_t leg : site.router.interfaces) {
        const Port& port = topology_.ports[leg];
        if (auto added = add_leg(site.netns, port); !added) return added;
        if (site.router.distributed) internal_leg(site, port);
    }
    if (!site.router.external_network) {
        extra_routes(site, nullptr, {}, kMainTable);
        return {};
    }
    return site.router.distributed ? distributed_gateway(site, *site.router.external_network) : legacy_gateway(site);
}

void Desire::know_vms(const NetnsName& netns, const Port& leg) {
    for (const std::size_t vm : vms_of_subnet_[leg.subnet]) {
        const Port& port = topology_.ports[vm];
        out_.netns[netns].neighbours[{leg.device, port.fixed_ip}] = port.mac;
    }
}

/// A distributed router never asks by ARP who a VM is (its own address is everywhere, so answers would go astray).
void Desire::internal_leg(const RouterSite& site, const Port& leg) {
    auto& netns = out_.netns[site.netns];
    know_vms(site.netns, leg);
    const auto found = snat_ports_.find({site.index, leg.subnet});
    if (found == snat_ports_.end()) return;
    const Port& snat = topology_.ports[found->second];
    netns.neighbours[{leg.device, snat.fixed_ip}] = snat.mac;
    // dvr_local_router.py, _get_snat_idx: priority and table are the leg's address as a number.
    const std::uint32_t table = leg.fixed_ip.value;
    netns.rules.push_back(rule(table, {leg.fixed_ip, topology_.subnets[leg.subnet].cidr.length}, "", table));
    netns.routes.insert({leg.device, table, {}, snat.fixed_ip});
}

Result<> Desire::distributed_gateway(const RouterSite& site, std::size_t network) {
    const auto found = agent_gateways_.find(network);
    if (found == agent_gateways_.end()) {
        extra_routes(site, nullptr, {}, kMainTable);
        if (fips_of_router_[site.index].empty()) return {};
        const FloatingIp& fip = topology_.floating_ips[fips_of_router_[site.index].front()];
        return fail(
            ExitCode::kBadTopology,
            fmt::format("floating IP {} lives on node {}, which has no agent gateway on network {}", fip.address.str(),
                        node_.name, topology_.networks[network].name),
            topology_.file,
            fmt::format("add a port with device_owner network:floatingip_agent_gateway and node {}", node_.name));
    }
    const Port& gateway = topology_.ports[found->second];
    if (auto made = fip_namespace(network, gateway); !made) return made;
    const auto reserved = allocations_.pairs().find(site.router.id);
    if (reserved == allocations_.pairs().end()) {
        return fail(ExitCode::kFailed, fmt::format("router {} has no link-local pair", site.router.id));
    }
    const Ipv4 rfp_ip = reserved->second;
    const Ipv4 fpr_ip{rfp_ip.value + 1};
    if (auto made = pair(site, network, rfp_ip, fpr_ip); !made) return made;
    const NetnsName fip_name = fip_netns(topology_.networks[network]);
    extra_routes(site, &gateway, fip_name, fpr_ip.value);
    // No floating IP here: no translation, and nothing that would need conntrack.
    if (fips_of_router_[site.index].empty()) return {};
    add_table(site.netns, router_table(rfp_device(site.router), true, fixed_by_fip(site.index)));
    return distributed_fips(site, gateway, rfp_ip);
}

Result<> Desire::fip_namespace(std::size_t network, const Port& gateway) {
    const NetnsName name = fip_netns(topology_.networks[network]);
    if (out_.netns.contains(name)) return {};
    open_netns(name);
    // Gratuitous ARP is sent with floating IPs as source, and none of them is an address here.
    set_sysctl(name, "ipv4/ip_nonlocal_bind", "1");
    if (auto added = add_leg(name, gateway); !added) return added;
    set_device_sysctl(name, gateway.device, "ipv4/conf/{}/proxy_arp", "1");
    // The kernel would wait up to 0.8 s before it answers for somebody else.
    set_device_sysctl(name, gateway.device, "ipv4/neigh/{}/proxy_delay", "0");
    add_table(name, fip_table());
    for (const std::size_t subnet : topology_.networks[network].subnets) {
        if (subnet == gateway.subnet) continue;
        out_.netns[name].routes.insert({gateway.device, kMainTable, topology_.subnets[subnet].cidr, std::nullopt});
    }
    return {};
}

/// The veth pair between a router and the fip namespace, and how each end finds the other.
Result<> Desire::pair(const RouterSite& site, std::size_t network, Ipv4 rfp_ip, Ipv4 fpr_ip) {
    const Network& external = topology_.networks[network];
    const NetnsName fip_name = fip_netns(external);
    const std::string rfp = rfp_device(site.router);
    const std::string fpr = fpr_device(site.router);
    DesiredDevice near;
    near.kind = VethKind{fip_name, fpr};
    near.mtu = external.mtu;
    near.mac = derived_mac(site.router.id + "/rfp");
    DesiredDevice far;
    far.kind = VethPeerKind{site.netns, rfp};
    far.mtu = external.mtu;
    far.mac = derived_mac(site.router.id + "/fpr");

    auto& router = out_.netns[site.netns];
    auto& fip = out_.netns[fip_name];
    router.addresses.emplace(rfp, Prefix{rfp_ip, 31});
    fip.addresses.emplace(fpr, Prefix{fpr_ip, 31});
    router.neighbours[{rfp, fpr_ip}] = *far.mac;
    fip.neighbours[{fpr, rfp_ip}] = *near.mac;
    configure_device(site.netns, rfp);
    configure_device(fip_name, fpr);
    router.routes.insert({rfp, kFipTable, {}, fpr_ip});
    // Each router may have its own way out (dvr_fip_ns.py, _update_gateway_route): the table is fpr's address.
    fip.rules.push_back(rule(fpr_ip.value, {}, fpr, fpr_ip.value));
    external_routes(fip_name, topology_.ports[agent_gateways_.at(network)], fpr_ip.value);
    if (auto added = add_device(site.netns, rfp, std::move(near)); !added) return added;
    return add_device(fip_name, fpr, std::move(far));
}

/// The default route through the external subnet's gateway, which need not be inside that subnet.
void Desire::external_routes(const NetnsName& netns, const Port& gateway, std::uint32_t default_table) {
    const Subnet& subnet = topology_.subnets[gateway.subnet];
    if (!subnet.gateway_ip) return;
    auto& routes = out_.netns[netns].routes;
    if (!subnet.cidr.contains(*subnet.gateway_ip)) {
        routes.insert({gateway.device, kMainTable, Prefix::host(*subnet.gateway_ip), std::nullopt});
    }
    routes.insert({gateway.device, default_table, {}, subnet.gateway_ip});
}

/// Extra routes go where their next hop is on link: the router's own subnets, or the external one.
void Desire::extra_routes(const RouterSite& site, const Port* external, const NetnsName& external_netns,
                          std::uint32_t external_table) {
    for (const std::size_t leg : site.router.interfaces)
        routes_by(site.router, site.netns, topology_.ports[leg], kMainTable);
    if (external != nullptr) routes_by(site.router, external_netns, *external, external_table);
}

void Desire::routes_by(const Router& router, const NetnsName& netns, const Port& leg, std::uint32_t table) {
    const Prefix& link = topology_.subnets[leg.subnet].cidr;
    for (const auto& route : router.routes) {
        if (!link.contains(route.nexthop)) continue;
        out_.netns[netns].routes.insert({leg.device, table, route.destination, route.nexthop});
    }
}

std::map<Ipv4, Ipv4> Desire::fixed_by_fip(std::size_t router) const {
    std::map<Ipv4, Ipv4> out;
    const auto found = fips_of_router_.find(router);
    if (found == fips_of_router_.end()) return out;
    for (const std::size_t index : found->second) {
        const FloatingIp& fip = topology_.floating_ips[index];
        out.emplace(fip.address, fip.fixed_ip);
    }
    return out;
}

Result<> Desire::distributed_fips(const RouterSite& site, const Port& gateway, Ipv4 rfp_ip) {
    const NetnsName fip_name = fip_netns(topology_.networks[gateway.network]);
    for (const std::size_t index : fips_of_router_[site.index]) {
        const FloatingIp& fip = topology_.floating_ips[index];
        const auto priority = allocations_.priorities().find(fip.address);
        if (priority == allocations_.priorities().end()) {
            return fail(ExitCode::kFailed, fmt::format("floating IP {} has no rule priority", fip.address.str()));
        }
        out_.netns[site.netns].rules.push_back(rule(priority->second, Prefix::host(fip.fixed_ip), "", kFipTable));
        out_.netns[fip_name].routes.insert({fpr_device(site.router), kMainTable, Prefix::host(fip.address), rfp_ip});
        out_.fips[fip.address] = {fip.fixed_ip, fip_name, gateway.device, gateway.mac};
    }
    return {};
}

const Node::BridgeAddress* Desire::own_address(std::size_t network) const {
    const auto found = std::ranges::find(node_.bridge_addresses, network, &Node::BridgeAddress::network);
    return found == node_.bridge_addresses.end() ? nullptr : &*found;
}

/// The node itself routes, as nova-network has it: bridges are the legs, floating IPs are addresses of the external one
/// (nova/network/linux_net.py: ensure_floating_forward, initialize_gateway_device).
void Desire::nova_network(const RouterSite& site) {
    set_sysctl("", "ipv4/ip_forward", "1");
    // What enters and leaves by one bridge, to a neighbour's floating IP, must not be told of a shorter way; the kernel
    // asks for conf/all or the device's own.
    set_sysctl("", "ipv4/conf/all/send_redirects", "0");
    NodeNat nat;
    for (const std::size_t index : site.router.subnets) {
        const Subnet& subnet = topology_.subnets[index];
        const std::string& bridge = topology_.networks[subnet.network].bridge;
        configure_device("", bridge);
        if (const auto* own = own_address(subnet.network))
            nat.legs.push_back({bridge, subnet.cidr, own->address.address});
    }
    if (!site.router.external_network) return;
    const auto* outside = own_address(*site.router.external_network);
    if (outside == nullptr) return;
    nat.external_device = topology_.networks[*site.router.external_network].bridge;
    nat.external_address = outside->address.address;
    nat.fixed_by_fip = fixed_by_fip(site.index);
    configure_device("", nat.external_device);
    for (const auto& [fip, fixed] : nat.fixed_by_fip) {
        root().addresses.emplace(nat.external_device, Prefix::host(fip));
        out_.fips[fip] = {fixed, NetnsName{}, nat.external_device, outside->mac};
    }
    add_table("", node_table(nat));
}

Result<> Desire::legacy_gateway(const RouterSite& site) {
    if (!site.router.gateway_port) {
        return fail(ExitCode::kBadTopology, fmt::format("router {} has no gateway port", site.router.name),
                    topology_.file, "a router that is not distributed needs an address on its external network");
    }
    const Port& gateway = topology_.ports[*site.router.gateway_port];
    if (auto added = add_leg(site.netns, gateway); !added) return added;
    external_routes(site.netns, gateway, kMainTable);
    extra_routes(site, &gateway, site.netns, kMainTable);
    const auto translations = fixed_by_fip(site.index);
    if (translations.empty() && !site.router.enable_snat) return {};
    add_table(site.netns,
              router_table(gateway.device, false, translations, GatewayNat{gateway.fixed_ip, site.router.enable_snat}));
    auto& netns = out_.netns[site.netns];
    for (const auto& [fip, fixed] : translations) {
        netns.addresses.emplace(gateway.device, Prefix::host(fip));
        out_.fips[fip] = {fixed, site.netns, gateway.device, gateway.mac};
    }
    return {};
}

}  // namespace fiplane::build
