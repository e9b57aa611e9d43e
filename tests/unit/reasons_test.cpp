// SPDX-License-Identifier: Apache-2.0
// Names that operators see in `status` and scripts match on: they are interface.
#include "core/reasons.hpp"

#include <catch2/catch_test_macros.hpp>
#include <set>
#include <string>

namespace fiplane::test {

TEST_CASE("hooks have the names of their programs", "[reasons]") {
    CHECK(hook_name(FL_HOOK_XDP_UNDERLAY) == "xdp_underlay");
    CHECK(hook_name(FL_HOOK_TC_UNDERLAY) == "tc_underlay");
    CHECK(hook_name(FL_HOOK_TC_TUNNEL) == "tc_tunnel");
    CHECK(hook_name(FL_HOOK_TC_PORT) == "tc_port");
    CHECK(hook_name(FL_HOOK_TC_HOST) == "tc_host");
}

TEST_CASE("reasons have lower-case names, a class and a text", "[reasons]") {
    CHECK(reason_name(FL_REASON_FIP_IN) == "fip_in");
    CHECK(reason_class(FL_REASON_FIP_IN) == FL_CLASS_FAST);
    CHECK(reason_name(FL_REASON_L2_TO_HOST) == "l2_to_host");
    CHECK(reason_name(FL_REASON_XDP_DONE) == "xdp_done");
    CHECK(reason_class(FL_REASON_XDP_DONE) == FL_CLASS_PASS);
    CHECK(reason_class(FL_REASON_FLOOD) == FL_CLASS_FLOOD);
    CHECK(reason_name(FL_REASON_TTL) == "ttl");
    CHECK(reason_class(FL_REASON_TTL) == FL_CLASS_SLOW);
    CHECK(reason_text(FL_REASON_TTL) == "TTL would expire on the way: Linux answers");
    // The last of the list shows that no row slipped.
    CHECK(reason_name(FL_REASON_DROP_REWRITE) == "drop_rewrite");
    CHECK(reason_class(FL_REASON_DROP_REWRITE) == FL_CLASS_DROP);
    CHECK(reason_text(FL_REASON_DROP_REWRITE) == "rewriting failed half-way");
}

TEST_CASE("reason names are distinct words that scripts can match on", "[reasons]") {
    std::set<std::string_view> names;
    for (int reason = 0; reason < FL_REASON_COUNT; ++reason) {
        const auto name = reason_name(static_cast<fl_reason>(reason));
        INFO(name);
        CHECK(names.insert(name).second);
        CHECK_FALSE(name.empty());
        CHECK(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos);
        CHECK_FALSE(reason_text(static_cast<fl_reason>(reason)).empty());
    }
}

TEST_CASE("a reason of another version is named as such and not counted", "[reasons]") {
    const auto unknown = static_cast<fl_reason>(FL_REASON_COUNT);
    CHECK(reason_name(unknown) == "unknown");
    CHECK(reason_class(unknown) == FL_CLASS_PASS);
    CHECK(hook_name(FL_HOOK_COUNT) == "unknown");
}

}  // namespace fiplane::test
