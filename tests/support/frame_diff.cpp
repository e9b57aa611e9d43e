// SPDX-License-Identifier: Apache-2.0
#include "support/frame_diff.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace fiplane::test {
namespace {

constexpr std::size_t kEthLength = 14;
constexpr std::size_t kOuterLength = 50;      // over UDP
constexpr std::size_t kGreOuterLength = 42;   // with a key
constexpr std::size_t kIpv6OuterLength = 70;  // UDP and VXLAN
constexpr std::uint16_t kVxlanPort = 4789;
constexpr std::uint16_t kGenevePort = 6081;

std::string hex(const Bytes& bytes) {
    return fmt::format("{:02x}", fmt::join(bytes, ""));
}

/// Walks a frame from its front and names what it passes.
class Dissector {
  public:
    explicit Dissector(const Bytes& frame) : frame_(frame) {}

    std::vector<Field> run() {
        ethernet();
        if (at_ < frame_.size()) take("data", frame_.size() - at_);
        return std::move(fields_);
    }

  private:
    [[nodiscard]] bool has(std::size_t length) const { return at_ + length <= frame_.size(); }

    void take(const std::string& name, std::size_t length) {
        const auto first = frame_.begin() + static_cast<std::ptrdiff_t>(at_);
        const Bytes raw(first, first + static_cast<std::ptrdiff_t>(length));
        std::string value = hex(raw);
        if (name.ends_with("dst") || name.ends_with("src") || name.ends_with("_ip") || name.ends_with("_mac")) {
            if (length == 4) value = fmt::format("{}", fmt::join(raw, "."));
            if (length == 6) value = fmt::format("{:02x}", fmt::join(raw, ":"));
        } else if (length <= 2) {
            std::uint32_t number = 0;
            for (const auto byte : raw)
                number = number << 8 | byte;
            value = fmt::format("{} (0x{:0{}x})", number, number, 2 * length);
        }
        fields_.push_back({at_, length, prefix_ + name, std::move(value)});
        at_ += length;
    }

    void ethernet() {
        if (!has(kEthLength)) return;
        take("eth.dst", 6);
        take("eth.src", 6);
        take("eth.type", 2);
        switch (word_at(frame_, at_ - 2)) {
            case 0x0800:
                return ipv4();
            case 0x0806:
                return arp();
            case 0x86dd:
                return ipv6();
            default:
                return;
        }
    }

    void arp() {
        if (!has(28)) return;
        take("arp.hardware", 2);
        take("arp.protocol", 2);
        take("arp.hardware_length", 1);
        take("arp.protocol_length", 1);
        take("arp.operation", 2);
        take("arp.sender_mac", 6);
        take("arp.sender_ip", 4);
        take("arp.target_mac", 6);
        take("arp.target_ip", 4);
    }

    void ipv4() {
        if (!has(20)) return;
        const std::size_t start = at_;
        const std::size_t header = static_cast<std::size_t>(frame_[start] & 0xf) * 4;
        take("ip.version_ihl", 1);
        take("ip.tos", 1);
        take("ip.total_length", 2);
        take("ip.id", 2);
        take("ip.flags_offset", 2);
        take("ip.ttl", 1);
        take("ip.protocol", 1);
        take("ip.checksum", 2);
        take("ip.src", 4);
        take("ip.dst", 4);
        if (header > 20 && has(header - 20)) take("ip.options", header - 20);
        if ((word_at(frame_, start + 6) & 0x1fff) != 0) return;
        switch (frame_[start + 9]) {
            case 1:
                return icmp();
            case 6:
                return tcp();
            case 17:
                return udp();
            case 47:
                return gre();
            default:
                return;
        }
    }

    void ipv6() {
        if (!has(40)) return;
        const std::uint8_t next_header = frame_[at_ + 6];
        take("ip6.version_class_label", 4);
        take("ip6.payload_length", 2);
        take("ip6.next_header", 1);
        take("ip6.hop_limit", 1);
        take("ip6.src", 16);
        take("ip6.dst", 16);
        if (next_header == 6) tcp();
        if (next_header == 17) udp();
    }

    void icmp() {
        if (!has(8)) return;
        const std::uint8_t type = frame_[at_];
        take("icmp.type", 1);
        take("icmp.code", 1);
        take("icmp.checksum", 2);
        take("icmp.rest", 4);
        if (type == 3 || type == 4 || type == 5 || type == 11 || type == 12) {
            prefix_ += "quoted/";
            ipv4();
        }
    }

    void tcp() {
        if (!has(20)) return;
        take("tcp.sport", 2);
        take("tcp.dport", 2);
        take("tcp.seq", 4);
        take("tcp.ack", 4);
        take("tcp.offset_flags", 2);
        take("tcp.window", 2);
        take("tcp.checksum", 2);
        take("tcp.urgent", 2);
    }

    void udp() {
        if (!has(8)) return;
        take("udp.sport", 2);
        take("udp.dport", 2);
        take("udp.length", 2);
        take("udp.checksum", 2);
        const std::uint16_t port = word_at(frame_, at_ - 6);
        if ((port != kVxlanPort && port != kGenevePort) || !has(8)) return;
        const std::string kind = port == kVxlanPort ? "vxlan" : "geneve";
        take(kind + ".flags", 4);
        take(kind + ".vni", 3);
        take(kind + ".reserved", 1);
        prefix_ += kind + "/";
        ethernet();
    }

    void gre() {
        if (!has(8)) return;
        take("gre.flags", 2);
        take("gre.protocol", 2);
        take("gre.key", 4);
        if (word_at(frame_, at_ - 6) != 0x6558) return;
        prefix_ += "gre/";
        ethernet();
    }

    const Bytes& frame_;
    std::size_t at_ = 0;
    std::string prefix_;
    std::vector<Field> fields_;
};

bool is_ipv4(const Bytes& frame, std::size_t length, std::uint8_t protocol) {
    return frame.size() >= length && word_at(frame, 12) == 0x0800 && frame[14] == 0x45 && frame[23] == protocol;
}

bool is_over_udp(const Bytes& frame) {
    return is_ipv4(frame, kOuterLength, 17) && (word_at(frame, 36) == kVxlanPort || word_at(frame, 36) == kGenevePort);
}

bool is_over_ipv6(const Bytes& frame) {
    return frame.size() >= kIpv6OuterLength && word_at(frame, 12) == 0x86dd && frame[14] >> 4 == 6 && frame[20] == 17 &&
           word_at(frame, 56) == kVxlanPort;
}

bool is_over_gre(const Bytes& frame) {
    return is_ipv4(frame, kGreOuterLength, 47) && word_at(frame, 36) == 0x6558;
}

void choose_port(Bytes& expected, const Bytes& actual, std::ptrdiff_t at) {
    const std::uint16_t port = word_at(actual, static_cast<std::size_t>(at));
    if (port >= 32768 && port <= 60999) std::copy_n(actual.begin() + at, 2, expected.begin() + at);
}

/// `expected` with the choices that `actual` made, where those are legal.
Bytes with_choices_of(Bytes expected, const Bytes& actual) {
    if (is_over_ipv6(expected) && is_over_ipv6(actual)) {
        choose_port(expected, actual, 54);
        return expected;
    }
    const bool over_udp = is_over_udp(expected) && is_over_udp(actual);
    if (!over_udp && !(is_over_gre(expected) && is_over_gre(actual))) return expected;
    if (over_udp) choose_port(expected, actual, 34);
    std::copy_n(actual.begin() + 18, 2, expected.begin() + 18);
    expected[24] = expected[25] = 0;
    const std::uint16_t checksum = internet_checksum(Bytes(expected.begin() + 14, expected.begin() + 34));
    expected[24] = static_cast<std::uint8_t>(checksum >> 8);
    expected[25] = static_cast<std::uint8_t>(checksum);
    return expected;
}

std::string listing(const char* title, const Bytes& frame, const Bytes& other) {
    std::string out = fmt::format("{} ({} bytes):\n", title, frame.size());
    for (const Field& field : dissect(frame)) {
        const auto end = std::min({field.offset + field.length, frame.size(), other.size()});
        bool same = field.offset + field.length <= other.size();
        for (std::size_t i = field.offset; same && i < end; ++i)
            same = frame[i] == other[i];
        out += fmt::format("  {} {:4} {:34} {}\n", same ? ' ' : '*', field.offset, field.name, field.value);
    }
    return out + fmt::format("  hex {}\n  scapy Ether(bytes.fromhex('{}')).show()\n", hex(frame), hex(frame));
}

std::string name_at(const Bytes& frame, std::size_t offset) {
    for (const Field& field : dissect(frame)) {
        if (offset >= field.offset && offset < field.offset + field.length) return field.name;
    }
    return "end of frame";
}

}  // namespace

std::vector<Field> dissect(const Bytes& frame) {
    return Dissector(frame).run();
}

std::optional<std::string> frame_difference(const Bytes& expected, const Bytes& actual, Freedom freedom) {
    if (expected == actual) return std::nullopt;
    const Bytes wanted = freedom == Freedom::kNone ? expected : with_choices_of(expected, actual);
    if (wanted == actual) return std::nullopt;

    const auto [a, b] = std::ranges::mismatch(wanted, actual);
    const auto offset = static_cast<std::size_t>(a - wanted.begin());
    std::string out;
    if (wanted.size() != actual.size())
        out += fmt::format("length {} bytes, expected {}\n", actual.size(), wanted.size());
    out += fmt::format("first difference at byte {}: {}\n", offset, name_at(wanted, offset));
    return out + listing("expected", wanted, actual) + listing("actual", actual, wanted);
}

}  // namespace fiplane::test
