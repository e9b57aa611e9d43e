// SPDX-License-Identifier: Apache-2.0
// Watches which names exist below /run/netns, by inotify. The directory itself may come later than we do.
//
// `ip netns add` makes an empty file first and mounts the namespace on it afterwards, and mounting has no inotify
// event. So a name that was reported may not be open-able yet; the caller asks again a little later.
#pragma once

#include <set>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class NetnsDirectory {
  public:
    [[nodiscard]] static Result<NetnsDirectory> open();

    /// For epoll.
    [[nodiscard]] int fd() const { return inotify_.get(); }

    struct Events {
        std::set<NetnsName> touched;  ///< names that came, went or were replaced; only names of router namespaces
        bool rescan = false;          ///< the directory came or went, or events were lost: look at all names
    };
    /// Reads all that is queued. Never blocks.
    [[nodiscard]] Events receive();

    /// Watches the directory, or its parent while it does not exist. Called again after each rescan, because a mount
    /// over the directory would leave the watch on what lies beneath.
    void arm();

  private:
    explicit NetnsDirectory(UniqueFd inotify) : inotify_(std::move(inotify)) {}

    UniqueFd inotify_;
    int directory_watch_ = -1;
    int parent_watch_ = -1;
};

/// Whether a namespace of this name holds a router's part: qrouter-, fip- or snat-.
[[nodiscard]] bool is_router_netns(const NetnsName& name);

}  // namespace fiplane
