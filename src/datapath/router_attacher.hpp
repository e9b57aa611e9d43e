// SPDX-License-Identifier: Apache-2.0
// Programs at devices of routers' namespaces. As with others, a link holds each, or where the kernel has no tcx a
// clsact filter; its pin is <pin_dir>/routers/NETNS/DEVICE. Works in any namespace, and brings the calling thread back.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/compile.hpp"
#include "core/result.hpp"
#include "datapath/attacher.hpp"
#include "datapath/pins.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

/// The program array whose entry 0 is what all devices run.
inline constexpr const char* kStagesMap = "fl_stages";

class RouterAttacher {
  public:
    /// Takes the program, makes it what all devices run, and takes over what is pinned; pins of devices that are gone
    /// are removed.
    [[nodiscard]] static Result<RouterAttacher> open(PinPaths paths, UniqueFd program, TcBackend tc);

    /// Attaches to exactly these devices (kRouter) and detaches from all others. One that refuses, or that is refused,
    /// gets an Attachment with the reason; but a refused one that has its program keeps it, for the flows that it
    /// carries. So does every device that has its program in one of the `unread` namespaces: it may well be one that
    /// should have it. One that has gone in the meantime has none, and is no error.
    [[nodiscard]] Result<> attach(const std::vector<DeviceRole>& devices, const std::set<NetnsName>& unread = {});
    [[nodiscard]] Result<> detach_all();
    [[nodiscard]] const std::vector<Attachment>& attachments() const { return attachments_; }

    /// Namespace and device of every pin. Directories of namespaces without any are removed.
    [[nodiscard]] static Result<std::vector<std::pair<NetnsName, std::string>>> pinned(const PinPaths& paths);
    /// Detaches and unpins everything, also that of a dead agent.
    [[nodiscard]] static Result<> remove_pins(const PinPaths& paths);

  private:
    using Place = std::pair<NetnsName, std::string>;  ///< namespace and device
    RouterAttacher(PinPaths paths, UniqueFd program, UniqueFd stages, TcBackend tc)
        : paths_(std::move(paths)), program_(std::move(program)), stages_(std::move(stages)), tc_(tc) {}

    [[nodiscard]] Result<> take_over();
    [[nodiscard]] bool lives(const DeviceRole& device) const;
    [[nodiscard]] Result<bool> attach_one(const DeviceRole& device, Attachment& result);
    [[nodiscard]] Result<> attach_here(const Place& place, const DeviceRole& device);
    [[nodiscard]] Result<> detach(const Place& place);
    [[nodiscard]] Result<> forget(const Place& place);

    PinPaths paths_;
    UniqueFd program_;
    UniqueFd stages_;
    TcBackend tc_ = TcBackend::kTcx;
    std::map<Place, UniqueFd> held_;  ///< links; empty: a clsact filter
    std::vector<Attachment> attachments_;
};

}  // namespace fiplane
