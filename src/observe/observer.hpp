// SPDX-License-Identifier: Apache-2.0
// observe: Linux objects -> Snapshot. Watches the node's namespace and every router namespace (qrouter-, fip-, snat-
// below /run/netns). Notifications mark parts dirty; refresh() dumps those parts again. ENOBUFS means a full dump at
// once, and every full_dump_interval there is one anyway: of the node's own namespace first, then of one router
// namespace after the other, with a pause before each in which notifications are served.
//
// One thread. Failures of single dumps leave the part dirty, so calling refresh() again is the retry.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"

namespace fiplane {

/// Programs of others on a device (Link::foreign_programs), which rtnetlink does not tell. Called in the device's
/// namespace.
using ForeignPrograms = std::function<std::vector<std::string>(const Link&)>;

struct ObserverOptions {
    std::chrono::seconds full_dump_interval{60};
    /// Asked for devices that are new or look different, and for all at every full dump: of the node's own namespace,
    /// and of routers' namespaces. May be empty.
    ForeignPrograms foreign_programs;
    ForeignPrograms router_programs;
    /// Of the node's own namespace links alone are read, for the veths that end there. Where routers are only followed,
    /// nothing else of it matters to them, and a ruleset of thousands of security groups' rules would be read with each
    /// of its commits.
    bool root_links_only = false;
};

/// What refreshes found to be different.
struct Changes {
    bool any = false;  ///< something that compile reads
    /// Something that a configurator writes: links, addresses, routes, rules, permanent neighbours and FDB entries,
    /// netfilter, sysctls. What the kernel learns and unlearns by itself does not count. Set by every full dump, but by
    /// those of router namespaces that come with the interval only if something differs.
    bool configuration = false;
};

class Observer {
  public:
    [[nodiscard]] static Result<Observer> open(ObserverOptions options = {});
    Observer(Observer&&) noexcept;
    Observer& operator=(Observer&&) noexcept;
    ~Observer();

    /// One descriptor for epoll: readable when something may have changed (netlink, nf_tables, /run/netns, timer).
    [[nodiscard]] int fd() const;
    /// Drains notifications without blocking; true if a refresh is due.
    [[nodiscard]] bool drain();
    /// Dumps what is dirty (everything on the first call). A namespace that vanishes meanwhile is dropped, not an
    /// error. A router namespace that cannot be read stays in the snapshot as it was read last, and is marked
    /// (NetnsView::unread) until it can be: a read that fails does not mean that something is gone. Nor does it if
    /// /run/netns cannot be listed or a name in it not be opened, which is tried again and is an error, too.
    [[nodiscard]] Result<> refresh();
    /// Whether the node's own namespace was ever read as far as it is asked for, and the names of the others were:
    /// before that the snapshot proves nothing.
    [[nodiscard]] bool ready() const;
    /// Whether the last refresh() left nothing of the node's own namespace unread.
    [[nodiscard]] bool root_is_current() const;
    /// The state as of the last refresh().
    [[nodiscard]] const Snapshot& snapshot() const;
    /// What refreshes found since the last call of this.
    [[nodiscard]] Changes take_changes();
    /// Marks everything dirty.
    void invalidate();

    /// Asks Linux to confirm a neighbour (NTF_USE) in a watched namespace.
    [[nodiscard]] Result<> use_neighbour(const NetnsName& netns, int ifindex, const IpAddress& address);
    /// Lets a learned entry of the node's own namespace live on: Rtnl::refresh_fdb().
    [[nodiscard]] Result<bool> refresh_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination);

    struct Counters {
        std::uint64_t events = 0;         ///< batches of notifications
        std::uint64_t partial_dumps = 0;  ///< of one namespace
        std::uint64_t full_dumps = 0;     ///< of one namespace, all parts
        std::uint64_t overruns = 0;       ///< sockets whose queue overflowed (ENOBUFS)
    };
    [[nodiscard]] Counters counters() const;

  private:
    struct Impl;
    explicit Observer(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
