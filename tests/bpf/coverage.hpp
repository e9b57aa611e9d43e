// SPDX-License-Identifier: Apache-2.0
// Which verdicts the suite has produced. Each CTest case is a process of its own, so the test that judges coverage runs
// this program once more with an environment variable that names a file, and every process that sees it adds to it.
#pragma once

#include <set>
#include <string>
#include <utility>

#include "fiplane/abi.h"

namespace fiplane::test {

using Covered = std::set<std::pair<fl_hook, fl_reason>>;

inline constexpr const char* kCoverageVariable = "FIPLANE_BPF_COVERAGE_FILE";

/// Adds a verdict to the file, if there is one.
void note_covered(fl_hook hook, fl_reason reason);

[[nodiscard]] Covered read_covered(const std::string& path);

}  // namespace fiplane::test
