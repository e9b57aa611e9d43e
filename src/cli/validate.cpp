// SPDX-License-Identifier: Apache-2.0
// fiplane validate: is the topology file right? Needs no privileges and touches nothing.
#include <fmt/format.h>

#include <memory>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "topology/describe.hpp"
#include "topology/load.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    std::string file;
    std::string output = "text";
};

nlohmann::json mistakes_json(const std::vector<Mistake>& mistakes, const std::string& file) {
    nlohmann::json rows = nlohmann::json::array();
    for (const Mistake& mistake : mistakes)
        rows.push_back(fiplane::to_json(mistake, file));
    return {{"valid", false}, {"mistakes", std::move(rows)}};
}

ExitCode run(const Options& options) {
    const bool as_json = options.output == "json";
    const auto loaded = load_topology(options.file);
    if (!loaded.topology) {
        if (as_json) {
            print_json(mistakes_json(loaded.mistakes, options.file));
        } else {
            print_mistakes(loaded.mistakes, options.file);
        }
        return ExitCode::kBadTopology;
    }
    const Topology& topology = *loaded.topology;
    if (as_json) {
        print_json(describe(topology));
    } else {
        fmt::print("{}: valid: topology {} with {}, {}, {}, {}, {}\n", options.file, topology.name,
                   count(topology.nodes.size(), "node"), count(topology.networks.size(), "network"),
                   count(topology.routers.size(), "router"), count(topology.ports.size(), "port"),
                   count(topology.floating_ips.size(), "floating IP"));
    }
    return ExitCode::kOk;
}

}  // namespace

void add_validate(CommandLine& line) {
    Verb verb = line.verb("validate", "Check a topology file; needs no privileges, touches nothing");
    auto options = std::make_shared<Options>();
    verb.argument("FILE", options->file, "the topology file");
    add_output_option(verb, options->output);
    verb.footer(
        R"(With -o json the resolved topology is printed: every id, MAC address and device name that the nodes derive.

Example:
  fiplane validate /etc/fiplane/topology.yaml)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
