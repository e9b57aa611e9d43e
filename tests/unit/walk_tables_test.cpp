// SPDX-License-Identifier: Apache-2.0
// Whole tables of both router kinds, compared with expectations written by hand from Neutron's conventions.
#include <catch2/catch_test_macros.hpp>

#include "walk_expect.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr const char* kPeer1 = "198.51.100.1";
constexpr const char* kPeer3 = "198.51.100.3";
constexpr std::uint32_t kSnat = FL_NEXT_SNAT;
constexpr std::uint32_t kHairpin = FL_NEXT_SNAT | FL_NEXT_HAIRPIN;

void expect_source(Tables& tables, int ifindex, fl_role role, int segment) {
    fl_source& source = tables.sources[source_row_key(ifindex)];
    source.role = role;
    source.segment = static_cast<std::uint32_t>(segment);
    source.port = static_cast<std::uint32_t>(ifindex);
}

void expect_vm(Tables& tables, int ifindex, const char* address, const char* fixed) {
    expect_source(tables, ifindex, FL_ROLE_PORT, kBrq);
    fl_source& source = tables.sources[source_row_key(ifindex)];
    put(source.mac, address);
    put(source.ip, fixed);
    source.flags = FL_SRC_CHECK;
    tables.fdb[fdb_row_key(kBrq, address)].out = out_port(ifindex);
}

void expect_tunnel(Tables& tables, std::uint32_t vni, const char* peer, int segment, int ifindex) {
    fl_tunnel_key key{};
    key.type = FL_TUNNEL_VXLAN;
    key.id = vni;
    put_end(key.peer, peer);
    fl_tunnel& tunnel = tables.tunnels[key];
    tunnel.segment = static_cast<std::uint32_t>(segment);
    tunnel.ifindex = static_cast<std::uint32_t>(ifindex);
    put(tunnel.mac, kEthMac);
    tunnel.outer_len = 50;
    tunnel.type = FL_TUNNEL_VXLAN;
    put_end(tunnel.peer, peer);
}

void expect_arp(Tables& tables, int segment, const char* address, const char* lladdr, std::uint8_t flags = 0) {
    fl_arp value{};
    value.flags = flags;
    put(value.mac, lladdr);
    tables.arp[arp_row_key(segment, address)] = value;
}

/// What both snapshots have in common: networks, tunnels and VMs.
Tables common_tables() {
    Tables tables;
    tables.config.layout = FL_ABI_LAYOUT;
    tables.config.vxlan_port = 4789;
    put_end(tables.config.vtep, "198.51.100.2");
    expect_source(tables, kBrEx, FL_ROLE_HOST, kBrEx);
    expect_source(tables, kVxlanEx, FL_ROLE_TUNNEL, kBrEx);
    expect_source(tables, kBrq, FL_ROLE_HOST, kBrq);
    expect_source(tables, kVxlanTenant, FL_ROLE_TUNNEL, kBrq);
    for (const char* peer : {kPeer1, kPeer3}) {
        expect_tunnel(tables, 100, peer, kBrEx, kVxlanEx);
        expect_tunnel(tables, 200, peer, kBrq, kVxlanTenant);
    }
    tables.fdb[fdb_row_key(kBrEx, kBrExMac)].out = out_host(kBrEx);
    tables.fdb[fdb_row_key(kBrEx, kGatewayMac)].out = out_tunnel(100, kPeer1, kPeer1Mac);
    tables.fdb[fdb_row_key(kBrEx, kRemoteFgMac)].out = out_tunnel(100, kPeer3, kPeer3Mac);
    tables.fdb[fdb_row_key(kBrq, kBrqMac)].out = out_host(kBrq);
    tables.fdb[fdb_row_key(kBrq, kMacC)].out = out_tunnel(200, kPeer3, kPeer3Mac);
    tables.fdb[fdb_row_key(kBrq, kQrMac)].out = out_router();
    expect_vm(tables, kTapA, kMacA, "10.0.0.11");
    expect_vm(tables, kTapB, kMacB, "10.0.0.12");
    expect_vm(tables, kTapD, kMacD, "10.0.0.14");
    expect_arp(tables, kBrq, "10.0.0.1", kQrMac, FL_ARP_NO_TUNNEL);
    return tables;
}

/// Inside the tenant network by way of the router: Linux would forward that too.
void expect_tenant_dests(Tables& tables, std::uint32_t domain) {
    tables.dests[dest_row_key(domain, "10.0.0.11")] = journey(kMacA, kQrMac, 1, out_port(kTapA));
    tables.dests[dest_row_key(domain, "10.0.0.12")] = journey(kMacB, kQrMac, 1, out_port(kTapB));
    tables.dests[dest_row_key(domain, "10.0.0.13")] = journey(kMacC, kQrMac, 1, out_tunnel(200, kPeer3, kPeer3Mac));
    tables.dests[dest_row_key(domain, "10.0.0.14")] = journey(kMacD, kQrMac, 1, out_port(kTapD));
}

/// What Linux never forwards, and what is not known of a prefix that is on a link.
void expect_shadows(Tables& tables, std::uint32_t domain, const std::vector<const char*>& on_link) {
    for (const char* shadow : {"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"})
        tables.routes[route_row_key(domain, shadow)] = {};
    for (const char* shadow : on_link)
        tables.routes[route_row_key(domain, shadow)] = {};
}

}  // namespace

TEST_CASE("a distributed router flattens into whole tables") {
    const Compiled compiled = compile(dvr_snapshot(), scope());
    const std::uint32_t domain = domain_of(compiled, kTapA, "10.0.0.11");
    Tables wanted = common_tables();
    wanted.fdb[fdb_row_key(kBrEx, kFgMac)].out = out_router();
    expect_arp(wanted, kBrEx, "172.24.5.2", kFgMac);
    expect_arp(wanted, kBrEx, "172.24.5.11", kFgMac);
    expect_arp(wanted, kBrEx, "172.24.5.12", kFgMac);

    // Two routers from outside (fip and qrouter namespace), as the measured TTL of 62 says.
    wanted.fip_in[fip_row_key(kBrEx, "172.24.5.11")] =
        fip_row(kFgMac, journey(kMacA, kQrMac, 2, out_port(kTapA), 0, "10.0.0.11"));
    wanted.fip_in[fip_row_key(kBrEx, "172.24.5.12")] =
        fip_row(kFgMac, journey(kMacB, kQrMac, 2, out_port(kTapB), 0, "10.0.0.12"));
    wanted.vms[vm_key(kTapA, "10.0.0.11")] = vm_row(kMacA, "172.24.5.11", domain);
    wanted.vms[vm_key(kTapB, "10.0.0.12")] = vm_row(kMacB, "172.24.5.12", domain);

    expect_tenant_dests(wanted, domain);
    // Out, turned round in the fip namespace and in again: TTL 61, to the own floating IP too.
    wanted.dests[dest_row_key(domain, "172.24.5.11")] =
        journey(kMacA, kQrMac, 3, out_port(kTapA), kHairpin, "10.0.0.11");
    wanted.dests[dest_row_key(domain, "172.24.5.12")] =
        journey(kMacB, kQrMac, 3, out_port(kTapB), kHairpin, "10.0.0.12");
    wanted.dests[dest_row_key(domain, "172.24.5.13")] =
        journey(kRemoteFgMac, kFgMac, 2, out_tunnel(100, kPeer3, kPeer3Mac), kSnat);
    wanted.dests[dest_row_key(domain, "172.24.4.2")] = journey(kBrExMac, kFgMac, 2, out_host(kBrEx), kSnat);
    const fl_next gateway = journey(kGatewayMac, kFgMac, 2, out_tunnel(100, kPeer1, kPeer1Mac), kSnat);
    wanted.dests[dest_row_key(domain, "172.24.4.1")] = gateway;
    wanted.routes[route_row_key(domain, "0.0.0.0/0")] = gateway;
    expect_shadows(wanted, domain, {"10.0.0.0/24", "172.24.4.0/23", "169.254.88.134/31"});

    // The VM without a floating IP gets no further than the router's networks: nobody translates it.
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    CHECK(fixed != domain);
    wanted.vms[vm_key(kTapD, "10.0.0.14")] = vm_row(kMacD, "0.0.0.0", fixed);
    expect_tenant_dests(wanted, fixed);
    CHECK(differences(wanted, compiled.tables) == "");
}

TEST_CASE("a legacy router flattens into whole tables") {
    const Compiled compiled = compile(legacy_snapshot(), legacy_scope());
    const std::uint32_t domain = domain_of(compiled, kTapA, "10.0.0.11");
    Tables wanted = common_tables();
    wanted.fdb[fdb_row_key(kBrEx, kQgMac)].out = out_router();
    for (const char* address : {"172.24.5.3", "172.24.5.11", "172.24.5.12", "172.24.5.13"}) {
        expect_arp(wanted, kBrEx, address, kQgMac);
    }
    const fl_out remote = out_tunnel(200, kPeer3, kPeer3Mac);
    wanted.fip_in[fip_row_key(kBrEx, "172.24.5.11")] =
        fip_row(kQgMac, journey(kMacA, kQrMac, 1, out_port(kTapA), 0, "10.0.0.11"));
    wanted.fip_in[fip_row_key(kBrEx, "172.24.5.12")] =
        fip_row(kQgMac, journey(kMacB, kQrMac, 1, out_port(kTapB), 0, "10.0.0.12"));
    wanted.fip_in[fip_row_key(kBrEx, "172.24.5.13")] =
        fip_row(kQgMac, journey(kMacC, kQrMac, 1, remote, 0, "10.0.0.13"));
    wanted.vms[vm_key(kTapA, "10.0.0.11")] = vm_row(kMacA, "172.24.5.11", domain);
    wanted.vms[vm_key(kTapB, "10.0.0.12")] = vm_row(kMacB, "172.24.5.12", domain);
    // The VM on the other node sends through the tunnel; the programs are told to look there.
    wanted.vms[vm_key(kVxlanTenant, "10.0.0.13")] = vm_row(kMacC, "172.24.5.13", domain);
    wanted.sources[source_row_key(kVxlanTenant)].flags = FL_SRC_ROUTED;
    for (auto& [key, tunnel] : wanted.tunnels) {
        if (tunnel.ifindex == kVxlanTenant) tunnel.flags = FL_SRC_ROUTED;
    }

    expect_tenant_dests(wanted, domain);
    // A VM without a floating IP may have asked for one of ours: the router translates that, and conntrack the answer.
    wanted.dests.erase(dest_row_key(domain, "10.0.0.14"));
    wanted.dests[dest_row_key(domain, "172.24.5.11")] =
        journey(kMacA, kQrMac, 1, out_port(kTapA), kHairpin, "10.0.0.11");
    wanted.dests[dest_row_key(domain, "172.24.5.12")] =
        journey(kMacB, kQrMac, 1, out_port(kTapB), kHairpin, "10.0.0.12");
    wanted.dests[dest_row_key(domain, "172.24.5.13")] = journey(kMacC, kQrMac, 1, remote, kHairpin, "10.0.0.13");
    const fl_next gateway = journey(kGatewayMac, kQgMac, 1, out_tunnel(100, kPeer1, kPeer1Mac), kSnat);
    wanted.dests[dest_row_key(domain, "172.24.4.1")] = gateway;
    wanted.routes[route_row_key(domain, "0.0.0.0/0")] = gateway;
    expect_shadows(wanted, domain, {"10.0.0.0/24", "172.24.4.0/23"});

    // No rule of this router translates the VM without a floating IP, so it is routed with its own address; its
    // packets to floating IPs are translated, and so are conntrack's.
    const std::uint32_t fixed = domain_of(compiled, kTapD, "10.0.0.14");
    CHECK(fixed != domain);
    wanted.vms[vm_key(kTapD, "10.0.0.14")] = vm_row(kMacD, "0.0.0.0", fixed);
    expect_tenant_dests(wanted, fixed);
    const fl_next untranslated = journey(kGatewayMac, kQgMac, 1, out_tunnel(100, kPeer1, kPeer1Mac));
    wanted.dests[dest_row_key(fixed, "172.24.4.1")] = untranslated;
    wanted.routes[route_row_key(fixed, "0.0.0.0/0")] = untranslated;
    expect_shadows(wanted, fixed, {"10.0.0.0/24", "172.24.4.0/23"});

    // And from outside it is reached by its own address. Answers of those with a floating IP would be translated. What
    // claims to be from an address of the router itself is a martian.
    const auto outside = compiled.tables.senders.find(sender_key(kBrEx, kQgMac, "0.0.0.0/0"));
    REQUIRE(outside != compiled.tables.senders.end());
    wanted.senders.insert(*outside);
    for (const char* own :
         {"172.24.5.3", "172.24.5.11", "172.24.5.12", "172.24.5.13", "10.0.0.1", "10.0.0.255", "172.24.5.255"}) {
        wanted.senders[sender_key(kBrEx, kQgMac, own + std::string("/32"))] = {.domain = 0};
    }
    wanted.dests[dest_row_key(outside->second.domain, "10.0.0.14")] = journey(kMacD, kQrMac, 1, out_port(kTapD));
    CHECK(differences(wanted, compiled.tables) == "");
}

TEST_CASE("devices, keepalives and reports of a distributed router") {
    const Compiled compiled = compile(dvr_snapshot(), scope());
    using Kind = DeviceRole::Kind;
    const std::vector<DeviceRole> devices{
        {kEth0, "eth0", Kind::kUnderlay, false, ""},           {kBrEx, "br-ex", Kind::kHost, false, ""},
        {kVxlanEx, "vxlan-100", Kind::kTunnel, false, ""},     {kBrq, "brq11111111-11", Kind::kHost, false, ""},
        {kVxlanTenant, "vxlan-200", Kind::kTunnel, false, ""}, {kTapA, "tapaaaaaaaa-aa", Kind::kPort, false, ""},
        {kTapB, "tapbbbbbbbb-bb", Kind::kPort, false, ""},     {kTapD, "tapdddddddd-dd", Kind::kPort, false, ""}};
    CHECK(compiled.devices == devices);

    // The peers always; on the external leg what is not PERMANENT: the gateway always, as a default route rests on it.
    std::vector<std::string> kept;
    for (const Keepalive& keepalive : compiled.keepalives) {
        kept.push_back(fmt::format("{}/{} {} always={} rows={}", keepalive.netns, keepalive.ifindex,
                                   keepalive.address.str(), keepalive.always, keepalive.dests.size()));
    }
    CHECK(kept == std::vector<std::string>{"/2 198.51.100.1 always=true rows=0", "/2 198.51.100.3 always=true rows=0",
                                           kFipNs + "/3 172.24.4.1 always=true rows=1",
                                           kFipNs + "/3 172.24.4.2 always=false rows=1",
                                           kFipNs + "/3 172.24.5.13 always=false rows=1"});

    REQUIRE(compiled.fips.size() == 2);
    const FipReport& report = report_of(compiled, "172.24.5.11");
    CHECK(report.fast_in);
    CHECK(report.fast_out);
    CHECK(report.fixed == ip("10.0.0.11"));
    CHECK(report.router == kQrouter);
    CHECK(report.segment == "br-ex");
    CHECK(report.port == "tapaaaaaaaa-aa");
    CHECK(report.reason_in.empty());
    CHECK(report.reason_out.empty());
    REQUIRE_FALSE(report.steps_in.empty());
    CHECK(report.steps_in.front().netns == kFipNs);
    CHECK(report.steps_in.front().text ==
          "rule 32766: from all lookup main: 172.24.5.11/32 via 169.254.88.134 dev fpr-7b1f3c52-9 (table main)");
    CHECK(report.steps_in.back().text == "brq11111111-11: out of tapaaaaaaaa-aa");
    CHECK(report.steps_out.back().text == "br-ex: out of vxlan-100");
}

TEST_CASE("a network node whose VMs are elsewhere relays from wire to wire") {
    const Compiled compiled = compile(legacy_snapshot(), legacy_scope());
    CHECK(compiled.devices.front().kind == DeviceRole::Kind::kUnderlay);
    CHECK(compiled.devices.front().wire_to_wire);
    const FipReport& remote = report_of(compiled, "172.24.5.13");
    CHECK(remote.fast_in);
    CHECK(remote.port.empty());
    CHECK(remote.fast_out);
    CHECK(remote.reason_out == "");
}
