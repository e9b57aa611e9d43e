// SPDX-License-Identifier: Apache-2.0
// Frames for the fuzzer: valid packets of every kind that the cloud knows, and what becomes of them when fields,
// lengths and whole headers are altered. The same seed gives the same frames.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fuzz/cloud.hpp"
#include "fuzz/judge.hpp"
#include "support/packet.hpp"

namespace fiplane::test {

/// splitmix64: quick, and good enough to choose with.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    /// 0..count-1; count > 0.
    std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }
    bool one_in(std::size_t count) { return below(count) == 0; }
    template <typename Range>
    decltype(auto) pick(const Range& range) {
        return range[below(std::size(range))];
    }

  private:
    std::uint64_t state_;
};

/// Kinds of traffic, which are fuzzed equally often however many templates each has.
enum class Traffic { kOutside, kToRouter, kInSegment, kArp, kCrossing };

/// A valid frame on the device that it would be seen on.
struct Template {
    Traffic traffic;
    std::uint32_t device;
    Bytes frame;
    std::uint32_t mark = 0;
};

/// All templates of a hook.
[[nodiscard]] std::vector<Template> make_templates(const Cloud& cloud, fl_hook hook);

class Generator {
  public:
    Generator(const Cloud& cloud, fl_hook hook, std::uint64_t seed);

    /// Reuses the input's buffer.
    void next(Input& input);
    [[nodiscard]] const std::vector<Template>& templates() const { return templates_; }

    static constexpr std::size_t kSmallest = 14;   ///< test runs take nothing smaller
    static constexpr std::size_t kLargest = 2000;  ///< and one page is the most that every kernel takes

  private:
    [[nodiscard]] std::size_t smallest(const Bytes& frame) const;
    void mutate(Bytes& frame);
    void set_field(Bytes& frame);
    void set_value(std::span<std::uint8_t> field);
    void change_length(Bytes& frame);
    void splice(Bytes& frame);
    /// Makes lengths and checksums right again, each with some probability, so that altered frames get further.
    void repair(std::span<std::uint8_t> frame);
    void repair_transport(std::span<std::uint8_t> ip);

    fl_hook hook_;
    bool wrapped_;          ///< frames are tunnel packets
    std::size_t base_ = 0;  ///< where the inner frame of the template starts
    Random random_;
    std::vector<Template> templates_;
    std::vector<std::vector<const Template*>> kinds_;  ///< the templates by traffic; no kind is empty
    std::vector<std::uint32_t> devices_;
    std::vector<std::uint32_t> other_devices_;
    std::vector<Mac> macs_;
    std::vector<std::uint32_t> marks_;
    std::vector<std::uint32_t> words_;  ///< addresses, VNIs and the like
};

}  // namespace fiplane::test
