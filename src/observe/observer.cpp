// SPDX-License-Identifier: Apache-2.0
#include "observe/observer.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "linux/netns.hpp"
#include "linux/unique_fd.hpp"
#include "observe/netns_names.hpp"
#include "observe/netns_watch.hpp"
#include "observe/timer.hpp"

namespace fiplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Nothing tells of a path MTU that the kernel learned, which it keeps for ten minutes, and packets are lost meanwhile.
constexpr seconds kIpv6WaysInterval{5};

/// Reading a router's namespace takes some ten ms, with two programs that are run in it. For so long nothing is read
/// between two of them unless a notification asks for it.
constexpr milliseconds kCheckPause{20};

}  // namespace

struct Observer::Impl final : NetnsListener {
    ObserverOptions options;
    UniqueFd epoll;
    Timer full_dump_timer;
    Timer check_timer;  ///< one-shot: the next one in `unchecked`
    Timer ipv6_ways_timer;
    std::optional<NetnsNames> router_names;   ///< once there is somebody to listen
    std::map<NetnsName, NetnsWatch> watches;  ///< "" is the node's own
    std::map<int, NetnsName> watch_of_fd;
    std::deque<NetnsName> unchecked;  ///< router namespaces whose periodic full dump is due
    bool check_is_timed = false;
    Snapshot snapshot;
    bool root_was_read = false;
    bool root_is_current = false;
    Changes changes;
    Counters counters;

    Impl(ObserverOptions its_options, UniqueFd its_epoll, std::array<Timer, 3> timers)
        : options(std::move(its_options)),
          epoll(std::move(its_epoll)),
          full_dump_timer(std::move(timers[0])),
          check_timer(std::move(timers[1])),
          ipv6_ways_timer(std::move(timers[2])) {}

    [[nodiscard]] Result<> start() {
        auto opened = NetnsNames::open(*this);
        if (!opened) return pass_on(opened);
        router_names.emplace(std::move(*opened));
        std::vector<int> fds = router_names->fds();
        fds.insert(fds.end(), {full_dump_timer.fd(), check_timer.fd(), ipv6_ways_timer.fd()});
        for (const int fd : fds) {
            if (auto added = add_fd(fd); !added) return added;
        }
        full_dump_timer.set(options.full_dump_interval, options.full_dump_interval);
        ipv6_ways_timer.set(kIpv6WaysInterval, kIpv6WaysInterval);
        auto root = Netns::current();
        if (!root) return pass_on(root);
        if (auto watched = watch(std::move(*root)); !watched) return watched;
        router_names->rescan();
        return {};
    }

    [[nodiscard]] Result<> add_fd(int fd) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.fd = fd;
        if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0)
            return fail_errno(errno, "cannot watch a descriptor");
        return {};
    }

    [[nodiscard]] Result<> watch(Netns netns) {
        const NetnsName name = netns.name();
        const bool links_only = name.empty() && options.root_links_only;
        auto opened = NetnsWatch::open(std::move(netns), links_only ? Parts{.links = true} : Parts::everything());
        if (!opened) return pass_on(opened);
        const std::vector<int> fds = opened->fds();
        for (const int fd : fds) {
            if (auto added = add_fd(fd); !added) return added;  // closing the others takes them out of epoll
        }
        for (const int fd : fds)
            watch_of_fd[fd] = name;
        watches.emplace(name, std::move(*opened));
        for (auto& [other_name, other] : watches)
            other.other_appeared();
        return {};
    }

    [[nodiscard]] std::optional<ino_t> inode_of(const NetnsName& name) const override {
        const auto known = watches.find(name);
        return known == watches.end() ? std::nullopt : std::optional(known->second.netns().inode());
    }

    [[nodiscard]] std::vector<NetnsName> names() const override {
        std::vector<NetnsName> out;
        for (const auto& [name, watched] : watches) {
            if (!name.empty()) out.push_back(name);
        }
        for (const auto& [name, view] : snapshot.routers) {
            if (!watches.contains(name)) out.push_back(name);
        }
        return out;
    }

    [[nodiscard]] Result<> on_found(Netns netns) override {
        const NetnsName name = netns.name();
        auto watched = watch(std::move(netns));
        if (watched) spdlog::debug("namespace {}: watched", name);
        return watched;
    }

    void on_gone(const NetnsName& name) override {
        if (snapshot.routers.erase(name) != 0) changes.any = changes.configuration = true;
        const auto found = watches.find(name);
        if (found == watches.end()) return;
        for (const int fd : found->second.fds())
            watch_of_fd.erase(fd);
        watches.erase(found);  // closing the sockets takes them out of epoll
        for (auto& [other_name, other] : watches)
            other.other_vanished(name);
        spdlog::debug("namespace {}: watched no more", name);
    }

    /// What is known of it stays; and if that is nothing, it is known that there is something.
    void on_unknown(const NetnsName& name, const Error& why) override {
        if (watches.contains(name)) return;
        NetnsView& view = snapshot.routers[name];
        view.name = name;
        mark(view, why.what);
    }

    void on_watch(int fd) {
        const auto name = watch_of_fd.find(fd);
        if (name == watch_of_fd.end()) return;
        const auto seen = watches.at(name->second).receive();
        if (!seen.any()) return;
        ++counters.events;
        if (!seen.overrun) return;
        ++counters.overruns;
        spdlog::warn("namespace {}: notifications were lost (ENOBUFS), reading everything again",
                     name->second.empty() ? "of the node" : name->second);
    }

    void on_ready(int fd) {
        if (fd == full_dump_timer.fd()) {
            full_dump_timer.drain();
            router_names->rescan();
            watches.at({}).mark_everything();
            check_all();
        } else if (fd == check_timer.fd()) {
            check_timer.drain();
            check_is_timed = false;
            check_next();
        } else if (fd == ipv6_ways_timer.fd()) {
            ipv6_ways_timer.drain();
            watches.at({}).mark_ipv6_ways();
        } else if (router_names->has(fd)) {
            counters.events += router_names->on_ready(fd) ? 1 : 0;
        } else {
            on_watch(fd);
        }
    }

    /// Queues all router namespaces, behind those that the last interval was too short for.
    void check_all() {
        for (const auto& [name, watched] : watches) {
            if (!name.empty() && std::ranges::find(unchecked, name) == unchecked.end()) unchecked.push_back(name);
        }
        time_next_check();
    }

    /// The next pause begins when this one has been read.
    void check_next() {
        while (!unchecked.empty()) {
            const auto next = watches.find(unchecked.front());
            unchecked.pop_front();
            if (next == watches.end()) continue;
            next->second.mark_for_check();
            return;
        }
    }

    void time_next_check() {
        if (unchecked.empty() || check_is_timed) return;
        check_timer.set(kCheckPause);
        check_is_timed = true;
    }

    void mark_everything() {
        for (auto& [name, watched] : watches)
            watched.mark_everything();
    }

    [[nodiscard]] bool dirty() const {
        return std::ranges::any_of(watches, [](const auto& entry) { return entry.second.is_dirty(); });
    }

    [[nodiscard]] Result<> refresh_one(const NetnsName& name, NetnsWatch& watched,
                                       const std::vector<const Netns*>& others) {
        if (!watched.is_dirty()) return {};
        ++(watched.is_all_dirty() ? counters.full_dumps : counters.partial_dumps);
        NetnsView& view = name.empty() ? snapshot.root : snapshot.routers[name];
        view.name = name;
        const ForeignPrograms& programs = name.empty() ? options.foreign_programs : options.router_programs;
        auto done = watched.refresh(view, others, programs, changes);
        if (name.empty()) {
            root_is_current = done.has_value();
            root_was_read |= root_is_current;
        } else {
            mark(view, done ? std::string{} : done.error().what);
        }
        return done;
    }

    /// Why a view may be out of date; empty: it is not.
    void mark(NetnsView& view, const std::string& unread) {
        if (view.unread == unread) return;
        view.unread = unread;
        changes.any = true;
    }

    [[nodiscard]] Result<> refresh_all() {
        std::vector<const Netns*> all;
        all.reserve(watches.size());
        for (const auto& [name, watched] : watches)
            all.push_back(&watched.netns());
        Result<> outcome;
        const auto note = [&](const NetnsName& name, const Error& error) {
            if (!outcome) return;
            outcome = fail(error.code, error.what, error.where.empty() ? name : error.where, error.hint);
        };
        for (auto& [name, watched] : watches) {
            if (const auto done = refresh_one(name, watched, all); !done) note(name, done.error());
        }
        time_next_check();
        router_names->for_each_failure(note);
        return outcome;
    }
};

Observer::Observer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Observer::Observer(Observer&&) noexcept = default;
Observer& Observer::operator=(Observer&&) noexcept = default;
Observer::~Observer() = default;

Result<Observer> Observer::open(ObserverOptions options) {
    UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return fail_errno(errno, "cannot make an epoll instance");
    auto full_dump_timer = Timer::open();
    if (!full_dump_timer) return pass_on(full_dump_timer);
    auto check_timer = Timer::open();
    if (!check_timer) return pass_on(check_timer);
    auto ipv6_ways_timer = Timer::open();
    if (!ipv6_ways_timer) return pass_on(ipv6_ways_timer);
    auto impl = std::make_unique<Impl>(
        std::move(options), std::move(epoll),
        std::array{std::move(*full_dump_timer), std::move(*check_timer), std::move(*ipv6_ways_timer)});
    if (auto started = impl->start(); !started) return pass_on(started);
    return Observer(std::move(impl));
}

int Observer::fd() const {
    return impl_->epoll.get();
}

bool Observer::drain() {
    std::array<epoll_event, 64> ready{};
    for (;;) {
        const int count = epoll_wait(impl_->epoll.get(), ready.data(), ready.size(), 0);
        if (count < 0 && errno == EINTR) continue;
        for (int i = 0; i < count; ++i)
            impl_->on_ready(ready.at(static_cast<std::size_t>(i)).data.fd);
        if (count < static_cast<int>(ready.size())) break;
    }
    return impl_->dirty() || impl_->changes.any;
}

Result<> Observer::refresh() {
    return impl_->refresh_all();
}

bool Observer::ready() const {
    return impl_->root_was_read && impl_->router_names->were_listed();
}

bool Observer::root_is_current() const {
    return impl_->root_is_current;
}

const Snapshot& Observer::snapshot() const {
    return impl_->snapshot;
}

Changes Observer::take_changes() {
    return std::exchange(impl_->changes, {});
}

void Observer::invalidate() {
    impl_->router_names->rescan();
    impl_->mark_everything();
}

Result<> Observer::use_neighbour(const NetnsName& netns, int ifindex, const IpAddress& address) {
    const auto found = impl_->watches.find(netns);
    if (found == impl_->watches.end())
        return fail(ExitCode::kFailed, fmt::format("cannot confirm neighbour {}: the namespace is gone", address.str()),
                    netns);
    return found->second.use_neighbour(ifindex, address);
}

Result<bool> Observer::refresh_fdb(int ifindex, const Mac& mac, const std::optional<IpAddress>& destination) {
    return impl_->watches.at({}).refresh_fdb(ifindex, mac, destination);
}

Observer::Counters Observer::counters() const {
    return impl_->counters;
}

}  // namespace fiplane
