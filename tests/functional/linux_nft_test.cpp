// SPDX-License-Identifier: Apache-2.0
// nf_tables through libnftables and the kernel: what was written comes back as values.
#include <fmt/format.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/select.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <set>
#include <thread>

#include "functional/linux_witness.hpp"
#include "linux/child_process.hpp"
#include "linux/descriptor_limit.hpp"
#include "linux/nft.hpp"
#include "support/no_descriptors.hpp"
#include "support/run_process.hpp"
#include "support/time_scale.hpp"

namespace fiplane::test {
namespace {

using nf::Field;
using nf::Statement;

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

/// The router's table as own mode builds it.
constexpr const char* kRouterTable = R"(
add table ip fiplane
add map ip fiplane fip_in { type ipv4_addr : ipv4_addr; }
add map ip fiplane fip_out { type ipv4_addr : ipv4_addr; }
add element ip fiplane fip_in { 172.24.5.11 : 10.0.0.11, 172.24.5.12 : 10.0.0.12 }
add element ip fiplane fip_out { 10.0.0.11 : 172.24.5.11 }
add chain ip fiplane prerouting { type nat hook prerouting priority dstnat; }
add rule ip fiplane prerouting iifname "rfp-0" dnat to ip daddr map @fip_in
add chain ip fiplane postrouting { type nat hook postrouting priority srcnat; }
add rule ip fiplane postrouting oifname != "rfp-0" ct status ! dnat accept
add rule ip fiplane postrouting snat to ip saddr map @fip_out
add chain ip fiplane late_in { type filter hook prerouting priority -50; policy drop; }
add rule ip fiplane late_in iifname "rfp-0" ct state invalid ip daddr set ip daddr map @fip_in
)";

const nf::Chain& chain(const nf::Ruleset& ruleset, const std::string& name) {
    const auto found = std::ranges::find(ruleset.chains, name, &nf::Chain::name);
    REQUIRE(found != ruleset.chains.end());
    return *found;
}

template <typename T>
const T& statement(const nf::Rule& rule, std::size_t index) {
    INFO(rule.text);
    REQUIRE(index < rule.statements.size());
    REQUIRE(std::holds_alternative<T>(rule.statements[index]));
    return std::get<T>(rule.statements[index]);
}

}  // namespace

TEST_CASE("the router's NAT table is read back whole", "[linux][nft]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    must(run_nft(scratch.netns(), kRouterTable));
    const auto ruleset = must(read_ruleset(scratch.netns()));
    CHECK(ruleset.opaque.empty());
    CHECK(ruleset.maps.at("ip fiplane fip_in") ==
          std::map<Ipv4, Ipv4>{{ip("172.24.5.11"), ip("10.0.0.11")}, {ip("172.24.5.12"), ip("10.0.0.12")}});
    CHECK(ruleset.maps.at("ip fiplane fip_out") == std::map<Ipv4, Ipv4>{{ip("10.0.0.11"), ip("172.24.5.11")}});

    const auto& pre = chain(ruleset, "prerouting");
    CHECK(pre.hook == nf::Hook::kPrerouting);
    CHECK(pre.type == nf::ChainType::kNat);
    CHECK(pre.priority == -100);
    REQUIRE(pre.rules.size() == 1);
    CHECK(pre.rules[0].text == "iifname \"rfp-0\" dnat to ip daddr map @fip_in");
    CHECK(statement<nf::Dnat>(pre.rules[0], 1).to.map_name == "fip_in");

    const auto& post = chain(ruleset, "postrouting");
    REQUIRE(post.rules.size() == 2);
    const auto& status = statement<nf::Match>(post.rules[0], 1);
    CHECK(status.field == Field::kCtStatus);
    CHECK(status.negate);
    CHECK(status.any_of == std::vector<nf::Value>{std::string("dnat")});
    CHECK_FALSE(statement<nf::Snat>(post.rules[1], 0).random);

    const auto& late = chain(ruleset, "late_in");
    CHECK_FALSE(late.policy_accept);
    CHECK(late.priority == -50);
    const auto& set = statement<nf::SetAddress>(late.rules.at(0), 2);
    CHECK(set.field == Field::kIpDaddr);
    CHECK(set.to.map_key == Field::kIpDaddr);

    const auto seen = witness(scratch.netns(), {"nft", "-j", "list", "map", "ip", "fiplane", "fip_in"});
    CHECK(seen["nftables"][1]["map"]["elem"].size() == 2);
}

TEST_CASE("a batch is all or nothing, and its error says why", "[linux][nft]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    const auto failed = run_nft(scratch.netns(), "add table ip one\nadd rule ip one nowhere accept\n");
    REQUIRE_FALSE(failed);
    CHECK(failed.error().what.starts_with("cannot change the nftables ruleset: "));
    CHECK(failed.error().what.find("No such file or directory") != std::string::npos);
    CHECK(failed.error().what.find("nowhere") != std::string::npos);
    CHECK(failed.error().where == "netns " + scratch.name());
    CHECK(witness(scratch.netns(), {"nft", "-j", "list", "tables"})["nftables"].size() == 1);  // metainfo only

    const auto syntax = run_nft(scratch.netns(), "add nonsense\n");
    REQUIRE_FALSE(syntax);
    CHECK(syntax.error().what.find("syntax error") != std::string::npos);
    must(run_nft(scratch.netns(), "add table ip one\n"));
    CHECK(witness(scratch.netns(), {"nft", "-j", "list", "tables"})["nftables"].size() == 2);
    CHECK(must(read_ruleset(ScratchNetns().netns())).chains.empty());
}

TEST_CASE("netdev chains know their devices", "[linux][nft]") {
    REQUIRE_ROOT();
    Bench bench;
    for (const auto* name : {"tap-a", "tap-b"}) {
        must(bench.rtnl.add_bridge({.name = name}));
    }
    must(run_nft(bench.netns(), R"(
add table netdev fiplane
add chain netdev fiplane one { type filter hook ingress device "tap-a" priority 0; }
add chain netdev fiplane both { type filter hook ingress devices = { "tap-a", "tap-b" } priority 5; }
add rule netdev fiplane one ether type arp arp saddr ip != { 0.0.0.0, 10.0.0.11 } drop
add rule netdev fiplane one ip saddr != { 0.0.0.0, 10.0.0.11 } drop
add rule netdev fiplane one ether saddr != fa:16:3e:00:00:01 drop
add rule netdev fiplane both drop
)"));
    const auto ruleset = must(read_ruleset(bench.netns()));
    std::multiset<std::pair<std::string, std::string>> bound;
    for (const auto& one : ruleset.chains)
        bound.emplace(one.name, one.device);
    CHECK(bound ==
          std::multiset<std::pair<std::string, std::string>>{{"one", "tap-a"}, {"both", "tap-a"}, {"both", "tap-b"}});

    // nft itself leaves out the EtherType that a header implies; without it an IPv4 packet would seem to be dropped by
    // the rule on ARP.
    const auto& rules = chain(ruleset, "one").rules;
    REQUIRE(rules.size() == 3);
    CHECK(statement<nf::Match>(rules[0], 0).field == Field::kEtherType);
    CHECK(statement<nf::Match>(rules[0], 0).any_of == std::vector<nf::Value>{std::uint64_t{0x0806}});
    CHECK(statement<nf::Match>(rules[0], 1).field == Field::kArpSaddrIp);
    CHECK(statement<nf::Match>(rules[1], 0).any_of == std::vector<nf::Value>{std::uint64_t{0x0800}});
    CHECK(statement<nf::Match>(rules[2], 0).field == Field::kEtherSaddr);
    CHECK(statement<nf::Match>(rules[2], 0).any_of == std::vector<nf::Value>{*Mac::parse("fa:16:3e:00:00:01")});

    nf::Packet packet;
    packet.iifname = "tap-a";
    packet.ether_saddr = Mac::parse("fa:16:3e:00:00:01");
    packet.saddr = ip("10.0.0.11");
    packet.daddr = Prefix::host(ip("10.0.0.12"));
    const auto own = nf::evaluate(ruleset, nf::Hook::kIngress, packet);
    // "both" drops everything; it comes second.
    CHECK_FALSE(own.accepted);
    must(run_nft(bench.netns(), "flush chain netdev fiplane both"));
    const auto relaxed = must(read_ruleset(bench.netns()));
    CHECK(nf::evaluate(relaxed, nf::Hook::kIngress, packet).accepted);
    packet.saddr = ip("10.0.0.99");
    CHECK_FALSE(nf::evaluate(relaxed, nf::Hook::kIngress, packet).accepted);
}

TEST_CASE("extensions of iptables-nft are read from iptables-nft-save", "[linux][nft]") {
    REQUIRE_ROOT();
    const Bench bench;
    const std::string masks = " --nfmask 0xffff0000 --ctmask 0xffff0000";
    for (const auto& rule : std::vector<std::string>{
             "-t nat -A PREROUTING -d 203.0.113.5/32 -i rfp-1 -j DNAT --to-destination 10.0.0.5", "-t nat -N float",
             "-t nat -A POSTROUTING ! -o rfp-1 -m conntrack ! --ctstate DNAT -j ACCEPT",
             "-t nat -A POSTROUTING -m comment --comment 'an \"odd\" -j DROP' -j float",
             "-t nat -A float -s 10.0.0.5/32 -j SNAT --to-source 203.0.113.5 --random-fully",
             "-t mangle -A PREROUTING -m connmark ! --mark 0x0/0xffff0000 -j CONNMARK --restore-mark" + masks,
             "-t mangle -A PREROUTING -i qr-+ -j MARK --set-xmark 0x4000000/0xffff0000",
             "-t raw -A PREROUTING -j CT --notrack"}) {
        bench.run({"sh", "-c", "iptables-nft " + rule});
    }
    must(run_nft(bench.netns(), kRouterTable));
    const auto ruleset = must(read_ruleset(bench.netns()));
    const auto rules = [&](const std::string& table, const std::string& name) {
        const auto found = std::ranges::find_if(
            ruleset.chains, [&](const nf::Chain& one) { return one.table == table && one.name == name; });
        REQUIRE(found != ruleset.chains.end());
        return found->rules;
    };
    const auto dnat = rules("nat", "PREROUTING");
    REQUIRE(dnat.size() == 1);
    CHECK(dnat[0].text == "-d 203.0.113.5/32 -i rfp-1 -j DNAT --to-destination 10.0.0.5");
    CHECK(statement<nf::Dnat>(dnat[0], 2).to.address == ip("10.0.0.5"));
    const auto post = rules("nat", "POSTROUTING");
    REQUIRE(post.size() == 2);
    CHECK(statement<nf::Match>(post[0], 1).field == Field::kCtState);
    CHECK(statement<nf::Match>(post[0], 1).negate);
    CHECK(statement<nf::Verdict>(post[1], 0).chain == "float");
    CHECK(statement<nf::Snat>(rules("nat", "float").at(0), 1).random);
    const auto marks = rules("mangle", "PREROUTING");
    REQUIRE(marks.size() == 2);
    CHECK(statement<nf::Match>(marks[0], 0).mask == 0xffff0000);
    CHECK(statement<nf::RestoreMark>(marks[0], 1).to == 0xffff0000);
    CHECK(statement<nf::SetMark>(marks[1], 1).value == 0x4000000);
    statement<nf::Notrack>(rules("raw", "PREROUTING").at(0), 0);
    // Chains that are nft's own come from nft.
    CHECK(std::holds_alternative<nf::Dnat>(chain(ruleset, "prerouting").rules.at(0).statements.back()));
}

TEST_CASE("a commit between the readings of nft and of iptables leaves no rule behind", "[linux][nft]") {
    REQUIRE_ROOT();
    const Bench bench;
    constexpr std::size_t kConstant = 3;
    for (std::size_t i = 1; i <= kConstant; ++i) {
        bench.run({"sh", "-c",
                   fmt::format("iptables-nft -t nat -A POSTROUTING -s 10.0.0.{}/32 -j SNAT --to-source 203.0.113.{} "
                               "--random-fully",
                               i, i)});
    }
    // Somebody adds one more and removes it again, with a pause in which it can be read.
    std::atomic<bool> done = false;
    std::atomic<int> failures = 0;  // assertions are for the main thread
    std::thread toggler([&] {
        const std::string rule = "POSTROUTING -s 10.0.0.99/32 -j SNAT --to-source 203.0.113.99 --random-fully";
        while (!done) {
            for (const std::string& change : {"-A " + rule, "-D " + rule}) {
                const auto result = run_process_in(bench.netns(), {"sh", "-c", "iptables-nft -t nat " + change});
                failures += result.exit_status == 0 ? 0 : 1;
                std::this_thread::sleep_for(scaled(std::chrono::milliseconds(30)));
            }
        }
    });
    std::size_t readings = 0;
    std::size_t torn = 0;
    const int attempts = static_cast<int>(200 / time_scale());
    for (int i = 0; i < attempts; ++i) {
        const auto ruleset = read_ruleset(bench.netns());
        if (!ruleset) {
            CHECK(ruleset.error().what == "the nftables ruleset has changed each time that it was read");
            continue;
        }
        ++readings;
        std::size_t known = 0;
        for (const nf::Chain& one : ruleset->chains) {
            known += static_cast<std::size_t>(std::ranges::count_if(one.rules, [](const nf::Rule& rule) {
                return std::ranges::any_of(rule.statements,
                                           [](const Statement& s) { return std::holds_alternative<nf::Snat>(s); });
            }));
        }
        if (known != kConstant && known != kConstant + 1) ++torn;
    }
    done = true;
    toggler.join();
    CHECK(failures == 0);
    CHECK(torn == 0);
    CHECK(readings > 0);
}

TEST_CASE("a ruleset that cannot be read for want of descriptors is an error, and not the end", "[linux][nft]") {
    REQUIRE_ROOT();
    const Bench bench;
    bench.run({"iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "SNAT", "--to-source", "203.0.113.5"});
    std::size_t failed = 0;
    for (unsigned spare = 0; spare < 12; ++spare) {
        const NoDescriptors few(spare);
        failed += read_ruleset(bench.netns()).has_value() ? 0 : 1;
    }
    CHECK(failed > 0);
    CHECK(failed < 12);
    CHECK(read_ruleset(bench.netns()));
}

TEST_CASE("a program that is run has the usual limit of open files, whatever its parent's is", "[linux]") {
    rlimit before{};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    REQUIRE(before.rlim_max > FD_SETSIZE);
    must(raise_descriptor_limit());
    rlimit raised{};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &raised) == 0);
    CHECK(raised.rlim_cur == before.rlim_max);
    CHECK(must(run_program({"sh", "-c", "ulimit -Sn"}, std::chrono::seconds(5))) == fmt::format("{}\n", FD_SETSIZE));
    CHECK(must(run_program({"sh", "-c", "ulimit -Hn"}, std::chrono::seconds(5))) ==
          fmt::format("{}\n", before.rlim_max));
    REQUIRE(getrlimit(RLIMIT_NOFILE, &raised) == 0);
    CHECK(raised.rlim_cur == before.rlim_max);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

TEST_CASE("an iptables-nft-save that does not succeed is an error, one that is not there is none", "[linux][nft]") {
    REQUIRE_ROOT();
    const Bench bench;
    bench.run({"sh", "-c", "iptables-nft -t nat -A POSTROUTING -s 10.0.0.1/32 -j SNAT --to-source 203.0.113.1"});
    const auto missing = run_program({"fiplane-no-such-program"}, std::chrono::seconds(5));
    REQUIRE_FALSE(missing);
    CHECK(missing.error().code == ExitCode::kMissingFeature);
    // Root's programs are found by an agent whose PATH is a user's.
    const std::string directories = std::getenv("PATH");
    setenv("PATH", "/nonexistent", 1);
    CHECK(run_program({"iptables-nft-save"}, std::chrono::seconds(5)));
    setenv("PATH", directories.c_str(), 1);
    const auto failing = run_program({"false"}, std::chrono::seconds(5));
    REQUIRE_FALSE(failing);
    CHECK(failing.error().code == ExitCode::kFailed);
    const auto slow = run_program({"sleep", "60"}, std::chrono::milliseconds(50));
    REQUIRE_FALSE(slow);
    CHECK(slow.error().code == ExitCode::kFailed);

    // A mount namespace of this thread's alone, in which the program is another one.
    const auto read_with = [&](const char* program) {
        Result<nf::Ruleset> ruleset;
        std::thread([&] {
            if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
            char path[PATH_MAX];
            if (realpath("/usr/sbin/iptables-nft-save", path) == nullptr) return;
            if (mount(program, path, nullptr, MS_BIND, nullptr) != 0) return;
            ruleset = read_ruleset(bench.netns());
        }).join();
        return ruleset;
    };
    const auto refused = read_with("/usr/bin/false");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.starts_with("iptables-nft-save failed with status"));
    CHECK(refused.error().where == "netns " + bench.netns().name());
}

TEST_CASE("tables of iptables-legacy are named", "[linux][nft]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    CHECK(must(read_ruleset(scratch.netns())).opaque_ipv4.empty());
    {
        // Asking for a table registers it, as `iptables-legacy -L` does.
        auto inside = NetnsGuard::enter(scratch.netns());
        REQUIRE(inside);
        const UniqueFd fd(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
        ipt_getinfo info{};
        std::copy_n("filter", 7, info.name);
        socklen_t size = sizeof info;
        if (getsockopt(fd.get(), IPPROTO_IP, IPT_SO_GET_INFO, &info, &size) != 0) {
            SKIP("this kernel has no iptables-legacy filter table");
        }
    }
    CHECK(must(read_ruleset(scratch.netns())).opaque_ipv4 == std::vector<std::string>{"iptables-legacy table filter"});
    CHECK(must(read_ruleset(ScratchNetns().netns())).opaque_ipv4.empty());
}

TEST_CASE("a map of 20000 addresses is read", "[linux][nft]") {
    REQUIRE_ROOT();
    const ScratchNetns scratch;
    std::string elements;
    for (std::uint32_t i = 0; i < 20000; ++i) {
        elements +=
            (i == 0 ? "" : ",") + Ipv4{ip("172.24.0.0").value + i}.str() + ":" + Ipv4{ip("10.0.0.0").value + i}.str();
    }
    must(run_nft(
        scratch.netns(),
        std::string(kRouterTable) + "flush map ip fiplane fip_in\nadd element ip fiplane fip_in {" + elements + "}\n"));
    const auto ruleset = must(read_ruleset(scratch.netns()));
    CHECK(ruleset.maps.at("ip fiplane fip_in").size() == 20000);
    CHECK(ruleset.maps.at("ip fiplane fip_in").at(ip("172.24.78.31")) == ip("10.0.78.31"));
}

}  // namespace fiplane::test
