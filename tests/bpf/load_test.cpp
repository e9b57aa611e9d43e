// SPDX-License-Identifier: Apache-2.0
// Every program loads on the running kernel, within a budget.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <iostream>

#include "bpf/world.hpp"
#include "core/reasons.hpp"

using namespace fiplane;
using namespace fiplane::test;

TEST_CASE("the programs load, and the verifier needs few instructions for them") {
    for (int i = 0; i < FL_HOOK_COUNT; ++i) {
        const auto hook = static_cast<fl_hook>(i);
        const auto size = Programs::loaded().size(hook);
        std::cout << hook_name(hook) << ": " << size.instructions << " instructions, " << size.verified
                  << " verified\n";
        INFO(hook_name(hook));
        CHECK(size.instructions > 0);
        // A tenth of the 1,000,000 that the oldest supported kernel allows to every privileged program is far away;
        // a stage that is suddenly verified once per path of another one comes near it.
        CHECK(size.verified < 100'000);
    }
}

TEST_CASE("map names have the prefix and fit the kernel") {
    for (int i = 0; i < FL_HOOK_COUNT; ++i) {
        const bpf_map* map = nullptr;
        int count = 0;
        const bpf_object* object = Programs::loaded().object(static_cast<fl_hook>(i));
        bpf_object__for_each_map(map, object) {
            const std::string name = bpf_map__name(map);
            INFO(name);
            CHECK(name.starts_with("fl_"));
            CHECK(name.size() <= 15);
            ++count;
        }
        CHECK(count >= 5);
    }
}

TEST_CASE("nanoseconds per packet of the main paths, cold", "[.bench]") {
    World world;
    const Packet body = Udp{} / Payload::counting(18);
    const auto measure = [&](const char* what, fl_hook hook, const Packet& packet) {
        const Bytes frame = packet.bytes();
        std::vector<std::uint32_t> samples;
        for (int i = 0; i < 4000; ++i)
            samples.push_back(world.programs.run_for_time(hook, frame, 1));
        std::ranges::sort(samples);
        std::cout << what << ": median " << samples[samples.size() / 2] << " ns, timer included\n";
    };
    measure("XDP, no tunnel packet", FL_HOOK_XDP_UNDERLAY, Eth{.dst = world.underlay_mac} / Ip4{} / body);
    measure("XDP, floating IP in, handed up", FL_HOOK_XDP_UNDERLAY,
            world.from_peer(kExternalVni, world.to_fip() / body));
    measure("tc underlay, no tunnel packet", FL_HOOK_TC_UNDERLAY, Eth{.dst = world.underlay_mac} / Ip4{} / body);
    measure("tc underlay, floating IP in", FL_HOOK_TC_UNDERLAY, world.from_peer(kExternalVni, world.to_fip() / body));
    measure("tc underlay, TCP left to the tunnel device", FL_HOOK_TC_UNDERLAY,
            world.from_peer(kExternalVni, world.to_fip() / Tcp{}));
    world.on_tunnel(kExternal);
    measure("tc tunnel, floating IP in", FL_HOOK_TC_TUNNEL, world.to_fip() / Tcp{} / Payload::counting(6));
    world.on_port();
    measure("tc port, floating IP out", FL_HOOK_TC_PORT, world.from_vm() / body);
    measure("tc port, same segment", FL_HOOK_TC_PORT, world.vm_to_remote() / body);
}

TEST_CASE("nanoseconds per packet of the main paths, hot", "[.bench]") {
    // Repeated runs get what the run before has left. So the packet goes to and fro between two addresses: each run
    // translates it, and each result is the other one's packet.
    World world;
    fl_next next = world.next_to_vm();
    next.hops = 0;
    for (std::size_t i = 0; i < 6; ++i)
        next.dmac[i] = world.fg_mac.bytes[i];
    const auto set_pair = [&] {
        world.set_fip_in(next);
        fl_fip_in back{.router_mac = {}, .pad = {}, .next = next, .netnsid = 0};
        for (std::size_t i = 0; i < 6; ++i)
            back.router_mac[i] = world.fg_mac.bytes[i];
        for (std::size_t i = 0; i < 4; ++i)
            back.next.dnat[i] = world.fip.bytes()[i];
        world.programs.put("fl_fip_in", fl_fip_key{.segment = kExternal, .fip = {10, 1, 0, 5}}, back);
    };
    const auto measure = [&](const char* what, fl_hook hook, const Packet& packet) {
        const Bytes frame = packet.bytes();
        std::uint32_t best = ~0U;
        for (int i = 0; i < 20; ++i)
            best = std::min(best, world.programs.run_for_time(hook, frame, 100'000));
        std::cout << what << ": " << best << " ns\n";
    };
    const Packet body = Udp{} / Payload::counting(18);
    const Packet in = world.from_peer(kExternalVni, world.to_fip() / body);
    next.out = world.tunnel_out(kExternalVni);
    next.out.ifindex = kThisDevice;
    copy_bytes(next.out.remote, IpAddress(world.vtep));
    set_pair();
    measure("XDP, floating IP, tunnel to tunnel", FL_HOOK_XDP_UNDERLAY, in);
    measure("tc underlay, floating IP, tunnel to tunnel", FL_HOOK_TC_UNDERLAY, in);
    measure("XDP, no tunnel packet", FL_HOOK_XDP_UNDERLAY, Eth{.dst = world.underlay_mac} / Ip4{} / body);
    measure("tc underlay, no tunnel packet", FL_HOOK_TC_UNDERLAY, Eth{.dst = world.underlay_mac} / Ip4{} / body);
    measure("tc underlay, TCP left to the tunnel device", FL_HOOK_TC_UNDERLAY,
            world.from_peer(kExternalVni, world.to_fip() / Tcp{}));
    next.out = world.port_out(kVmPort);
    set_pair();
    world.on_tunnel(kExternal);
    measure("tc tunnel, floating IP to a port", FL_HOOK_TC_TUNNEL, world.to_fip() / body);
}
