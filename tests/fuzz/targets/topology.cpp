// SPDX-License-Identifier: Apache-2.0
// Any text as a topology file: a topology or mistakes, never both, and each mistake has a place in the file.
#include <cstdint>
#include <string_view>

#include "fuzz/targets/target.hpp"
#include "topology/describe.hpp"
#include "topology/load.hpp"

using namespace fiplane;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = fuzz::text_of(data, size);
    const LoadResult result = parse_topology(text, "fuzzed.yaml");
    fuzz::demand(result.topology.has_value() == result.mistakes.empty());
    for (const Mistake& mistake : result.mistakes)
        fuzz::demand(mistake.line >= 1 && mistake.column >= 1 && !mistake.what.empty());
    if (!result.mistakes.empty()) fuzz::demand(!format_mistakes(result.mistakes, "fuzzed.yaml").empty());
    return 0;
}
