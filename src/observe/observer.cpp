// SPDX-License-Identifier: Apache-2.0
#include "observe/observer.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <map>
#include <optional>
#include <utility>

#include "linux/netns.hpp"
#include "linux/unique_fd.hpp"
#include "observe/netns_directory.hpp"
#include "observe/netns_watch.hpp"

namespace fiplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

/// Nothing tells of a path MTU that the kernel learned, which it keeps for ten minutes, and packets are lost meanwhile.
constexpr seconds kIpv6WaysInterval{5};

/// Reading a router's namespace takes some ten ms, with two programs that are run in it. For so long nothing is read
/// between two of them unless a notification asks for it.
constexpr milliseconds kCheckPause{20};

/// A name that leads to no namespace yet, or cannot be opened, is tried after 1, 2, 4 ... ms, and from the tenth time
/// on once a second for as long as it is there: nothing tells when it is, and Linux may take seconds over a new
/// namespace while it removes others.
constexpr int kSlowestAttempt = 10;

Result<UniqueFd> make_timer() {
    UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!timer) return fail_errno(errno, "cannot make a timer");
    return timer;
}

/// Zero `first` disarms; zero `interval` makes it a one-shot.
void set_timer(const UniqueFd& timer, nanoseconds first, nanoseconds interval = {}) {
    const auto spec = [](nanoseconds span) {
        const auto whole = std::chrono::duration_cast<seconds>(span);
        return timespec{whole.count(), (span - whole).count()};
    };
    const itimerspec setting{spec(interval), spec(first)};
    timerfd_settime(timer.get(), 0, &setting, nullptr);
}

void drain_timer(const UniqueFd& timer) {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const ssize_t got = read(timer.get(), &expirations, sizeof expirations);
}

}  // namespace

struct Observer::Impl {
    /// A name of which it is to be found out again where it leads.
    struct Unopened {
        int attempts = 0;
        std::optional<Error> failure;  ///< why that is not known; none: to no namespace, so far
    };

    ObserverOptions options;
    UniqueFd epoll;
    UniqueFd full_dump_timer;
    UniqueFd check_timer;  ///< one-shot: the next one in `unchecked`
    UniqueFd ipv6_ways_timer;
    UniqueFd retry_timer;  ///< for names in `unopened`, or all of them
    NetnsDirectory directory;
    std::map<NetnsName, NetnsWatch> watches;  ///< "" is the node's own
    std::map<int, NetnsName> watch_of_fd;
    std::deque<NetnsName> unchecked;  ///< router namespaces whose periodic full dump is due
    bool check_is_timed = false;
    std::map<NetnsName, Unopened> unopened;
    std::optional<Error> unlisted;  ///< why the names could not be listed at the last attempt
    int listings = 0;               ///< attempts at that since it succeeded last
    bool was_listed = false;
    Snapshot snapshot;
    bool root_was_read = false;
    bool root_is_current = false;
    Changes changes;
    Counters counters;

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
        auto opened = NetnsWatch::open(std::move(netns));
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

    /// The name certainly leads nowhere, or to another namespace than it did.
    void forget(const NetnsName& name) {
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

    /// Brings `watches` in line with what the name leads to now.
    void look_at(const NetnsName& name) {
        auto found = Netns::find(name);
        if (!found) return cannot_open(name, found.error());
        const auto known = watches.find(name);
        if (known != watches.end() && *found && (*found)->inode() == known->second.netns().inode()) {
            unopened.erase(name);
            return;
        }
        forget(name);
        if (!*found) {
            unopened[name].failure.reset();
            return;
        }
        const auto watched = watch(std::move(**found));
        if (!watched) return cannot_open(name, watched.error());
        unopened.erase(name);
        spdlog::debug("namespace {}: watched", name);
    }

    /// It is not known where the name leads. What is known of it stays; and if that is nothing, it is known that there
    /// is something.
    void cannot_open(const NetnsName& name, const Error& error) {
        Unopened& entry = unopened[name];
        if (!entry.failure) spdlog::warn("namespace {}: {}", name, error.message());
        entry.failure = error;
        if (watches.contains(name)) return;
        NetnsView& view = snapshot.routers[name];
        view.name = name;
        mark(view, error.what);
    }

    void rescan() {
        directory.arm();
        const auto names = Netns::list();
        if (!names) return cannot_list(names.error());
        was_listed = true;
        unlisted.reset();
        listings = 0;
        std::vector<NetnsName> gone;
        for (const auto& [name, watched] : watches) {
            if (!name.empty() && !std::ranges::binary_search(*names, name)) gone.push_back(name);
        }
        for (const auto& [name, view] : snapshot.routers) {
            if (!std::ranges::binary_search(*names, name)) gone.push_back(name);
        }
        for (const auto& name : gone)
            forget(name);
        std::erase_if(unopened, [&](const auto& entry) { return !std::ranges::binary_search(*names, entry.first); });
        for (const auto& name : *names) {
            if (is_router_netns(name)) look_again(name);
        }
        arm_retry();
    }

    /// As look_at(), with retries that begin anew.
    void look_again(const NetnsName& name) {
        if (const auto entry = unopened.find(name); entry != unopened.end()) entry->second.attempts = 0;
        look_at(name);
    }

    /// All watches stay as they are.
    void cannot_list(const Error& error) {
        if (!unlisted) spdlog::warn("{}", error.message());
        unlisted = error;
        listings = std::min(listings + 1, kSlowestAttempt);
        arm_retry();
    }

    void retry() {
        if (unlisted) return rescan();
        const auto names = Netns::list();
        if (!names) return cannot_list(names.error());
        const auto tried = unopened;
        for (const auto& [name, entry] : tried) {
            if (!std::ranges::binary_search(*names, name)) {
                unopened.erase(name);
                forget(name);
                continue;
            }
            unopened[name].attempts = std::min(entry.attempts + 1, kSlowestAttempt);
            look_at(name);
        }
        arm_retry();
    }

    void arm_retry() {
        if (unopened.empty() && !unlisted) return;
        int fewest = unlisted ? listings : kSlowestAttempt;
        for (const auto& [name, entry] : unopened)
            fewest = std::min(fewest, entry.attempts);
        set_timer(retry_timer, milliseconds(1 << fewest));
    }

    void on_directory() {
        const auto events = directory.receive();
        ++counters.events;
        if (events.rescan) {
            rescan();
            return;
        }
        for (const auto& name : events.touched)
            look_again(name);
        arm_retry();
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
        if (fd == directory.fd()) {
            on_directory();
        } else if (fd == full_dump_timer.get()) {
            drain_timer(full_dump_timer);
            rescan();
            watches.at({}).mark_everything();
            check_all();
        } else if (fd == check_timer.get()) {
            drain_timer(check_timer);
            check_is_timed = false;
            check_next();
        } else if (fd == ipv6_ways_timer.get()) {
            drain_timer(ipv6_ways_timer);
            watches.at({}).mark_ipv6_ways();
        } else if (fd == retry_timer.get()) {
            drain_timer(retry_timer);
            retry();
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
        set_timer(check_timer, kCheckPause);
        check_is_timed = true;
    }

    void mark_everything() {
        for (auto& [name, watched] : watches)
            watched.mark_everything();
    }

    [[nodiscard]] bool dirty() const {
        return std::ranges::any_of(watches, [](const auto& entry) { return entry.second.dirty().any(); });
    }

    [[nodiscard]] Result<> refresh_one(const NetnsName& name, NetnsWatch& watched,
                                       const std::vector<const Netns*>& others) {
        if (!watched.dirty().any()) return {};
        ++(watched.dirty().all() ? counters.full_dumps : counters.partial_dumps);
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
        if (unlisted) note({}, *unlisted);
        for (const auto& [name, entry] : unopened) {
            if (entry.failure) note(name, *entry.failure);
        }
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
    auto full_dump_timer = make_timer();
    if (!full_dump_timer) return pass_on(full_dump_timer);
    auto check_timer = make_timer();
    if (!check_timer) return pass_on(check_timer);
    auto ipv6_ways_timer = make_timer();
    if (!ipv6_ways_timer) return pass_on(ipv6_ways_timer);
    auto retry_timer = make_timer();
    if (!retry_timer) return pass_on(retry_timer);
    auto directory = NetnsDirectory::open();
    if (!directory) return pass_on(directory);
    auto root = Netns::current();
    if (!root) return pass_on(root);

    const auto interval = options.full_dump_interval;
    auto impl = std::make_unique<Impl>(Impl{.options = std::move(options),
                                            .epoll = std::move(epoll),
                                            .full_dump_timer = std::move(*full_dump_timer),
                                            .check_timer = std::move(*check_timer),
                                            .ipv6_ways_timer = std::move(*ipv6_ways_timer),
                                            .retry_timer = std::move(*retry_timer),
                                            .directory = std::move(*directory),
                                            .watches = {},
                                            .watch_of_fd = {},
                                            .unchecked = {},
                                            .check_is_timed = false,
                                            .unopened = {},
                                            .unlisted = {},
                                            .listings = 0,
                                            .was_listed = false,
                                            .snapshot = {},
                                            .root_was_read = false,
                                            .root_is_current = false,
                                            .changes = {},
                                            .counters = {}});
    for (const int fd : {impl->directory.fd(), impl->full_dump_timer.get(), impl->check_timer.get(),
                         impl->ipv6_ways_timer.get(), impl->retry_timer.get()}) {
        if (auto added = impl->add_fd(fd); !added) return pass_on(added);
    }
    set_timer(impl->full_dump_timer, interval, interval);
    set_timer(impl->ipv6_ways_timer, kIpv6WaysInterval, kIpv6WaysInterval);
    if (auto watched = impl->watch(std::move(*root)); !watched) return pass_on(watched);
    impl->rescan();
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
    return impl_->root_was_read && impl_->was_listed;
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
    impl_->rescan();
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
