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
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <cstring>

#include "bpf/world.hpp"
#include "linux/sysctl.hpp"
#include "linux/unique_fd.hpp"
#include "support/carriers.hpp"
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
        const int on = 1;
        REQUIRE(setsockopt(fd_.get(), SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) == 0);
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
            iovec place{.iov_base = got.frame.data(), .iov_len = got.frame.size()};
            alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(tpacket_auxdata))> control{};
            msghdr message{};
            message.msg_name = &from;
            message.msg_namelen = sizeof(from);
            message.msg_iov = &place;
            message.msg_iovlen = 1;
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            const ssize_t size = recvmsg(fd_.get(), &message, 0);
            if (size < 0 || (from.sll_pkttype == PACKET_OUTGOING) != outgoing) continue;
            got.frame.resize(static_cast<std::size_t>(size));
            got.packet_type = from.sll_pkttype;
            put_tag_back(message, got.frame);
            if (!frame_difference(expected, got.frame, Freedom::kOuterPortAndId)) return got;
        }
    }

    /// The kernel keeps a VLAN tag beside the frame.
    static void put_tag_back(msghdr& message, Bytes& frame) {
        const cmsghdr* control = CMSG_FIRSTHDR(&message);
        if (control == nullptr || control->cmsg_type != PACKET_AUXDATA) return;
        tpacket_auxdata auxiliary{};
        std::memcpy(&auxiliary, CMSG_DATA(control), sizeof(auxiliary));
        if ((auxiliary.tp_status & TP_STATUS_VLAN_VALID) == 0) return;
        const std::array<std::uint16_t, 2> words{auxiliary.tp_vlan_tpid, auxiliary.tp_vlan_tci};
        Bytes tag;
        for (const std::uint16_t word : words) {
            tag.push_back(static_cast<std::uint8_t>(word >> 8));
            tag.push_back(static_cast<std::uint8_t>(word));
        }
        frame.insert(frame.begin() + 12, tag.begin(), tag.end());
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

    explicit Node(fl_tunnel_type type = FL_TUNNEL_VXLAN) : world(type) {
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
        wait_for_carriers(node.netns(), {"nic", "wire", "port"});
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

    /// nic is a trunk; frames of this VLAN enter the segment by the VLAN device `device`.
    void set_vlan(std::uint16_t vlan, std::uint32_t segment, std::uint32_t device, std::uint32_t flags = 0) const {
        fl_source row = source_row(FL_ROLE_PORT, segment, device, flags);
        world.programs.put("fl_sources", fl_source_key{.ifindex = nic, .vlan = vlan, .pad = {}}, row);
        row = {};
        row.role = FL_ROLE_TRUNK;
        world.programs.put("fl_sources", fl_source_key{.ifindex = nic, .vlan = 0, .pad = {}}, row);
    }

    /// Out of the trunk with this tag, as the VLAN device `device` would send.
    [[nodiscard]] fl_out vlan_out(std::uint16_t vlan, std::uint32_t device) const {
        fl_out out = world.port_out(nic);
        out.port = device;
        out.vlan = vlan;
        return out;
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
        node.world.put_source(node.port, FL_ROLE_PORT, kTenant);
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
        node.world.put_source(node.nic, FL_ROLE_TUNNEL, kExternal);
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
        node.world.put_source(node.nic, FL_ROLE_TUNNEL, kExternal);
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
    node.world.put_source(node.nic, FL_ROLE_TUNNEL, kExternal);
    const Tap wire(node.node.netns(), "wire");
    Bytes cut = (node.world.to_fip() / body()).bytes();
    cut.resize(33);
    node.expect_counted(wire, cut, FL_HOOK_TC_TUNNEL, FL_REASON_SHORT_FRAME);
}

TEST_CASE("a VM's frame comes out of the underlay device in a tunnel packet") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.port);
    node.world.put_source(node.port, FL_ROLE_PORT, kTenant);
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
    node.world.put_source(node.br, FL_ROLE_HOST, kExternal);
    const Tap bridge(node.node.netns(), "br0");
    SECTION("an ARP request is answered as if the segment had") {
        const World& world = node.world;
        bridge.send(world.who_has_fip().bytes());
        CHECK(bridge.receive(world.fip_is_at().bytes()));
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
    const Packet request = world.who_has_fip();
    const Packet reply = world.fip_is_at();
    wire.send(world.from_peer(kExternalVni, request).bytes());
    CHECK(wire.receive(world.to_peer(kExternalVni, reply).bytes()));
}

namespace {

constexpr std::uint16_t kVlan = 2001, kOtherVlan = 2002;
constexpr std::uint32_t kVlanDevice = 201, kOtherVlanDevice = 202;

Bytes tagged(const Packet& packet, std::uint16_t tag) {
    Bytes frame = packet.bytes();
    const Bytes bytes = {0x81, 0x00, static_cast<std::uint8_t>(tag >> 8), static_cast<std::uint8_t>(tag)};
    frame.insert(frame.begin() + 12, bytes.begin(), bytes.end());
    return frame;
}

}  // namespace

TEST_CASE("a VLAN's frame loses its tag on the way to a port, whatever else the tag says") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.nic);
    node.set_vlan(kVlan, kTenant, kVlanDevice);
    node.world.set_fdb(kTenant, node.world.vm_mac, node.world.port_out(node.port, FL_OUT_PEER));
    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");
    const Packet frame = node.world.remote_to_vm() / body();
    const auto forwarded = node.packets(FL_HOOK_TC_PORT, FL_REASON_L2_FORWARD);
    wire.send(tagged(frame, GENERATE(kVlan, 0xb000 | kVlan)));  // priority 5 and DEI
    CHECK(vm.receive(frame.bytes()));
    CHECK(node.packets(FL_HOOK_TC_PORT, FL_REASON_L2_FORWARD) == forwarded + 1);
}

TEST_CASE("a port's frame gets the tag of the VLAN that it leaves by") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.port);
    node.world.put_source(node.port, FL_ROLE_PORT, kTenant);
    node.world.set_fdb(kTenant, node.world.remote_mac, node.vlan_out(kVlan, kVlanDevice));
    const Tap wire(node.node.netns(), "wire");
    const Tap vm(node.vm.netns(), "eth0");
    const Packet frame = node.world.vm_to_remote() / body();
    vm.send(frame.bytes());
    CHECK(wire.receive(tagged(frame, kVlan)));
}

TEST_CASE("from VLAN to VLAN of one trunk a frame is routed and gets another tag") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.nic);
    node.set_vlan(kVlan, kExternal, kVlanDevice);
    fl_next next = node.world.next_to_vm();
    next.out = node.vlan_out(kOtherVlan, kOtherVlanDevice);
    node.world.set_fip_in(next);
    const Tap wire(node.node.netns(), "wire");
    wire.send(tagged(node.world.to_fip() / body(), kVlan));
    CHECK(wire.receive(tagged(node.world.to_vm() / body(), kOtherVlan)));
}

TEST_CASE("between a VLAN and a tunnel the tag is exchanged for outer headers, and back") {
    REQUIRE_ROOT();
    Node node(GENERATE(FL_TUNNEL_VXLAN, FL_TUNNEL_GRE, FL_TUNNEL_VXLAN6));
    const World& world = node.world;
    const Tap wire(node.node.netns(), "wire");
    SECTION("into a tunnel") {
        node.attach_tc(FL_HOOK_TC_PORT, node.nic);
        node.set_vlan(kVlan, kTenant, kVlanDevice);
        fl_out out = world.tunnel_out(kTenantVni);
        out.ifindex = node.nic;
        node.world.set_fdb(kTenant, world.remote_mac, out);
        const Packet frame = world.vm_to_remote() / body();
        wire.send(tagged(frame, kVlan));
        CHECK(wire.receive(world.to_peer(kTenantVni, frame).bytes()));
    }
    SECTION("out of the kernel's tunnel device") {
        node.attach_tc(FL_HOOK_TC_TUNNEL, node.nic);
        node.world.put_source(node.nic, FL_ROLE_TUNNEL, kExternal);
        fl_next next = world.next_to_vm();
        next.out = node.vlan_out(kVlan, kVlanDevice);
        node.world.set_fip_in(next);
        wire.send((world.to_fip() / body()).bytes());
        CHECK(wire.receive(tagged(world.to_vm() / body(), kVlan)));
    }
}

TEST_CASE("from a tunnel into a VLAN, by tc alone and when XDP has done the rest") {
    REQUIRE_ROOT();
    Node node;
    if (GENERATE(false, true)) node.attach_xdp();
    node.attach_tc(FL_HOOK_TC_UNDERLAY, node.nic);
    fl_next next = node.world.next_to_vm();
    next.out = node.vlan_out(kVlan, kVlanDevice);
    node.world.set_fip_in(next);
    const Tap wire(node.node.netns(), "wire");
    wire.send(node.world.from_peer(kExternalVni, node.world.to_fip() / body()).bytes());
    CHECK(wire.receive(tagged(node.world.to_vm() / body(), kVlan)));
}

TEST_CASE("an ARP request in a VLAN is answered in the VLAN") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.nic);
    node.set_vlan(kVlan, kExternal, kVlanDevice);
    const World& world = node.world;
    const Tap wire(node.node.netns(), "wire");
    const Packet request = world.who_has_fip();
    const Packet reply = world.fip_is_at();
    wire.send(tagged(request, kVlan));
    CHECK(wire.receive(tagged(reply, kVlan)));
}

TEST_CASE("what a trunk brings besides is left alone, and what of its VLANs is Linux's goes on to the VLAN device") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.nic);
    node.set_vlan(kVlan, kTenant, kVlanDevice);
    const World& world = node.world;
    const Tap wire(node.node.netns(), "wire");
    const Packet frame = world.remote_to_vm() / body();
    node.expect_counted(wire, frame.bytes(), FL_HOOK_TC_PORT, FL_REASON_NOT_OVERLAY);
    node.expect_counted(wire, tagged(frame, kOtherVlan), FL_HOOK_TC_PORT, FL_REASON_NOT_OVERLAY);
    node.expect_counted(wire, tagged(frame, 0), FL_HOOK_TC_PORT, FL_REASON_NOT_OVERLAY);
    // 802.1ad is another VLAN's.
    Bytes service = tagged(frame, kVlan);
    service[12] = 0x88;
    service[13] = 0xa8;
    node.expect_counted(wire, service, FL_HOOK_TC_PORT, FL_REASON_NOT_OVERLAY);
    const Packet flood = Eth{.dst = mac("ff:ff:ff:ff:ff:ff"), .src = world.remote_mac} / Payload::counting(50);
    node.expect_counted(wire, tagged(flood, kVlan), FL_HOOK_TC_PORT, FL_REASON_TO_VLAN_DEV);
    // A second tag is inside the VLAN.
    Bytes twice = tagged(frame, kVlan);
    const Bytes second = {0x81, 0x00, 0x00, 0x07};
    twice.insert(twice.begin() + 16, second.begin(), second.end());
    node.expect_counted(wire, twice, FL_HOOK_TC_PORT, FL_REASON_TO_VLAN_DEV);
}

TEST_CASE("a frame does not leave by the VLAN device that it came by, but may by another of its trunk") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.nic);
    node.set_vlan(kVlan, kTenant, kVlanDevice);
    const Packet frame = node.world.remote_to_vm() / body();
    const Tap wire(node.node.netns(), "wire");
    node.world.set_fdb(kTenant, node.world.vm_mac, node.vlan_out(kVlan, kVlanDevice));
    node.expect_counted(wire, tagged(frame, kVlan), FL_HOOK_TC_PORT, FL_REASON_TO_VLAN_DEV);
    node.world.set_fdb(kTenant, node.world.vm_mac, node.vlan_out(kOtherVlan, kOtherVlanDevice));
    wire.send(tagged(frame, kVlan));
    CHECK(wire.receive(tagged(frame, kOtherVlan)));
}

TEST_CASE("a VM port's own tag is none of a trunk's") {
    REQUIRE_ROOT();
    Node node;
    node.attach_tc(FL_HOOK_TC_PORT, node.port);
    node.world.put_source(node.port, FL_ROLE_PORT, kTenant);
    const Tap vm(node.vm.netns(), "eth0");
    node.expect_counted(vm, tagged(node.world.vm_to_remote() / body(), kVlan), FL_HOOK_TC_PORT, FL_REASON_VLAN_TAG);
}
