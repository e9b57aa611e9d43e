// SPDX-License-Identifier: Apache-2.0
// `fiplane detach` on what an agent that followed routers has left: pins, programs at devices, and rows of flows.
#include <netinet/in.h>

#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "agent/release.hpp"
#include "agent/single_instance.hpp"
#include "core/l2.hpp"
#include "functional/datapath_bench.hpp"
#include "linux/clock.hpp"

namespace fiplane::test {
namespace {

using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

const std::string kId = "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01";
const std::string kRouter = "qrouter-" + kId;
const std::string kCentral = "snat-" + kId;

/// A node on which an agent has followed a router, and is gone.
class Followed {
  public:
    Followed() {
        for (const auto& name : {kRouter, kCentral}) {
            need(Netns::create(name));
            run_in(name, {"nft",
                          "table ip nat { chain in { type nat hook prerouting priority -100; "
                          "ip daddr 203.0.113.101 dnat to 10.1.0.11; }; "
                          "chain out { type nat hook postrouting priority 100; "
                          "ip saddr 10.1.0.11 snat to 203.0.113.101 fully-random; }; }"});
        }
        run_in(kRouter, {"ip", "link", "add", "qr-1", "type", "veth", "peer", "name", "tap1"});
        auto options = bench_.options();
        options.follows = true;
        auto datapath = need(Datapath::open(options));
        fl_config config{};
        config.layout = FL_ABI_LAYOUT;
        Tables tables;
        tables.config = config;
        static_cast<void>(need(datapath.sync(tables)));
        need(datapath.vouch(std::chrono::hours(1)));
        need(datapath.attach({{.ifindex = index_of_port(),
                               .name = "qr-1",
                               .kind = DeviceRole::Kind::kRouter,
                               .wire_to_wire = false,
                               .refused = {},
                               .netns = kRouter,
                               .number = foreign_number(kRouter + "/qr-1")}}));
        REQUIRE(port_programs() == 1);
    }
    ~Followed() {
        for (const auto& name : {kRouter, kCentral}) [[maybe_unused]]
            const auto removed = Netns::remove(name);
    }
    Followed(const Followed&) = delete;
    Followed& operator=(const Followed&) = delete;

    [[nodiscard]] std::string pin_dir() const { return bench_.pin_dir(); }
    [[nodiscard]] const DatapathBench& bench() const { return bench_; }
    void add_flow(const std::string& router, std::uint8_t protocol, std::uint16_t port, std::uint32_t flags,
                  std::uint32_t idle = 0, const char* fip = "203.0.113.101") const {
        fl_flow_key key{};
        key.router = foreign_number(router);
        key.protocol = protocol;
        copy_bytes(key.inside, Ipv4::parse("10.1.0.11").value());
        copy_bytes(key.outside, Ipv4::parse("198.51.100.9").value());
        key.inside_port = port;
        key.outside_port = 443;
        fl_flow flow{};
        copy_bytes(flow.fip, Ipv4::parse(fip).value());
        flow.flags = flags;
        flow.last_use = monotonic_seconds() - idle;
        bench_.put_row("fl_flows", key, flow);
    }
    [[nodiscard]] ProcessResult detach(std::vector<std::string> more = {}) const {
        more.insert(more.begin(), {FIPLANE_BINARY, "detach", "--pin-dir", pin_dir()});
        return run_process(more);
    }
    [[nodiscard]] std::size_t port_programs() const {
        const auto inside = need(NetnsGuard::enter(need(Netns::open(kRouter))));
        return tc_programs(DatapathBench::index_of("qr-1")).size();
    }
    [[nodiscard]] static std::string tracked(const std::string& netns) {
        return run_process_in(need(Netns::open(netns)), {"conntrack", "-L"}).out;
    }
    static void run_in(const std::string& netns, const std::vector<std::string>& command) {
        const auto result = run_process_in(need(Netns::open(netns)), command);
        INFO(result.err);
        REQUIRE(result.exit_status == 0);
    }

  private:
    static int index_of_port() {
        const auto inside = need(NetnsGuard::enter(need(Netns::open(kRouter))));
        return DatapathBench::index_of("qr-1");
    }
    DatapathBench bench_;
};

}  // namespace

TEST_CASE("detach hands flows over, takes programs off and removes every pin", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    node.add_flow(kRouter, IPPROTO_TCP, 40001, FL_FLOW_FROM_INSIDE, 30);
    node.add_flow(kRouter, IPPROTO_UDP, 40002, 0);
    node.add_flow(kCentral, IPPROTO_TCP, 40003, FL_FLOW_FROM_INSIDE | FL_FLOW_CLOSING);
    node.add_flow(kRouter, IPPROTO_UDP, 40004, 0, 500);
    node.add_flow(kRouter, IPPROTO_ICMP, 7, FL_FLOW_FROM_INSIDE);
    node.add_flow("qrouter-gone", IPPROTO_TCP, 40005, FL_FLOW_FROM_INSIDE);
    node.add_flow(kRouter, IPPROTO_TCP, 40006, FL_FLOW_FROM_INSIDE, 0,
                  "203.0.113.102");  // which no rule knows any more
    const auto config = node.bench().map("fl_config");

    const auto done = node.detach({"-o", "json"});
    INFO(done.err);
    REQUIRE(done.exit_status == 0);
    const auto report = json::parse(done.out);
    CHECK(report.at("routers") == json::parse(R"([{"namespace": ")" + kRouter + R"(", "devices": ["qr-1"], "flows": 2},
        {"namespace": ")" + kCentral + R"(", "devices": [], "flows": 1}])"));
    CHECK(report.at("flows") == 3);
    REQUIRE(report.at("left_out").size() == 4);
    for (const auto& row : report.at("left_out"))
        CHECK(row.at("flows") == 1);

    CHECK_THAT(node.tracked(kRouter), ContainsSubstring("ESTABLISHED src=10.1.0.11 dst=198.51.100.9 sport=40001"));
    CHECK_THAT(node.tracked(kRouter),
               ContainsSubstring("src=10.1.0.11 dst=198.51.100.9 sport=40002 dport=443 [ASSURED]"));
    CHECK(std::ranges::count(node.tracked(kRouter), '\n') == 2);
    CHECK_THAT(node.tracked(kCentral), ContainsSubstring("FIN_WAIT src=10.1.0.11 dst=198.51.100.9 sport=40003"));
    CHECK(node.port_programs() == 0);
    CHECK_FALSE(std::filesystem::exists(node.pin_dir()));
    // Programs that still run, or a second set of pins, would take nothing any more.
    fl_config ended{};
    const std::uint32_t key = 0;
    REQUIRE(bpf_map_lookup_elem(config.get(), &key, &ended) == 0);
    CHECK(ended.lease_end == 0);

    const auto again = node.detach();
    CHECK(again.exit_status == 0);
    CHECK(again.out == "nothing to detach: no programs of routers are pinned below " + node.pin_dir() + "\n");
    CHECK(json::parse(node.detach({"-o", "json"}).out).at("routers").empty());
}

TEST_CASE("flows that conntrack would have forgotten are forgotten", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    node.add_flow(kRouter, IPPROTO_TCP, 40001, FL_FLOW_FROM_INSIDE, 3600);
    node.add_flow(kRouter, IPPROTO_TCP, 40002, FL_FLOW_CLOSING, 3600);
    node.add_flow(kRouter, IPPROTO_UDP, 40003, 0, 3600);
    node.add_flow(kRouter, IPPROTO_UDP, 40004, 0);
    node.add_flow(kRouter, IPPROTO_ICMP, 7, 0, 3600);
    node.add_flow("qrouter-gone", IPPROTO_UDP, 40005, 0, 3600);
    // The namespace's own limits count.
    node.run_in(kRouter, {"sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=7200"});
    auto table = need(FlowTable::open(node.pin_dir())).value();
    CHECK(need(forget_flows(table)) == 4);
    const auto ports = [&] {
        std::set<std::uint16_t> left;
        for (const auto& [key, flow] : need(table.flows()))
            left.insert(key.inside_port);
        return left;
    };
    CHECK(ports() == std::set<std::uint16_t>{40001, 40004});
    CHECK(need(forget_flows(table)) == 0);
    node.run_in(kRouter, {"sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=3000"});
    CHECK(need(forget_flows(table)) == 1);
    CHECK(ports() == std::set<std::uint16_t>{40004});
}

TEST_CASE("detach says in plain text what it did", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    node.add_flow(kRouter, IPPROTO_TCP, 40001, FL_FLOW_FROM_INSIDE);
    node.add_flow(kRouter, IPPROTO_UDP, 40002, 0, 500);
    const auto done = node.detach();
    CHECK(done.exit_status == 0);
    CHECK_THAT(done.out, ContainsSubstring("1 device detached, 1 flow handed over to Linux"));
    CHECK_THAT(done.out, ContainsSubstring(kRouter));
    CHECK_THAT(done.out, ContainsSubstring("1 flow left out: idle for longer than conntrack keeps it"));
}

TEST_CASE("what detach cannot do leaves everything as it was", "[datapath][detach]") {
    REQUIRE_ROOT();
    SECTION("another process manages the node") {
        const Followed node;
        const auto agent = need(SingleInstance::acquire());
        const auto refused = node.detach();
        CHECK(refused.exit_status == 8);
        CHECK_THAT(refused.err, ContainsSubstring("another fiplane process manages this node already"));
        CHECK(node.port_programs() == 1);
    }
    SECTION("without privileges") {
        const Followed node;
        const auto refused = run_process({"setpriv", "--bounding-set=-all", "--inh-caps=-all", FIPLANE_BINARY, "detach",
                                          "--pin-dir", node.pin_dir()});
        CHECK(refused.exit_status == 4);
        CHECK_THAT(refused.err, ContainsSubstring("cannot detach from routers: missing capabilities"));
        CHECK(node.port_programs() == 1);
    }
    SECTION("maps of another version") {
        const Followed node;
        auto config = node.bench().row<fl_config>("fl_config", std::uint32_t{0}).value();
        config.layout = FL_ABI_LAYOUT + 1;
        node.bench().put_row("fl_config", std::uint32_t{0}, config);
        const auto refused = node.detach();
        CHECK(refused.exit_status == 1);
        CHECK_THAT(refused.err, ContainsSubstring("detach with the version that made it"));
        CHECK(node.port_programs() == 1);
    }
    SECTION("programs of an agent with a topology") {
        const DatapathBench bench;
        const int port = DatapathBench::veth("tap0");
        auto datapath = bench.open();
        need(datapath.attach({{port, "tap0", DeviceRole::Kind::kPort, false, {}}}));
        const auto refused = run_process({FIPLANE_BINARY, "detach", "--pin-dir", bench.pin_dir()});
        CHECK(refused.exit_status == 7);
        CHECK_THAT(refused.err, ContainsSubstring("`fiplane teardown` removes them"));
        CHECK(tc_programs(port).size() == 1);
    }
    SECTION("a pin directory that is none") {
        const DatapathBench bench;
        const auto file = run_process({FIPLANE_BINARY, "detach", "--pin-dir", FIPLANE_BINARY});
        CHECK(file.exit_status == 1);
        CHECK_THAT(file.err, ContainsSubstring("Not a directory"));
        const auto absent = run_process({FIPLANE_BINARY, "detach", "--pin-dir", bench.bpffs() + "/nothing"});
        CHECK(absent.exit_status == 0);
        CHECK(absent.out ==
              "nothing to detach: no programs of routers are pinned below " + bench.bpffs() + "/nothing\n");
    }
}

TEST_CASE("what removes a topology's programs leaves those at another's routers", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    node.add_flow(kRouter, IPPROTO_TCP, 40001, FL_FLOW_FROM_INSIDE);
    for (const bool dry : {false, true}) {
        std::vector<std::string> command{FIPLANE_BINARY, "teardown", "--pin-dir", node.pin_dir()};
        if (dry) command.emplace_back("--dry-run");
        const auto refused = run_process(command);
        CHECK(refused.exit_status == 7);
        CHECK(refused.out.empty());
        CHECK(refused.err == "fiplane: " + node.pin_dir() +
                                 "/routers: an agent that followed another's routers has left its programs here "
                                 "(`fiplane detach` removes them)\n");
    }
    CHECK(node.port_programs() == 1);
    const auto detached = node.detach();
    CHECK(detached.exit_status == 0);
    CHECK_THAT(detached.out, ContainsSubstring("1 device detached, 1 flow handed over to Linux"));
}

TEST_CASE("detach finishes what another one has begun", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    for (const char* map : {"fl_config", "fl_flows"})
        REQUIRE(unlink((node.pin_dir() + "/maps/" + map).c_str()) == 0);
    CHECK(node.detach().exit_status == 0);
    CHECK(node.port_programs() == 0);
    CHECK_FALSE(std::filesystem::exists(node.pin_dir()));
}

TEST_CASE("a router that is gone has no flows to hand over", "[datapath][detach]") {
    REQUIRE_ROOT();
    const Followed node;
    node.add_flow(kRouter, IPPROTO_TCP, 40001, FL_FLOW_FROM_INSIDE);
    need(Netns::remove(kRouter));
    const auto done = node.detach();
    INFO(done.err);
    CHECK(done.exit_status == 0);
    CHECK_THAT(done.out, ContainsSubstring("1 flow left out: the router's namespace is gone"));
    CHECK_FALSE(std::filesystem::exists(node.pin_dir()));
}

}  // namespace fiplane::test
