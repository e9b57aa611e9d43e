// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fiplane::cli {
namespace {

bool use_colours() {
    static const bool kAnswer = [] {
        const char* refused = std::getenv("NO_COLOR");
        return isatty(STDOUT_FILENO) == 1 && (refused == nullptr || *refused == '\0');
    }();
    return kAnswer;
}

const char* code_of(Colour colour) {
    switch (colour) {
        case Colour::kNone:
            return "";
        case Colour::kBold:
            return "\033[1m";
        case Colour::kGreen:
            return "\033[32m";
        case Colour::kYellow:
            return "\033[33m";
        case Colour::kRed:
            return "\033[31m";
    }
    return "";
}

}  // namespace

ExitCode print_error(const Error& error) {
    fmt::print(stderr, "fiplane: {}\n", error.message());
    return error.code;
}

void print_json(const nlohmann::json& value) {
    fmt::print("{}\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string coloured(Colour colour, const std::string& text) {
    if (colour == Colour::kNone || !use_colours()) return text;
    return fmt::format("{}{}\033[0m", code_of(colour), text);
}

std::string percent(const nlohmann::json& share) {
    if (!share.is_number()) return "-";
    const double value = share.get<double>() * 100;
    const bool near_an_end = (value > 0 && value < 1) || (value > 99 && value < 100);
    // Rounding must not make something of nothing, nor all of nearly all.
    if (near_an_end) return fmt::format("{:.2f} %", std::clamp(value, 0.01, 99.99));
    return fmt::format("{:.1f} %", value);
}

std::string duration(std::int64_t seconds) {
    const auto days = seconds / 86400;
    const auto hours = seconds / 3600 % 24;
    const auto minutes = seconds / 60 % 60;
    if (days > 0) return fmt::format("{}d {}h", days, hours);
    if (hours > 0) return fmt::format("{}h {}m", hours, minutes);
    if (minutes > 0) return fmt::format("{}m {}s", minutes, seconds % 60);
    return fmt::format("{}s", seconds);
}

std::vector<std::size_t> TextTable::widths() const {
    std::vector<std::size_t> widths;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
        std::size_t width = columns_[i].title.size();
        for (const auto& row : rows_)
            width = std::max(width, row[i].text.size());
        widths.push_back(width);
    }
    return widths;
}

void TextTable::print() const {
    const auto width = widths();
    const auto print_row = [&](const std::vector<Cell>& row) {
        std::string line = " ";
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string pad(width[i] - row[i].text.size(), ' ');
            const std::string text = coloured(row[i].colour, row[i].text);
            const bool last = i + 1 == row.size();
            line += ' ';
            line += columns_[i].align == Align::kRight ? pad + text : last ? text : text + pad;
            if (!last) line += ' ';
        }
        fmt::print("{}\n", line);
    };
    std::vector<Cell> titles;
    titles.reserve(columns_.size());
    for (const Column& column : columns_)
        titles.emplace_back(column.title, Colour::kBold);
    print_row(titles);
    for (const auto& row : rows_)
        print_row(row);
}

Progress::~Progress() {
    if (line_open_) fmt::print(stderr, "\n");
}

void Progress::step(const std::string& what) {
    ++done_;
    const auto now = Clock::now();
    if (now < next_report_) return;
    next_report_ = now + std::chrono::seconds(1);
    const std::string text = fmt::format("{}: {} of {}: {}", activity_, done_, total_, what);
    if (isatty(STDERR_FILENO) == 1) {
        fmt::print(stderr, "\r\033[K{}", text.substr(0, 100));
        line_open_ = true;
    } else {
        fmt::print(stderr, "{}\n", text);
    }
}

}  // namespace fiplane::cli
