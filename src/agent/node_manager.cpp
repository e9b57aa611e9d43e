// SPDX-License-Identifier: Apache-2.0
#include "agent/node_manager.hpp"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "linux/child_process.hpp"
#include "linux/clock.hpp"

namespace fiplane {
namespace {

using namespace std::chrono_literals;

/// For how long notifications that follow one another are gathered into one round.
constexpr auto kGather = 5ms;
/// Our objects may be mended this often in a row, and then once per refill: somebody else may keep changing them.
constexpr int kMendBurst = 20;
constexpr auto kMendRefill = 1s;
/// Flows that nobody goes on with are looked for that often, in seconds.
constexpr std::uint64_t kForgetInterval = 60;
/// Nothing else is served while the first look at Linux is repeated.
constexpr auto kFirstLooks = 500ms;
constexpr auto kFirstLookPause = 100ms;
/// A round that takes longer is worth a word. Most of it is waiting for the kernel's rtnl lock then, which is held
/// while namespaces are removed.
constexpr auto kLongRound = 2s;

}  // namespace

Result<std::unique_ptr<NodeManager>> NodeManager::create(const AgentOptions& options, std::optional<Topology> topology,
                                                         EventLoop& loop) {
    std::optional<Reconciler> reconciler;
    if (topology) {
        auto opened = Reconciler::open(std::move(*topology), options.node, options.build);
        if (!opened) return pass_on(opened);
        reconciler = std::move(*opened);
    }
    std::unique_ptr<NodeManager> manager(new NodeManager(options, std::move(reconciler), loop));
    if (auto opened = manager->open_datapath(options.fast_path); !opened) return pass_on(opened);
    if (auto opened = manager->open_observer(); !opened) return pass_on(opened);
    return manager;
}

NodeManager::NodeManager(const AgentOptions& options, std::optional<Reconciler> reconciler, EventLoop& loop)
    : loop_(loop),
      node_(options.node),
      build_options_(options.build),
      reconciler_(std::move(reconciler)),
      fast_path_(options.datapath),
      announcer_(loop),
      observing_{.name = "observing Linux", .backoff = {100ms, 10s}},
      building_{.name = "building the overlay", .backoff = {1s, 60s}},
      accelerating_{.name = "updating the fast path", .backoff = {1s, kLease / 3}},
      mends_(kMendBurst, kMendRefill) {}

Result<> NodeManager::open_datapath(bool on) {
    // tc_router calls its functions.
    if (!reconciler_) load_kernel_module("nf_nat");
    if (!on) return fast_path_.turn_off();
    if (auto opened = fast_path_.turn_on(); !opened) return opened;
    return reconciler_ ? fast_path_.try_forced_xdp(reconciler_->underlay_device()) : Result<>{};
}

Result<> NodeManager::open_observer() {
    ObserverOptions options;
    options.foreign_programs = [this](const Link& link) { return fast_path_.foreign_programs(link); };
    options.router_programs = [](const Link& link) { return programs_here(link.ifindex); };
    options.root_links_only = !reconciler_;
    auto observer = Observer::open(std::move(options));
    if (!observer) return pass_on(observer);
    observer_ = std::make_unique<Observer>(std::move(*observer));
    return {};
}

Result<> NodeManager::start() {
    const auto hopeless = [](const Result<>& outcome) {
        return !outcome && outcome.error().code != ExitCode::kFailed && outcome.error().code != ExitCode::kTableFull;
    };
    const auto built = mend();
    if (hopeless(built)) return built;
    record(building_, built);
    record(observing_, observe_at_start());
    (void)observer_->take_changes();
    const auto accelerated = update_fast_path();
    if (hopeless(accelerated)) return accelerated;
    record(accelerating_, accelerated);
    renew_lease();

    loop_.after(1s, [this] { on_second(); });
    return loop_.watch(observer_->fd(), EPOLLIN, [this](std::uint32_t) { on_observer(); });
}

/// What an earlier agent's programs carry is compiled from the first look at Linux, so that gets more than one chance.
Result<> NodeManager::observe_at_start() {
    const auto end = Clock::now() + kFirstLooks;
    Result<> outcome = observe();
    while (!outcome && Clock::now() < end) {
        std::this_thread::sleep_for(kFirstLookPause);
        outcome = observe();
    }
    return outcome;
}

void NodeManager::on_observer() {
    if (!observer_->drain()) return;
    const auto now = Clock::now();
    if (!unsettled_since_) unsettled_since_ = now;
    if (settle_timer_ != 0) return;
    // In a storm of notifications at most half of the time goes into serving them.
    const auto next = last_settled_ + std::max<Clock::duration>(kGather, last_effort_);
    if (now >= next) {
        settle();
    } else {
        schedule_settle(next - now);
    }
}

void NodeManager::schedule_settle(Clock::duration delay) {
    if (settle_timer_ != 0) return;
    settle_timer_ = loop_.after(delay, [this] {
        settle_timer_ = 0;
        settle();
    });
}

/// Notes how an activity went; after a failure it will be due again, whatever has changed by then.
bool NodeManager::record(Activity& activity, const Result<>& outcome) {
    if (problems_.record(activity.name, outcome)) {
        activity.backoff.reset();
        return true;
    }
    if (activity.retry_timer == 0) {
        activity.retry_timer = loop_.after(activity.backoff.next(), [this, &activity] {
            activity.retry_timer = 0;
            activity.due = true;
            schedule_settle(0ms);
        });
    }
    return false;
}

void NodeManager::settle() {
    const auto start = Clock::now();
    const auto noticed = std::exchange(unsettled_since_, std::nullopt).value_or(start);
    Clock::duration reading{};
    const auto read = [&] {
        const auto begun = Clock::now();
        record(observing_, observe());
        reading += Clock::now() - begun;
    };
    read();
    const Changes changes = observer_->take_changes();
    accelerating_.due |= changes.any;

    if (std::exchange(building_.due, false) || changes.configuration) {
        const auto applied_before = changes_applied_;
        record(building_, mend());
        if (changes_applied_ != applied_before) {
            accelerating_.due = true;
            // What was built belongs into the snapshot before it is compiled. The next round plans again, which shows
            // that all is well, or what somebody else did meanwhile: it need not be a change to the snapshot, if that
            // has been undone which was built.
            record(observing_, observe());
            building_.due = true;
            schedule_settle(kGather);
        }
    }
    if (std::exchange(accelerating_.due, false)) {
        record(accelerating_, update_fast_path());
        last_change_ = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - noticed);
        spdlog::debug("settled {} us after the first notification", last_change_.count());
    }
    last_settled_ = Clock::now();
    last_effort_ = last_settled_ - start;
    if (last_effort_ > kLongRound) {
        const auto in_seconds = [](Clock::duration span) { return std::chrono::duration<double>(span).count(); };
        spdlog::info("a round took {:.1f} s, {:.1f} s of it reading Linux", in_seconds(last_effort_),
                     in_seconds(reading));
    }
}

Result<> NodeManager::observe() {
    (void)observer_->drain();
    return observer_->refresh();
}

Result<> NodeManager::mend() {
    if (!reconciler_) return {};
    const Reconciler::Hooks hooks{
        .withdraw =
            [this](const std::vector<Ipv4>& addresses) {
                for (const Ipv4 address : addresses)
                    announcer_.cancel(address);
                return fast_path_.withdraw(addresses);
            },
        .may_change = [this] { return may_mend(); },
        .changed = [this](const Step&) { ++changes_applied_; },
    };
    const auto announcements = reconciler_->reconcile(hooks);
    if (!announcements) return std::unexpected(announcements.error());
    for (const Announcement& announcement : *announcements)
        announcer_.announce(announcement);
    return {};
}

bool NodeManager::may_mend() {
    if (mend_pause_ != 0) return false;
    const auto wait = mends_.take(Clock::now());
    if (wait == Clock::duration::zero()) return true;
    spdlog::warn("something else keeps changing fiplane's objects: mending them at most once per second");
    mend_pause_ = loop_.after(wait, [this] {
        mend_pause_ = 0;
        building_.due = true;
        schedule_settle(0ms);
    });
    return false;
}

Result<> NodeManager::update_fast_path() {
    if (!observer_->ready()) return fail(ExitCode::kFailed, "nothing can be compiled before Linux has been read");
    Scope scope;
    scope.follows = !reconciler_;
    return fast_path_.update(observer_->snapshot(), reconciler_ ? reconciler_->scope() : scope);
}

/// Vouches for the tables unless they may be wrong. Rows that did not fit are none: their packets are Linux's. Neither
/// does a router's namespace that cannot be read matter: there are no rows that carry anything past it.
void NodeManager::renew_lease() {
    if (reconciler_ || !fast_path_.is_on() || !observer_->root_is_current() || !fast_path_.in_step()) return;
    problems_.record("vouching for the tables", fast_path_.vouch(kLease));
}

void NodeManager::on_second() {
    loop_.after(1s, [this] { on_second(); });
    if (!fast_path_.is_on()) return;
    renew_lease();
    if (++seconds_ % kForgetInterval == 0) problems_.record("forgetting old flows", fast_path_.forget_flows());
    keepalives_.tick(
        fast_path_.compiled().keepalives, monotonic_seconds(),
        [this](const fl_dest_key& key) { return fast_path_.last_use(key); },
        [this](const NetnsName& netns, int ifindex, const IpAddress& address) {
            return observer_->use_neighbour(netns, ifindex, address);
        });
    learned_entries_.tick(
        fast_path_.compiled().learned, monotonic_seconds(),
        [this](const fl_fdb_key& key) { return fast_path_.last_use(key); },
        [this](const LearnedEntry& entry) { return observer_->refresh_fdb(entry.ifindex, entry.mac, entry.peer); });
}

Result<std::size_t> NodeManager::replace_topology(Topology topology) {
    auto reconciler = Reconciler::open(std::move(topology), node(), build_options_);
    if (!reconciler) return pass_on(reconciler);
    reconciler_.emplace(std::move(*reconciler));
    const auto applied_before = changes_applied_;
    mends_ = TokenBucket(kMendBurst, kMendRefill);  // what was asked for is no mending
    building_.due = accelerating_.due = true;
    settle();
    if (auto built = outcome_of(building_); !built) return pass_on(built);
    return changes_applied_ - applied_before;
}

Result<> NodeManager::switch_fast_path(bool on) {
    if (!(on ? fast_path_.is_on() : fast_path_.is_off())) {
        if (auto switched = on ? fast_path_.turn_on() : fast_path_.turn_off(); !switched) return switched;
        spdlog::info("fast path switched {}", on ? "on" : "off");
        observer_->invalidate();  // whose programs are on the devices is known only while the datapath is loaded
        accelerating_.due = true;
        settle();
        renew_lease();
    }
    return on ? outcome_of(accelerating_) : Result<>{};
}

Result<> NodeManager::outcome_of(const Activity& activity) const {
    const auto problem = problems_.current().find(activity.name);
    if (problem == problems_.current().end()) return {};
    return std::unexpected(problem->second.error);
}

std::vector<std::string> NodeManager::waiting_for() const {
    return reconciler_ ? reconciler_->waiting_for() : std::vector<std::string>{};
}

AgentStatus NodeManager::status() const {
    AgentStatus now;
    now.node = node();
    now.topology = topology();
    now.routers = neutron_routers(observer_->snapshot());
    now.fast_path = fast_path_.is_on();
    now.compiled = &fast_path_.compiled();
    now.left_out = &fast_path_.left_out();
    now.attachments = fast_path_.attachments();
    now.counters = fast_path_.counters();
    now.fip_counters = fast_path_.fip_counters();
    now.waiting_for = waiting_for();
    now.problems = &problems_;
    now.observer = observer_->counters();
    now.fast_path_statistics = fast_path_.statistics();
    now.changes_applied = changes_applied_;
    now.confirmations = keepalives_.confirmations();
    now.refreshes = learned_entries_.refreshes();
    now.last_change = last_change_;
    return now;
}

}  // namespace fiplane
