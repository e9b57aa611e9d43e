// SPDX-License-Identifier: Apache-2.0
// Runs a program and collects what it says: how tests ask ip, bridge and nft as witnesses.
#pragma once

#include <string>
#include <vector>

#include "linux/netns.hpp"

namespace fiplane::test {

struct ProcessResult {
    int exit_status = -1;  ///< of the program; 128 + signal if one killed it; -1 if it could not be started
    std::string out;
    std::string err;
};

/// Runs `command` (looked up in PATH, no shell) in the calling thread's namespaces and waits for its end.
[[nodiscard]] ProcessResult run_process(const std::vector<std::string>& command);

/// The same inside a network namespace; the mount namespace stays the caller's.
[[nodiscard]] ProcessResult run_process_in(const Netns& netns, const std::vector<std::string>& command);

}  // namespace fiplane::test
