// SPDX-License-Identifier: Apache-2.0
// Marks in nft's JSON: `meta mark`, `ct mark`, and arithmetic on their bits.
#include "linux/nft_json.hpp"

namespace fiplane::nft {
namespace {

constexpr std::uint32_t kAll = 0xffffffff;

std::optional<std::uint32_t> number(const Json& value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kAll) return std::nullopt;
    return static_cast<std::uint32_t>(value.get<std::uint64_t>());
}

/// (mark & keep) ^ flip, of the packet's or the connection's mark; of neither, if keep is 0: a number.
struct Bits {
    bool of_connection = false;
    std::uint32_t keep = 0;
    std::uint32_t flip = 0;
};

std::optional<Bits> bits_of(const Json& value) {
    if (const auto literal = number(value)) return Bits{.flip = *literal};
    if (const nf::Field mark = mark_field(value); mark != nf::Field::kOther) {
        return Bits{.of_connection = mark == nf::Field::kCtMark, .keep = kAll};
    }
    const std::string kind = only_key(value);
    if (kind != "&" && kind != "|" && kind != "^") return std::nullopt;
    const Json& operands = value.begin().value();
    if (!operands.is_array() || operands.size() != 2) return std::nullopt;
    auto bits = bits_of(operands[0]);
    const auto operand = number(operands[1]);
    if (!bits || !operand) return std::nullopt;
    if (kind == "^") bits->flip ^= *operand;
    if (kind == "&") {
        bits->keep &= *operand;
        bits->flip &= *operand;
    }
    if (kind == "|") {
        bits->keep &= ~*operand;
        bits->flip = (bits->flip & ~*operand) | *operand;
    }
    return bits;
}

/// `mark & MASK == VALUE`.
std::optional<nf::Match> compare(nf::Field mark, const std::string& op, const Json& right, std::uint32_t mask) {
    const auto value = number(right);
    const bool is_mark = mark == nf::Field::kMark || mark == nf::Field::kCtMark;
    if (!is_mark || !value || (op != "==" && op != "!=")) return std::nullopt;
    return nf::Match{
        .field = mark, .negate = op == "!=", .any_of = {std::uint64_t{*value}}, .set_name = std::nullopt, .mask = mask};
}

}  // namespace

nf::Field mark_field(const Json& value) {
    const std::string kind = only_key(value);
    if (kind != "meta" && kind != "ct") return nf::Field::kOther;
    if (value[kind].value("key", Json()) != "mark" || value[kind].contains("dir")) return nf::Field::kOther;
    return kind == "ct" ? nf::Field::kCtMark : nf::Field::kMark;
}

std::optional<nf::Match> parse_masked_mark(const std::string& op, const Json& masked, const Json& right) {
    const auto mask = number(masked.at(1));
    return mask ? compare(mark_field(masked.at(0)), op, right, *mask) : std::nullopt;
}

std::optional<nf::Match> parse_mark_prefix(nf::Field mark, const std::string& op, const Json& right) {
    if (only_key(right) != "prefix") return std::nullopt;
    const auto length = number(right["prefix"].at("len"));
    if (!length || *length == 0 || *length > 32) return std::nullopt;
    return compare(mark, op, right["prefix"].at("addr"), kAll << (32 - *length));
}

nf::Statement parse_set_mark(nf::Field mark, const Json& value) {
    const auto bits = bits_of(value);
    if (!bits) return nf::Unknown{};
    const bool of_connection = mark == nf::Field::kCtMark;
    if (bits->keep == 0 || bits->of_connection == of_connection) {
        if (of_connection) return nf::SetCtMark{.value = bits->flip, .mask = ~bits->keep};
        return nf::SetMark{.value = bits->flip, .mask = ~bits->keep};
    }
    // The other one's bits, all of them and nothing else.
    if (bits->flip != 0) return nf::Unknown{};
    if (of_connection) return nf::SaveMark{.from = bits->keep, .to = kAll};
    return nf::RestoreMark{.from = bits->keep, .to = kAll};
}

}  // namespace fiplane::nft
