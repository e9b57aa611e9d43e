// SPDX-License-Identifier: Apache-2.0
// Observer against the real kernel: what iproute2, bridge and nft change must be in the snapshot at once.
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>

#include "linux/netns.hpp"
#include "linux/rtnl.hpp"
#include "observe/observer.hpp"
#include "support/no_descriptors.hpp"
#include "support/run_process.hpp"
#include "support/scratch_netns.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Predicate = std::function<bool(const Snapshot&)>;

void run(const std::string& command) {
    std::istringstream words(command);
    const auto result = run_process({std::istream_iterator<std::string>(words), {}});
    INFO(command << ": " << result.err);
    REQUIRE(result.exit_status == 0);
}

/// An observer whose node is a fresh network namespace of this process.
class Watched {
  public:
    explicit Watched(ObserverOptions options = {}) {
        isolate_mounts();
        REQUIRE(unshare(CLONE_NEWNET) == 0);
        auto opened = Observer::open(std::move(options));
        REQUIRE(opened.has_value());
        observer_.emplace(std::move(*opened));
        REQUIRE(observer_->refresh().has_value());
        (void)observer_->take_changes();
    }
    /// With the namespaces that the test has made.
    ~Watched() {
        for (const NetnsName& name : Netns::list().value_or(std::vector<NetnsName>{})) [[maybe_unused]]
            const auto removed = Netns::remove(name);
    }
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;
    Observer* operator->() { return &*observer_; }

    /// Serves notifications until the snapshot satisfies `predicate`, for ten seconds (scaled).
    void until(const Predicate& predicate) {
        const auto end = Clock::now() + scaled(10s);
        while (!predicate(observer_->snapshot())) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
            if (left <= 0s) FAIL("the snapshot never showed it");
            pollfd readable{observer_->fd(), POLLIN, 0};
            poll(&readable, 1, static_cast<int>(left.count()));
            if (observer_->drain()) REQUIRE(observer_->refresh().has_value());
        }
    }

    /// Whether what the kernel has told by now is enough for the snapshot to satisfy `predicate`.
    [[nodiscard]] bool at_once(const Predicate& predicate) {
        if (observer_->drain()) REQUIRE(observer_->refresh().has_value());
        return predicate(observer_->snapshot());
    }

    /// As until(), but reading may fail meanwhile, and must succeed at the end.
    void recover(const Predicate& predicate) {
        const auto end = Clock::now() + scaled(5s);
        bool good = false;
        while (!good || !predicate(observer_->snapshot())) {
            REQUIRE(Clock::now() < end);
            pollfd readable{observer_->fd(), POLLIN, 0};
            poll(&readable, 1, 10);
            (void)observer_->drain();
            good = observer_->refresh().has_value();
        }
    }

    /// Serves notifications until there have been none for a while.
    void settle() {
        const auto end = Clock::now() + scaled(10s);
        pollfd readable{observer_->fd(), POLLIN, 0};
        while (poll(&readable, 1, static_cast<int>(scaled(100ms).count())) > 0) {
            if (observer_->drain()) REQUIRE(observer_->refresh().has_value());
            REQUIRE(Clock::now() < end);
        }
    }

  private:
    std::optional<Observer> observer_;
};

const Link* link_of(const NetnsView* view, const std::string& name) {
    return view == nullptr ? nullptr : view->find_link(name);
}

std::optional<PeerInfo> peer_of(const Snapshot& snapshot, const NetnsName& netns, const std::string& name) {
    const Link* link = link_of(snapshot.netns(netns), name);
    return link == nullptr ? std::nullopt : link->peer;
}

bool has_address(const Snapshot& s, const std::string& prefix) {
    return std::ranges::any_of(s.root.addresses, [&](const Address& a) { return a.address.str() == prefix; });
}
bool has_route(const Snapshot& s, const std::string& prefix) {
    return std::ranges::any_of(s.root.routes, [&](const Route& r) { return r.destination.str() == prefix; });
}
bool has_rule(const Snapshot& s, std::uint32_t priority) {
    return std::ranges::any_of(s.root.rules, [&](const PolicyRule& r) { return r.priority == priority; });
}
const Neighbour* neighbour_of(const Snapshot& s, const std::string& address) {
    const auto found =
        std::ranges::find_if(s.root.neighbours, [&](const Neighbour& n) { return n.address.str() == address; });
    return found == s.root.neighbours.end() ? nullptr : &*found;
}
bool has_mac(const Snapshot& s, const std::string& mac) {
    return std::ranges::any_of(s.root.fdb, [&](const FdbEntry& e) { return e.mac.str() == mac; });
}
bool forwards(const Snapshot& s, const std::string& device) {
    const auto found = s.root.sysctls.devices.find(device);
    return found != s.root.sysctls.devices.end() && found->second.forwarding;
}

}  // namespace

TEST_CASE("Changes made by hand are in the snapshot at once, by partial dumps only", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip link add p0 type veth peer name p1");
    run("ip link set p0 up");
    run("ip link set p1 up");
    watched.settle();
    const auto full_dumps = watched->counters().full_dumps;

    struct Change {
        std::string command;
        Predicate shows;
    };
    const std::vector<Change> changes{
        {"ip link add br0 type bridge", [](const Snapshot& s) { return link_of(&s.root, "br0") != nullptr; }},
        {"ip link set p0 master br0",
         [](const Snapshot& s) { return link_of(&s.root, "p0")->master == link_of(&s.root, "br0")->ifindex; }},
        {"bridge link set dev p0 learning off",
         [](const Snapshot& s) {
             const auto& port = link_of(&s.root, "p0")->bridge_port;
             return port && !port->learning;
         }},
        {"ip link set br0 up mtu 1450", [](const Snapshot& s) { return link_of(&s.root, "br0")->mtu == 1450; }},
        {"ip link set br0 alias fiplane:t",
         [](const Snapshot& s) { return link_of(&s.root, "br0")->alias == "fiplane:t"; }},
        {"ip address add 192.0.2.1/24 dev br0", [](const Snapshot& s) { return has_address(s, "192.0.2.1/24"); }},
        {"ip route add 198.51.100.0/24 via 192.0.2.2",
         [](const Snapshot& s) { return has_route(s, "198.51.100.0/24"); }},
        {"ip rule add from 10.1.0.11 lookup 16 priority 40000", [](const Snapshot& s) { return has_rule(s, 40000); }},
        {"ip neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev br0 nud permanent",
         [](const Snapshot& s) { return neighbour_of(s, "192.0.2.9") != nullptr; }},
        {"bridge fdb add 02:00:00:00:00:77 dev p0 master static",
         [](const Snapshot& s) { return has_mac(s, "02:00:00:00:00:77"); }},
        {"nft add table ip one", [](const Snapshot&) { return true; }},
        {"nft add chain ip one post { type nat hook postrouting priority 100; }",
         [](const Snapshot& s) { return s.root.netfilter.chains.size() == 1; }},
        {"nft add rule ip one post counter accept",
         [](const Snapshot& s) { return s.root.netfilter.chains.at(0).rules.size() == 1; }},
        {"sysctl -qw net.ipv4.conf.br0.forwarding=1", [](const Snapshot& s) { return forwards(s, "br0"); }},
        {"nft delete table ip one", [](const Snapshot& s) { return s.root.netfilter.chains.empty(); }},
        {"bridge fdb del 02:00:00:00:00:77 dev p0 master",
         [](const Snapshot& s) { return !has_mac(s, "02:00:00:00:00:77"); }},
        {"ip neighbour del 192.0.2.9 dev br0",
         [](const Snapshot& s) { return neighbour_of(s, "192.0.2.9") == nullptr; }},
        {"ip rule del priority 40000", [](const Snapshot& s) { return !has_rule(s, 40000); }},
        {"ip address del 192.0.2.1/24 dev br0", [](const Snapshot& s) { return !has_address(s, "192.0.2.1/24"); }},
        {"ip link del br0", [](const Snapshot& s) { return link_of(&s.root, "br0") == nullptr; }},
    };
    for (const Change& change : changes) {
        run(change.command);
        INFO(change.command);
        CHECK(watched.at_once(change.shows));
    }
    CHECK(watched->counters().full_dumps == full_dumps);
    CHECK(watched->counters().overruns == 0);
}

TEST_CASE("Ways to IPv6 tunnel peers follow IPv6's routes and neighbours", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip link add p0 type veth peer name p1");
    run("ip link set p0 up");
    run("ip link set p1 up");
    run("ip address add 2001:db8::1/64 dev p0 nodad");
    watched.settle();
    CHECK(watched->snapshot().root.ipv6_ways.empty());
    const auto way = [](const Snapshot& s) -> const Ipv6Way* {
        return s.root.ipv6_ways.size() == 1 ? &s.root.ipv6_ways.front() : nullptr;
    };
    struct Change {
        std::string command;
        Predicate shows;
    };
    const std::vector<Change> changes{
        {"ip link add vx type vxlan id 7 local 2001:db8::1 dstport 4789 nolearning udp6zerocsumtx udp6zerocsumrx",
         [](const Snapshot& s) { return link_of(&s.root, "vx") != nullptr; }},
        {"bridge fdb append 00:00:00:00:00:00 dev vx dst 2001:db8:1::2",
         [&](const Snapshot& s) { return way(s) != nullptr && way(s)->type == RouteType::kUnreachable; }},
        {"ip route add 2001:db8:1::/48 via 2001:db8::9",
         [&](const Snapshot& s) { return way(s)->type == RouteType::kUnicast && way(s)->mtu == 1500; }},
        {"ip neighbour add 2001:db8::9 lladdr 02:00:00:00:00:09 dev p0 nud permanent",
         [&](const Snapshot& s) { return way(s)->mac == Mac::parse("02:00:00:00:00:09"); }},
        {"sysctl -qw net.ipv6.conf.p0.mtu=1400", [](const Snapshot&) { return true; }},  // has no notification
        {"ip route replace 2001:db8:1::/48 via 2001:db8::8",
         [&](const Snapshot& s) { return way(s)->gateway == IpAddress::parse("2001:db8::8") && way(s)->mtu == 1400; }},
        {"ip -6 route add 2001:db8:1::/48 via 2001:db8::9 table 77", [](const Snapshot&) { return true; }},
        {"ip -6 rule add from 2001:db8::1 lookup 77",
         [&](const Snapshot& s) { return way(s)->gateway == IpAddress::parse("2001:db8::9"); }},
        {"ip address del 2001:db8::1/64 dev p0", [&](const Snapshot& s) { return !way(s)->has_local; }},
        {"ip address add 2001:db8::1/64 dev p0 nodad", [&](const Snapshot& s) { return way(s)->has_local; }},
        {"ip -6 rule add ipproto udp dport 4789 lookup 77", [&](const Snapshot& s) { return way(s)->other_rules; }},
        {"ip link set p0 down", [&](const Snapshot& s) { return way(s)->type != RouteType::kUnicast; }},
        {"bridge fdb del 00:00:00:00:00:00 dev vx dst 2001:db8:1::2",
         [](const Snapshot& s) { return s.root.ipv6_ways.empty(); }},
    };
    for (const Change& change : changes) {
        run(change.command);
        INFO(change.command);
        CHECK(watched.at_once(change.shows));
    }
}

TEST_CASE("Routes that the kernel drops in silence with their device or address are noticed", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip link add p0 type veth peer name p1");
    run("ip link set p0 up");
    run("ip link set p1 up");
    run("ip address add 192.0.2.1/24 dev p0");
    run("ip address add 192.0.2.3/24 dev p0");
    run("ip route add 198.51.100.0/24 via 192.0.2.2");
    run("ip route add 203.0.113.0/24 dev p0 src 192.0.2.3");
    watched.until([](const Snapshot& s) { return has_route(s, "198.51.100.0/24") && has_route(s, "203.0.113.0/24"); });
    watched.settle();
    run("ip address del 192.0.2.3/24 dev p0");
    CHECK(watched.at_once([](const Snapshot& s) { return !has_route(s, "203.0.113.0/24"); }));
    watched.settle();
    run("ip link set p0 down");
    CHECK(watched.at_once([](const Snapshot& s) { return !has_route(s, "198.51.100.0/24"); }));
}

TEST_CASE("Router namespaces are watched from their creation to their deletion", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add qrouter-a");
    run("ip netns add unrelated");
    CHECK(watched.at_once([](const Snapshot& s) { return s.routers.contains("qrouter-a"); }));

    run("ip -n qrouter-a address add 10.1.0.1/24 dev lo");
    CHECK(watched.at_once([](const Snapshot& s) { return s.netns("qrouter-a")->addresses.size() == 1; }));

    // The same name for another namespace: nothing of the old one may be left.
    run("ip netns del qrouter-a");
    run("ip netns add qrouter-a");
    CHECK(watched.at_once(
        [](const Snapshot& s) { return s.netns("qrouter-a") != nullptr && s.netns("qrouter-a")->addresses.empty(); }));
    run("ip -n qrouter-a link set lo up");
    CHECK(watched.at_once([](const Snapshot& s) { return link_of(s.netns("qrouter-a"), "lo")->admin_up; }));

    run("ip netns del qrouter-a");
    CHECK(watched.at_once([](const Snapshot& s) { return s.routers.empty(); }));
    CHECK(watched->take_changes().configuration);
}

TEST_CASE("A router namespace that cannot be read stays as it was read last, and is marked", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add qrouter-a");
    run("ip netns exec qrouter-a nft add table ip known");
    run("ip netns exec qrouter-a nft add chain ip known post { type nat hook postrouting priority 100; }");
    const auto knows = [](const NetnsView* view, std::size_t chains) {
        return view != nullptr && view->netfilter.chains.size() == chains;
    };
    watched.until([&](const Snapshot& s) { return knows(s.netns("qrouter-a"), 1); });
    watched.settle();
    CHECK(watched->snapshot().netns("qrouter-a")->unread.empty());
    (void)watched->take_changes();

    run("ip netns exec qrouter-a nft add chain ip known pre { type nat hook prerouting priority -100; }");
    {
        const NoDescriptors none;
        REQUIRE(watched->drain());
        const auto refreshed = watched->refresh();
        REQUIRE_FALSE(refreshed.has_value());
        CHECK(watched->root_is_current());
        const NetnsView* view = watched->snapshot().netns("qrouter-a");
        REQUIRE(knows(view, 1));
        CHECK(view->unread == refreshed.error().what);
        CHECK(view->unread.find("Too many open files") != std::string::npos);
        CHECK(link_of(view, "lo") != nullptr);
        CHECK(watched->take_changes().any);
        CHECK_FALSE(watched->refresh().has_value());
        CHECK_FALSE(watched->take_changes().any);  // it is as it was
    }
    REQUIRE(watched->drain());
    REQUIRE(watched->refresh().has_value());
    CHECK(knows(watched->snapshot().netns("qrouter-a"), 2));
    CHECK(watched->snapshot().netns("qrouter-a")->unread.empty());
    CHECK(watched->take_changes().any);

    // The node's own namespace is another matter.
    run("nft add table ip own");
    {
        const NoDescriptors none;
        REQUIRE(watched->drain());
        CHECK_FALSE(watched->refresh().has_value());
        CHECK_FALSE(watched->root_is_current());
    }
    REQUIRE(watched->refresh().has_value());
    CHECK(watched->root_is_current());
    run("ip netns del qrouter-a");
}

TEST_CASE("Names that cannot be listed, and one that cannot be opened, are not gone", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add qrouter-a");
    run("ip -n qrouter-a address add 10.1.0.1/24 dev lo");
    const auto addresses = [](const Snapshot& s, const NetnsName& name) {
        return s.netns(name) == nullptr ? -1 : static_cast<int>(s.netns(name)->addresses.size());
    };
    watched.until([&](const Snapshot& s) { return addresses(s, "qrouter-a") == 1; });
    watched.settle();
    {
        const NoDescriptors none;
        watched->invalidate();
        const auto refreshed = watched->refresh();
        REQUIRE_FALSE(refreshed.has_value());
        CHECK(addresses(watched->snapshot(), "qrouter-a") == 1);
    }
    watched.recover([&](const Snapshot& s) { return addresses(s, "qrouter-a") == 1; });
    watched.settle();

    // Another one with the same name, and a new one. What is known of the first stays, the second is known to be there.
    run("ip netns del qrouter-a");
    run("ip netns add qrouter-a");
    run("ip netns add qrouter-new");
    {
        const NoDescriptors none;
        (void)watched->drain();
        const auto refreshed = watched->refresh();
        REQUIRE_FALSE(refreshed.has_value());
        CHECK(refreshed.error().what.starts_with("cannot open network namespace qrouter-"));
        CHECK(watched->root_is_current());
        CHECK(addresses(watched->snapshot(), "qrouter-a") == 1);
        REQUIRE(addresses(watched->snapshot(), "qrouter-new") == 0);
        CHECK(watched->snapshot().netns("qrouter-new")->links.empty());
        CHECK(watched->snapshot().netns("qrouter-new")->unread ==
              "cannot open network namespace qrouter-new: Too many open files");
        CHECK(watched->take_changes().any);
    }
    watched.recover([&](const Snapshot& s) {
        return addresses(s, "qrouter-a") == 0 && link_of(s.netns("qrouter-new"), "lo") != nullptr &&
               s.netns("qrouter-new")->unread.empty();
    });
    // A name that goes before it could be opened.
    run("ip netns add qrouter-brief");
    {
        const NoDescriptors none;
        (void)watched->drain();
        CHECK_FALSE(watched->refresh().has_value());
        REQUIRE(addresses(watched->snapshot(), "qrouter-brief") == 0);
    }
    run("ip netns del qrouter-brief");
    watched.recover([&](const Snapshot& s) { return addresses(s, "qrouter-brief") == -1; });
}

TEST_CASE("Before the namespaces have been listed the snapshot proves nothing", "[observe]") {
    REQUIRE_ROOT();
    isolate_mounts();
    REQUIRE(unshare(CLONE_NEWNET) == 0);
    run("ip netns add qrouter-a");
    // A directory that cannot be listed: a file in its place.
    REQUIRE(unshare(CLONE_NEWNS) == 0);
    REQUIRE(mount("observe-test", "/run", "tmpfs", 0, "mode=0755") == 0);
    std::ofstream("/run/netns") << "";
    auto observer = Observer::open({});
    REQUIRE(observer.has_value());
    CHECK_FALSE(observer->refresh().has_value());
    CHECK(observer->root_is_current());
    CHECK_FALSE(observer->ready());
    REQUIRE(umount2("/run", MNT_DETACH) == 0);
    observer->invalidate();
    CHECK(observer->refresh().has_value());
    CHECK(observer->ready());
    CHECK(observer->snapshot().netns("qrouter-a") != nullptr);
    run("ip netns del qrouter-a");
}

TEST_CASE("A namespace may come seconds after its name", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add late");
    run("touch /run/netns/qrouter-late");
    const auto come = Clock::now() + scaled(2500ms);
    while (Clock::now() < come)
        watched.settle();
    REQUIRE(watched->snapshot().netns("qrouter-late") == nullptr);
    run("mount --bind /run/netns/late /run/netns/qrouter-late");
    watched.until([](const Snapshot& s) { return s.netns("qrouter-late") != nullptr; });
}

TEST_CASE("The directory of namespaces may come later than the observer", "[observe]") {
    REQUIRE_ROOT();
    isolate_mounts();
    REQUIRE(unshare(CLONE_NEWNS) == 0);
    REQUIRE(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    REQUIRE(mount("observe-test", "/run", "tmpfs", 0, "mode=0755") == 0);
    {
        Watched watched;
        run("ip netns add fip-late");
        CHECK(watched.at_once([](const Snapshot& s) { return s.routers.contains("fip-late"); }));
        run("ip netns add snat-later");
        CHECK(watched.at_once([](const Snapshot& s) { return s.routers.contains("snat-later"); }));
    }
    REQUIRE(umount2("/run", MNT_DETACH) == 0);
}

TEST_CASE("The other ends of veth pairs are named, whichever namespace comes first", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add qrouter-a");
    run("ip netns add vm");
    run("ip link add tap-qr type veth peer name qr-1 netns qrouter-a");
    run("ip link add tap-vm type veth peer name eth0 netns vm");
    watched.until([](const Snapshot& s) { return peer_of(s, "", "tap-qr") && peer_of(s, "qrouter-a", "qr-1"); });
    watched.settle();
    // The second end is in a namespace that the observer learns of after the pair.
    run("ip netns add elsewhere");
    run("ip -n qrouter-a link add rfp-1 type veth peer name fpr-1 netns elsewhere");
    watched.until([](const Snapshot& s) { return peer_of(s, "qrouter-a", "rfp-1").has_value(); });
    CHECK_FALSE(peer_of(watched->snapshot(), "qrouter-a", "rfp-1")->netns.has_value());
    {
        const std::ofstream name("/run/netns/fip-b");
        REQUIRE(mount("/run/netns/elsewhere", "/run/netns/fip-b", "none", MS_BIND, nullptr) == 0);
    }
    watched.until([](const Snapshot& s) {
        const auto peer = peer_of(s, "qrouter-a", "rfp-1");
        return peer && peer->netns == "fip-b";
    });

    const Snapshot& s = watched->snapshot();
    CHECK(peer_of(s, "fip-b", "fpr-1")->netns == "qrouter-a");
    CHECK(peer_of(s, "fip-b", "fpr-1")->ifindex == link_of(s.netns("qrouter-a"), "rfp-1")->ifindex);
    CHECK(peer_of(s, "", "tap-qr")->netns == "qrouter-a");
    CHECK(peer_of(s, "", "tap-qr")->ifindex == link_of(s.netns("qrouter-a"), "qr-1")->ifindex);
    CHECK(peer_of(s, "qrouter-a", "qr-1")->netns == "");
    CHECK(peer_of(s, "qrouter-a", "qr-1")->ifindex == link_of(&s.root, "tap-qr")->ifindex);
    CHECK_FALSE(peer_of(s, "", "tap-vm")->netns.has_value());
}

TEST_CASE("Lost notifications lead to a full dump, and the snapshot is right", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip link add p0 type veth peer name p1");
    run("ip link set p0 up");
    watched.settle();
    const auto before = watched->counters();
    // More notifications than the socket's 8 MiB hold, while nobody reads.
    constexpr int kNeighbours = 900;
    constexpr int kRounds = 30;
    const std::string batch = fmt::format("/run/netns/.batch-{}", getpid());
    {
        std::ofstream file(batch);
        for (int round = 0; round < kRounds; ++round) {
            for (int i = 0; i < kNeighbours; ++i) {
                file << fmt::format("neighbour replace 10.{}.{}.{} lladdr 02:00:00:00:{:02x}:01 dev p0 nud permanent\n",
                                    100, i / 250, i % 250 + 1, round);
            }
        }
    }
    run("ip -batch " + batch);
    std::remove(batch.c_str());
    watched.until([](const Snapshot& s) {
        const Neighbour* last = neighbour_of(s, "10.100.3.150");
        return s.root.neighbours.size() == kNeighbours && last != nullptr && last->mac.str() == "02:00:00:00:1d:01";
    });
    CHECK(watched->counters().overruns > before.overruns);
    CHECK(watched->counters().full_dumps > before.full_dumps);
}

TEST_CASE("What somebody does to filters of a router's device is a change, though the view is the same", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("ip netns add qrouter-8");
    watched.until([](const Snapshot& snapshot) { return snapshot.routers.contains("qrouter-8"); });
    run("ip netns exec qrouter-8 tc qdisc add dev lo clsact");
    (void)watched->drain();
    REQUIRE(watched->refresh().has_value());
    (void)watched->take_changes();
    const auto before = watched->snapshot().routers.at("qrouter-8").links;
    run("ip netns exec qrouter-8 tc qdisc del dev lo clsact");
    (void)watched->drain();
    REQUIRE(watched->refresh().has_value());
    CHECK(watched->snapshot().routers.at("qrouter-8").links == before);
    CHECK(watched->take_changes().any);
}

TEST_CASE("Where only links of the node's own namespace are asked for, nothing else of it is read", "[observe]") {
    REQUIRE_ROOT();
    ObserverOptions options;
    options.root_links_only = true;
    Watched watched(options);
    run("ip link add here type veth peer name there");
    run("ip netns add qrouter-8");
    watched.until([](const Snapshot& snapshot) {
        return snapshot.root.find_link("here") != nullptr && snapshot.routers.contains("qrouter-8");
    });
    (void)watched->take_changes();
    const auto dumps = watched->counters();
    run("nft add table ip theirs");
    run("ip address add 192.0.2.1/24 dev here");
    run("ip rule add from 192.0.2.9 lookup 7");
    run("ip neigh add 192.0.2.5 lladdr 02:00:00:00:00:05 dev here");
    run("ip -n qrouter-8 address add 192.0.2.8/24 dev lo");
    watched.until([](const Snapshot& snapshot) { return !snapshot.routers.at("qrouter-8").addresses.empty(); });
    const NetnsView& root = watched->snapshot().root;
    CHECK(root.addresses.empty());
    CHECK(root.rules.empty());
    CHECK(root.neighbours.empty());
    CHECK(root.netfilter == nf::Ruleset{});
    CHECK(watched->ready());
    CHECK(watched->root_is_current());
    (void)watched->take_changes();
    // A notification of a link that says nothing new is no change.
    const auto before = watched->counters();
    CHECK(before.full_dumps == dumps.full_dumps);
    run("nft add chain ip theirs more");
    run("ip link set here mtu 1500");
    (void)watched->drain();
    REQUIRE(watched->refresh().has_value());
    CHECK_FALSE(watched->take_changes().any);
}

TEST_CASE("Only what somebody configured counts as a configuration change", "[observe]") {
    REQUIRE_ROOT();
    Watched watched;
    run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");  // would speak, and the bridge would learn from it
    run("ip link add p0 type veth peer name p1");
    run("ip link add br0 type bridge");
    run("ip link set p0 master br0");
    for (const char* device : {"p0", "p1", "br0"})
        run(fmt::format("ip link set {} up", device));
    // The kernel announces a carrier up to a second after it came (net/core/link_watch.c).
    watched.until([](const Snapshot& s) {
        return std::ranges::all_of(std::array{"p0", "p1", "br0"}, [&](const char* device) {
            return link_of(&s.root, device) != nullptr && link_of(&s.root, device)->running;
        });
    });
    watched.settle();
    (void)watched->take_changes();

    run("ip neighbour add 192.0.2.7 lladdr 02:00:00:00:00:07 dev br0 nud stale");
    run("bridge fdb add 02:00:00:00:00:78 dev p0 master dynamic");
    watched.until(
        [](const Snapshot& s) { return neighbour_of(s, "192.0.2.7") != nullptr && has_mac(s, "02:00:00:00:00:78"); });
    const Changes learned = watched->take_changes();
    CHECK(learned.any);
    CHECK_FALSE(learned.configuration);

    run("ip neighbour replace 192.0.2.7 lladdr 02:00:00:00:00:07 dev br0 nud permanent");
    watched.until([](const Snapshot& s) { return (neighbour_of(s, "192.0.2.7")->state & 0x80) != 0; });
    CHECK(watched->take_changes().configuration);
    watched.settle();
    const Changes none = watched->take_changes();
    CHECK_FALSE(none.any);
}

TEST_CASE("A periodic full dump sees what has no notification, and foreign programs are asked for", "[observe]") {
    REQUIRE_ROOT();
    ObserverOptions options;
    options.full_dump_interval = 1s;
    std::vector<std::string> answer;
    options.foreign_programs = [&](const Link& link) {
        return link.name == "lo" ? answer : std::vector<std::string>{};
    };
    const auto start = Clock::now();
    Watched watched(options);
    CHECK(link_of(&watched->snapshot().root, "lo")->foreign_programs.empty());
    answer = {"tcx ingress somebody"};
    watched.until([](const Snapshot& s) { return !link_of(&s.root, "lo")->foreign_programs.empty(); });
    CHECK(Clock::now() - start >= options.full_dump_interval);
    CHECK(watched->take_changes().any);
}

TEST_CASE("Periodic full dumps are of one namespace at a time, and what differs is a change", "[observe]") {
    REQUIRE_ROOT();
    constexpr std::size_t kRouters = 4;
    ObserverOptions options;
    options.full_dump_interval = std::chrono::ceil<std::chrono::seconds>(scaled(1s));
    std::vector<std::string> answer;
    options.router_programs = [&](const Link&) { return answer; };
    Watched watched(options);
    for (std::size_t i = 0; i < kRouters; ++i) {
        run(fmt::format("ip netns add qrouter-{}", i));
        run(fmt::format("ip netns exec qrouter-{} nft add table ip known", i));
        run(fmt::format(
            "ip netns exec qrouter-{} nft add chain ip known post {{ type nat hook postrouting priority 0; }}", i));
    }
    watched.until([&](const Snapshot& s) {
        return s.routers.size() == kRouters && std::ranges::all_of(s.routers, [](const auto& entry) {
                   return entry.second.netfilter.chains.size() == 1;
               });
    });
    struct Round {
        std::uint64_t read;  // namespaces, in full
        Changes changes;
    };
    const auto watch_rounds = [&](const std::function<bool()>& over) {
        std::vector<Round> rounds;
        const auto end = Clock::now() + scaled(20s);
        while (!over()) {
            REQUIRE(Clock::now() < end);
            pollfd readable{watched->fd(), POLLIN, 0};
            poll(&readable, 1, 100);
            if (!watched->drain()) continue;
            const auto before = watched->counters().full_dumps;
            REQUIRE(watched->refresh().has_value());
            rounds.push_back({watched->counters().full_dumps - before, watched->take_changes()});
        }
        return rounds;
    };
    const auto count_news = [](const std::vector<Round>& rounds) {
        return std::ranges::count_if(rounds, [](const Round& round) { return round.changes.any; });
    };
    const auto everything_once = [&] {
        return [&, begun = watched->counters().full_dumps] {
            return watched->counters().full_dumps >= begun + kRouters + 1;
        };
    };
    (void)watch_rounds(everything_once());
    const auto start = Clock::now();
    const auto begun = watched->counters().full_dumps;
    const auto quiet = watch_rounds(everything_once());
    CHECK(std::ranges::all_of(quiet, [](const Round& round) { return round.read <= 1; }));
    const auto intervals = (Clock::now() - start) / options.full_dump_interval;
    CHECK(intervals <= 5);
    CHECK(watched->counters().full_dumps - begun <= (static_cast<std::uint64_t>(intervals) + 2) * (kRouters + 1));
    // The node's own counts in any case.
    CHECK(count_news(quiet) <= intervals + 2);

    answer = {"tcx ingress somebody"};
    const auto told = watch_rounds([&] {
        return std::ranges::all_of(watched->snapshot().routers, [](const auto& entry) {
            return entry.second.find_link("lo")->foreign_programs.size() == 1;
        });
    });
    CHECK(count_news(told) >= static_cast<std::ptrdiff_t>(kRouters));
}

TEST_CASE("Notifications are served between periodic full dumps", "[observe]") {
    REQUIRE_ROOT();
    constexpr int kRouters = 20;
    ObserverOptions options;
    options.full_dump_interval = std::chrono::ceil<std::chrono::seconds>(scaled(1s));
    Watched watched(options);
    for (int i = 0; i < kRouters; ++i)
        run(fmt::format("ip netns add qrouter-{}", i));
    watched.until([&](const Snapshot& s) { return s.routers.size() == kRouters; });
    watched.settle();
    const auto begun = watched->counters().full_dumps;
    // The last one in the queue changes once the first of them has been read.
    watched.until([&](const Snapshot&) { return watched->counters().full_dumps >= begun + 2; });
    run("ip -n qrouter-9 address add 10.1.0.1/24 dev lo");
    CHECK(watched.at_once([](const Snapshot& s) { return s.netns("qrouter-9")->addresses.size() == 1; }));
    CHECK(watched->counters().full_dumps < begun + kRouters);
}

}  // namespace fiplane::test
