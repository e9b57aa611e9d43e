// SPDX-License-Identifier: Apache-2.0
// Every program loads on the running kernel, within a budget.
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <iostream>

#include "bpf/world.hpp"

using namespace fiplane;
using namespace fiplane::test;

TEST_CASE("the programs load, and the verifier needs few instructions for them") {
    for (int i = 0; i < FL_HOOK_COUNT; ++i) {
        const auto hook = static_cast<fl_hook>(i);
        const auto size = Programs::loaded().size(hook);
        std::cout << hook_text(hook) << ": " << size.instructions << " instructions, " << size.verified
                  << " verified\n";
        INFO(hook_text(hook));
        CHECK(size.instructions > 0);
        // A quarter of the 1,000,000 that the oldest supported kernel allows to every privileged program is far away;
        // a stage that is suddenly verified once per path of another one comes near it.
        CHECK(size.verified < 50'000);
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

TEST_CASE("nanoseconds per packet of the main paths", "[.bench]") {
    World world;
    const Packet body = Udp{} / Payload::counting(18);
    const auto measure = [&](const char* what, fl_hook hook, const Packet& packet) {
        const Bytes frame = packet.bytes();
        std::vector<std::uint32_t> samples;
        for (int i = 0; i < 4000; ++i) samples.push_back(world.programs.run_for_time(hook, frame));
        std::ranges::sort(samples);
        std::cout << what << ": median " << samples[samples.size() / 2] << " ns, best tenth "
                  << samples[samples.size() / 10] << " ns (one run each, timer included)\n";
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
