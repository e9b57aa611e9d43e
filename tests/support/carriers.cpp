// SPDX-License-Identifier: Apache-2.0
#include "support/carriers.hpp"

#include <chrono>
#include <stdexcept>
#include <thread>

#include "support/run_process.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {

using namespace std::chrono_literals;

namespace {

template <typename Run>
void wait(const std::vector<std::string>& devices, const Run& run) {
    const auto deadline = std::chrono::steady_clock::now() + scaled(5s);
    for (const auto& device : devices) {
        while (true) {
            const ProcessResult result = run(std::vector<std::string>{"ip", "link", "show", "dev", device});
            if (result.out.find(" state UP ") != std::string::npos) break;
            if (std::chrono::steady_clock::now() > deadline) {
                throw std::runtime_error("the kernel has not announced a carrier: " + result.out + result.err);
            }
            std::this_thread::sleep_for(20ms);
        }
    }
}

}  // namespace

void wait_for_carriers(const std::vector<std::string>& devices) {
    wait(devices, run_process);
}

void wait_for_carriers(const Netns& netns, const std::vector<std::string>& devices) {
    wait(devices, [&netns](const std::vector<std::string>& command) { return run_process_in(netns, command); });
}

}  // namespace fiplane::test
