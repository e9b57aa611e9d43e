// SPDX-License-Identifier: Apache-2.0
#include "build/builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "build/diff.hpp"
#include "build/names.hpp"
#include "linux/netns.hpp"
#include "linux/rtnl.hpp"

namespace fiplane {

using namespace build;

struct Plan::Impl {
    std::vector<Operation> operations;
    std::vector<Step> steps;
    std::vector<Announcement> announcements;
    std::vector<Ipv4> withdrawn;
    std::vector<std::string> waiting_for;

    void take(Draft draft) {
        operations = std::move(draft.operations);
        for (const auto& operation : operations) {
            steps.insert(steps.end(), operation.steps.begin(), operation.steps.end());
        }
        announcements = std::move(draft.announcements);
        withdrawn.assign(draft.withdrawn.begin(), draft.withdrawn.end());
        waiting_for = std::move(draft.waiting_for);
    }
};

Plan::Plan() : impl_(std::make_unique<Impl>()) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

const std::vector<Step>& Plan::steps() const {
    return impl_->steps;
}
const std::vector<Announcement>& Plan::announcements() const {
    return impl_->announcements;
}
const std::vector<Ipv4>& Plan::withdrawn() const {
    return impl_->withdrawn;
}
const std::vector<std::string>& Plan::waiting_for() const {
    return impl_->waiting_for;
}

struct Builder::Impl {
    Topology topology;
    std::size_t node = 0;
    BuildOptions options;

    /// Pairs and priorities for all that lives here, in memory.
    Result<> reserve(Allocations& allocations, const ActualNode& actual) const;
    void persist(const Allocations& stored, const Allocations& reserved, Draft& draft,
                 const DesiredNode& desired) const;
};

namespace {

bool needs_pair(const Router& router) {
    return router.is_dvr() && router.external_network.has_value();
}

Result<> run_all(const std::vector<Operation>& operations, Executor executor,
                 const std::function<void(const Step&)>& progress) {
    for (const auto& operation : operations) {
        if (progress) {
            for (const auto& step : operation.steps)
                progress(step);
        }
        if (auto done = executor.run(operation); !done) return done;
    }
    return {};
}

/// What is on disk and no longer lives here. A floating IP's priority is given back last: while it is on disk, a
/// removal that was interrupted is taken up again, and connections through the address are ended for certain.
void release_stale(const Allocations& stored, const std::set<std::string>& routers, const DesiredNode& desired,
                   const std::set<Ipv4>& distributed, Draft& draft) {
    std::set<Ipv4> flushed;
    for (const auto& operation : draft.operations) {
        if (const auto* flush = std::get_if<FlushConntrack>(&operation.change)) flushed.insert(flush->address);
    }
    ReleaseAllocations stale;
    std::vector<Step> steps;
    for (const auto& [router, first] : stored.pairs()) {
        if (routers.contains(router)) continue;
        stale.router_ids.insert(router);
        steps.push_back({Step::Action::kRemove,
                         {},
                         fmt::format("link-local pair {}/31", first.str()),
                         fmt::format("of router {}", router)});
    }
    for (const auto& [fip, priority] : stored.priorities()) {
        if (distributed.contains(fip)) continue;
        stale.fips.insert(fip);
        steps.push_back({Step::Action::kRemove,
                         {},
                         fmt::format("rule priority {}", priority),
                         fmt::format("of floating IP {}", fip.str())});
        for (const auto& [netns, wanted] : desired.netns) {
            if (!netns.starts_with("qrouter-") || flushed.contains(fip)) continue;
            draft.operations.push_back({Stage::kFlushConntrack, netns, FlushConntrack{fip}, {}});
        }
        draft.withdrawn.insert(fip);
    }
    if (steps.empty()) return;
    draft.operations.push_back({Stage::kRelease, "", std::move(stale), std::move(steps)});
}

}  // namespace

Result<> Builder::Impl::reserve(Allocations& allocations, const ActualNode& actual) const {
    const Placement placement = place(topology, node);
    for (const std::size_t index : placement.routers) {
        const Router& router = topology.routers[index];
        if (!needs_pair(router)) continue;
        auto pair = allocations.reserve_pair(router.id, live_pair(actual, router));
        if (!pair) return pass_on(pair);
    }
    std::map<std::size_t, std::map<Ipv4, std::uint32_t>> live;
    for (const std::size_t index : placement.floating_ips) {
        const FloatingIp& fip = topology.floating_ips[index];
        const Router& router = topology.routers[fip.router];
        if (!router.is_dvr()) continue;
        auto [known, fresh] = live.try_emplace(fip.router);
        if (fresh) known->second = live_priorities(actual, router);
        const auto found = known->second.find(fip.fixed_ip);
        auto priority = allocations.reserve_priority(
            fip.address, found == known->second.end() ? std::nullopt : std::optional{found->second});
        if (!priority) return pass_on(priority);
    }
    return {};
}

void Builder::Impl::persist(const Allocations& stored, const Allocations& reserved, Draft& draft,
                            const DesiredNode& desired) const {
    std::vector<Step> steps;
    for (const auto& [router, first] : reserved.pairs()) {
        if (stored.pairs().contains(router)) continue;
        steps.push_back({Step::Action::kAdd,
                         {},
                         fmt::format("link-local pair {}/31", first.str()),
                         fmt::format("for router {}", router)});
    }
    for (const auto& [fip, priority] : reserved.priorities()) {
        if (stored.priorities().contains(fip)) continue;
        steps.push_back({Step::Action::kAdd,
                         {},
                         fmt::format("rule priority {}", priority),
                         fmt::format("for floating IP {}", fip.str())});
    }
    if (!steps.empty()) {
        draft.operations.push_back({Stage::kReserve, "", ReserveAllocations{reserved}, std::move(steps)});
    }
    const Placement placement = place(topology, node);
    std::set<std::string> routers;
    for (const std::size_t index : placement.routers) {
        if (needs_pair(topology.routers[index])) routers.insert(topology.routers[index].id);
    }
    std::set<Ipv4> distributed;
    for (const std::size_t index : placement.floating_ips) {
        const FloatingIp& fip = topology.floating_ips[index];
        if (topology.routers[fip.router].is_dvr()) distributed.insert(fip.address);
    }
    release_stale(stored, routers, desired, distributed, draft);
}

Builder::Builder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Builder::Builder(Builder&&) noexcept = default;
Builder& Builder::operator=(Builder&&) noexcept = default;
Builder::~Builder() = default;

namespace {

struct DeviceKind {
    const char* kind;  ///< null: none is made
    const char* module;
};

DeviceKind device_kind(NetworkType type) {
    switch (type) {
        case NetworkType::kVxlan:
            return {"vxlan", "vxlan"};
        case NetworkType::kGre:
            return {"gretap", "ip_gre"};
        case NetworkType::kGeneve:
            return {"geneve", "geneve"};
        case NetworkType::kVlan:
            return {"vlan", "8021q"};
        case NetworkType::kFlat:
            return {nullptr, nullptr};
    }
    return {nullptr, nullptr};
}

/// Kinds of devices that not every kernel has: asked for before anything is made.
Result<> check_kernel(const Topology& topology, std::size_t node) {
    auto own = Netns::current();
    if (!own) return pass_on(own);
    auto rtnl = Rtnl::open(*own);
    if (!rtnl) return pass_on(rtnl);
    std::set<NetworkType> asked;
    for (const std::size_t index : place(topology, node).networks) {
        const Network& network = topology.networks[index];
        const DeviceKind needed = device_kind(network.type);
        if (!asked.insert(network.type).second || needed.kind == nullptr) continue;
        auto there = rtnl->require_kind(needed.kind);
        if (there) continue;
        there.error().what += fmt::format(", which network {} needs", network.name);
        there.error().hint = fmt::format("install the kernel's module {}, or use another network_type", needed.module);
        return there;
    }
    return {};
}

/// A geneve device has no address of its own: its peers accept its packets only if the route to them has the VTEP as
/// its source.
Result<> check_sources(const Topology& topology, std::size_t node) {
    const Node& here = topology.nodes[node];
    const auto networks = place(topology, node).networks;
    const auto is_geneve = [&](std::size_t index) { return topology.networks[index].type == NetworkType::kGeneve; };
    if (std::ranges::none_of(networks, is_geneve)) return {};
    auto own = Netns::current();
    if (!own) return pass_on(own);
    auto rtnl = Rtnl::open(*own);
    if (!rtnl) return pass_on(rtnl);
    std::set<Ipv4> asked;
    for (const std::size_t index : networks) {
        const Network& network = topology.networks[index];
        if (!is_geneve(index)) continue;
        for (const TunnelEnd& end : topology.tunnel_ends(network, node)) {
            const Ipv4 peer = topology.nodes[end.peers.front()].underlay_address.ipv4().value();
            if (!asked.insert(peer).second) continue;
            auto source = rtnl->source_towards(peer);
            if (!source) return pass_on(source);
            if (!*source || **source == here.underlay_address) continue;
            return fail(ExitCode::kFailed,
                        fmt::format("Geneve packets to {} would come from {}, not from {}, node {}'s underlay address",
                                    peer.str(), (*source)->str(), here.underlay_address.str(), here.name),
                        network.name, fmt::format("write src {} into the route to it", here.underlay_address.str()));
        }
    }
    return {};
}

}  // namespace

Result<Builder> Builder::open(const Topology& topology, std::size_t node, BuildOptions options) {
    if (node >= topology.nodes.size()) {
        return fail(ExitCode::kUsage, fmt::format("the topology has no node number {}", node), topology.file);
    }
    auto actual = read_underlay();
    if (!actual) return pass_on(actual);
    if (auto ready = check_underlay(topology, node, *actual); !ready) return pass_on(ready);
    if (auto ready = check_physical_devices(topology, node, *actual); !ready) return pass_on(ready);
    if (auto ready = check_kernel(topology, node); !ready) return pass_on(ready);
    return Builder(std::make_unique<Impl>(topology, node, std::move(options)));
}

Result<Plan> Builder::plan() {
    auto actual = read_actual();
    if (!actual) return pass_on(actual);
    if (auto ready = check_underlay(impl_->topology, impl_->node, *actual); !ready) return pass_on(ready);
    if (auto ready = check_sources(impl_->topology, impl_->node); !ready) return pass_on(ready);
    auto stored = AllocationFiles(impl_->options.state_dir).load();
    if (!stored) return pass_on(stored);
    Allocations reserved = *stored;
    if (auto done = impl_->reserve(reserved, *actual); !done) return pass_on(done);
    auto desired = desire(impl_->topology, impl_->node, reserved);
    if (!desired) return pass_on(desired);
    if (auto read = read_sysctls_for(*desired, *actual); !read) return pass_on(read);
    auto draft = diff(*desired, *actual);
    if (!draft) return pass_on(draft);
    impl_->persist(*stored, reserved, *draft, *desired);
    draft->sort();
    Plan plan;
    plan.impl_->take(std::move(*draft));
    return plan;
}

Result<> Builder::apply(const Plan& plan, const std::function<void(const Step&)>& progress) {
    return run_all(plan.impl_->operations, Executor(impl_->options.state_dir), progress);
}

Scope Builder::scope() const {
    const Topology& topology = impl_->topology;
    const Placement here = place(topology, impl_->node);
    Scope scope;
    for (const std::size_t network : here.networks)
        scope.bridges.insert(topology.networks[network].bridge);
    for (const std::size_t index : here.routers) {
        const Router& router = topology.routers[index];
        const bool in_root = router.type == RouterType::kNovaNetwork;
        scope.root_is_router = scope.root_is_router || in_root;
        if (router.distributed) scope.distributed_routers.insert(in_root ? NetnsName{} : router_netns(router));
    }
    // Their VMs' packets come by the distributed part, with its MAC.
    for (const std::size_t index : here.central_snats)
        scope.distributed_routers.insert(snat_netns(topology.routers[index]));
    return scope;
}

Result<Plan> Builder::plan_teardown() {
    auto actual = read_actual();
    if (!actual) return pass_on(actual);
    Plan plan;
    plan.impl_->take(diff_teardown(*actual));
    return plan;
}

Result<> Builder::apply_teardown(const Plan& plan, const std::function<void(const Step&)>& progress) {
    return run_all(plan.impl_->operations, Executor({}), progress);
}

}  // namespace fiplane
