// SPDX-License-Identifier: Apache-2.0
// One rule in the syntax of iptables(8) as a value of core/netfilter.hpp. Pure over text.
#pragma once

#include <string>
#include <vector>

#include "core/netfilter.hpp"

namespace fiplane::iptables {

/// A word of a rule. One that was in quotes is never an option.
struct Word {
    std::string text;
    bool quoted = false;
    bool operator==(const Word&) const = default;
};

/// Splits a line as iptables-restore(8) does: at blanks, double quotes hold a word together, a backslash in them makes
/// the next character an ordinary one. An open quote ends with the line.
[[nodiscard]] std::vector<Word> split(const std::string& line);

/// A rule of `iptables-save`, without "-A CHAIN": `-s 10.0.0.1/32 -j SNAT --to-source 1.2.3.4`. What the model cannot
/// express becomes an undecidable match or nf::Unknown. IPv6 addresses are undecidable. `in_nat`: of table nat, where
/// what is not understood may translate.
[[nodiscard]] nf::Rule parse_rule(const std::string& text, nf::Family family, bool in_nat);

}  // namespace fiplane::iptables
