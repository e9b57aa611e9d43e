// SPDX-License-Identifier: Apache-2.0
#include "agent/release.hpp"

#include "core/flow_handover.hpp"
#include "linux/clock.hpp"
#include "linux/conntrack.hpp"
#include "linux/nft.hpp"
#include "observe/netns_directory.hpp"

namespace fiplane {
namespace {

/// All that there are: the flows of one that is left out would be taken for those of a router that is gone.
Result<std::map<NetnsName, Netns>> router_namespaces() {
    std::map<NetnsName, Netns> out;
    const auto names = Netns::list();
    if (!names) return std::unexpected(names.error());
    for (const NetnsName& name : *names) {
        if (!is_router_netns(name)) continue;
        auto netns = Netns::find(name);
        if (!netns) return pass_on(netns);
        if (*netns) out.emplace(name, std::move(**netns));
    }
    return out;
}

/// None if the rules cannot be read, or could not be understood: another table may translate as well.
std::optional<std::map<Ipv4, Ipv4>> floating_ips_of(const Netns& netns) {
    const auto ruleset = read_ruleset(netns);
    if (!ruleset || !ruleset->opaque.empty() || !ruleset->opaque_ipv4.empty()) return std::nullopt;
    const nf::Evaluator rules(*ruleset);
    if (!rules.hidden_translation().empty()) return std::nullopt;
    return rules.floating_ips();
}

void hand_over(const Netns& netns, const std::vector<TrackedConnection>& connections, Release& release) {
    if (connections.empty()) return;
    const auto added = add_conntrack(netns, connections);
    const auto leave_out = [&](std::size_t number, const char* why) {
        if (number != 0) release.left_out[why] += number;
    };
    if (!added) {
        release.refusals.push_back(added.error());
        leave_out(connections.size(), "Linux refused an entry");
        return;
    }
    const std::size_t done = added->added + added->present;
    release.flows += done;
    if (done != 0) release.routers[netns.name()].flows = done;
    leave_out(added->taken, "another connection has its address and port outside");
    leave_out(added->refused, "Linux refused an entry");
    if (added->refusal) release.refusals.push_back(*added->refusal);
}

}  // namespace

Result<Release> release_flows(FlowTable& table, const std::function<void(const NetnsName&, std::size_t)>& step) {
    Release release;
    for (const auto& [netns, device] : table.devices())
        release.routers[netns].devices.push_back(device);
    const auto namespaces = router_namespaces();
    if (!namespaces) return std::unexpected(namespaces.error());
    // Reading rules takes some ten ms each, in which flows would have nobody to carry them on.
    std::map<NetnsName, HandoverTarget> targets;
    const std::size_t steps = 2 * namespaces->size();
    for (const auto& [name, netns] : *namespaces) {
        if (step) step(name, steps);
        targets.emplace(name, HandoverTarget{read_conntrack_limits(netns), floating_ips_of(netns)});
    }
    // What is read after this is all that there will be.
    if (auto ended = table.end_lease(); !ended) return pass_on(ended);
    const auto flows = table.flows();
    if (!flows) return std::unexpected(flows.error());
    const FlowHandover plan = plan_handover(*flows, targets, monotonic_seconds());
    for (const auto& [reason, number] : plan.left_out)
        release.left_out[describe(reason)] += number;
    for (const auto& [name, connections] : plan.connections) {
        if (step) step(name, steps);
        hand_over(namespaces->at(name), connections, release);
    }
    return release;
}

Result<std::size_t> forget_flows(FlowTable& table) {
    const auto namespaces = router_namespaces();
    if (!namespaces) return std::unexpected(namespaces.error());
    std::map<NetnsName, ConntrackLimits> limits;
    for (const auto& [name, netns] : *namespaces)
        limits.emplace(name, read_conntrack_limits(netns));
    const ForgottenFlows forgotten(limits, monotonic_seconds());
    const auto keys =
        table.find([&](const fl_flow_key& key, const fl_flow& flow) { return forgotten.contain(key, flow); });
    if (!keys) return std::unexpected(keys.error());
    if (auto done = table.forget(*keys); !done) return pass_on(done);
    return keys->size();
}

}  // namespace fiplane
