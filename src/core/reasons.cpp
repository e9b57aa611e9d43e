// SPDX-License-Identifier: Apache-2.0
// Made from the lists of fiplane/abi.h at compile time.
#include "core/reasons.hpp"

#include <array>
#include <cstddef>

namespace fiplane {

namespace {

struct ReasonRow {
    std::string_view identifier;
    fl_class klass{};
    std::string_view text;
};

constexpr std::array kReasonRows = {
#define FL_X(id, class, text) ReasonRow{#id, FL_CLASS_##class, text},
    FL_REASONS(FL_X)
#undef FL_X
};
static_assert(kReasonRows.size() == FL_REASON_COUNT, "one row per reason");

constexpr std::size_t longest_identifier() {
    std::size_t longest = 0;
    for (const auto& row : kReasonRows)
        longest = row.identifier.size() > longest ? row.identifier.size() : longest;
    return longest;
}

using NameStorage = std::array<std::array<char, longest_identifier()>, FL_REASON_COUNT>;

constexpr NameStorage lower_case_names() {
    NameStorage names{};
    for (std::size_t i = 0; i < kReasonRows.size(); ++i) {
        for (std::size_t j = 0; j < kReasonRows[i].identifier.size(); ++j) {
            const char c = kReasonRows[i].identifier[j];
            names[i][j] = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        }
    }
    return names;
}

constexpr NameStorage kReasonNames = lower_case_names();

constexpr bool rows_stand_at_their_enum() {
    std::size_t row = 0;
#define FL_X(id, class, text) \
    if (FL_REASON_##id != static_cast<fl_reason>(row++)) return false;
    FL_REASONS(FL_X)
#undef FL_X
    return true;
}
static_assert(rows_stand_at_their_enum());

constexpr std::array<std::string_view, FL_HOOK_COUNT> kHookNames = [] {
    std::array<std::string_view, FL_HOOK_COUNT> names{};
    names[FL_HOOK_XDP_UNDERLAY] = "xdp_underlay";
    names[FL_HOOK_TC_UNDERLAY] = "tc_underlay";
    names[FL_HOOK_TC_TUNNEL] = "tc_tunnel";
    names[FL_HOOK_TC_PORT] = "tc_port";
    names[FL_HOOK_TC_HOST] = "tc_host";
    names[FL_HOOK_TC_ROUTER] = "tc_router";
    return names;
}();

constexpr bool every_hook_has_a_name() {
    for (const auto& name : kHookNames) {
        if (name.empty()) return false;
    }
    return true;
}
static_assert(every_hook_has_a_name());

const ReasonRow* row_of(fl_reason reason) {
    const auto index = static_cast<std::size_t>(reason);
    return index < kReasonRows.size() ? &kReasonRows[index] : nullptr;
}

}  // namespace

std::string_view hook_name(fl_hook hook) {
    const auto index = static_cast<std::size_t>(hook);
    return index < kHookNames.size() ? kHookNames[index] : "unknown";
}

std::string_view reason_name(fl_reason reason) {
    const auto* row = row_of(reason);
    if (row == nullptr) return "unknown";
    return {kReasonNames[static_cast<std::size_t>(reason)].data(), row->identifier.size()};
}

fl_class reason_class(fl_reason reason) {
    const auto* row = row_of(reason);
    return row == nullptr ? FL_CLASS_PASS : row->klass;
}

std::string_view reason_text(fl_reason reason) {
    const auto* row = row_of(reason);
    return row == nullptr ? "a verdict that this version does not know" : row->text;
}

}  // namespace fiplane
