// SPDX-License-Identifier: Apache-2.0
// What is wrong at the moment, by the activity that failed. Logged when it comes, changes and goes, not on every retry.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "core/result.hpp"

namespace fiplane {

class Problems {
  public:
    struct Problem {
        Error error;
        std::chrono::system_clock::time_point since;
        std::uint64_t attempts = 1;
    };

    /// Records how `activity` ("building the overlay") went; true if it went well.
    bool record(const std::string& activity, const Result<>& outcome);

    [[nodiscard]] const std::map<std::string, Problem>& current() const { return current_; }

  private:
    std::map<std::string, Problem> current_;
};

}  // namespace fiplane
