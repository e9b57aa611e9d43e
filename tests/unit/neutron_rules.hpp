// SPDX-License-Identifier: Apache-2.0
// The rules that a Neutron L3 agent writes for a router, as iptables-save prints them, and rulesets made of such text.
#pragma once

#include <map>
#include <sstream>
#include <string>

#include "core/snapshot.hpp"
#include "linux/iptables_rule.hpp"

namespace fiplane::test {

struct BuiltInChain {
    nf::Hook hook;
    nf::ChainType type;
    int priority;
};

/// Where iptables registers the built-in chains of its tables.
inline const std::map<std::string, std::map<std::string, BuiltInChain>> kBuiltIn = {
    {"raw", {{"PREROUTING", {nf::Hook::kPrerouting, nf::ChainType::kFilter, -300}}}},
    {"mangle",
     {{"PREROUTING", {nf::Hook::kPrerouting, nf::ChainType::kFilter, -150}},
      {"FORWARD", {nf::Hook::kForward, nf::ChainType::kFilter, -150}},
      {"POSTROUTING", {nf::Hook::kPostrouting, nf::ChainType::kFilter, -150}}}},
    {"nat",
     {{"PREROUTING", {nf::Hook::kPrerouting, nf::ChainType::kNat, -100}},
      {"POSTROUTING", {nf::Hook::kPostrouting, nf::ChainType::kNat, 100}}}},
    {"filter", {{"FORWARD", {nf::Hook::kForward, nf::ChainType::kFilter, 0}}}},
};

/// Adds the rules of which `text` is what iptables-save prints.
inline void add_iptables(NetnsView& view, const std::string& text) {
    std::istringstream lines(text);
    std::string table;
    std::map<std::string, std::size_t> places;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string first;
        std::string chain;
        words >> first >> chain;
        if (first.starts_with('*')) {
            table = first.substr(1);
            places.clear();
        } else if (first.starts_with(':')) {
            nf::Chain made;
            made.table = table;
            made.name = first.substr(1);
            if (const auto& hooks = kBuiltIn.at(table); hooks.contains(made.name)) {
                const BuiltInChain& base = hooks.at(made.name);
                made.hook = base.hook;
                made.type = base.type;
                made.priority = base.priority;
            }
            places[made.name] = view.netfilter.chains.size();
            view.netfilter.chains.push_back(made);
        } else if (first == "-A") {
            view.netfilter.chains[places.at(chain)].rules.push_back(
                iptables::parse_rule(line.substr(4 + chain.size()), nf::Family::kIp, table == "nat"));
        }
    }
    nf::fold(view.netfilter);
}

/// Of a distributed router with one subnet; `scope_of_rfp`: the address scope of its external network.
inline std::string distributed_rules(const std::string& scope_of_rfp) {
    return R"(*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:neutron-l3-agent-PREROUTING - [0:0]
:neutron-l3-agent-float-snat - [0:0]
:neutron-l3-agent-floatingip - [0:0]
:neutron-l3-agent-mark - [0:0]
:neutron-l3-agent-scope - [0:0]
-A PREROUTING -j neutron-l3-agent-PREROUTING
-A neutron-l3-agent-PREROUTING -j neutron-l3-agent-mark
-A neutron-l3-agent-PREROUTING -j neutron-l3-agent-scope
-A neutron-l3-agent-PREROUTING -m connmark ! --mark 0x0/0xffff0000 -j CONNMARK --restore-mark --nfmask 0xffff0000 --ctmask 0xffff0000
-A neutron-l3-agent-PREROUTING -j neutron-l3-agent-floatingip
-A neutron-l3-agent-PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1/0xffff
-A neutron-l3-agent-float-snat -m connmark --mark 0x0/0xffff0000 -j CONNMARK --save-mark --nfmask 0xffff0000 --ctmask 0xffff0000
-A neutron-l3-agent-scope -i qr-1 -j MARK --set-xmark 0x4000000/0xffff0000
-A neutron-l3-agent-scope -i rfp-1 -j MARK --set-xmark )" +
           scope_of_rfp + R"(/0xffff0000
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:neutron-filter-top - [0:0]
:neutron-l3-agent-FORWARD - [0:0]
:neutron-l3-agent-local - [0:0]
:neutron-l3-agent-scope - [0:0]
-A FORWARD -j neutron-filter-top
-A FORWARD -j neutron-l3-agent-FORWARD
-A neutron-filter-top -j neutron-l3-agent-local
-A neutron-l3-agent-FORWARD -j neutron-l3-agent-scope
-A neutron-l3-agent-scope -o qr-1 -m mark ! --mark 0x4000000/0xffff0000 -j DROP
-A neutron-l3-agent-scope -o rfp-1 -m mark ! --mark 0x4000000/0xffff0000 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:neutron-l3-agent-POSTROUTING - [0:0]
:neutron-l3-agent-PREROUTING - [0:0]
:neutron-l3-agent-float-snat - [0:0]
:neutron-l3-agent-snat - [0:0]
:neutron-postrouting-bottom - [0:0]
-A PREROUTING -j neutron-l3-agent-PREROUTING
-A POSTROUTING -j neutron-l3-agent-POSTROUTING
-A POSTROUTING -j neutron-postrouting-bottom
-A neutron-l3-agent-POSTROUTING ! -o rfp-1 -m conntrack ! --ctstate DNAT -j ACCEPT
-A neutron-l3-agent-PREROUTING -d 203.0.113.101/32 -i rfp-1 -j DNAT --to-destination 10.10.1.11
-A neutron-l3-agent-PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697
-A neutron-l3-agent-float-snat -s 10.10.1.11/32 -j SNAT --to-source 203.0.113.101 --random-fully
-A neutron-l3-agent-snat -j neutron-l3-agent-float-snat
-A neutron-postrouting-bottom -m comment --comment "Perform source NAT on outgoing traffic." -j neutron-l3-agent-snat
COMMIT
)";
}

/// What differs on a legacy router: qg- in the place of rfp-, its address for those who have no floating IP, and the
/// connection's mark, which remembers the scope that it began in.
inline std::string legacy_rules(const std::string& scope_of_green = "0x4000000") {
    return R"(*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:neutron-l3-agent-POSTROUTING - [0:0]
:neutron-l3-agent-PREROUTING - [0:0]
:neutron-l3-agent-mark - [0:0]
:neutron-l3-agent-scope - [0:0]
-A PREROUTING -j neutron-l3-agent-PREROUTING
-A POSTROUTING -j neutron-l3-agent-POSTROUTING
-A neutron-l3-agent-POSTROUTING -o qg-1 -m connmark --mark 0x0/0xffff0000 -j CONNMARK --save-mark --nfmask 0xffff0000 --ctmask 0xffff0000
-A neutron-l3-agent-PREROUTING -j neutron-l3-agent-mark
-A neutron-l3-agent-PREROUTING -j neutron-l3-agent-scope
-A neutron-l3-agent-PREROUTING -m connmark ! --mark 0x0/0xffff0000 -j CONNMARK --restore-mark --nfmask 0xffff0000 --ctmask 0xffff0000
-A neutron-l3-agent-mark -i qg-1 -j MARK --set-xmark 0x2/0xffff
-A neutron-l3-agent-scope -i qr-1 -j MARK --set-xmark 0x4000000/0xffff0000
-A neutron-l3-agent-scope -i qr-2 -j MARK --set-xmark )" +
           scope_of_green + R"(/0xffff0000
-A neutron-l3-agent-scope -i qg-1 -j MARK --set-xmark 0x4000000/0xffff0000
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:neutron-l3-agent-FORWARD - [0:0]
:neutron-l3-agent-scope - [0:0]
-A FORWARD -j neutron-l3-agent-FORWARD
-A neutron-l3-agent-FORWARD -j neutron-l3-agent-scope
-A neutron-l3-agent-scope -o qr-1 -m mark ! --mark 0x4000000/0xffff0000 -j DROP
-A neutron-l3-agent-scope -o qr-2 -m mark ! --mark )" +
           scope_of_green + R"(/0xffff0000 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:neutron-l3-agent-POSTROUTING - [0:0]
:neutron-l3-agent-PREROUTING - [0:0]
:neutron-l3-agent-float-snat - [0:0]
:neutron-l3-agent-snat - [0:0]
-A PREROUTING -j neutron-l3-agent-PREROUTING
-A POSTROUTING -j neutron-l3-agent-POSTROUTING
-A POSTROUTING -j neutron-l3-agent-snat
-A neutron-l3-agent-POSTROUTING ! -o qg-1 -m conntrack ! --ctstate DNAT -j ACCEPT
-A neutron-l3-agent-PREROUTING -d 203.0.113.101/32 -j DNAT --to-destination 10.10.1.11
-A neutron-l3-agent-float-snat -s 10.10.1.11/32 -j SNAT --to-source 203.0.113.101 --random-fully
-A neutron-l3-agent-snat -j neutron-l3-agent-float-snat
-A neutron-l3-agent-snat -o qg-1 -j SNAT --to-source 203.0.113.10 --random-fully
-A neutron-l3-agent-snat -m mark ! --mark 0x2/0xffff -m conntrack --ctstate DNAT -j SNAT --to-source 203.0.113.10 --random-fully
COMMIT
)";
}

}  // namespace fiplane::test
