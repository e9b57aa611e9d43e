// SPDX-License-Identifier: Apache-2.0
// The pieces of the parser for libnftables' JSON (libnftables-json(5)). Private to this folder. Functions may throw
// nlohmann::json::exception on a shape that the schema does not have; parse_ruleset() turns it into an Error.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/netfilter.hpp"

namespace fiplane::nft {

using Json = nlohmann::json;

/// One rule, close to what nft prints, without counters' numbers, so that it is the same as long as the rule is.
[[nodiscard]] std::string render_rule(const Json& statements);

/// The only key of a one-key object, as statements and most expressions are; empty for anything else.
[[nodiscard]] std::string only_key(const Json& object);

/// The values of a set literal, a list or a single value, as `field` holds them (see nf::Field); a range of addresses
/// becomes the prefixes that make it up. None if one of them cannot be expressed.
[[nodiscard]] std::optional<std::vector<nf::Value>> parse_values(nf::Field field, const Json& values);

/// An element's value without its wrapping ({"elem": {"val": ..}}); null if it has a timeout: it would vanish without
/// a notification.
[[nodiscard]] Json element_value(const Json& element);

/// [[key, value], ...] as addresses; none if one is anything else.
[[nodiscard]] std::optional<std::map<Ipv4, Ipv4>> parse_address_map(const Json& elements);

/// Members of a set of single IPv6 addresses.
[[nodiscard]] std::optional<std::vector<nf::Value>> parse_ipv6_addresses(const Json& elements);

/// kMark for `meta mark`, kCtMark for `ct mark`, kOther for anything else.
[[nodiscard]] nf::Field mark_field(const Json& value);

/// `mark & MASK == VALUE`; none if it is anything else. `masked`: the operands of "&".
[[nodiscard]] std::optional<nf::Match> parse_masked_mark(const std::string& op, const Json& masked, const Json& right);

/// `mark VALUE/LENGTH`, as nft writes a mask of leading bits; none if it is anything else.
[[nodiscard]] std::optional<nf::Match> parse_mark_prefix(nf::Field mark, const std::string& op, const Json& right);

/// `mark set VALUE`, a number or bits of a mark; nf::Unknown for anything else.
[[nodiscard]] nf::Statement parse_set_mark(nf::Field mark, const Json& value);

/// Where a rule stands, and the named sets and maps that it may refer to.
struct RuleScope {
    nf::Family family;
    std::string table;
    const nf::Ruleset& objects;
};

/// A rule's statements, in order. In families that see more than one protocol nft leaves out the check that a match on
/// a header implies ("ip saddr" implies IPv4); it is put back here, as a match on nf::Field::kEtherType.
[[nodiscard]] std::vector<nf::Statement> parse_statements(const RuleScope& scope, const Json& statements);

}  // namespace fiplane::nft
