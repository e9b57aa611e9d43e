// SPDX-License-Identifier: Apache-2.0
// fiplane: the command line. Every verb's exit code is an ExitCode (core/result.hpp).
#include <cerrno>
#include <cstdio>
#include <exception>

#include "cli/terminal.hpp"
#include "cli/verbs.hpp"

namespace {

using namespace fiplane;
using namespace fiplane::cli;

constexpr const char* kExitCodes = R"(Exit codes:
   0  done                          6  a network device is missing
   1  the system refused something  7  an object with a needed name is somebody else's
   2  the topology file is wrong    8  another agent manages this node
   3  the command line is wrong     9  no agent answers
   4  a privilege is missing       10  a table is full
   5  the kernel lacks something

`fiplane VERB --help` explains a verb. All of it: fiplane(8).)";

int run(int argc, char** argv) {
    CommandLine line("Overlay networks, routers and floating IPs on plain IP, with an eBPF fast path.", kExitCodes);
    for (const auto add : {add_validate, add_plan, add_apply, add_teardown, add_agent, add_reload, add_status,
                           add_explain, add_survey, add_detach, add_fast_path, add_version}) {
        add(line);
    }
    const ExitCode outcome = line.run(argc, argv);
    // What is still in the buffer, at the latest, says whether all of it could be written.
    if (std::fflush(stdout) != 0 && outcome == ExitCode::kOk)
        return static_cast<int>(print_error(fail_errno(errno, "cannot write the output").error()));
    return static_cast<int>(outcome);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& unexpected) {  // out of memory, a bug: still one line and a code
        std::fprintf(stderr, "fiplane: %s\n", unexpected.what());
        return static_cast<int>(ExitCode::kFailed);
    }
}
