// SPDX-License-Identifier: Apache-2.0
// fiplane apply: build a node once, without an agent and without the fast path.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "agent/announcer.hpp"
#include "agent/privileges.hpp"
#include "agent/reconciler.hpp"
#include "agent/single_instance.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "datapath/datapath.hpp"
#include "datapath/pins.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    std::string file;
    std::string node;
    std::string pin_dir = kDefaultPinDir;
    BuildOptions build;
};

/// Without an agent nobody would tell pinned tables about the changes, so they must not go on carrying packets.
Result<> remove_orphaned_fast_path(const std::string& pin_dir) {
    std::error_code status;
    if (!std::filesystem::exists(pin_dir, status)) return {};
    if (auto ours = check_mode(PinPaths(pin_dir), false); !ours) return ours;
    fmt::print("- fast path of an agent that has gone ({}): `fiplane agent` brings it back\n", pin_dir);
    return Datapath::remove_pins(pin_dir);
}

Result<std::size_t> apply(const Options& options, const Topology& topology) {
    if (auto privileged = require_privileges("build the overlay"); !privileged) return pass_on(privileged);
    const auto instance = SingleInstance::acquire();
    if (!instance) return std::unexpected(instance.error());
    const auto node = find_node(topology, options.node);
    if (!node) return std::unexpected(node.error());
    auto builder = Builder::open(topology, *node, options.build);
    if (!builder) return pass_on(builder);
    auto plan = builder->plan();
    if (!plan) return pass_on(plan);
    if (!plan->empty()) {
        if (auto removed = remove_orphaned_fast_path(options.pin_dir); !removed) return pass_on(removed);
    }
    Progress progress("apply", plan->steps().size());
    auto done = builder->apply(*plan, [&](const Step& step) {
        fmt::print("{}\n", step_line(step));
        progress.step(step.object);
    });
    if (!done) return pass_on(done);
    if (auto announced = announce_once(plan->announcements()); !announced) return pass_on(announced);
    for (const std::string& what : plan->waiting_for())
        fmt::print("waiting for {}\n", what);
    return plan->steps().size();
}

ExitCode run(const Options& options) {
    const auto topology = load_or_print(options.file);
    if (!topology) return ExitCode::kBadTopology;
    const auto changes = apply(options, *topology);
    if (!changes) return print_error(changes.error());
    fmt::print("{}: {}\n", options.node, *changes == 0 ? "nothing to change" : count(*changes, "change") + " made");
    return ExitCode::kOk;
}

}  // namespace

void add_apply(CommandLine& line) {
    Verb verb = line.verb("apply", "Build a node once, without agent and fast path");
    auto options = std::make_shared<Options>();
    verb.argument("FILE", options->file, "the topology file");
    add_node_option(verb, options->node);
    add_state_dir_option(verb, options->build.state_dir);
    add_pin_dir_option(verb, options->pin_dir);
    verb.footer(
        R"(Refuses while an agent runs, which does all of this by itself. VM devices that do not exist yet are left out:
run it again once they do, or run the agent.

Example:
  fiplane apply /etc/fiplane/topology.yaml --node subnode1)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
