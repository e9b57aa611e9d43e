// SPDX-License-Identifier: Apache-2.0
// What nft 1.0.6 prints (each JSON text below is its own output, but for spaces) as values.
#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "linux/nft.hpp"

namespace fiplane {
namespace {

using nf::Field;
using nf::Match;
using nf::Unknown;
using Texts = std::vector<std::string>;

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}
Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

nf::Ruleset parse(const Texts& objects) {
    std::string json = R"({"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}})";
    for (const auto& object : objects)
        json += ", " + object;
    auto parsed = parse_ruleset(json + "]}");
    if (!parsed) FAIL(parsed.error().message());
    return std::move(*parsed);
}

/// Sets and maps that the rules below may name.
const Texts kObjects = {
    R"({"map": {"family": "ip", "name": "fip_in", "table": "t", "type": "ipv4_addr", "handle": 6, "map": "ipv4_addr",
        "elem": [["172.24.5.11", "10.0.0.11"], ["172.24.5.12", "10.0.0.12"]]}})",
    R"({"map": {"family": "ip", "name": "empty", "table": "t", "type": "ipv4_addr", "handle": 7, "map": "ipv4_addr"}})",
    R"({"map": {"family": "ip", "name": "wide", "table": "t", "type": "ipv4_addr", "handle": 8, "map": "ipv4_addr",
        "flags": ["interval"], "elem": [[{"prefix": {"addr": "10.0.0.0", "len": 24}}, "1.2.3.4"]]}})",
    R"({"map": {"family": "ip", "name": "verdicts", "table": "t", "type": "ipv4_addr", "handle": 9, "map": "verdict",
        "elem": [["1.1.1.1", {"drop": null}]]}})",
    R"({"set": {"family": "ip", "name": "nets", "table": "t", "type": "ipv4_addr", "handle": 11, "flags": ["interval"],
        "elem": [{"prefix": {"addr": "10.0.0.0", "len": 24}}, "10.1.0.1", {"range": ["10.2.0.1", "10.2.0.9"]}]}})",
    R"({"set": {"family": "ip", "name": "macs", "table": "t", "type": "ether_addr", "handle": 12,
        "elem": [{"elem": {"val": "fa:16:3e:00:00:01", "comment": "x"}}]}})",
    R"({"set": {"family": "ip", "name": "names", "table": "t", "type": "ifname", "handle": 13, "flags": ["interval"],
        "elem": ["eth0", "tap*"]}})",
    R"({"set": {"family": "ip", "name": "pairs", "table": "t", "type": ["ipv4_addr", "inet_service"], "handle": 14,
        "elem": [{"concat": ["1.2.3.4", 80]}]}})",
    R"({"set": {"family": "ip", "name": "fading", "table": "t", "type": "ipv4_addr", "handle": 15, "flags": ["timeout"],
        "elem": [{"elem": {"val": "1.1.1.1", "timeout": 5, "expires": 4}}]}})",
    R"({"set": {"family": "ip", "name": "learned", "table": "t", "type": "ipv4_addr", "handle": 16, "size": 5}})",
};

/// Parses one rule of family ip (or another) that consists of `statements`, next to kObjects.
nf::Rule rule(const std::string& statements, const std::string& family = "ip") {
    Texts objects = kObjects;
    objects.emplace_back(
        R"({"rule": {"family": "ip", "table": "t", "chain": "learn", "handle": 99, "expr": [{"set": {"op": "update",
        "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@learned"}}]}})");
    objects.push_back(R"({"chain": {"family": ")" + family + R"(", "table": "t", "name": "c", "handle": 1}})");
    objects.push_back(R"({"rule": {"family": ")" + family + R"(", "table": "t", "chain": "c", "handle": 2, "expr": [)" +
                      statements + "]}}");
    const auto ruleset = parse(objects);
    REQUIRE(ruleset.chains.size() == 1);
    REQUIRE(ruleset.chains[0].rules.size() == 1);
    return ruleset.chains[0].rules[0];
}

template <typename T>
T only(const std::string& statement) {
    const auto parsed = rule(statement);
    INFO(statement);
    REQUIRE(parsed.statements.size() == 1);
    REQUIRE(std::holds_alternative<T>(parsed.statements[0]));
    return std::get<T>(parsed.statements[0]);
}

Match match(const std::string& op, const std::string& left, const std::string& right) {
    return only<Match>(R"({"match": {"op": ")" + op + R"(", "left": )" + left + R"(, "right": )" + right + "}}");
}

const std::string kSaddr = R"({"payload": {"protocol": "ip", "field": "saddr"}})";
const std::string kDaddr = R"({"payload": {"protocol": "ip", "field": "daddr"}})";
const std::string kState = R"({"ct": {"key": "state"}})";
const std::string kStatus = R"({"ct": {"key": "status"}})";

std::string meta(const std::string& key) {
    return R"({"meta": {"key": ")" + key + R"("}})";
}

struct ExpectedMatch {
    std::string op, left, right;
    Field field;
    bool negate;
    std::vector<nf::Value> any_of;
};

}  // namespace

TEST_CASE("matches on what the walk knows keep their values", "[nft]") {
    const auto s = [](const char* text) { return nf::Value(std::string(text)); };
    const auto n = [](std::uint64_t number) { return nf::Value(number); };
    const auto p = [](const char* text) { return nf::Value(prefix(text)); };
    const auto m = [](const char* text) { return nf::Value(*Mac::parse(text)); };
    const std::vector<ExpectedMatch> cases = {
        {"==", meta("iifname"), R"("rfp-1")", Field::kIifname, false, {s("rfp-1")}},
        {"!=", meta("oifname"), R"("rfp-1")", Field::kOifname, true, {s("rfp-1")}},
        {"==", meta("iifname"), R"({"set": ["a", "b*"]})", Field::kIifname, false, {s("a"), s("b*")}},
        {"==", meta("iif"), R"("lo")", Field::kIifname, false, {s("lo")}},
        {"==", meta("mark"), "16", Field::kMark, false, {n(16)}},
        {"==", meta("l4proto"), R"("udp")", Field::kIpProtocol, false, {n(17)}},
        {"==",
         meta("l4proto"),
         R"({"set": ["icmp", "tcp", 17, "gre"]})",
         Field::kIpProtocol,
         false,
         {n(1), n(6), n(17), n(47)}},
        {"==", meta("protocol"), R"({"set": ["ip", "arp"]})", Field::kEtherType, false, {n(0x0800), n(0x0806)}},
        {"==", meta("nfproto"), R"("ipv4")", Field::kEtherType, false, {n(0x0800)}},
        {"==",
         R"({"payload": {"protocol": "ether", "field": "type"}})",
         R"("8021q")",
         Field::kEtherType,
         false,
         {n(0x8100)}},
        {"!=",
         R"({"payload": {"protocol": "ether", "field": "saddr"}})",
         R"("fa:16:3e:00:00:01")",
         Field::kEtherSaddr,
         true,
         {m("fa:16:3e:00:00:01")}},
        {"!=",
         R"({"payload": {"protocol": "arp", "field": "saddr ip"}})",
         R"({"set": ["0.0.0.0", "10.0.0.1"]})",
         Field::kArpSaddrIp,
         true,
         {p("0.0.0.0/32"), p("10.0.0.1/32")}},
        {"!=",
         R"({"payload": {"protocol": "arp", "field": "saddr ether"}})",
         R"("fa:16:3e:00:00:01")",
         Field::kArpSaddrEther,
         true,
         {m("fa:16:3e:00:00:01")}},
        {"==", kSaddr, R"("10.0.0.1")", Field::kIpSaddr, false, {p("10.0.0.1/32")}},
        {"!=",
         kDaddr,
         R"({"set": ["10.0.0.1", {"prefix": {"addr": "10.0.1.0", "len": 24}}]})",
         Field::kIpDaddr,
         true,
         {p("10.0.0.1/32"), p("10.0.1.0/24")}},
        {"==",
         R"({"payload": {"protocol": "ip", "field": "protocol"}})",
         R"("icmp")",
         Field::kIpProtocol,
         false,
         {n(1)}},
        {"in", kState, R"("invalid")", Field::kCtState, false, {s("invalid")}},
        {"in", kState, R"(["established", "related"])", Field::kCtState, false, {s("established"), s("related")}},
        {"!=", kState, R"("invalid")", Field::kCtState, true, {s("invalid")}},
        {"==", kState, R"({"set": ["invalid", "new"]})", Field::kCtState, false, {s("invalid"), s("new")}},
        {"in", kStatus, R"(["snat", "dnat"])", Field::kCtStatus, false, {s("snat"), s("dnat")}},
        {"!", kStatus, R"("dnat")", Field::kCtStatus, true, {s("dnat")}},
        {"==", R"({"&": [{"ct": {"key": "status"}}, "dnat"]})", "0", Field::kCtStatus, true, {s("dnat")}},
        {"!=", R"({"&": [{"ct": {"key": "status"}}, "dnat"]})", "0", Field::kCtStatus, false, {s("dnat")}},
        {"==", R"({"&": [{"ct": {"key": "status"}}, "dnat"]})", R"("dnat")", Field::kCtStatus, false, {s("dnat")}},
        {"!=", R"({"&": [{"ct": {"key": "status"}}, "dnat"]})", R"("dnat")", Field::kCtStatus, true, {s("dnat")}},
        {"==",
         R"({"&": [{"ct": {"key": "status"}}, ["snat", "dnat"]]})",
         "0",
         Field::kCtStatus,
         true,
         {s("snat"), s("dnat")}},
    };
    for (const auto& expected : cases) {
        INFO(expected.op << " " << expected.left << " " << expected.right);
        const Match parsed = match(expected.op, expected.left, expected.right);
        CHECK(parsed.field == expected.field);
        CHECK(parsed.negate == expected.negate);
        CHECK(parsed.any_of == expected.any_of);
        CHECK_FALSE(parsed.set_name.has_value());
    }
}

TEST_CASE("ranges of addresses become the fewest prefixes", "[nft]") {
    const auto range = [](const char* first, const char* last) {
        std::vector<Prefix> out;
        const auto parsed = match("==", kSaddr, std::string(R"({"range": [")") + first + R"(", ")" + last + R"("]})");
        for (const auto& value : parsed.any_of)
            out.push_back(std::get<Prefix>(value));
        return out;
    };
    CHECK(range("10.2.0.1", "10.2.0.9") ==
          std::vector{prefix("10.2.0.1/32"), prefix("10.2.0.2/31"), prefix("10.2.0.4/30"), prefix("10.2.0.8/31")});
    CHECK(range("0.0.0.0", "255.255.255.255") == std::vector{prefix("0.0.0.0/0")});
    CHECK(range("255.255.255.255", "255.255.255.255") == std::vector{prefix("255.255.255.255/32")});
    CHECK(range("10.0.0.0", "10.0.1.255") == std::vector{prefix("10.0.0.0/23")});
}

TEST_CASE("matches that cannot be decided are marked", "[nft]") {
    const std::vector<std::array<std::string, 3>> cases = {
        {"==", R"({"payload": {"protocol": "tcp", "field": "dport"}})", "80"},
        {"<", R"({"&": [{"meta": {"key": "mark"}}, 255]})", "16"},
        {"==", R"({"&": [{"meta": {"key": "mark"}}, 255]})", R"({"set": [16, 17]})"},
        {"==", R"({"|": [{"meta": {"key": "mark"}}, 255]})", "16"},
        {"==", meta("mark"), R"({"range": [1, 5]})"},
        {">", meta("mark"), "5"},
        {"==", meta("iif"), R"({"set": ["lo", "77"]})"},
        {"==", R"({"ct": {"key": "zone"}})", "5"},
        {"==", R"({"ct": {"key": "saddr", "family": "ip", "dir": "original"}})", R"("1.2.3.4")"},
        {"==", R"({"fib": {"result": "type", "flags": ["daddr"]}})", R"("local")"},
        {"==", R"({"concat": [)" + kSaddr + R"(, {"payload": {"protocol": "tcp", "field": "dport"}}]})", R"("@pairs")"},
        // A status has many bits: equality is not membership.
        {"==", kStatus, R"("dnat")"},
        {"!=", kStatus, R"("dnat")"},
        {"==", R"({"&": [{"ct": {"key": "status"}}, ["snat", "dnat"]]})", R"("dnat")"},
        {"==", kSaddr, R"("@pairs")"},
        {"==", kSaddr, R"("@fading")"},
        {"==", kSaddr, R"("@learned")"},
        {"==", kSaddr, R"("@nowhere")"},
        {"==", meta("l4proto"), R"("an-unheard-of-protocol")"},
    };
    for (const auto& [op, left, right] : cases) {
        INFO(op << " " << left << " " << right);
        CHECK(match(op, left, right).field == Field::kOther);
    }
}

TEST_CASE("named sets are kept by scope, name and value", "[nft]") {
    const auto nets = match("!=", kSaddr, R"("@nets")");
    CHECK(nets.field == Field::kIpSaddr);
    CHECK(nets.negate);
    CHECK(nets.set_name == "nets");
    CHECK(nets.any_of.empty());
    const auto ruleset = parse(kObjects);
    CHECK(ruleset.sets.at("ip t nets") == std::vector<nf::Value>{prefix("10.0.0.0/24"), prefix("10.1.0.1/32"),
                                                                 prefix("10.2.0.1/32"), prefix("10.2.0.2/31"),
                                                                 prefix("10.2.0.4/30"), prefix("10.2.0.8/31")});
    CHECK(ruleset.sets.at("ip t macs") == std::vector<nf::Value>{*Mac::parse("fa:16:3e:00:00:01")});
    CHECK(ruleset.sets.at("ip t names") == std::vector<nf::Value>{std::string("eth0"), std::string("tap*")});
    CHECK_FALSE(ruleset.sets.contains("ip t pairs"));
    CHECK_FALSE(ruleset.sets.contains("ip t fading"));
    CHECK(ruleset.maps.at("ip t fip_in") ==
          std::map<Ipv4, Ipv4>{{ip("172.24.5.11"), ip("10.0.0.11")}, {ip("172.24.5.12"), ip("10.0.0.12")}});
    CHECK(ruleset.maps.at("ip t empty").empty());
    CHECK_FALSE(ruleset.maps.contains("ip t wide"));
    CHECK_FALSE(ruleset.maps.contains("ip t verdicts"));
}

TEST_CASE("NAT to addresses and by maps is understood", "[nft]") {
    CHECK(only<nf::Dnat>(R"({"dnat": {"addr": "10.0.0.5"}})").to.address == ip("10.0.0.5"));
    CHECK(only<nf::Dnat>(R"({"dnat": {"family": "ip", "addr": "1.2.3.4"}})").to.address == ip("1.2.3.4"));
    const auto named =
        only<nf::Dnat>(R"({"dnat": {"addr": {"map": {"key": )" + kDaddr + R"(, "data": "@fip_in"}}}})").to;
    CHECK(named.map_name == "fip_in");
    CHECK(named.map_key == Field::kIpDaddr);
    CHECK_FALSE(named.address.has_value());
    const auto anonymous = only<nf::Snat>(R"({"snat": {"addr": {"map": {"key": )" + kSaddr +
                                          R"(, "data": {"set": [["1.1.1.1", "2.2.2.2"], ["3.3.3.3", "4.4.4.4"]]}}}}})")
                               .to;
    CHECK(anonymous.map_key == Field::kIpSaddr);
    CHECK(anonymous.anonymous_map ==
          std::map<Ipv4, Ipv4>{{ip("1.1.1.1"), ip("2.2.2.2")}, {ip("3.3.3.3"), ip("4.4.4.4")}});

    CHECK_FALSE(only<nf::Snat>(R"({"snat": {"addr": "1.2.3.4"}})").random);
    CHECK_FALSE(only<nf::Snat>(R"({"snat": {"addr": "1.2.3.4", "flags": "persistent"}})").random);
    CHECK(only<nf::Snat>(R"({"snat": {"addr": "1.2.3.4", "flags": "random"}})").random);
    CHECK(only<nf::Snat>(R"({"snat": {"addr": "1.2.3.4", "flags": ["fully-random", "persistent"]}})").random);
}

TEST_CASE("stateless rewrites, marks, notrack and harmless statements are understood", "[nft]") {
    const auto set = only<nf::SetAddress>(R"({"mangle": {"key": )" + kDaddr + R"(, "value": {"map": {"key": )" +
                                          kDaddr + R"(, "data": "@fip_in"}}}})");
    CHECK(set.field == Field::kIpDaddr);
    CHECK(set.to.map_name == "fip_in");
    CHECK(only<nf::SetAddress>(R"({"mangle": {"key": )" + kSaddr + R"(, "value": "1.2.3.4"}})").to.address ==
          ip("1.2.3.4"));
    const std::string mss = R"({"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": )";
    CHECK(only<nf::LowerMss>(mss + R"({"rt": {"key": "mtu"}}}})").to == 0);
    CHECK(only<nf::LowerMss>(mss + "1300}}").to == 1300);
    for (const char* value : {"0", "70000", R"({"rt": {"key": "classid"}})", R"({"meta": {"key": "mark"}})"}) {
        INFO(value);
        CHECK(only<nf::Unknown>(mss + value + "}}").may_translate == false);
    }
    only<nf::Notrack>(R"({"notrack": null})");
    only<nf::Counter>(R"({"comment": "hi"})");
    const auto counted = rule(R"({"counter": {"packets": 5, "bytes": 10}}, {"accept": null})");
    CHECK(std::holds_alternative<nf::Counter>(counted.statements.front()));
    CHECK(counted.statements.size() == 2);
}

TEST_CASE("what tells of packets, or only counts them, has to see them", "[nft]") {
    only<nf::Unknown>(R"({"log": {"prefix": "hi"}})");
    const std::string match = R"({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "qg-1"}}, )";
    for (const char* count :
         {R"({"counter": {"packets": 5, "bytes": 10}})", R"({"counter": "mine"})", R"({"last": null})"}) {
        INFO(count);
        CHECK(std::holds_alternative<nf::Unknown>(rule(count).statements.back()));
        CHECK(std::holds_alternative<nf::Unknown>(rule(match + count).statements.back()));
        CHECK(rule(count + std::string(R"(, {"drop": null})")).statements.size() == 2);
    }
}

TEST_CASE("marks are matched and set by their bits", "[nft]") {
    const auto masked = match("!=", R"({"&": [{"meta": {"key": "mark"}}, 65535]})", "2");
    CHECK(masked.field == Field::kMark);
    CHECK(masked.negate);
    CHECK(masked.mask == 0xffff);
    CHECK(masked.any_of == std::vector<nf::Value>{std::uint64_t{2}});
    // A mask of leading bits, as nft itself writes what iptables-nft has made of one.
    const auto leading = match("!=", meta("mark"), R"({"prefix": {"addr": 67108864, "len": 16}})");
    CHECK(leading.field == Field::kMark);
    CHECK(leading.mask == 0xffff0000);
    CHECK(leading.any_of == std::vector<nf::Value>{std::uint64_t{0x4000000}});
    const auto connection = match("==", R"({"ct": {"key": "mark"}})", "5");
    CHECK(connection.field == Field::kCtMark);
    CHECK(connection.mask == 0xffffffff);

    const auto set = [](const char* key, const std::string& value) {
        return R"({"mangle": {"key": {")" + std::string(key) + R"(": {"key": "mark"}}, "value": )" + value + "}}";
    };
    const std::string mark = R"({"meta": {"key": "mark"}})";
    const std::string connmark = R"({"ct": {"key": "mark"}})";
    const auto plain = only<nf::SetMark>(set("meta", "5"));
    CHECK(plain.value == 5);
    CHECK(plain.mask == 0xffffffff);
    // `meta mark set meta mark and 0xffff xor 0x4000000`: what MARK --set-xmark 0x4000000/0xffff0000 is in nft's words.
    const auto scope = only<nf::SetMark>(set("meta", R"({"^": [{"&": [)" + mark + R"(, 65535]}, 67108864]})"));
    CHECK(scope.value == 0x4000000);
    CHECK(scope.mask == 0xffff0000);
    const auto bit = only<nf::SetMark>(set("meta", R"({"|": [)" + mark + ", 6]}"));
    CHECK(bit.value == 6);
    CHECK(bit.mask == 6);
    const auto of_connection = only<nf::SetCtMark>(set("ct", "7"));
    CHECK(of_connection.value == 7);
    CHECK(of_connection.mask == 0xffffffff);
    const auto save = only<nf::SaveMark>(set("ct", R"({"&": [)" + mark + ", 255]}"));
    CHECK(save.from == 255);
    CHECK(save.to == 0xffffffff);
    const auto restore = only<nf::RestoreMark>(set("meta", connmark));
    CHECK(restore.from == 0xffffffff);
    CHECK(restore.to == 0xffffffff);
}

TEST_CASE("verdicts are understood", "[nft]") {
    using nf::VerdictKind;
    const std::vector<std::tuple<std::string, VerdictKind, std::string>> cases = {
        {R"({"accept": null})", VerdictKind::kAccept, ""},
        {R"({"drop": null})", VerdictKind::kDrop, ""},
        {R"({"return": null})", VerdictKind::kReturn, ""},
        {R"({"continue": null})", VerdictKind::kContinue, ""},
        {R"({"jump": {"target": "sub"}})", VerdictKind::kJump, "sub"},
        {R"({"goto": {"target": "sub"}})", VerdictKind::kGoto, "sub"},
    };
    for (const auto& [text, kind, chain] : cases) {
        const auto verdict = only<nf::Verdict>(text);
        CHECK(verdict.kind == kind);
        CHECK(verdict.chain == chain);
    }
}

TEST_CASE("what the model cannot express is unknown", "[nft]") {
    const Texts cases = {
        R"({"dnat": {"addr": "10.0.0.5", "port": 8080}})",
        R"({"dnat": {"addr": {"range": ["10.0.0.1", "10.0.0.9"]}}})",
        R"({"dnat": {"family": "ip6", "addr": "::1"}})",
        R"({"dnat": {"addr": {"map": {"key": )" + kDaddr + R"(, "data": "@wide"}}}})",
        R"({"dnat": {"addr": {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@fip_in"}}}})",
        R"({"redirect": null})",
        R"({"masquerade": null})",
        R"({"vmap": {"key": )" + kDaddr + R"(, "data": "@verdicts"}})",
        R"({"limit": {"rate": 10, "burst": 5, "per": "second"}})",
        R"({"mangle": {"key": {"payload": {"protocol": "ip", "field": "ttl"}}, "value": 5}})",
        R"({"mangle": {"key": {"ct": {"key": "zone"}}, "value": 5}})",
        R"({"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"numgen": {"mode": "inc", "mod": 2, "offset": 0}}}})",
        R"({"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"ct": {"key": "mark"}}, 1]}}})",
        R"({"set": {"op": "update", "elem": )" + kSaddr + R"(, "set": "@nets"}})",
        R"({"queue": {"num": 0}})",
        R"({"fwd": {"dev": "lo"}})",
        R"({"dup": {"addr": "lo"}})",
        R"({"flow": {"op": "add", "flowtable": "@f"}})",
        R"({"reject": {"type": "icmp", "expr": "port-unreachable"}})",
        R"({"xt": null})",
        R"({"xt": {"type": "match", "name": "conntrack"}})",
    };
    for (const auto& text : cases) {
        INFO(text);
        only<Unknown>(text);
    }
}

TEST_CASE("families of several protocols get back the EtherType that a header implies", "[nft]") {
    const std::string on_ip = R"({"match": {"op": "==", "left": )" + kSaddr + R"(, "right": "10.0.0.1"}})";
    const std::string on_arp =
        R"({"match": {"op": "==", "left": {"payload": {"protocol": "arp", "field": "operation"}}, "right": "request"}})";
    for (const char* family : {"inet", "netdev", "bridge"}) {
        INFO(family);
        const auto twice = rule(on_ip + "," + on_ip, family).statements;
        REQUIRE(twice.size() == 3);
        CHECK(std::get<Match>(twice[0]).field == Field::kEtherType);
        CHECK(std::get<Match>(twice[0]).any_of == std::vector<nf::Value>{std::uint64_t{0x0800}});
        CHECK(std::get<Match>(rule(on_arp, family).statements.at(0)).any_of ==
              std::vector<nf::Value>{std::uint64_t{0x0806}});
    }
    CHECK(rule(on_ip, "ip").statements.size() == 1);
    CHECK(rule(on_arp, "arp").statements.size() == 1);
}

TEST_CASE("base chains have hook, type, priority, policy and devices", "[nft]") {
    const auto ruleset = parse({
        R"({"chain": {"family": "ip", "table": "t", "name": "pre", "handle": 1, "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}})",
        R"({"chain": {"family": "inet", "table": "t", "name": "in", "handle": 2, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}})",
        R"({"chain": {"family": "ip", "table": "t", "name": "sub", "handle": 3}})",
        R"({"chain": {"family": "netdev", "table": "t", "name": "one", "handle": 4, "dev": "tap0", "type": "filter", "hook": "ingress", "prio": -500, "policy": "accept"}})",
        R"({"chain": {"family": "netdev", "table": "t", "name": "two", "handle": 5, "dev": ["a", "b"], "type": "filter", "hook": "ingress", "prio": 0, "policy": "accept"}})",
    });
    REQUIRE(ruleset.chains.size() == 6);
    CHECK(ruleset.chains[0].hook == nf::Hook::kPrerouting);
    CHECK(ruleset.chains[0].type == nf::ChainType::kNat);
    CHECK(ruleset.chains[0].priority == -100);
    CHECK(ruleset.chains[0].policy_accept);
    CHECK(ruleset.chains[1].family == nf::Family::kInet);
    CHECK_FALSE(ruleset.chains[1].policy_accept);
    CHECK_FALSE(ruleset.chains[2].hook.has_value());
    CHECK(ruleset.chains[3].device == "tap0");
    std::vector<std::string> devices{ruleset.chains[4].device, ruleset.chains[5].device};
    std::ranges::sort(devices);
    CHECK(devices == std::vector<std::string>{"a", "b"});
    CHECK(ruleset.opaque.empty());
}

TEST_CASE("hooks and tables that are not modelled are named", "[nft]") {
    const auto ruleset = parse({
        R"({"table": {"family": "ip", "name": "odd", "handle": 2, "flags": "ip"}})",
        R"({"table": {"family": "ip", "name": "asleep", "handle": 3, "flags": "dormant"}})",
        R"({"chain": {"family": "netdev", "table": "a", "name": "e", "handle": 2, "type": "filter", "hook": "egress", "prio": 0, "policy": "accept"}})",
        R"({"chain": {"family": "inet", "table": "e", "name": "x", "handle": 1, "type": "filter", "hook": "ingress", "prio": 0, "policy": "accept"}})",
        R"({"chain": {"family": "ip", "table": "asleep", "name": "x", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}})",
    });
    CHECK(ruleset.opaque == Texts{"nft table ip odd has flags", "nft chain inet e x at hook ingress"});
    REQUIRE(ruleset.chains.size() == 3);
    for (const auto& chain : ruleset.chains)
        CHECK(chain.hook == (chain.family == nf::Family::kNetdev ? std::optional(nf::Hook::kEgress) : std::nullopt));
}

TEST_CASE("rules read like nft's own text", "[nft]") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {R"({"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "rfp-1"}}, {"dnat": {"addr": {"map": {"key": )" +
             kDaddr + R"(, "data": "@fip_in"}}}})",
         "iifname \"rfp-1\" dnat to ip daddr map @fip_in"},
        {R"({"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "rfp-1"}}, {"match": {"op": "!", "left": )" +
             kStatus + R"(, "right": "dnat"}}, {"accept": null})",
         "oifname != \"rfp-1\" ct status ! dnat accept"},
        {R"({"match": {"op": "!=", "left": )" + kDaddr +
             R"(, "right": {"set": ["10.0.0.1", {"prefix": {"addr": "10.0.1.0", "len": 24}}]}}}, {"return": null})",
         "ip daddr != { 10.0.0.1, 10.0.1.0/24 } return"},
        {R"({"match": {"op": "in", "left": )" + kState +
             R"(, "right": ["established", "related"]}}, {"counter": {"packets": 7, "bytes": 9}}, {"jump": {"target": "sub"}})",
         "ct state established,related counter jump sub"},
        {R"({"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 255]}, "right": 16}}, {"drop": null})",
         "meta mark & 0x000000ff == 0x00000010 drop"},
        {R"({"snat": {"addr": "1.2.3.4", "flags": ["fully-random", "persistent"]}})",
         "snat to 1.2.3.4 fully-random,persistent"},
        {R"({"dnat": {"addr": {"range": ["10.0.0.1", "10.0.0.9"]}, "port": 80}})", "dnat to 10.0.0.1-10.0.0.9:80"},
        {R"({"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["a", {"accept": null}], ["b", {"jump": {"target": "sub"}}]]}}})",
         "iifname vmap { a : accept, b : jump sub }"},
        {R"({"match": {"op": "!=", "left": {"meta": {"key": "mark"}}, "right": {"prefix": {"addr": 67108864, "len": 16}}}})",
         "meta mark != 0x04000000/16"},
        {R"({"mangle": {"key": {"meta": {"key": "mark"}}, "value": 5}})", "meta mark set 0x00000005"},
        {R"({"match": {"op": "in", "left": {"payload": {"protocol": "tcp", "field": "flags"}}, "right": "syn"}}, {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}}}})",
         "tcp flags syn tcp option maxseg size set rt mtu"},
        {R"({"queue": {"num": 0}})", "queue {\"num\":0}"},
        {R"({"masquerade": null})", "masquerade"},
    };
    for (const auto& [statements, text] : cases)
        CHECK(rule(statements).text == text);
}

TEST_CASE("text that is no ruleset is an error, not a crash", "[nft]") {
    for (
        const char* text :
        {"", "{", "[]", "{}", R"({"nftables": 5})", R"({"nftables": [{"chain": {"family": "ip"}}]})",
         R"({"nftables": [{"rule": []}]})", R"({"nftables": [{"table": {"family": 5}}]})",
         R"({"nftables": [{"map": {"family": "ip", "name": "m", "table": "t", "type": "ipv4_addr", "map": "ipv4_addr", "elem": 5}}]})"}) {
        INFO(text);
        const auto parsed = parse_ruleset(text);
        if (parsed) CHECK((parsed->chains.empty() && parsed->maps.empty()));
    }
    CHECK_FALSE(parse_ruleset("{"));
    CHECK_FALSE(parse_ruleset(R"({"nftables": [{"chain": {"family": "ip"}}]})"));
}

}  // namespace fiplane
