// SPDX-License-Identifier: Apache-2.0
// The agent as a process that follows a router of somebody else's, and what it does while it cannot read it.
#include <bpf/bpf.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

#include "agent_bench.hpp"
#include "core/model.hpp"
#include "fiplane/abi.h"
#include "linux/unique_fd.hpp"
#include "support/conntrack.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {
namespace {

using namespace std::chrono_literals;

const std::string kRouter = "qrouter-7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const std::string kFip = "203.0.113.101";
const std::string kWitness = "witness";  ///< another name of the router's namespace

void in_router(const std::string& command) {
    shell(fmt::format("ip netns exec {} {}", kRouter, command));
}

void make_port(const std::string& port) {
    shell(fmt::format("ip link add tap-{} type veth peer name {} netns {}", port, port, kRouter));
    shell(fmt::format("ip link set tap-{} up", port));
    in_router(fmt::format("ip link set {} up", port));
    for (const char* name : {"rp_filter", "send_redirects"})
        in_router(fmt::format("sysctl -qw net.ipv4.conf.{}.{}=0", port, name));
}

void make_gateway_port() {
    make_port("qg-1");
    in_router("ip address add 203.0.113.10/24 dev qg-1");
    in_router("ip address add 203.0.113.101/32 dev qg-1");
    in_router("ip route add default via 203.0.113.1");
    in_router("ip neighbour add 203.0.113.1 lladdr 02:00:00:00:00:01 dev qg-1 nud permanent");
}

/// A legacy router with a floating IP; what is behind its ports stands still.
void make_router() {
    load_conntrack_modules();
    shell("ip netns add " + kRouter);
    REQUIRE(std::ofstream("/run/netns/" + kWitness).good());
    REQUIRE(mount(("/run/netns/" + kRouter).c_str(), ("/run/netns/" + kWitness).c_str(), nullptr, MS_BIND, nullptr) ==
            0);
    // What is mounted over the one name is not to be seen by the other.
    REQUIRE(mount(nullptr, ("/run/netns/" + kWitness).c_str(), nullptr, MS_PRIVATE, nullptr) == 0);
    for (const char* name : {"rp_filter", "send_redirects"})
        in_router(fmt::format("sysctl -qw net.ipv4.conf.all.{}=0", name));
    make_port("qr-1");
    in_router("ip address add 10.10.1.1/24 dev qr-1");
    in_router("ip neighbour add 10.10.1.11 lladdr 02:00:00:00:00:11 dev qr-1 nud permanent");
    make_gateway_port();
    in_router("sysctl -qw net.ipv4.ip_forward=1");
    in_router("iptables-nft -t nat -A PREROUTING -d 203.0.113.101/32 -j DNAT --to-destination 10.10.1.11");
    in_router("iptables-nft -t nat -A POSTROUTING -s 10.10.1.11/32 -j SNAT --to-source 203.0.113.101 --random-fully");
}

UniqueFd map_of(const char* name) {
    UniqueFd map(bpf_obj_get(fmt::format("/sys/fs/bpf/fiplane/maps/{}", name).c_str()));
    REQUIRE(map);
    return map;
}

std::uint32_t lease_end() {
    fl_config config{};
    const std::uint32_t key = 0;
    REQUIRE(bpf_map_lookup_elem(map_of("fl_config").get(), &key, &config) == 0);
    return config.lease_end;
}

/// What the programs know of the VM; none: no row.
std::optional<fl_vm> vm_row() {
    const UniqueFd map = map_of("fl_vms");
    fl_vm_key key{};
    for (int error = bpf_map_get_next_key(map.get(), nullptr, &key); error == 0;
         error = bpf_map_get_next_key(map.get(), &key, &key)) {
        fl_vm row{};
        if (Ipv4::from_bytes(key.fixed).str() != "10.10.1.11") continue;
        REQUIRE(bpf_map_lookup_elem(map.get(), &key, &row) == 0);
        return row;
    }
    return std::nullopt;
}

std::size_t programs_at_ports() {
    std::size_t count = 0;
    for (const char* port : {"qr-1", "qg-1"}) {
        const auto shown =
            run_process(words(fmt::format("ip netns exec {} bpftool -j net show dev {}", kWitness, port)));
        INFO(shown.err);
        REQUIRE(shown.exit_status == 0);
        count += shown.out.find("tc_router") != std::string::npos ? 1 : 0;
    }
    return count;
}

}  // namespace

TEST_CASE("A followed router that cannot be read is Linux's until it can be, and no other one", "[agent][follow]") {
    REQUIRE_ROOT();
    NodeBench bench(false);
    make_router();
    bench.start_agent("--follow neutron");
    const auto state = [&] {
        const auto row = bench.floating_ip(kFip);
        return row.is_null() ? std::string("gone") : row.at("state").get<std::string>();
    };
    wait_until("the floating IP is fast", [&] { return state() == "fast"; });
    REQUIRE(programs_at_ports() == 2);
    REQUIRE(vm_row().value().domain != 0);

    char program[PATH_MAX];
    REQUIRE(realpath("/usr/sbin/iptables-nft-save", program) != nullptr);
    REQUIRE(mount("/usr/bin/false", program, nullptr, MS_BIND, nullptr) == 0);
    in_router("nft add table ip other");
    wait_until("the floating IP is slow", [&] { return state() == "slow"; });
    const auto row = bench.floating_ip(kFip);
    INFO(row.dump());
    CHECK(row.dump().find(kRouter + ": what is known of it may be out of date: iptables-nft-save failed") !=
          std::string::npos);
    CHECK(bench.status().dump().find("observing Linux") != std::string::npos);
    // Its programs stay, and hand flows over with the translation that they had.
    CHECK(programs_at_ports() == 2);
    const fl_vm vm = vm_row().value();
    CHECK(vm.domain == 0);
    CHECK(Ipv4::from_bytes(vm.fip).str() == kFip);
    // Nothing that the tables say of others is wrong.
    const std::uint32_t end = lease_end();
    wait_until("the lease is renewed", [&] { return lease_end() >= end + 2; });
    CHECK(state() == "slow");

    REQUIRE(umount2(program, MNT_DETACH) == 0);
    wait_until("the floating IP is fast again", [&] { return state() == "fast"; }, 15s);
    CHECK(vm_row().value().domain != 0);
    CHECK(programs_at_ports() == 2);

    // An agent that starts while it cannot be read takes nothing off either.
    bench.stop_agent(SIGKILL);
    REQUIRE(mount("/usr/bin/false", program, nullptr, MS_BIND, nullptr) == 0);
    bench.start_agent("--follow neutron");
    CHECK(programs_at_ports() == 2);
    REQUIRE(umount2(program, MNT_DETACH) == 0);
    wait_until("the floating IP is fast with the new agent", [&] { return state() == "fast"; }, 15s);

    // Nor does one for which there is something that it cannot enter, so that it does not even know the devices.
    bench.stop_agent(SIGKILL);
    const std::string place = "/run/netns/" + kRouter;
    REQUIRE(mount("/proc/self/ns/uts", place.c_str(), nullptr, MS_BIND, nullptr) == 0);
    bench.start_agent("--follow neutron");
    CHECK(state() == "gone");
    CHECK(bench.status().dump().find("cannot enter network namespace " + kRouter) != std::string::npos);
    CHECK(programs_at_ports() == 2);
    REQUIRE(umount2(place.c_str(), MNT_DETACH) == 0);
    wait_until("the floating IP is fast as soon as it can be read", [&] { return state() == "fast"; }, 15s);
    CHECK(programs_at_ports() == 2);
}

TEST_CASE("A followed router's device that gets no program is Linux's, with what depends on it", "[agent][follow]") {
    REQUIRE_ROOT();
    NodeBench bench(false);
    make_router();
    bench.start_agent("--follow neutron");
    const auto is_fast_from_outside = [&] {
        const auto row = bench.floating_ip(kFip);
        return !row.is_null() && row.at("state") == "fast" && row.at("network") == "qg-1";
    };
    wait_until("the floating IP is fast", is_fast_from_outside);

    const std::string pin = fmt::format("/sys/fs/bpf/fiplane/routers/{}/qg-1", kRouter);
    in_router("ip link del qg-1");
    wait_until("its program is gone", [&] { return access(pin.c_str(), F_OK) != 0; });
    REQUIRE(mkdir(pin.c_str(), 0700) == 0);  // where the next program would be pinned
    make_gateway_port();
    wait_until("the device is refused",
               [&] { return bench.floating_ip(kFip).dump().find("qg-1 has no program: ") != std::string::npos; });
    CHECK_FALSE(is_fast_from_outside());
    CHECK(programs_at_ports() == 1);
    CHECK(bench.status().dump().find("updating the fast path") != std::string::npos);
    const std::uint32_t end = lease_end();
    wait_until("the lease is renewed", [&] { return lease_end() >= end + 2; });

    REQUIRE(rmdir(pin.c_str()) == 0);
    wait_until("the floating IP is fast again", is_fast_from_outside, 15s);
    CHECK(programs_at_ports() == 2);
}

}  // namespace fiplane::test
