// SPDX-License-Identifier: Apache-2.0
// Rules that lower the MSS of TCP, as limits in the rows of the journeys that meet them.
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

NetnsView& router(Snapshot& snapshot) {
    return snapshot.routers.at(kQrouter);
}

void add_rule_for_syn(NetnsView& view, std::vector<nf::Statement> statements, nf::Hook hook = nf::Hook::kForward) {
    statements.insert(statements.begin(), match(nf::Field::kOther, {}));
    add_chain(view, nf::Family::kIp, "mss", "chain", hook, nf::ChainType::kFilter, -150).rules = {
        rule("tcp flags syn ...", std::move(statements))};
}

std::uint16_t mss_in(const Compiled& compiled) {
    return compiled.tables.fip_in.at(fip_row_key(kBrEx, "172.24.5.11")).next.mss;
}

std::uint16_t mss_out(const Compiled& compiled) {
    const fl_vm& a = compiled.tables.vms.at(vm_key(kTapA, "10.0.0.11"));
    return compiled.tables.routes.at(route_row_key(a.domain, "0.0.0.0/0")).mss;
}

}  // namespace

TEST_CASE("without a rule there is no limit") {
    const Compiled compiled = compile(dvr_snapshot(), scope());
    CHECK(mss_in(compiled) == 0);
    CHECK(mss_out(compiled) == 0);
}

TEST_CASE("rt mtu: what the narrowest device or route of the namespace leaves") {
    Snapshot snapshot = dvr_snapshot();
    add_rule_for_syn(router(snapshot), {nf::LowerMss{}});
    SECTION("devices that are up") {
        // The kernel puts such into every namespace once ip_gre is loaded.
        add_link(router(snapshot), 99, "erspan0", "erspan", "02:00:00:00:00:99", 1300).admin_up = false;
        const Compiled compiled = compile(snapshot, scope());
        CHECK(mss_in(compiled) == 1410);
        CHECK(mss_out(compiled) == 1410);
        CHECK(report_of(compiled, "172.24.5.11").fast_out);
    }
    SECTION("a route, be it the way back") {
        for (Route& route : router(snapshot).routes) {
            if (route.destination == net("10.0.0.0/24")) route.mtu = 1300;
        }
        CHECK(mss_out(compile(snapshot, scope())) == 1260);
    }
    SECTION("of the namespaces on the way the strictest") {
        add_rule_for_syn(snapshot.routers.at(kFipNs), {nf::LowerMss{1200}});
        const Compiled compiled = compile(snapshot, scope());
        CHECK(mss_in(compiled) == 1200);
        CHECK(mss_out(compiled) == 1200);
    }
}

TEST_CASE("a rule that only some packets meet counts for all") {
    Snapshot snapshot = dvr_snapshot();
    SECTION("by its source") {
        add_rule_for_syn(router(snapshot), {match(nf::Field::kIpSaddr, {net("203.0.113.0/24")}), nf::LowerMss{1000}});
        const Compiled compiled = compile(snapshot, scope());
        CHECK(mss_in(compiled) == 1000);
        CHECK(mss_out(compiled) == 0);  // the VM is known not to be meant
    }
    SECTION("in another hook") {
        add_rule_for_syn(router(snapshot), {nf::LowerMss{1000}}, nf::Hook::kPostrouting);
        CHECK(mss_in(compile(snapshot, scope())) == 1000);
    }
}

TEST_CASE("a rule for one floating IP is not another's") {
    Snapshot snapshot = dvr_snapshot();
    add_chain(router(snapshot), nf::Family::kIp, "mss", "chain", nf::Hook::kPostrouting, nf::ChainType::kFilter, 150)
        .rules = {
        rule("ip saddr 172.24.5.12 ...", {match(nf::Field::kIpSaddr, {net("172.24.5.12/32")}), nf::LowerMss{1000}})};
    const Compiled compiled = compile(snapshot, scope());
    const fl_vm& b = compiled.tables.vms.at(vm_key(kTapB, "10.0.0.12"));
    CHECK(mss_out(compiled) == 0);
    CHECK(compiled.tables.routes.at(route_row_key(b.domain, "0.0.0.0/0")).mss == 1000);
}

TEST_CASE("where nothing is routed a rule that lowers the MSS keeps the fast path away") {
    Snapshot snapshot = dvr_snapshot();
    nf::Chain* chain = nullptr;
    for (nf::Chain& each : snapshot.root.netfilter.chains) {
        if (each.device == "tapaaaaaaaa-aa") chain = &each;
    }
    REQUIRE(chain != nullptr);
    chain->rules.push_back(rule("tcp option maxseg size set 1000", {nf::LowerMss{1000}}));
    CHECK_FALSE(compile(snapshot, scope()).tables.sources.contains(source_row_key(kTapA)));
}
