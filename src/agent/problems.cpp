// SPDX-License-Identifier: Apache-2.0
#include "agent/problems.hpp"

#include <spdlog/spdlog.h>

namespace fiplane {

bool Problems::record(const std::string& activity, const Result<>& outcome) {
    const auto known = current_.find(activity);
    if (outcome) {
        if (known == current_.end()) return true;
        spdlog::info("{}: works again after {} failed attempts", activity, known->second.attempts);
        current_.erase(known);
        return true;
    }
    const Error& error = outcome.error();
    if (known != current_.end() && known->second.error.message() == error.message()) {
        ++known->second.attempts;
        spdlog::debug("{}: still fails: {}", activity, error.message());
        return false;
    }
    spdlog::error("{}: {}", activity, error.message());
    const auto attempts = known == current_.end() ? 1 : known->second.attempts + 1;
    current_.insert_or_assign(activity, Problem{error, std::chrono::system_clock::now(), attempts});
    return false;
}

}  // namespace fiplane
