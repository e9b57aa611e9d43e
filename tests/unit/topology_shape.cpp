// SPDX-License-Identifier: Apache-2.0
// Mistakes that can be seen without knowing the rest of the file: syntax, keys, types, malformed values, ranges.
#include <catch2/generators/catch_generators.hpp>

#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

TEST_CASE("the base of these tests is right") {
    const LoadResult result = parse_topology(kBase, "base.yaml");
    INFO(format_mistakes(result.mistakes, "base.yaml"));
    CHECK(result.topology);
}

TEST_CASE("keys: unknown, missing, twice, not text") {
    check(GENERATE(values<Case>({
        {"    bridge: br-ex", "    @brigde: br-ex", "network public: unknown key brigde", "did you mean bridge?"},
        {"cidr: 10.3.0.0/24}", "cidr: 10.3.0.0/24, @vlan: 7}", "unknown key vlan", "known here: name, cidr,"},
        {"underlay_mtu: 1500", "@underlay-mtu: 1500", "topology base: unknown key", "underlay_mtu?"},
        {"{start: 172.24.5.1,", "{@first: 172.24.5.1, start: 172.24.5.1,", "allocation pool: unknown key first", ""},
        {"{device: eth0, address: 192.0.2.12}", "@{device: eth0}", "node subnode1: underlay lacks address",
         "like address: 192.0.2.11"},
        {"{destination: 10.9.0.0/16, nexthop: 10.2.0.7}", "@{destination: 10.9.0.0/16}",
         "router classic: route lacks nexthop", "like nexthop"},
        {"vm4, network: lonely, node: primary,", "vm4, network: lonely, node: primary, @node: subnode1,",
         "port vm4: node is written twice", "has it already"},
        {"name: base\n", "name: base\n@[a, b]: c\n", "a key is a list", "keys are words"},
    })));
}

TEST_CASE("a missing key is blamed on its mapping") {
    // The mark stands where the mapping begins, which an edit of the key alone cannot show.
    const Marked marked = unmark(edited("  - name: lonely\n    segmentation_id: 1002\n", "  - @name: lonely\n"));
    const auto mistakes = parse_topology(marked.text, "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0] ==
          Mistake{marked.line, marked.column, "network lonely lacks segmentation_id", "like segmentation_id: 1001"});
}

TEST_CASE("values of the wrong shape") {
    check(GENERATE(values<Case>({
        {"name: base", "name: @[base]", "name is a list", "single value"},
        {"underlay_mtu: 1500", "underlay_mtu: 1500\ntransport: @vxlan", "transport is a single value", "type: vxlan"},
        {"underlay_mtu: 1500", "@underlay_mtu:", "underlay_mtu has no value", "leave the key out"},
        {"    routes: [{destination: 10.9.0.0/16, nexthop: 10.2.0.7}]", "    routes: @10.9.0.0/16",
         "router classic: routes is not a list", ""},
        {"    interfaces: [blue]", "    interfaces: @blue", "router dvr: interfaces is not a list", ""},
        {"    interfaces: [blue]", "    interfaces: [blue, @[green]]", "router dvr: interface is a list", ""},
        {"  - {floating_ip_address: 172.24.5.13, port: vm3}", "  - @vm3", "floating IP is a single value",
         "\"key: value\""},
        {"    addresses: {public: 172.24.4.1/23}", "    addresses: @172.24.4.1/23", "addresses is a single value", ""},
        {"{name: red, cidr: 10.3.0.0/24}", "{name: red, cidr: 10.3.0.0/24, @gateway_ip: }", "gateway_ip has no value",
         "null for no gateway"},
    })));
}

TEST_CASE("malformed addresses") {
    check(GENERATE(values<Case>({
        {"address: 192.0.2.12}", "address: @192.0.2.256}", "\"192.0.2.256\" is not an IPv4 address", "0 to 255"},
        {"address: 192.0.2.12}", "address: @192.0.2.12/24}", "is not an IPv4 address", "prefix length: 192.0.2.12"},
        {"address: 192.0.2.12}", "address: @\"2001:db8::1\"}", "of another IP version", "one version"},
        {"address: 192.0.2.12}", "address: @\"2001:db8::1::2\"}", "is not an IPv6 address", "eight groups"},
        {"address: 192.0.2.12}", "address: @\"2001:db8::1/64\"}", "is not an IPv6 address", "eight groups"},
        {"address: 192.0.2.12}", "address: @\"fe80::1\"}", "link-local", "2001:db8::11"},
        {"address: 192.0.2.12}", "address: @\"ff02::1\"}", "multicast", "2001:db8::11"},
        {"address: 192.0.2.12}", "address: @\"::1\"}", "no address of a host", ""},
        {"address: 192.0.2.12}", "address: @\"::ffff:192.0.2.12\"}", "IPv4 address in IPv6 form", "192.0.2.12"},
        {"gateway_ip: 10.2.0.1", "gateway_ip: @\"2001:db8::1\"", "is not an IPv4 address", "only an underlay address"},
        {"address: 192.0.2.12}", "address: @127.0.0.1}", "loopback", "a host can have"},
        {"address: 192.0.2.12}", "address: @224.0.0.1}", "multicast", ""},
        {"address: 192.0.2.12}", "address: @0.0.0.0}", "0.0.0.0/8", ""},
        {"cidr: 10.3.0.0/24", "cidr: @10.3.0.1/24", "host bits", "10.3.0.0/24"},
        {"cidr: 10.3.0.0/24", "cidr: @10.3.0.0", "not an IPv4 prefix", "10.3.0.0/24"},
        {"cidr: 10.3.0.0/24", "cidr: @10.3.0.0/33", "not an IPv4 prefix", "0 to 32"},
        {"cidr: 10.3.0.0/24", "cidr: @10.3.0.0/31", "no room for hosts", "/30"},
        {"cidr: 10.3.0.0/24", "cidr: @240.0.0.0/8", "reserved", ""},
        {"cidr: 10.3.0.0/24", "cidr: @169.254.0.0/16", "overlaps 169.254.64.0/18", "rfp-/fpr-"},
        {"{public: 172.24.4.2/23}", "{public: @172.24.4.2}", "not an address with a prefix length", "172.24.4.2/24"},
        {"destination: 10.9.0.0/16", "destination: @10.9.0.1/16", "host bits", "10.9.0.0/16"},
    })));
}

TEST_CASE("malformed MACs, ids, names, devices") {
    check(GENERATE(values<Case>({
        {"\"fa:16:3e:00:00:01\"", "@fa-16-3e-00-00-01", "is not a MAC address", "fa:16:3e:00:00:01"},
        {"\"fa:16:3e:00:00:01\"", "@\"01:16:3e:00:00:01\"", "multicast", "00:16:3e:00:00:01"},
        {"\"fa:16:3e:00:00:01\"", "@\"00:00:00:00:00:00\"", "zero address", "derived"},
        {"device: tapvm2", "id: @c0ffee", "is not a UUID", "uuidgen"},
        {"device: tapvm2", "id: @879E898E-bad7-82de-ab2f-8d00b9fc803a", "upper-case",
         "879e898e-bad7-82de-ab2f-8d00b9fc803a"},
        {"device: tapvm2", "id: @00000000-0000-0000-0000-000000000000", "nil", ""},
        {"device: tapvm2", "device: @tap-of-vm2-on-subnode1", "22 bytes long", "at most 15"},
        {"device: tapvm2", "device: @tap/2", "not a device name", ""},
        {"device: tapvm2", "device: @\"tap 2\"", "not a device name", ""},
        {"device: tapvm2", "device: @..", "not a device name", ""},
        {"name: base", "name: @\"a b\"", "is not a valid name", "letters, digits"},
        {"name: base", "name: @\"\"", "is empty", ""},
        {"name: base", "name: @a234567890123456789012345678901234567890123456789012345678901234", "64 characters",
         "at most 63"},
    })));
}

TEST_CASE("numbers, truth values and types") {
    check(GENERATE(values<Case>({
        {"segmentation_id: 1002", "segmentation_id: @0", "out of range", "1 to 16777215"},
        {"segmentation_id: 1002", "segmentation_id: @16777216", "out of range", "1 to 16777215"},
        {"segmentation_id: 1002", "segmentation_id: @99999999999999999999999", "out of range", "1 to 16777215"},
        {"segmentation_id: 1002", "segmentation_id: @-5", "is not a number", "whole number"},
        {"segmentation_id: 1002", "segmentation_id: @1e3", "is not a number", "whole number"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    mtu: @575", "out of range", "576"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    mtu: @1451", "does not fit", "at most 1450"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    network_type: @stt", "is not a type",
         "vxlan, gre, geneve, vlan or flat"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    network_type: gre\n    mtu: @1459", "does not fit",
         "at most 1458"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    network_type: geneve\n    mtu: @1451", "does not fit",
         "at most 1450"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    shape: @ring", "is not a shape", "mesh or star"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    hub: @primary", "only a star has a hub", "shape: star"},
        {"segmentation_id: 1002", "segmentation_id: 1002\n    shape: star\n    hub: @primry", "primry", "primary"},
        {"segmentation_id: 1002", "segmentation_id: @16777215\n    shape: star", "need numbers up to 16777216",
         "16777215"},
        {"segmentation_id: 1002", "segmentation_id: @1000\n    shape: star", "segmentation_id 1001",
         "numbers that follow"},
        {"underlay_mtu: 1500", "underlay_mtu: @625", "out of range", "626"},
        {"underlay_mtu: 1500", "transport: {type: @stt}", "not a transport", "vxlan"},
        {"underlay_mtu: 1500", "transport: {port: @0}", "out of range", "1 to 65535"},
        {"underlay_mtu: 1500", "transport: {port: @65536}", "out of range", "1 to 65535"},
        {"external: true", "external: @yes", "not a truth value", "true or false"},
    })));
}

/// The base with IPv6 between its nodes.
std::string over_ipv6(const std::string& from = {}, const std::string& to = {}) {
    const std::string both = edited("address: 192.0.2.11", "address: \"2001:db8::11\"",
                                    edited("address: 192.0.2.12", "address: \"2001:db8::12\""));
    return from.empty() ? both : edited(from, to, both);
}

TEST_CASE("an IPv6 underlay leaves its networks 70 bytes less") {
    const LoadResult result = parse_topology(over_ipv6(), "six.yaml");
    INFO(format_mistakes(result.mistakes, "six.yaml"));
    REQUIRE(result.topology);
    CHECK(result.topology->is_over_ipv6());
    CHECK(result.topology->nodes[1].underlay_address.str() == "2001:db8::12");
    for (const Network& network : result.topology->networks)
        CHECK(network.mtu == 1430);
}

TEST_CASE("an IPv6 underlay: mistakes") {
    const auto mistakes = [](const std::string& from, const std::string& to) {
        return format_mistakes(parse_topology(over_ipv6(from, to), "f").mistakes, "f");
    };
    const auto says = [](const std::string& text, const std::string& part) {
        INFO(text);
        CHECK(text.find(part) != std::string::npos);
    };
    says(mistakes("underlay_mtu: 1500", "underlay_mtu: 1279"), "underlay_mtu: 1279 is less than IPv6 needs");
    says(mistakes("segmentation_id: 1002", "segmentation_id: 1002\n    network_type: gre"),
         "network lonely: GRE tunnels do not run over an IPv6 underlay");
    says(mistakes("underlay_mtu: 1500", "transport: {type: geneve}"),
         "network public: Geneve tunnels do not run over an IPv6 underlay");
    says(mistakes("segmentation_id: 1002", "segmentation_id: 1002\n    mtu: 1431"), "70 for VXLAN over IPv6");
    says(mistakes("2001:db8::12", "2001:db8:0::11"), "is already taken by node primary: underlay");
}

TEST_CASE("the transport's port is that of its type, and no other type may have it, too") {
    const auto with = [](const std::string& transport, const std::string& lonely) {
        return parse_topology(
            edited("underlay_mtu: 1500", "transport: " + transport,
                   edited("segmentation_id: 1002", "segmentation_id: 1002\n    network_type: " + lonely)),
            "f");
    };
    const auto geneve = with("{type: geneve, port: 7000}", "vxlan");
    REQUIRE(geneve.topology);
    CHECK(geneve.topology->udp_port(NetworkType::kGeneve) == 7000);
    CHECK(geneve.topology->udp_port(NetworkType::kVxlan) == 4789);
    CHECK_FALSE(geneve.topology->udp_port(NetworkType::kGre));
    const auto vxlan = with("{port: 7000}", "geneve");
    REQUIRE(vxlan.topology);
    CHECK(vxlan.topology->udp_port(NetworkType::kGeneve) == 6081);
    CHECK(vxlan.topology->udp_port(NetworkType::kVxlan) == 7000);
    // Nobody uses the other type's.
    CHECK(with("{type: geneve, port: 4789}", "gre").topology);
    for (const auto& [transport, lonely] :
         {std::pair{"{type: geneve, port: 4789}", "vxlan"}, {"{type: vxlan, port: 6081}", "geneve"}}) {
        const auto clash = with(transport, lonely);
        REQUIRE(clash.mistakes.size() == 1);
        CHECK(clash.mistakes[0].what.ends_with("is that of both VXLAN and Geneve"));
        CHECK(clash.mistakes[0].line == 2);
        CHECK(clash.mistakes[0].column > 1);
    }
}

TEST_CASE("names of Geneve devices fit for any VNI with up to 99 nodes") {
    const auto cloud = [](int nodes) {
        std::string text = "name: many\ntransport: {type: geneve}\nnodes:\n";
        for (int i = 1; i <= nodes; ++i) {
            text += "  - {name: n" + std::to_string(i) + ", underlay: {device: eth0, address: 192.0.2." +
                    std::to_string(i) + "}}\n";
        }
        return parse_topology(text + "networks:\n  - {name: a, segmentation_id: 16777215}\n", "f");
    };
    const auto fits = cloud(99);
    REQUIRE(fits.topology);
    CHECK(fits.topology->tunnel_ends(fits.topology->networks[0], 0).back().device == "gnv-16777215-99");
    const auto longer = cloud(100);
    REQUIRE(longer.mistakes.size() == 1);
    CHECK(longer.mistakes[0].what == "network a: tunnel device would be named gnv-16777215-100");
}

TEST_CASE("syntax errors have the parser's place") {
    const auto mistakes = parse_topology("name: base\nnodes: [a, b\nnetworks: x\n", "f").mistakes;
    REQUIRE(mistakes.size() == 1);
    CHECK(mistakes[0].line == 3);
    CHECK(mistakes[0].what.starts_with("YAML syntax: "));

    const auto tab = parse_topology("name: base\nnodes:\n\t- name: a\n", "f").mistakes;
    REQUIRE(tab.size() == 1);
    CHECK(tab[0].line == 3);
}

TEST_CASE("empty files and second documents") {
    for (const auto* const text : {"", "\n\n", "# nothing\n", "---\n...\n", "~"}) {
        const auto mistakes = parse_topology(text, "f").mistakes;
        INFO("text: " << text);
        REQUIRE(mistakes.size() == 1);
        CHECK(mistakes[0].line == 1);
        CHECK(mistakes[0].column == 1);
        CHECK(mistakes[0].what == "the file is empty");
    }
    const auto two = parse_topology(std::string(kBase) + "---\nname: other\n", "f").mistakes;
    REQUIRE(two.size() == 1);
    CHECK(two[0].what.find("second YAML document") != std::string::npos);

    const auto list = parse_topology("- a\n- b\n", "f").mistakes;
    REQUIRE(list.size() == 1);
    CHECK(list[0].what == "topology is a list, not a mapping");
}

TEST_CASE("nodes and networks are required") {
    const auto mistakes = parse_topology("name: base\nnodes: []\n", "f").mistakes;
    REQUIRE(mistakes.size() == 2);
    CHECK(mistakes[0].what == "topology base lacks networks");
    CHECK(mistakes[1].what == "topology base: nodes is empty");
    CHECK(mistakes[1].line == 2);
    CHECK(mistakes[1].column == 8);
}

TEST_CASE("anchors and aliases work, and a list may hold itself") {
    const std::string good = edited("    underlay: {device: eth0, address: 192.0.2.11}",
                                    "    underlay: {device: &nic eth0, address: 192.0.2.11}");
    CHECK(
        parse_topology(edited("{device: eth0, address: 192.0.2.12}", "{device: *nic, address: 192.0.2.12}", good), "f")
            .topology);
    const std::string bad = edited("{device: &nic eth0", "{device: &nic eth/0", good);
    const auto mistakes =
        parse_topology(edited("{device: eth0, address: 192.0.2.12}", "{device: *nic, address: 192.0.2.12}", bad), "f")
            .mistakes;
    REQUIRE(mistakes.size() == 2);  // one for each node that says it
    CHECK(mistakes[0].line == 5);
    CHECK(mistakes[1].line == 5);
    // A list that holds itself must end, too.
    CHECK_FALSE(parse_topology("name: base\nnodes: &n [*n]\nnetworks: *n\n", "f").topology);
}

}  // namespace
}  // namespace fiplane::topology_test
