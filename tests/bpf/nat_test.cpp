// SPDX-License-Identifier: Apache-2.0
// Translation by protocol, in both directions, in XDP and in tc: expected checksums are computed from scratch.
#include <arpa/inet.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cstring>

#include "bpf/world.hpp"
#include "core/reasons.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

constexpr std::uint8_t kGre = 47, kEsp = 50, kSctp = 132, kUdpLite = 136, kDccp = 33;

struct Body {
    const char* name;
    Packet packet;
    std::optional<std::uint8_t> protocol{};
};

std::vector<Body> bodies() {
    return {
        {"TCP", Tcp{.dst = 22} / Payload{"data"}},
        {"TCP without data", Tcp{.flags = 0x12}},
        {"UDP", Udp{} / Payload{"odd"}},
        {"UDP without checksum", Udp{.checksum = 0} / Payload{"none"}},
        {"ICMP echo request", Icmp{} / Payload{"ping"}},
        {"ICMP echo reply", Icmp{.type = 0} / Payload{"pong"}},
        {"SCTP", Payload::counting(28), kSctp},
        {"ESP", Payload::counting(40), kEsp},
        {"GRE", Payload::counting(30), kGre},
        {"an unknown protocol", Payload::counting(3)},
        {"no payload at all", Payload{}},
    };
}

/// Runs a packet to the floating IP at a hook and checks it as the VM gets it.
void check_in(World& world, fl_hook hook, const Packet& sent, const Packet& delivered) {
    if (hook == FL_HOOK_TC_TUNNEL) {
        world.on_tunnel(kExternal);
        check_sent(world.programs.run(hook, sent.bytes()), kTcRedirect, FL_REASON_FIP_IN, delivered);
        return;
    }
    const auto result = world.programs.run(hook, world.from_peer(kExternalVni, sent).bytes());
    check_sent(result, hook == FL_HOOK_XDP_UNDERLAY ? kXdpPass : kTcRedirect, FL_REASON_FIP_IN, delivered);
}

void check_out(World& world, const Packet& sent, const Packet& on_the_wire) {
    world.on_port();
    check_sent(world.programs.run(FL_HOOK_TC_PORT, sent.bytes()), kTcRedirect, FL_REASON_FIP_OUT,
               world.to_peer(kExternalVni, on_the_wire));
}

}  // namespace

TEST_CASE("every protocol is translated towards the VM") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY, FL_HOOK_TC_TUNNEL);
    for (const Body& body : bodies()) {
        if (hook != FL_HOOK_TC_TUNNEL && std::string_view(body.name).starts_with("TCP")) continue;
        DYNAMIC_SECTION(hook_name(hook) << ": " << body.name) {
            const Ip4 fields{.protocol = body.protocol};
            check_in(world, hook, world.to_fip(fields) / body.packet, world.to_vm(fields) / body.packet);
        }
    }
}

TEST_CASE("every protocol is translated from the VM") {
    World world;
    for (const Body& body : bodies()) {
        DYNAMIC_SECTION(body.name) {
            const Ip4 fields{.protocol = body.protocol};
            check_out(world, world.from_vm(fields) / body.packet, world.from_fip(fields) / body.packet);
        }
    }
}

TEST_CASE("checksums are right for any data, also where one becomes zero") {
    World world;
    const fl_hook hook = GENERATE(FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_TUNNEL);
    // All 65536 values of a payload word would meet every checksum; these meet the ones next to zero, too: the word
    // that makes the translated checksum zero is computed.
    const auto checksum_with = [&](std::uint16_t word) {
        const Bytes data = {static_cast<std::uint8_t>(word >> 8), static_cast<std::uint8_t>(word)};
        const Bytes frame = (world.to_vm() / Udp{} / Payload{data}).bytes();
        return word_at(frame, 40);
    };
    const std::uint16_t base = checksum_with(0);
    for (const int offset : {-2, -1, 0, 1, 2, 0x1234}) {
        const auto word = static_cast<std::uint16_t>(base + offset);
        const Payload data(Bytes{static_cast<std::uint8_t>(word >> 8), static_cast<std::uint8_t>(word)});
        check_in(world, hook, world.to_fip() / Udp{} / data, world.to_vm() / Udp{} / data);
    }
    // The word after which nothing is left to sum up: the checksum is zero and is sent as 0xffff.
    CHECK(checksum_with(base) == 0xffff);
}

TEST_CASE("a header sum that must be folded three times") {
    World world;
    // The sum as 16-bit words in the machine's byte order, which is how a program folds it (RFC 1071, 2B).
    const auto word16 = [](const Bytes& frame, std::size_t at) {
        std::uint16_t word = 0;
        std::memcpy(&word, &frame.at(at), sizeof(word));
        return word;
    };
    const auto word32 = [](const Bytes& frame, std::size_t at) {
        std::uint32_t word = 0;
        std::memcpy(&word, &frame.at(at), sizeof(word));
        return word;
    };
    const Bytes before = (world.to_fip({.id = 0}) / Udp{}).bytes();
    const Bytes after = (world.to_vm({.id = 0}) / Udp{}).bytes();
    std::uint64_t change = std::uint16_t(~before.at(22)) + std::uint32_t{after.at(22)};  // TTL
    for (const std::size_t address : {26UL, 30UL})
        change += std::uint64_t{std::uint32_t(~word32(before, address))} + word32(after, address);
    int found = 0;
    for (std::uint32_t id = 0; id < 0x10000; ++id) {
        // The checksum with this identification, by what it adds to the sum.
        const std::uint16_t added = htons(static_cast<std::uint16_t>(id));
        std::uint64_t sum = std::uint16_t(~word16(before, 24)) + std::uint32_t{added};
        sum = (sum & 0xffff) + (sum >> 16);
        sum += change;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        if (sum <= 0xffff) continue;
        ++found;
        const Ip4 fields{.id = static_cast<std::uint16_t>(id)};
        check_in(world, FL_HOOK_XDP_UNDERLAY, world.to_fip(fields) / Udp{}, world.to_vm(fields) / Udp{});
    }
    CHECK(found > 0);
}

TEST_CASE("an address change that must be folded twice") {
    World world;
    // In the machine's byte order (little endian) the new address is the old one plus 1, and the source stays: the
    // change adds up to 0x1ffffffff.
    world.fixed = ip("173.24.5.11");
    REQUIRE(world.fip == ip("172.24.5.11"));
    world.set_fip_in(world.next_to_vm());
    check_in(world, FL_HOOK_TC_TUNNEL, world.to_fip() / Tcp{}, world.to_vm() / Tcp{});
    check_in(world, FL_HOOK_TC_TUNNEL, world.to_fip() / Udp{}, world.to_vm() / Udp{});
    check_in(world, FL_HOOK_XDP_UNDERLAY, world.to_fip() / Udp{}, world.to_vm() / Udp{});
}

TEST_CASE("skb->csum is right after each translation") {
    World world;
    world.on_tunnel(kExternal);
    for (const Body& body : bodies()) {
        DYNAMIC_SECTION(body.name) {
            const Ip4 fields{.protocol = body.protocol};
            const Bytes frame = (world.to_fip(fields) / body.packet).bytes();
            REQUIRE_CHECKSUM_COMPLETE(world.programs);
            const auto result = world.programs.run(FL_HOOK_TC_TUNNEL, frame, {.checksum_complete = true});
            check_sent(result, kTcRedirect, FL_REASON_FIP_IN, world.to_vm(fields) / body.packet);
        }
    }
}

TEST_CASE("fragments that are routed are left to Linux, all of them") {
    World world;
    // Whatever else would be left to Linux (a first fragment with options, too short, too long) has company there.
    const auto fields = GENERATE(Ip4{.more_fragments = true, .protocol = 17}, Ip4{.fragment_offset = 5, .protocol = 17},
                                 Ip4{.more_fragments = true, .fragment_offset = 9, .protocol = 6});
    const auto body = Payload::counting(40);
    SECTION("from a VM") {
        world.on_port();
        expect_left(world, FL_HOOK_TC_PORT, world.from_vm(fields) / body, FL_REASON_FRAGMENT);
    }
    SECTION("to a floating IP") {
        world.on_tunnel(kExternal);
        expect_left(world, FL_HOOK_TC_TUNNEL, world.to_fip(fields) / body, FL_REASON_FRAGMENT);
    }
}

TEST_CASE("fragments inside a segment are forwarded like any frame") {
    World world;
    world.on_tunnel(kTenant);
    const Packet frame = Eth{.dst = world.vm_mac, .src = world.remote_mac} /
                         Ip4{.src = world.remote, .dst = world.fixed, .fragment_offset = 5, .protocol = 17} /
                         Payload::counting(40);
    const auto result = world.programs.run(FL_HOOK_TC_TUNNEL, frame.bytes());
    check_sent(result, kTcRedirect, FL_REASON_L2_FORWARD, frame);
}

TEST_CASE("a transport header that is cut off is left to Linux, one that is just whole is not") {
    World world;
    world.on_port();
    const auto [protocol, length] =
        GENERATE(std::pair{std::uint8_t{6}, 20UL}, std::pair{std::uint8_t{17}, 8UL}, std::pair{std::uint8_t{1}, 8UL},
                 std::pair{kGre, 8UL}, std::pair{kSctp, 8UL});
    const Packet packet = world.from_vm({.protocol = protocol});
    expect_left(world, FL_HOOK_TC_PORT, packet / Payload::counting(length - 1), FL_REASON_L4_SHORT);
    const Packet whole = packet / Payload::counting(length);
    CHECK(world.programs.run(FL_HOOK_TC_PORT, whole.bytes()).reason == FL_REASON_FIP_OUT);
}

TEST_CASE("protocols whose checksum only some kernels update are left to Linux") {
    World world;
    world.on_port();
    const Ip4 fields{.protocol = GENERATE(kUdpLite, kDccp)};
    expect_left(world, FL_HOOK_TC_PORT, world.from_vm(fields) / Payload::counting(40), FL_REASON_L4_SHORT);
}
