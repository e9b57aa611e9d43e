// SPDX-License-Identifier: Apache-2.0
// Programs at devices. XDP and tcx programs are held by links, pinned below <pin_dir>/links; where the kernel has no
// tcx, tc programs are clsact filters, and the pin is the filter's program. Either way a fresh process finds what an
// earlier one attached by listing the pins.
//
// Works in the network namespace of the calling thread. One thread at a time.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"
#include "datapath/datapath.hpp"
#include "datapath/device_query.hpp"
#include "datapath/pins.hpp"
#include "datapath/xdp_choice.hpp"
#include "fiplane/abi.h"
#include "linux/unique_fd.hpp"

namespace fiplane {

using Programs = std::array<UniqueFd, FL_HOOK_COUNT>;

/// How tc programs are attached: one way for all devices, by what the kernel has.
enum class TcBackend { kTcx, kClsact };

class Attacher {
  public:
    /// Takes the programs, and over what is pinned; pins of devices that are gone are removed.
    [[nodiscard]] static Result<Attacher> open(PinPaths paths, Programs programs, XdpMode xdp, TcBackend tc);

    /// See Datapath.
    [[nodiscard]] Result<> attach(const std::vector<DeviceRole>& devices);
    [[nodiscard]] Result<> detach_all();
    [[nodiscard]] const std::vector<Attachment>& attachments() const { return attachments_; }
    [[nodiscard]] std::vector<std::string> foreign_programs(int ifindex) const;

  private:
    /// Something of ours at a hook point.
    struct Held {
        UniqueFd link;  ///< empty: a clsact filter
        std::uint32_t link_id = 0;
        std::uint32_t program_id = 0;
        bool current = false;  ///< runs this process's program
    };
    /// One program that a device role asks for.
    struct Wish {
        HookPoint point;
        const DeviceRole* device = nullptr;
    };

    Attacher(PinPaths paths, Programs programs, XdpMode xdp, TcBackend tc, DeviceQuery query)
        : paths_(std::move(paths)), programs_(std::move(programs)), xdp_(xdp), tc_(tc), query_(std::move(query)) {}

    [[nodiscard]] Result<> take_over();
    [[nodiscard]] Result<> take_over_one(const HookPoint& point);

    /// Attaches what the wish asks for and fills mode and why; a refusal is an error only for a forced XDP mode.
    [[nodiscard]] Result<> fulfil(const Wish& wish, Attachment& result);
    [[nodiscard]] Result<> attach_tcx(const HookPoint& point);
    [[nodiscard]] Result<> attach_clsact(const HookPoint& point);
    [[nodiscard]] Result<> attach_xdp(const Wish& wish, Attachment& result);
    [[nodiscard]] Result<> link_xdp(const HookPoint& point, XdpChoice::Mode mode);
    [[nodiscard]] Result<> detach(const HookPoint& point);

    /// What we hold there, if the kernel still has it there.
    [[nodiscard]] Held* living(const HookPoint& point);
    [[nodiscard]] Result<> hold_link(const HookPoint& point, UniqueFd link);
    /// Makes a held link run this process's program; a no-op if it does the same already.
    [[nodiscard]] Result<> bring_up_to_date(const HookPoint& point, Held& held);
    [[nodiscard]] bool runs_same_program(const HookPoint& point, const Held& held) const;

    void list_foreign_xdp(int ifindex, std::vector<std::string>& out) const;

    PinPaths paths_;
    Programs programs_;
    XdpMode xdp_ = XdpMode::kAuto;
    TcBackend tc_ = TcBackend::kTcx;
    mutable DeviceQuery query_;  ///< a dump changes only the socket's sequence number
    std::map<HookPoint, Held> held_;
    std::vector<Attachment> attachments_;
};

}  // namespace fiplane
