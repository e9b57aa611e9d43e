// SPDX-License-Identifier: Apache-2.0
// The real programs with real maps, unpinned, run on frames by BPF_PROG_TEST_RUN. One instance holds all programs
// twice: as they are shipped, and with poisoned headroom; both share the maps. The verifier takes its time, so a
// process loads them once. Not thread-safe. Needs root.
#pragma once

#include <bpf/libbpf.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fiplane/abi.h"
#include "support/packet.hpp"

// SKIP must stand in the test itself to end it.
#define REQUIRE_CHECKSUM_COMPLETE(programs) \
    if (!(programs).can_test_checksum_complete()) SKIP("the kernel cannot test CHECKSUM_COMPLETE")

namespace fiplane::test {

/// The device that test runs are on unless a test says otherwise: loopback, whose row tests write as they need it.
inline constexpr std::uint32_t kThisDevice = 1;

/// Actions as the kernel numbers them.
inline constexpr int kTcNext = -1;
inline constexpr int kTcDrop = 2;
inline constexpr int kTcRedirect = 7;
inline constexpr int kXdpDrop = 1;
inline constexpr int kXdpPass = 2;
inline constexpr int kXdpTx = 3;
inline constexpr int kXdpRedirect = 4;

struct RunOptions {
    std::uint32_t gso_size = 0;
    std::uint32_t ifindex = 0;  ///< tc only; 0: loopback
    std::uint32_t device = 0;   ///< tc_router only: number of the device, as its own program gives it
    std::uint32_t mark = 0;     ///< tc only
    /// The shipped program alone, where the run changes what the other one would find.
    bool once = false;
    int repeat = 1;
    /// tc only: skb->csum is set, and checked after the run (BPF_F_TEST_SKB_CHECKSUM_COMPLETE).
    bool checksum_complete = false;
};

struct RunResult {
    int action = 0;
    fl_reason reason{};  ///< of the one counter that went up
    Bytes frame{};
    std::optional<fl_meta> meta{};  ///< XDP only
    std::uint32_t mark = 0;         ///< tc only: afterwards
    std::uint32_t duration_ns = 0;
};

class Programs {
  public:
    /// The process's one instance. Throws std::runtime_error with libbpf's messages if a program does not load.
    static Programs& loaded();
    ~Programs();
    Programs(const Programs&) = delete;
    Programs& operator=(const Programs&) = delete;

    /// Runs both variants. Fails the test unless each counts the packet exactly once, with its length, and both give
    /// the same action, reason, mark and bytes (but for the outer port and ID, which are drawn anew each time).
    RunResult run(fl_hook hook, const Bytes& frame, const RunOptions& options = {});
    /// Runs the shipped program alone, `repeat` times on the same packet: nanoseconds per run.
    std::uint32_t run_for_time(fl_hook hook, const Bytes& frame, int repeat);

    /// Empties all tables and the configuration; counters stay.
    void clear();
    template <typename K, typename V>
    void put(const std::string& map, const K& key, const V& value) {
        update(map, &key, &value);
    }
    template <typename K>
    void erase(const std::string& map, const K& key) {
        remove(map, &key);
    }
    template <typename V, typename K>
    [[nodiscard]] std::optional<V> get(const std::string& map, const K& key) const {
        V value{};
        if (!lookup(map, &key, &value)) return std::nullopt;
        return value;
    }
    [[nodiscard]] std::size_t rows(const std::string& map) const;
    void put_fip_stat_row(const fl_fip_stat_key& key);
    [[nodiscard]] fl_fip_stat fip_stat(const fl_fip_stat_key& key) const;  ///< sum over CPUs

    /// Of a counter, since the process began.
    [[nodiscard]] std::uint64_t packets(fl_hook hook, fl_reason reason) const;
    /// Whether the kernel gives test runs an skb->csum (BPF_F_TEST_SKB_CHECKSUM_COMPLETE).
    [[nodiscard]] bool can_test_checksum_complete() const;
    [[nodiscard]] bpf_object* object(fl_hook hook) const;
    [[nodiscard]] bpf_program* program(fl_hook hook) const;
    /// Verifier's own count of processed instructions, and length of the program.
    struct Size {
        std::uint32_t verified = 0;
        std::uint32_t instructions = 0;
    };
    [[nodiscard]] Size size(fl_hook hook) const;

  private:
    struct Impl;
    Programs();
    void update(const std::string& map, const void* key, const void* value);
    void remove(const std::string& map, const void* key);
    bool lookup(const std::string& map, const void* key, void* value) const;
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane::test
