// SPDX-License-Identifier: Apache-2.0
// What test runs cannot show: where frames really come out, and the metadata between XDP and tc. The programs sit on
// veth devices in namespaces of their own; one frame goes in, the same frame must come out at the right place.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <cstring>

#include "bpf/world.hpp"
#include "linux/sysctl.hpp"
#include "linux/unique_fd.hpp"
#include "support/frame_diff.hpp"
#include "support/run_process.hpp"
#include "support/scratch_netns.hpp"
#include "support/time_scale.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

/// struct virtio_net_hdr, whose header is no C++: a member there is called class.
struct VnetHeader {
    std::uint8_t flags = 0;
    std::uint8_t gso_type = 0;
    std::uint16_t hdr_len = 0;
    std::uint16_t gso_size = 0;
    std::uint16_t csum_start = 0;
    std::uint16_t csum_offset = 0;
};

/// A packet socket on one device; it stays in the namespace that it was made in.
class Tap {
  public:
    Tap(const Netns& netns, const char* device) {
        const auto inside = NetnsGuard::enter(netns);
        REQUIRE(inside);
        fd_.reset(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)));
        REQUIRE(fd_.get() >= 0);
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_ALL);
        address.sll_ifindex = static_cast<int>(if_nametoindex(device));
        REQUIRE(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    }

    void send(const Bytes& frame) const {
        REQUIRE(::send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
    }

    /// The kernel puts no more than the first `linear` bytes into the skb's linear part. For frames larger than a page.
    void send_scattered(const Bytes& frame, std::uint16_t linear) const {
        const int on = 1;
        REQUIRE(setsockopt(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) == 0);
        const VnetHeader header{.hdr_len = linear};
        Bytes whole(sizeof(header));
        std::memcpy(whole.data(), &header, sizeof(header));
        whole.insert(whole.end(), frame.begin(), frame.end());
        send(whole);
    }

    struct Received {
        Bytes frame;
        unsigned char packet_type = 0;
    };

    /// The first frame that comes in and is like `expected`, or none within a second (scaled). Others pass by.
    [[nodiscard]] std::optional<Received> receive(const Bytes& expected) const {
        return first(expected, false, scaled(std::chrono::seconds(1)));
    }
    /// Whether a frame like `expected` has gone out by now.
    [[nodiscard]] bool has_sent(const Bytes& expected) const {
        return first(expected, true, std::chrono::milliseconds(0)).has_value();
    }

  private:
    [[nodiscard]] std::optional<Received> first(const Bytes& expected, bool outgoing,
                                                std::chrono::milliseconds limit) const {
        const auto end = std::chrono::steady_clock::now() + limit;
        while (true) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
            pollfd waiting{.fd = fd_.get(), .events = POLLIN, .revents = 0};
            if (poll(&waiting, 1, std::max(0, static_cast<int>(left.count()))) <= 0) return std::nullopt;
            Received got{.frame = Bytes(16384)};
            sockaddr_ll from{};
            socklen_t length = sizeof(from);
            const ssize_t size =
                recvfrom(fd_.get(), got.frame.data(), got.frame.size(), 0, reinterpret_cast<sockaddr*>(&from), &length);
            if (size < 0 || (from.sll_pkttype == PACKET_OUTGOING) != outgoing) continue;
            got.frame.resize(static_cast<std::size_t>(size));
            got.packet_type = from.sll_pkttype;
            if (!frame_difference(expected, got.frame, Freedom::kOuterPortAndId)) return got;
        }
    }

    UniqueFd fd_;
};

/// nic -- wire: the underlay. port -- eth0 in the VM's namespace. br0: a bridge.
struct Node {
    ScratchNetns node{"node"};
    ScratchNetns vm{"vm"};
    World world;
    std::uint32_t nic = 0, port = 0, br = 0;
    std::vector<bpf_link*> links;

    Node() {
        // IPv6 would speak by itself, at any time: the programs would count it.
        for (const Netns* netns : {&node.netns(), &vm.netns()})
            REQUIRE(write_sysctl(*netns, "ipv6/conf/default/disable_ipv6", "1").has_value());
        ip_command({"link", "add", "nic", "type", "veth", "peer", "name", "wire"});
        ip_command({"link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", vm.name()});
        ip_command({"link", "add", "br0", "type", "bridge"});
        for (const char* device : {"nic", "wire", "port", "br0"})
            ip_command({"link", "set", device, "up"});
        const auto up = run_process_in(vm.netns(), {"ip", "link", "set", "eth0", "up", "address", world.vm_mac.str()});
        REQUIRE(up.exit_status == 0);
        // A device without an announced carrier loses what it is given, and link_watch may take a second.
        for (const char* device : {"nic", "wire", "port"}) {
            for (double i = 0; i < 100 * time_scale(); ++i) {
                const auto shown = run_process_in(node.netns(), {"ip", "link", "show", "dev", device});
                if (shown.out.find("state UP") != std::string::npos) break;
                usleep(50'000);
            }
        }
        const auto inside = NetnsGuard::enter(node.netns());
        nic = if_nametoindex("nic");
        port = if_nametoindex("port");
        br = if_nametoindex("br0");
    }
    ~Node() {
        for (bpf_link* link : links)
            bpf_link__destroy(link);
        // A namespace's end comes some time after its removal. Until then a program would go on counting.
        for (const char* device : {"nic", "port", "br0"})
            static_cast<void>(run_process_in(node.netns(), {"ip", "link", "del", device}));
    }
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    void ip_command(std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), "ip");
        const auto done = run_process_in(node.netns(), arguments);
        INFO(done.err);
        REQUIRE(done.exit_status == 0);
    }

    /// On both ends: XDP_TX on a veth loses every frame whose receiving end has no NAPI, which GRO or XDP there give
    /// it.
    void attach_xdp() {
        const auto inside = NetnsGuard::enter(node.netns());
        for (const char* device : {"nic", "wire"}) {
            links.push_back(bpf_program__attach_xdp(world.programs.program(FL_HOOK_XDP_UNDERLAY),
                                                    static_cast<int>(if_nametoindex(device))));
            REQUIRE(links.back() != nullptr);
        }
    }

    /// clsact, which every supported kernel has; the programs do not see the difference from tcx.
    void attach_tc(fl_hook hook, std::uint32_t ifindex) const { attach_tc(node.netns(), hook, ifindex); }
    void attach_tc(const Netns& netns, fl_hook hook, std::uint32_t ifindex) const {
        const auto inside = NetnsGuard::enter(netns);
        LIBBPF_OPTS(bpf_tc_hook, where);
        where.ifindex = static_cast<int>(ifindex);
        where.attach_point = hook == FL_HOOK_TC_HOST ? BPF_TC_EGRESS : BPF_TC_INGRESS;
        (void)bpf_tc_hook_create(&where);
        LIBBPF_OPTS(bpf_tc_opts, what);
        what.prog_fd = bpf_program__fd(world.programs.program(hook));
        REQUIRE(bpf_tc_attach(&where, &what) == 0);
    }

    /// A row of fl_sources; the port's without the source check.
    void set_source(std::uint32_t ifindex, fl_role role, std::uint32_t segment) const {
        world.programs.put("fl_sources", fl_source_key{.ifindex = ifindex, .vlan = 0, .pad = {}},
                           fl_source{.role = role, .segment = segment, .mac = {}, .pad = {}, .ip = {}, .flags = 0});
    }

    [[nodiscard]] std::uint64_t packets(fl_hook hook, fl_reason reason) const {
        return world.programs.packets(hook, reason);
    }

    /// One frame that is sent there is counted like this, within a second (scaled).
    void expect_counted(const Tap& tap, const Bytes& frame, fl_hook hook, fl_reason reason) const {
        const auto before = packets(hook, reason);
        tap.send(frame);
        for (double i = 0; i < 20 * time_scale() && packets(hook, reason) == before; ++i)
            usleep(50'000);
        CHECK(packets(hook, reason) == before + 1);
    }
};

Packet body() {
    return Udp{} / Payload{"live"};
}

}  // namespace

TEST_CASE("what XDP has finished, tc delivers by the metadata") {
    REQUIRE_ROOT();
    Node node;
    node.attach_xdp();
    node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
    fl_next next = node.world.next_to_vm();
    const bool host = GENERATE(false, true);
    const std::uint32_t flags = host ? 0 : GENERATE(0U, std::uint32_t{FL_OUT_PEER});
    next.out = node.world.port_out(host ? node.br : node.port, flags);
    if (host) next.out.kind = FL_OUT_HOST;
    node.world.set_fip_in(next);

    const Tap wire(node.node.netns(), "wire");
    const Tap target(host ? node.node.netns() : node.vm.netns(), host ? "br0" : "eth0");
    const Tap port(node.node.netns(), "port");
    const auto xdp_before = node.packets(FL_HOOK_XDP_UNDERLAY, FL_REASON_FIP_IN);
    const auto tc_before = node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_XDP_DONE);
    wire.send(node.world.from_peer(kExternalVni, node.world.to_fip() / body()).bytes());
    CHECK(target.receive((node.world.to_vm() / body()).bytes()));
    CHECK(node.packets(FL_HOOK_XDP_UNDERLAY, FL_REASON_FIP_IN) == xdp_before + 1);
    CHECK(node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_XDP_DONE) == tc_before + 1);
    // A packet for the peer does not pass the port's own egress.
    CHECK(port.has_sent((node.world.to_vm() / body()).bytes()) == (!host && flags == 0));
}

TEST_CASE("metadata that came along through a veth means nothing on another device") {
    REQUIRE_ROOT();
    Node node;
    node.attach_xdp();
    node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
    std::uint32_t eth0 = 0;
    {
        const auto inside = NetnsGuard::enter(node.vm.netns());
        eth0 = if_nametoindex("eth0");
    }
    node.attach_tc(node.vm.netns(), FL_HOOK_TC_UNDERLAY, eth0);
    fl_next next = node.world.next_to_vm();
    next.out = node.world.port_out(node.port);
    node.world.set_fip_in(next);

    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");
    const auto done = node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_XDP_DONE);
    const auto passed = node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_NOT_OVERLAY);
    wire.send(node.world.from_peer(kExternalVni, node.world.to_fip() / body()).bytes());
    REQUIRE(vm.receive((node.world.to_vm() / body()).bytes()));
    CHECK(node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_XDP_DONE) == done + 1);
    CHECK(node.packets(FL_HOOK_TC_UNDERLAY, FL_REASON_NOT_OVERLAY) == passed + 1);
}

TEST_CASE("headers that are not in the skb's linear part are made linear") {
    REQUIRE_ROOT();
    Node node;
    const World& world = node.world;
    for (const char* device : {"nic", "wire", "port"})
        node.ip_command({"link", "set", device, "mtu", "9000"});
    REQUIRE(run_process_in(node.vm.netns(), {"ip", "link", "set", "eth0", "mtu", "9000"}).exit_status == 0);
    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");
    const std::uint16_t linear = GENERATE(std::uint16_t{14}, std::uint16_t{34}, std::uint16_t{60});

    SECTION("of a frame that is forwarded") {
        node.attach_tc(FL_HOOK_TC_PORT, node.port);
        node.set_source(node.port, FL_ROLE_PORT, kTenant);
        fl_out out = world.tunnel_out(kTenantVni);
        out.ifindex = node.nic;
        out.mtu = 8950;
        node.world.set_fdb(kTenant, world.remote_mac, out);
        const Packet frame = world.vm_to_remote() / Udp{} / Payload::counting(5000);
        vm.send_scattered(frame.bytes(), linear);
        CHECK(wire.receive(world.to_peer(kTenantVni, frame).bytes()));
    }
    SECTION("up to the end of the headers that an ICMP error quotes") {
        node.attach_tc(FL_HOOK_TC_TUNNEL, node.nic);
        node.set_source(node.nic, FL_ROLE_TUNNEL, kExternal);
        fl_next next = world.next_to_vm();
        next.out = world.port_out(node.port);
        next.mtu = next.out.mtu = 9000;
        node.world.set_fip_in(next);
        const auto quoted = [&](Ipv4 source) {
            return quote(Ip4{.src = source, .dst = world.client} / Tcp{} / Payload::counting(4600), 4600);
        };
        const Icmp icmp{.type = 11, .rest = 0};
        wire.send_scattered((world.to_fip() / icmp / quoted(world.fip)).bytes(), linear);
        CHECK(vm.receive((world.to_vm() / icmp / quoted(world.fixed)).bytes()));
    }
}

TEST_CASE("tc delivers to the port, directly or through its peer, as a packet for the receiving host") {
    REQUIRE_ROOT();
    Node node;
    const std::uint32_t flags = GENERATE(0U, std::uint32_t{FL_OUT_PEER});
    fl_next next = node.world.next_to_vm();
    next.out = node.world.port_out(node.port, flags);
    node.world.set_fip_in(next);
    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");

    SECTION("from the underlay") {
        node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
        wire.send(node.world.from_peer(kExternalVni, node.world.to_fip() / body()).bytes());
    }
    SECTION("from the tunnel device, where the frame's MAC is not the device's own") {
        node.attach_tc(FL_HOOK_TC_TUNNEL, node.nic);
        node.set_source(node.nic, FL_ROLE_TUNNEL, kExternal);
        wire.send((node.world.to_fip() / body()).bytes());
    }
    const auto got = vm.receive((node.world.to_vm() / body()).bytes());
    REQUIRE(got);
    CHECK(got->packet_type == PACKET_HOST);
}

TEST_CASE("a tunnel packet with a VLAN tag, which the kernel has put beside the frame, is not ours") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
    const Tap wire(node.node.netns(), "wire");
    Bytes tagged = node.world.from_peer(kExternalVni, node.world.to_fip() / body()).bytes();
    const Bytes tag = {0x81, 0x00, 0x00, 0x05};
    tagged.insert(tagged.begin() + 12, tag.begin(), tag.end());
    node.expect_counted(wire, tagged, FL_HOOK_TC_UNDERLAY, FL_REASON_NOT_OVERLAY);
}

TEST_CASE("a frame that ends inside its IPv4 header is left to Linux") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_TUNNEL, node.nic);
    node.set_source(node.nic, FL_ROLE_TUNNEL, kExternal);
    const Tap wire(node.node.netns(), "wire");
    Bytes cut = (node.world.to_fip() / body()).bytes();
    cut.resize(33);
    node.expect_counted(wire, cut, FL_HOOK_TC_TUNNEL, FL_REASON_SHORT_FRAME);
}

TEST_CASE("a VM's frame comes out of the underlay device in a tunnel packet") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.port);
    node.set_source(node.port, FL_ROLE_PORT, kTenant);
    fl_out out = node.world.tunnel_out(kTenantVni);
    out.ifindex = node.nic;
    node.world.set_fdb(kTenant, node.world.remote_mac, out);

    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");
    const Packet frame = node.world.vm_to_remote() / body();
    vm.send(frame.bytes());
    CHECK(wire.receive(node.world.to_peer(kTenantVni, frame).bytes()));
}

TEST_CASE("what the host sends into a segment is answered and forwarded at its bridge") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_HOST, node.br);
    node.set_source(node.br, FL_ROLE_HOST, kExternal);
    const Tap bridge(node.node.netns(), "br0");
    SECTION("an ARP request is answered as if the segment had") {
        const World& world = node.world;
        bridge.send((Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.client_mac} /
                     Arp{.sender_mac = world.client_mac, .sender_ip = world.client, .target_ip = world.fip})
                        .bytes());
        CHECK(bridge.receive((Eth{.dst = world.client_mac, .src = world.fg_mac} / Arp{.operation = 2,
                                                                                      .sender_mac = world.fg_mac,
                                                                                      .sender_ip = world.fip,
                                                                                      .target_mac = world.client_mac,
                                                                                      .target_ip = world.client})
                                 .bytes()));
    }
    SECTION("a packet for a floating IP goes to the VM") {
        fl_next next = node.world.next_to_vm();
        next.out = node.world.port_out(node.port, FL_OUT_PEER);
        node.world.set_fip_in(next);
        const Tap vm(node.vm.netns(), "eth0");
        bridge.send((node.world.to_fip() / body()).bytes());
        CHECK(vm.receive((node.world.to_vm() / body()).bytes()));
    }
}

TEST_CASE("an ARP request from the wire is answered on the wire, in XDP and in tc") {
    REQUIRE_ROOT();
    Node node;
    if (GENERATE(true, false)) node.attach_xdp();
    node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
    const Tap wire(node.node.netns(), "wire");
    const World& world = node.world;
    const Packet request = Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.client_mac} /
                           Arp{.sender_mac = world.client_mac, .sender_ip = world.client, .target_ip = world.fip};
    const Packet reply = Eth{.dst = world.client_mac, .src = world.fg_mac} / Arp{.operation = 2,
                                                                                 .sender_mac = world.fg_mac,
                                                                                 .sender_ip = world.fip,
                                                                                 .target_mac = world.client_mac,
                                                                                 .target_ip = world.client};
    wire.send(world.from_peer(kExternalVni, request).bytes());
    CHECK(wire.receive(world.to_peer(kExternalVni, reply).bytes()));
}
