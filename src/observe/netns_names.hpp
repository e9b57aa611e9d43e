// SPDX-License-Identifier: Apache-2.0
// Where the names of routers' namespaces below /run/netns lead: to which namespace, certainly nowhere, or that is not
// known, because there is no descriptor left, say. What is not known is asked again until it is.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"
#include "linux/netns.hpp"
#include "observe/netns_directory.hpp"
#include "observe/timer.hpp"

namespace fiplane {

/// Who is told.
class NetnsListener {
  public:
    /// The namespace that the listener has by that name; none if it has none.
    [[nodiscard]] virtual std::optional<ino_t> inode_of(const NetnsName& name) const = 0;
    /// Names of which it has anything.
    [[nodiscard]] virtual std::vector<NetnsName> names() const = 0;
    /// The name leads to this one. After an error it is offered again later.
    [[nodiscard]] virtual Result<> on_found(Netns netns) = 0;
    /// The name certainly leads nowhere, or to another namespace than it did.
    virtual void on_gone(const NetnsName& name) = 0;
    /// It is not known where the name leads, and why; also after an error of on_found().
    virtual void on_unknown(const NetnsName& name, const Error& why) = 0;

  protected:
    ~NetnsListener() = default;
};

class NetnsNames {
  public:
    /// `listener` has to outlive it, and is told of nothing before the first rescan().
    [[nodiscard]] static Result<NetnsNames> open(NetnsListener& listener);

    /// For epoll.
    [[nodiscard]] std::vector<int> fds() const { return {directory_.fd(), retry_timer_.fd()}; }
    [[nodiscard]] bool has(int fd) const { return fd == directory_.fd() || fd == retry_timer_.fd(); }
    /// Serves one of fds(). True: there were events of the directory.
    bool on_ready(int fd);

    /// Looks at all names.
    void rescan();
    /// All names have been listed at least once.
    [[nodiscard]] bool were_listed() const { return were_listed_; }
    /// What is not known, and why. Calls note(name, error); the name is empty if the names could not be listed.
    void for_each_failure(const std::function<void(const NetnsName&, const Error&)>& note) const;

  private:
    /// A name of which it is to be found out again where it leads.
    struct Unopened {
        int attempts = 0;
        std::optional<Error> failure;  ///< why that is not known; none: to no namespace, so far
    };

    NetnsNames(NetnsListener& listener, NetnsDirectory directory, Timer retry_timer)
        : listener_(&listener), directory_(std::move(directory)), retry_timer_(std::move(retry_timer)) {}
    void on_directory();
    void look_at(const NetnsName& name);
    void look_again(const NetnsName& name);
    void cannot_open(const NetnsName& name, const Error& error);
    void cannot_list(const Error& error);
    void retry();
    void arm_retry();

    NetnsListener* listener_;
    NetnsDirectory directory_;
    Timer retry_timer_;  ///< for names in `unopened_`, or all of them
    std::map<NetnsName, Unopened> unopened_;
    std::optional<Error> unlisted_;  ///< why the names could not be listed at the last attempt
    int listings_ = 0;               ///< attempts at that since it succeeded last
    bool were_listed_ = false;
};

}  // namespace fiplane
