// SPDX-License-Identifier: Apache-2.0
// Whether what a program did with a frame is allowed. Judged from the frame that went in, what came out and the cloud's
// rows alone: every byte of what is sent must be explained by a row, and nothing may be sent that Linux has to see.
// Whether something *should* have been sent is not judged here, except that the reason must fit.
#pragma once

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
    std::uint32_t device = kUnderlayDevice;
    std::uint32_t gso_size = 0;  ///< tc only
    Bytes frame{};
};

/// What came of it. `frame` is without metadata.
struct Outcome {
    int action = 0;
    View frame{};
    std::optional<fl_meta> meta{};  ///< XDP only
    fl_record record{};
};

class Judge {
  public:
    explicit Judge(const Cloud& cloud) : cloud_(cloud) {}

    /// Nothing, or which rule was broken. Not thread-safe: buffers are kept between calls.
    [[nodiscard]] std::optional<std::string> judge(const Input& input, const Outcome& outcome);

    /// The two frames may differ only in what the sender of a tunnel packet is free to choose.
    [[nodiscard]] static bool same_but_choices(View a, View b, bool is_tunnel_packet);

  private:
    using Complaint = std::optional<std::string>;

    /// One side of the program: the frame inside, and where it was or goes.
    struct Side {
        View frame{};  ///< from the inner Ethernet header on
        View outer{};  ///< empty if it is not wrapped
        const CloudTunnel* tunnel =
            nullptr;  ///< that it came by or goes into; one of its device's where it is not wrapped
        const CloudSegment* segment = nullptr;
        const CloudPort* port = nullptr;  ///< where it came from or goes to, if that is one
        Exit exit{};                      ///< output only
    };

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
    [[nodiscard]] const Journey* find_journey(const Input& input, Ipv4& fip) const;
    [[nodiscard]] Complaint check_exit(const Exit& expected) const;
    /// Rewrites what may change in `expected_` and says which checksums of the output are wrong.
    [[nodiscard]] Complaint translate_transport(Ipv4 src, Ipv4 dst);
    [[nodiscard]] Complaint translate_checksum(std::size_t at, std::size_t check_at, bool udp);
    [[nodiscard]] Complaint translate_quote(Ipv4 src, Ipv4 dst);

    const Cloud& cloud_;
    Side in_;
    Side out_;
    Bytes expected_;
};

}  // namespace fiplane::test
