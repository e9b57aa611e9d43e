// SPDX-License-Identifier: Apache-2.0
// Programs of the system's that do what would be wrong to do again.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "core/result.hpp"

namespace fiplane {

/// Runs a program (found in the system's directories, whatever PATH is) with its arguments, in the namespaces of the
/// calling thread, and returns what it prints. An error if it is not there (kMissingFeature), fails, or takes longer
/// than `patience`: it is killed then.
[[nodiscard]] Result<std::string> run_program(const std::vector<std::string>& words,
                                              std::chrono::milliseconds patience);

/// Asks modprobe(8) for a module, for uses by which the kernel does not load it itself. Where that fails, what needs
/// the module says so.
void load_kernel_module(const std::string& name);

}  // namespace fiplane
