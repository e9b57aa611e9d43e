// SPDX-License-Identifier: Apache-2.0
// Whole files: the examples, what is derived from them, many mistakes at once, large and broken files.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "topology/describe.hpp"
#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

std::string read_source_file(const std::string& path) {
    std::ifstream in(FIPLANE_SOURCE_DIR "/" + path);
    REQUIRE(in);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
}

/// `count` VMs with a floating IP each on three nodes.
std::string large_topology(int count) {
    std::string out =
        "name: large\n"
        "nodes:\n"
        "  - {name: n0, underlay: {device: eth0, address: 192.0.2.10}}\n"
        "  - {name: n1, underlay: {device: eth0, address: 192.0.2.11}}\n"
        "  - {name: n2, underlay: {device: eth0, address: 192.0.2.12}}\n"
        "networks:\n"
        "  - {name: public, external: true, segmentation_id: 1, subnets: [{name: out, cidr: 100.64.0.0/14}]}\n"
        "  - {name: private, segmentation_id: 2, subnets: [{name: in, cidr: 10.0.0.0/8}]}\n"
        "routers:\n"
        "  - {name: r, external_gateway: public, interfaces: [in]}\n"
        "ports:\n";
    constexpr std::string_view kOwner = "network:floatingip_agent_gateway";
    for (int i = 0; i < 3; ++i) {
        out += fmt::format(
            "  - {{name: fg{0}, network: public, node: n{0}, fixed_ip: 100.67.0.{0}, "
            "device_owner: {1}}}\n",
            i, kOwner);
    }
    const auto low = [](int i) { return Ipv4{static_cast<std::uint32_t>(i) + 16}.value; };
    for (int i = 0; i < count; ++i) {
        out += fmt::format("  - {{name: vm{}, network: private, node: n{}, fixed_ip: {}}}\n", i, i % 3,
                           Ipv4{0x0a000000 + low(i)}.str());
    }
    out += "floating_ips:\n";
    for (int i = 0; i < count; ++i) {
        out += fmt::format("  - {{floating_ip_address: {}, port: vm{}}}\n", Ipv4{0x64400000 + low(i)}.str(), i);
    }
    return out;
}

/// CPU time: other work on the machine is not the loader's fault.
double seconds_of(auto&& work) {
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// The promise is one second. Builds without optimisation or with sanitizers are slower, yet anything quadratic still
/// shows.
#ifdef __OPTIMIZE__
constexpr double kSecondsFor10000 = 1.0;
#else
constexpr double kSecondsFor10000 = 20.0;
#endif

TEST_CASE("the examples load, and every derived value is what it was") {
    // The expected values were computed by another program from the rules in docs/topology.md. A change here renames
    // devices and namespaces on the nodes of everybody who upgrades.
    for (const std::string name :
         {"devstack-dvr-vxlan", "devstack-dvr-vxlan-ipv6", "devstack-legacy-vxlan", "devstack-dvr-gre",
          "devstack-dvr-geneve", "devstack-dvr-east-west", "devstack-nova-multi-host", "devstack-nova-single-host",
          "devstack-star-vxlan", "neutron-vlan", "neutron-flat", "classic-macvtap", "tricircle-pod1",
          "tricircle-pod2"}) {
        const LoadResult result = load_topology(fmt::format("{}/examples/{}.yaml", FIPLANE_SOURCE_DIR, name));
        INFO(format_mistakes(result.mistakes, name));
        REQUIRE(result.topology);
        nlohmann::json found = describe(*result.topology);
        CHECK(found["file"].get<std::string>().ends_with(name + ".yaml"));
        found.erase("file");
        const auto expected = nlohmann::json::parse(read_source_file(fmt::format("tests/unit/data/{}.json", name)));
        CHECK(nlohmann::json::diff(expected, found) == nlohmann::json::array());
    }
}

TEST_CASE("the sample in the documentation loads") {
    const std::string page = read_source_file("docs/topology.md");
    const std::string_view fence = "```yaml\n";
    const std::size_t begin = page.find(fence);
    REQUIRE(begin != std::string::npos);
    const std::size_t end = page.find("```", begin + fence.size());
    const auto text = page.substr(begin + fence.size(), end - begin - fence.size());
    const LoadResult result = parse_topology(text, "docs/topology.md");
    INFO(format_mistakes(result.mistakes, "docs/topology.md"));
    REQUIRE(result.topology);
    CHECK(result.topology->floating_ips.size() == 1);
}

TEST_CASE("the model of the DVR example") {
    const auto result = load_topology(FIPLANE_SOURCE_DIR "/examples/devstack-dvr-vxlan.yaml");
    REQUIRE(result.topology);
    const Topology& t = *result.topology;
    REQUIRE(t.find_node("subnode2") != nullptr);
    CHECK(t.find_node("subnode2")->underlay_address.str() == "192.0.2.13");
    CHECK(t.find_node("subnode3") == nullptr);
    REQUIRE(t.routers.size() == 1);
    const Router& router = t.routers[0];
    CHECK_FALSE(router.node);
    CHECK_FALSE(router.gateway_port);
    REQUIRE(router.interfaces.size() == 1);
    const Port& interface = t.ports[router.interfaces[0]];
    CHECK(interface.owner == PortOwner::kRouterInterface);
    CHECK_FALSE(interface.node);
    CHECK(interface.fixed_ip == t.subnets[interface.subnet].gateway_ip);
    CHECK(interface.device.size() == 14);
    REQUIRE(t.floating_ips.size() == 6);
    for (const FloatingIp& fip : t.floating_ips)
        CHECK(t.networks[fip.network].external);
}

TEST_CASE("all mistakes at once, by place") {
    const std::string text =
        "name: bad\n"                                               // 1
        "nodes:\n"                                                  // 2
        "  - name: a\n"                                             // 3
        "    underlay: {device: eth0, address: 192.0.2.1}\n"        // 4
        "    adresses: {}\n"                                        // 5
        "networks:\n"                                               // 6
        "  - name: n\n"                                             // 7
        "    segmentation_id: 0\n"                                  // 8
        "    subnets:\n"                                            // 9
        "      - {name: s, cidr: 10.0.0.1/24}\n"                    // 10
        "ports:\n"                                                  // 11
        "  - {name: p, network: m, node: b, fixed_ip: 10.0.0.x}\n"  // 12
        "floating_ips:\n"                                           // 13
        "  - {port: q}\n";                                          // 14
    const auto mistakes = parse_topology(text, "bad.yaml").mistakes;
    INFO(format_mistakes(mistakes, "bad.yaml"));
    std::vector<std::pair<int, int>> places;
    for (const Mistake& m : mistakes)
        places.emplace_back(m.line, m.column);
    CHECK(places ==
          std::vector<std::pair<int, int>>{{5, 5}, {8, 22}, {10, 25}, {12, 24}, {12, 33}, {12, 46}, {14, 5}, {14, 12}});
}

TEST_CASE("an entry that cannot be read is not called unknown where it is used") {
    const auto mistakes = parse_topology(edited("  - name: subnode1\n", "  - nmae: subnode1\n"), "f").mistakes;
    REQUIRE(mistakes.size() == 2);
    CHECK(mistakes[0].what == "node lacks name");
    CHECK(mistakes[1].hint == "did you mean name?");
}

TEST_CASE("mistakes as text and as an error") {
    const std::vector<Mistake> mistakes = {{3, 7, "node a: unknown key x", "did you mean y?"}, {9, 1, "other", ""}};
    CHECK(format_mistakes(mistakes, "t.yaml") ==
          "t.yaml:3:7: node a: unknown key x (did you mean y?)\nt.yaml:9:1: other\n");
    const Error error = to_error(mistakes, "t.yaml");
    CHECK(error.code == ExitCode::kBadTopology);
    CHECK(error.message() ==
          "t.yaml:3:7: node a: unknown key x (did you mean y?; 1 more mistake: see `fiplane validate t.yaml`)");
    CHECK(to_error({mistakes[1]}, "t.yaml").message() == "t.yaml:9:1: other");
}

TEST_CASE("a file that cannot be read") {
    for (const std::string path : {"/nonexistent/topology.yaml", "/"}) {
        const LoadResult result = load_topology(path);
        CHECK_FALSE(result.topology);
        REQUIRE(result.mistakes.size() == 1);
        CHECK(result.mistakes[0].line == 0);
        CHECK(format_mistakes(result.mistakes, path).starts_with(path + ": cannot read the topology: "));
    }
}

TEST_CASE("10,000 floating IPs load in less than a second, with distinct MACs and devices") {
    const std::string text = large_topology(10000);
    LoadResult result;
    const double seconds = seconds_of([&] { result = parse_topology(text, "large.yaml"); });
    INFO(format_mistakes(result.mistakes, "large.yaml"));
    REQUIRE(result.topology);
    CHECK(seconds < kSecondsFor10000);
    // 24 derived bits for 10,004 ports: some collide, and must have been told apart.
    std::set<Mac> macs;
    for (const Port& port : result.topology->ports)
        macs.insert(port.mac);
    CHECK(macs.size() == result.topology->ports.size());
}

TEST_CASE("10,000 mistakes are found as fast") {
    std::string text = large_topology(10000);
    // Every VM on a node that does not exist; then the network of all of them misspelt as well.
    for (const auto& [from, to] : {std::pair{"network: private", "network: privat"}, {"node: n1", "node: m1"}}) {
        for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + 1)) {
            text.replace(at, std::string_view(from).size(), to);
        }
    }
    std::vector<Mistake> mistakes;
    const double seconds = seconds_of([&] { mistakes = parse_topology(text, "f").mistakes; });
    CHECK(mistakes.size() > 13000);
    CHECK(seconds < kSecondsFor10000);
}

TEST_CASE("a file that ends anywhere never crashes, and is right only where a list may end") {
    const std::string text = read_source_file("examples/devstack-dvr-vxlan.yaml");
    const std::size_t floating_ips = text.find("\nfloating_ips:");
    REQUIRE(floating_ips != std::string::npos);
    for (std::size_t size = 0; size <= text.size(); ++size) {
        const LoadResult result = parse_topology(std::string_view(text).substr(0, size), "f");
        INFO("size " << size);
        REQUIRE(result.topology.has_value() == result.mistakes.empty());
        REQUIRE(
            std::ranges::is_sorted(result.mistakes, {}, [](const Mistake& m) { return std::pair(m.line, m.column); }));
        for (const Mistake& m : result.mistakes)
            REQUIRE((m.line >= 1 && m.column >= 1 && !m.what.empty()));
        if (size == 0 || size == text.size()) REQUIRE(result.topology.has_value() == (size != 0));
    }
}

TEST_CASE("a file with one byte replaced never crashes") {
    const std::string text(kBase);
    constexpr std::string_view kBytes("\0\t\n &*-:[{}~\"\xff", 14);
    for (std::size_t at = 0; at < text.size(); ++at) {
        std::string broken = text;
        broken[at] = kBytes[at % kBytes.size()];
        const LoadResult result = parse_topology(broken, "f");
        INFO("byte " << at);
        REQUIRE(result.topology.has_value() == result.mistakes.empty());
    }
}

TEST_CASE("deep nesting is refused") {
    const std::string deep = "name: " + std::string(100000, '[');
    const LoadResult result = parse_topology(deep, "f");
    CHECK_FALSE(result.topology);
    CHECK(result.mistakes.size() == 1);
}

}  // namespace
}  // namespace fiplane::topology_test
