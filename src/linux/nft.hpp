// SPDX-License-Identifier: Apache-2.0
// nf_tables of one namespace through libnftables: read as core values, change by a transaction of commands.
#pragma once

#include <string>

#include "core/netfilter.hpp"
#include "core/result.hpp"
#include "linux/netns.hpp"

namespace fiplane {

/// The whole ruleset (libnftables JSON), plus a phrase in `opaque` for each iptables-legacy table that is loaded
/// (/proc/net/ip_tables_names). Rules of iptables-nft are read from what iptables-nft-save prints, if it is installed.
/// A statement that core/netfilter.hpp cannot express becomes nf::Unknown. All of it is of one moment: what is
/// committed meanwhile makes it read again, and kFailed after some readings.
[[nodiscard]] Result<nf::Ruleset> read_ruleset(const Netns& netns);

/// Parses what `nft -j list ruleset` prints. Pure over text; the text of each rule is kept for messages.
[[nodiscard]] Result<nf::Ruleset> parse_ruleset(const std::string& json);

/// Runs a batch of nft commands as one transaction: all or nothing. `commands` is built from validated values only.
[[nodiscard]] Result<> run_nft(const Netns& netns, const std::string& commands);

}  // namespace fiplane
