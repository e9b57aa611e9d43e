// SPDX-License-Identifier: Apache-2.0
// Any content of the two allocation files, which others (Neutron's agent, an editor) may have written. The first NUL
// byte ends the one and starts the other. What is kept of them is printed so that it reads as the same.
#include "build/allocations.hpp"

#include "fuzz/targets/target.hpp"

using namespace fiplane;
using build::Allocations;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    const std::size_t cut = std::min(text.find('\0'), text.size());
    const Allocations kept = Allocations::parse(text.substr(0, cut), text.substr(std::min(cut + 1, text.size())));
    fuzz::demand(Allocations::parse(kept.print_pairs(), kept.print_priorities()) == kept);
    for (const auto& [router, pair] : kept.pairs())
        fuzz::demand(build::kPairPool.contains(pair) && pair.value % 2 == 0);
    for (const auto& [address, priority] : kept.priorities())
        fuzz::demand(priority >= build::kPriorityFirst && priority <= build::kPriorityLast);
    Allocations more = kept;
    const auto pair = more.reserve_pair("another", std::nullopt);
    fuzz::demand(pair.has_value() && build::kPairPool.contains(*pair));
    return 0;
}
