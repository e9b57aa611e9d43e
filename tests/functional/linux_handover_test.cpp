// SPDX-License-Identifier: Apache-2.0
// Connections that Linux did not see begin, and goes on with: through a router whose rules choose ports at random.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "functional/linux_witness.hpp"
#include "linux/conntrack.hpp"
#include "linux/nft.hpp"
#include "linux/sysctl.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using Catch::Matchers::ContainsSubstring;
using namespace std::chrono_literals;

const char* const kRouterName = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
constexpr const char* kInside = "10.1.0.11";
constexpr const char* kFip = "203.0.113.101";
constexpr const char* kOutside = "198.51.100.9";
constexpr std::uint16_t kVmPort = 40001;
constexpr std::uint16_t kHostPort = 443;

/// What the programs do: one to one, ports stay, and conntrack knows nothing of it.
constexpr const char* kStateless = R"(
add table ip carried
add chain ip carried in { type filter hook prerouting priority -400; }
add rule ip carried in notrack
add rule ip carried in ip daddr 203.0.113.101 ip daddr set 10.1.0.11
add chain ip carried out { type filter hook postrouting priority 300; }
add rule ip carried out ip saddr 10.1.0.11 ip saddr set 203.0.113.101
)";

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}
Prefix prefix(const char* text) {
    return Prefix::parse(text).value();
}

sockaddr_in address_of(const char* address, std::uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    out.sin_addr.s_addr = ip(address).network();
    return out;
}
const sockaddr* raw(const sockaddr_in& address) {
    const void* pointer = &address;
    return static_cast<const sockaddr*>(pointer);
}

/// "10.1.0.11:40001" of the other end.
std::string peer_of(const UniqueFd& fd) {
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    void* pointer = &peer;
    REQUIRE(getpeername(fd.get(), static_cast<sockaddr*>(pointer), &size) == 0);
    return fmt::format("{}:{}", Ipv4::from_network(peer.sin_addr.s_addr).str(), ntohs(peer.sin_port));
}

UniqueFd bound(const Netns& netns, int type, const char* address, std::uint16_t port) {
    auto guard = NetnsGuard::enter(netns);
    REQUIRE(guard);
    UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const auto here = address_of(address, port);
    REQUIRE(bind(fd.get(), raw(here), sizeof here) == 0);
    return fd;
}

bool readable(const UniqueFd& fd, std::chrono::milliseconds patience) {
    pollfd watched{fd.get(), POLLIN, 0};
    return poll(&watched, 1, static_cast<int>(scaled(patience).count())) > 0;
}

/// What comes; "" if nothing does, or the connection is broken.
std::string received(const UniqueFd& fd, std::chrono::milliseconds patience = 3s) {
    if (!readable(fd, patience)) return {};
    std::array<char, 64> buffer{};
    const ssize_t size = recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    return {buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

void send_text(const UniqueFd& fd, const std::string& text) {
    REQUIRE(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

/// Whether so many bytes arrive, sent as fast as the windows allow.
bool carries(const UniqueFd& from, const UniqueFd& to, std::size_t bytes) {
    const std::vector<char> chunk(1 << 16);
    std::vector<char> buffer(1 << 16);
    std::size_t sent = 0;
    for (std::size_t arrived = 0; arrived < bytes;) {
        if (sent < bytes) {
            const auto put = send(from.get(), chunk.data(), std::min(chunk.size(), bytes - sent), MSG_DONTWAIT);
            sent += static_cast<std::size_t>(std::max<ssize_t>(put, 0));
        }
        if (!readable(to, 3s)) return false;
        const auto got = recv(to.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got <= 0) return false;
        arrived += static_cast<std::size_t>(got);
    }
    return true;
}

/// A namespace with a name of one's choice.
struct NamedNetns {
    Netns netns;
    explicit NamedNetns(const NetnsName& name) : netns(make(name)) {}
    ~NamedNetns() { [[maybe_unused]] const auto removed = Netns::remove(netns.name()); }
    NamedNetns(const NamedNetns&) = delete;
    NamedNetns& operator=(const NamedNetns&) = delete;
    static Netns make(const NetnsName& name) {
        isolate_mounts();
        return must(Netns::create(name));
    }
};

/// A VM with a floating IP, its router with the rules of a Neutron L3 agent, and a host outside.
struct Cloud {
    Bench vm{"vm"};
    NamedNetns router{kRouterName};
    Bench host{"host"};
    Rtnl rtnl = must(Rtnl::open(router.netns));

    Cloud() {
        must(write_sysctl(router.netns, "ipv4/ip_forward", "1"));
        attach(vm, "qr-1", "10.1.0.1/24", "10.1.0.11/24");
        attach(host, "qg-1", "198.51.100.1/24", "198.51.100.9/24");
        iptables({"PREROUTING", "-d", kFip, "-j", "DNAT", "--to-destination", kInside});
        iptables({"POSTROUTING", "-s", kInside, "-j", "SNAT", "--to-source", kFip, "--random-fully"});
        must(run_nft(router.netns, kStateless));
    }
    void attach(Bench& end, const char* name, const char* router_address, const char* address) {
        must(rtnl.add_veth({.name = name, .peer_name = "eth0", .peer_netns = &end.netns()}));
        const int inner = must(rtnl.link_by_name(name)).value().ifindex;
        const int outer = end.link("eth0").ifindex;
        must(rtnl.change_link(inner, name, {.up = true}));
        must(end.rtnl.change_link(outer, "eth0", {.up = true}));
        must(rtnl.add_address(inner, prefix(router_address), true));
        must(end.rtnl.add_address(outer, prefix(address), true));
        must(end.rtnl.set_route({.destination = prefix("0.0.0.0/0"),
                                 .oif = outer,
                                 .gateway = prefix(router_address).address,
                                 .protocol = 4}));
    }
    void iptables(std::vector<std::string> rule) const {
        rule.insert(rule.begin(), {"iptables-nft", "-t", "nat", "-A"});
        const auto result = run_process_in(router.netns, rule);
        INFO(result.err);
        REQUIRE(result.exit_status == 0);
    }
    /// From now on it is Linux's.
    void detach() const { must(run_nft(router.netns, "delete table ip carried")); }
    /// Entries with a translation, one a line, as the program conntrack shows them.
    [[nodiscard]] std::string tracked(const char* which = "--any-nat") const {
        return run_process_in(router.netns, {"conntrack", "-L", which}).out;
    }
};

/// Both ends of a connection that was opened while the router kept no state.
struct Connection {
    UniqueFd vm;
    UniqueFd host;
};

Connection opened(const Cloud& cloud, int type, bool by_vm) {
    Connection out;
    UniqueFd vm = bound(cloud.vm.netns(), type, kInside, kVmPort);
    UniqueFd host = bound(cloud.host.netns(), type, kOutside, kHostPort);
    const auto seen_vm = address_of(kFip, kVmPort);
    const auto seen_host = address_of(kOutside, kHostPort);
    if (type == SOCK_DGRAM) {
        REQUIRE(connect(vm.get(), raw(seen_host), sizeof seen_host) == 0);
        REQUIRE(connect(host.get(), raw(seen_vm), sizeof seen_vm) == 0);
        out = {std::move(vm), std::move(host)};
    } else {
        UniqueFd& client = by_vm ? vm : host;
        UniqueFd& server = by_vm ? host : vm;
        REQUIRE(listen(server.get(), 1) == 0);
        const auto& target = by_vm ? seen_host : seen_vm;
        REQUIRE(connect(client.get(), raw(target), sizeof target) == 0);
        UniqueFd accepted(accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
        REQUIRE(accepted);
        out = by_vm ? Connection{std::move(client), std::move(accepted)}
                    : Connection{std::move(accepted), std::move(client)};
    }
    REQUIRE(peer_of(out.host) == fmt::format("{}:{}", kFip, kVmPort));
    send_text(by_vm ? out.vm : out.host, "first");
    REQUIRE(received(by_vm ? out.host : out.vm) == "first");
    send_text(by_vm ? out.host : out.vm, "second");
    REQUIRE(received(by_vm ? out.vm : out.host) == "second");
    return out;
}

TrackedConnection entry_of(int type, bool by_vm) {
    TrackedConnection out;
    out.protocol = type == SOCK_DGRAM ? IPPROTO_UDP : IPPROTO_TCP;
    if (by_vm) {
        out.original = {ip(kInside), kVmPort, ip(kOutside), kHostPort};
        out.reply = {ip(kOutside), kHostPort, ip(kFip), kVmPort};
    } else {
        out.original = {ip(kOutside), kHostPort, ip(kFip), kVmPort};
        out.reply = {ip(kInside), kVmPort, ip(kOutside), kHostPort};
    }
    out.timeout = 100;
    return out;
}

AddedConnections added(const Cloud& cloud, const std::vector<TrackedConnection>& connections) {
    auto done = must(add_conntrack(cloud.router.netns, connections));
    INFO((done.refusal ? done.refusal->message() : ""));
    CHECK(done.refused == 0);
    return done;
}

}  // namespace

TEST_CASE("a connection's entry is read back as it was meant", "[linux][conntrack][handover]") {
    REQUIRE_ROOT();
    const Cloud cloud;
    auto closing = entry_of(SOCK_STREAM, true);
    closing.original.source_port = closing.reply.destination_port = 40002;
    closing.closing = true;
    closing.timeout = 60;
    auto hairpin = entry_of(SOCK_DGRAM, true);
    hairpin.original.source_port = hairpin.reply.destination_port = 40003;
    hairpin.original.destination = ip("203.0.113.102");
    hairpin.reply.source = ip("10.1.0.12");
    auto unanswered = entry_of(SOCK_STREAM, true);
    unanswered.original.source_port = unanswered.reply.destination_port = 40004;
    unanswered.answered = false;
    const auto done =
        added(cloud, {entry_of(SOCK_STREAM, true), entry_of(SOCK_DGRAM, false), closing, hairpin, unanswered});
    CHECK(done.added == 5);
    CHECK(done.present + done.taken == 0);

    const std::string all = cloud.tracked();
    INFO(all);
    CHECK_THAT(all, ContainsSubstring("ESTABLISHED src=10.1.0.11 dst=198.51.100.9 sport=40001 dport=443 "
                                      "src=198.51.100.9 dst=203.0.113.101 sport=443 dport=40001 [ASSURED]"));
    CHECK_THAT(all, ContainsSubstring("FIN_WAIT src=10.1.0.11 dst=198.51.100.9 sport=40002 dport=443 "
                                      "src=198.51.100.9 dst=203.0.113.101 sport=443 dport=40002 [ASSURED]"));
    CHECK_THAT(all, ContainsSubstring("src=198.51.100.9 dst=203.0.113.101 sport=443 dport=40001 "
                                      "src=10.1.0.11 dst=198.51.100.9 sport=40001 dport=443 [ASSURED]"));
    CHECK_THAT(all, ContainsSubstring("src=10.1.0.11 dst=203.0.113.102 sport=40003 dport=443 "
                                      "src=10.1.0.12 dst=203.0.113.101 sport=443 dport=40003 [ASSURED]"));
    CHECK_THAT(all, ContainsSubstring("src=10.1.0.11 dst=198.51.100.9 sport=40004 dport=443 [UNREPLIED] "
                                      "src=198.51.100.9 dst=203.0.113.101 sport=443 dport=40004"));
    CHECK(std::ranges::count(all, '\n') == 5);
    // The kernel calls each what it is, and gives it its time.
    CHECK(std::ranges::count(cloud.tracked("--src-nat"), '\n') == 4);
    CHECK(std::ranges::count(cloud.tracked("--dst-nat"), '\n') == 2);
    const auto named = all.find(" ESTABLISHED");
    REQUIRE(named != std::string::npos);
    const int left = std::stoi(all.substr(all.rfind(' ', named - 1)));
    CHECK(left <= 100);
    CHECK(left > 80);

    // What is there stays, from whichever side it is seen; a port that is another connection's is said to be.
    auto changed = entry_of(SOCK_STREAM, true);
    changed.timeout = 5;
    auto other = entry_of(SOCK_STREAM, true);
    other.original.source = ip("10.1.0.77");
    const auto again = added(cloud, {changed, entry_of(SOCK_STREAM, false), other});
    CHECK(again.added == 0);
    CHECK(again.present == 2);
    CHECK(again.taken == 1);
    CHECK(std::ranges::count(cloud.tracked(), '\n') == 5);
}

TEST_CASE("what conntrack takes, and for how long, is read from the namespace", "[linux][conntrack][handover]") {
    REQUIRE_ROOT();
    const Cloud cloud;
    must(write_sysctl(cloud.router.netns, "netfilter/nf_conntrack_tcp_timeout_established", "7200"));
    must(write_sysctl(cloud.router.netns, "netfilter/nf_conntrack_tcp_timeout_fin_wait", "77"));
    must(write_sysctl(cloud.router.netns, "netfilter/nf_conntrack_udp_timeout_stream", "33"));
    must(write_sysctl(cloud.router.netns, "netfilter/nf_conntrack_tcp_timeout_unacknowledged", "44"));
    must(write_sysctl(cloud.router.netns, "netfilter/nf_conntrack_udp_timeout", "22"));
    const ConntrackLimits limits = read_conntrack_limits(cloud.router.netns);
    CHECK(limits.tcp_unanswered == 44);
    CHECK(limits.udp_unanswered == 22);
    CHECK(limits.tcp_established == 7200);
    CHECK(limits.tcp_closing == 77);
    CHECK(limits.udp_stream == 33);
    const auto most = std::stoull(must(read_sysctl(cloud.router.netns, "netfilter/nf_conntrack_max")));
    CHECK(limits.room == most);
    CHECK(added(cloud, {entry_of(SOCK_STREAM, true)}).added == 1);
    CHECK(read_conntrack_limits(cloud.router.netns).room == most - 1);
}

TEST_CASE("Linux goes on with a connection that has an entry, and breaks it without one",
          "[linux][conntrack][handover]") {
    REQUIRE_ROOT();
    const int type = GENERATE(SOCK_STREAM, SOCK_DGRAM);
    const bool by_vm = GENERATE(true, false);
    const bool handed_over = GENERATE(true, false);
    INFO((type == SOCK_DGRAM ? "UDP" : "TCP") << (by_vm ? " from inside" : " from outside"));
    const Cloud cloud;
    const Connection connection = opened(cloud, type, by_vm);
    REQUIRE(cloud.tracked().empty());
    if (handed_over) REQUIRE(added(cloud, {entry_of(type, by_vm)}).added == 1);
    cloud.detach();
    send_text(connection.vm, "third");
    if (!handed_over) {
        CHECK(received(connection.host, 700ms).empty());
        return;
    }
    CHECK(received(connection.host) == "third");
    send_text(connection.host, "fourth");
    CHECK(received(connection.vm) == "fourth");
    CHECK(std::ranges::count(cloud.tracked(), '\n') == 1);
}

TEST_CASE("windows that Linux does not know stop no transfer", "[linux][conntrack][handover]") {
    REQUIRE_ROOT();
    const Cloud cloud;
    const Connection connection = opened(cloud, SOCK_STREAM, true);
    // The windows are far beyond what they say without their scale, which only the handshake had.
    REQUIRE(carries(connection.host, connection.vm, 8 << 20));
    REQUIRE(added(cloud, {entry_of(SOCK_STREAM, true)}).added == 1);
    cloud.detach();
    CHECK(carries(connection.host, connection.vm, 8 << 20));
    CHECK(carries(connection.vm, connection.host, 8 << 20));
}

TEST_CASE("one side of a connection goes on after the other has ended", "[linux][conntrack][handover]") {
    REQUIRE_ROOT();
    const Cloud cloud;
    const Connection connection = opened(cloud, SOCK_STREAM, true);
    REQUIRE(shutdown(connection.vm.get(), SHUT_WR) == 0);
    REQUIRE(readable(connection.host, 3s));
    auto entry = entry_of(SOCK_STREAM, true);
    entry.closing = true;
    REQUIRE(added(cloud, {entry}).added == 1);
    cloud.detach();
    send_text(connection.host, "still here");
    CHECK(received(connection.vm) == "still here");
    CHECK(carries(connection.host, connection.vm, 1 << 20));
    REQUIRE(shutdown(connection.host.get(), SHUT_WR) == 0);
    CHECK(readable(connection.vm, 3s));
    // Both FINs, and the last acknowledgement.
    for (int i = 0; i < 100 && cloud.tracked().find("TIME_WAIT") == std::string::npos; ++i)
        poll(nullptr, 0, 20);
    CHECK_THAT(cloud.tracked(), ContainsSubstring("TIME_WAIT"));
}

}  // namespace fiplane::test
