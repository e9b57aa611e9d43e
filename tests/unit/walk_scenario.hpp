// SPDX-License-Identifier: Apache-2.0
// The view that one of three nodes has of the deployment with a distributed router, as own mode builds it; and a
// legacy router on the same networks. Names and numbers follow Neutron's conventions.
#pragma once

#include <string>

#include "../support/snapshot_builder.hpp"
#include "core/compile.hpp"

namespace fiplane::test {

// Root namespace.
inline constexpr int kEth0 = 2;
inline constexpr int kBrEx = 10;
inline constexpr int kVxlanEx = 11;
inline constexpr int kTapFg = 12;
inline constexpr int kTapQg = 13;
inline constexpr int kBrq = 20;
inline constexpr int kVxlanTenant = 21;
inline constexpr int kTapQr = 22;
inline constexpr int kTapA = 23;
inline constexpr int kTapB = 24;
inline constexpr int kTapD = 25;
// Router namespaces.
inline constexpr int kRfp = 2;
inline constexpr int kQr = 3;
inline constexpr int kQg = 4;
inline constexpr int kFpr = 2;
inline constexpr int kFg = 3;

inline const std::string kFipNs = "fip-e5d2a9c4-30b7-47f0-9d57-0c8be4a7f102";
inline const std::string kQrouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";

inline constexpr const char* kEthMac = "02:00:00:00:01:02";
inline constexpr const char* kPeer1Mac = "02:00:00:00:01:01";
inline constexpr const char* kPeer3Mac = "02:00:00:00:01:03";
inline constexpr const char* kBrExMac = "fa:16:3e:00:00:02";
inline constexpr const char* kGatewayMac = "fa:16:3e:00:00:01";
inline constexpr const char* kBrqMac = "fa:16:3e:00:01:00";
inline constexpr const char* kFgMac = "fa:16:3e:0c:00:10";
inline constexpr const char* kRemoteFgMac = "fa:16:3e:0c:00:30";
inline constexpr const char* kQgMac = "fa:16:3e:0d:00:10";
inline constexpr const char* kQrMac = "fa:16:3e:0a:00:01";
inline constexpr const char* kRfpMac = "d6:8a:be:fe:2d:c4";
inline constexpr const char* kFprMac = "fe:64:45:f7:54:74";
inline constexpr const char* kMacA = "fa:16:3e:00:01:11";
inline constexpr const char* kMacB = "fa:16:3e:00:01:12";
inline constexpr const char* kMacC = "fa:16:3e:00:01:13";  // remote, on node 3
inline constexpr const char* kMacD = "fa:16:3e:00:01:14";  // no floating IP

inline Scope scope() {
    return {{"br-ex", "brq11111111-11"}, {kQrouter}};
}
inline Scope legacy_scope() {
    return {{"br-ex", "brq11111111-11"}};
}

inline void add_vxlan(NetnsView& root, int ifindex, std::uint32_t vni, int bridge, bool proxy) {
    Link& link = add_link(root, ifindex, "vxlan-" + std::to_string(vni), "vxlan", "06:00:00:00:00:01");
    link.mac.bytes[5] = static_cast<std::uint8_t>(ifindex);
    link.vxlan = VxlanInfo{};
    link.vxlan->vni = vni;
    link.vxlan->local = ip("198.51.100.2");
    link.vxlan->port = 4789;
    link.vxlan->proxy = proxy;
    enslave(link, bridge);
    link.bridge_port->learning = false;
    for (const char* peer : {"198.51.100.1", "198.51.100.3"})
        add_vxlan_fdb(root, ifindex, "00:00:00:00:00:00", peer);
}

/// A VM's tap with the chain of `netdev fiplane` that own mode gives it.
inline void add_vm(NetnsView& root, int ifindex, const std::string& name, const char* address, const char* fixed) {
    // The hypervisor's tap has a MAC of its own, fe:… instead of fa:….
    enslave(add_link(root, ifindex, name, "tun", "fe" + std::string(address).substr(2)), kBrq);
    add_static_fdb(root, ifindex, address);
    nf::Chain& chain = add_chain(root, nf::Family::kNetdev, "fiplane", name, nf::Hook::kIngress);
    chain.device = name;
    using F = nf::Field;
    const nf::Verdict drop = verdict(nf::VerdictKind::kDrop);
    chain.rules = {
        rule("ether saddr != own drop", {match(F::kEtherSaddr, {mac(address)}, true), drop}),
        rule("arp saddr ether != own drop", {match(F::kArpSaddrEther, {mac(address)}, true), drop}),
        rule("arp saddr ip != own drop",
             {match(F::kArpSaddrIp, {Prefix::host(ip(fixed)), net("0.0.0.0/32")}, true), drop}),
        rule("ip saddr != own drop", {match(F::kIpSaddr, {Prefix::host(ip(fixed)), net("0.0.0.0/32")}, true), drop}),
    };
}

/// eth0, both networks and their tunnels, and the VMs a, b and d of this node.
inline NetnsView make_root() {
    NetnsView root = make_netns("");
    add_link(root, kEth0, "eth0", "", kEthMac, 1500);
    add_address(root, kEth0, "198.51.100.2/24");
    add_neighbour(root, kEth0, "198.51.100.1", kPeer1Mac, kNudReachable);
    add_neighbour(root, kEth0, "198.51.100.3", kPeer3Mac, kNudStale);
    add_bridge(root, kBrEx, "br-ex", kBrExMac);
    add_address(root, kBrEx, "172.24.4.2/23");
    add_vxlan(root, kVxlanEx, 100, kBrEx, false);
    add_remote_mac(root, kVxlanEx, kGatewayMac, "198.51.100.1");
    add_remote_mac(root, kVxlanEx, kRemoteFgMac, "198.51.100.3");
    add_bridge(root, kBrq, "brq11111111-11", kBrqMac);
    add_vxlan(root, kVxlanTenant, 200, kBrq, true);
    add_neighbour(root, kVxlanTenant, "10.0.0.13", kMacC);
    add_remote_mac(root, kVxlanTenant, kMacC, "198.51.100.3");
    add_vm(root, kTapA, "tapaaaaaaaa-aa", kMacA, "10.0.0.11");
    add_vm(root, kTapB, "tapbbbbbbbb-bb", kMacB, "10.0.0.12");
    add_vm(root, kTapD, "tapdddddddd-dd", kMacD, "10.0.0.14");
    nf::Chain& input = add_chain(root, nf::Family::kInet, "fiplane", "input", nf::Hook::kInput);
    input.rules = {rule("udp dport 4789 drop", {match(nf::Field::kOther, {}), verdict(nf::VerdictKind::kDrop)})};
    for (const char* name : {"br-ex", "brq11111111-11", "eth0"})
        root.sysctls.devices[name] = {};
    root.sysctls.bridge_nf_call_iptables = true;
    return root;
}

/// `table ip fiplane` of a qrouter namespace. `external`: rfp- (distributed) or qg- (legacy).
inline void add_nat(NetnsView& qrouter, const std::string& external, bool distributed) {
    using F = nf::Field;
    const auto in = from_map("fip_in", F::kIpDaddr);
    const auto out = from_map("fip_out", F::kIpSaddr);
    const nf::Match invalid = match(F::kCtState, {std::string("invalid")});
    const nf::Match from_external = match(F::kIifname, {external});
    const nf::Match to_external = match(F::kOifname, {external});
    std::vector<nf::Statement> dnat{nf::Dnat{in}};
    std::vector<nf::Statement> set_daddr{invalid, nf::SetAddress{F::kIpDaddr, in}};
    if (distributed) {
        dnat.insert(dnat.begin(), from_external);
        set_daddr.insert(set_daddr.begin(), from_external);
    } else {
        set_daddr.emplace_back(nf::SetMark{0x464c});
    }
    add_chain(qrouter, nf::Family::kIp, "fiplane", "prerouting", nf::Hook::kPrerouting, nf::ChainType::kNat, -100)
        .rules = {rule("dnat to ip daddr map @fip_in", dnat)};
    add_chain(qrouter, nf::Family::kIp, "fiplane", "postrouting", nf::Hook::kPostrouting, nf::ChainType::kNat, 100)
        .rules = {rule("oifname != external ct status ! dnat accept",
                       {match(F::kOifname, {external}, true), match(F::kCtStatus, {std::string("dnat")}, true),
                        verdict(nf::VerdictKind::kAccept)}),
                  rule("snat to ip saddr map @fip_out", {nf::Snat{out, false}})};
    add_chain(qrouter, nf::Family::kIp, "fiplane", "invalid_in", nf::Hook::kPrerouting, nf::ChainType::kFilter, -150)
        .rules = {rule("ct state invalid ip daddr set ip daddr map @fip_in", set_daddr)};
    nf::Chain& invalid_out = add_chain(qrouter, nf::Family::kIp, "fiplane", "invalid_out", nf::Hook::kPostrouting,
                                       nf::ChainType::kFilter, -150);
    invalid_out.rules = {rule("oifname external ct state invalid ip saddr set ip saddr map @fip_out",
                              {to_external, invalid, nf::SetAddress{F::kIpSaddr, out}})};
    if (!distributed) {
        invalid_out.rules.push_back(
            rule("ct state invalid meta mark 0x464c ip saddr set ip saddr map @fip_out",
                 {invalid, match(F::kMark, {std::uint64_t{0x464c}}), nf::SetAddress{F::kIpSaddr, out}}));
    }
    qrouter.netfilter.maps["ip fiplane fip_in"] = {{ip("172.24.5.11"), ip("10.0.0.11")},
                                                   {ip("172.24.5.12"), ip("10.0.0.12")}};
    qrouter.netfilter.maps["ip fiplane fip_out"] = {{ip("10.0.0.11"), ip("172.24.5.11")},
                                                    {ip("10.0.0.12"), ip("172.24.5.12")}};
}

inline void add_internal_leg(NetnsView& root, NetnsView& qrouter) {
    enslave(add_veth(root, kTapQr, "tap21ab0001-10", "fe:16:3e:0a:00:01", qrouter, kQr, "qr-21ab0001-10", kQrMac),
            kBrq);
    add_static_fdb(root, kTapQr, kQrMac);
    add_address(qrouter, kQr, "10.0.0.1/24");
    add_neighbour(qrouter, kQr, "10.0.0.11", kMacA);
    add_neighbour(qrouter, kQr, "10.0.0.12", kMacB);
    add_neighbour(qrouter, kQr, "10.0.0.13", kMacC);
    add_neighbour(qrouter, kQr, "10.0.0.14", kMacD);
}

/// Distributed router: this node hosts a (172.24.5.11) and b (172.24.5.12); c on node 3 has 172.24.5.13.
inline Snapshot dvr_snapshot() {
    Snapshot snapshot;
    snapshot.root = make_root();
    NetnsView qrouter = make_netns(kQrouter);
    NetnsView fip = make_netns(kFipNs);
    add_internal_leg(snapshot.root, qrouter);
    add_veth(qrouter, kRfp, "rfp-7b1f3c52-9", kRfpMac, fip, kFpr, "fpr-7b1f3c52-9", kFprMac);
    enslave(add_veth(snapshot.root, kTapFg, "tap41ab0005-50", "fe:16:3e:0c:00:10", fip, kFg, "fg-41ab0005-50", kFgMac),
            kBrEx);
    add_static_fdb(snapshot.root, kTapFg, kFgMac);

    add_address(qrouter, kRfp, "169.254.88.134/31");
    add_neighbour(qrouter, kRfp, "169.254.88.135", kFprMac);
    add_route(qrouter, "0.0.0.0/0", kRfp, "169.254.88.135", 16);
    add_rule(qrouter, 44590, "10.0.0.11/32", "", 16);
    add_rule(qrouter, 71189, "10.0.0.12/32", "", 16);
    add_nat(qrouter, "rfp-7b1f3c52-9", true);
    set_sysctls(qrouter, false);

    add_address(fip, kFpr, "169.254.88.135/31");
    add_neighbour(fip, kFpr, "169.254.88.134", kRfpMac);
    add_address(fip, kFg, "172.24.5.2/23");
    add_neighbour(fip, kFg, "172.24.4.1", kGatewayMac, kNudReachable);
    add_neighbour(fip, kFg, "172.24.4.2", kBrExMac, kNudStale);
    add_neighbour(fip, kFg, "172.24.5.13", kRemoteFgMac, kNudReachable);
    add_route(fip, "172.24.5.11/32", kFpr, "169.254.88.134");
    add_route(fip, "172.24.5.12/32", kFpr, "169.254.88.134");
    add_rule(fip, 2852018311U, "", "fpr-7b1f3c52-9", 2852018311U);
    add_route(fip, "0.0.0.0/0", kFg, "172.24.4.1", 2852018311U);
    add_chain(fip, nf::Family::kIp, "fiplane", "prerouting", nf::Hook::kPrerouting, nf::ChainType::kFilter, -300)
        .rules = {rule("notrack", {nf::Notrack{}})};
    // Own mode leaves send_redirects on here: packets that turn round have no on-link source.
    set_sysctls(fip, true);

    snapshot.routers = {{kQrouter, qrouter}, {kFipNs, fip}};
    return snapshot;
}

/// Legacy router on this node: a and b with floating IPs here, c's (172.24.5.13) also here though c is on node 3.
inline Snapshot legacy_snapshot() {
    Snapshot snapshot;
    snapshot.root = make_root();
    NetnsView qrouter = make_netns(kQrouter);
    add_internal_leg(snapshot.root, qrouter);
    enslave(
        add_veth(snapshot.root, kTapQg, "tap31ab0003-30", "fe:16:3e:0d:00:10", qrouter, kQg, "qg-31ab0003-30", kQgMac),
        kBrEx);
    add_static_fdb(snapshot.root, kTapQg, kQgMac);
    add_address(qrouter, kQg, "172.24.5.3/23");
    for (const char* fip : {"172.24.5.11/32", "172.24.5.12/32", "172.24.5.13/32"})
        add_address(qrouter, kQg, fip);
    add_route(qrouter, "0.0.0.0/0", kQg, "172.24.4.1");
    add_neighbour(qrouter, kQg, "172.24.4.1", kGatewayMac, kNudReachable);
    add_nat(qrouter, "qg-31ab0003-30", false);
    qrouter.netfilter.maps["ip fiplane fip_in"][ip("172.24.5.13")] = ip("10.0.0.13");
    qrouter.netfilter.maps["ip fiplane fip_out"][ip("10.0.0.13")] = ip("172.24.5.13");
    set_sysctls(qrouter, false);
    snapshot.routers = {{kQrouter, qrouter}};
    return snapshot;
}

}  // namespace fiplane::test
