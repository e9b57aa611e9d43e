// SPDX-License-Identifier: Apache-2.0
// Runs frames in batches and looks at what came of them. The first broken rule ends a campaign.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/generator.hpp"
#include "fuzz/judge.hpp"
#include "fuzz/runner.hpp"

namespace fiplane::test {

/// `inputs`: those that it takes, in their order; the last one breaks the rule. More than one for tc_router only, which
/// remembers flows.
struct Finding {
    std::vector<Input> inputs;
    std::string complaint;
};

struct Limits {
    std::uint64_t frames = 0;  ///< 0: no limit
    std::chrono::duration<double> time{0};
};

class Campaign {
  public:
    Campaign(const Cloud& cloud, Runner& runner) : runner_(runner), judge_(cloud) {}

    /// Nothing if all rules hold for these frames, counters included. The outcome is the last one's.
    [[nodiscard]] std::optional<std::string> try_all(const std::vector<Input>& inputs, Outcome& outcome);

    /// Sends all templates, then altered frames until a limit is reached (not before the batch is full).
    [[nodiscard]] std::optional<Finding> fuzz(Generator& generator, fl_hook hook, const Limits& limits);

    /// Frames that break the same rule with less in them: fewer, the last one shorter, and zero where a byte does not
    /// matter.
    [[nodiscard]] Finding minimise(Finding finding);

    /// Since the start, by reason; templates of the last campaign included.
    [[nodiscard]] const std::array<std::uint64_t, FL_REASON_COUNT>& verdicts() const { return verdicts_; }
    [[nodiscard]] std::uint64_t frames() const { return frames_; }
    /// Of those that went to Linux without their FIN.
    [[nodiscard]] std::uint64_t fins_put_off() const { return fins_put_off_; }

  private:
    static constexpr std::size_t kBatch = 512;

    [[nodiscard]] std::optional<std::string> run(const Input& input, Outcome& outcome);
    /// Flows of followed routers begin anew with each batch, and with frames that are tried by themselves.
    void forget_flows(fl_hook hook);
    [[nodiscard]] std::optional<Finding> run_batch(std::size_t count);
    /// What the counters must have gained.
    void expect(const Input& input, const fl_record& record);

    Runner& runner_;
    Judge judge_;
    CounterTable expected_{};
    std::vector<Input> batch_{kBatch};
    std::array<std::uint64_t, FL_REASON_COUNT> verdicts_{};
    std::uint64_t frames_ = 0;
    std::uint64_t fins_put_off_ = 0;
};

}  // namespace fiplane::test
