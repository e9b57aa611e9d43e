// SPDX-License-Identifier: Apache-2.0
// Routers that somebody else has built, as tc_router's tables have them. Two tenants, both with floating IPs of
// 172.24.6.0/24, whose gateway is .254.
//
//   distributed  fg (fip namespace) - fpr | rfp - router with qr1 10.11.0.1, qr2 10.12.0.1
//                10.11.0.5 is .11, 10.12.0.6 is .12 (not for 203.0.113.0/24: a rule names that), 10.11.0.7 has none,
//                .13 leads to 10.11.0.9, whose answers have no way back; .14 leads to 10.11.0.5, too
//   legacy       qg - router with ql1 10.11.0.1, ql2 10.14.0.1
//                10.11.0.5 is .21, 10.14.0.6 is .22
#include "fuzz/cloud.hpp"
#include "support/packet.hpp"

namespace fiplane::test {
namespace {

constexpr std::uint32_t kFg = FL_FIRST_NUMBER + 1;
constexpr std::uint32_t kQr1 = FL_FIRST_NUMBER + 2;
constexpr std::uint32_t kQr2 = FL_FIRST_NUMBER + 3;
constexpr std::uint32_t kQg = FL_FIRST_NUMBER + 4;
constexpr std::uint32_t kQl1 = FL_FIRST_NUMBER + 5;
constexpr std::uint32_t kQl2 = FL_FIRST_NUMBER + 6;
constexpr std::uint32_t kRfp = FL_FIRST_NUMBER + 7;
constexpr std::uint32_t kFpr = FL_FIRST_NUMBER + 8;
constexpr std::uint32_t kFipNetns = FL_FIRST_NUMBER + 17;
constexpr std::uint32_t kDistributed = FL_FIRST_NUMBER + 18;
constexpr std::uint32_t kLegacy = FL_FIRST_NUMBER + 19;
constexpr std::uint32_t kRfpDevice = 220;
constexpr std::uint32_t kFprDevice = 221;
constexpr std::uint32_t kDomain5 = 21;      // of 10.11.0.5
constexpr std::uint32_t kDomain6 = 22;      // of 10.12.0.6
constexpr std::uint32_t kDomainFixed = 23;  // without a floating IP
constexpr std::uint32_t kDomainLegacy5 = 31;
constexpr std::uint32_t kDomainLegacy6 = 32;
constexpr std::uint32_t kMtu = 1450;

Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

}  // namespace

void Cloud::add_routers() {
    const Mac fg = mac("fa:16:3e:00:10:01");
    const Mac qr1 = mac("fa:16:3e:00:10:02");
    const Mac qr2 = mac("fa:16:3e:00:10:03");
    const Mac qg = mac("fa:16:3e:00:10:04");
    const Mac ql1 = mac("fa:16:3e:00:10:02");  // the same as the other tenant's
    const Mac ql2 = mac("fa:16:3e:00:10:06");
    const Mac gateway = mac("fa:16:3e:00:10:fe");
    const Mac vm5 = mac("fa:16:3e:00:11:05");
    const Mac vm6 = mac("fa:16:3e:00:11:06");
    const Mac vm9 = mac("fa:16:3e:00:11:09");
    router_ports = {{{"fg", kFg, kNobody}, kFipNetns, 201, fg}, {{"qr1", kQr1, 1}, kDistributed, 202, qr1},
                    {{"qr2", kQr2, 1}, kDistributed, 203, qr2}, {{"qg", kQg, kNobody}, kLegacy, 204, qg},
                    {{"ql1", kQl1, 2}, kLegacy, 205, ql1},      {{"ql2", kQl2, 2}, kLegacy, 206, ql2}};
    crossings = {
        {kFpr, kFg, 201, false}, {kRfp, kQr1, 202, false}, {kRfp, kQr2, 203, false}, {kFpr, kQr2, kFprDevice, true}};

    const auto here = [this](std::uint32_t number) {
        return Exit{.kind = FL_OUT_PORT, .ifindex = router_port(number)->ifindex, .mtu = kMtu, .port = number};
    };
    const auto across = [](std::uint32_t number) {
        return Exit{.kind = FL_OUT_PORT,
                    .ifindex = number == kFg ? kRfpDevice : kFprDevice,
                    .mtu = kMtu,
                    .port = number,
                    .crosses = true};
    };
    const auto plain = [](const Mac& to, const Mac& from, const Exit& exit) {
        return Journey{.dmac = to, .smac = from, .hops = 1, .mtu = kMtu, .exit = exit};
    };
    const auto inward = [&](const Mac& to, const Mac& from, Ipv4 fixed, std::uint32_t hops, std::uint32_t router,
                            const Exit& exit) {
        Journey journey = plain(to, from, exit);
        journey.dnat = fixed;
        journey.hops = hops;
        journey.router = router;
        return journey;
    };
    const auto outward = [&](const Mac& from, std::uint32_t hops, const Exit& exit) {
        Journey journey = plain(gateway, from, exit);
        journey.hops = hops;
        journey.snat = true;
        return journey;
    };
    const auto turn = [](Journey journey, const Exit& exit, bool one_entry) {
        journey.hops = one_entry ? 1 : 3;
        journey.snat = journey.hairpin = true;
        journey.one_entry = one_entry;
        journey.exit = exit;
        return journey;
    };

    const Journey to_5 = inward(vm5, qr1, ip("10.11.0.5"), 2, kDistributed, across(kQr1));
    const Journey to_9 = inward(vm9, qr1, ip("10.11.0.9"), 2, kDistributed, across(kQr1));
    Journey to_6 = inward(vm6, qr2, ip("10.12.0.6"), 2, kDistributed, across(kQr2));
    to_6.excepts = true;
    const Journey to_legacy_5 = inward(vm5, ql1, ip("10.11.0.5"), 1, kLegacy, here(kQl1));
    const Journey to_legacy_6 = inward(vm6, ql2, ip("10.14.0.6"), 1, kLegacy, here(kQl2));
    fip_in = {{kFg, ip("172.24.6.11"), fg, to_5},        {kFg, ip("172.24.6.12"), fg, to_6},
              {kFg, ip("172.24.6.13"), fg, to_9},        {kFg, ip("172.24.6.14"), fg, to_5},
              {kQg, ip("172.24.6.21"), qg, to_legacy_5}, {kQg, ip("172.24.6.22"), qg, to_legacy_6}};
    senders = {{kFg, fg, prefix("203.0.113.0/24"), 0}};
    arp = {{kFg, ip("172.24.6.11"), fg}, {kFg, ip("172.24.6.12"), fg}, {kQg, ip("172.24.6.21"), qg},
           {kQr1, ip("10.11.0.1"), qr1}, {kQr2, ip("10.12.0.1"), qr2}, {kQl1, ip("10.11.0.1"), ql1}};
    vms = {{kQr1, ip("10.11.0.5"), vm5, qr1, ip("172.24.6.11"), kDomain5},
           {kQr2, ip("10.12.0.6"), vm6, qr2, ip("172.24.6.12"), kDomain6},
           {kQr1, ip("10.11.0.7"), vm9, qr1, {}, kDomainFixed},
           {kQr1, ip("10.11.0.9"), vm9, qr1, ip("172.24.6.13"), 0},
           {kQl1, ip("10.11.0.5"), vm5, ql1, ip("172.24.6.21"), kDomainLegacy5},
           {kQl2, ip("10.14.0.6"), vm6, ql2, ip("172.24.6.22"), kDomainLegacy6}};
    const Journey out = outward(fg, 2, across(kFg));
    const Journey legacy_out = outward(qg, 1, here(kQg));
    dests = {{kDomain5, prefix("0.0.0.0/0"), out},
             {kDomain5, prefix("198.51.100.0/24"), {}},
             {kDomain5, prefix("10.12.0.6/32"), plain(vm6, qr2, here(kQr2))},
             {kDomain5, prefix("172.24.6.11/32"), turn(to_5, here(kQr1), false)},
             {kDomain5, prefix("172.24.6.12/32"), turn(to_6, here(kQr2), false)},
             {kDomain5, prefix("172.24.6.13/32"), turn(to_9, here(kQr1), false)},
             {kDomain6, prefix("0.0.0.0/0"), out},
             {kDomain6, prefix("10.11.0.5/32"), plain(vm5, qr1, here(kQr1))},
             {kDomain6, prefix("172.24.6.11/32"), turn(to_5, here(kQr1), false)},
             {kDomainFixed, prefix("10.12.0.6/32"), plain(vm6, qr2, here(kQr2))},
             {kDomainLegacy5, prefix("0.0.0.0/0"), legacy_out},
             {kDomainLegacy5, prefix("10.14.0.0/16"), plain(vm6, ql2, here(kQl2))},
             {kDomainLegacy5, prefix("172.24.6.22/32"), turn(to_legacy_6, here(kQl2), true)},
             {kDomainLegacy6, prefix("203.0.113.0/24"), legacy_out},
             {kDomainLegacy6, prefix("172.24.6.21/32"), turn(to_legacy_5, here(kQl1), true)}};
}

}  // namespace fiplane::test
