// SPDX-License-Identifier: Apache-2.0
// Any text as what `nft -j list ruleset` prints: a ruleset or an error. Then once more inside the frame that the parser
// expects, so that what is altered is an object of the ruleset and not the frame.
#include "linux/nft.hpp"

#include <string>

#include "fuzz/targets/target.hpp"

using namespace fiplane;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(fuzz::text_of(data, size));
    const auto ruleset = parse_ruleset(text);
    if (!ruleset) fuzz::demand(!ruleset.error().what.empty());
    const auto framed = parse_ruleset(R"({"nftables": [{"metainfo": {"json_schema_version": 1}},
        {"table": {"family": "ip", "name": "t", "handle": 1}},
        {"chain": {"family": "ip", "table": "t", "name": "c", "handle": 1, "type": "nat", "hook": "prerouting",
                   "prio": -100, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": [)" +
                                      text + "]}}]}");
    if (!framed) fuzz::demand(!framed.error().what.empty());
    return 0;
}
