// SPDX-License-Identifier: Apache-2.0
// Every verdict that a hook can give is produced by some test of this suite.
#include "bpf/coverage.hpp"

#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "bpf/programs.hpp"
#include "core/reasons.hpp"
#include "support/run_process.hpp"

using namespace fiplane;
using namespace fiplane::test;

namespace {

/// Why no test run can produce a verdict.
const std::map<fl_reason, std::string> kUnreachable = {
    {FL_REASON_XDP_DONE, "test runs have no metadata; live_test.cpp sends real frames"},
    {FL_REASON_TO_VLAN_DEV, "test runs keep no tag beside a frame; live_test.cpp sends real frames"},
    {FL_REASON_PULL_FAILED, "needs an allocation failure"},
    {FL_REASON_DECAP_REFUSED, "needs an allocation failure"},
};

Covered reachable() {
    Covered out;
    const auto add = [&out](fl_hook hook, std::initializer_list<fl_reason> reasons) {
        for (const fl_reason reason : reasons)
            out.emplace(hook, reason);
    };
    // What a later program sees again is only handed over at the underlay.
    for (const fl_hook hook : {FL_HOOK_XDP_UNDERLAY, FL_HOOK_TC_UNDERLAY})
        add(hook, {FL_REASON_FIP_OUT, FL_REASON_FIP_HAIRPIN, FL_REASON_ROUTED});
    add(FL_HOOK_TC_TUNNEL, {FL_REASON_FIP_OUT, FL_REASON_ROUTED, FL_REASON_MSS});
    add(FL_HOOK_TC_HOST, {FL_REASON_MSS});
    add(FL_HOOK_XDP_UNDERLAY, {FL_REASON_FIP_IN, FL_REASON_L2_FORWARD, FL_REASON_L2_TO_HOST, FL_REASON_ARP_REPLY,
                               FL_REASON_NOT_OVERLAY, FL_REASON_TO_TC});
    add(FL_HOOK_TC_UNDERLAY,
        {FL_REASON_FIP_IN, FL_REASON_L2_FORWARD, FL_REASON_ARP_REPLY, FL_REASON_NOT_OVERLAY, FL_REASON_TO_TUNNEL_DEV,
         FL_REASON_UNKNOWN_PEER, FL_REASON_TUNNEL_HEADER, FL_REASON_OUTER_CHECKSUM, FL_REASON_OUTER_CE});
    for (const fl_hook hook : {FL_HOOK_TC_TUNNEL, FL_HOOK_TC_PORT, FL_HOOK_TC_HOST}) {
        add(hook, {FL_REASON_FIP_IN, FL_REASON_L2_FORWARD, FL_REASON_ARP_REPLY, FL_REASON_NO_SOURCE,
                   FL_REASON_SAME_PORT, FL_REASON_MTU});
    }
    for (const fl_hook hook : {FL_HOOK_TC_TUNNEL, FL_HOOK_TC_PORT})
        add(hook, {FL_REASON_LEARN});
    for (const fl_hook hook : {FL_HOOK_TC_TUNNEL, FL_HOOK_TC_HOST}) {
        add(hook, {FL_REASON_FLOOD, FL_REASON_VLAN_TAG, FL_REASON_HOST_SOURCE, FL_REASON_BAD_IP_HEADER,
                   FL_REASON_IP_OPTIONS, FL_REASON_TTL, FL_REASON_NO_DEST});
    }
    add(FL_HOOK_TC_TUNNEL, {FL_REASON_FRAGMENT, FL_REASON_SHORT_FRAME, FL_REASON_ARP_OTHER, FL_REASON_UNKNOWN_MAC,
                            FL_REASON_TO_ROUTER, FL_REASON_ICMP_INNER});
    add(FL_HOOK_TC_PORT,
        {FL_REASON_FLOOD, FL_REASON_FIP_OUT, FL_REASON_FIP_HAIRPIN, FL_REASON_ROUTED, FL_REASON_L2_TO_HOST,
         FL_REASON_ARP_OTHER, FL_REASON_NOT_OWN_ADDRESS, FL_REASON_UNKNOWN_MAC, FL_REASON_TO_ROUTER, FL_REASON_NO_DEST,
         FL_REASON_NOT_IPV4, FL_REASON_L4_SHORT, FL_REASON_FRAGMENT, FL_REASON_ENCAP_REFUSED, FL_REASON_BAD_IP_HEADER});
    add(FL_HOOK_TC_ROUTER, {FL_REASON_FIP_IN,
                            FL_REASON_FIP_OUT,
                            FL_REASON_FIP_HAIRPIN,
                            FL_REASON_ROUTED,
                            FL_REASON_CROSSED,
                            FL_REASON_ARP_REPLY,
                            FL_REASON_BETWEEN_ROUTERS,
                            FL_REASON_FLOOD,
                            FL_REASON_NO_DEST,
                            FL_REASON_ARP_OTHER,
                            FL_REASON_NO_SOURCE,
                            FL_REASON_SHORT_FRAME,
                            FL_REASON_VLAN_TAG,
                            FL_REASON_NOT_IPV4,
                            FL_REASON_IP_OPTIONS,
                            FL_REASON_BAD_IP_HEADER,
                            FL_REASON_FRAGMENT,
                            FL_REASON_TTL,
                            FL_REASON_MTU,
                            FL_REASON_MSS,
                            FL_REASON_ICMP_INNER,
                            FL_REASON_LINUX_FLOW,
                            FL_REASON_LEASE,
                            FL_REASON_L4_SHORT,
                            FL_REASON_HOST_SOURCE,
                            FL_REASON_DROP_REWRITE});
    return out;
}

}  // namespace

TEST_CASE("every reason is listed as reachable, or why it is not", "[coverage]") {
    std::set<fl_reason> listed;
    for (const auto& [hook, reason] : reachable())
        listed.insert(reason);
    for (int i = 0; i < FL_REASON_COUNT; ++i) {
        const auto reason = static_cast<fl_reason>(i);
        INFO(reason_name(reason));
        CHECK(listed.contains(reason) != kUnreachable.contains(reason));
    }
}

TEST_CASE("the suite produces every reachable verdict", "[coverage]") {
    const std::string path =
        std::filesystem::temp_directory_path() / ("fiplane-bpf-coverage-" + std::to_string(getpid()));
    setenv(kCoverageVariable, path.c_str(), 1);
    const ProcessResult suite = run_process({"/proc/self/exe", "~[coverage]"});
    unsetenv(kCoverageVariable);
    const Covered covered = read_covered(path);
    std::filesystem::remove(path);
    INFO(suite.out);
    REQUIRE(suite.exit_status == 0);
    for (const auto& [hook, reason] : reachable()) {
        INFO(hook_name(hook) << ": no test produces " << reason_name(reason));
        CHECK(covered.contains({hook, reason}));
    }
    // And the list above is complete, or a new verdict of a hook would not be asked for.
    for (const auto& [hook, reason] : covered) {
        if (reason == FL_REASON_XDP_DONE) continue;
        INFO(hook_name(hook) << " can give " << reason_name(reason) << ", which reachable() does not list");
        CHECK(reachable().contains({hook, reason}));
    }
}
