// SPDX-License-Identifier: Apache-2.0
#include "core/types.hpp"

#include <catch2/catch_test_macros.hpp>

using namespace fiplane;

TEST_CASE("addresses print as they are parsed, and nothing else parses") {
    for (const char* text : {"0.0.0.0", "10.0.0.1", "255.255.255.255", "172.24.5.11"}) {
        REQUIRE(Ipv4::parse(text));
        CHECK(Ipv4::parse(text)->str() == text);
    }
    for (const char* text : {"", "1", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "1..2.3",
                             "1.2.3.", "-1.2.3.4", "1.2.3.4/32", "a.b.c.d", "+1.2.3.4", "0x1.2.3.4"}) {
        CHECK_FALSE(Ipv4::parse(text));
    }
}

TEST_CASE("wire order is most significant byte first, whatever the machine") {
    const Ipv4 address{0x0a000102};
    CHECK(address.bytes() == std::array<std::uint8_t, 4>{10, 0, 1, 2});
    CHECK(Ipv4::from_bytes(address.bytes().data()) == address);
    CHECK(Ipv4::from_network(address.network()) == address);
}

TEST_CASE("prefixes keep host bits, and know their network and broadcast") {
    const auto prefix = Prefix::parse("172.24.5.2/23");
    REQUIRE(prefix);
    CHECK(prefix->str() == "172.24.5.2/23");
    CHECK(prefix->network().str() == "172.24.4.0/23");
    CHECK(prefix->broadcast().str() == "172.24.5.255");
    CHECK(Prefix::parse("0.0.0.0/0")->mask() == 0);
    CHECK(Prefix::parse("1.2.3.4/32")->mask() == 0xffffffff);
    for (const char* text : {"1.2.3.4", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/2x", "/24", "1.2.3/24"}) {
        CHECK_FALSE(Prefix::parse(text));
    }
}

TEST_CASE("prefixes nest or are apart") {
    const Prefix wide = *Prefix::parse("10.0.0.0/8");
    const Prefix narrow = *Prefix::parse("10.1.2.3/24");
    CHECK(wide.contains(narrow));
    CHECK_FALSE(narrow.contains(wide));
    CHECK(wide.overlaps(narrow));
    CHECK(narrow.overlaps(wide));
    CHECK_FALSE(wide.overlaps(*Prefix::parse("11.0.0.0/8")));
    CHECK(Prefix::parse("0.0.0.0/0")->contains(*Ipv4::parse("255.255.255.255")));
}

TEST_CASE("MAC addresses") {
    const auto address = Mac::parse("fa:16:3e:00:01:0A");
    REQUIRE(address);
    CHECK(address->str() == "fa:16:3e:00:01:0a");
    CHECK_FALSE(address->is_multicast());
    CHECK(Mac::parse("01:00:5e:00:00:01")->is_multicast());
    CHECK(Mac{}.is_unset());
    for (const char* text : {"", "fa:16:3e:00:01", "fa:16:3e:00:01:0a:0b", "fa-16-3e-00-01-0a", "fa:16:3e:00:01:g0",
                             "fa:16:3e:0:001:0a", "fa:16:3e:00:01:+a"}) {
        CHECK_FALSE(Mac::parse(text));
    }
}
