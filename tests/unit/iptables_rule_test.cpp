// SPDX-License-Identifier: Apache-2.0
// Rules as iptables-save prints them.
#include "linux/iptables_rule.hpp"

#include <catch2/catch_test_macros.hpp>

#include "../support/snapshot_builder.hpp"
#include "linux/iptables_save.hpp"

using namespace fiplane;
using namespace fiplane::test;
using nf::Field;

namespace {

std::vector<nf::Statement> statements(const std::string& text, bool in_nat = false) {
    return iptables::parse_rule(text, nf::Family::kIp, in_nat).statements;
}

/// The last statement of a rule, its target.
template <typename T>
T target(const std::string& text, bool in_nat = false) {
    INFO(text);
    const auto parsed = statements(text, in_nat);
    REQUIRE_FALSE(parsed.empty());
    REQUIRE(std::holds_alternative<T>(parsed.back()));
    return std::get<T>(parsed.back());
}

nf::Match first_match(const std::string& text) {
    INFO(text);
    const auto parsed = statements(text);
    REQUIRE_FALSE(parsed.empty());
    REQUIRE(std::holds_alternative<nf::Match>(parsed.front()));
    return std::get<nf::Match>(parsed.front());
}

}  // namespace

TEST_CASE("words of a rule", "[iptables]") {
    using iptables::Word;
    CHECK(iptables::split("-A  x\t-j y") ==
          std::vector<Word>{{"-A", false}, {"x", false}, {"-j", false}, {"y", false}});
    CHECK(iptables::split(R"(--comment "a \"b\" -j DROP" -j ACCEPT)") ==
          std::vector<Word>{{"--comment", false}, {R"(a "b" -j DROP)", true}, {"-j", false}, {"ACCEPT", false}});
    CHECK(iptables::split(R"("")") == std::vector<Word>{{"", true}});
    CHECK(iptables::split(R"(open "to the end)") == std::vector<Word>{{"open", false}, {"to the end", true}});
    CHECK(iptables::split("").empty());
}

TEST_CASE("matches of iptables", "[iptables]") {
    const std::vector<std::tuple<std::string, Field, bool, std::vector<nf::Value>>> cases = {
        {"-s 10.0.0.1/32", Field::kIpSaddr, false, {net("10.0.0.1/32")}},
        {"! -s 10.0.0.0/8", Field::kIpSaddr, true, {net("10.0.0.0/8")}},
        {"-d 10.0.0.1", Field::kIpDaddr, false, {net("10.0.0.1/32")}},
        {"-i qr-+", Field::kIifname, false, {std::string("qr-*")}},
        {"! -o rfp-7b1f3c52-9", Field::kOifname, true, {std::string("rfp-7b1f3c52-9")}},
        {"-p tcp", Field::kIpProtocol, false, {std::uint64_t{6}}},
        {"-p 89", Field::kIpProtocol, false, {std::uint64_t{89}}},
        {"-m mark --mark 0x1/0xffff", Field::kMark, false, {std::uint64_t{1}}},
        {"-m connmark ! --mark 0x0/0xffff0000", Field::kCtMark, true, {std::uint64_t{0}}},
        {"-m conntrack ! --ctstate DNAT", Field::kCtState, true, {std::string("dnat")}},
        {"-m state --state RELATED,ESTABLISHED",
         Field::kCtState,
         false,
         {std::string("related"), std::string("established")}},
    };
    for (const auto& [text, field, negate, values] : cases) {
        const nf::Match match = first_match(text + " -j DROP");
        CHECK(match.field == field);
        CHECK(match.negate == negate);
        CHECK(match.any_of == values);
    }
    CHECK(first_match("-m mark --mark 0x1/0xffff -j DROP").mask == 0xffff);
    CHECK(first_match("-m mark --mark 7 -j DROP").mask == 0xffffffff);
}

TEST_CASE("matches that the model does not have are undecidable", "[iptables]") {
    for (const char* text :
         {"-m tcp --dport 80", "-f", "! -f", "-m addrtype --dst-type LOCAL", "-m conntrack --ctstatus SNAT",
          "-m conntrack --ctstate NEW,STRANGE", "-m set --match-set x src,dst", "-m mark --mark 0x1ffffffff",
          "-m statistic --mode random --probability 0.5", "-s host.example", "-p strange", "-m recent --mark 1"}) {
        CHECK(first_match(std::string(text) + " -j DROP").field == Field::kOther);
    }
    // An IPv6 packet's addresses are not known.
    const auto ipv6 = iptables::parse_rule("-s 2001:db8::1/128 -j DROP", nf::Family::kIp6, false);
    CHECK(std::get<nf::Match>(ipv6.statements.at(0)).field == Field::kOther);
    // The name of a module alone says nothing.
    CHECK(statements("-m comment --comment \"a b\" -j DROP").size() == 1);
    CHECK(statements("-m comment --comment plain").size() == 1);
}

TEST_CASE("targets of iptables", "[iptables]") {
    using nf::VerdictKind;
    CHECK(target<nf::Verdict>("-j ACCEPT").kind == VerdictKind::kAccept);
    CHECK(target<nf::Verdict>("-j DROP").kind == VerdictKind::kDrop);
    CHECK(target<nf::Verdict>("-j RETURN").kind == VerdictKind::kReturn);
    CHECK(target<nf::Verdict>("-j neutron-l3-agent-mark").chain == "neutron-l3-agent-mark");
    CHECK(target<nf::Verdict>("-g other").kind == VerdictKind::kGoto);
    // They tell somebody, who would miss what does not come by.
    target<nf::Unknown>("-j LOG --log-prefix \"x y \"");
    target<nf::Unknown>("-j NFLOG --nflog-group 3");
    target<nf::Notrack>("-j CT --notrack");
    target<nf::Notrack>("-j NOTRACK");

    const auto scope = target<nf::SetMark>("-i qr-1 -j MARK --set-xmark 0x4000000/0xffff0000");
    CHECK(scope.value == 0x4000000);
    CHECK(scope.mask == 0xffff0000);
    CHECK(target<nf::SetCtMark>("-j CONNMARK --set-xmark 0x5/0xffffffff").value == 5);
    const auto save = target<nf::SaveMark>("-j CONNMARK --save-mark --nfmask 0xffff0000 --ctmask 0xff");
    CHECK(save.from == 0xffff0000);
    CHECK(save.to == 0xff);
    const auto restore = target<nf::RestoreMark>("-j CONNMARK --restore-mark --nfmask 0xffff0000 --ctmask 0xff");
    CHECK(restore.from == 0xff);
    CHECK(restore.to == 0xffff0000);
    CHECK(target<nf::SaveMark>("-j CONNMARK --save-mark").to == 0xffffffff);

    CHECK(target<nf::Dnat>("-d 1.2.3.4/32 -i rfp-1 -j DNAT --to-destination 10.0.0.1").to.address == ip("10.0.0.1"));
    const auto random = target<nf::Snat>("-s 10.0.0.1/32 -j SNAT --to-source 1.2.3.4 --random-fully");
    CHECK(random.to.address == ip("1.2.3.4"));
    CHECK(random.random);
    CHECK_FALSE(target<nf::Snat>("-j SNAT --to-source 1.2.3.4 --persistent").random);
    // Without a target a rule counts packets, as those of neutron-metering-agent do.
    CHECK(statements("-s 10.0.0.1/32").size() == 2);
    target<nf::Unknown>("-s 10.0.0.1/32");
    target<nf::Unknown>("-o qg-1 -m comment --comment \"metering\"");
}

TEST_CASE("targets that the model does not have", "[iptables]") {
    for (const char* text :
         {"-j REJECT --reject-with icmp-port-unreachable", "-j NFQUEUE --queue-num 0", "-j TCPMSS --clamp-mss-to-pmtu",
          "-j CT --zone 5", "-j MARK --set-xmark strange", "-j CONNMARK --save-mark --strange 1",
          "-j MASQUERADE --random-fully", "-j REDIRECT --to-ports 9697", "-j CT --notrack --zone 5"}) {
        CHECK_FALSE(target<nf::Unknown>(text).may_translate);
    }
    CHECK(target<nf::Unknown>("-j NETMAP --to 10.0.0.0/24", true).may_translate);
    CHECK(target<nf::Unknown>("-j SNAT --to-source 1.2.3.4-1.2.3.9", true).may_translate);
    CHECK(target<nf::Unknown>("-j DNAT", true).may_translate);
    // A forwarded port: to which address is known.
    CHECK(target<nf::Unknown>("-p tcp -j DNAT --to-destination 10.0.0.1:80", true).dnat == ip("10.0.0.1"));
    CHECK(target<nf::Unknown>("-j DNAT --to-destination 10.0.0.1 --random", true).dnat == ip("10.0.0.1"));
    CHECK(target<nf::Unknown>("-j SNAT --to-source 1.2.3.4:1000-2000", true).snat == ip("1.2.3.4"));
    CHECK(target<nf::Unknown>("-j SNAT --to-source 1.2.3.4 --random --strange", true).snat == ip("1.2.3.4"));
}

TEST_CASE("rules of iptables-save take the place of those that nft does not show", "[iptables]") {
    NetnsView view;
    const nf::Unknown hidden{.may_translate = true, .by_iptables = true};
    add_chain(view, nf::Family::kIp, "nat", "PREROUTING", nf::Hook::kPrerouting, nf::ChainType::kNat, -100).rules = {
        rule("xt", {hidden}), rule("jump x", {verdict(nf::VerdictKind::kJump, "x")})};
    add_chain(view, nf::Family::kIp, "nat", "x").rules = {rule("xt", {hidden})};
    add_chain(view, nf::Family::kIp, "mine", "x").rules = {rule("own", {verdict(nf::VerdictKind::kDrop)})};
    CHECK(iptables::needs_save(view.netfilter, nf::Family::kIp));
    CHECK_FALSE(iptables::needs_save(view.netfilter, nf::Family::kIp6));
    const std::string saved =
        "# Generated\n*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DROP\nCOMMIT\n"
        "*nat\n:PREROUTING ACCEPT [0:0]\n:x - [0:0]\n"
        "-A PREROUTING -d 1.2.3.4/32 -j DNAT --to-destination 10.0.0.1\n-A PREROUTING -j x\n"
        "-A x -j DROP\n-A x\nCOMMIT\n";
    iptables::complete(view.netfilter, nf::Family::kIp, saved);
    const auto& chains = view.netfilter.chains;
    CHECK(chains[0].rules[0].text == "-d 1.2.3.4/32 -j DNAT --to-destination 10.0.0.1");
    CHECK(std::holds_alternative<nf::Dnat>(chains[0].rules[0].statements.back()));
    CHECK(chains[0].rules[1].text == "-j x");
    // Another number of rules: it has changed since. And what is not iptables' stays.
    CHECK(chains[1].rules[0].text == "xt");
    CHECK(chains[2].rules[0].text == "own");
    CHECK(iptables::needs_save(view.netfilter, nf::Family::kIp));
}
