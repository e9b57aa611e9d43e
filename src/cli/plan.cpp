// SPDX-License-Identifier: Apache-2.0
// fiplane plan: what would `apply` change? Reads Linux, changes nothing.
#include <fmt/format.h>

#include <memory>

#include "agent/privileges.hpp"
#include "agent/reconciler.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    std::string file;
    std::string node;
    std::string output = "text";
    BuildOptions build;
};

nlohmann::json plan_json(const Plan& plan, const std::string& node) {
    nlohmann::json changes = nlohmann::json::array();
    for (const Step& step : plan.steps())
        changes.push_back(to_json(step));
    nlohmann::json announced = nlohmann::json::array();
    for (const Announcement& announcement : plan.announcements())
        announced.push_back(announcement.address.str());
    return {{"node", node}, {"changes", changes}, {"announced", announced}, {"waiting_for", plan.waiting_for()}};
}

void print_plan(const Plan& plan, const std::string& node) {
    for (const Step& step : plan.steps())
        fmt::print("{}\n", step_line(step));
    for (const std::string& what : plan.waiting_for())
        fmt::print("waiting for {}\n", what);
    fmt::print("{}: {}\n", node, plan.empty() ? "nothing to change" : count(plan.steps().size(), "change"));
}

ExitCode run(const Options& options) {
    const auto topology = load_or_print(options.file);
    if (!topology) return ExitCode::kBadTopology;
    if (const auto privileged = require_privileges("read Linux's objects"); !privileged)
        return print_error(privileged.error());
    const auto node = find_node(*topology, options.node);
    if (!node) return print_error(node.error());
    auto builder = Builder::open(*topology, *node, options.build);
    if (!builder) return print_error(builder.error());
    const auto plan = builder->plan();
    if (!plan) return print_error(plan.error());
    if (options.output == "json") {
        print_json(plan_json(*plan, options.node));
    } else {
        print_plan(*plan, options.node);
    }
    return ExitCode::kOk;
}

}  // namespace

void add_plan(CommandLine& line) {
    Verb verb = line.verb("plan", "Show what building a node would change; changes nothing");
    auto options = std::make_shared<Options>();
    verb.argument("FILE", options->file, "the topology file");
    add_node_option(verb, options->node);
    add_state_dir_option(verb, options->build.state_dir);
    add_output_option(verb, options->output);
    verb.footer(R"(Lines begin with + for what would be added, ~ changed, - removed.

Example:
  fiplane plan /etc/fiplane/topology.yaml --node subnode1)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
