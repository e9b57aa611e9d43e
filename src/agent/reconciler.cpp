// SPDX-License-Identifier: Apache-2.0
#include "agent/reconciler.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace fiplane {

Result<std::size_t> find_node(const Topology& topology, const std::string& name) {
    const auto found = std::ranges::find(topology.nodes, name, &Node::name);
    if (found != topology.nodes.end()) return static_cast<std::size_t>(found - topology.nodes.begin());
    std::vector<std::string> names;
    names.reserve(topology.nodes.size());
    for (const Node& node : topology.nodes)
        names.push_back(node.name);
    return fail(ExitCode::kBadTopology, fmt::format("there is no node {}", name), topology.file,
                fmt::format("its nodes are {}; name one by --node", fmt::join(names, ", ")));
}

std::string describe_step(const Step& step) {
    const char* action = step.action == Step::Action::kAdd      ? "add"
                         : step.action == Step::Action::kChange ? "change"
                                                                : "remove";
    std::string text = step.netns.empty() ? "" : step.netns + ": ";
    text += fmt::format("{} {}", action, step.object);
    return step.detail.empty() ? text : text + ": " + step.detail;
}

Result<Reconciler> Reconciler::open(Topology topology, const std::string& node, BuildOptions options) {
    const auto index = find_node(topology, node);
    if (!index) return std::unexpected(index.error());
    auto kept = std::make_unique<const Topology>(std::move(topology));
    auto builder = Builder::open(*kept, *index, std::move(options));
    if (!builder) return pass_on(builder);
    Reconciler reconciler(std::move(kept), *index, std::move(*builder));
    auto plan = reconciler.builder_.plan();
    if (!plan) return pass_on(plan);
    return reconciler;
}

Result<std::vector<Announcement>> Reconciler::reconcile(const Hooks& hooks) {
    auto plan = builder_.plan();
    if (!plan) return pass_on(plan);
    note_waiting(plan->waiting_for());
    if (!plan->empty()) {
        if (hooks.may_change && !hooks.may_change()) return {};
        for (const Ipv4 address : plan->withdrawn())
            unannounced_.erase(address);
        for (const Announcement& announcement : plan->announcements())
            unannounced_.insert_or_assign(announcement.address, announcement);
        if (hooks.withdraw && !plan->withdrawn().empty()) {
            if (auto gone = hooks.withdraw(plan->withdrawn()); !gone) return pass_on(gone);
        }
        auto done = builder_.apply(*plan, [&](const Step& step) {
            spdlog::info("{}", describe_step(step));
            if (hooks.changed) hooks.changed(step);
        });
        if (!done) return pass_on(done);
    }
    std::vector<Announcement> due;
    for (auto& [address, announcement] : std::exchange(unannounced_, {}))
        due.push_back(std::move(announcement));
    return due;
}

Scope Reconciler::scope() const {
    return builder_.scope();
}

void Reconciler::note_waiting(std::vector<std::string> waiting) {
    for (const std::string& what : waiting) {
        if (std::ranges::find(waiting_for_, what) == waiting_for_.end()) spdlog::info("waiting for {}", what);
    }
    waiting_for_ = std::move(waiting);
}

}  // namespace fiplane
