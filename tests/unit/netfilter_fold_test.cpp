// SPDX-License-Identifier: Apache-2.0
// Rules that differ in one address become one.
#include <catch2/catch_test_macros.hpp>

#include "../support/snapshot_builder.hpp"
#include "linux/iptables_rule.hpp"

using namespace fiplane;
using namespace fiplane::test;
using nf::Field;

namespace {

/// The rules of a chain of table nat, folded.
std::vector<nf::Rule> folded(const std::vector<std::string>& rules) {
    nf::Ruleset ruleset;
    nf::Chain chain;
    chain.table = "nat";
    for (const std::string& text : rules)
        chain.rules.push_back(iptables::parse_rule(text, nf::Family::kIp, true));
    ruleset.chains.push_back(chain);
    nf::fold(ruleset);
    return ruleset.chains.front().rules;
}

std::vector<std::string> texts(const std::vector<std::string>& rules) {
    std::vector<std::string> out;
    for (const nf::Rule& rule : folded(rules))
        out.push_back(rule.text);
    return out;
}

}  // namespace

TEST_CASE("translations of single addresses become a map", "[nft]") {
    const auto rules = folded({"-s 10.0.0.1/32 -j SNAT --to-source 1.0.0.1 --random-fully",
                               "-s 10.0.0.2/32 -j SNAT --to-source 1.0.0.2 --random-fully",
                               "-s 10.0.0.1/32 -j SNAT --to-source 1.0.0.9 --random-fully"});
    REQUIRE(rules.size() == 1);
    REQUIRE(rules[0].statements.size() == 1);
    const auto& snat = std::get<nf::Snat>(rules[0].statements[0]);
    CHECK(snat.random);
    CHECK_FALSE(snat.to.address);
    CHECK(snat.to.map_key == Field::kIpSaddr);
    // The first rule for an address is the one that decides.
    CHECK(snat.to.anonymous_map ==
          std::map<Ipv4, Ipv4>{{ip("10.0.0.1"), ip("1.0.0.1")}, {ip("10.0.0.2"), ip("1.0.0.2")}});
    CHECK(rules[0].text == "-s 10.0.0.1/32 -j SNAT --to-source 1.0.0.1 --random-fully (and 2 more like it)");
}

TEST_CASE("what a rule asks besides stays in front of the map", "[nft]") {
    const auto rules = folded({"-d 1.0.0.1/32 -i rfp-1 -j DNAT --to-destination 10.0.0.1",
                               "-d 1.0.0.2/32 -i rfp-1 -j DNAT --to-destination 10.0.0.2"});
    REQUIRE(rules.size() == 1);
    REQUIRE(rules[0].statements.size() == 2);
    CHECK(std::get<nf::Match>(rules[0].statements[0]).field == Field::kIifname);
    CHECK(std::get<nf::Dnat>(rules[0].statements[1]).to.anonymous_map.size() == 2);
}

TEST_CASE("other rules become one with a set", "[nft]") {
    const auto rules = folded({"-s 10.0.0.1/32 -j DROP", "-s 10.0.0.2/32 -j DROP", "-s 10.0.0.3/32 -j ACCEPT"});
    REQUIRE(rules.size() == 2);
    CHECK(std::get<nf::Match>(rules[0].statements[0]).any_of ==
          std::vector<nf::Value>{net("10.0.0.1/32"), net("10.0.0.2/32")});
    CHECK(rules[1].text == "-s 10.0.0.3/32 -j ACCEPT");
}

TEST_CASE("rules that differ in more than one address stay as they are", "[nft]") {
    const std::vector<std::vector<std::string>> cases = {
        {"-s 10.0.0.1/32 -j DROP", "-d 10.0.0.2/32 -j DROP"},
        {"-s 10.0.0.1/32 -j DROP", "-s 10.0.0.1/32 -j DROP"},
        {"-s 10.0.0.0/24 -j DROP", "-s 10.0.1.0/24 -j DROP"},
        {"! -s 10.0.0.1/32 -j DROP", "! -s 10.0.0.2/32 -j DROP"},
        {"-s 10.0.0.1/32 -i a -j DROP", "-s 10.0.0.2/32 -i b -j DROP"},
        {"-s 10.0.0.1/32 -j SNAT --to-source 1.0.0.1", "-s 10.0.0.2/32 -j SNAT --to-source 1.0.0.2 --random"},
        {"-d 1.0.0.1/32 -j DNAT --to-destination 10.0.0.1", "-d 1.0.0.2/32 -j DNAT --to-destination 10.0.0.2:80"},
        {"-s 10.0.0.1/32 -j x", "-i a -j x", "-s 10.0.0.2/32 -j x"},
        {"-j x", "-j x"},
    };
    for (const auto& rules : cases)
        CHECK(texts(rules) == rules);
    // What is alike is folded to both sides of what is not.
    CHECK(texts({"-s 10.0.0.1/32 -j x", "-s 10.0.0.2/32 -j x", "-j y", "-s 10.0.0.3/32 -j x", "-s 10.0.0.4/32 -j x"}) ==
          std::vector<std::string>{"-s 10.0.0.1/32 -j x (and 1 more like it)", "-j y",
                                   "-s 10.0.0.3/32 -j x (and 1 more like it)"});
}
