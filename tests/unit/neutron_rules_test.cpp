// SPDX-License-Identifier: Apache-2.0
// The rules that a Neutron L3 agent writes for a router, evaluated for the packets of floating IPs.
#include "neutron_rules.hpp"

#include <catch2/catch_test_macros.hpp>

#include "../support/snapshot_builder.hpp"

using namespace fiplane;
using namespace fiplane::test;
using nf::Hook;

namespace {

NetnsView netns_of(const std::string& text) {
    NetnsView view;
    add_iptables(view, text);
    return view;
}

/// A packet's way through the hooks of a router; what each says.
struct Way {
    nf::Outcome prerouting;
    nf::Outcome forward;
    nf::Outcome postrouting;

    /// The first reason not to rely on it.
    [[nodiscard]] std::string stopped() const {
        for (const auto* outcome : {&prerouting, &forward, &postrouting}) {
            if (outcome->stopped) return *outcome->stopped;
            if (!outcome->accepted) return "dropped";
        }
        return {};
    }
};

void go_on(nf::Packet& packet, const nf::Outcome& outcome) {
    packet.marks = outcome.marks;
    packet.marks_invalid = outcome.marks_invalid;
    packet.marks_later = outcome.marks_later;
}

Way way_through(const NetnsView& view, const char* iif, const char* source, const char* oif, const char* destination) {
    const nf::Evaluator evaluator(view.netfilter);
    nf::Packet packet;
    evaluator.enter(packet);
    packet.iifname = iif;
    if (source != nullptr) packet.saddr = ip(source);
    packet.daddr = net(destination);
    Way way;
    way.prerouting = evaluator.evaluate(Hook::kPrerouting, packet);
    go_on(packet, way.prerouting);
    if (way.prerouting.dnat) packet.daddr = Prefix::host(*way.prerouting.dnat);
    packet.dnat_done = way.prerouting.dnat.has_value();
    packet.oifname = oif;
    way.forward = evaluator.evaluate(Hook::kForward, packet);
    go_on(packet, way.forward);
    way.postrouting = evaluator.evaluate(Hook::kPostrouting, packet);
    return way;
}

/// With rules that carry invalid packets as the translated ones, and none for ports: what is left is Neutron's logic.
NetnsView without_random_ports(const std::string& text) {
    std::string plain = text;
    for (std::size_t at = 0; (at = plain.find(" --random-fully")) != std::string::npos;)
        plain.erase(at, 15);
    return netns_of(plain);
}

}  // namespace

TEST_CASE("address scopes of a distributed router let its own packets pass", "[neutron]") {
    const NetnsView view = netns_of(distributed_rules("0x4000000"));
    const Way east_west = way_through(view, "qr-1", "10.10.1.12", "qr-1", "10.10.2.0/24");
    CHECK(east_west.stopped().empty());
    CHECK(east_west.postrouting.marks.packet == 0x4000000);
    CHECK_FALSE(east_west.postrouting.snat);
    // No rule that a packet can reach saves a mark: connections have none.
    CHECK(east_west.postrouting.marks_later.empty());
    CHECK(east_west.postrouting.marks.connection == 0);
}

TEST_CASE("another address scope is dropped, with the rule known", "[neutron]") {
    const NetnsView view = netns_of(distributed_rules("0x4010000"));
    const Way in = way_through(view, "rfp-1", nullptr, "qr-1", "10.10.1.12/32");
    CHECK(in.prerouting.marks.packet == 0x4010000);
    CHECK_FALSE(in.forward.accepted);
    CHECK(way_through(view, "qr-1", "10.10.1.12", "rfp-1", "198.51.100.0/24").forward.accepted);
}

TEST_CASE("floating IPs of a distributed router are translated both ways", "[neutron]") {
    const NetnsView view = netns_of(distributed_rules("0x4000000"));
    const nf::Evaluator evaluator(view.netfilter);
    CHECK(evaluator.dnats() == std::map<Ipv4, Ipv4>{{ip("203.0.113.101"), ip("10.10.1.11")}});
    CHECK(evaluator.snats() == std::map<Ipv4, Ipv4>{{ip("10.10.1.11"), ip("203.0.113.101")}});
    CHECK(evaluator.hidden_translation().empty());
    const Way out = way_through(view, "qr-1", "10.10.1.11", "rfp-1", "198.51.100.0/24");
    CHECK(out.stopped() ==
          "rule `-s 10.10.1.11/32 -j SNAT --to-source 203.0.113.101 --random-fully` in ip nat "
          "neutron-l3-agent-float-snat chooses ports at random");
    // A packet that conntrack calls invalid keeps its addresses, so Linux alone can carry the others.
    const Way in = way_through(view, "rfp-1", nullptr, "qr-1", "203.0.113.101/32");
    CHECK(in.stopped() == "hook of ip mangle PREROUTING treats packets that conntrack calls invalid in another way");
}

TEST_CASE("only web requests to the metadata address are not understood", "[neutron]") {
    const NetnsView view = netns_of(distributed_rules("0x4000000"));
    const Way metadata = way_through(view, "qr-1", "10.10.1.12", "qr-1", "169.254.169.254/32");
    REQUIRE(metadata.prerouting.stopped);
    CHECK(metadata.prerouting.stopped->find("REDIRECT --to-ports 9697` in ip nat") != std::string::npos);
    CHECK_FALSE(way_through(view, "qr-1", "10.10.1.12", "qr-1", "169.254.169.0/24").prerouting.stopped);
}

TEST_CASE("a legacy router's connections keep the scope that they began in", "[neutron]") {
    const NetnsView view = netns_of(legacy_rules());
    // Saved where packets leave by qg-, restored for all later ones: as if each device had set it.
    const Way east_west = way_through(view, "qr-1", "10.10.1.12", "qr-2", "10.10.2.0/24");
    CHECK(east_west.stopped().empty());
    CHECK(east_west.postrouting.marks_later == std::vector<nf::Marks>{{0x4000000, 0x4000000}});

    const Way out = way_through(without_random_ports(legacy_rules()), "qr-1", "10.10.1.11", "qg-1", "198.51.100.0/24");
    CHECK(out.forward.accepted);
    CHECK(out.postrouting.stopped ==
          "hook of ip mangle POSTROUTING treats packets that conntrack calls invalid in another way");
}

TEST_CASE("a connection's mark that would change a packet's fate stops the walk", "[neutron]") {
    // Packets of the green network with a mark from the blue one would be dropped at the green leg, others are not.
    const NetnsView view = netns_of(legacy_rules("0x4010000"));
    const Way within = way_through(view, "qr-2", "10.10.2.12", "qr-2", "10.10.2.0/24");
    CHECK(within.forward.stopped ==
          "rule `-o qr-2 -m mark ! --mark 0x4010000/0xffff0000 -j DROP` in ip filter neutron-l3-agent-scope drops "
          "packets of connections with mark 0x4000000");
    CHECK_FALSE(way_through(view, "qr-1", "10.10.1.12", "qr-2", "10.10.2.0/24").forward.accepted);
}

TEST_CASE("a connection's mark is unknown where it could be too many", "[neutron]") {
    std::string rules = "*mangle\n:PREROUTING ACCEPT [0:0]\n";
    for (int mark = 1; mark <= 40; ++mark)
        rules += "-A PREROUTING -m tcp --dport " + std::to_string(mark) + " -j CONNMARK --set-xmark " +
                 std::to_string(mark) + "/0xffffffff\n";
    const NetnsView view = netns_of(rules +
                                    "COMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n"
                                    "-A FORWARD -m connmark --mark 7 -j DROP\nCOMMIT\n");
    const nf::Evaluator evaluator(view.netfilter);
    nf::Packet packet;
    evaluator.enter(packet);
    CHECK_FALSE(packet.marks.connection);
    packet.daddr = net("10.0.0.1/32");
    CHECK(evaluator.evaluate(Hook::kForward, packet).stopped ==
          "rule `-m connmark --mark 7 -j DROP` in ip filter FORWARD is undecidable");
}
