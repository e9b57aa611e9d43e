// SPDX-License-Identifier: Apache-2.0
// What a translation changes behind the IPv4 header. A checksum field is judged by the residue of what it covers, in
// and out: equal residues mean that a right one stays right and that a wrong one stays exactly as wrong.
#include "fuzz/judge.hpp"

namespace fiplane::test {
namespace {

constexpr std::size_t kQuotedIp = kL4 + 8;
constexpr std::size_t kQuotedL4 = kQuotedIp + kIpSize;

}  // namespace

Judge::Complaint Judge::translate_transport(Ipv4 src, Ipv4 dst) {
    const View in = in_.frame;
    if (src == read_ip(in, 26) && dst == read_ip(in, 30)) return std::nullopt;
    const std::uint8_t protocol = in[23];
    if (protocol == kDccp || protocol == kUdpLite) return "translated a protocol whose checksum it does not know";
    const std::size_t size = in.size() - kL4;
    switch (protocol) {
        case kTcp:
            return size < 20 ? Complaint("translated half a TCP header") : translate_checksum(26, kL4 + 16, false);
        case kUdp:
            return size < 8 ? Complaint("translated half a UDP header") : translate_checksum(26, kL4 + 6, true);
        case kIcmp:
            if (size < 8) return "translated half an ICMP header";
            if (in[kL4] == 5) return "translated an ICMP redirect";
            return is_icmp_error(in[kL4]) ? translate_quote(src, dst) : Complaint{};
        case kGre:
        case kSctp:
            return size < 8 ? Complaint("translated what Linux drops: less than 8 bytes of GRE or SCTP") : Complaint{};
        default:
            return std::nullopt;
    }
}

/// `at`: where the addresses are that the checksum at `check_at` covers by its pseudo header. What else it covers stays
/// as it is, which the comparison of the whole frames sees to. Takes the output's value over if it is right.
Judge::Complaint Judge::translate_checksum(std::size_t at, std::size_t check_at, bool udp) {
    const std::uint16_t before = read16(in_.frame, check_at);
    const std::uint16_t after = read16(out_.frame, check_at);
    if (udp && before == 0) return std::nullopt;
    if (udp && after == 0) return "a UDP checksum became zero, which means none";
    const auto sum = [&](View frame, std::uint16_t check) { return residue(word_sum(frame.subspan(at, 8)) + check); };
    if (sum(in_.frame, before) != sum(out_.frame, after)) return "a transport checksum is right no more, or right now";
    write16(expected_, check_at, after);
    return std::nullopt;
}

Judge::Complaint Judge::translate_quote(Ipv4 src, Ipv4 dst) {
    const View in = in_.frame;
    if (in.size() < kQuotedL4 + 8) return "translated an ICMP error with too short a quote";
    if (in[kQuotedIp] != 0x45 || (read16(in, kQuotedIp + 6) & 0x1fff) != 0)
        return "translated an ICMP error that quotes options or a later fragment";
    const std::uint8_t protocol = in[kQuotedIp + 9];
    if (protocol == kDccp || protocol == kUdpLite) return "translated a quote whose checksum it does not know";
    if (protocol == kIcmp && (is_icmp_error(in[kQuotedL4]) || in[kQuotedL4] == 5))
        return "translated an ICMP error about an ICMP error";

    const Ipv4 outer_src = read_ip(in, 26);
    const Ipv4 outer_dst = read_ip(in, 30);
    if (dst != outer_dst) {
        if (read_ip(in, kQuotedIp + 12) != outer_dst) return "translated an ICMP error about somebody else's packet";
        write32(expected_, kQuotedIp + 12, dst.value);
    }
    if (src != outer_src) {
        if (read_ip(in, kQuotedIp + 16) != outer_src) return "translated an ICMP error about somebody else's packet";
        write32(expected_, kQuotedIp + 16, src.value);
    }
    const auto ip_residue = [](View frame) { return residue(word_sum(frame.subspan(kQuotedIp, kIpSize))); };
    if (ip_residue(in) != ip_residue(out_.frame)) return "the quoted IPv4 checksum is right no more, or right now";
    write16(expected_, kQuotedIp + 10, read16(out_.frame, kQuotedIp + 10));

    Complaint complaint;
    if (protocol == kUdp) complaint = translate_checksum(kQuotedIp + 12, kQuotedL4 + 6, true);
    if (protocol == kTcp && in.size() >= kQuotedL4 + 20)
        complaint = translate_checksum(kQuotedIp + 12, kQuotedL4 + 16, false);
    if (complaint) return complaint;
    if (residue(word_sum(in.subspan(kL4))) != residue(word_sum(out_.frame.subspan(kL4))))
        return "the ICMP checksum is right no more, or right now";
    write16(expected_, kL4 + 2, read16(out_.frame, kL4 + 2));
    return std::nullopt;
}

}  // namespace fiplane::test
