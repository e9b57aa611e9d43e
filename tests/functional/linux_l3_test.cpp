// SPDX-License-Identifier: Apache-2.0
// Addresses, routes, rules, neighbours and forwarding databases made through Rtnl, read back through Rtnl and iproute2.
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "functional/linux_witness.hpp"
#include "linux/events.hpp"
#include "linux/sysctl.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

const Mac kMac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x02}};
/// int(169.254.64.1): beyond 2^31, as all tables and priorities that Neutron derives from link-local addresses.
constexpr std::uint32_t kLargeTable = 2851995649;

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}
Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

/// A namespace with a veth pair up; "a" has 10.0.0.1/24.
struct L3Bench : Bench {
    int a = 0;
    int b = 0;
    L3Bench() {
        must(rtnl.add_veth({.name = "a", .peer_name = "b"}));
        a = link("a").ifindex;
        b = link("b").ifindex;
        must(rtnl.change_link(a, "a", {.up = true}));
        must(rtnl.change_link(b, "b", {.up = true}));
        must(rtnl.add_address(a, prefix("10.0.0.1/24"), true));
    }
};

template <typename Range, typename Predicate>
auto only(const Range& range, Predicate wanted) {
    const auto found = std::ranges::find_if(range, wanted);
    REQUIRE(found != std::ranges::end(range));
    REQUIRE(std::ranges::count_if(range, wanted) == 1);
    return *found;
}

nlohmann::json fdb_of(const Bench& bench, const char* device, const char* mac) {
    nlohmann::json found = nlohmann::json::array();
    for (const auto& entry : bench.ask({"bridge", "-j", "fdb", "show", "dev", device})) {
        if (entry["mac"] == mac && !entry.contains("vlan")) found.push_back(entry);
    }
    return found;
}

std::vector<std::string> destinations(const nlohmann::json& entries) {
    std::vector<std::string> out;
    for (const auto& entry : entries)
        out.push_back(entry.at("dst"));
    std::ranges::sort(out);
    return out;
}

}  // namespace

TEST_CASE("what decides a packet's source is read, and the kernel's own choice asked for", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    bench.run({"ip", "address", "add", "10.0.0.2/24", "dev", "a"});
    bench.run({"ip", "address", "add", "10.0.9.1/24", "dev", "a", "scope", "link"});
    const auto addresses = must(bench.rtnl.addresses());
    const auto address_of = [&](const char* text) {
        return only(addresses, [&](const Address& each) { return each.address == prefix(text); });
    };
    CHECK_FALSE(address_of("10.0.0.1/24").secondary);
    CHECK(address_of("10.0.0.1/24").scope == 0);
    CHECK(address_of("10.0.0.2/24").secondary);
    CHECK_FALSE(address_of("10.0.9.1/24").secondary);
    CHECK(address_of("10.0.9.1/24").scope == 253);

    bench.run({"ip", "route", "add", "10.1.0.0/16", "via", "10.0.0.254", "src", "10.0.0.2"});
    bench.run({"ip", "route", "add", "10.2.0.0/16", "via", "10.0.0.254"});
    bench.run({"ip", "route", "add", "unreachable", "10.3.0.0/16"});
    const auto routes = must(bench.rtnl.routes());
    const auto source_of = [&](const char* text) {
        return only(routes, [&](const Route& each) { return each.destination == prefix(text) && each.table == 254; })
            .preferred_source;
    };
    CHECK(source_of("10.0.0.0/24") == prefix("10.0.0.1/32").address);
    CHECK(source_of("10.1.0.0/16") == prefix("10.0.0.2/32").address);
    CHECK_FALSE(source_of("10.2.0.0/16"));

    const auto chosen = [&](const char* text) { return must(bench.rtnl.source_towards(prefix(text).address)); };
    CHECK(chosen("10.0.0.7/32") == prefix("10.0.0.1/32").address);
    CHECK(chosen("10.1.0.7/32") == prefix("10.0.0.2/32").address);
    CHECK(chosen("10.2.0.7/32") == prefix("10.0.0.1/32").address);
    CHECK_FALSE(chosen("10.3.0.7/32"));
    CHECK_FALSE(chosen("192.0.2.7/32"));
}

TEST_CASE("addresses keep host bits and have a broadcast address where one was wanted", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    must(bench.rtnl.add_address(bench.b, prefix("169.254.64.0/31"), true));
    must(bench.rtnl.add_address(bench.b, prefix("172.24.5.9/32"), false));
    const auto addresses = must(bench.rtnl.addresses());
    CHECK(std::ranges::count(addresses, Address{bench.a, prefix("10.0.0.1/24")}) == 1);
    CHECK(std::ranges::count(addresses, Address{bench.b, prefix("169.254.64.0/31")}) == 1);
    CHECK(std::ranges::count(addresses, Address{bench.b, prefix("172.24.5.9/32")}) == 1);
    const auto seen = bench.ask({"ip", "-j", "-4", "addr", "show", "dev", "a"})[0]["addr_info"][0];
    CHECK(seen["local"] == "10.0.0.1");
    CHECK(seen["prefixlen"] == 24);
    CHECK(seen["broadcast"] == "10.0.0.255");
    CHECK(seen["scope"] == "global");
    const auto others = bench.ask({"ip", "-j", "-4", "addr", "show", "dev", "b"})[0]["addr_info"];
    CHECK(others.size() == 2);
    for (const auto& info : others) {
        CHECK_FALSE(info.contains("broadcast"));
    }

    const auto twice = bench.rtnl.add_address(bench.a, prefix("10.0.0.1/24"), true);
    REQUIRE_FALSE(twice);
    CHECK(twice.error().what.find("10.0.0.1/24") != std::string::npos);
    CHECK(twice.error().what.find("File exists") != std::string::npos);
    must(bench.rtnl.remove_address(bench.a, prefix("10.0.0.1/24")));
    CHECK_FALSE(bench.rtnl.remove_address(bench.a, prefix("10.0.0.1/24")));
}

TEST_CASE("a point-to-point address is one address", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    REQUIRE(run_process_in(bench.netns(), {"ip", "addr", "add", "192.0.2.1", "peer", "198.51.100.0/24", "dev", "b"})
                .exit_status == 0);
    CHECK(std::ranges::count(must(bench.rtnl.addresses()), Address{bench.b, prefix("192.0.2.1/32")}) == 1);
}

TEST_CASE("routes of large tables are set, replaced and removed", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    Route route{.table = kLargeTable,
                .destination = prefix("0.0.0.0/0"),
                .type = RouteType::kUnicast,
                .oif = bench.a,
                .gateway = ip("10.0.0.3"),
                .priority = 0,
                .protocol = RTPROT_STATIC,
                .scope = RT_SCOPE_UNIVERSE};
    const auto mine = [](const Route& r) { return r.table == kLargeTable; };
    const auto seen = [&] { return bench.ask({"ip", "-j", "route", "show", "table", std::to_string(kLargeTable)}); };

    must(bench.rtnl.set_route(route));
    CHECK(only(must(bench.rtnl.routes()), mine) == route);
    REQUIRE(seen().size() == 1);
    CHECK(seen()[0]["dst"] == "default");
    CHECK(seen()[0]["gateway"] == "10.0.0.3");
    CHECK(seen()[0]["dev"] == "a");
    CHECK(seen()[0]["protocol"] == "static");

    route.gateway = ip("10.0.0.4");
    route.mtu = 1400;
    must(bench.rtnl.set_route(route));
    CHECK(only(must(bench.rtnl.routes()), mine) == route);
    CHECK(seen().size() == 1);
    CHECK(seen()[0]["gateway"] == "10.0.0.4");

    must(bench.rtnl.remove_route(route));
    CHECK(seen().empty());
    const auto again = bench.rtnl.remove_route(route);
    REQUIRE_FALSE(again);
    CHECK(again.error().what.find("via 10.0.0.4") != std::string::npos);
    CHECK(again.error().what.find("No such process") != std::string::npos);
}

TEST_CASE("routes of every kind are read as what they are", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    const auto add = [&](std::vector<std::string> words) {
        words.insert(words.begin(), {"ip", "route", "add"});
        const auto result = run_process_in(bench.netns(), words);
        INFO(result.err);
        REQUIRE(result.exit_status == 0);
    };
    add({"192.0.2.0/25", "dev", "a", "metric", "7", "tos", "4"});
    add({"blackhole", "192.0.2.128/32"});
    add({"unreachable", "192.0.2.129/32"});
    add({"prohibit", "192.0.2.130/32"});
    add({"throw", "192.0.2.131/32", "table", "16"});
    add({"198.51.100.0/24", "nexthop", "via", "10.0.0.2", "nexthop", "via", "10.0.0.3"});
    add({"203.0.113.0/24", "via", "inet6", "fe80::1", "dev", "a"});
    const auto routes = must(bench.rtnl.routes());
    const auto to = [&](const char* destination) {
        return only(routes, [&](const Route& r) { return r.destination == prefix(destination); });
    };
    CHECK(to("192.0.2.0/25") == Route{.table = 254,
                                      .destination = prefix("192.0.2.0/25"),
                                      .type = RouteType::kUnicast,
                                      .oif = bench.a,
                                      .gateway = std::nullopt,
                                      .priority = 7,
                                      .protocol = RTPROT_BOOT,
                                      .scope = RT_SCOPE_LINK,
                                      .tos = 4});
    CHECK(to("192.0.2.128/32").type == RouteType::kBlackhole);
    CHECK(to("192.0.2.129/32").type == RouteType::kUnreachable);
    CHECK(to("192.0.2.130/32").type == RouteType::kProhibit);
    CHECK(to("192.0.2.131/32").type == RouteType::kThrow);
    CHECK(to("192.0.2.131/32").table == 16);
    CHECK(to("198.51.100.0/24").multipath);
    CHECK(to("203.0.113.0/24").type == RouteType::kOther);
    CHECK(to("10.0.0.1/32").type == RouteType::kLocal);
    CHECK(to("10.0.0.255/32").type == RouteType::kBroadcast);
    CHECK_FALSE(bench.rtnl.set_route(to("198.51.100.0/24")));
}

TEST_CASE("policy rules hold host bits, large tables and interfaces", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    const PolicyRule redirect{.priority = 167772161,
                              .source = prefix("10.0.0.1/24"),
                              .destination = {},
                              .iifname = {},
                              .oifname = {},
                              .table = 167772161};
    const PolicyRule incoming{.priority = kLargeTable,
                              .source = {},
                              .destination = {},
                              .iifname = "fpr-0123456789",
                              .oifname = {},
                              .table = kLargeTable};
    const PolicyRule fixed{.priority = 32768,
                           .source = prefix("10.0.0.11/32"),
                           .destination = prefix("192.0.2.0/24"),
                           .iifname = {},
                           .oifname = "a",
                           .table = 16};
    for (const auto& rule : {redirect, incoming, fixed})
        must(bench.rtnl.add_rule(rule));
    const auto rules = must(bench.rtnl.rules());
    REQUIRE(rules.size() == 6);
    // By priority, as the kernel goes through them.
    CHECK(rules[0].table == RT_TABLE_LOCAL);
    CHECK(rules[1].table == RT_TABLE_MAIN);
    CHECK(rules[3] == fixed);
    CHECK(rules[4] == redirect);
    CHECK(rules[5] == incoming);

    const auto seen = bench.ask({"ip", "-j", "rule"});
    REQUIRE(seen.size() == 6);
    CHECK(seen[4]["priority"] == 167772161);
    CHECK(seen[4]["src"] == "10.0.0.1");
    CHECK(seen[4]["srclen"] == 24);
    CHECK(seen[4]["table"] == "167772161");
    CHECK(seen[5]["iif"] == "fpr-0123456789");
    CHECK(seen[5]["table"] == std::to_string(kLargeTable));

    const auto twice = bench.rtnl.add_rule(fixed);
    REQUIRE_FALSE(twice);
    CHECK(twice.error().what ==
          "cannot add rule 32768: from 10.0.0.11/32 to 192.0.2.0/24 oif a lookup 16: File exists");
    must(bench.rtnl.remove_rule(fixed));
    CHECK(must(bench.rtnl.rules()).size() == 5);
    CHECK_FALSE(bench.rtnl.remove_rule(fixed));
}

TEST_CASE("selectors that the walk does not know are marked", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    const std::vector<std::vector<std::string>> selectors = {{"fwmark", "1", "lookup", "16"},
                                                             {"tos", "8", "lookup", "16"},
                                                             {"not", "from", "10.0.0.0/8", "lookup", "16"},
                                                             {"ipproto", "tcp", "lookup", "16"},
                                                             {"sport", "80", "lookup", "16"},
                                                             {"uidrange", "0-5", "lookup", "16"},
                                                             {"lookup", "16", "suppress_prefixlength", "0"}};
    for (const auto& selector : selectors) {
        std::vector<std::string> words{"ip", "rule", "add", "priority", "100"};
        words.insert(words.end(), selector.begin(), selector.end());
        INFO(selector[0]);
        REQUIRE(run_process_in(bench.netns(), words).exit_status == 0);
        const auto rule = only(must(bench.rtnl.rules()), [](const PolicyRule& r) { return r.priority == 100; });
        CHECK(rule.other_selector);
        CHECK(rule.inverted == (selector[0] == "not"));
        CHECK(rule.lookup);
        REQUIRE(run_process_in(bench.netns(), {"ip", "rule", "del", "priority", "100"}).exit_status == 0);
    }
    REQUIRE(run_process_in(bench.netns(), {"ip", "rule", "add", "priority", "100", "blackhole"}).exit_status == 0);
    CHECK_FALSE(only(must(bench.rtnl.rules()), [](const PolicyRule& r) { return r.priority == 100; }).lookup);
    CHECK(std::ranges::none_of(must(bench.rtnl.rules()), &PolicyRule::other_selector));
}

TEST_CASE("neighbours are permanent, replaceable and removable", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    must(bench.rtnl.set_neighbour(bench.a, ip("10.0.0.11"), Mac{}));
    must(bench.rtnl.set_neighbour(bench.a, ip("10.0.0.11"), kMac));
    const auto is_mine = [](const Neighbour& n) { return n.address == ip("10.0.0.11"); };
    CHECK(only(must(bench.rtnl.neighbours()), is_mine) ==
          Neighbour{.ifindex = bench.a, .address = ip("10.0.0.11"), .mac = kMac, .state = NUD_PERMANENT});
    const auto seen = bench.ask({"ip", "-j", "neigh", "show", "dev", "a"});
    REQUIRE(seen.size() == 1);
    CHECK(seen[0]["lladdr"] == kMac.str());
    CHECK(seen[0]["state"][0] == "PERMANENT");
    must(bench.rtnl.remove_neighbour(bench.a, ip("10.0.0.11")));
    CHECK(std::ranges::none_of(must(bench.rtnl.neighbours()), is_mine));
    CHECK_FALSE(bench.rtnl.remove_neighbour(bench.a, ip("10.0.0.11")));
}

TEST_CASE("using a neighbour starts its resolution", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    must(bench.rtnl.use_neighbour(bench.a, ip("10.0.0.77")));
    const auto found =
        only(must(bench.rtnl.neighbours()), [](const Neighbour& n) { return n.address == ip("10.0.0.77"); });
    CHECK(found.state == NUD_INCOMPLETE);
    CHECK_FALSE(found.usable());
}

TEST_CASE("static entries live in the bridge's table and move between ports", "[linux][rtnl][fdb]") {
    REQUIRE_ROOT();
    L3Bench bench;
    must(bench.rtnl.add_bridge({.name = "br0"}));
    const int bridge = bench.link("br0").ifindex;
    must(bench.rtnl.change_link(bench.a, "a", {.master = bridge}));
    must(bench.rtnl.change_link(bench.b, "b", {.master = bridge}));
    // A kernel that can filter VLANs lists an entry once more for each VLAN of the port (the default PVID, 1), even on
    // a bridge that does not filter.
    const auto mine = [](const FdbEntry& e) { return e.mac == kMac && e.vlan == 0; };

    must(bench.rtnl.set_fdb(bench.a, kMac, std::nullopt));
    FdbEntry entry = only(must(bench.rtnl.fdb()), mine);
    CHECK(entry.ifindex == bench.a);
    CHECK(entry.bridge == bridge);
    CHECK((entry.state & NUD_NOARP) != 0);
    CHECK((entry.state & NUD_PERMANENT) == 0);
    CHECK_FALSE(entry.destination.has_value());
    REQUIRE(fdb_of(bench, "a", kMac.str().c_str()).size() == 1);
    CHECK(fdb_of(bench, "a", kMac.str().c_str())[0]["state"] == "static");

    must(bench.rtnl.set_fdb(bench.b, kMac, std::nullopt));
    CHECK(only(must(bench.rtnl.fdb()), mine).ifindex == bench.b);
    CHECK(fdb_of(bench, "a", kMac.str().c_str()).empty());
    must(bench.rtnl.remove_fdb(bench.b, kMac, std::nullopt));
    CHECK(std::ranges::none_of(must(bench.rtnl.fdb()), [](const FdbEntry& e) { return e.mac == kMac; }));
    CHECK_FALSE(bench.rtnl.remove_fdb(bench.b, kMac, std::nullopt));

    const Mac own = bench.link("a").mac;
    const auto local = only(must(bench.rtnl.fdb()), [&](const FdbEntry& e) { return e.mac == own && e.vlan == 0; });
    CHECK((local.state & NUD_PERMANENT) != 0);
    CHECK(std::ranges::none_of(must(bench.rtnl.fdb()), [](const FdbEntry& e) { return e.mac.is_multicast(); }));
}

TEST_CASE("a vxlan device has one destination per MAC and many for floods", "[linux][rtnl][fdb]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_vxlan({.name = "vx", .vni = 70001, .local = ip("192.0.2.1"), .alias = "fiplane:demo"}));
    const int vx = bench.link("vx").ifindex;
    const char* const zero = "00:00:00:00:00:00";
    must(bench.rtnl.set_fdb(vx, kMac, ip("192.0.2.2")));
    must(bench.rtnl.set_fdb(vx, kMac, ip("192.0.2.3")));
    for (const char* peer : {"192.0.2.2", "192.0.2.3", "192.0.2.4"})
        must(bench.rtnl.set_fdb(vx, Mac{}, ip(peer)));

    const auto entry = only(must(bench.rtnl.fdb()), [](const FdbEntry& e) { return e.mac == kMac; });
    CHECK(entry.ifindex == vx);
    CHECK(entry.bridge == 0);
    CHECK(entry.destination == ip("192.0.2.3"));
    CHECK((entry.flags & NTF_SELF) != 0);
    CHECK((entry.state & NUD_NOARP) != 0);
    CHECK(destinations(fdb_of(bench, "vx", kMac.str().c_str())) == std::vector<std::string>{"192.0.2.3"});
    CHECK(destinations(fdb_of(bench, "vx", zero)) == std::vector<std::string>{"192.0.2.2", "192.0.2.3", "192.0.2.4"});
    CHECK(std::ranges::count_if(must(bench.rtnl.fdb()), [](const FdbEntry& e) { return e.mac.is_unset(); }) == 3);

    must(bench.rtnl.remove_fdb(vx, Mac{}, ip("192.0.2.3")));
    CHECK(destinations(fdb_of(bench, "vx", zero)) == std::vector<std::string>{"192.0.2.2", "192.0.2.4"});
    must(bench.rtnl.remove_fdb(vx, kMac, ip("192.0.2.3")));
    CHECK(fdb_of(bench, "vx", kMac.str().c_str()).empty());
    const auto again = bench.rtnl.remove_fdb(vx, kMac, ip("192.0.2.3"));
    REQUIRE_FALSE(again);
    CHECK(again.error().what.find("to 192.0.2.3: No such file or directory") != std::string::npos);
}

TEST_CASE("a learned entry of a bridge is refreshed where it is, and nowhere else", "[linux][rtnl][fdb]") {
    REQUIRE_ROOT();
    L3Bench bench;
    // IPv6 would speak by itself, and a frame circles for ever where both ends of a pair are ports of one bridge.
    must(write_sysctl(bench.netns(), "ipv6/conf/all/disable_ipv6", "1"));
    must(bench.rtnl.add_bridge({.name = "br0"}));
    must(bench.rtnl.change_link(bench.link("br0").ifindex, "br0", {.up = true}));
    for (const auto& [ifindex, name] : {std::pair{bench.a, "a"}, {bench.b, "b"}})
        must(bench.rtnl.change_link(ifindex, name, {.master = bench.link("br0").ifindex}));
    // A port that does not forward yet learns nothing.
    const auto end = std::chrono::steady_clock::now() + scaled(std::chrono::seconds(5));
    while (bench.link("a").bridge_port->state != 3 || bench.link("b").bridge_port->state != 3) {
        REQUIRE(std::chrono::steady_clock::now() < end);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const std::string address = kMac.str();
    const auto fdb = [&](const std::string& how) {
        return run_process_in(bench.netns(), {"sh", "-c", "bridge fdb " + how}).exit_status == 0;
    };
    const auto age = [&] {
        const auto entries = bench.ask({"bridge", "-j", "-s", "fdb", "show", "dev", "a"});
        return only(entries, [&](const auto& e) { return e["mac"] == address && !e.contains("vlan"); })
            .at("updated")
            .template get<int>();
    };
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(bench.a, kMac, std::nullopt)));
    CHECK(fdb_of(bench, "a", address.c_str()).empty());

    REQUIRE(fdb("add " + address + " dev a master dynamic"));
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    CHECK(age() >= 2);
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(bench.b, kMac, std::nullopt)));
    CHECK(age() >= 2);
    auto events = must(NetnsEvents::open(bench.netns()));
    CHECK(must(bench.rtnl.refresh_fdb(bench.a, kMac, std::nullopt)));
    CHECK(age() <= 1);
    CHECK_FALSE(events.receive().neighbours);                      // a refresh is no news
    CHECK(fdb_of(bench, "a", address.c_str())[0]["state"] == "");  // still one that ages

    REQUIRE(fdb("replace " + address + " dev a master static"));
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(bench.a, kMac, std::nullopt)));
    CHECK(fdb_of(bench, "a", address.c_str())[0]["state"] == "static");
    CHECK_FALSE(bench.rtnl.refresh_fdb(12345, kMac, std::nullopt));
}

TEST_CASE("a learned entry of a vxlan device is refreshed, not made", "[linux][rtnl][fdb]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_vxlan({.name = "vx", .vni = 70001, .local = ip("192.0.2.1"), .alias = "fiplane:demo"}));
    const int vx = bench.link("vx").ifindex;
    const std::string address = kMac.str();
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(vx, kMac, ip("192.0.2.2"))));
    CHECK(fdb_of(bench, "vx", address.c_str()).empty());
    REQUIRE(run_process_in(bench.netns(),
                           {"bridge", "fdb", "add", address, "dev", "vx", "self", "dst", "192.0.2.2", "dynamic"})
                .exit_status == 0);
    // Linux 6.15 counts the age of an entry from `updated`, before that from `used`.
    const auto age = [&] {
        const auto entry = bench.ask({"bridge", "-j", "-s", "fdb", "show", "dev", "vx"})[0];
        return std::min(entry.at("used").get<int>(), entry.at("updated").get<int>());
    };
    const auto before = must(bench.rtnl.fdb());
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    CHECK(age() >= 2);
    CHECK(must(bench.rtnl.refresh_fdb(vx, kMac, ip("192.0.2.2"))));
    CHECK(age() <= 1);
    // The kernel may tell of it (Linux 6.1 does each time, 6.18 the first time), but there is nothing new to compile.
    CHECK(must(bench.rtnl.fdb()) == before);
    CHECK(destinations(fdb_of(bench, "vx", address.c_str())) == std::vector<std::string>{"192.0.2.2"});
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(vx, kMac, ip("192.0.2.3"))));
    must(bench.rtnl.set_fdb(vx, kMac, ip("192.0.2.2")));
    CHECK_FALSE(must(bench.rtnl.refresh_fdb(vx, kMac, ip("192.0.2.2"))));
    CHECK(fdb_of(bench, "vx", address.c_str())[0]["state"] == "static");  // and stays so
}

TEST_CASE("vxlan entries that send elsewhere are told apart", "[linux][rtnl][fdb]") {
    REQUIRE_ROOT();
    Bench bench;
    must(bench.rtnl.add_vxlan({.name = "vx", .vni = 70001, .local = ip("192.0.2.1")}));
    REQUIRE(run_process_in(bench.netns(),
                           {"bridge", "fdb", "add", kMac.str(), "dev", "vx", "dst", "192.0.2.2", "port", "9999"})
                .exit_status == 0);
    REQUIRE(
        run_process_in(bench.netns(), {"bridge", "fdb", "add", "fa:16:3e:00:00:01", "dev", "vx", "dst", "192.0.2.2"})
            .exit_status == 0);
    const auto entries = must(bench.rtnl.fdb());
    CHECK(only(entries, [](const FdbEntry& e) { return e.mac == kMac; }).elsewhere);
    const auto plain = only(entries, [](const FdbEntry& e) { return e.mac == Mac::parse("fa:16:3e:00:00:01"); });
    CHECK(plain.destination == ip("192.0.2.2"));
    CHECK_FALSE(plain.elsewhere);
    CHECK(plain.underlay_ifindex == 0);
    // What `remote` and `dev` make is an entry with the device in it.
    must(bench.rtnl.add_veth({.name = "a", .peer_name = "b"}));
    REQUIRE(run_process_in(bench.netns(), {"ip", "link", "add", "one", "type", "vxlan", "id", "7", "local", "192.0.2.1",
                                           "remote", "192.0.2.9", "dev", "a", "dstport", "4789"})
                .exit_status == 0);
    const int one = bench.link("one").ifindex;
    const auto flood = only(must(bench.rtnl.fdb()), [&](const FdbEntry& e) { return e.ifindex == one; });
    CHECK(flood.mac.is_unset());
    CHECK(flood.destination == ip("192.0.2.9"));
    CHECK(flood.underlay_ifindex == bench.link("a").ifindex);
    CHECK_FALSE(flood.elsewhere);
}

TEST_CASE("a large dump is complete", "[linux][rtnl]") {
    REQUIRE_ROOT();
    L3Bench bench;
    constexpr std::uint32_t kCount = 5000;  // far more than one 32 KiB message
    for (std::uint32_t i = 0; i < kCount; ++i) {
        must(bench.rtnl.set_neighbour(bench.a, Ipv4{ip("10.1.0.0").value + i}, kMac));
    }
    const auto neighbours = must(bench.rtnl.neighbours());
    CHECK(std::ranges::count_if(neighbours, [](const Neighbour& n) { return n.mac == kMac; }) == kCount);
}

}  // namespace fiplane::test
