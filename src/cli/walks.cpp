// SPDX-License-Identifier: Apache-2.0
#include "cli/walks.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace fiplane::cli {

using nlohmann::json;

namespace {

std::string text(const json& row, const char* key) {
    return row.at(key).get<std::string>();
}

void print_direction(const json& walk, const char* title, const char* fast, const char* reason, const char* steps) {
    const bool is_fast = walk.at(fast).get<bool>();
    fmt::print("  {}: {}\n", title,
               is_fast ? coloured(Colour::kGreen, "fast") : coloured(Colour::kYellow, "slow: " + text(walk, reason)));
    int number = 0;
    for (const json& step : walk.at(steps)) {
        const std::string netns = text(step, "netns");
        fmt::print("    {:2}. {}{}\n", ++number, netns.empty() ? "" : netns + ": ", text(step, "text"));
    }
}

}  // namespace

Colour colour_of(const json& row) {
    return text(row, "state") == "fast" && text(row, "reason_outside").empty() ? Colour::kGreen : Colour::kYellow;
}

std::string state_of(const json& row) {
    const std::string outside = text(row, "reason_outside");
    if (text(row, "state") == "fast") return outside.empty() ? "fast" : "fast, to the world slow: " + outside;
    const std::string in = text(row, "reason_in");
    const std::string out = text(row, "reason_out");
    if (in == out) return "slow: " + in;
    if (row.at("fast_in").get<bool>()) return "slow out: " + out;
    if (row.at("fast_out").get<bool>()) return "slow in: " + in;
    return fmt::format("slow in: {}; out: {}", in, out);
}

void print_routers(const json& rows) {
    TextTable table({{"router"}, {"kind"}, {"ports"}, {"floating IPs", TextTable::Align::kRight}});
    for (const json& row : rows) {
        table.add({text(row, "id"), text(row, "kind"),
                   fmt::format("{}", fmt::join(row.at("ports").get<std::vector<std::string>>(), " ")),
                   std::to_string(row.at("floating_ips").size())});
    }
    table.print();
}

void print_directions(const json& walk) {
    print_direction(walk, "inbound", "fast_in", "reason_in", "steps_in");
    print_direction(walk, "outbound", "fast_out", "reason_out", "steps_out");
    const std::string outside = text(walk, "reason_outside");
    if (!outside.empty()) fmt::print("  to the world: {}\n", coloured(Colour::kYellow, "slow: " + outside));
}

}  // namespace fiplane::cli
