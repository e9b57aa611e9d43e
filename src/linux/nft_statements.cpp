// SPDX-License-Identifier: Apache-2.0
// Statements of nft's JSON as values of core/netfilter.hpp.
#include <linux/if_ether.h>

#include <algorithm>
#include <utility>

#include "linux/nft_json.hpp"

namespace fiplane::nft {
namespace {

using nf::Field;
using nf::Match;
using nf::Statement;

const Match kUndecidable{.field = Field::kOther, .negate = false, .any_of = {}, .set_name = std::nullopt};

Field meta_field(const std::string& key) {
    if (key == "iifname" || key == "iif") return Field::kIifname;
    if (key == "oifname" || key == "oif") return Field::kOifname;
    if (key == "l4proto") return Field::kIpProtocol;
    if (key == "protocol" || key == "nfproto") return Field::kEtherType;
    return Field::kOther;
}

Field payload_field(const std::string& protocol, const std::string& field) {
    if (protocol == "ether" && field == "saddr") return Field::kEtherSaddr;
    if (protocol == "ether" && field == "daddr") return Field::kEtherDaddr;
    if (protocol == "ether" && field == "type") return Field::kEtherType;
    if (protocol == "ip" && field == "saddr") return Field::kIpSaddr;
    if (protocol == "ip" && field == "daddr") return Field::kIpDaddr;
    if (protocol == "ip" && field == "protocol") return Field::kIpProtocol;
    if (protocol == "arp" && field == "saddr ip") return Field::kArpSaddrIp;
    if (protocol == "arp" && field == "saddr ether") return Field::kArpSaddrEther;
    return Field::kOther;
}

/// A property of the flow in one direction ("ct original saddr") is none of ours.
Field ct_field(const Json& ct) {
    if (ct.contains("dir")) return Field::kOther;
    if (ct.at("key") == "state") return Field::kCtState;
    if (ct.at("key") == "status") return Field::kCtStatus;
    return Field::kOther;
}

Field field_of(const Json& left) {
    if (const Field mark = mark_field(left); mark != Field::kOther) return mark;
    const std::string kind = only_key(left);
    if (kind == "meta") return meta_field(left["meta"].at("key").get<std::string>());
    if (kind == "ct") return ct_field(left["ct"]);
    if (kind != "payload" || !left["payload"].contains("protocol")) return Field::kOther;
    return payload_field(left["payload"]["protocol"].get<std::string>(),
                         left["payload"].at("field").get<std::string>());
}

bool is_bits(Field field) {
    return field == Field::kCtState || field == Field::kCtStatus;
}

bool is_meta(const Json& left, const char* key) {
    return only_key(left) == "meta" && left["meta"].at("key") == key;
}

/// `meta mark & 255 == 16`, `ct status & dnat == 0`, and `ct status & dnat == dnat` for one bit.
Match parse_masked(const std::string& op, const Json& masked, const Json& right) {
    if (auto mark = parse_masked_mark(op, masked, right)) return *mark;
    const Field field = field_of(masked.at(0));
    const Json& mask = masked.at(1);
    if (!is_bits(field) || (op != "==" && op != "!=")) return kUndecidable;
    const bool against_zero = right == 0;
    if (!against_zero && (!mask.is_string() || right != mask)) return kUndecidable;
    auto bits = parse_values(field, mask);
    if (!bits) return kUndecidable;
    return {
        .field = field, .negate = against_zero == (op == "=="), .any_of = std::move(*bits), .set_name = std::nullopt};
}

/// Whether the operator asks what Match says: one of the values, or none of them. A connection has exactly one state,
/// so equality is membership there; its status has many bits at once, so it is not.
bool is_membership(Field field, const std::string& op, const Json& right) {
    if (is_bits(field) && (op == "in" || op == "!")) return true;
    if (op != "==" && op != "!=") return false;
    if (field == Field::kCtStatus) return false;
    return !(field == Field::kCtState && right.is_array());
}

/// `meta nfproto ipv4`.
Json as_ether_type(const Json& nfproto) {
    if (nfproto == "ipv4" || nfproto == 2) return "ip";
    if (nfproto == "ipv6" || nfproto == 10) return "ip6";
    return {};
}

/// `iif` compares an index, which nft prints as the device's name, or in digits if there is no such device.
bool all_names(const std::vector<nf::Value>& values) {
    return std::ranges::none_of(values, [](const nf::Value& value) {
        return std::get<std::string>(value).find_first_not_of("0123456789") == std::string::npos;
    });
}

Match parse_match(const RuleScope& scope, const Json& match) {
    const std::string op = match.at("op").get<std::string>();
    const Json& left = match.at("left");
    const Json& right = match.at("right");
    if (only_key(left) == "&") return parse_masked(op, left["&"], right);
    const Field field = field_of(left);
    if (auto mark = parse_mark_prefix(field, op, right)) return *mark;
    if (field == Field::kOther || !is_membership(field, op, right)) return kUndecidable;

    Match out{.field = field, .negate = op == "!=" || op == "!", .any_of = {}, .set_name = std::nullopt};
    if (right.is_string() && right.get_ref<const std::string&>().starts_with('@')) {
        out.set_name = right.get<std::string>().substr(1);
        const auto name = nf::Ruleset::scoped_name(scope.family, scope.table, *out.set_name);
        return scope.objects.sets.contains(name) ? out : kUndecidable;
    }
    auto values = parse_values(field, is_meta(left, "nfproto") ? as_ether_type(right) : right);
    if (!values) return kUndecidable;
    if ((is_meta(left, "iif") || is_meta(left, "oif")) && !all_names(*values)) return kUndecidable;
    out.any_of = std::move(*values);
    return out;
}

/// A fixed address, or a map from the packet's source or destination.
std::optional<nf::AddressSource> parse_address_source(const RuleScope& scope, const Json& value) {
    nf::AddressSource source;
    if (value.is_string()) {
        source.address = Ipv4::parse(value.get_ref<const std::string&>());
        if (!source.address) return std::nullopt;
        return source;
    }
    if (only_key(value) != "map") return std::nullopt;
    source.map_key = field_of(value["map"].at("key"));
    if (source.map_key != Field::kIpSaddr && source.map_key != Field::kIpDaddr) return std::nullopt;
    const Json& data = value["map"].at("data");
    if (data.is_string()) {
        source.map_name = data.get<std::string>().substr(1);
        const auto name = nf::Ruleset::scoped_name(scope.family, scope.table, *source.map_name);
        if (!scope.objects.maps.contains(name)) return std::nullopt;
        return source;
    }
    auto elements = parse_address_map(data.at("set"));
    if (!elements) return std::nullopt;
    source.anonymous_map = std::move(*elements);
    return source;
}

bool has_flag(const Json& nat, const char* flag) {
    if (!nat.contains("flags")) return false;
    const Json& flags = nat["flags"];
    return flags.is_array() ? std::ranges::count(flags, flag) > 0 : flags == flag;
}

/// dnat and snat to an address. One that also names ports is not expressible, but its address may be.
Statement parse_nat(const RuleScope& scope, const std::string& kind, const Json& nat) {
    if (nat.is_object() && nat.value("family", "ip") == "ip6") return nf::Unknown{};
    if (!nat.is_object() || !nat.contains("addr")) return nf::Unknown{.may_translate = true};
    auto to = parse_address_source(scope, nat["addr"]);
    if (!to) return nf::Unknown{.may_translate = true};
    for (const auto& [key, value] : nat.items()) {
        if (key == "family" || key == "addr" || key == "flags") continue;
        if (!to->address) return nf::Unknown{.may_translate = true};
        return kind == "dnat" ? nf::Unknown{.dnat = to->address} : nf::Unknown{.snat = to->address};
    }
    if (kind == "dnat") return nf::Dnat{std::move(*to)};
    return nf::Snat{.to = std::move(*to), .random = has_flag(nat, "random") || has_flag(nat, "fully-random")};
}

bool is_mss(const Json& key) {
    return only_key(key) == "tcp option" && key["tcp option"].value("name", "") == "maxseg" &&
           key["tcp option"].value("field", "") == "size";
}

/// `tcp option maxseg size set 1400`, or `set rt mtu`.
Statement parse_mss(const Json& value) {
    if (value.is_number_unsigned()) {
        const auto bytes = value.get<std::uint64_t>();
        if (bytes == 0 || bytes > 0xffff) return nf::Unknown{};
        return nf::LowerMss{static_cast<std::uint16_t>(bytes)};
    }
    if (only_key(value) == "rt" && value["rt"].value("key", "") == "mtu") return nf::LowerMss{};
    return nf::Unknown{};
}

Statement parse_mangle(const RuleScope& scope, const Json& mangle) {
    if (is_mss(mangle.at("key"))) return parse_mss(mangle.at("value"));
    const Field field = field_of(mangle.at("key"));
    if (field == Field::kMark || field == Field::kCtMark) return parse_set_mark(field, mangle.at("value"));
    if (field != Field::kIpSaddr && field != Field::kIpDaddr) return nf::Unknown{};
    auto to = parse_address_source(scope, mangle.at("value"));
    if (!to) return nf::Unknown{};
    return nf::SetAddress{.field = field, .to = std::move(*to)};
}

std::optional<nf::Verdict> parse_verdict(const std::string& kind, const Json& body) {
    using nf::VerdictKind;
    if (kind == "accept") return nf::Verdict{VerdictKind::kAccept, {}};
    if (kind == "drop") return nf::Verdict{VerdictKind::kDrop, {}};
    if (kind == "return") return nf::Verdict{VerdictKind::kReturn, {}};
    if (kind == "continue") return nf::Verdict{VerdictKind::kContinue, {}};
    if (kind == "jump") return nf::Verdict{VerdictKind::kJump, body.at("target").get<std::string>()};
    if (kind == "goto") return nf::Verdict{VerdictKind::kGoto, body.at("target").get<std::string>()};
    return std::nullopt;
}

bool is_count(const std::string& kind) {
    return kind == "counter" || kind == "last";
}

/// Counting is all that the rule is for: what does not come by is missing in somebody's numbers.
bool only_counts(const Json& statements) {
    const auto is_in = [](const Json& statement) { return is_count(only_key(statement)); };
    const auto is_harmless = [&](const Json& statement) {
        const std::string kind = only_key(statement);
        return kind == "match" || kind == "comment" || is_count(kind);
    };
    return std::ranges::any_of(statements, is_in) && std::ranges::all_of(statements, is_harmless);
}

Statement parse_statement(const RuleScope& scope, const Json& statement) {
    const std::string kind = only_key(statement);
    if (kind.empty()) return nf::Unknown{};
    const Json& body = statement.begin().value();
    if (auto verdict = parse_verdict(kind, body)) return *verdict;
    if (kind == "match") return parse_match(scope, body);
    if (kind == "dnat" || kind == "snat") return parse_nat(scope, kind, body);
    if (kind == "mangle") return parse_mangle(scope, body);
    if (kind == "notrack") return nf::Notrack{};
    // iptables' extensions, which nft does not show in full. MASQUERADE and REDIRECT have the namespace's own
    // addresses, whose packets are delivered locally.
    if (kind == "xt") {
        const std::string name = body.is_object() ? body.value("name", "") : "";
        const bool may_translate = name == "DNAT" || name == "SNAT" || name == "NETMAP";
        return nf::Unknown{.may_translate = may_translate, .by_iptables = true};
    }
    // These neither change nor stop a packet.
    if (is_count(kind) || kind == "comment") return nf::Counter{};
    return nf::Unknown{};
}

/// The EtherType that a match on a header of this protocol implies; 0 for other protocols.
std::uint64_t implied_ether_type(const Json& statement) {
    if (only_key(statement) != "match") return 0;
    const Json* left = &statement["match"].at("left");
    if (only_key(*left) == "&") left = &(*left)["&"].at(0);
    if (only_key(*left) != "payload") return 0;
    const std::string protocol = (*left)["payload"].value("protocol", "");
    if (protocol == "ip") return ETH_P_IP;
    if (protocol == "arp") return ETH_P_ARP;
    if (protocol == "ip6") return ETH_P_IPV6;
    return 0;
}

bool sees_many_protocols(nf::Family family) {
    return family == nf::Family::kInet || family == nf::Family::kBridge || family == nf::Family::kNetdev;
}

}  // namespace

std::vector<Statement> parse_statements(const RuleScope& scope, const Json& statements) {
    std::vector<Statement> out;
    std::uint64_t known = 0;
    for (const auto& statement : statements) {
        const std::uint64_t implied = sees_many_protocols(scope.family) ? implied_ether_type(statement) : 0;
        if (implied != 0 && implied != known) {
            out.emplace_back(
                Match{.field = Field::kEtherType, .negate = false, .any_of = {implied}, .set_name = std::nullopt});
            known = implied;
        }
        out.push_back(parse_statement(scope, statement));
    }
    if (only_counts(statements)) out.emplace_back(nf::Unknown{});
    return out;
}

}  // namespace fiplane::nft
