// SPDX-License-Identifier: Apache-2.0
#include "bpf/coverage.hpp"

#include <cstdlib>
#include <fstream>

namespace fiplane::test {

void note_covered(fl_hook hook, fl_reason reason) {
    static const char* const path = std::getenv(kCoverageVariable);
    static Covered noted;
    if (path == nullptr || !noted.emplace(hook, reason).second) return;
    std::ofstream(path, std::ios::app) << hook << ' ' << reason << '\n';
}

Covered read_covered(const std::string& path) {
    Covered out;
    std::ifstream file(path);
    int hook = 0;
    int reason = 0;
    while (file >> hook >> reason)
        out.emplace(static_cast<fl_hook>(hook), static_cast<fl_reason>(reason));
    return out;
}

}  // namespace fiplane::test
