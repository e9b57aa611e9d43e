// SPDX-License-Identifier: Apache-2.0
// Fast test runs of all programs over the two clouds: the shipped objects, and the traced ones (poisoned headroom, and
// a record of what they decided). No allocation and one system call per run.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/cloud.hpp"
#include "fuzz/judge.hpp"
#include "support/bpf_objects.hpp"

namespace fiplane::test {

/// Packets and bytes by hook * FL_REASON_COUNT + reason.
struct CounterRow {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    bool operator==(const CounterRow&) const = default;
};
using CounterTable = std::array<CounterRow, std::size_t{FL_HOOK_COUNT} * FL_REASON_COUNT>;

/// Moves the process into a network namespace of its own with the clouds' devices and pins it to one CPU. Needs root.
/// Throws std::runtime_error. Not thread-safe.
class Runner {
  public:
    Runner(const Cloud& overlay, const Cloud& routers);
    ~Runner();
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    /// Runs both objects. The outcome is the shipped one's, with the traced one's record; it is valid until the next
    /// call. An error if the two disagree, or if skb->csum is wrong after a run.
    [[nodiscard]] std::optional<std::string> run(const Input& input, Outcome& outcome);

    /// Nobody knows a flow of a followed router any more, neither the programs nor conntrack.
    void forget_flows();

    /// Of all CPUs, since the start.
    [[nodiscard]] CounterTable counters() const;

  private:
    struct Program {
        int shipped = -1;
        int traced = -1;
        fl_record* record = nullptr;  ///< mapped from the traced object
    };
    /// One test run's output.
    struct Run {
        int action = 0;
        View frame{};
        std::optional<fl_meta> meta{};
        std::uint32_t mark = 0;
    };
    static constexpr std::size_t kBuffer = 4096;

    [[nodiscard]] int run_once(int program, const Input& input, std::array<std::uint8_t, kBuffer>& buffer, Run& out);
    void probe_checksum_flag();

    const Cloud& routers_;
    BpfObjects objects_;
    std::array<Program, FL_HOOK_COUNT> programs_{};
    std::array<std::uint8_t, kBuffer> shipped_out_{};
    std::array<std::uint8_t, kBuffer> traced_out_{};
    mutable std::vector<fl_counter> values_;
    bool checks_skb_csum_ = false;
};

}  // namespace fiplane::test
