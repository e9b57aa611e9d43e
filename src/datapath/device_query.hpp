// SPDX-License-Identifier: Apache-2.0
// What rtnetlink says about one device: its kind, its XDP programs, its clsact filters. Over a plain socket, because
// this library does not link libnl.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

struct DeviceFacts {
    std::string name;
    std::string kind;              ///< IFLA_INFO_KIND; empty for hardware
    std::uint32_t xdp_native = 0;  ///< program ids, 0: none
    std::uint32_t xdp_generic = 0;
    std::uint32_t xdp_hardware = 0;
};

/// One filter on the clsact or ingress qdisc.
struct FilterFacts {
    std::string kind;  ///< "bpf", "flower", "matchall"...
    std::uint32_t handle = 0;
    std::uint16_t priority = 0;
    std::uint32_t program_id = 0;  ///< kind "bpf" only
    std::string program_name;      ///< as the filter was given it: "tc_port:[17]"
};

/// One program at a tcx hook.
struct TcxFacts {
    std::uint32_t program_id = 0;
    std::uint32_t link_id = 0;  ///< 0: attached without a link
};

/// Those of a device of the calling thread's namespace; empty where the kernel has no tcx, or the device is gone.
[[nodiscard]] std::vector<TcxFacts> tcx_programs(int ifindex, bool egress);

/// A NETLINK_ROUTE socket of the namespace in which it was opened. One thread at a time.
class DeviceQuery {
  public:
    [[nodiscard]] static Result<DeviceQuery> open();

    /// kMissingDevice if there is none with this index.
    [[nodiscard]] Result<DeviceFacts> device(int ifindex);
    /// Empty where the device has no such qdisc, or is gone.
    [[nodiscard]] Result<std::vector<FilterFacts>> filters(int ifindex, bool egress);

  private:
    /// A qdisc of kind `ingress` answers for filters at the egress with those that it has (ingress_tcf_block() in
    /// net/sched/sch_ingress.c).
    [[nodiscard]] bool has_ingress_alone(int ifindex);
    struct TcObject;
    /// The qdiscs or filters that the kernel lists, from one dump in which nothing changed; empty where the device is
    /// gone. `answers`: the type of its messages.
    [[nodiscard]] Result<std::vector<TcObject>> dump(std::uint16_t type, std::uint16_t answers, int ifindex,
                                                     std::uint32_t parent, const std::string& what);

    explicit DeviceQuery(UniqueFd socket) : socket_(std::move(socket)) {}

    /// Sends `request`, gives each answer's header and payload to `visit`; ends at the acknowledgement or the dump's
    /// end.
    using Visitor = std::function<void(std::uint16_t type, std::span<const std::byte> payload)>;
    [[nodiscard]] Result<> talk(std::span<const std::byte> request, const std::string& what, const Visitor& visit);

    UniqueFd socket_;
    std::uint32_t sequence_ = 0;
};

}  // namespace fiplane
