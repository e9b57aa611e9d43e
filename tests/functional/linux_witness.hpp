// SPDX-License-Identifier: Apache-2.0
// What the tests of src/linux share: a namespace with an open Rtnl, and iproute2's view of it.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "linux/rtnl.hpp"
#include "support/run_process.hpp"
#include "support/scratch_netns.hpp"

namespace fiplane::test {

/// The value, or a failed test with the error's message.
template <typename T>
T must(Result<T> result) {
    if (!result) FAIL(result.error().message());
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

/// Runs a command of iproute2 or nft in the namespace and parses the JSON that it prints; a failed command fails the
/// test.
inline nlohmann::json witness(const Netns& netns, const std::vector<std::string>& command) {
    const auto result = run_process_in(netns, command);
    INFO(command[0] << ": " << result.err);
    REQUIRE(result.exit_status == 0);
    return result.out.empty() ? nlohmann::json::array() : nlohmann::json::parse(result.out);
}

/// A namespace and its rtnetlink socket.
struct Bench {
    ScratchNetns scratch;
    Rtnl rtnl;
    explicit Bench(const std::string& label = "ns") : scratch(label), rtnl(must(Rtnl::open(scratch.netns()))) {}
    [[nodiscard]] const Netns& netns() const { return scratch.netns(); }
    [[nodiscard]] nlohmann::json ask(const std::vector<std::string>& command) const {
        return witness(netns(), command);
    }
    /// A command that prints nothing.
    void run(const std::vector<std::string>& command) const { CHECK(ask(command).empty()); }
    Link link(const std::string& name) {
        auto found = must(rtnl.link_by_name(name));
        REQUIRE(found.has_value());
        return *found;
    }
};

}  // namespace fiplane::test
