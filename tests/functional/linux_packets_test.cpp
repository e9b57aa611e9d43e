// SPDX-License-Identifier: Apache-2.0
// Gratuitous ARP as it is on the wire, and the deletion of tracked connections.
#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "functional/linux_witness.hpp"
#include "linux/conntrack.hpp"
#include "linux/garp.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"
#include "support/carriers.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}
Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

template <typename Address>
const sockaddr* as_sockaddr(const Address& address) {
    const void* raw = &address;
    return static_cast<const sockaddr*>(raw);
}

/// Reads ARP frames of one device.
class ArpTap {
  public:
    ArpTap(const Netns& netns, const std::string& device) {
        auto inside = NetnsGuard::enter(netns);
        REQUIRE(inside);
        fd_.reset(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHERTYPE_ARP)));
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETHERTYPE_ARP);
        address.sll_ifindex = static_cast<int>(if_nametoindex(device.c_str()));
        REQUIRE(bind(fd_.get(), as_sockaddr(address), sizeof address) == 0);
    }
    /// The next frame in hexadecimal; empty if none comes in time.
    [[nodiscard]] std::string next(std::chrono::milliseconds patience = std::chrono::milliseconds(500)) const {
        pollfd watched{fd_.get(), POLLIN, 0};
        if (poll(&watched, 1, static_cast<int>(scaled(patience).count())) <= 0) return {};
        std::array<unsigned char, 2048> buffer{};
        const ssize_t size = recv(fd_.get(), buffer.data(), buffer.size(), 0);
        std::string hex;
        for (ssize_t i = 0; i < size; ++i) {
            std::array<char, 3> digits{};
            std::snprintf(digits.data(), digits.size(), "%02x", buffer[static_cast<std::size_t>(i)]);
            hex += digits.data();
        }
        return hex;
    }

  private:
    UniqueFd fd_;
};

/// Two ends of a wire.
struct Wire {
    Bench near{"near"};
    Bench far{"far"};
    Wire() {
        must(near.rtnl.add_veth({.name = "fg-0",
                                 .mac = Mac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x01}},
                                 .peer_name = "far",
                                 .peer_netns = &far.netns()}));
        must(near.rtnl.change_link(near.link("fg-0").ifindex, "fg-0", {.up = true}));
        must(far.rtnl.change_link(far.link("far").ifindex, "far", {.up = true}));
        wait_for_carriers(near.netns(), {"fg-0"});
        wait_for_carriers(far.netns(), {"far"});
    }
};

void send_udp(const Netns& from, Ipv4 to, std::uint16_t source_port, std::uint16_t port) {
    auto inside = NetnsGuard::enter(from);
    REQUIRE(inside);
    const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(source_port);
    REQUIRE(bind(fd.get(), as_sockaddr(address), sizeof address) == 0);
    address.sin_port = htons(port);
    address.sin_addr.s_addr = to.network();
    REQUIRE(sendto(fd.get(), "x", 1, 0, as_sockaddr(address), sizeof address) == 1);
}

/// A client and a server with a router between them that tracks connections.
struct Routed {
    Bench client{"client"};
    Bench router{"router"};
    Bench server{"server"};
    Routed() {
        must(write_sysctl(router.netns(), "ipv4/ip_forward", "1"));
        attach(client, "c", "10.0.0.1/24", "10.0.0.11/24");
        attach(server, "s", "192.0.2.1/24", "192.0.2.9/24");
        must(run_nft(router.netns(), R"(
add table ip t
add chain ip t forward { type filter hook forward priority 0; }
add rule ip t forward ct state new accept
add chain ip t pre { type nat hook prerouting priority dstnat; }
add rule ip t pre ip daddr 172.24.5.11 dnat to 192.0.2.9
)"));
    }
    void attach(Bench& end, const char* name, const char* router_address, const char* address) {
        must(router.rtnl.add_veth({.name = name, .peer_name = "eth0", .peer_netns = &end.netns()}));
        const int inner = router.link(name).ifindex;
        const int outer = end.link("eth0").ifindex;
        must(router.rtnl.change_link(inner, name, {.up = true}));
        must(end.rtnl.change_link(outer, "eth0", {.up = true}));
        must(router.rtnl.add_address(inner, prefix(router_address), true));
        must(end.rtnl.add_address(outer, prefix(address), true));
        must(end.rtnl.set_route({.destination = prefix("0.0.0.0/0"),
                                 .oif = outer,
                                 .gateway = prefix(router_address).address,
                                 .protocol = 4}));
        wait_for_carriers(router.netns(), {name});
        wait_for_carriers(end.netns(), {"eth0"});
    }
    [[nodiscard]] long tracked() const {
        auto inside = NetnsGuard::enter(router.netns());
        REQUIRE(inside);
        return std::stol(run_process({"cat", "/proc/sys/net/netfilter/nf_conntrack_count"}).out);
    }
    void wait_for(long count) const {
        for (int i = 0; i < 1000 && tracked() != count; ++i)
            poll(nullptr, 0, 10);
        REQUIRE(tracked() == count);
    }
};

}  // namespace

TEST_CASE("gratuitous ARP is on the wire as arping sends it", "[linux][garp]") {
    REQUIRE_ROOT();
    Wire wire;
    const ArpTap tap(wire.far.netns(), "far");
    const Mac mac{{0xfa, 0x16, 0x3e, 0xaa, 0xbb, 0x01}};
    const Ipv4 fip = ip("172.24.5.11");

    must(send_gratuitous_arp(wire.near.netns(), "fg-0", mac, fip, GarpKind::kRequest));
    const std::string request = tap.next();
    CHECK(request ==
          "fffffffffffffa163eaabb010806"
          "0001080006040001"
          "fa163eaabb01ac18050b"
          "ffffffffffffac18050b");
    must(send_gratuitous_arp(wire.near.netns(), "fg-0", mac, fip, GarpKind::kReply));
    const std::string reply = tap.next();
    CHECK(reply ==
          "fffffffffffffa163eaabb010806"
          "0001080006040002"
          "fa163eaabb01ac18050b"
          "fa163eaabb01ac18050b");
    CHECK(tap.next(std::chrono::milliseconds(50)).empty());

    // The witness: what Neutron runs, with the address that it may use without owning it.
    must(write_sysctl(wire.near.netns(), "ipv4/ip_nonlocal_bind", "1"));
    const auto arping = [&](const char* flag) {
        return run_process_in(wire.near.netns(), {"arping", flag, "-I", "fg-0", "-c", "1", "-w", "1", "172.24.5.11"});
    };
    REQUIRE(arping("-U").exit_status >= 0);
    CHECK(tap.next() == request);
    while (!tap.next(std::chrono::milliseconds(50)).empty()) {
    }
    CHECK(arping("-A").exit_status >= 0);
    CHECK(tap.next() == reply);
}

TEST_CASE("gratuitous ARP that cannot be sent says where", "[linux][garp]") {
    REQUIRE_ROOT();
    Bench bench;
    const auto missing = send_gratuitous_arp(bench.netns(), "fg-9", Mac{}, ip("172.24.5.11"), GarpKind::kRequest);
    REQUIRE_FALSE(missing);
    CHECK(missing.error().code == ExitCode::kMissingDevice);
    CHECK(missing.error().what == "cannot announce 172.24.5.11 on fg-9: No such device");
    must(bench.rtnl.add_veth({.name = "fg-0", .peer_name = "b"}));
    const auto down = send_gratuitous_arp(bench.netns(), "fg-0", Mac{}, ip("172.24.5.11"), GarpKind::kRequest);
    REQUIRE_FALSE(down);
    CHECK(down.error().what == "cannot announce 172.24.5.11 on fg-0: Network is down");
}

TEST_CASE("connections of one address are forgotten, others are kept", "[linux][conntrack]") {
    REQUIRE_ROOT();
    Routed routed;
    CHECK(must(flush_conntrack(routed.router.netns(), ip("192.0.2.9"))) == 0);
    send_udp(routed.client.netns(), ip("192.0.2.9"), 1001, 9);
    send_udp(routed.client.netns(), ip("192.0.2.9"), 1002, 9);
    send_udp(routed.client.netns(), ip("172.24.5.11"), 1003, 9);
    // The server's ICMP errors belong to the connections that they answer.
    routed.wait_for(3);

    // In the original direction of one, in no direction of the others.
    CHECK(must(flush_conntrack(routed.router.netns(), ip("172.24.5.11"))) == 1);
    CHECK(routed.tracked() == 2);
    CHECK(must(flush_conntrack(routed.router.netns(), ip("172.24.5.11"))) == 0);
    send_udp(routed.client.netns(), ip("172.24.5.11"), 1003, 9);
    routed.wait_for(3);
    // The translated address stands only in the reply direction of that one.
    CHECK(must(flush_conntrack(routed.router.netns(), ip("192.0.2.9"))) == 3);
    CHECK(routed.tracked() == 0);

    send_udp(routed.client.netns(), ip("192.0.2.9"), 1001, 9);
    routed.wait_for(1);
    CHECK(must(flush_conntrack(routed.client.netns(), ip("192.0.2.9"))) <= 1);
    CHECK(routed.tracked() == 1);
    CHECK(must(flush_conntrack(routed.router.netns(), ip("10.0.0.11"))) == 1);
}

}  // namespace fiplane::test
