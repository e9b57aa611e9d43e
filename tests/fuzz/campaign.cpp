// SPDX-License-Identifier: Apache-2.0
#include "fuzz/campaign.hpp"

#include <algorithm>

namespace fiplane::test {

std::optional<std::string> Campaign::run(const Input& input, Outcome& outcome) {
    if (auto complaint = runner_.run(input, outcome)) return complaint;
    return judge_.judge(input, outcome);
}

void Campaign::forget_flows(fl_hook hook) {
    if (hook != FL_HOOK_TC_ROUTER) return;
    runner_.forget_flows();
    judge_.forget_flows();
}

/// Both objects ran: two packets.
void Campaign::expect(const Input& input, const fl_record& record) {
    CounterRow& row = expected_[std::size_t{record.hook} * FL_REASON_COUNT + record.reason];
    row.packets += 2;
    row.bytes += 2 * input.frame.size();
}

std::optional<std::string> Campaign::try_one(const Input& input, Outcome& outcome) {
    forget_flows(input.hook);
    expected_ = runner_.counters();
    if (auto complaint = run(input, outcome)) return complaint;
    expect(input, outcome.record);
    if (runner_.counters() != expected_) return "the counters did not rise by exactly this packet";
    return std::nullopt;
}

/// The counters are read once for the whole batch. If they are wrong, its frames run again one by one.
std::optional<Finding> Campaign::run_batch(std::size_t count) {
    Outcome outcome;
    forget_flows(batch_[0].hook);
    expected_ = runner_.counters();
    for (std::size_t i = 0; i < count; ++i) {
        if (auto complaint = run(batch_[i], outcome)) return Finding{batch_[i], std::move(*complaint)};
        expect(batch_[i], outcome.record);
        ++verdicts_[outcome.record.reason];
    }
    frames_ += count;
    if (runner_.counters() == expected_) return std::nullopt;
    for (std::size_t i = 0; i < count; ++i) {
        if (auto complaint = try_one(batch_[i], outcome)) return Finding{batch_[i], std::move(*complaint)};
    }
    return Finding{batch_[0], "the counters of this frame's batch were wrong, each frame's alone are right"};
}

std::optional<Finding> Campaign::fuzz(Generator& generator, fl_hook hook, const Limits& limits) {
    verdicts_ = {};
    frames_ = 0;
    std::size_t count = 0;
    for (const Template& each : generator.templates()) {
        Input& input = batch_[count++];
        input = {.hook = hook, .device = each.device, .mark = each.mark, .frame = each.frame};
        if (count < kBatch && &each != &generator.templates().back()) continue;
        if (auto finding = run_batch(count)) return finding;
        count = 0;
    }
    const auto start = std::chrono::steady_clock::now();
    while (limits.frames == 0 || frames_ < limits.frames) {
        if (limits.time.count() > 0 && std::chrono::steady_clock::now() - start >= limits.time) break;
        for (Input& input : batch_)
            generator.next(input);
        if (auto finding = run_batch(kBatch)) return finding;
    }
    return std::nullopt;
}

Finding Campaign::minimise(Finding finding) {
    Outcome outcome;
    const auto still_fails = [&](const Input& smaller) { return try_one(smaller, outcome) == finding.complaint; };
    if (!still_fails(finding.input)) return finding;  // it takes more than this frame
    for (std::size_t cut = finding.input.frame.size() / 2; cut > 0; cut /= 2) {
        Input smaller = finding.input;
        if (smaller.frame.size() - cut < Generator::kSmallest) continue;
        smaller.frame.resize(smaller.frame.size() - cut);
        if (still_fails(smaller)) finding.input = smaller;
    }
    for (std::size_t i = 0; i < finding.input.frame.size(); ++i) {
        Input simpler = finding.input;
        simpler.frame[i] = 0;
        if (still_fails(simpler)) finding.input = simpler;
    }
    return finding;
}

}  // namespace fiplane::test
