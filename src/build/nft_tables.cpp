// SPDX-License-Identifier: Apache-2.0
#include "build/nft_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iterator>

#include "build/names.hpp"

namespace fiplane::build {
namespace {

constexpr int kRaw = -300;     // NF_IP_PRI_RAW
constexpr int kMangle = -150;  // NF_IP_PRI_MANGLE
constexpr int kDestinationNat = -100;
constexpr int kFilter = 0;
constexpr int kSourceNat = 100;

/// Where a router translates whatever comes in. A legacy router's packets leave its namespace through a veth, which
/// clears the mark; on a node that routes itself the mark stays with packets that conntrack calls invalid.
constexpr std::uint32_t kTranslatedMark = 0x464c;

/// A flow that comes over from the fast path in mid-handshake is invalid for conntrack, which then skips NAT. The
/// translation is 1:1 and keeps ports, so it needs no state. A router that translates whatever comes in has to remember
/// in the mark that it translated a destination: ct status, which says so for tracked packets, is empty.
void add_stateless_chains(NftTable& table, const std::string& external_device, bool distributed) {
    const std::string from_outside = distributed ? fmt::format("iifname \"{}\" ", external_device) : "";
    const std::string mark = distributed ? "" : fmt::format(" meta mark set {:#010x}", kTranslatedMark);
    table.chains.push_back(
        {"invalid_in",
         "filter",
         "prerouting",
         kMangle,
         "",
         {fmt::format("{}ct state invalid ip daddr set ip daddr map @{}{}", from_outside, kFipInMap, mark)}});
    NftChain invalid_out{
        "invalid_out",
        "filter",
        "postrouting",
        kMangle,
        "",
        {fmt::format("oifname \"{}\" ct state invalid ip saddr set ip saddr map @{}", external_device, kFipOutMap)}};
    if (!distributed) {
        invalid_out.rules.push_back(fmt::format("ct state invalid meta mark {:#010x} ip saddr set ip saddr map @{}",
                                                kTranslatedMark, kFipOutMap));
    }
    table.chains.push_back(std::move(invalid_out));
}

/// Many sources share the address, and only conntrack tells their answers apart: these flows are Linux's, and ports may
/// be random (LP 1814002: fewer clashes).
std::string shared_source(Ipv4 address) {
    return fmt::format("snat to {} fully-random", address.str());
}

/// For sources without an address of their own, so behind the map's rule.
std::vector<std::string> gateway_rules(const std::string& external_device, const GatewayNat& gateway) {
    const std::string snat = shared_source(gateway.address);
    std::vector<std::string> rules;
    if (gateway.enable_snat) rules.push_back(fmt::format("oifname \"{}\" {}", external_device, snat));
    // To a neighbour's floating IP: its answer would else go straight to the sender, past the router.
    rules.push_back(fmt::format("iifname != \"{}\" ct status dnat {}", external_device, snat));
    return rules;
}

NftTable with_translations(const std::map<Ipv4, Ipv4>& fixed_by_fip) {
    NftTable table;
    auto& in = table.maps[kFipInMap];
    auto& out = table.maps[kFipOutMap];
    for (const auto& [fip, fixed] : fixed_by_fip) {
        in.emplace(fip, fixed);
        out.emplace(fixed, fip);
    }
    return table;
}

}  // namespace

NftTable router_table(const std::string& external_device, bool distributed, const std::map<Ipv4, Ipv4>& fixed_by_fip,
                      const std::optional<GatewayNat>& gateway) {
    NftTable table = with_translations(fixed_by_fip);
    // A legacy router translates whatever comes in, so that a VM reaches its neighbour's floating IP in one pass; a
    // distributed one sends it out to the fip namespace and back.
    const std::string from_outside = distributed ? fmt::format("iifname \"{}\" ", external_device) : "";
    table.chains.push_back({"prerouting",
                            "nat",
                            "prerouting",
                            kDestinationNat,
                            "",
                            {fmt::format("{}dnat to ip daddr map @{}", from_outside, kFipInMap)}});
    table.chains.push_back({"postrouting",
                            "nat",
                            "postrouting",
                            kSourceNat,
                            "",
                            {fmt::format("oifname != \"{}\" ct status ! dnat accept", external_device),
                             fmt::format("snat to ip saddr map @{}", kFipOutMap)}});
    if (gateway)
        std::ranges::move(gateway_rules(external_device, *gateway), std::back_inserter(table.chains.back().rules));
    add_stateless_chains(table, external_device, distributed);
    return table;
}

NftTable snat_table(const std::string& external_device, Ipv4 address) {
    NftTable table;
    // No floating IP is translated here, so there is no destination that was.
    table.chains.push_back({"postrouting",
                            "nat",
                            "postrouting",
                            kSourceNat,
                            "",
                            {fmt::format("oifname \"{}\" {}", external_device, shared_source(address))}});
    return table;
}

NftTable node_table(const NodeNat& nat) {
    NftTable table = with_translations(nat.fixed_by_fip);
    for (const auto& [fip, fixed] : nat.fixed_by_fip)
        table.sets[kFipSet].members.insert(fip);
    const std::string dnat = fmt::format("dnat to ip daddr map @{}", kFipInMap);
    table.chains.push_back({"prerouting", "nat", "prerouting", kDestinationNat, "", {dnat}});
    table.chains.push_back({"output", "nat", "output", kDestinationNat, "", {dnat}});
    NftChain out{"postrouting",
                 "nat",
                 "postrouting",
                 kSourceNat,
                 "",
                 {fmt::format("oifname != \"{}\" ct status ! dnat accept", nat.external_device),
                  fmt::format("snat to ip saddr map @{}", kFipOutMap)}};
    for (const NodeNat::Leg& leg : nat.legs) {
        out.rules.push_back(fmt::format("oifname \"{}\" ip saddr {} snat to {}", nat.external_device, leg.cidr.str(),
                                        nat.external_address.str()));
        for (const std::string& source : {leg.cidr.str(), fmt::format("@{}", kFipSet)}) {
            out.rules.push_back(
                fmt::format("oifname \"{}\" ip saddr {} snat to {}", leg.device, source, leg.address.str()));
        }
    }
    table.chains.push_back(std::move(out));
    add_stateless_chains(table, nat.external_device, false);
    return table;
}

NftChain mss_chain(const std::vector<std::string>& devices) {
    const std::string lower = "tcp flags syn tcp option maxseg size set rt mtu";
    NftChain chain{"mss", "filter", "forward", kMangle, "", {}};
    if (devices.empty()) chain.rules.push_back(lower);
    for (const std::string& device : devices) {
        for (const char* direction : {"iifname", "oifname"})
            chain.rules.push_back(fmt::format("{} \"{}\" {}", direction, device, lower));
    }
    return chain;
}

NftTable fip_table() {
    NftTable table;
    table.chains.push_back({"prerouting", "filter", "prerouting", kRaw, "", {"notrack"}});
    return table;
}

NftTable tunnel_table(const std::string& underlay_device, const std::vector<AdmittedTunnels>& types) {
    NftTable table;
    table.family = nf::Family::kInet;
    NftChain input{"input", "filter", "input", kFilter, "", {}};
    for (const AdmittedTunnels& type : types) {
        table.sets[type.set] = type.peers;
        input.rules.push_back(fmt::format("iifname \"{}\" udp dport {} {} saddr @{} accept", underlay_device, type.port,
                                          type.peers.ipv6 ? "ip6" : "ip", type.set));
        input.rules.push_back(fmt::format("udp dport {} counter drop", type.port));
    }
    table.chains.push_back(std::move(input));
    return table;
}

std::string guard_chain(const std::string& device) {
    std::string name = "port_" + device;
    std::ranges::replace_if(
        name, [](unsigned char c) { return std::isalnum(c) == 0 && c != '_' && c != '-' && c != '.'; }, '_');
    return name;
}

namespace {

/// Drops what has the VM's MAC and an address that is not the VM's; `match` comes first in each rule. 0.0.0.0 is how a
/// VM asks for its address: ARP probes (RFC 5227) and DHCP (RFC 2131).
void add_address_rules(NftChain& chain, const std::string& match, const VmAddresses& vm) {
    const std::string address = vm.address.str();
    chain.rules.push_back(fmt::format("{}arp saddr ether != {} counter drop", match, vm.mac.str()));
    chain.rules.push_back(fmt::format("{0}arp saddr ip != 0.0.0.0 arp saddr ip != {1} counter drop", match, address));
    chain.rules.push_back(fmt::format("{0}ip saddr != 0.0.0.0 ip saddr != {1} counter drop", match, address));
}

NftChain port_guard(const GuardedPort& port) {
    NftChain chain{guard_chain(port.device), "filter", "ingress", kFilter, port.device, {}};
    chain.rules.push_back(fmt::format("ether saddr != {} counter drop", port.vm.mac.str()));
    add_address_rules(chain, "", port.vm);
    return chain;
}

/// Several VMs send by the device: each MAC has its rules, and what has none is dropped. A macvtap's frame passes here
/// as the VM made it (drivers/net/macvlan.c, macvlan_queue_xmit), with skb->protocol from its own header.
NftChain uplink_guard(const GuardedUplink& uplink) {
    NftChain chain{guard_chain(uplink.device), "filter", "egress", kFilter, uplink.device, {}};
    // A VM's own tag is in the frame and would hide what is behind it; the receiver ignores one with VLAN id 0. That of
    // a VLAN device is beside the frame, whose protocol is then the inner one. On Linux 7.2 that is so for
    // a VM's tag, too.
    chain.rules.emplace_back("meta protocol 8021q counter drop");
    chain.rules.emplace_back("meta protocol 8021ad counter drop");
    if (uplink.passes_tags) {
        chain.rules.emplace_back("ether type 8021q accept");
    } else {
        chain.rules.emplace_back("ether type 8021q counter drop");
        chain.rules.emplace_back("ether type 8021ad counter drop");
    }
    for (const VmAddresses& vm : uplink.senders) {
        const std::string match = fmt::format("ether saddr {} ", vm.mac.str());
        add_address_rules(chain, match, vm);
        chain.rules.push_back(match + "accept");
    }
    chain.rules.emplace_back("counter drop");
    return chain;
}

}  // namespace

NftTable guard_table(const std::vector<GuardedPort>& ports, const std::vector<GuardedUplink>& uplinks,
                     const std::set<std::string>& arp_ends) {
    NftTable table;
    table.family = nf::Family::kNetdev;
    for (const auto& port : ports)
        table.chains.push_back(port_guard(port));
    for (const auto& uplink : uplinks)
        table.chains.push_back(uplink_guard(uplink));
    for (const auto& device : arp_ends) {
        table.chains.push_back({guard_chain(device), "filter", "egress", kFilter, device, {"ether type arp drop"}});
    }
    return table;
}

const char* family_word(nf::Family family) {
    switch (family) {
        case nf::Family::kInet:
            return "inet";
        case nf::Family::kNetdev:
            return "netdev";
        case nf::Family::kBridge:
            return "bridge";
        case nf::Family::kArp:
            return "arp";
        case nf::Family::kIp6:
            return "ip6";
        case nf::Family::kIp:
            break;
    }
    return "ip";
}

std::string table_name(nf::Family family) {
    return fmt::format("{} {}", family_word(family), kTableName);
}

std::string delete_tables(const std::vector<nf::Family>& families) {
    std::string commands;
    // Adding first makes the deletion right whether the table is there or not, in one transaction.
    for (const auto family : families) {
        commands += fmt::format("add table {0}\ndelete table {0}\n", table_name(family));
    }
    return commands;
}

std::map<Ipv4, Ipv4> translations_of(const nf::Ruleset& ruleset) {
    const std::string table{kTableName};
    std::map<Ipv4, Ipv4> fixed_by_fip;
    const auto in = ruleset.maps.find(nf::Ruleset::scoped_name(nf::Family::kIp, table, kFipInMap));
    if (in != ruleset.maps.end()) fixed_by_fip = in->second;
    const auto out = ruleset.maps.find(nf::Ruleset::scoped_name(nf::Family::kIp, table, kFipOutMap));
    if (out != ruleset.maps.end()) {
        for (const auto& [fixed, fip] : out->second)
            fixed_by_fip.emplace(fip, fixed);
    }
    return fixed_by_fip;
}

std::map<std::string, Ipv4> shared_sources(const nf::Ruleset& ruleset) {
    std::map<std::string, Ipv4> found;
    for (const nf::Chain& chain : ruleset.chains) {
        if (chain.family != nf::Family::kIp || chain.table != kTableName) continue;
        for (const nf::Rule& rule : chain.rules) {
            for (const nf::Statement& statement : rule.statements) {
                const auto* snat = std::get_if<nf::Snat>(&statement);
                if (snat != nullptr && snat->random && snat->to.address) found.emplace(rule.text, *snat->to.address);
            }
        }
    }
    return found;
}

}  // namespace fiplane::build
