// SPDX-License-Identifier: Apache-2.0
// fiplane fast-path on|off: the switch with which an operator finds out whether the fast path is to blame.
#include <fmt/format.h>

#include <memory>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    std::string state;
    std::string socket = kDefaultSocket;
};

ExitCode run(const Options& options) {
    ExitCode outcome = ExitCode::kOk;
    const auto result = ask_or_print(options.socket, {{"verb", "fast-path"}, {"state", options.state}}, outcome);
    if (result) fmt::print("fast path {}\n", (*result)["fast_path"].get<bool>() ? "on" : "off");
    return outcome;
}

}  // namespace

void add_fast_path(CommandLine& line) {
    Verb verb = line.verb("fast-path", "Switch the fast path on or off while the agent runs");
    auto options = std::make_shared<Options>();
    verb.argument("STATE", options->state, "on or off", {"on", "off"});
    add_socket_option(verb, options->socket);
    verb.footer(
        R"(Off detaches every program at once; Linux carries all packets, connections live on. The switch lasts until the
agent ends: a new agent does what its --fast-path says.

Example:
  fiplane fast-path off)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
