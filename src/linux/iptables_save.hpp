// SPDX-License-Identifier: Apache-2.0
// What iptables-nft has put into nf_tables. Its extensions are binary there (struct xt_...), and libnftables' JSON
// gives no more than their names; iptables-nft-save(8) prints them as rules.
#pragma once

#include <string>

#include "core/netfilter.hpp"
#include "core/result.hpp"
#include "linux/netns.hpp"

namespace fiplane::iptables {

/// Does a rule of the family have an extension that nft has not shown?
[[nodiscard]] bool needs_save(const nf::Ruleset& ruleset, nf::Family family);

/// Output of iptables-nft-save, or for Family::kIp6 of ip6tables-nft-save, run in the namespace. An error if there is
/// no such program (kMissingFeature), or if it fails or takes longer than five seconds.
[[nodiscard]] Result<std::string> save(const Netns& netns, nf::Family family);

/// Puts the rules of `saved` in the place of those in tables of the family that have such extensions. A chain with
/// another number of rules stays as it is: not understood. Both must be readings of one ruleset.
void complete(nf::Ruleset& ruleset, nf::Family family, const std::string& saved);

}  // namespace fiplane::iptables
