// SPDX-License-Identifier: Apache-2.0
// fiplane detach: take the programs off routers that somebody else built, without breaking a flow.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <optional>

#include "agent/privileges.hpp"
#include "agent/release.hpp"
#include "agent/single_instance.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "datapath/datapath.hpp"
#include "datapath/flow_table.hpp"
#include "linux/descriptor_limit.hpp"

namespace fiplane::cli {
namespace {

using nlohmann::json;

struct Options {
    std::string pin_dir = kDefaultPinDir;
    std::string output = "text";
};

Result<Release> detach(FlowTable& table, const std::string& pin_dir) {
    std::optional<Progress> progress;
    auto outcome = release_flows(table, [&](const NetnsName& netns, std::size_t steps) {
        if (!progress) progress.emplace("detach", steps);
        progress->step(netns);
    });
    if (!outcome) return outcome;
    if (auto removed = Datapath::remove_pins(pin_dir); !removed) return pass_on(removed);
    return outcome;
}

void print_as_json(const Release& outcome) {
    json routers = json::array();
    for (const auto& [name, router] : outcome.routers)
        routers.push_back({{"namespace", name}, {"devices", router.devices}, {"flows", router.flows}});
    json left_out = json::array();
    for (const auto& [reason, number] : outcome.left_out)
        left_out.push_back({{"reason", reason}, {"flows", number}});
    print_json({{"routers", routers}, {"flows", outcome.flows}, {"left_out", left_out}});
}

void print_as_text(const Release& outcome) {
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
    // One for each namespace.
    if (const auto raised = raise_descriptor_limit(); !raised) return print_error(raised.error());
    const auto instance = SingleInstance::acquire();
    if (!instance) return print_error(instance.error());
    auto table = FlowTable::open(options.pin_dir);
    if (!table) return print_error(table.error());
    Release outcome;
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
        fmt::print("nothing to detach: no programs of routers are pinned below {}\n", options.pin_dir);
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
