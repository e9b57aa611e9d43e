// SPDX-License-Identifier: Apache-2.0
// The frame comparison must fail when it should: a comparison that always says "same" would pass every other test.
#include "support/frame_diff.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace fiplane;
using namespace fiplane::test;
using Catch::Matchers::ContainsSubstring;

namespace {

Bytes tunnel_frame(std::uint16_t port, std::uint16_t id, std::uint8_t inner_ttl = 64) {
    return (Eth{} / Ip4{.id = id} / Udp{.src = port, .dst = 4789, .checksum = 0} / Vxlan{.vni = 7} / Eth{} /
            Ip4{.ttl = inner_ttl} / Udp{} / Payload{"inner"})
        .bytes();
}

Bytes ipv6_tunnel_frame(std::uint16_t port) {
    return (Eth{} / Ip6{} / Udp{.src = port, .dst = 4789, .checksum = 0} / Vxlan{.vni = 7} / Eth{} / Ip4{} / Udp{} /
            Payload{"inner"})
        .bytes();
}

}  // namespace

TEST_CASE("over IPv6 the outer port is free within its range, and nothing else") {
    const Bytes frame = ipv6_tunnel_frame(40000);
    CHECK_FALSE(frame_difference(frame, ipv6_tunnel_frame(60999), Freedom::kOuterPortAndId));
    CHECK(frame_difference(frame, ipv6_tunnel_frame(61000), Freedom::kOuterPortAndId));
    for (std::size_t i = 0; i < frame.size(); ++i) {
        Bytes other = frame;
        other[i] ^= 1;
        const bool is_port = i == 54 || i == 55;
        CHECK(frame_difference(frame, other, Freedom::kOuterPortAndId).has_value() == !is_port);
    }
}

TEST_CASE("equal frames do not differ") {
    CHECK_FALSE(frame_difference(tunnel_frame(40000, 1), tunnel_frame(40000, 1)));
}

TEST_CASE("every single bit counts") {
    const Bytes frame = tunnel_frame(40000, 1);
    for (std::size_t i = 0; i < frame.size() * 8; ++i) {
        Bytes other = frame;
        other[i / 8] ^= static_cast<std::uint8_t>(1U << (i % 8));
        CHECK(frame_difference(frame, other));
    }
}

TEST_CASE("every byte belongs to exactly one field") {
    const Bytes arp = (Eth{} / Arp{} / Payload::counting(18)).bytes();
    const Bytes error = (Eth{} / Ip4{} / Icmp{.type = 3} / quote(Ip4{} / Tcp{} / Payload{"quoted"}, 60)).bytes();
    for (const Bytes& frame : {tunnel_frame(40000, 1), ipv6_tunnel_frame(40000), arp, error, Bytes{}, Bytes(9, 1)}) {
        std::size_t next = 0;
        for (const Field& field : dissect(frame)) {
            CHECK(field.offset == next);
            next += field.length;
        }
        CHECK(next == frame.size());
    }
}

TEST_CASE("the report names the first field, shows both frames and can be pasted into scapy") {
    const auto report = frame_difference(tunnel_frame(40000, 1, 64), tunnel_frame(40000, 1, 62));
    REQUIRE(report);
    CHECK_THAT(*report, ContainsSubstring("first difference at byte 72: vxlan/ip.ttl"));
    CHECK_THAT(*report, ContainsSubstring("64 (0x40)"));
    CHECK_THAT(*report, ContainsSubstring("62 (0x3e)"));
    CHECK_THAT(*report, ContainsSubstring("scapy Ether(bytes.fromhex('00005e005302"));
}

TEST_CASE("lengths are compared first") {
    Bytes longer = tunnel_frame(40000, 1);
    longer.push_back(0);
    const auto report = frame_difference(tunnel_frame(40000, 1), longer);
    REQUIRE(report);
    CHECK_THAT(*report, ContainsSubstring("length 98 bytes, expected 97"));
    CHECK(frame_difference(longer, tunnel_frame(40000, 1)));
}

TEST_CASE("the sender's choices in a tunnel packet are free, within their bounds") {
    const auto differ = [](const Bytes& expected, const Bytes& actual) {
        return frame_difference(expected, actual, Freedom::kOuterPortAndId).has_value();
    };
    CHECK_FALSE(differ(tunnel_frame(40000, 1), tunnel_frame(32768, 0xffff)));
    CHECK(differ(tunnel_frame(40000, 1), tunnel_frame(32767, 1)));
    CHECK(differ(tunnel_frame(40000, 1), tunnel_frame(61000, 1)));
    CHECK(differ(tunnel_frame(40000, 1), tunnel_frame(40000, 1, 63)));
    Bytes wrong_checksum = tunnel_frame(40000, 2);
    wrong_checksum[25] ^= 1;
    CHECK(differ(tunnel_frame(40000, 1), wrong_checksum));
    // Only the outermost header: a plain frame has no freedom.
    const auto plain = [](std::uint16_t id) { return (Eth{} / Ip4{.id = id} / Udp{}).bytes(); };
    CHECK(differ(plain(1), plain(2)));
}

TEST_CASE("the packet builder's checksums agree with RFC 1071's example and known packets") {
    CHECK(internet_checksum({0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}) == static_cast<std::uint16_t>(~0xddf2));
    // An ARP-sized sanity check of a whole frame: a DNS query header as Linux sends it.
    const Bytes frame = (Eth{.dst = mac("02:00:00:00:00:02"), .src = mac("02:00:00:00:00:01")} /
                         Ip4{.src = ip("10.0.0.1"), .dst = ip("10.0.0.2"), .id = 0, .dont_fragment = true} /
                         Udp{.src = 1, .dst = 2} / Payload{"a"})
                            .bytes();
    const Bytes known = {0x02, 0, 0,  0, 0, 2,    0x02, 0,  0,  0,    0,    1,    0x08, 0, 0x45,
                         0,    0, 29, 0, 0, 0x40, 0,    64, 17, 0x26, 0xce, 10,   0,    0, 1,
                         10,   0, 0,  2, 0, 1,    0,    2,  0,  9,    0x8a, 0xd6, 'a'};
    CHECK_FALSE(frame_difference(known, frame));
}
