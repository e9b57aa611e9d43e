// SPDX-License-Identifier: Apache-2.0
// Capabilities: which ones are needed, and giving up all others.
#pragma once

#include "core/result.hpp"

namespace fiplane {

/// kNotPrivileged, naming what is missing, unless the process has every capability that managing a node takes.
/// `action` completes "cannot ...": "build the overlay".
[[nodiscard]] Result<> require_privileges(const std::string& action);

/// Keeps only those capabilities, and nothing in the bounding set beyond them. Before threads are started.
[[nodiscard]] Result<> drop_other_privileges();

}  // namespace fiplane
