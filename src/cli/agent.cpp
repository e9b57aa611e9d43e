// SPDX-License-Identifier: Apache-2.0
// fiplane agent: builds the node, keeps it right, and accelerates it, until it is stopped. Or accelerates what somebody
// else builds.
#include "agent/agent.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace fiplane::cli {
namespace {

const std::map<std::string, XdpMode> kXdpModes{
    {"auto", XdpMode::kAuto}, {"native", XdpMode::kNative}, {"generic", XdpMode::kGeneric}, {"off", XdpMode::kOff}};

struct Options {
    AgentOptions agent;
    std::string follow;
    std::string fast_path = "on";
    std::string xdp = "auto";
    std::string log_level = "info";
};

void set_up_log(const std::string& level) {
    const char* no_color = std::getenv("NO_COLOR");
    const auto colours =
        no_color != nullptr && *no_color != '\0' ? spdlog::color_mode::never : spdlog::color_mode::automatic;
    auto logger =
        std::make_shared<spdlog::logger>("fiplane", std::make_shared<spdlog::sinks::stderr_color_sink_st>(colours));
    // journald stamps lines itself.
    logger->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr ? "%^%l%$ %v" : "%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
    logger->set_level(spdlog::level::from_str(level));
    logger->flush_on(spdlog::level::trace);
    spdlog::set_default_logger(std::move(logger));
}

ExitCode run(Options options) {
    set_up_log(options.log_level);
    options.agent.fast_path = options.fast_path == "on";
    options.agent.datapath.xdp = kXdpModes.at(options.xdp);
    if (options.follow.empty() == options.agent.topology_file.empty()) {
        return print_error({ExitCode::kUsage,
                            options.follow.empty() ? "neither a topology nor whom to follow is given"
                                                   : "a node is either built from a topology or followed",
                            {},
                            "give either --topology FILE or --follow neutron; see fiplane agent --help"});
    }
    if (!options.follow.empty() && (options.xdp == "native" || options.xdp == "generic")) {
        return print_error({ExitCode::kUsage, "no XDP program is attached where routers are followed",
                            "--xdp " + options.xdp, "their devices have tc programs; leave the option out"});
    }
    std::optional<Topology> topology;
    if (options.follow.empty()) {
        std::error_code status;
        const auto absolute = std::filesystem::absolute(options.agent.topology_file, status);
        if (!status) options.agent.topology_file = absolute.string();
        topology = load_or_print(options.agent.topology_file);
        if (!topology) return ExitCode::kBadTopology;
    }
    options.agent.datapath.follows = options.agent.follows();
    auto agent = Agent::create(std::move(options.agent), std::move(topology));
    if (!agent) return print_error(agent.error());
    if (const auto ended = (*agent)->run(); !ended) return print_error(ended.error());
    return ExitCode::kOk;
}

void add_datapath_options(Verb& verb, Options& options) {
    verb.option({.names = "--fast-path",
                 .help = "off: build and mend only, Linux carries all packets",
                 .choices = {"on", "off"}},
                options.fast_path);
    verb.option({.names = "--xdp",
                 .help = "XDP on the underlay device; auto: native where it pays",
                 .choices = {"auto", "native", "generic", "off"}},
                options.xdp);
    verb.option(
        {.names = "--max-floating-ips", .help = "size of the floating IP tables; used when they are made", .type = "N"},
        options.agent.datapath.max_floating_ips, 16U * 1024 * 1024);
    add_pin_dir_option(verb, options.agent.datapath.pin_dir);
}

}  // namespace

void add_agent(CommandLine& line) {
    Verb verb = line.verb("agent", "Build this node, keep it right and accelerate it; runs in the foreground");
    auto options = std::make_shared<Options>();
    verb.option({.names = "--topology", .help = "the topology file", .type = "FILE"}, options->agent.topology_file);
    verb.option({.names = "--follow",
                 .help = "carry the traffic of routers that a Neutron L3 agent builds; no topology, nothing is built",
                 .choices = {"neutron"}},
                options->follow);
    add_node_option(verb, options->agent.node);
    add_datapath_options(verb, *options);
    add_state_dir_option(verb, options->agent.build.state_dir);
    add_socket_option(verb, options->agent.socket);
    verb.option({.names = "--log-level",
                 .help = "how much goes to stderr",
                 .type = "LEVEL",
                 .choices = {"trace", "debug", "info", "warning", "error", "off"}},
                options->log_level);
    verb.footer(
        R"(SIGHUP reloads the file, as `fiplane reload` does. SIGTERM and SIGINT stop the agent and leave everything in
place: the overlay is Linux's, the fast path is pinned and goes on with the tables as they are. A new agent takes over
what it finds. `fiplane teardown` removes it all.

With --follow, Linux takes over from the programs within 30 s of the agent's end, without losing a connection.
`fiplane detach` removes them.

Examples:
  fiplane agent --topology /etc/fiplane/topology.yaml --node subnode1
  fiplane agent --follow neutron)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
