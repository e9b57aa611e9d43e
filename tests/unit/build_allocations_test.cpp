// SPDX-License-Identifier: Apache-2.0
// Link-local pairs and rule priorities: formats, order, exhaustion, files.
#include <fmt/format.h>
#include <stdlib.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>

#include "build/allocations.hpp"

namespace fiplane::build {
namespace {

Ipv4 ip(const char* text) {
    return Ipv4::parse(text).value();
}

class TemporaryDirectory {
  public:
    TemporaryDirectory() {
        std::array<char, 64> name{"/tmp/fiplane-allocations-XXXXXX"};
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name.data();
    }
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] std::string read(const std::string& name) const {
        std::ifstream in(path_ + "/" + name);
        return {std::istreambuf_iterator<char>(in), {}};
    }

  private:
    std::string path_;
};

}  // namespace

TEST_CASE("Neutron's files are read, and lines that make no sense are dropped", "[build]") {
    const auto read = Allocations::parse(
        "11112222-aaaa-4bbb-8ccc-000000000001,169.254.88.134/31\n"
        "odd,169.254.88.135/31\n"      // not the even end
        "short,169.254.88.0/30\n"      // not a pair
        "elsewhere,169.254.30.0/31\n"  // the pool of old releases
        "again,169.254.88.134/31\n"    // taken
        "no comma\n,169.254.88.8/31\n",
        "203.0.113.50,47313\n203.0.113.51,47313\n203.0.113.52,100\n203.0.113.53,99999\nx,40000\n203.0.113.54,4x\n");
    CHECK(read.print_pairs() == "11112222-aaaa-4bbb-8ccc-000000000001,169.254.88.134/31\n");
    CHECK(read.print_priorities() == "203.0.113.50,47313\n");
}

TEST_CASE("what is known stays, what is new gets the lowest free value", "[build]") {
    auto allocations = Allocations::parse("b,169.254.64.2/31\n", "203.0.113.2,32769\n");
    CHECK(allocations.reserve_pair("b", ip("169.254.70.0")) == ip("169.254.64.2"));
    CHECK(allocations.reserve_pair("a", std::nullopt) == ip("169.254.64.0"));
    CHECK(allocations.reserve_pair("c", std::nullopt) == ip("169.254.64.4"));
    CHECK(allocations.reserve_pair("live", ip("169.254.99.8")) == ip("169.254.99.8"));
    CHECK(allocations.reserve_pair("clash", ip("169.254.99.8")) == ip("169.254.64.6"));
    CHECK(allocations.reserve_pair("outside", ip("10.0.0.0")) == ip("169.254.64.8"));
    allocations.release_pair("a");
    CHECK(allocations.reserve_pair("d", std::nullopt) == ip("169.254.64.0"));
    CHECK(allocations.reserve_priority(ip("203.0.113.1"), std::nullopt) == 32768U);
    CHECK(allocations.reserve_priority(ip("203.0.113.3"), std::nullopt) == 32770U);
    CHECK(allocations.reserve_priority(ip("203.0.113.4"), 50000) == 50000U);
    allocations.release_priority(ip("203.0.113.2"));
    CHECK(allocations.reserve_priority(ip("203.0.113.5"), std::nullopt) == 32769U);
}

TEST_CASE("8192 pairs and 40000 priorities, then an error that names the pool", "[build]") {
    Allocations allocations;
    for (int i = 0; i < 8192; ++i)
        REQUIRE(allocations.reserve_pair(fmt::format("r{}", i), std::nullopt));
    CHECK(allocations.pairs().at("r8191") == ip("169.254.127.254"));
    const auto pair = allocations.reserve_pair("one more", std::nullopt);
    REQUIRE_FALSE(pair);
    CHECK(pair.error().code == ExitCode::kTableFull);
    CHECK(pair.error().hint == "169.254.64.0/18 holds 8192 pairs");
    for (std::uint32_t i = 0; i < 40000; ++i) {
        REQUIRE(allocations.reserve_priority(Ipv4{ip("203.0.0.0").value + i}, std::nullopt) == 32768 + i);
    }
    CHECK_FALSE(allocations.reserve_priority(ip("198.51.100.1"), std::nullopt));
}

TEST_CASE("files are merged under the lock, and contradictions are refused", "[build]") {
    const TemporaryDirectory directory;
    const AllocationFiles files(directory.path() + "/deep/state");
    CHECK(files.load()->pairs().empty());
    Allocations mine;
    REQUIRE(mine.reserve_pair("mine", std::nullopt));
    REQUIRE(mine.reserve_priority(ip("203.0.113.1"), std::nullopt));
    REQUIRE(files.add(mine));
    // Somebody who read the empty files before that gives the same pair away.
    Allocations theirs;
    REQUIRE(theirs.reserve_pair("theirs", std::nullopt));
    const auto refused = files.add(theirs);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.find("169.254.64.0/31 of router theirs was given away meanwhile") != std::string::npos);
    Allocations others;
    REQUIRE(others.reserve_pair("others", ip("169.254.64.8")));
    REQUIRE(files.add(others));
    CHECK(directory.read("deep/state/fip-linklocal-networks") == "mine,169.254.64.0/31\nothers,169.254.64.8/31\n");
    REQUIRE(files.release({"mine"}, {ip("203.0.113.1")}));
    CHECK(directory.read("deep/state/fip-linklocal-networks") == "others,169.254.64.8/31\n");
    CHECK(directory.read("deep/state/fip-priorities").empty());
    CHECK_FALSE(std::filesystem::exists(directory.path() + "/deep/state/fip-priorities.new"));
}

}  // namespace fiplane::build
