// SPDX-License-Identifier: Apache-2.0
// Source NAT of a router's external gateway: what the file says of it.
#include <nlohmann/json.hpp>

#include "topology/describe.hpp"
#include "topology_support.hpp"

namespace fiplane::topology_test {
namespace {

constexpr std::string_view kLegacyGateway = "{network: public, fixed_ip: 172.24.5.250}";

nlohmann::json classic(std::string_view text) {
    const LoadResult result = parse_topology(text, "base.yaml");
    INFO(format_mistakes(result.mistakes, "base.yaml"));
    REQUIRE(result.topology);
    return describe(*result.topology)["routers"][1];
}

TEST_CASE("a legacy router translates sources unless the file says otherwise") {
    CHECK(classic(kBase)["enable_snat"] == true);
    CHECK(classic(edited(kLegacyGateway,
                         "{network: public, fixed_ip: 172.24.5.250, enable_snat: true}"))["enable_snat"] == true);
    CHECK(classic(edited(kLegacyGateway,
                         "{network: public, fixed_ip: 172.24.5.250, enable_snat: false}"))["enable_snat"] == false);
    CHECK(classic(edited("    external_gateway: {network: public, fixed_ip: 172.24.5.250}\n", "",
                         edited("  - {floating_ip_address: 172.24.5.13, port: vm3}\n", "")))["enable_snat"] == nullptr);
}

TEST_CASE("enable_snat is a truth value") {
    check({kLegacyGateway, "{network: public, fixed_ip: 172.24.5.250, enable_snat: @never}", "enable_snat \"never\"",
           "true or false"});
}

}  // namespace
}  // namespace fiplane::topology_test
