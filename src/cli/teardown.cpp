// SPDX-License-Identifier: Apache-2.0
// fiplane teardown: remove everything that fiplane made on this node, and nothing else.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "agent/privileges.hpp"
#include "agent/single_instance.hpp"
#include "build/builder.hpp"
#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "datapath/datapath.hpp"
#include "datapath/pins.hpp"

namespace fiplane::cli {
namespace {

struct Options {
    bool dry_run = false;
    std::string pin_dir = kDefaultPinDir;
};

Result<> remove_all(const Plan& plan, const Options& options) {
    // Programs first: from then on every packet takes the slow path, which goes piece by piece.
    if (auto removed = Datapath::remove_pins(options.pin_dir); !removed) return removed;
    Progress progress("teardown", plan.steps().size());
    return Builder::apply_teardown(plan, [&](const Step& step) {
        fmt::print("{}\n", step_line(step));
        progress.step(step.object);
    });
}

ExitCode run(const Options& options) {
    if (const auto privileged = require_privileges("remove the overlay"); !privileged)
        return print_error(privileged.error());
    const auto instance = SingleInstance::acquire();
    if (!instance) return print_error(instance.error());
    // Programs that a router's connections go through are for detach, which tells conntrack of them.
    if (const auto ours = check_mode(PinPaths(options.pin_dir), false); !ours) return print_error(ours.error());
    const auto plan = Builder::plan_teardown();
    if (!plan) return print_error(plan.error());
    std::error_code status;
    const bool pinned = std::filesystem::exists(options.pin_dir, status);
    if (pinned) fmt::print("- programs and maps below {}\n", options.pin_dir);
    if (options.dry_run) {
        for (const Step& step : plan->steps())
            fmt::print("{}\n", step_line(step));
    } else if (const auto removed = remove_all(*plan, options); !removed) {
        return print_error(removed.error());
    }
    if (plan->empty() && !pinned) {
        fmt::print("nothing of fiplane's is on this node\n");
    } else {
        fmt::print("{} {}\n", count(plan->steps().size(), "object"), options.dry_run ? "would be removed" : "removed");
    }
    return ExitCode::kOk;
}

}  // namespace

void add_teardown(CommandLine& line) {
    Verb verb = line.verb("teardown", "Remove everything that fiplane made on this node");
    auto options = std::make_shared<Options>();
    verb.flag("-n,--dry-run", options->dry_run, "only say what would be removed");
    add_pin_dir_option(verb, options->pin_dir);
    verb.footer(
        R"(Objects are known by their mark (interface alias fiplane:...); nobody else's are touched, VM devices neither.
The state directory stays, so that an overlay that is built again has the same addresses. Refuses while an agent runs, and
where one that followed routers has left its programs: for those there is `fiplane detach`.

Example:
  fiplane teardown --dry-run)");
    verb.does([options] { return run(*options); });
}

}  // namespace fiplane::cli
