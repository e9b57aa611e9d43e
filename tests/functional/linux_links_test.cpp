// SPDX-License-Identifier: Apache-2.0
// Links made through Rtnl, read back through Rtnl and through iproute2.
#include <sys/resource.h>

#include <algorithm>

#include "functional/linux_witness.hpp"
#include "support/carriers.hpp"

namespace fiplane::test {
namespace {

const Mac kBridgeMac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x01}};
const Mac kPortMac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x02}};

BridgeSpec bridge_spec(const std::string& name = "br-ex") {
    return {.name = name, .mac = kBridgeMac, .mtu = 1450, .alias = "fiplane:demo"};
}

VethSpec veth_spec(const std::string& name, const std::string& peer) {
    return {.name = name, .peer_name = peer, .mtu = 1450};
}

}  // namespace

TEST_CASE("a kind of link that the kernel lacks is told from one that it has, and none is made", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    CHECK(bench.rtnl.require_kind("veth"));
    CHECK(bench.rtnl.require_kind("vxlan"));
    const auto missing = bench.rtnl.require_kind("no-such-kind");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().code == ExitCode::kMissingFeature);
    CHECK(missing.error().what == "the kernel has no devices of kind no-such-kind");
    CHECK(must(bench.rtnl.links({}, {})).size() == 1);  // lo
}

TEST_CASE("a new namespace has lo up and is found by name", "[linux][netns]") {
    REQUIRE_ROOT();
    Bench bench;
    const auto names = must(Netns::list());
    CHECK(std::ranges::count(names, bench.scratch.name()) == 1);
    CHECK(must(Netns::open(bench.scratch.name())).inode() == bench.netns().inode());
    CHECK(must(Netns::current()).inode() != bench.netns().inode());
    const auto lo = bench.ask({"ip", "-j", "link", "show", "lo"});
    CHECK(std::ranges::count(lo[0]["flags"], "UP") == 1);

    const auto again = Netns::create(bench.scratch.name());
    REQUIRE_FALSE(again);
    CHECK(again.error().what == "cannot create network namespace " + bench.scratch.name() + ": File exists");
    // The failed attempt must not have taken the name away from the first.
    CHECK(must(Netns::open(bench.scratch.name())).inode() == bench.netns().inode());
}

TEST_CASE("a name without a namespace is told from one that cannot be opened", "[linux][netns]") {
    REQUIRE_ROOT();
    const Bench bench;
    CHECK(must(Netns::find(bench.scratch.name()))->inode() == bench.netns().inode());
    CHECK_FALSE(must(Netns::find("flt-no-such-name")));
    bench.run({"touch", "/run/netns/flt-bare"});
    CHECK_FALSE(must(Netns::find("flt-bare")));
    bench.run({"rm", "/run/netns/flt-bare"});
    rlimit before{};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit none{0, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    const auto found = Netns::find(bench.scratch.name());
    const auto names = Netns::list();
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    REQUIRE_FALSE(found);
    CHECK(found.error().what == "cannot open network namespace " + bench.scratch.name() + ": Too many open files");
    REQUIRE_FALSE(names);
    CHECK(names.error().what == "cannot list network namespaces: Too many open files");
}

TEST_CASE("namespaces are removed once and bad names are refused", "[linux][netns]") {
    REQUIRE_ROOT();
    isolate_mounts();
    must(Netns::create("flt-once"));
    must(Netns::remove("flt-once"));
    CHECK_FALSE(Netns::open("flt-once"));
    CHECK_FALSE(Netns::remove("flt-once"));
    for (const auto* name : {"", ".", "..", "a/b"}) {
        INFO(name);
        CHECK_FALSE(Netns::create(name));
        CHECK_FALSE(Netns::open(name));
        CHECK_FALSE(Netns::remove(name));
    }
}

TEST_CASE("a guard moves the thread and brings it home", "[linux][netns]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    const auto home = must(Netns::current()).inode();
    {
        auto inside = NetnsGuard::enter(scratch.netns());
        REQUIRE(inside);
        CHECK(must(Netns::current()).inode() == scratch.netns().inode());
        const NetnsGuard moved = std::move(*inside);
        CHECK(must(Netns::current()).inode() == scratch.netns().inode());
    }
    CHECK(must(Netns::current()).inode() == home);
}

TEST_CASE("a bridge has what was asked for", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_bridge(bridge_spec()));
    const Link link = bench.link("br-ex");
    CHECK(link.kind == "bridge");
    CHECK(link.alias == "fiplane:demo");
    CHECK(link.mac == kBridgeMac);
    CHECK(link.mtu == 1450);
    CHECK_FALSE(link.admin_up);
    REQUIRE(link.bridge.has_value());
    CHECK(*link.bridge ==
          BridgeInfo{.vlan_filtering = false, .stp = false, .ageing_time = 30000, .multicast_snooping = false});

    const auto seen = bench.ask({"ip", "-j", "-d", "link", "show", "br-ex"})[0];
    CHECK(seen["ifalias"] == "fiplane:demo");
    CHECK(seen["address"] == "fa:16:3e:aa:bb:01");
    CHECK(seen["mtu"] == 1450);
    CHECK(seen["ifindex"] == link.ifindex);
    CHECK(seen["linkinfo"]["info_data"]["stp_state"] == 0);
    CHECK(seen["linkinfo"]["info_data"]["mcast_snooping"] == 0);
}

TEST_CASE("a bridge keeps its MTU when a port has a smaller one", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    for (const std::uint32_t mtu : {1500U, 1450U, 1600U}) {
        auto spec = bridge_spec("br" + std::to_string(mtu));
        spec.mtu = mtu;
        must(bench.rtnl.add_bridge(spec));
        auto pair = veth_spec("p" + std::to_string(mtu), "q" + std::to_string(mtu));
        pair.mtu = 1300;
        must(bench.rtnl.add_veth(pair));
        must(bench.rtnl.change_link(bench.link(pair.name).ifindex, pair.name,
                                    {.up = true, .master = bench.link(spec.name).ifindex}));
        CHECK(bench.link(spec.name).mtu == mtu);
    }
}

TEST_CASE("errors name the object and carry the kernel's words", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_bridge(bridge_spec()));
    const auto twice = bench.rtnl.add_bridge(bridge_spec());
    REQUIRE_FALSE(twice);
    CHECK(twice.error().message() == "netns " + bench.scratch.name() + ": cannot create bridge br-ex: File exists");

    const auto gone = bench.rtnl.remove_link(9999, "tap-gone");
    REQUIRE_FALSE(gone);
    CHECK(gone.error().code == ExitCode::kMissingDevice);
    CHECK(gone.error().what.starts_with("cannot remove link tap-gone: No such device"));

    // An extended ack: the kernel says why an MTU of 10 is refused.
    const auto bad = bench.rtnl.change_link(bench.link("br-ex").ifindex, "br-ex", {.mtu = 10});
    REQUIRE_FALSE(bad);
    CHECK(bad.error().what == "cannot set MTU 10 of br-ex: Invalid argument (mtu less than device minimum)");

    CHECK(must(bench.rtnl.link_by_name("nothing")) == std::nullopt);
}

TEST_CASE("a link that cannot be finished is not left behind", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    auto spec = bridge_spec();
    spec.alias = std::string(300, 'x');  // IFALIASZ is 256
    CHECK_FALSE(bench.rtnl.add_bridge(spec));
    CHECK(must(bench.rtnl.link_by_name("br-ex")) == std::nullopt);
}

TEST_CASE("a VLAN device has what was asked for, and what else it may have is read", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    if (!bench.rtnl.require_kind("vlan")) SKIP("the kernel has no VLAN devices (8021q)");
    must(bench.rtnl.add_veth(veth_spec("eth1", "other")));
    const int parent = bench.link("eth1").ifindex;
    must(bench.rtnl.add_vlan(
        {.name = "eth1.101", .id = 101, .parent_ifindex = parent, .mtu = 1400, .alias = "fiplane:demo"}));
    const Link link = bench.link("eth1.101");
    CHECK(link.kind == "vlan");
    CHECK(link.alias == "fiplane:demo");
    CHECK(link.mtu == 1400);
    REQUIRE(link.vlan.has_value());
    CHECK(*link.vlan == VlanInfo{.id = 101, .parent_ifindex = parent});
    const auto seen = bench.ask({"ip", "-j", "-d", "link", "show", "eth1.101"})[0];
    CHECK(seen["link"] == "eth1");
    CHECK(seen["linkinfo"]["info_data"]["id"] == 101);
    CHECK(seen["linkinfo"]["info_data"]["protocol"] == "802.1Q");

    const auto info_of = [&](std::vector<std::string> options) {
        std::vector<std::string> command = {"ip", "link", "add",  "link", "eth1", "name",
                                            "v",  "type", "vlan", "id",   "7"};
        command.insert(command.end(), options.begin(), options.end());
        const auto made = run_process_in(bench.netns(), command);
        INFO(made.err);
        REQUIRE(made.exit_status == 0);
        const VlanInfo info = bench.link("v").vlan.value();
        must(bench.rtnl.remove_link(bench.link("v").ifindex, "v"));
        return info;
    };
    CHECK(info_of({}) == VlanInfo{.id = 7, .parent_ifindex = parent});
    CHECK(info_of({"protocol", "802.1ad"}).protocol == 0x88a8);
    CHECK_FALSE(info_of({"reorder_hdr", "off"}).reorder_header);
    CHECK(info_of({"loose_binding", "on"}).other_flags);
    CHECK(info_of({"egress-qos-map", "1:2"}).other_flags);
    CHECK(info_of({"ingress-qos-map", "1:2"}).other_flags);
}

TEST_CASE("a VLAN of a device in another namespace has no parent here", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    Bench elsewhere("elsewhere");
    if (!bench.rtnl.require_kind("vlan")) SKIP("the kernel has no VLAN devices (8021q)");
    must(bench.rtnl.add_veth(veth_spec("eth1", "other")));
    must(bench.rtnl.add_vlan(
        {.name = "eth1.101", .id = 101, .parent_ifindex = bench.link("eth1").ifindex, .mtu = 1400}));
    const auto moved =
        run_process_in(bench.netns(), {"ip", "link", "set", "eth1.101", "netns", elsewhere.scratch.name()});
    INFO(moved.err);
    REQUIRE(moved.exit_status == 0);
    CHECK(elsewhere.link("eth1.101").vlan.value().parent_ifindex == 0);
}

TEST_CASE("a vxlan device has what was asked for", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    const int lo = bench.link("lo").ifindex;
    must(bench.rtnl.add_vxlan({.name = "vxlan-70001",
                               .vni = 70001,
                               .local = *Ipv4::parse("192.0.2.1"),
                               .port = 4790,
                               .underlay_ifindex = lo,
                               .learning = false,
                               .proxy = true,
                               .udp_checksum = false,
                               .mtu = 1430,
                               .alias = "fiplane:demo"}));
    const Link link = bench.link("vxlan-70001");
    REQUIRE(link.vxlan.has_value());
    CHECK(*link.vxlan == VxlanInfo{.vni = 70001,
                                   .local = *Ipv4::parse("192.0.2.1"),
                                   .remote = std::nullopt,
                                   .port = 4790,
                                   .underlay_ifindex = lo,
                                   .learning = false,
                                   .ageing = 300,  // the kernel's default
                                   .proxy = true,
                                   .udp_checksum = false,
                                   .collect_metadata = false,
                                   .ttl = 0,
                                   .tos = 0});
    CHECK(link.mtu == 1430);
    CHECK(link.alias == "fiplane:demo");

    const auto data = bench.ask({"ip", "-j", "-d", "link", "show", "vxlan-70001"})[0]["linkinfo"]["info_data"];
    CHECK(data["id"] == 70001);
    CHECK(data["local"] == "192.0.2.1");
    CHECK(data["port"] == 4790);
    CHECK(data["link"] == "lo");
    CHECK(data["learning"] == false);
    CHECK(data["proxy"] == true);
    CHECK(data["udp_csum"] == false);
}

TEST_CASE("links of others are read as they are", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    REQUIRE(
        run_process_in(bench.netns(), {"ip", "link", "add", "vx1", "type", "vxlan", "id", "7", "remote", "192.0.2.9",
                                       "dstport", "4789", "ttl", "5", "tos", "4", "udpcsum", "ageing", "77"})
            .exit_status == 0);
    REQUIRE(run_process_in(bench.netns(), {"ip", "tuntap", "add", "tap0", "mode", "tap"}).exit_status == 0);
    REQUIRE(run_process_in(bench.netns(), {"ip", "tuntap", "add", "tun0", "mode", "tun"}).exit_status == 0);
    REQUIRE(run_process_in(bench.netns(),
                           {"ip", "link", "add", "br0", "type", "bridge", "stp_state", "1", "ageing_time", "1234"})
                .exit_status == 0);
    const Link vxlan = bench.link("vx1");
    REQUIRE(vxlan.vxlan.has_value());
    CHECK(vxlan.vxlan->remote == Ipv4::parse("192.0.2.9"));
    CHECK(vxlan.vxlan->ttl == 5);
    CHECK(vxlan.vxlan->tos == 4);
    CHECK(vxlan.vxlan->udp_checksum);
    CHECK(vxlan.vxlan->learning);
    CHECK(vxlan.vxlan->ageing == 77);
    CHECK(bench.link("tap0").is_tap);
    CHECK(bench.link("tap0").kind == "tun");
    CHECK_FALSE(bench.link("tun0").is_tap);
    const Link bridge = bench.link("br0");
    CHECK(bridge.bridge ==
          BridgeInfo{.vlan_filtering = false, .stp = true, .ageing_time = 1234, .multicast_snooping = true});
}

TEST_CASE("a geneve device is read as it was made, by us and by others", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    if (!bench.rtnl.require_kind("geneve")) SKIP("this kernel has no geneve devices");
    must(bench.rtnl.add_geneve({.name = "gnv-1001-2",
                                .vni = 1001,
                                .remote = {0xc0000202},
                                .port = 6082,
                                .mtu = 1400,
                                .alias = "fiplane:demo"}));
    const Link own = bench.link("gnv-1001-2");
    CHECK(own.kind == "geneve");
    CHECK(own.alias == "fiplane:demo");
    CHECK(own.mtu == 1400);
    GeneveInfo expected;
    expected.vni = 1001;
    expected.remote = Ipv4{0xc0000202};
    expected.port = 6082;
    expected.ttl = 64;
    REQUIRE(own.geneve.has_value());
    CHECK(*own.geneve == expected);
    const auto seen = bench.ask({"ip", "-j", "-d", "link", "show", "gnv-1001-2"})[0]["linkinfo"]["info_data"];
    CHECK(seen["id"] == 1001);
    CHECK(seen["remote"] == "192.0.2.2");
    CHECK(seen["port"] == 6082);
    CHECK(seen["ttl"] == 64);
    CHECK(seen["udp_csum"] == false);

    bench.run({"ip", "link", "add", "theirs", "type", "geneve", "id", "7", "remote", "192.0.2.3", "tos", "8", "df",
               "set", "ttl", "inherit", "udpcsum"});
    GeneveInfo theirs;
    theirs.vni = 7;
    theirs.remote = Ipv4{0xc0000203};
    theirs.port = 6081;
    theirs.tos = 8;
    theirs.df = 1;
    theirs.inherits_ttl = true;
    theirs.udp_checksum = true;
    CHECK(bench.link("theirs").geneve == theirs);
    bench.run({"ip", "link", "add", "six", "type", "geneve", "id", "8", "remote", "2001:db8::1"});
    CHECK_FALSE(bench.link("six").geneve->remote);
    // A device in this mode takes the port for itself.
    bench.run({"ip", "link", "add", "external", "type", "geneve", "dstport", "6083", "external"});
    CHECK(bench.link("external").geneve->collect_metadata);
    CHECK_FALSE(bench.link("external").geneve->remote);
}

TEST_CASE("a veth pair in one namespace names its peers", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    auto spec = veth_spec("veth-a", "veth-b");
    spec.mac = kPortMac;
    spec.peer_mac = kBridgeMac;
    spec.alias = "fiplane:demo";
    must(bench.rtnl.add_veth(spec));
    const auto links = must(bench.rtnl.links({}, "here"));
    const Link a = links.at(bench.link("veth-a").ifindex);
    const Link b = links.at(bench.link("veth-b").ifindex);
    CHECK(a.peer == PeerInfo{.ifindex = b.ifindex, .netns = "here"});
    CHECK(b.peer == PeerInfo{.ifindex = a.ifindex, .netns = "here"});
    CHECK(a.mac == kPortMac);
    CHECK(b.mac == kBridgeMac);
    CHECK(a.mtu == 1450);
    CHECK(b.mtu == 1450);
    CHECK(a.alias == "fiplane:demo");
    CHECK(b.alias.empty());
    CHECK_FALSE(links.begin()->second.peer.has_value());  // lo
}

TEST_CASE("a veth pair across namespaces is resolved by namespace ids", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench root("root");
    Bench router("router");
    // Moves the indices apart, so that a peer index is not right by accident.
    must(router.rtnl.add_bridge(bridge_spec("filler")));
    auto spec = veth_spec("tap1", "qr-1");
    spec.peer_netns = &router.netns();
    must(root.rtnl.add_veth(spec));
    const int tap = root.link("tap1").ifindex;
    const int qr = router.link("qr-1").ifindex;
    REQUIRE(tap != qr);

    const auto nsid = must(root.rtnl.nsid_of(router.netns()));
    REQUIRE(nsid.has_value());
    const auto named = must(root.rtnl.links({{*nsid, router.scratch.name()}}, ""));
    CHECK(named.at(tap).peer == PeerInfo{.ifindex = qr, .netns = router.scratch.name()});
    const auto unnamed = must(root.rtnl.links({}, ""));
    CHECK(unnamed.at(tap).peer == PeerInfo{.ifindex = qr, .netns = std::nullopt});

    const Bench stranger("stranger");
    CHECK(must(root.rtnl.nsid_of(stranger.netns())) == std::nullopt);
}

TEST_CASE("links are changed in every respect and released again", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_bridge(bridge_spec()));
    must(bench.rtnl.add_veth(veth_spec("a", "b")));
    const int bridge = bench.link("br-ex").ifindex;
    const int a = bench.link("a").ifindex;
    must(bench.rtnl.change_link(a, "a",
                                {.mtu = 1400,
                                 .mac = kPortMac,
                                 .up = true,
                                 .all_multicast = true,
                                 .master = bridge,
                                 .alias = "fiplane:x",
                                 .disable_ipv6_autoconf = true}));
    Link link = bench.link("a");
    CHECK(link.mtu == 1400);
    CHECK(link.mac == kPortMac);
    CHECK(link.admin_up);
    CHECK(link.all_multicast);
    CHECK_FALSE(link.running);  // the other end is down
    CHECK(link.master == bridge);
    CHECK(link.alias == "fiplane:x");
    REQUIRE(link.bridge_port.has_value());
    const auto seen = bench.ask({"ip", "-j", "-d", "link", "show", "a"})[0];
    CHECK(seen["master"] == "br-ex");
    CHECK(seen["inet6_addr_gen_mode"] == "none");
    CHECK(std::ranges::count(seen["flags"], "ALLMULTI") == 1);

    must(bench.rtnl.change_link(bench.link("b").ifindex, "b", {.up = true}));
    wait_for_carriers(bench.netns(), {"a", "b"});
    CHECK_FALSE(bench.link("b").all_multicast);
    CHECK(bench.link("a").running);
    CHECK(run_process_in(bench.netns(), {"ip", "-6", "-o", "addr", "show", "dev", "a"}).out.empty());
    // The control: without the change the other end made itself an address.
    CHECK_FALSE(run_process_in(bench.netns(), {"ip", "-6", "-o", "addr", "show", "dev", "b"}).out.empty());

    must(bench.rtnl.change_link(a, "a", {.up = false, .all_multicast = false, .master = 0, .alias = ""}));
    link = bench.link("a");
    CHECK_FALSE(link.all_multicast);
    CHECK_FALSE(link.admin_up);
    CHECK(link.master == 0);
    CHECK(link.alias.empty());
    CHECK_FALSE(link.bridge_port.has_value());
    must(bench.rtnl.remove_link(a, "a"));
    CHECK(must(bench.rtnl.link_by_name("b")) == std::nullopt);
}

TEST_CASE("bridge port flags are set one by one", "[linux][rtnl]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_bridge(bridge_spec()));
    must(bench.rtnl.add_veth(veth_spec("a", "b")));
    const int a = bench.link("a").ifindex;
    must(bench.rtnl.change_link(a, "a", {.master = bench.link("br-ex").ifindex}));
    const auto port = [&] { return bench.link("a").bridge_port.value(); };
    BridgePortInfo expected = port();
    CHECK(expected.learning);
    CHECK(expected.unicast_flood);

    must(bench.rtnl.change_bridge_port(a, "a", {.learning = false}));
    expected.learning = false;
    CHECK(port() == expected);
    must(bench.rtnl.change_bridge_port(a, "a", {.unicast_flood = false, .neigh_suppress = true, .isolated = true}));
    expected.unicast_flood = false;
    expected.neigh_suppress = true;
    expected.isolated = true;
    CHECK(port() == expected);
    const auto seen = bench.ask({"bridge", "-j", "-d", "link", "show", "dev", "a"})[0];
    CHECK(seen["learning"] == false);
    CHECK(seen["flood"] == false);
    CHECK(seen["neigh_suppress"] == true);
    CHECK(seen["isolated"] == true);
}

}  // namespace fiplane::test
