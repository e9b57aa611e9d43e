// SPDX-License-Identifier: Apache-2.0
// fiplane version: of the program and of the layout of its tables.
#include <fmt/format.h>

#include "cli/verbs.hpp"
#include "fiplane/abi.h"

namespace fiplane::cli {

void add_version(CommandLine& line) {
    Verb verb = line.verb("version", "Print the version");
    verb.footer("Example:\n  fiplane version");
    verb.does([] {
        fmt::print("fiplane {} (table layout {})\n", FIPLANE_VERSION, FL_ABI_LAYOUT);
        return ExitCode::kOk;
    });
}

}  // namespace fiplane::cli
