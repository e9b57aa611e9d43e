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

TEST_CASE("an address of either version prints as it is parsed, in RFC 5952's form") {
    for (const char* text : {"192.0.2.1", "::", "::1", "2001:db8::1", "2001:db8:0:1:1:1:1:1", "fe80::1", "ff02::1"}) {
        REQUIRE(IpAddress::parse(text));
        CHECK(IpAddress::parse(text)->str() == text);
    }
    CHECK(IpAddress::parse("2001:DB8:0:0:0:0:0:1")->str() == "2001:db8::1");
    for (const char* text : {"", "192.0.2", "2001:db8::1::2", "2001:db8::1/64", "fe80::1%eth0", " ::1", "::1 ",
                             "12345::", "2001:db8:1:2:3:4:5", "[::1]"}) {
        CHECK_FALSE(IpAddress::parse(text));
    }
}

TEST_CASE("an IPv4 address is the same in mapped form, and no IPv6 address") {
    const IpAddress four = Ipv4{0xc0000201};
    CHECK(four == IpAddress::parse("::ffff:192.0.2.1"));
    CHECK(four.str() == "192.0.2.1");
    CHECK(four.ipv4() == Ipv4{0xc0000201});
    CHECK(four.is_ipv4());
    CHECK_FALSE(four.is_ipv6());
    const auto bytes = four.bytes();
    CHECK(bytes == std::array<std::uint8_t, 16>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1});
    CHECK(IpAddress::from_bytes(bytes.data()) == four);
    const IpAddress six = *IpAddress::parse("2001:db8::1");
    CHECK(six.is_ipv6());
    CHECK_FALSE(six.ipv4());
    CHECK(IpAddress{}.is_unset());
    CHECK(IpAddress(Ipv4{}).is_unset());
    CHECK_FALSE(IpAddress{}.is_ipv6());
    CHECK_FALSE(IpAddress{}.is_ipv4());
}

TEST_CASE("multicast and link-local addresses of both versions") {
    for (const char* text : {"224.0.0.1", "239.1.2.3", "ff02::1"})
        CHECK(IpAddress::parse(text)->is_multicast());
    for (const char* text : {"192.0.2.1", "2001:db8::ff02", "::"})
        CHECK_FALSE(IpAddress::parse(text)->is_multicast());
    for (const char* text : {"169.254.1.1", "fe80::1", "febf::1"})
        CHECK(IpAddress::parse(text)->is_link_local());
    for (const char* text : {"169.255.1.1", "fec0::1", "fe00::1"})
        CHECK_FALSE(IpAddress::parse(text)->is_link_local());
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
