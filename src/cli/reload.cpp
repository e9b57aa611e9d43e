// SPDX-License-Identifier: Apache-2.0
// fiplane reload: the agent reads its topology file again.
#include <fmt/format.h>

#include <memory>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    std::string socket = kDefaultSocket;
    std::string output = "text";
};

ExitCode run(const Options& options) {
    ExitCode outcome = ExitCode::kOk;
    const auto result = ask_or_print(options.socket, {{"verb", "reload"}}, outcome);
    if (!result) return outcome;
    if (options.output == "json") {
        print_json(*result);
        return outcome;
    }
    for (const auto& what : (*result)["waiting_for"])
        fmt::print("waiting for {}\n", what.get<std::string>());
    const auto changes = (*result)["changes"].get<std::size_t>();
    fmt::print("{} reloaded: {}\n", (*result)["file"].get<std::string>(),
               changes == 0 ? "nothing to change" : count(changes, "change") + " made");
    return outcome;
}

}  // namespace

void add_reload(CommandLine& line) {
    Verb verb = line.verb("reload", "Make the agent read its topology file again");
    auto options = std::make_shared<Options>();
    add_socket_option(verb, options->socket);
    add_output_option(verb, options->output);
    verb.footer(
        R"(A file with mistakes changes nothing: the agent keeps the old topology, all mistakes are printed, the exit code is 2.

Example:
  fiplane validate /etc/fiplane/topology.yaml && fiplane reload)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
