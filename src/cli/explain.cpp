// SPDX-License-Identifier: Apache-2.0
// fiplane explain WHAT: the way of a floating IP's packets through Linux, and why they are fast or slow.
#include <fmt/format.h>

#include <memory>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "cli/walks.hpp"

namespace fiplane::cli {
namespace {

using nlohmann::json;

struct Options {
    std::string address;
    std::string socket = kDefaultSocket;
    std::string output = "text";
};

std::string text(const json& row, const char* key) {
    return row.at(key).get<std::string>();
}

void print_walk(const json& walk, const std::string& node) {
    const std::string port = text(walk, "port");
    fmt::print("{}\n", coloured(Colour::kBold, fmt::format("floating IP {} is {} on node {}", text(walk, "floating_ip"),
                                                           text(walk, "fixed_ip"), node)));
    fmt::print("  translated in {}, external network on {}{}\n", text(walk, "router"), text(walk, "network"),
               port.empty() ? "" : ", leaves by " + port);
    print_directions(walk);
}

ExitCode run(const Options& options) {
    ExitCode outcome = ExitCode::kOk;
    const auto result = ask_or_print(options.socket, {{"verb", "explain"}, {"address", options.address}}, outcome);
    if (!result) return outcome;
    if (options.output == "json") {
        print_json(*result);
        return outcome;
    }
    for (const json& walk : result->at("here"))
        print_walk(walk, text(*result, "node"));
    for (const json& other : result->at("elsewhere")) {
        fmt::print("floating IP {} ({}): {}\n", text(other, "floating_ip"), text(other, "fixed_ip"),
                   text(other, "where"));
    }
    return outcome;
}

}  // namespace

void add_explain(CommandLine& line) {
    Verb verb = line.verb("explain", "Say why a floating IP's packets are fast or slow");
    auto options = std::make_shared<Options>();
    verb.argument("WHAT", options->address, "a floating IP, the fixed IP behind one, a router's namespace or its id");
    add_socket_option(verb, options->socket);
    add_output_option(verb, options->output);
    verb.footer(
        R"(The steps are what Linux would do with a packet, in the order in which it would, up to the first thing that the
fast path does not understand.

Examples:
  fiplane explain 172.24.5.1
  fiplane explain qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
