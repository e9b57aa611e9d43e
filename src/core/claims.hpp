// SPDX-License-Identifier: Apache-2.0
// What a journey assumes about the source of its packets. Private to src/core.
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <vector>

#include "core/netns_index.hpp"

namespace fiplane {

/// A fact about the source that a journey rests on. For a group of sources (Source::Kind::kGeneric, or one that stands
/// for its group) every member must satisfy it.
struct SourceClaim {
    enum class Kind {
        kNotOwn,       ///< is no address of the namespace itself (else a martian)
        kNotOnLink,    ///< is not on the link of `device` (else an ICMP redirect)
        kNotSelected,  ///< is selected by none of the first `count` policy rules
        kNotKnown,     ///< is not known to the netfilter test
        kAnswered,     ///< has answers that conntrack translates as the rules say
        kReversePath,  ///< passes rp_filter on `device` for packets that leave by `other_device`
    };
    Kind kind = Kind::kNotOwn;
    const NetnsIndex* netns = nullptr;
    int device = 0;
    int other_device = 0;
    std::size_t count = 0;
    nf::SourceTest test;
    bool translated = false;  ///< about the address after source translation
    auto operator<=>(const SourceClaim&) const = default;
};

/// Does `source` satisfy the claim?
[[nodiscard]] bool holds(const SourceClaim& claim, Ipv4 source);
/// Why it does not, naming the namespace.
[[nodiscard]] std::string describe(const SourceClaim& claim);
/// Those of `sources` that do not satisfy it: prefixes inside of it, or one that contains it all.
[[nodiscard]] std::vector<Prefix> exceptions(const SourceClaim& claim, const Prefix& sources);

/// rp_filter for a packet from any of `sources` that came in by `device` and is to leave by `other_device`
/// (fib_validate_source).
[[nodiscard]] bool passes_reverse_path(const NetnsIndex& netns, int device, int other_device, const Prefix& sources);

}  // namespace fiplane
