// SPDX-License-Identifier: Apache-2.0
// A router whose own address stands for VMs without a floating IP: what the walk leaves to Linux because of it, and
// that nothing else changes.
#include <catch2/catch_test_macros.hpp>

#include "core/compile.hpp"
#include "walk_expect.hpp"

namespace fiplane::test {
namespace {

/// Behind the rule of the map, as Neutron has them (l3/router_info.py).
void add_gateway_nat(NetnsView& qrouter, const std::string& external, const char* address) {
    using F = nf::Field;
    nf::AddressSource to;
    to.address = ip(address);
    const auto chain = std::ranges::find(qrouter.netfilter.chains, "postrouting", &nf::Chain::name);
    REQUIRE(chain != qrouter.netfilter.chains.end());
    chain->rules.push_back(
        rule("oifname external snat to gateway fully-random", {match(F::kOifname, {external}), nf::Snat{to, true}}));
    chain->rules.push_back(
        rule("iifname != external ct status dnat snat to gateway fully-random",
             {match(F::kIifname, {external}, true), match(F::kCtStatus, {std::string("dnat")}), nf::Snat{to, true}}));
}

Snapshot with_gateway_nat() {
    Snapshot snapshot = legacy_snapshot();
    add_gateway_nat(snapshot.routers.at(kQrouter), "qg-31ab0003-30", "172.24.5.3");
    return snapshot;
}

}  // namespace

TEST_CASE("M9: only what VMs without a floating IP send beyond the gateway becomes Linux's") {
    Tables wanted = compile(legacy_snapshot(), legacy_scope()).tables;
    const Compiled compiled = compile(with_gateway_nat(), legacy_scope());
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    // Its ways to the router's networks stay, and all that VMs with a floating IP have.
    wanted.dests.erase(dest_row_key(fixed, "172.24.4.1"));
    std::erase_if(wanted.routes, [&](const auto& row) { return row.first.domain == fixed; });
    CHECK(differences(wanted, compiled.tables) == "");
    for (const char* address : {"172.24.5.11", "172.24.5.12", "172.24.5.13"}) {
        const FipReport& report = report_of(compiled, address);
        INFO(report.reason_in << report.reason_out);
        CHECK(report.fast_in);
        CHECK(report.fast_out);
    }
}

}  // namespace fiplane::test
