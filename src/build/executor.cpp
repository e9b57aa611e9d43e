// SPDX-License-Identifier: Apache-2.0
// Doing one change: the only place of build that writes to Linux.
#include <fmt/format.h>

#include <cstdlib>
#include <map>
#include <memory>

#include "build/names.hpp"
#include "build/operations.hpp"
#include "linux/conntrack.hpp"
#include "linux/netns.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"

namespace fiplane::build {
namespace {

/// A namespace in use: its handle, a socket in it, and the device indices seen so far.
struct Site {
    Netns netns;
    Rtnl rtnl;
    std::map<std::string, int> indices;
};

}  // namespace

struct Executor::Impl {
    AllocationFiles files;
    std::map<NetnsName, std::unique_ptr<Site>> sites;

    Result<Site*> site(const NetnsName& name);
    Result<int> index(const NetnsName& netns, const std::string& device);
    static Result<std::unique_ptr<Site>> open(Result<Netns> netns);

    Result<> run(const NetnsName&, const ReserveAllocations& change) { return files.add(change.allocations); }
    Result<> run(const NetnsName&, const ReleaseAllocations& change) {
        return files.release(change.router_ids, change.fips);
    }
    Result<> run(const NetnsName& netns, const CreateNetns& change);
    Result<> run(const NetnsName& netns, const RemoveNetns& change);
    Result<> run(const NetnsName& netns, const CreateDevice& change);
    Result<> run(const NetnsName& netns, const RemoveDevice& change);
    Result<> run(const NetnsName& netns, const ConfigureDevice& change);
    Result<> run(const NetnsName& netns, const SetSysctl& change);
    Result<> run(const NetnsName& netns, const AddAddress& change);
    Result<> run(const NetnsName& netns, const RemoveAddress& change);
    Result<> run(const NetnsName& netns, const SetRoute& change);
    Result<> run(const NetnsName& netns, const RemoveRoute& change);
    Result<> run(const NetnsName& netns, const AddRule& change);
    Result<> run(const NetnsName& netns, const RemoveRule& change);
    Result<> run(const NetnsName& netns, const SetNeighbour& change);
    Result<> run(const NetnsName& netns, const RemoveNeighbour& change);
    Result<> run(const NetnsName& netns, const SetFdb& change);
    Result<> run(const NetnsName& netns, const RemoveFdb& change);
    Result<> run(const NetnsName& netns, const RunNft& change);
    Result<> run(const NetnsName& netns, const FlushConntrack& change);

    Result<> create(Site& here, const CreateDevice& change, const BridgeKind& kind);
    Result<> create(Site& here, const CreateDevice& change, const VxlanKind& kind);
    Result<> create(Site& here, const CreateDevice& change, const GretapKind& kind);
    Result<> create(Site& here, const CreateDevice& change, const VlanKind& kind);
    Result<> create(Site& here, const CreateDevice& change, const GeneveKind& kind);
    Result<> create(Site& here, const CreateDevice& change, const VethKind& kind);
};

Result<std::unique_ptr<Site>> Executor::Impl::open(Result<Netns> netns) {
    if (!netns) return pass_on(netns);
    auto rtnl = Rtnl::open(*netns);
    if (!rtnl) return pass_on(rtnl);
    return std::make_unique<Site>(std::move(*netns), std::move(*rtnl), std::map<std::string, int>{});
}

Result<Site*> Executor::Impl::site(const NetnsName& name) {
    if (const auto found = sites.find(name); found != sites.end()) return found->second.get();
    auto opened = open(name.empty() ? Netns::current() : Netns::open(name));
    if (!opened) return pass_on(opened);
    return sites.emplace(name, std::move(*opened)).first->second.get();
}

Result<int> Executor::Impl::index(const NetnsName& netns, const std::string& device) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    auto& indices = (*here)->indices;
    if (const auto found = indices.find(device); found != indices.end()) return found->second;
    auto link = (*here)->rtnl.link_by_name(device);
    if (!link) return pass_on(link);
    const std::optional<Link>& there = *link;
    if (!there) {
        return fail(ExitCode::kMissingDevice, fmt::format("device {} has gone", device), netns, "run it again");
    }
    indices.emplace(device, there->ifindex);
    return there->ifindex;
}

Result<> Executor::Impl::run(const NetnsName& netns, const CreateNetns& change) {
    auto opened = open(Netns::create(netns));
    if (!opened) return pass_on(opened);
    constexpr int kLoopback = 1;
    LinkChange mark;
    mark.alias = change.mark;
    auto marked = (*opened)->rtnl.change_link(kLoopback, "lo", mark);
    if (!marked) {
        // Without the mark it would be a stranger's at the next run.
        if (auto removed = Netns::remove(netns); !removed) marked.error().hint = removed.error().message();
        return marked;
    }
    sites[netns] = std::move(*opened);
    return {};
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveNetns&) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    auto links = (*here)->rtnl.links({}, netns);
    if (!links) return pass_on(links);
    for (const auto& [ifindex, link] : *links) {
        if (link.kind != "veth" || !is_router_device(link.name)) continue;
        if (auto removed = (*here)->rtnl.remove_link(ifindex, link.name); !removed) return removed;
    }
    // The handle would keep the namespace alive.
    sites.erase(netns);
    return Netns::remove(netns);
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const BridgeKind&) {
    return here.rtnl.add_bridge({.name = change.name,
                                 .mac = change.device.mac,
                                 .mtu = change.device.mtu,
                                 .stp = false,
                                 .multicast_snooping = false,
                                 .alias = change.mark});
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const VxlanKind& kind) {
    auto underlay = index(here.netns.name(), kind.underlay_device);
    if (!underlay) return pass_on(underlay);
    return here.rtnl.add_vxlan({.name = change.name,
                                .vni = kind.vni,
                                .local = kind.local,
                                .port = kind.port,
                                .underlay_ifindex = *underlay,
                                .learning = false,
                                .proxy = kind.proxy,
                                .udp_checksum = false,
                                .mtu = change.device.mtu,
                                .alias = change.mark});
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const GretapKind& kind) {
    auto underlay = index(here.netns.name(), kind.underlay_device);
    if (!underlay) return pass_on(underlay);
    return here.rtnl.add_gretap({.name = change.name,
                                 .key = kind.key,
                                 .local = kind.local,
                                 .remote = kind.remote,
                                 .underlay_ifindex = *underlay,
                                 .mtu = change.device.mtu,
                                 .alias = change.mark});
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const VlanKind& kind) {
    auto parent = index(here.netns.name(), kind.parent);
    if (!parent) return pass_on(parent);
    return here.rtnl.add_vlan({.name = change.name,
                               .id = kind.id,
                               .parent_ifindex = *parent,
                               .mtu = change.device.mtu,
                               .alias = change.mark});
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const GeneveKind& kind) {
    return here.rtnl.add_geneve({.name = change.name,
                                 .vni = kind.vni,
                                 .remote = kind.remote,
                                 .port = kind.port,
                                 .mtu = change.device.mtu,
                                 .alias = change.mark});
}

Result<> Executor::Impl::create(Site& here, const CreateDevice& change, const VethKind& kind) {
    auto peer = site(kind.peer_netns);
    if (!peer) return pass_on(peer);
    return here.rtnl.add_veth({.name = change.name,
                               .mac = change.device.mac,
                               .peer_name = kind.peer,
                               .peer_mac = std::nullopt,
                               .peer_netns = &(*peer)->netns,
                               .mtu = change.device.mtu,
                               .alias = change.mark});
}

Result<> Executor::Impl::run(const NetnsName& netns, const CreateDevice& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return std::visit(
        [&](const auto& kind) -> Result<> {
            if constexpr (requires { create(**here, change, kind); }) {
                return create(**here, change, kind);
            } else {
                return fail(ExitCode::kFailed, fmt::format("device {} is not one that fiplane makes", change.name),
                            netns);
            }
        },
        change.device.kind);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveDevice& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    (*here)->indices.erase(change.name);
    auto link = (*here)->rtnl.link_by_name(change.name);
    if (!link) return pass_on(link);
    const std::optional<Link>& there = *link;
    return there ? (*here)->rtnl.remove_link(there->ifindex, change.name) : Result<>{};
}

Result<> Executor::Impl::run(const NetnsName& netns, const ConfigureDevice& change) {
    auto device = index(netns, change.name);
    if (!device) return pass_on(device);
    LinkChange link;
    link.mtu = change.mtu;
    link.mac = change.mac;
    if (change.up) link.up = true;
    if (change.all_multicast) link.all_multicast = true;
    if (change.master && change.master->empty()) {
        link.master = 0;
    } else if (change.master) {
        auto master = index(netns, *change.master);
        if (!master) return pass_on(master);
        link.master = *master;
    }
    Rtnl& rtnl = sites.at(netns)->rtnl;
    // The port's flags before the first frame: a tunnel's port must not learn for a moment either.
    const bool configure_port = change.port_flags.has_value();
    const auto up = configure_port ? std::exchange(link.up, std::nullopt) : std::nullopt;
    if (link.mtu || link.mac || link.master || link.up || link.all_multicast) {
        if (auto done = rtnl.change_link(*device, change.name, link); !done) return done;
    }
    if (!configure_port) return {};
    BridgePortChange port;
    port.learning = change.port_flags->learning;
    port.isolated = change.port_flags->isolated;
    port.neigh_suppress = change.port_flags->neigh_suppress;
    if (auto done = rtnl.change_bridge_port(*device, change.name, port); !done || !up) return done;
    LinkChange raise;
    raise.up = true;
    return rtnl.change_link(*device, change.name, raise);
}

Result<> Executor::Impl::run(const NetnsName& netns, const SetSysctl& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return write_sysctl((*here)->netns, change.key, change.value);
}

Result<> Executor::Impl::run(const NetnsName& netns, const AddAddress& change) {
    auto device = index(netns, change.device);
    if (!device) return pass_on(device);
    // A /31 and a /32 have no broadcast address (RFC 3021).
    return sites.at(netns)->rtnl.add_address(*device, change.address, change.address.length < 31);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveAddress& change) {
    auto device = index(netns, change.device);
    if (!device) return pass_on(device);
    return sites.at(netns)->rtnl.remove_address(*device, change.address);
}

Result<> Executor::Impl::run(const NetnsName& netns, const SetRoute& change) {
    auto device = index(netns, change.route.device);
    if (!device) return pass_on(device);
    Route route;
    route.table = change.route.table;
    route.destination = change.route.destination;
    route.oif = *device;
    route.gateway = change.route.gateway;
    route.protocol = 4;                            // RTPROT_STATIC, as Neutron
    route.scope = change.route.gateway ? 0 : 253;  // RT_SCOPE_UNIVERSE, RT_SCOPE_LINK
    return sites.at(netns)->rtnl.set_route(route);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveRoute& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return (*here)->rtnl.remove_route(change.route);
}

Result<> Executor::Impl::run(const NetnsName& netns, const AddRule& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return (*here)->rtnl.add_rule(change.rule);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveRule& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return (*here)->rtnl.remove_rule(change.rule);
}

Result<> Executor::Impl::run(const NetnsName& netns, const SetNeighbour& change) {
    auto device = index(netns, change.device);
    if (!device) return pass_on(device);
    return sites.at(netns)->rtnl.set_neighbour(*device, change.address, change.mac);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveNeighbour& change) {
    auto device = index(netns, change.device);
    if (!device) return pass_on(device);
    return sites.at(netns)->rtnl.remove_neighbour(*device, change.address);
}

Result<> Executor::Impl::run(const NetnsName& netns, const SetFdb& change) {
    auto device = index(netns, change.entry.device);
    if (!device) return pass_on(device);
    return sites.at(netns)->rtnl.set_fdb(*device, change.entry.mac, change.entry.destination);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RemoveFdb& change) {
    auto device = index(netns, change.entry.device);
    if (!device) return pass_on(device);
    return sites.at(netns)->rtnl.remove_fdb(*device, change.entry.mac, change.entry.destination);
}

Result<> Executor::Impl::run(const NetnsName& netns, const RunNft& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    return run_nft((*here)->netns, change.commands);
}

Result<> Executor::Impl::run(const NetnsName& netns, const FlushConntrack& change) {
    auto here = site(netns);
    if (!here) return pass_on(here);
    auto flushed = flush_conntrack((*here)->netns, change.address);
    if (!flushed) return pass_on(flushed);
    return {};
}

Executor::Executor(std::string state_dir) : impl_(std::make_unique<Impl>(AllocationFiles{std::move(state_dir)})) {}
Executor::Executor(Executor&&) noexcept = default;
Executor& Executor::operator=(Executor&&) noexcept = default;
Executor::~Executor() = default;

Result<> Executor::run(const Operation& operation) {
    auto done = std::visit([&](const auto& change) { return impl_->run(operation.netns, change); }, operation.change);
    if (!done && done.error().where.empty()) done.error().where = operation.netns;
    return done;
}

}  // namespace fiplane::build
