// SPDX-License-Identifier: Apache-2.0
// The verbs of the command line: one file each. Every function adds its verb to the application; when the verb is
// chosen, its exit code is left in `outcome`.
#pragma once

#include <CLI/CLI.hpp>

#include "core/result.hpp"

namespace fiplane::cli {

void add_validate(CLI::App& app, ExitCode& outcome);
void add_plan(CLI::App& app, ExitCode& outcome);
void add_apply(CLI::App& app, ExitCode& outcome);
void add_teardown(CLI::App& app, ExitCode& outcome);
void add_agent(CLI::App& app, ExitCode& outcome);
void add_reload(CLI::App& app, ExitCode& outcome);
void add_status(CLI::App& app, ExitCode& outcome);
void add_explain(CLI::App& app, ExitCode& outcome);
void add_fast_path(CLI::App& app, ExitCode& outcome);
void add_version(CLI::App& app, ExitCode& outcome);

}  // namespace fiplane::cli
