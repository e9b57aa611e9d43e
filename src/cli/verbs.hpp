// SPDX-License-Identifier: Apache-2.0
// The verbs of the command line: one file each, whose function declares it.
#pragma once

#include "cli/command_line.hpp"

namespace fiplane::cli {

void add_validate(CommandLine& line);
void add_plan(CommandLine& line);
void add_apply(CommandLine& line);
void add_teardown(CommandLine& line);
void add_agent(CommandLine& line);
void add_reload(CommandLine& line);
void add_status(CommandLine& line);
void add_explain(CommandLine& line);
void add_survey(CommandLine& line);
void add_detach(CommandLine& line);
void add_fast_path(CommandLine& line);
void add_version(CommandLine& line);

}  // namespace fiplane::cli
