// SPDX-License-Identifier: Apache-2.0
// observe: Linux objects -> Snapshot. Watches the node's namespace and every router namespace (qrouter-, fip-, snat-
// below /run/netns). Notifications mark parts dirty; refresh() dumps those parts again. ENOBUFS means a full dump at
// once, and every full_dump_interval there is one anyway.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "core/result.hpp"
#include "core/snapshot.hpp"

namespace fiplane {

struct ObserverOptions {
    std::chrono::seconds full_dump_interval{60};
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
    /// Dumps what is dirty (everything on the first call). A namespace that vanishes meanwhile is dropped, not an error.
    [[nodiscard]] Result<> refresh();
    /// The state as of the last refresh().
    [[nodiscard]] const Snapshot& snapshot() const;
    /// Marks everything dirty.
    void invalidate();

    /// Asks Linux to confirm a neighbour (NTF_USE) in a watched namespace.
    [[nodiscard]] Result<> use_neighbour(const NetnsName& netns, int ifindex, Ipv4 address);

    struct Counters {
        std::uint64_t events = 0;
        std::uint64_t partial_dumps = 0;
        std::uint64_t full_dumps = 0;
        std::uint64_t overruns = 0;
    };
    [[nodiscard]] Counters counters() const;

  private:
    struct Impl;
    explicit Observer(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace fiplane
