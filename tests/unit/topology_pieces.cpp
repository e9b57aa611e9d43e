// SPDX-License-Identifier: Apache-2.0
// The parts under the loader: hash, derived values, edit distance, prefix index.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "topology/derive.hpp"
#include "topology/prefix_index.hpp"
#include "topology/sha1.hpp"
#include "topology/sha256.hpp"
#include "topology/suggest.hpp"

namespace fiplane::topology {
namespace {

std::string hex_of(const auto& bytes) {
    std::string out;
    for (const auto byte : bytes)
        out += fmt::format("{:02x}", byte);
    return out;
}

std::string hex(std::string_view text) {
    return hex_of(sha256(text));
}

TEST_CASE("SHA-256: vectors of FIPS 180-4 and the edges of its padding") {
    CHECK(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    // printf %s aaa... | sha256sum
    CHECK(hex(std::string(55, 'a')) == "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    CHECK(hex(std::string(56, 'a')) == "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
    CHECK(hex(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

TEST_CASE("SHA-1: vectors of FIPS 180-4 and the edges of its padding") {
    CHECK(hex_of(sha1("")) == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    CHECK(hex_of(sha1("abc")) == "a9993e364706816aba3e25717850c26c9cd0d89d");
    CHECK(hex_of(sha1("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
          "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    // printf %s aaa... | sha1sum
    CHECK(hex_of(sha1(std::string(55, 'a'))) == "c1c8bbdc22796e28c0e15163d20899b65621d65a");
    CHECK(hex_of(sha1(std::string(64, 'a'))) == "0098ba824b5c16427bd7a1122a5a442a25ec644d");
}

TEST_CASE("VLAN devices are named as Neutron's linuxbridge agent names them") {
    CHECK(vlan_device_name("eth1", 101) == "eth1.101");
    CHECK(vlan_device_name("enp1s0f0np", 4094) == "enp1s0f0np.4094");  // 15 characters
    // printf %s enp129s0f0np0 | sha1sum: 97e4a1...
    CHECK(vlan_device_name("enp129s0f0np0", 101) == "enp197e4a1.101");
    // With a short id the same device's name is kept.
    CHECK(vlan_device_name("enp129s0f0np0", 7) == "enp129s0f0np0.7");
}

TEST_CASE("derived values are those of the documented formulas") {
    // printf %s cloud/port/vm1 | sha256sum: 755932f7..., with version 8 and variant 10 put in.
    CHECK(derived_id("cloud", "port", "vm1") == "755932f7-1ae4-8156-998b-0c1eac4e6e73");
    CHECK(derived_mac("755932f7-1ae4-8156-998b-0c1eac4e6e73").str() == "fa:16:3e:d6:71:69");
    CHECK(derived_mac("755932f7-1ae4-8156-998b-0c1eac4e6e73", 2).str() == "fa:16:3e:37:45:01");
    CHECK(device_name("rfp-", "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01") == "rfp-7b1f3c52-9");
    CHECK(device_name("qr-", "7b1f3c52-9a0e-4c1d-8f53-2f6d8e4a1b01") == "qr-7b1f3c52-9a");
}

TEST_CASE("edit distance counts insertions, deletions, replacements and swaps") {
    CHECK(edit_distance("cidr", "cidr", 9) == 0);
    CHECK(edit_distance("cdir", "cidr", 9) == 1);
    CHECK(edit_distance("cid", "cidr", 9) == 1);
    CHECK(edit_distance("cidrs", "cidr", 9) == 1);
    CHECK(edit_distance("codr", "cidr", 9) == 1);
    CHECK(edit_distance("", "cidr", 9) == 4);
    CHECK(edit_distance("kitten", "sitting", 9) == 3);
    CHECK(edit_distance("kitten", "sitting", 1) == 2);
}

TEST_CASE("suggestions are near, or none") {
    const std::vector<std::string> keys = {"name", "network", "node", "fixed_ip"};
    CHECK(closest("nmae", keys) == "name");
    CHECK(closest("netwrok", keys) == "network");
    CHECK(closest("nodes", keys) == "node");
    CHECK_FALSE(closest("security_groups", keys));
    CHECK_FALSE(closest("mtu", keys));
}

TEST_CASE("the prefix index finds what contains an address") {
    PrefixIndex index;
    const auto prefix = [](std::string_view text) { return *Prefix::parse(text); };
    index.add(1, prefix("10.0.0.0/8"), 100);
    index.add(1, prefix("10.1.0.0/16"), 101);
    index.add(2, prefix("10.1.2.0/24"), 102);
    index.add(2, prefix("10.1.2.0/24"), 103);
    CHECK(index.containing(1, prefix("10.1.2.3/32")) == 100);
    CHECK(index.containing(2, prefix("10.1.2.3/32")) == 102);
    CHECK(index.containing(2, prefix("10.1.2.0/24")) == 102);
    CHECK_FALSE(index.containing(2, prefix("10.1.0.0/16")));
    CHECK_FALSE(index.containing(3, prefix("10.1.2.3/32")));
    index.remove(1, prefix("10.0.0.0/8"), 7);
    CHECK(index.containing(1, prefix("10.1.2.3/32")) == 100);
    index.remove(1, prefix("10.0.0.0/8"), 100);
    CHECK(index.containing(1, prefix("10.1.2.3/32")) == 101);
}

}  // namespace
}  // namespace fiplane::topology
