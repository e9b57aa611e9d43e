// SPDX-License-Identifier: Apache-2.0
// fiplane detach: take the programs off routers that somebody else built, without breaking a flow.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ctime>
#include <map>
#include <memory>

#include "agent/privileges.hpp"
#include "agent/single_instance.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "core/flow_handover.hpp"
#include "datapath/datapath.hpp"
#include "datapath/flow_table.hpp"
#include "linux/conntrack.hpp"
#include "observe/netns_directory.hpp"

namespace fiplane::cli {
namespace {

using nlohmann::json;

struct Options {
    std::string pin_dir = kDefaultPinDir;
    std::string output = "text";
};

/// What was done, for whoever asked.
struct Outcome {
    struct Router {
        std::vector<std::string> devices;
        std::size_t flows = 0;
    };
    std::map<NetnsName, Router> routers;
    std::size_t flows = 0;                        ///< that Linux goes on with
    std::map<std::string, std::size_t> left_out;  ///< flows, by the reason why
    std::vector<Error> refusals;                  ///< of Linux, one a namespace
};

/// The programs' clock.
std::uint32_t seconds_now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return static_cast<std::uint32_t>(now.tv_sec);
}

std::map<NetnsName, Netns> router_namespaces() {
    std::map<NetnsName, Netns> out;
    for (const NetnsName& name : Netns::list()) {
        if (!is_router_netns(name)) continue;
        if (auto netns = Netns::open(name)) out.emplace(name, std::move(*netns));
    }
    return out;
}

void hand_over(const Netns& netns, const std::vector<TrackedConnection>& connections, Outcome& outcome) {
    if (connections.empty()) return;
    const auto added = add_conntrack(netns, connections);
    const auto leave_out = [&](std::size_t number, const char* why) {
        if (number != 0) outcome.left_out[why] += number;
    };
    if (!added) {
        outcome.refusals.push_back(added.error());
        leave_out(connections.size(), "Linux refused an entry");
        return;
    }
    const std::size_t done = added->added + added->present;
    outcome.flows += done;
    if (done != 0) outcome.routers[netns.name()].flows = done;
    leave_out(added->taken, "another connection has its address and port outside");
    leave_out(added->refused, "Linux refused an entry");
    if (added->refusal) outcome.refusals.push_back(*added->refusal);
}

Result<> hand_over_all(FlowTable& table, Outcome& outcome) {
    // What is read after this is all that there will be.
    if (auto ended = table.end_lease(); !ended) return ended;
    const auto flows = table.flows();
    if (!flows) return std::unexpected(flows.error());
    const auto namespaces = router_namespaces();
    std::map<NetnsName, ConntrackLimits> limits;
    for (const auto& [name, netns] : namespaces)
        limits.emplace(name, read_conntrack_limits(netns));
    const FlowHandover plan = plan_handover(*flows, limits, seconds_now());
    for (const auto& [reason, number] : plan.left_out)
        outcome.left_out[describe(reason)] += number;
    Progress progress("detach", plan.connections.size());
    for (const auto& [name, connections] : plan.connections) {
        progress.step(name);
        hand_over(namespaces.at(name), connections, outcome);
    }
    return {};
}

Result<Outcome> detach(FlowTable& table, const std::string& pin_dir) {
    Outcome outcome;
    for (const auto& [netns, device] : table.devices())
        outcome.routers[netns].devices.push_back(device);
    if (auto done = hand_over_all(table, outcome); !done) return pass_on(done);
    if (auto removed = Datapath::remove_pins(pin_dir); !removed) return pass_on(removed);
    return outcome;
}

void print_as_json(const Outcome& outcome) {
    json routers = json::array();
    for (const auto& [name, router] : outcome.routers)
        routers.push_back({{"namespace", name}, {"devices", router.devices}, {"flows", router.flows}});
    json left_out = json::array();
    for (const auto& [reason, number] : outcome.left_out)
        left_out.push_back({{"reason", reason}, {"flows", number}});
    print_json({{"routers", routers}, {"flows", outcome.flows}, {"left_out", left_out}});
}

void print_as_text(const Outcome& outcome) {
    TextTable table({{"namespace"}, {"devices"}, {"flows", TextTable::Align::kRight}});
    std::size_t devices = 0;
    for (const auto& [name, router] : outcome.routers) {
        devices += router.devices.size();
        table.add({name, fmt::format("{}", fmt::join(router.devices, " ")), std::to_string(router.flows)});
    }
    fmt::print("{} detached, {} handed over to Linux\n", count(devices, "device"), count(outcome.flows, "flow"));
    if (!table.empty()) table.print();
    for (const auto& [reason, number] : outcome.left_out)
        fmt::print("{} left out: {}\n", count(number, "flow"), reason);
}

ExitCode run(const Options& options) {
    if (const auto privileged = require_privileges("detach from routers"); !privileged)
        return print_error(privileged.error());
    const auto instance = SingleInstance::acquire();
    if (!instance) return print_error(instance.error());
    auto table = FlowTable::open(options.pin_dir);
    if (!table) return print_error(table.error());
    Outcome outcome;
    if (*table) {
        auto done = detach(**table, options.pin_dir);
        if (!done) return print_error(done.error());
        outcome = std::move(*done);
    }
    if (options.output == "json") {
        print_as_json(outcome);
    } else if (*table) {
        print_as_text(outcome);
    } else {
        fmt::print("nothing to detach\n");
    }
    for (const Error& refusal : outcome.refusals)
        print_error(refusal);
    return outcome.refusals.empty() ? ExitCode::kOk : ExitCode::kFailed;
}

}  // namespace

void add_detach(CommandLine& line) {
    Verb verb =
        line.verb("detach", "Take the programs off a Neutron L3 agent's routers; Linux goes on with their flows");
    auto options = std::make_shared<Options>();
    add_pin_dir_option(verb, options->pin_dir);
    add_output_option(verb, options->output);
    verb.footer(
        R"(Each flow that BPF carries gets the entry in its router's conntrack that it would have, had Linux carried it from
its first packet; then programs and maps are removed. Flows that Linux would have forgotten are left out, and so are
those for which conntrack has no room, the ones used least recently first. Refuses while an agent runs.

Example:
  fiplane detach -o json)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
