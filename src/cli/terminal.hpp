// SPDX-License-Identifier: Apache-2.0
// What verbs print: errors, colours, tables, progress. Results go to stdout, everything else to stderr.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/result.hpp"

namespace fiplane::cli {

/// "fiplane: where: what (hint)" on stderr. Returns the code, so that a verb can end with it.
ExitCode print_error(const Error& error);

void print_json(const nlohmann::json& value);

enum class Colour { kNone, kBold, kGreen, kYellow, kRed };
/// `text` in a colour if stdout is a terminal and NO_COLOR (no-color.org) is unset or empty.
[[nodiscard]] std::string coloured(Colour colour, const std::string& text);

/// "1.2 %", "99.97 %": a share with as many digits as tell it from none and from all.
[[nodiscard]] std::string percent(const nlohmann::json& share);
/// "3d 4h", "17m 3s".
[[nodiscard]] std::string duration(std::int64_t seconds);

/// Columns as wide as their longest cell, two blanks apart, nothing after the last one.
class TextTable {
  public:
    enum class Align { kLeft, kRight };
    struct Column {
        std::string title;
        Align align = Align::kLeft;
    };
    struct Cell {
        std::string text;
        Colour colour = Colour::kNone;
        Cell(std::string value, Colour shade = Colour::kNone) : text(std::move(value)), colour(shade) {}
        Cell(const char* value) : text(value) {}
    };

    explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
    /// As many cells as there are columns.
    void add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }
    [[nodiscard]] bool empty() const { return rows_.empty(); }
    /// To stdout, each line indented by two blanks.
    void print() const;

  private:
    [[nodiscard]] std::vector<std::size_t> widths() const;
    std::vector<Column> columns_;
    std::vector<std::vector<Cell>> rows_;
};

/// Says on stderr how far a long activity is: nothing for the first two seconds, then once a second.
class Progress {
  public:
    Progress(std::string activity, std::size_t total) : activity_(std::move(activity)), total_(total) {}
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress();
    /// One more step is being done.
    void step(const std::string& what);

  private:
    using Clock = std::chrono::steady_clock;
    std::string activity_;
    std::size_t total_;
    std::size_t done_ = 0;
    Clock::time_point next_report_ = Clock::now() + std::chrono::seconds(2);
    bool line_open_ = false;
};

}  // namespace fiplane::cli
