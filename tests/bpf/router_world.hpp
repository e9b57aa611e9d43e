// SPDX-License-Identifier: Apache-2.0
// World, whose routers somebody else has built, with tc_router at their ports.
//
//   namespace of the gateway (fip-, or a legacy qrouter-): kGatewayPort (fg-, qg-), segment of the same number
//   namespace of the router (qrouter-): kRouterPort (qr-), segment of the same number
//   a veth between both: kVethAtRouter (rfp-) -- kVethAtGateway (fpr-)
#pragma once

#include <chrono>

#include "bpf/world.hpp"
#include "linux/netns.hpp"
#include "support/conntrack.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {

// Numbers of devices.
inline constexpr std::uint32_t kGatewayPort = 0x80000001;
inline constexpr std::uint32_t kRouterPort = 0x80000002;
inline constexpr std::uint32_t kVethAtRouter = 0x80000003;
inline constexpr std::uint32_t kVethAtGateway = 0x80000004;
/// Each port is of a namespace of its own.
[[nodiscard]] constexpr std::uint32_t namespace_of(std::uint32_t port) {
    return port + 0x10;
}
inline constexpr std::uint32_t kTranslator = namespace_of(kRouterPort);

inline constexpr std::uint32_t kVethDevice = 301;     ///< ifindex of the veth that leads out of the namespace
inline constexpr std::uint32_t kRouterDevice = 302;   ///< the same of kRouterPort
inline constexpr std::uint32_t kGatewayDevice = 303;  ///< and of kGatewayPort

struct RouterWorld : World {
    ScratchNetns scratch{"router"};
    NetnsGuard inside;  ///< in a namespace of its own, for conntrack is the namespace's

    /// The tables are vouched for. As a distributed router has it: what comes in by one namespace leaves by the other.
    RouterWorld();

    /// The tables are vouched for until that many seconds from now.
    void vouch(std::int32_t seconds);
    void set_port(std::uint32_t device, fl_role role = FL_ROLE_ROUTER);
    /// The journey of the floating IP's packets. `netnsid`: of the translating namespace; -1: it is this one.
    void set_in(const fl_next& next, std::int32_t netnsid = -1);
    void set_in_of(Ipv4 address, const fl_next& next, std::int32_t netnsid = -1);
    /// What comes from this source for the floating IP is Linux's.
    void except(Ipv4 source);
    /// `becomes` unset: it has no floating IP. `domain` 0: nothing of it is carried.
    void set_host(Ipv4 from, Ipv4 becomes, std::uint32_t domain = kDomain, std::uint32_t port = kRouterPort);

    /// Out of another namespace's port `target`, across the veth.
    [[nodiscard]] fl_out across(std::uint32_t target) const;
    /// Out of a port of the same namespace: kRouterDevice or kGatewayDevice.
    [[nodiscard]] fl_out here(std::uint32_t ifindex) const;
    [[nodiscard]] fl_next in_across() const;          ///< World::next_to_vm() across the veth
    [[nodiscard]] fl_next out_across() const;         ///< World::next_to_client() across the veth
    [[nodiscard]] fl_next next_to_neighbour() const;  ///< from the VM, whose router both have: nothing is translated
    /// The VM's packets to its neighbour's floating IP turn round in the router.
    [[nodiscard]] fl_next hairpin() const;
    /// The floating IP leads to `to`; unset: to nobody any more.
    void set_translated(Ipv4 floating, Ipv4 to);
    /// Rows for that, and for the neighbour's answers, which come in by `port`.
    void set_turn(fl_next turn, std::uint32_t port = kRouterPort);

    [[nodiscard]] RunResult run(std::uint32_t device, const Packet& packet, std::uint32_t mark = 0);
    /// Comes in by the device and is left to Linux.
    void left(std::uint32_t device, const Packet& packet, fl_reason reason, std::uint32_t mark = 0);
    /// The same with its flow, so that the next packet would be left for another reason. `rows`: that stay.
    void given_back(std::uint32_t device, const Packet& packet, fl_reason reason, std::size_t rows = 0);

    /// Of a flow between the VM and the client.
    [[nodiscard]] fl_flow_key flow_key(std::uint8_t protocol, std::uint16_t inside_port,
                                       std::uint16_t outside_port) const;
    [[nodiscard]] std::optional<fl_flow> flow(const fl_flow_key& key) const;
    [[nodiscard]] std::size_t flows() const { return programs.rows("fl_flows"); }
    void remember(const fl_flow_key& key, Ipv4 outside_address, Ipv4 dnat = {});
};

}  // namespace fiplane::test
