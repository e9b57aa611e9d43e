// SPDX-License-Identifier: Apache-2.0
// A distributed router of somebody else, with Linux's own rules, that tc_router follows: real connections from end to
// end, and whose they are.
//
//   vm 10.1.0.5 -- qr-1 [router] rfp-1 -- fpr-1 [fip] fg-1 -- 172.24.4.2 far
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/generators/catch_generators.hpp>

#include "functional/datapath_bench.hpp"
#include "linux/sysctl.hpp"
#include "support/carriers.hpp"
#include "support/conntrack.hpp"
#include "support/packet.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

constexpr std::uint32_t kQr = 0x80000001, kRfp = 0x80000002, kFpr = 0x80000003, kFg = 0x80000004;
constexpr std::uint32_t kRouter = 0x80000010, kFip = 0x80000011, kDomain = 7;
constexpr int kNetnsId = 5;  ///< of the router, as fip knows it
constexpr std::uint16_t kPort = 5000;

/// An IPv4 address and a port.
struct Place {
    std::string address;
    std::uint16_t port = 0;

    static Place of(const sockaddr_in& raw) {
        std::array<char, INET_ADDRSTRLEN> text{};
        inet_ntop(AF_INET, &raw.sin_addr, text.data(), text.size());
        return {text.data(), ntohs(raw.sin_port)};
    }
    [[nodiscard]] sockaddr_in raw() const {
        sockaddr_in out{};
        out.sin_family = AF_INET;
        out.sin_port = htons(port);
        REQUIRE(inet_pton(AF_INET, address.c_str(), &out.sin_addr) == 1);
        return out;
    }
    bool operator==(const Place&) const = default;
};

/// A socket that stays in the namespace that it was made in.
class Socket {
  public:
    Socket(const Netns& netns, int type, const Place& own) {
        const auto inside = need(NetnsGuard::enter(netns));
        fd_.reset(socket(AF_INET, type | SOCK_CLOEXEC, 0));
        REQUIRE(fd_);
        limit_time();
        const sockaddr_in raw = own.raw();
        REQUIRE(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&raw), sizeof(raw)) == 0);
    }

    void listen() const { REQUIRE(::listen(fd_.get(), 1) == 0); }
    void connect(const Place& to) const {
        const sockaddr_in raw = to.raw();
        REQUIRE(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&raw), sizeof(raw)) == 0);
    }
    /// From now on it is the connection that somebody makes.
    void accept() {
        sockaddr_in from{};
        socklen_t length = sizeof(from);
        fd_.reset(::accept4(fd_.get(), reinterpret_cast<sockaddr*>(&from), &length, SOCK_CLOEXEC));
        REQUIRE(fd_);
        limit_time();
        peer_ = Place::of(from);
    }
    void send(std::string_view what) const {
        REQUIRE(::send(fd_.get(), what.data(), what.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(what.size()));
    }
    /// What comes next: "nothing" if that is nothing in time, "end" or "reset" at a connection's end.
    [[nodiscard]] std::string receive() {
        std::array<char, 256> data{};
        sockaddr_in from{};
        socklen_t length = sizeof(from);
        const ssize_t size =
            recvfrom(fd_.get(), data.data(), data.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
        if (size < 0) return errno == ECONNRESET ? "reset" : "nothing";
        if (size == 0) return "end";
        if (length == sizeof(from)) peer_ = Place::of(from);
        return {data.data(), static_cast<std::size_t>(size)};
    }
    void close() { fd_.reset(); }
    /// Ends it with a RST.
    void reset() {
        const linger at_once{.l_onoff = 1, .l_linger = 0};
        REQUIRE(setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
        close();
    }
    /// From whom the connection, or the last datagram, came.
    [[nodiscard]] const Place& peer() const { return peer_; }

  private:
    void limit_time() const {
        const auto milliseconds = scaled(std::chrono::seconds(2)).count();
        const timeval limit{.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
        for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
            REQUIRE(setsockopt(fd_.get(), SOL_SOCKET, option, &limit, sizeof(limit)) == 0);
    }

    UniqueFd fd_;
    Place peer_;
};

struct FollowedRouter {
    DatapathBench bench;
    ScratchNetns vm{"vm"}, router{"router"}, fip{"fip"}, far{"far"};
    Mac vm_mac = mac("fa:16:3e:00:00:05"), qr_mac = mac("fa:16:3e:00:00:01");
    Mac fg_mac = mac("fa:16:3e:00:00:f9"), far_mac = mac("fa:16:3e:00:00:c2");
    Datapath datapath;

    FollowedRouter() : datapath(make()) {
        static_cast<void>(need(datapath.sync(tables())));
        need(datapath.attach({role(router, "qr-1", kQr), role(router, "rfp-1", kRfp), role(fip, "fpr-1", kFpr),
                              role(fip, "fg-1", kFg)}));
        for (const auto& attachment : datapath.attachments())
            REQUIRE(attachment.mode == tc_mode());
    }

    void vouch(int seconds) { need(datapath.vouch(std::chrono::seconds(seconds))); }
    [[nodiscard]] std::uint64_t packets(fl_reason reason) const {
        for (const auto& counter : need(datapath.read_counters())) {
            if (counter.hook == FL_HOOK_TC_ROUTER && counter.reason == reason) return counter.packets;
        }
        return 0;
    }

  private:
    static void in(const ScratchNetns& netns, std::vector<std::string> command) {
        const auto done = run_process_in(netns.netns(), command);
        INFO(command[0] << ": " << done.err);
        REQUIRE(done.exit_status == 0);
    }
    static void pair(const ScratchNetns& a, const std::string& name, const Mac& address, const ScratchNetns& b,
                     const std::string& peer, const Mac& peer_address) {
        in(a, {"ip", "link", "add", name, "address", address.str(), "type", "veth", "peer", "name", peer, "address",
               peer_address.str(), "netns", b.name()});
        in(a, {"ip", "link", "set", name, "up"});
        in(b, {"ip", "link", "set", peer, "up"});
        wait_for_carriers(a.netns(), {name});
        wait_for_carriers(b.netns(), {peer});
    }
    [[nodiscard]] static int index(const ScratchNetns& netns, const std::string& device) {
        const auto inside = need(NetnsGuard::enter(netns.netns()));
        return DatapathBench::index_of(device);
    }
    [[nodiscard]] static DeviceRole role(const ScratchNetns& netns, const std::string& device, std::uint32_t number) {
        return {index(netns, device), device, DeviceRole::Kind::kRouter, false, {}, netns.name(), number};
    }

    /// Linux's own part, which carries everything as long as nobody vouches for the tables.
    Datapath make() {
        load_conntrack_modules();
        // Before a veth leads there, with which the kernel would give it one.
        in(fip, {"ip", "netns", "set", router.name(), std::to_string(kNetnsId)});
        pair(router, "qr-1", qr_mac, vm, "eth0", vm_mac);
        pair(router, "rfp-1", mac("fa:16:3e:00:00:a1"), fip, "fpr-1", mac("fa:16:3e:00:00:a0"));
        pair(fip, "fg-1", fg_mac, far, "eth0", far_mac);
        for (const auto& [netns, device, address] : {std::tuple(&vm, "eth0", "10.1.0.5/24"),
                                                     {&router, "qr-1", "10.1.0.1/24"},
                                                     {&router, "rfp-1", "169.254.0.1/31"},
                                                     {&fip, "fpr-1", "169.254.0.0/31"},
                                                     {&fip, "fg-1", "172.24.4.1/23"},
                                                     {&far, "eth0", "172.24.4.2/23"}})
            in(*netns, {"ip", "address", "add", address, "dev", device});
        in(vm, {"ip", "route", "add", "default", "via", "10.1.0.1"});
        in(router, {"ip", "route", "add", "default", "via", "169.254.0.0"});
        in(fip, {"ip", "route", "add", "172.24.5.11", "via", "169.254.0.1"});
        in(far, {"ip", "neighbour", "add", "172.24.5.11", "lladdr", fg_mac.str(), "dev", "eth0"});
        for (const ScratchNetns* netns : {&router, &fip})
            REQUIRE(write_sysctl(netns->netns(), "ipv4/ip_forward", "1"));
        in(router, {"nft", R"(
            table ip nat {
                chain pre {
                    type nat hook prerouting priority -100
                    ip daddr 172.24.5.11 dnat to 10.1.0.5
                }
                chain post {
                    type nat hook postrouting priority 100
                    oifname rfp-1 ip saddr 10.1.0.5 snat to 172.24.5.11 fully-random
                }
            })"});
        auto options = bench.options();
        options.follows = true;
        return need(Datapath::open(options));
    }

    [[nodiscard]] static fl_next journey(const Mac& to, const Mac& from, int veth, std::uint32_t target) {
        fl_next next{};
        std::ranges::copy(to.bytes, next.dmac);
        std::ranges::copy(from.bytes, next.smac);
        next.hops = 2;
        next.mtu = next.out.mtu = 1500;
        next.out.kind = FL_OUT_PORT;
        next.out.ifindex = static_cast<std::uint32_t>(veth);
        next.out.port = target;
        next.out.flags = FL_OUT_CROSS;
        return next;
    }

    [[nodiscard]] Tables tables() const {
        Tables out;
        out.config.layout = FL_ABI_LAYOUT;
        for (const auto& [number, translator] : {std::pair(kQr, kRouter), {kFg, kFip}}) {
            fl_source source{};
            source.role = FL_ROLE_ROUTER;
            source.segment = source.port = number;
            source.router = translator;
            out.sources[{.ifindex = number, .vlan = 0, .pad = {}}] = source;
        }
        fl_fip_in row{};
        std::ranges::copy(fg_mac.bytes, row.router_mac);
        row.next = journey(vm_mac, qr_mac, index(fip, "fpr-1"), kQr);
        std::ranges::copy(ip("10.1.0.5").bytes(), row.next.dnat);
        row.next.router = kRouter;
        row.netnsid = kNetnsId;
        out.fip_in[{.segment = kFg, .fip = {172, 24, 5, 11}}] = row;

        fl_vm_key host{.port = kQr, .fixed = {10, 1, 0, 5}, .router_mac = {}, .pad = {}};
        std::ranges::copy(qr_mac.bytes, host.router_mac);
        out.vms[host] = {.mac = {}, .pad = {}, .fip = {172, 24, 5, 11}, .domain = kDomain};
        fl_next next = journey(far_mac, fg_mac, index(router, "rfp-1"), kFg);
        next.flags = FL_NEXT_SNAT;
        out.dests[{.domain = kDomain, .ip = {172, 24, 4, 2}}] = next;

        const auto final = [](int device) {
            return fl_crossing{.ifindex = static_cast<std::uint32_t>(device), .flags = 0};
        };
        out.crossings[{.device = kRfp, .target = kQr}] = final(index(router, "qr-1"));
        out.crossings[{.device = kFpr, .target = kFg}] = final(index(fip, "fg-1"));
        return out;
    }
};

/// A connection, or an exchange of datagrams, that the VM or the far end begins.
struct Exchange {
    Socket vm, far;

    Exchange(const FollowedRouter& node, int type, bool from_vm)
        : vm(node.vm.netns(), type, {"10.1.0.5", kPort}), far(node.far.netns(), type, {"172.24.4.2", kPort}) {
        Socket& caller = from_vm ? vm : far;
        Socket& called = from_vm ? far : vm;
        if (type == SOCK_STREAM) called.listen();
        caller.connect({from_vm ? "172.24.4.2" : "172.24.5.11", kPort});
        if (type == SOCK_STREAM) {
            called.accept();
        } else {
            caller.send("hello");
            REQUIRE(called.receive() == "hello");
            called.connect(called.peer());
        }
    }

    [[nodiscard]] bool outwards() {
        vm.send("out");
        return far.receive() == "out";
    }
    [[nodiscard]] bool inwards() {
        far.send("in");
        return vm.receive() == "in";
    }
};

}  // namespace

TEST_CASE("connections go through a followed router without conntrack", "[datapath][router][live]") {
    REQUIRE_ROOT();
    FollowedRouter node;
    node.vouch(1000);
    const bool from_vm = GENERATE(true, false);
    Exchange exchange(node, GENERATE(SOCK_STREAM, SOCK_DGRAM), from_vm);
    CHECK(exchange.outwards());
    CHECK(exchange.inwards());
    if (from_vm) CHECK(exchange.far.peer() == Place{"172.24.5.11", kPort});
    CHECK(node.packets(FL_REASON_FIP_OUT) > 0);
    CHECK(node.packets(FL_REASON_FIP_IN) > 0);
    // Each packet comes out of one veth.
    CHECK(node.packets(FL_REASON_CROSSED) == node.packets(FL_REASON_FIP_OUT) + node.packets(FL_REASON_FIP_IN));
    CHECK(node.packets(FL_REASON_DROP_REWRITE) == 0);
    CHECK(tracked(node.router.netns()).empty());
}

TEST_CASE("an echo goes through a followed router both ways", "[datapath][router][live]") {
    REQUIRE_ROOT();
    FollowedRouter node;
    node.vouch(1000);
    const bool from_vm = GENERATE(true, false);
    for (int i = 0; i < 2; ++i) {  // of one flow: the identifier is the same
        const auto ping =
            run_process_in((from_vm ? node.vm : node.far).netns(),
                           {"ping", "-n", "-e", "77", "-c", "1", "-W", "10", from_vm ? "172.24.4.2" : "172.24.5.11"});
        INFO(ping.out << ping.err);
        CHECK(ping.exit_status == 0);
    }
    CHECK(node.packets(FL_REASON_FIP_OUT) == 2);
    CHECK(node.packets(FL_REASON_FIP_IN) == 2);
    CHECK(tracked(node.router.netns()).empty());
}

TEST_CASE("a connection that Linux has begun stays Linux's, with the port that it has chosen",
          "[datapath][router][live]") {
    REQUIRE_ROOT();
    FollowedRouter node;
    Exchange exchange(node, GENERATE(SOCK_STREAM, SOCK_DGRAM), GENERATE(true, false));
    REQUIRE(exchange.outwards());
    const auto entries = tracked(node.router.netns());
    REQUIRE(entries.size() == 1);
    node.vouch(1000);
    CHECK(exchange.outwards());
    CHECK(exchange.inwards());
    CHECK(node.packets(FL_REASON_LINUX_FLOW) > 0);
    CHECK(node.packets(FL_REASON_FIP_OUT) + node.packets(FL_REASON_FIP_IN) == 0);
    CHECK(tracked(node.router.netns()) == entries);
}

TEST_CASE("a connection outlives the end of the lease, and stays Linux's afterwards", "[datapath][router][live]") {
    REQUIRE_ROOT();
    FollowedRouter node;
    node.vouch(1000);
    const int type = GENERATE(SOCK_STREAM, SOCK_DGRAM);
    Exchange exchange(node, type, GENERATE(true, false));
    REQUIRE(exchange.outwards());
    REQUIRE(exchange.inwards());
    REQUIRE(tracked(node.router.netns()).empty());
    node.vouch(0);
    SECTION("the first packet goes out") {
        CHECK(exchange.outwards());
        CHECK(exchange.inwards());
        CHECK(tracked(node.router.netns()) ==
              std::vector<std::string>{std::string(type == SOCK_STREAM ? "tcp" : "udp") +
                                       " 10.1.0.5:5000 > 172.24.4.2:5000, answers 172.24.4.2:5000 > 172.24.5.11:5000"});
    }
    SECTION("the first packet comes in") {
        CHECK(exchange.inwards());
        CHECK(exchange.outwards());
        CHECK(tracked(node.router.netns()) ==
              std::vector<std::string>{std::string(type == SOCK_STREAM ? "tcp" : "udp") +
                                       " 172.24.4.2:5000 > 172.24.5.11:5000, answers 10.1.0.5:5000 > 172.24.4.2:5000"});
    }
    const auto carried = node.packets(FL_REASON_FIP_OUT) + node.packets(FL_REASON_FIP_IN);
    node.vouch(1000);
    CHECK(exchange.inwards());
    CHECK(exchange.outwards());
    CHECK(node.packets(FL_REASON_FIP_OUT) + node.packets(FL_REASON_FIP_IN) == carried);
    CHECK(node.packets(FL_REASON_LINUX_FLOW) > 0);
}

TEST_CASE("a connection can end after the lease, whoever ends it", "[datapath][router][live]") {
    REQUIRE_ROOT();
    FollowedRouter node;
    node.vouch(1000);
    Exchange exchange(node, SOCK_STREAM, GENERATE(true, false));
    REQUIRE(exchange.outwards());
    REQUIRE(exchange.inwards());
    // Delayed acknowledgements are over by then (40 ms): the end is the first that Linux sees of it.
    usleep(200'000);
    node.vouch(0);
    const bool vm_ends = GENERATE(true, false);
    Socket& first = vm_ends ? exchange.vm : exchange.far;
    Socket& second = vm_ends ? exchange.far : exchange.vm;
    SECTION("with a FIN") {
        first.close();
        CHECK(second.receive() == "end");
    }
    SECTION("with a RST, of which the other side learns when it says something") {
        first.reset();
        usleep(50'000);
        second.send("still there?");
        CHECK(second.receive() == "reset");
    }
}

}  // namespace fiplane::test
