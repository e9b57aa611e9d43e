// SPDX-License-Identifier: Apache-2.0
// Symbolic evaluation of netfilter hooks.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "../support/snapshot_builder.hpp"

using namespace fiplane;
using namespace fiplane::test;
using nf::ChainType;
using nf::Family;
using nf::Field;
using nf::Hook;
using nf::VerdictKind;

namespace {

nf::Packet packet(const char* source, const char* destination) {
    nf::Packet out;
    out.iifname = "rfp-1";
    out.oifname = "qr-1";
    if (source != nullptr) out.saddr = ip(source);
    out.daddr = net(destination);
    out.marks = out.marks_invalid = {0, 0};
    return out;
}

nf::Match source_is(const char* prefix) {
    return match(Field::kIpSaddr, {net(prefix)});
}
nf::Match destination_is(const char* prefix) {
    return match(Field::kIpDaddr, {net(prefix)});
}
nf::Match state_is(const char* state) {
    return match(Field::kCtState, {std::string(state)});
}
const nf::Match kUndecidable = match(Field::kOther, {});
const nf::Verdict kAccept = verdict(VerdictKind::kAccept);
const nf::Verdict kDrop = verdict(VerdictKind::kDrop);

/// One filter chain at the forward hook.
NetnsView forward_chain(std::vector<nf::Rule> rules) {
    NetnsView view;
    add_chain(view, Family::kIp, "filter", "FORWARD", Hook::kForward).rules = std::move(rules);
    return view;
}

nf::Outcome forward(const std::vector<nf::Rule>& rules, const nf::Packet& about) {
    return nf::evaluate(forward_chain(rules).netfilter, Hook::kForward, about);
}

}  // namespace

TEST_CASE("a region lies inside a literal or outside of it") {
    const std::vector<nf::Rule> rules{rule("drop ten", {destination_is("10.0.0.0/8"), kDrop})};
    CHECK_FALSE(forward(rules, packet("1.1.1.1", "10.0.0.0/24")).accepted);
    CHECK_FALSE(forward(rules, packet("1.1.1.1", "10.1.2.3/32")).accepted);
    // Any address of 0.0.0.0/0 that no longer prefix mentions is not in 10.0.0.0/8.
    CHECK(forward(rules, packet("1.1.1.1", "0.0.0.0/0")).accepted);
}

TEST_CASE("negation, wildcards and policies") {
    CHECK_FALSE(forward({rule("", {match(Field::kIifname, {std::string("qr-*")}, true), kDrop})},
                        packet("1.1.1.1", "10.0.0.1/32"))
                    .accepted);
    CHECK(forward({rule("", {match(Field::kIifname, {std::string("rfp-*")}, true), kDrop})},
                  packet("1.1.1.1", "10.0.0.1/32"))
              .accepted);
    NetnsView view = forward_chain({rule("", {match(Field::kOifname, {std::string("qr-1")}), kAccept})});
    view.netfilter.chains.front().policy_accept = false;
    CHECK(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "10.0.0.1/32")).accepted);
    nf::Packet other = packet("1.1.1.1", "10.0.0.1/32");
    other.oifname = "qr-2";
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kForward, other).accepted);
}

TEST_CASE("jump, goto and return keep the kernel's stack") {
    NetnsView view = forward_chain({rule("", {verdict(VerdictKind::kJump, "first")}), rule("", {kDrop})});
    nf::Chain& first = add_chain(view, Family::kIp, "filter", "first");
    SECTION("the end of a jumped chain returns to the caller") {
        first.rules = {rule("", {nf::Counter{}})};
        CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32")).accepted);
    }
    SECTION("accept in a jumped chain ends the base chain") {
        first.rules = {rule("", {kAccept})};
        CHECK(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32")).accepted);
    }
    SECTION("after goto the end of the chain is the end of the caller") {
        first.rules = {rule("", {verdict(VerdictKind::kGoto, "second")}), rule("", {kAccept})};
        add_chain(view, Family::kIp, "filter", "second");
        CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32")).accepted);
    }
    SECTION("return in a base chain is the policy") {
        view.netfilter.chains.front().rules.front() = rule("", {verdict(VerdictKind::kReturn)});
        CHECK(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32")).accepted);
    }
    SECTION("a target that nobody knows stops the walk") {
        view.netfilter.chains.front().rules.front() = rule("jump lost", {verdict(VerdictKind::kJump, "lost")});
        const auto outcome = nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32"));
        REQUIRE(outcome.stopped);
        CHECK(outcome.stopped->find("jump lost") != std::string::npos);
    }
}

TEST_CASE("undecidable matches stop the walk only where their outcomes differ") {
    CHECK_FALSE(forward({rule("dport 22 drop", {kUndecidable, kAccept})}, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    const auto outcome = forward({rule("dport 22 drop", {kUndecidable, kDrop})}, packet("1.1.1.1", "2.2.2.2/32"));
    REQUIRE(outcome.stopped);
    CHECK(*outcome.stopped == "rule `dport 22 drop` in ip filter FORWARD is undecidable");
    // Out of reach, behind a match that fails, it does no harm; nor does a rule that only counts.
    CHECK_FALSE(
        forward({rule("", {kUndecidable, destination_is("3.3.3.3/32"), kDrop})}, packet("1.1.1.1", "2.2.2.2/32"))
            .stopped);
    CHECK_FALSE(forward({rule("", {kUndecidable, nf::Counter{}})}, packet("1.1.1.1", "2.2.2.2/32")).stopped);
}

TEST_CASE("rules that lower the MSS are told, whatever else they depend on") {
    const auto mss = [](const std::vector<nf::Rule>& rules) {
        const auto outcome = forward(rules, packet("1.1.1.1", "2.2.2.2/32"));
        CHECK_FALSE(outcome.stopped);
        CHECK(outcome.accepted);
        return outcome.mss;
    };
    CHECK(mss({rule("", {kAccept})}).empty());
    CHECK(mss({rule("", {kUndecidable, nf::LowerMss{}})}) == std::set<std::uint16_t>{0});
    CHECK(mss({rule("", {kUndecidable, nf::LowerMss{1300}}), rule("", {nf::LowerMss{}})}) ==
          std::set<std::uint16_t>{0, 1300});
    CHECK(mss({rule("", {destination_is("3.3.3.3/32"), nf::LowerMss{}})}).empty());
    CHECK(mss({rule("", {kAccept}), rule("", {nf::LowerMss{}})}).empty());
    // As many as there are devices: none of them makes the others' ways more.
    CHECK(mss(std::vector<nf::Rule>(20, rule("", {kUndecidable, nf::LowerMss{}, nf::Counter{}}))) ==
          std::set<std::uint16_t>{0});
    // What is no TCP leaves the rule at that statement.
    for (const nf::Statement& next : {nf::Statement{kAccept}, nf::Statement{nf::SetMark{1}}}) {
        CHECK(forward({rule("", {nf::LowerMss{1400}, next})}, packet("1.1.1.1", "2.2.2.2/32")).stopped);
        CHECK(forward({rule("", {kUndecidable, nf::LowerMss{1400}, next})}, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    }
}

TEST_CASE("statements that are not understood stop the walk where they are reached") {
    const std::vector<nf::Rule> rules{rule("meter", {destination_is("3.3.3.3/32"), nf::Unknown{}})};
    CHECK_FALSE(forward(rules, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    const auto outcome = forward(rules, packet("1.1.1.1", "3.3.3.3/32"));
    REQUIRE(outcome.stopped);
    CHECK(*outcome.stopped == "rule `meter` in ip filter FORWARD is not understood");
}

TEST_CASE("too many undecidable rules are not enumerated for ever") {
    std::vector<nf::Rule> rules;
    for (int i = 0; i < 40; ++i)
        rules.push_back(rule("mark", {kUndecidable, nf::SetMark{1}}));
    const auto outcome = forward(rules, packet("1.1.1.1", "2.2.2.2/32"));
    CHECK(outcome.stopped);
}

TEST_CASE("conntrack states: tracked packets are new or established, and invalid ones must fare alike") {
    // The usual stateful accept in front of an accepting policy changes nothing.
    CHECK_FALSE(
        forward({rule("", {match(Field::kCtState, {std::string("established"), std::string("related")}), kAccept})},
                packet("1.1.1.1", "2.2.2.2/32"))
            .stopped);
    // New flows are dropped, established ones are not.
    CHECK(forward({rule("", {state_is("new"), kDrop})}, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    // The fast path would carry what Linux drops here.
    const auto outcome = forward({rule("", {state_is("invalid"), kDrop})}, packet("1.1.1.1", "2.2.2.2/32"));
    REQUIRE(outcome.stopped);
    CHECK(outcome.stopped->find("invalid") != std::string::npos);
}

TEST_CASE("ct status is of no use for untracked packets, negated or not") {
    NetnsView view = forward_chain({rule("", {match(Field::kCtStatus, {std::string("dnat")}, true), kDrop})});
    CHECK(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32"), true).accepted);
    // A tracked packet without translation of its own may belong to a translated flow.
    CHECK(nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    CHECK(forward({rule("", {match(Field::kCtStatus, {std::string("dnat")}), kDrop})}, packet("1.1.1.1", "2.2.2.2/32"))
              .stopped);
}

TEST_CASE("NAT chains see new packets only") {
    NetnsView view;
    add_chain(view, Family::kIp, "t", "pre", Hook::kPrerouting, ChainType::kNat, -100).rules = {
        rule("established", {state_is("established"), kDrop}),
        rule("not new", {match(Field::kCtState, {std::string("new")}, true), kDrop})};
    const auto outcome = nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "2.2.2.2/32"));
    CHECK_FALSE(outcome.stopped);
    CHECK(outcome.accepted);
}

TEST_CASE("a source cannot be changed before routing, nor a destination after it") {
    for (const auto& [hook, field] : {std::pair{Hook::kPrerouting, Field::kIpSaddr},
                                      {Hook::kForward, Field::kIpDaddr},
                                      {Hook::kPostrouting, Field::kIpDaddr}}) {
        NetnsView view;
        add_chain(view, Family::kIp, "t", "c", hook).rules = {
            rule("set", {nf::SetAddress{field, to_address("3.3.3.3")}})};
        CHECK(nf::evaluate(view.netfilter, hook, packet("1.1.1.1", "2.2.2.2/32")).stopped);
    }
}

namespace {

/// Neutron's shape in our own words: maps, and a stateless twin for invalid packets.
NetnsView translating(bool with_stateless_twin) {
    NetnsView view;
    const auto in = from_map("in", Field::kIpDaddr);
    const auto out = from_map("out", Field::kIpSaddr);
    add_chain(view, Family::kIp, "t", "pre", Hook::kPrerouting, ChainType::kNat, -100).rules = {
        rule("dnat", {nf::Dnat{in}})};
    add_chain(view, Family::kIp, "t", "post", Hook::kPostrouting, ChainType::kNat, 100).rules = {
        rule("snat", {nf::Snat{out, false}})};
    if (with_stateless_twin) {
        add_chain(view, Family::kIp, "t", "pre2", Hook::kPrerouting, ChainType::kFilter, -150).rules = {
            rule("set daddr", {state_is("invalid"), nf::SetAddress{Field::kIpDaddr, in}})};
        add_chain(view, Family::kIp, "t", "post2", Hook::kPostrouting, ChainType::kFilter, -150).rules = {
            rule("set saddr", {state_is("invalid"), nf::SetAddress{Field::kIpSaddr, out}})};
    }
    view.netfilter.maps["ip t in"] = {{ip("9.9.9.9"), ip("10.0.0.9")}};
    view.netfilter.maps["ip t out"] = {{ip("10.0.0.9"), ip("9.9.9.9")}};
    return view;
}

}  // namespace

TEST_CASE("maps translate, regions and misses pass") {
    const NetnsView view = translating(true);
    const auto hit = nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.9/32"));
    CHECK_FALSE(hit.stopped);
    CHECK(hit.dnat == ip("10.0.0.9"));
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.8/32")).dnat);
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.0/24")).dnat);
    const auto out = nf::evaluate(view.netfilter, Hook::kPostrouting, packet("10.0.0.9", "1.1.1.1/32"));
    CHECK_FALSE(out.stopped);
    CHECK(out.snat == ip("9.9.9.9"));
    CHECK(out.snat_by == "ip t out");
}

TEST_CASE("a translation that invalid packets escape stops the walk") {
    const NetnsView view = translating(false);
    CHECK(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.9/32")).stopped);
    CHECK(nf::evaluate(view.netfilter, Hook::kPostrouting, packet("10.0.0.9", "1.1.1.1/32")).stopped);
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.8/32")).stopped);
}

TEST_CASE("an unknown source takes the way of a source that nobody knows, and says what that rests on") {
    const NetnsView view = translating(true);
    const auto outcome = nf::evaluate(view.netfilter, Hook::kPostrouting, packet(nullptr, "1.1.1.1/32"));
    CHECK_FALSE(outcome.stopped);
    CHECK_FALSE(outcome.snat);
    REQUIRE(outcome.by_source);
    CHECK(outcome.by_source_snat_only);
    REQUIRE_FALSE(outcome.source_tests.empty());
    CHECK(outcome.source_tests.front().map == &view.netfilter.maps.at("ip t out"));

    const auto filter = forward({rule("drop one", {source_is("6.6.6.6/32"), kDrop})}, packet(nullptr, "1.1.1.1/32"));
    CHECK(filter.accepted);
    REQUIRE(filter.by_source);
    CHECK_FALSE(filter.by_source_snat_only);
    // A negated match: nobody known is "not 6.6.6.6".
    CHECK_FALSE(
        forward({rule("", {match(Field::kIpSaddr, {net("6.6.6.6/32")}, true), kDrop})}, packet(nullptr, "1.1.1.1/32"))
            .accepted);
}

TEST_CASE("notrack before conntrack skips translation") {
    NetnsView view = translating(false);
    SECTION("at raw priority") {
        add_chain(view, Family::kIp, "t", "raw", Hook::kPrerouting, ChainType::kFilter, -300).rules = {
            rule("notrack", {nf::Notrack{}})};
        const auto outcome = nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.9/32"));
        CHECK_FALSE(outcome.stopped);
        CHECK(outcome.notrack);
        CHECK_FALSE(outcome.dnat);
        CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPostrouting, packet("10.0.0.9", "1.1.1.1/32"), true).snat);
    }
    SECTION("later it comes too late") {
        add_chain(view, Family::kIp, "t", "late", Hook::kPrerouting, ChainType::kFilter, -150).rules = {
            rule("notrack", {nf::Notrack{}})};
        CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "1.1.1.2/32")).notrack);
    }
}

TEST_CASE("NAT chains run where the kernel's NAT hook sits, whatever their own priority") {
    NetnsView view = translating(false);
    // A filter at -110 sees the address before translation even if the NAT chain claims -120.
    view.netfilter.chains.front().priority = -120;
    add_chain(view, Family::kIp, "t", "watch", Hook::kPrerouting, ChainType::kFilter, -110).rules = {
        rule("", {destination_is("9.9.9.9/32"), kDrop})};
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.9/32")).accepted);
}

TEST_CASE("which of two NAT chains of equal priority comes first must not matter") {
    // Newer or older than the other one: the listing's order says nothing.
    const bool listed_first = GENERATE(false, true);
    const auto arrives = [&](const nf::Rule& other, int priority = -100) {
        NetnsView view = translating(true);
        add_chain(view, Family::kIp, "u", "pre", Hook::kPrerouting, ChainType::kNat, priority).rules = {other};
        if (listed_first) std::ranges::rotate(view.netfilter.chains, view.netfilter.chains.end() - 1);
        return nf::evaluate(view.netfilter, Hook::kPrerouting, packet("1.1.1.1", "9.9.9.9/32"));
    };
    const auto goes_on = [](const nf::Outcome& outcome) {
        INFO(outcome.stopped.value_or(""));
        CHECK_FALSE(outcome.stopped);
        CHECK(outcome.accepted);
        CHECK(outcome.dnat == ip("10.0.0.9"));
    };
    const nf::Dnat elsewhere{to_address("10.0.0.7")};
    SECTION("both translate the packet") {
        const auto outcome = arrives(rule("dnat", {destination_is("9.9.9.9/32"), elsewhere}));
        REQUIRE(outcome.stopped);
        CHECK(outcome.stopped->find("ip t pre") != std::string::npos);
        CHECK(outcome.stopped->find("ip u pre") != std::string::npos);
        CHECK(outcome.stopped->find("have the same priority") != std::string::npos);
    }
    SECTION("one of them only accepts it") {
        goes_on(arrives(rule("accept", {destination_is("9.9.9.9/32"), kAccept})));
    }
    SECTION("one of them translates something else") {
        goes_on(arrives(rule("dnat", {destination_is("9.9.9.8/32"), elsewhere})));
        goes_on(arrives(rule("dnat", {destination_is("10.0.0.9/32"), elsewhere})));
    }
    SECTION("both translate it to the same address") {
        goes_on(arrives(rule("dnat", {destination_is("9.9.9.9/32"), nf::Dnat{to_address("10.0.0.9")}})));
    }
    SECTION("one of them may translate it") {
        CHECK(arrives(rule("dnat", {destination_is("9.9.9.9/32"), kUndecidable, elsewhere})).stopped);
        CHECK(arrives(rule("xt", {destination_is("9.9.9.9/32"), nf::Unknown{}})).stopped);
    }
    SECTION("one of them drops it") {
        CHECK(arrives(rule("drop", {destination_is("9.9.9.9/32"), kDrop})).stopped);
    }
    SECTION("priorities that differ tell") {
        goes_on(arrives(rule("dnat", {destination_is("9.9.9.9/32"), elsewhere}), -99));
        CHECK(arrives(rule("dnat", {destination_is("9.9.9.9/32"), elsewhere}), -101).dnat != ip("10.0.0.9"));
    }
}

TEST_CASE("a later packet of a connection is translated by all NAT chains of equal priority alike") {
    NetnsView view = translating(false);
    add_chain(view, Family::kIp, "u", "pre", Hook::kPrerouting, ChainType::kNat, -100).rules = {
        rule("dnat", {destination_is("9.9.9.8/32"), nf::Dnat{to_address("10.0.0.7")}})};
    nf::Packet about = packet("1.1.1.1", "9.9.9.9/32");
    about.by_flow = true;
    about.marks_later = {{0, 5}};
    const auto outcome = nf::evaluate(view.netfilter, Hook::kPrerouting, about);
    CHECK_FALSE(outcome.stopped);
    CHECK(outcome.dnat == ip("10.0.0.9"));
}

TEST_CASE("a mark that one filter chain sets and another one of equal priority reads") {
    const bool listed_first = GENERATE(false, true);
    const auto passes = [&](const nf::Rule& one, const nf::Rule& other) {
        NetnsView view = forward_chain({one});
        add_chain(view, Family::kInet, "u", "forward", Hook::kForward).rules = {other};
        if (listed_first) std::ranges::reverse(view.netfilter.chains);
        return nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32"));
    };
    const nf::Rule sets = rule("mark", {nf::SetMark{7}});
    const auto outcome = passes(sets, rule("drop", {match(Field::kMark, {std::uint64_t{7}}), kDrop}));
    REQUIRE(outcome.stopped);
    CHECK(outcome.stopped->find("have the same priority") != std::string::npos);
    CHECK(passes(sets, rule("other mark", {nf::SetMark{8}})).stopped);
    const auto harmless = passes(sets, rule("drop", {destination_is("3.3.3.3/32"), kDrop}));
    CHECK_FALSE(harmless.stopped);
    CHECK(harmless.marks.packet == 7);
    CHECK_FALSE(passes(rule("drop", {kDrop}), rule("drop too", {kDrop})).accepted);
}

TEST_CASE("random ports are no translation that a stateless path could copy") {
    NetnsView view = translating(true);
    std::get<nf::Snat>(view.netfilter.chains[1].rules[0].statements[0]).random = true;
    const auto outcome = nf::evaluate(view.netfilter, Hook::kPostrouting, packet("10.0.0.9", "1.1.1.1/32"));
    REQUIRE(outcome.stopped);
    CHECK(*outcome.stopped == "rule `snat` in ip t post chooses ports at random");
}

TEST_CASE("marks pass from hook to hook, apart for invalid packets") {
    NetnsView view;
    add_chain(view, Family::kIp, "t", "pre", Hook::kPrerouting, ChainType::kFilter, -150).rules = {
        rule("", {state_is("invalid"), nf::SetMark{7}})};
    add_chain(view, Family::kIp, "t", "post", Hook::kPostrouting, ChainType::kFilter, 0).rules = {
        rule("", {match(Field::kMark, {std::uint64_t{7}}), kDrop})};
    nf::Packet about = packet("1.1.1.1", "2.2.2.2/32");
    const auto first = nf::evaluate(view.netfilter, Hook::kPrerouting, about);
    CHECK(first.marks.packet == 0);
    CHECK(first.marks_invalid.packet == 7);
    about.marks = first.marks;
    about.marks_invalid = first.marks_invalid;
    // Invalid packets only would be dropped: not the same for both.
    CHECK(nf::evaluate(view.netfilter, Hook::kPostrouting, about).stopped);
}

TEST_CASE("tables that cannot be read stop every hook") {
    NetnsView view;
    view.netfilter.opaque = {"iptables-legacy table nat"};
    const auto outcome = nf::evaluate(view.netfilter, Hook::kForward, packet("1.1.1.1", "2.2.2.2/32"));
    REQUIRE(outcome.stopped);
    CHECK(*outcome.stopped == "iptables-legacy table nat cannot be read");
}

TEST_CASE("pairs of addresses are read off maps and literal rules, but not where several share one") {
    NetnsView view = translating(true);
    view.netfilter.maps["ip t out"] = {
        {ip("10.0.0.9"), ip("9.9.9.9")}, {ip("10.0.0.7"), ip("9.9.9.7")}, {ip("10.0.0.8"), ip("9.9.9.7")}};
    add_chain(view, Family::kIp, "t", "literal", Hook::kPostrouting, ChainType::kNat, 110).rules = {
        rule("", {source_is("10.0.0.6/32"), nf::Snat{to_address("9.9.9.6"), false}}),
        rule("", {source_is("10.1.0.0/24"), nf::Snat{to_address("9.9.9.5"), false}})};
    const nf::Evaluator evaluator(view.netfilter);
    CHECK(evaluator.snats() == std::map<Ipv4, Ipv4>{{ip("10.0.0.6"), ip("9.9.9.6")}, {ip("10.0.0.9"), ip("9.9.9.9")}});
    CHECK(evaluator.dnats() == std::map<Ipv4, Ipv4>{{ip("9.9.9.9"), ip("10.0.0.9")}});
}

TEST_CASE("rules that repeat a literal pair leave it known which address was translated") {
    NetnsView view;
    const nf::Rule dnat = rule("", {destination_is("9.9.9.9/32"), nf::Dnat{to_address("10.0.0.9")}});
    add_chain(view, Family::kIp, "nat", "PREROUTING", Hook::kPrerouting, ChainType::kNat, -100).rules = {dnat};
    add_chain(view, Family::kIp, "nat", "OUTPUT", Hook::kOutput, ChainType::kNat, -100).rules = {dnat};
    add_chain(view, Family::kIp, "nat", "POSTROUTING", Hook::kPostrouting, ChainType::kNat, 100).rules = {
        rule("", {source_is("10.0.0.9/32"), nf::Snat{to_address("9.9.9.9"), false}})};
    const nf::Evaluator twice(view.netfilter);
    CHECK(twice.answers_follow_rules(ip("10.0.0.9")));
    CHECK_FALSE(twice.only_conntrack_routes_to(ip("9.9.9.9")));

    // A rule that tells no single address beside them still unsettles it.
    view.netfilter.chains.front().rules.push_back(rule("", {nf::Dnat{to_address("10.0.0.9")}}));
    CHECK_FALSE(nf::Evaluator(view.netfilter).answers_follow_rules(ip("10.0.0.9")));
}

TEST_CASE("ingress chains see ARP and IPv4 apart") {
    NetnsView view;
    nf::Chain& chain = add_chain(view, Family::kNetdev, "t", "in", Hook::kIngress);
    chain.device = "tap1";
    chain.rules = {rule("", {match(Field::kIpSaddr, {net("10.0.0.5/32")}, true), kDrop}),
                   rule("", {match(Field::kArpSaddrIp, {net("10.0.0.5/32")}, true), kDrop}),
                   rule("", {match(Field::kEtherSaddr, {mac("fa:16:3e:00:00:05")}, true), kDrop})};
    nf::Packet about;
    about.iifname = "tap1";
    about.ether_saddr = mac("fa:16:3e:00:00:05");
    about.saddr = ip("10.0.0.5");
    for (const std::uint16_t type : {0x0800, 0x0806, 0x86dd}) {
        about.ether_type = type;
        CHECK(nf::evaluate(view.netfilter, Hook::kIngress, about).accepted);
    }
    about.saddr = ip("10.0.0.6");
    about.ether_type = 0x0806;
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kIngress, about).accepted);
    about.ether_type = 0x86dd;
    CHECK(nf::evaluate(view.netfilter, Hook::kIngress, about).accepted);
    about.ether_saddr = mac("fa:16:3e:00:00:06");
    CHECK_FALSE(nf::evaluate(view.netfilter, Hook::kIngress, about).accepted);
    about.iifname = "tap2";
    CHECK(nf::evaluate(view.netfilter, Hook::kIngress, about).accepted);
}
