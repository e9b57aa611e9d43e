// SPDX-License-Identifier: Apache-2.0
#include "build/allocations.hpp"

#include <fmt/format.h>

#include <charconv>
#include <vector>

namespace fiplane::build {
namespace {

constexpr std::uint32_t kPairEnd = kPairPool.address.value + (1U << (32 - kPairPool.length));

/// Calls `line(key, value)` for each "key,value" line.
template <typename Function>
void for_each_line(std::string_view text, Function&& line) {
    while (!text.empty()) {
        const auto end = text.find('\n');
        const std::string_view current = text.substr(0, end);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
        const auto comma = current.find(',');
        if (comma == std::string_view::npos || comma == 0) continue;
        line(current.substr(0, comma), current.substr(comma + 1));
    }
}

std::optional<std::uint32_t> parse_number(std::string_view text) {
    std::uint32_t number = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (status != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

}  // namespace

Allocations Allocations::parse(std::string_view pairs, std::string_view priorities) {
    Allocations out;
    for_each_line(pairs, [&](std::string_view key, std::string_view value) {
        const auto pair = Prefix::parse(value);
        if (pair && pair->length == 31) (void)out.add_pair(std::string{key}, pair->address);
    });
    for_each_line(priorities, [&](std::string_view key, std::string_view value) {
        const auto fip = Ipv4::parse(key);
        const auto priority = parse_number(value);
        if (fip && priority) (void)out.add_priority(*fip, *priority);
    });
    return out;
}

std::string Allocations::print_pairs() const {
    std::string text;
    for (const auto& [router, first] : pairs_)
        text += fmt::format("{},{}/31\n", router, first.str());
    return text;
}

std::string Allocations::print_priorities() const {
    std::string text;
    for (const auto& [fip, priority] : priorities_)
        text += fmt::format("{},{}\n", fip.str(), priority);
    return text;
}

bool Allocations::add_pair(const std::string& router_id, Ipv4 first) {
    const bool usable = kPairPool.contains(first) && first.value % 2 == 0 && !used_pairs_.contains(first.value);
    if (!usable || !pairs_.emplace(router_id, first).second) return false;
    used_pairs_.insert(first.value);
    return true;
}

bool Allocations::add_priority(Ipv4 fip, std::uint32_t priority) {
    const bool usable = priority >= kPriorityFirst && priority <= kPriorityLast && !used_priorities_.contains(priority);
    if (!usable || !priorities_.emplace(fip, priority).second) return false;
    used_priorities_.insert(priority);
    return true;
}

Result<Ipv4> Allocations::reserve_pair(const std::string& router_id, std::optional<Ipv4> live) {
    if (const auto found = pairs_.find(router_id); found != pairs_.end()) return found->second;
    if (live && add_pair(router_id, *live)) return *live;
    while (next_pair_ < kPairEnd && used_pairs_.contains(next_pair_))
        next_pair_ += 2;
    if (next_pair_ >= kPairEnd) {
        return fail(ExitCode::kTableFull, fmt::format("no link-local pair is left for router {}", router_id),
                    "fip-linklocal-networks", fmt::format("{} holds {} pairs", kPairPool.str(), pairs_.size()));
    }
    const Ipv4 first{next_pair_};
    (void)add_pair(router_id, first);
    return first;
}

Result<std::uint32_t> Allocations::reserve_priority(Ipv4 fip, std::optional<std::uint32_t> live) {
    if (const auto found = priorities_.find(fip); found != priorities_.end()) return found->second;
    if (live && add_priority(fip, *live)) return *live;
    while (next_priority_ <= kPriorityLast && used_priorities_.contains(next_priority_))
        ++next_priority_;
    if (next_priority_ > kPriorityLast) {
        return fail(ExitCode::kTableFull, fmt::format("no rule priority is left for floating IP {}", fip.str()),
                    "fip-priorities", fmt::format("{} to {} are taken", kPriorityFirst, kPriorityLast));
    }
    const std::uint32_t priority = next_priority_;
    (void)add_priority(fip, priority);
    return priority;
}

void Allocations::release_pair(const std::string& router_id) {
    const auto found = pairs_.find(router_id);
    if (found == pairs_.end()) return;
    next_pair_ = std::min(next_pair_, found->second.value);
    used_pairs_.erase(found->second.value);
    pairs_.erase(found);
}

void Allocations::release_priority(Ipv4 fip) {
    const auto found = priorities_.find(fip);
    if (found == priorities_.end()) return;
    next_priority_ = std::min(next_priority_, found->second);
    used_priorities_.erase(found->second);
    priorities_.erase(found);
}

Result<> Allocations::merge(const Allocations& other) {
    Allocations merged = *this;
    for (const auto& [router, first] : other.pairs_) {
        const auto found = merged.pairs_.find(router);
        if (found != merged.pairs_.end() ? found->second == first : merged.add_pair(router, first)) continue;
        return fail(ExitCode::kFailed,
                    fmt::format("link-local pair {}/31 of router {} was given away meanwhile", first.str(), router),
                    "fip-linklocal-networks", "another fiplane changed the file: run it again");
    }
    for (const auto& [fip, priority] : other.priorities_) {
        const auto found = merged.priorities_.find(fip);
        if (found != merged.priorities_.end() ? found->second == priority : merged.add_priority(fip, priority)) {
            continue;
        }
        return fail(ExitCode::kFailed,
                    fmt::format("rule priority {} of {} was given away meanwhile", priority, fip.str()),
                    "fip-priorities", "another fiplane changed the file: run it again");
    }
    *this = std::move(merged);
    return {};
}

}  // namespace fiplane::build
