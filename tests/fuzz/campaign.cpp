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

std::optional<std::string> Campaign::try_all(const std::vector<Input>& inputs, Outcome& outcome) {
    forget_flows(inputs.back().hook);
    expected_ = runner_.counters();
    for (const Input& input : inputs) {
        if (auto complaint = run(input, outcome)) return complaint;
        expect(input, outcome.record);
    }
    if (runner_.counters() != expected_) return "the counters did not rise by exactly these packets";
    return std::nullopt;
}

/// The counters are read once for the whole batch. If they are wrong, its frames run again one by one.
std::optional<Finding> Campaign::run_batch(std::size_t count) {
    Outcome outcome;
    forget_flows(batch_[0].hook);
    expected_ = runner_.counters();
    for (std::size_t i = 0; i < count; ++i) {
        if (auto complaint = run(batch_[i], outcome)) {
            const bool remembers = batch_[i].hook == FL_HOOK_TC_ROUTER;
            const auto first = batch_.begin() + static_cast<std::ptrdiff_t>(remembers ? 0 : i);
            return Finding{{first, batch_.begin() + static_cast<std::ptrdiff_t>(i + 1)}, std::move(*complaint)};
        }
        expect(batch_[i], outcome.record);
        ++verdicts_[outcome.record.reason];
        fins_put_off_ += outcome.fin_put_off ? 1 : 0;
    }
    frames_ += count;
    if (runner_.counters() == expected_) return std::nullopt;
    for (std::size_t i = 0; i < count; ++i) {
        if (auto complaint = try_all({batch_[i]}, outcome)) return Finding{{batch_[i]}, std::move(*complaint)};
    }
    return Finding{{batch_[0]}, "the counters of this frame's batch were wrong, each frame's alone are right"};
}

std::optional<Finding> Campaign::fuzz(Generator& generator, fl_hook hook, const Limits& limits) {
    verdicts_ = {};
    frames_ = 0;
    fins_put_off_ = 0;
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
    const auto still_fails = [&](const std::vector<Input>& inputs) {
        return try_all(inputs, outcome) == finding.complaint;
    };
    if (!still_fails(finding.inputs)) return finding;  // it takes more than these frames
    for (std::size_t cut = finding.inputs.size() - 1; cut > 0; cut = cut == 1 ? 0 : (cut + 1) / 2) {
        for (std::size_t at = 0; at + cut < finding.inputs.size();) {
            std::vector<Input> fewer = finding.inputs;
            const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(at);
            fewer.erase(first, first + static_cast<std::ptrdiff_t>(cut));
            if (still_fails(fewer))
                finding.inputs = std::move(fewer);
            else
                at += cut;
        }
    }
    const auto last_as = [&](Input last) {
        std::vector<Input> inputs = finding.inputs;
        inputs.back() = std::move(last);
        if (still_fails(inputs)) finding.inputs = std::move(inputs);
    };
    for (std::size_t cut = finding.inputs.back().frame.size() / 2; cut > 0; cut /= 2) {
        Input smaller = finding.inputs.back();
        if (smaller.frame.size() - cut < Generator::kSmallest) continue;
        smaller.frame.resize(smaller.frame.size() - cut);
        last_as(std::move(smaller));
    }
    for (std::size_t i = 0; i < finding.inputs.back().frame.size(); ++i) {
        Input simpler = finding.inputs.back();
        simpler.frame[i] = 0;
        last_as(std::move(simpler));
    }
    return finding;
}

}  // namespace fiplane::test
