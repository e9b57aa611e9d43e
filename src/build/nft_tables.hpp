// SPDX-License-Identifier: Apache-2.0
// The nftables tables that build makes, as values, and the transaction that turns what a namespace has into them.
//
// Translations are elements of maps, so a floating IP costs one element and one lookup, whatever their number. Only
// elements that differ are added and deleted: the chains stay, and with them every established translation.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "build/builder.hpp"
#include "core/netfilter.hpp"
#include "core/types.hpp"

namespace fiplane::build {

inline constexpr const char* kFipInMap = "fip_in";    ///< floating IP : fixed IP
inline constexpr const char* kFipOutMap = "fip_out";  ///< fixed IP : floating IP
inline constexpr const char* kFipSet = "fips";        ///< floating IPs that are addresses of the node itself

struct NftChain {
    std::string name;
    std::string type;  ///< "filter" or "nat"
    std::string hook;  ///< "prerouting"
    int priority = 0;
    std::string device;              ///< netdev family only
    std::vector<std::string> rules;  ///< in nft's own words (linux/nft_text.cpp): they are compared with what is there
};

/// A set of addresses of one IP version.
struct NftSet {
    bool ipv6 = false;
    std::set<IpAddress> members;
    bool operator==(const NftSet&) const = default;
};

struct NftTable {
    nf::Family family = nf::Family::kIp;
    std::vector<NftChain> chains;
    std::map<std::string, std::map<Ipv4, Ipv4>> maps;
    std::map<std::string, NftSet> sets;
};

/// What has a router's own external address as its source (l3/router_info.py, _add_snat_rules and
/// external_gateway_nat_snat_rules).
struct GatewayNat {
    Ipv4 address;
    bool enable_snat = true;  ///< also what VMs without a floating IP send beyond the gateway
};
/// Translation of a router's floating IPs. `external_device` is rfp- (distributed) or qg- (legacy, which has a
/// `gateway`). Neutron's rules (l3/dvr_local_router.py and l3/router_info.py, floating_forward_rules) with maps,
/// without random source ports.
[[nodiscard]] NftTable router_table(const std::string& external_device, bool distributed,
                                    const std::map<Ipv4, Ipv4>& fixed_by_fip,
                                    const std::optional<GatewayNat>& gateway = {});
/// snat namespace of a distributed router: what comes from VMs has the router's own address outside
/// (l3/dvr_edge_router.py).
[[nodiscard]] NftTable snat_table(const std::string& external_device, Ipv4 address);
/// What a node translates that is the router itself (nova-network).
struct NodeNat {
    std::string external_device;  ///< br_pub
    Ipv4 external_address;        ///< the node's own there
    struct Leg {
        std::string device;  ///< br_flat
        Prefix cidr;
        Ipv4 address;  ///< the node's own there
    };
    std::vector<Leg> legs;
    std::map<Ipv4, Ipv4> fixed_by_fip;
};
/// Of the node's own namespace: its floating IPs, one to one, also for what the node itself sends to them; what VMs
/// without one send beyond the external device has the node's address. So has what they, or the node itself, send to a
/// floating IP on this node: the answer would not come back by the node else, or be taken for a question.
[[nodiscard]] NftTable node_table(const NodeNat& nat);
/// Packets that a router forwards between its `devices`, or any if there are none: TCP offers no larger segments than
/// the MTU of both ways leaves (nft_rt.c, get_tcpmss).
[[nodiscard]] NftChain mss_chain(const std::vector<std::string>& devices);
/// fip namespace: no connection tracking, translations are tracked once, in the router's namespace.
[[nodiscard]] NftTable fip_table();
/// Who may send tunnel packets over UDP.
struct AdmittedTunnels {
    std::string set;         ///< the peers' name in the table
    std::uint16_t port = 0;  ///< host order
    NftSet peers;
};
/// The node's own namespace: tunnel packets from known peers on the underlay device only.
[[nodiscard]] NftTable tunnel_table(const std::string& underlay_device, const std::vector<AdmittedTunnels>& types);

/// What a VM may send with.
struct VmAddresses {
    Mac mac;
    Ipv4 address;
};
/// A VM's device: frames come in by it.
struct GuardedPort {
    std::string device;
    VmAddresses vm;
};
/// A device that VMs' macvtaps are on: their frames go out by it, except those from one to another.
struct GuardedUplink {
    std::string device;
    bool passes_tags = false;  ///< VLAN devices, whose filters are their own, may be on it beside the macvtaps
    std::vector<VmAddresses> senders;
};
/// Drops what a VM sends with addresses that are not its own, and ARP that would leave by one of `arp_ends`. A chain is
/// bound to its device: it can be made once the device is there.
[[nodiscard]] NftTable guard_table(const std::vector<GuardedPort>& ports, const std::vector<GuardedUplink>& uplinks,
                                   const std::set<std::string>& arp_ends);
[[nodiscard]] std::string guard_chain(const std::string& device);

/// "ip"
[[nodiscard]] const char* family_word(nf::Family family);
/// "ip fiplane"
[[nodiscard]] std::string table_name(nf::Family family);

struct NftChange {
    std::string commands;     ///< one transaction; empty: nothing differs
    std::vector<Step> steps;  ///< Step::netns is left to the caller
};

/// What makes the tables named `fiplane` of `actual` equal to `desired`. Chains of devices that `present` does not name
/// are neither made nor removed; those of devices in `removed` are gone by then (delete_device_chains).
[[nodiscard]] NftChange diff_tables(const std::vector<NftTable>& desired, const nf::Ruleset& actual,
                                    const std::set<std::string>& present, const std::set<std::string>& removed = {});
/// Deletes the chains of devices that are about to be removed, for some kernels would do so with the device and others
/// keep them. Empty: there are none.
[[nodiscard]] std::string delete_device_chains(const nf::Ruleset& actual, const std::set<std::string>& removed);

/// Deletes a table named `fiplane` of each family, whether it is there or not.
[[nodiscard]] std::string delete_tables(const std::vector<nf::Family>& families);

/// Translations that a ruleset holds in its table `ip fiplane`, by floating IP.
[[nodiscard]] std::map<Ipv4, Ipv4> translations_of(const nf::Ruleset& ruleset);
/// Rules of that table that give one address to many sources (gateway_rules), and the address of each.
[[nodiscard]] std::map<std::string, Ipv4> shared_sources(const nf::Ruleset& ruleset);

}  // namespace fiplane::build
