// SPDX-License-Identifier: Apache-2.0
// Whether what a program did with a frame is allowed. Judged from the frame that went in, what came out and the cloud's
// rows alone: every byte of what is sent must be explained by a row, and nothing may be sent that Linux has to see.
// Whether something *should* have been sent is not judged here, except that the reason must fit.
#pragma once

#include <compare>
#include <map>
#include <optional>
#include <string>

#include "fuzz/cloud.hpp"
#include "fuzz/record.h"
#include "fuzz/wire.hpp"
#include "support/packet.hpp"

namespace fiplane::test {

/// One test run's input.
struct Input {
    fl_hook hook{};
    std::uint32_t device = kUnderlayDevice;  ///< of tc_router its number
    std::uint32_t gso_size = 0;              ///< tc only
    std::uint32_t mark = 0;                  ///< tc only
    Bytes frame{};
};

/// What came of it. `frame` is without metadata.
struct Outcome {
    int action = 0;
    View frame{};
    std::optional<fl_meta> meta{};  ///< XDP only
    std::uint32_t mark = 0;         ///< tc only
    bool fin_put_off = false;       ///< the frame lost its TCP FIN on its way to Linux, the first time that it ran
    fl_record record{};
};

class Judge {
  public:
    explicit Judge(const Cloud& cloud) : cloud_(cloud) {}

    /// Nothing, or which rule was broken. Not thread-safe: buffers are kept between calls.
    [[nodiscard]] std::optional<std::string> judge(const Input& input, const Outcome& outcome);

    /// Flows of followed routers that were carried are not known any more.
    void forget_flows() { flows_.clear(); }

    /// The two frames may differ only in what the sender of a tunnel packet is free to choose.
    [[nodiscard]] static bool same_but_choices(View a, View b, bool is_tunnel_packet);

    /// Is `b` the frame `a` with its TCP FIN taken out?
    [[nodiscard]] static bool is_put_off(View a, View b);
    /// What ip_rcv leaves of a frame: what Ethernet has put behind an IPv4 packet is cut off. GSO packets have no such
    /// thing.
    [[nodiscard]] static View unpadded(const Input& input);

  private:
    using Complaint = std::optional<std::string>;

    /// One side of the program: the frame inside, and where it was or goes.
    struct Side {
        View frame{};  ///< from the inner Ethernet header on
        View outer{};  ///< empty if it is not wrapped
        const CloudTunnel* tunnel =
            nullptr;  ///< that it came by or goes into; one of its device's where it is not wrapped
        const CloudSegment* segment = nullptr;
        const CloudPort* port = nullptr;          ///< where it came from or goes to, if that is one
        const RouterPort* router_port = nullptr;  ///< the same
        const VmRow* vm = nullptr;                ///< whose row is its sender's; input only
        Exit exit{};                              ///< output only
    };

    /// A flow of a followed router: a row of fl_flows.
    struct Flow {
        std::uint32_t router;
        std::uint8_t protocol;
        Ipv4 inside;
        Ipv4 outside;
        std::uint16_t inside_port;
        std::uint16_t outside_port;
        auto operator<=>(const Flow&) const = default;
    };
    /// That of a packet, and what its first bytes say of it.
    struct FlowPacket {
        Flow flow;
        bool begins = false;  ///< may be its first one
        bool opens = false;   ///< is, whatever is known of an earlier one
    };

    [[nodiscard]] Complaint judge_left(const Input& input, const Outcome& outcome, fl_reason reason);
    [[nodiscard]] Complaint judge_between(const Input& input, const Outcome& outcome) const;
    [[nodiscard]] Complaint find_router_exit(const Outcome& outcome);
    [[nodiscard]] Complaint check_flow(const Journey& journey, Ipv4 fip);
    [[nodiscard]] Complaint check_known(const Journey& journey, Ipv4 fip, const FlowPacket& packet);
    [[nodiscard]] std::optional<FlowPacket> flow_of(std::uint32_t router, Ipv4 fixed) const;
    [[nodiscard]] bool has_way_back(const Journey& journey, Ipv4 fip, const Flow& flow) const;
    [[nodiscard]] bool is_excepted(const FipInRow& row, Ipv4 source) const;
    [[nodiscard]] std::optional<Flow> flow_of_left(const Input& input);

    [[nodiscard]] Complaint open_input(const Input& input);
    [[nodiscard]] Complaint open_tunnel(View ip, std::size_t length);
    [[nodiscard]] Complaint open_output(const Input& input, const Outcome& outcome);
    [[nodiscard]] Complaint find_exit(const Input& input, const Outcome& outcome);
    [[nodiscard]] Complaint find_tc_exit(const Input& input, const Outcome& outcome);
    [[nodiscard]] Complaint find_xdp_exit(const Outcome& outcome);
    [[nodiscard]] Complaint check_outer(const Input& input) const;
    [[nodiscard]] bool is_source_port(std::uint16_t port) const;
    [[nodiscard]] Complaint check_source() const;
    [[nodiscard]] Complaint check_learned() const;
    [[nodiscard]] Complaint check_arp_reply(const Input& input, const Outcome& outcome);
    [[nodiscard]] Complaint check_tcp(const Input& input) const;
    [[nodiscard]] Complaint check_l2(const Input& input, fl_reason reason) const;
    [[nodiscard]] Complaint check_routed(const Input& input, fl_reason reason);
    [[nodiscard]] Complaint check_routable(const Input& input) const;
    [[nodiscard]] const Journey* find_destination(std::uint32_t domain, Ipv4 dst) const;
    [[nodiscard]] const Journey* find_transit(const Input& input, Ipv4 src, Ipv4 dst) const;
    [[nodiscard]] const Journey* find_journey(const Input& input, Ipv4& fip);
    [[nodiscard]] const Journey* find_followed(Ipv4& fip);
    [[nodiscard]] Complaint check_exit(const Exit& expected) const;
    /// Rewrites what may change in `expected_` and says which checksums of the output are wrong.
    [[nodiscard]] Complaint translate_transport(Ipv4 src, Ipv4 dst);
    [[nodiscard]] Complaint translate_checksum(std::size_t at, std::size_t check_at, bool udp);
    [[nodiscard]] Complaint translate_quote(Ipv4 src, Ipv4 dst);

    const Cloud& cloud_;
    Side in_;
    Side out_;
    Bytes expected_;
    std::map<Flow, Ipv4> flows_;  ///< with their floating IP
};

}  // namespace fiplane::test
