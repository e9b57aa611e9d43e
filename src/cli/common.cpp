// SPDX-License-Identifier: Apache-2.0
#include "cli/common.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "agent/control_client.hpp"
#include "cli/terminal.hpp"
#include "topology/load.hpp"

namespace fiplane::cli {
namespace {

std::string host_name() {
    std::array<char, 256> name{};
    if (gethostname(name.data(), name.size() - 1) != 0) return "";
    const std::string text(name.data());
    return text.substr(0, text.find('.'));
}

const char* action_name(Step::Action action) {
    switch (action) {
        case Step::Action::kAdd:
            return "add";
        case Step::Action::kChange:
            return "change";
        case Step::Action::kRemove:
            return "remove";
    }
    return "";
}

}  // namespace

void add_output_option(Verb& verb, std::string& output) {
    verb.option({.names = "-o,--output", .help = "text or json", .type = "FORMAT", .choices = {"text", "json"}},
                output);
}

void add_socket_option(Verb& verb, std::string& socket) {
    verb.option(
        {.names = "--socket", .help = "the agent's control socket", .type = "PATH", .variable = "FIPLANE_SOCKET"},
        socket);
}

void add_node_option(Verb& verb, std::string& node) {
    node = host_name();
    verb.option({.names = "--node", .help = "the node of the topology that this machine is", .type = "NAME"}, node);
}

void add_state_dir_option(Verb& verb, std::string& state_dir) {
    verb.option(
        {.names = "--state-dir", .help = "link-local pairs and rule priorities, kept over reboots", .type = "DIR"},
        state_dir);
}

void add_pin_dir_option(Verb& verb, std::string& pin_dir) {
    verb.option({.names = "--pin-dir", .help = "where maps and links are pinned, on a bpffs", .type = "DIR"}, pin_dir);
}

void print_mistakes(const std::vector<Mistake>& mistakes, const std::string& file) {
    fmt::print(stderr, "{}", format_mistakes(mistakes, file));
    fmt::print(stderr, "fiplane: {}: {}\n", file, count(mistakes.size(), "mistake"));
}

std::optional<Topology> load_or_print(const std::string& file) {
    auto loaded = load_topology(file);
    if (!loaded.topology) print_mistakes(loaded.mistakes, file);
    return std::move(loaded.topology);
}

std::optional<nlohmann::json> ask_or_print(const std::string& socket, const nlohmann::json& request,
                                           ExitCode& outcome) {
    const auto waiting = [](int seconds) {
        if (seconds == 2 || seconds % 10 == 0)
            fmt::print(stderr, "fiplane: waiting for the agent's answer ({} s)\n", seconds);
    };
    auto response = ask_agent(socket, request, waiting);
    if (response) return std::move(*response);
    const Refusal& refusal = response.error();
    if (refusal.mistakes.empty()) {
        outcome = print_error(refusal.error);
    } else {
        print_mistakes(refusal.mistakes, refusal.file);
        outcome = refusal.error.code;
    }
    return std::nullopt;
}

std::string step_line(const Step& step) {
    const auto [sign, colour] = step.action == Step::Action::kAdd      ? std::pair{"+", Colour::kGreen}
                                : step.action == Step::Action::kChange ? std::pair{"~", Colour::kYellow}
                                                                       : std::pair{"-", Colour::kRed};
    std::string text = step.netns.empty() ? step.object : fmt::format("{}: {}", step.netns, step.object);
    if (!step.detail.empty()) text += ": " + step.detail;
    return coloured(colour, fmt::format("{} {}", sign, text));
}

nlohmann::json to_json(const Step& step) {
    return {
        {"action", action_name(step.action)}, {"netns", step.netns}, {"object", step.object}, {"detail", step.detail}};
}

std::string count(std::size_t number, const std::string& noun) {
    return fmt::format("{} {}{}", number, noun, number == 1 ? "" : "s");
}

}  // namespace fiplane::cli
