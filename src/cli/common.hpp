// SPDX-License-Identifier: Apache-2.0
// What several verbs share: options with the same meaning, loading, asking the agent.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "agent/control_protocol.hpp"
#include "build/builder.hpp"
#include "cli/command_line.hpp"
#include "core/model.hpp"
#include "core/result.hpp"

namespace fiplane::cli {

constexpr const char* kDefaultPinDir = "/sys/fs/bpf/fiplane";

/// "-o json" or "-o text".
void add_output_option(Verb& verb, std::string& output);
/// "--socket PATH", also from FIPLANE_SOCKET.
void add_socket_option(Verb& verb, std::string& socket);
/// "--node NAME"; the default is the host's name up to the first dot.
void add_node_option(Verb& verb, std::string& node);
void add_state_dir_option(Verb& verb, std::string& state_dir);
void add_pin_dir_option(Verb& verb, std::string& pin_dir);

/// Loads a file for a verb; with mistakes, all of them are printed and the outcome is kBadTopology.
[[nodiscard]] std::optional<Topology> load_or_print(const std::string& file);
/// All mistakes, one a line, and then how many there are.
void print_mistakes(const std::vector<Mistake>& mistakes, const std::string& file);

/// Asks the agent; prints why if that fails, and leaves the code in `outcome`. Says on stderr if it takes long.
[[nodiscard]] std::optional<nlohmann::json> ask_or_print(const std::string& socket, const nlohmann::json& request,
                                                         ExitCode& outcome);

/// One line for a step of the builder: "+ qrouter-…: rule 32768 …".
[[nodiscard]] std::string step_line(const Step& step);
[[nodiscard]] nlohmann::json to_json(const Step& step);
/// "1 change", "2 changes".
[[nodiscard]] std::string count(std::size_t number, const std::string& noun);

}  // namespace fiplane::cli
