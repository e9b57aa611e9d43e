// SPDX-License-Identifier: Apache-2.0
// fiplane: the command line. Every verb's exit code is an ExitCode (core/result.hpp).
#include <cstdio>

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
    CLI::App app{"Overlay networks, routers and floating IPs on plain IP, with an eBPF fast path."};
    app.name("fiplane");
    app.require_subcommand(1);
    app.footer(kExitCodes);
    app.set_version_flag("--version", "fiplane " FIPLANE_VERSION);
    ExitCode outcome = ExitCode::kOk;
    for (const auto add : {add_validate, add_plan, add_apply, add_teardown, add_agent, add_reload, add_status,
                           add_explain, add_fast_path, add_version}) {
        add(app, outcome);
    }
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& asked) {  // --help, --version
        return app.exit(asked);
    } catch (const CLI::ParseError& mistake) {
        const bool verb_known = !app.get_subcommands().empty();
        const std::string verb = verb_known ? " " + app.get_subcommands().front()->get_name() : "";
        return static_cast<int>(
            print_error({ExitCode::kUsage, mistake.what(), {}, "see `fiplane" + verb + " --help`"}));
    }
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
