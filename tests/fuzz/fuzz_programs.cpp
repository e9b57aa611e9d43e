// SPDX-License-Identifier: Apache-2.0
// Fuzzes the BPF programs by test runs: replays the corpus, then sends altered frames through each program and judges
// what comes out. Exit code: 0 all rules hold, 1 a finding, 2 it could not run, 4 no root (a skip for CTest).
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <exception>
#include <filesystem>
#include <random>
#include <set>

#include "core/reasons.hpp"
#include "fuzz/campaign.hpp"
#include "fuzz/frame_file.hpp"
#include "support/frame_diff.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

struct Options {
    std::uint64_t seed = std::random_device{}();
    std::uint64_t count = 0;
    double seconds = 0;
    std::vector<std::string> programs;
    std::string corpus = FIPLANE_FUZZ_CORPUS;
    std::string findings = FIPLANE_FUZZ_FINDINGS;
    std::string frame;
};

/// The ways through a program that a fuzzer must keep reaching: one whose frames all fail the first check proves
/// nothing.
std::set<fl_reason> must_see(fl_hook hook) {
    if (hook == FL_HOOK_TC_ROUTER)
        return {FL_REASON_FIP_IN,  FL_REASON_FIP_OUT,   FL_REASON_FIP_HAIRPIN, FL_REASON_ROUTED,
                FL_REASON_CROSSED, FL_REASON_ARP_REPLY, FL_REASON_LINUX_FLOW,  FL_REASON_DROP_REWRITE};
    std::set<fl_reason> out = {FL_REASON_FIP_IN, FL_REASON_L2_FORWARD, FL_REASON_ARP_REPLY};
    if (hook == FL_HOOK_TC_PORT) {
        out.erase(FL_REASON_FIP_IN);  // a port is in no external segment here
        out.insert({FL_REASON_FIP_OUT, FL_REASON_FIP_HAIRPIN, FL_REASON_ROUTED});
    }
    if (hook == FL_HOOK_XDP_UNDERLAY || hook == FL_HOOK_TC_UNDERLAY || hook == FL_HOOK_TC_TUNNEL)
        out.insert(FL_REASON_L2_TO_HOST);
    return out;
}

void print_frame(const char* title, View bytes) {
    const Bytes frame(bytes.begin(), bytes.end());
    fmt::print("{} ({} bytes)\n", title, frame.size());
    for (const Field& field : dissect(frame))
        fmt::print("    {:4} {:34} {}\n", field.offset, field.name, field.value);
}

class Fuzzer {
  public:
    explicit Fuzzer(Options options) : options_(std::move(options)) {}

    int run() {
        if (!options_.frame.empty()) return show(options_.frame);
        const auto files = frame_files(options_.corpus);
        for (const auto& path : files) {
            const std::vector<Input> inputs = read_frame_file(path);
            const fl_hook hook = inputs.back().hook;
            Outcome outcome;
            if (!chosen(hook)) continue;
            if (auto complaint = campaign(hook).try_all(inputs, outcome)) return report({inputs, *complaint}, path);
        }
        fmt::print("corpus: {} frames\nseed {}\n", files.size(), options_.seed);
        if (options_.count == 0 && options_.seconds == 0) return 0;
        for (int hook = 0; hook < FL_HOOK_COUNT; ++hook) {
            if (!chosen(static_cast<fl_hook>(hook))) continue;
            if (const int code = fuzz(static_cast<fl_hook>(hook)); code != 0) return code;
        }
        return 0;
    }

  private:
    [[nodiscard]] bool chosen(fl_hook hook) const {
        return options_.programs.empty() ||
               std::ranges::find(options_.programs, hook_name(hook)) != options_.programs.end();
    }

    [[nodiscard]] const Cloud& cloud(fl_hook hook) const { return hook == FL_HOOK_TC_ROUTER ? routers_ : overlay_; }
    [[nodiscard]] Campaign& campaign(fl_hook hook) {
        return hook == FL_HOOK_TC_ROUTER ? router_campaign_ : overlay_campaign_;
    }

    int fuzz(fl_hook hook) {
        const std::size_t programs = options_.programs.empty() ? std::size_t{FL_HOOK_COUNT} : options_.programs.size();
        const Limits limits{.frames = options_.count,
                            .time = std::chrono::duration<double>(options_.seconds / static_cast<double>(programs))};
        Generator generator(cloud(hook), hook, options_.seed);
        Campaign& campaign = this->campaign(hook);
        const auto start = std::chrono::steady_clock::now();
        auto finding = campaign.fuzz(generator, hook, limits);
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        fmt::print("{}: {} frames in {:.1f} s, {:.0f} frames/s\n", hook_name(hook), campaign.frames(), time.count(),
                   static_cast<double>(campaign.frames()) / time.count());
        for (std::size_t i = 0; i < FL_REASON_COUNT; ++i) {
            if (campaign.verdicts()[i] != 0)
                fmt::print("    {:16} {:12}\n", reason_name(static_cast<fl_reason>(i)), campaign.verdicts()[i]);
        }
        if (finding) return report(campaign.minimise(std::move(*finding)), {});
        for (const fl_reason reason : must_see(hook)) {
            if (campaign.verdicts()[reason] != 0) continue;
            fmt::print("{}: no frame was {}: the fuzzer does not get that far any more\n", hook_name(hook),
                       reason_name(reason));
            return 1;
        }
        if (hook == FL_HOOK_TC_ROUTER && campaign.fins_put_off() == 0) {
            fmt::print("no FIN was put off: the fuzzer does not get that far any more\n");
            return 1;
        }
        return 0;
    }

    int report(const Finding& finding, std::filesystem::path path) {
        if (path.empty()) {
            path = std::filesystem::path(options_.findings) /
                   fmt::format("{}-{}.frame", hook_name(finding.inputs.back().hook), options_.seed);
            write_frame_file(path, finding.inputs, finding.complaint);
        }
        fmt::print("\nFOUND in {}: {}\n", hook_name(finding.inputs.back().hook), finding.complaint);
        show(path);
        fmt::print("Again: fuzz_programs --frame {}\nA fixed one belongs in tests/fuzz/corpus/programs.\n",
                   path.string());
        return 1;
    }

    /// Runs one file and prints all about it.
    int show(const std::filesystem::path& path) {
        const std::vector<Input> inputs = read_frame_file(path);
        const Input& input = inputs.back();
        Outcome outcome;
        const auto complaint = campaign(input.hook).try_all(inputs, outcome);
        if (inputs.size() > 1) fmt::print("the last of {} frames:\n", inputs.size());
        const fl_record& record = outcome.record;
        fmt::print("{} on device {}, gso_size {}, mark {}: action {}, {} {}\n", hook_name(input.hook), input.device,
                   input.gso_size, input.mark, outcome.action, reason_name(static_cast<fl_reason>(record.reason)),
                   complaint.value_or("as it should be"));
        if (record.redirects != 0)
            fmt::print("redirect kind {} to device {} with flags {}\n", record.via, record.ifindex, record.flags);
        if (outcome.meta)
            fmt::print("metadata: kind {}, device {}, flags {}\n", int{outcome.meta->kind}, outcome.meta->ifindex,
                       outcome.meta->flags);
        print_frame("in", input.frame);
        print_frame("out", outcome.frame);
        return complaint ? 1 : 0;
    }

    Options options_;
    Cloud overlay_{Cloud::Kind::kOverlay};
    Cloud routers_{Cloud::Kind::kRouters};
    Runner runner_{overlay_, routers_};
    Campaign overlay_campaign_{overlay_, runner_};
    Campaign router_campaign_{routers_, runner_};
};

}  // namespace

int main(int argc, char** argv) try {
    Options options;
    CLI::App app("Fuzzes the BPF programs; without --count and --seconds only the corpus is replayed.");
    app.add_option("--seed", options.seed, "the same seed gives the same frames (default: random, and printed)");
    app.add_option("--count", options.count, "frames for each program");
    app.add_option("--seconds", options.seconds, "time for all programs together");
    app.add_option("--program", options.programs, "only this program (may be repeated)")
        ->check([](const std::string& name) { return program_of(name) ? "" : "there is no such program"; });
    app.add_option("--corpus", options.corpus, "directory of frames that are replayed first");
    app.add_option("--findings", options.findings, "directory for frames that break a rule");
    app.add_option("--frame", options.frame, "run only this file and print what came of it");
    CLI11_PARSE(app, argc, argv);
    if (geteuid() != 0) {
        fmt::print("skipped: BPF test runs need root\n");
        return 4;
    }
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    return Fuzzer(std::move(options)).run();
} catch (const std::exception& error) {
    fmt::print(stderr, "fuzz_programs: {}\n", error.what());
    return 2;
}
