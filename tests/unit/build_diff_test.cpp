// SPDX-License-Identifier: Apache-2.0
// Differences between values: order of work, the smallest nftables transaction, and what is not touched.
#include <fmt/format.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "build/diff.hpp"

namespace fiplane::build {
namespace {

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

/// A ruleset that holds exactly these tables, as the kernel would show them.
nf::Ruleset as_ruleset(const std::vector<NftTable>& tables) {
    nf::Ruleset out;
    for (const auto& table : tables) {
        for (const auto& chain : table.chains) {
            nf::Chain made;
            made.family = table.family;
            made.table = "fiplane";
            made.name = chain.name;
            made.hook = chain.hook == "prerouting"    ? nf::Hook::kPrerouting
                        : chain.hook == "postrouting" ? nf::Hook::kPostrouting
                        : chain.hook == "input"       ? nf::Hook::kInput
                        : chain.hook == "egress"      ? nf::Hook::kEgress
                                                      : nf::Hook::kIngress;
            made.type = chain.type == "nat" ? nf::ChainType::kNat : nf::ChainType::kFilter;
            made.priority = chain.priority;
            made.device = chain.device;
            for (const auto& rule : chain.rules)
                made.rules.push_back({{}, rule});
            out.chains.push_back(made);
        }
        for (const auto& [name, elements] : table.maps) {
            out.maps[nf::Ruleset::scoped_name(table.family, "fiplane", name)] = elements;
        }
        for (const auto& [name, elements] : table.sets) {
            auto& values = out.sets[nf::Ruleset::scoped_name(table.family, "fiplane", name)];
            for (const IpAddress& element : elements.members) {
                const auto four = element.ipv4();
                values.push_back(four ? nf::Value(Prefix::host(*four)) : nf::Value(element));
            }
        }
    }
    return out;
}

NftTable router(const std::map<Ipv4, Ipv4>& translations) {
    return router_table("rfp-1", true, translations);
}

std::vector<std::string> texts(const Draft& draft) {
    std::vector<std::string> out;
    for (const auto& operation : draft.operations) {
        for (const auto& step : operation.steps) {
            const char sign = step.action == Step::Action::kAdd      ? '+'
                              : step.action == Step::Action::kChange ? '~'
                                                                     : '-';
            out.push_back(fmt::format("{} {}", sign, step.object));
        }
    }
    return out;
}

}  // namespace

TEST_CASE("equal tables need no transaction", "[build][nft]") {
    const std::vector<NftTable> tables = {router({{ip("203.0.113.1"), ip("10.0.0.1")}})};
    CHECK(diff_tables(tables, as_ruleset(tables), {}).commands.empty());
}

TEST_CASE("a floating IP that moves costs elements, never chains", "[build][nft]") {
    const auto before =
        as_ruleset({router({{ip("203.0.113.1"), ip("10.0.0.1")}, {ip("203.0.113.2"), ip("10.0.0.2")}})});
    const auto change =
        diff_tables({router({{ip("203.0.113.1"), ip("10.0.0.9")}, {ip("203.0.113.2"), ip("10.0.0.2")}})}, before, {});
    CHECK(change.commands ==
          "add table ip fiplane\n"
          "delete element ip fiplane fip_in { 203.0.113.1 }\n"
          "add element ip fiplane fip_in { 203.0.113.1 : 10.0.0.9 }\n"
          "delete element ip fiplane fip_out { 10.0.0.1 }\n"
          "add element ip fiplane fip_out { 10.0.0.9 : 203.0.113.1 }\n");
    CHECK(change.steps.size() == 3);
}

TEST_CASE("many elements are split into commands of one transaction", "[build][nft]") {
    std::map<Ipv4, Ipv4> many;
    for (std::uint32_t i = 0; i < 1200; ++i)
        many.emplace(Ipv4{ip("203.0.0.0").value + i}, Ipv4{ip("10.0.0.0").value + i});
    const auto change = diff_tables({router(many)}, as_ruleset({router({})}), {});
    CHECK(std::ranges::count(change.commands, '\n') == 1 + 3 + 3);
    CHECK(change.steps.size() == 2400);
}

TEST_CASE("a changed rule is put back without touching the maps", "[build][nft]") {
    const std::vector<NftTable> tables = {router({{ip("203.0.113.1"), ip("10.0.0.1")}})};
    auto actual = as_ruleset(tables);
    actual.chains[1].rules.insert(actual.chains[1].rules.begin(), nf::Rule{{}, "accept"});
    const auto change = diff_tables(tables, actual, {});
    CHECK(change.commands ==
          "add table ip fiplane\n"
          "flush chain ip fiplane postrouting\n"
          "add rule ip fiplane postrouting oifname != \"rfp-1\" ct status ! dnat accept\n"
          "add rule ip fiplane postrouting snat to ip saddr map @fip_out\n");
}

TEST_CASE("a chain on another hook is made anew, a stranger's table is not ours", "[build][nft]") {
    const std::vector<NftTable> tables = {fip_table()};
    auto actual = as_ruleset(tables);
    actual.chains[0].priority = 0;
    nf::Chain other;
    other.table = "nat";
    other.name = "neutron-l3-agent-snat";
    actual.chains.push_back(other);
    const auto change = diff_tables(tables, actual, {});
    CHECK(change.commands.find("delete chain ip fiplane prerouting\nadd chain ip fiplane prerouting") !=
          std::string::npos);
    CHECK(change.commands.find("neutron") == std::string::npos);
}

TEST_CASE("guard chains wait for their devices", "[build][nft]") {
    const std::vector<NftTable> tables = {guard_table({{"tap1", {*Mac::parse("fa:16:3e:00:00:01"), ip("10.0.0.1")}},
                                                       {"tap2", {*Mac::parse("fa:16:3e:00:00:02"), ip("10.0.0.2")}}},
                                                      {}, {"gre-1001-2", "gre-1001-3"})};
    const auto change = diff_tables(tables, {}, {"tap2", "gre-1001-3"});
    CHECK(change.commands.find("port_tap1") == std::string::npos);
    CHECK(change.commands.find("add chain netdev fiplane port_tap2 { type filter hook ingress device \"tap2\" "
                               "priority 0; policy accept; }") != std::string::npos);
    CHECK(change.commands.find("gre-1001-2") == std::string::npos);
    CHECK(
        change.commands.find("add chain netdev fiplane port_gre-1001-3 { type filter hook egress device \"gre-1001-3\" "
                             "priority 0; policy accept; }") != std::string::npos);
    CHECK(change.commands.find("add rule netdev fiplane port_gre-1001-3 ether type arp drop") != std::string::npos);
    CHECK(diff_tables(tables, as_ruleset(tables), {}).commands.empty());
}

TEST_CASE("chains of devices that build removes go before them, and come back with them", "[build][nft]") {
    const std::vector<NftTable> both = {guard_table({}, {}, {"gnv-1001-2", "gnv-1001-3"})};
    const auto actual = as_ruleset(both);
    CHECK(delete_device_chains(actual, {"gnv-1001-2"}) ==
          "flush chain netdev fiplane port_gnv-1001-2\ndelete chain netdev fiplane port_gnv-1001-2\n");
    CHECK(delete_device_chains(actual, {"br-ex"}).empty());
    // Made again: as if the chain had never been.
    const auto again = diff_tables(both, actual, {"gnv-1001-2", "gnv-1001-3"}, {"gnv-1001-2"});
    CHECK(again.commands.find("add chain netdev fiplane port_gnv-1001-2 {") != std::string::npos);
    CHECK(again.commands.find("gnv-1001-3") == std::string::npos);
    REQUIRE(again.steps.size() == 1);
    CHECK(again.steps[0].object == "nft chain netdev fiplane port_gnv-1001-2");
    // For good: nothing is left to do, but for a table that is not wanted any more.
    CHECK(diff_tables({guard_table({}, {}, {"gnv-1001-3"})}, actual, {"gnv-1001-3"}, {"gnv-1001-2"}).commands.empty());
    CHECK(diff_tables({}, actual, {}, {"gnv-1001-2", "gnv-1001-3"}).commands ==
          "add table netdev fiplane\ndelete table netdev fiplane\n");
}

TEST_CASE("a floating IP that goes: rule, route, translation, connections, in that order", "[build]") {
    DesiredNode desired;
    desired.mark = "fiplane:t";
    desired.netns[""];
    DesiredNetns& qrouter = desired.netns["qrouter-1"];
    DesiredDevice rfp;
    rfp.kind = VethKind{"fip-1", "fpr-1"};
    qrouter.devices.emplace("rfp-1", rfp);
    qrouter.tables = {router({})};
    DesiredNetns& fip = desired.netns["fip-1"];
    DesiredDevice fpr;
    fpr.kind = VethPeerKind{"qrouter-1", "rfp-1"};
    fip.devices.emplace("fpr-1", fpr);

    ActualNode actual;
    actual.netns[""].ours = true;
    const auto netns = [&](const char* name, const char* device, int index, int peer) -> ActualNetns& {
        ActualNetns& out = actual.netns[name];
        out.ours = true;
        out.mark = "fiplane:t";
        Link link;
        link.ifindex = index;
        link.name = device;
        link.kind = "veth";
        link.mtu = 1500;
        link.admin_up = true;
        link.peer = PeerInfo{peer, {}};
        out.links.emplace(device, link);
        out.names.emplace(index, device);
        return out;
    };
    ActualNetns& router_now = netns("qrouter-1", "rfp-1", 2, 3);
    PolicyRule rule;
    rule.priority = 32768;
    rule.source = Prefix::host(ip("10.0.0.1"));
    rule.table = 16;
    router_now.rules = {rule};
    router_now.netfilter = as_ruleset({router({{ip("203.0.113.1"), ip("10.0.0.1")}})});
    ActualNetns& fip_now = netns("fip-1", "fpr-1", 3, 2);
    Route route;
    route.destination = Prefix::host(ip("203.0.113.1"));
    route.oif = 3;
    route.gateway = ip("169.254.64.0");
    route.protocol = RTPROT_STATIC;
    Route daemons = route;
    daemons.destination = *Prefix::parse("198.51.100.0/24");
    daemons.protocol = RTPROT_BIRD;
    fip_now.routes = {route, daemons};

    const auto draft = diff(desired, actual);
    REQUIRE(draft);
    CHECK(texts(*draft) == std::vector<std::string>{
                               "- rule 32768 from 10.0.0.1/32 lookup 16",
                               "- route 203.0.113.1/32 via 169.254.64.0 dev fpr-1 table 254",
                               "- nft element ip fiplane fip_in { 203.0.113.1 : 10.0.0.1 }",
                               "- nft element ip fiplane fip_out { 10.0.0.1 : 203.0.113.1 }",
                               "- conntrack entries of 10.0.0.1",
                               "- conntrack entries of 203.0.113.1",
                           });
    CHECK(draft->withdrawn == std::set<Ipv4>{ip("10.0.0.1"), ip("203.0.113.1")});
}

}  // namespace fiplane::build
