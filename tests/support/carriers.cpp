// SPDX-License-Identifier: Apache-2.0
#include "support/carriers.hpp"

#include <chrono>
#include <stdexcept>
#include <thread>

#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;

/// Of what `ip link show` says of a device. The flag is the carrier itself, the state is what was announced of it.
bool is_announced(const std::string& shown) {
    const auto has = [&](const char* text) { return shown.find(text) != std::string::npos; };
    return has(",LOWER_UP") ? has(" state UP ") : has(" state DOWN ") || has(" state LOWERLAYERDOWN ");
}

}  // namespace

void wait_for_carriers(const std::vector<std::string>& devices, const CommandRunner& run) {
    const auto deadline = std::chrono::steady_clock::now() + scaled(5s);
    for (const auto& device : devices) {
        while (true) {
            const auto result = run({"ip", "link", "show", "dev", device});
            if (result.exit_status == 0 && is_announced(result.out)) break;
            if (std::chrono::steady_clock::now() > deadline) {
                throw std::runtime_error("the kernel has not announced a carrier: " + result.out + result.err);
            }
            std::this_thread::sleep_for(20ms);
        }
    }
}

}  // namespace fiplane::test
