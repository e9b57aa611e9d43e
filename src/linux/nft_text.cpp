// SPDX-License-Identifier: Apache-2.0
// Rules of nft's JSON as text, close to nft's own syntax.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "linux/nft_json.hpp"

namespace fiplane::nft {
namespace {

std::string render(const Json& expression);

std::string join(const Json& list, const char* separator) {
    std::string out;
    for (const auto& item : list)
        out += (out.empty() ? "" : separator) + render(item);
    return out;
}

std::string render_meta(const std::string& key) {
    static constexpr std::array kBare = {"iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "skuid", "skgid"};
    return std::ranges::count(kBare, key) > 0 ? key : "meta " + key;
}

std::string render_payload(const Json& payload) {
    if (payload.contains("protocol")) {
        return fmt::format("{} {}", payload["protocol"].get<std::string>(), payload.value("field", "?"));
    }
    return fmt::format("@{},{},{}", payload.value("base", "?"), payload.value("offset", 0), payload.value("len", 0));
}

std::string render_ct(const Json& ct) {
    const std::string direction = ct.value("dir", "");
    return "ct " + (direction.empty() ? "" : direction + " ") + render(ct.value("key", Json("?")));
}

/// A set's or map's elements: in a map each is a pair.
std::string render_set(const Json& elements) {
    if (!elements.is_array()) return render(elements);
    std::string out;
    for (const auto& element : elements) {
        const bool pair = element.is_array() && element.size() == 2;
        out += out.empty() ? "" : ", ";
        out += pair ? render(element[0]) + " : " + render(element[1]) : render(element);
    }
    return "{ " + out + " }";
}

/// Anything that has no rule of its own: its keyword and what follows as JSON.
std::string render_other(const std::string& kind, const Json& body) {
    if (body.is_null()) return kind;
    if (body.is_object() && body.contains("target")) return kind + " " + render(body["target"]);
    return kind + " " + (body.is_string() ? body.get<std::string>() : body.dump());
}

std::string render_object(const std::string& kind, const Json& body) {
    if (kind == "payload") return render_payload(body);
    if (kind == "meta") return render_meta(body.value("key", "?"));
    if (kind == "ct") return render_ct(body);
    if (kind == "prefix") return fmt::format("{}/{}", render(body.at("addr")), body.at("len").get<unsigned>());
    if (kind == "range") return join(body, "-");
    if (kind == "concat") return join(body, " . ");
    if (kind == "set") return render_set(body);
    if (kind == "elem") return render(body.at("val"));
    if (kind == "tcp option") return fmt::format("tcp option {} {}", body.value("name", "?"), body.value("field", "?"));
    if (kind == "rt") return "rt " + body.value("key", "?");
    if (kind == "map") return fmt::format("{} map {}", render(body.at("key")), render(body.at("data")));
    if (kind == "&" || kind == "|" || kind == "^" || kind == "<<" || kind == ">>") {
        return join(body, fmt::format(" {} ", kind).c_str());
    }
    return render_other(kind, body);
}

std::string render(const Json& expression) {
    if (expression.is_string()) return expression.get<std::string>();
    if (expression.is_array()) return join(expression, ",");
    const std::string kind = only_key(expression);
    return kind.empty() ? expression.dump() : render_object(kind, expression.begin().value());
}

/// Is the value a packet's or a flow's mark, or bits of one?
bool is_mark(const Json& expression) {
    const std::string kind = only_key(expression);
    if (kind == "meta" || kind == "ct") return expression[kind].value("key", Json()) == "mark";
    return (kind == "&" || kind == "|" || kind == "^") && is_mark(expression[kind].at(0));
}

/// nft prints marks with all their hexadecimal digits, where its JSON has plain numbers.
Json with_hex_numbers(const Json& expression) {
    if (expression.is_number_unsigned()) return fmt::format("{:#010x}", expression.get<std::uint64_t>());
    Json out = expression;
    if (only_key(expression) == "prefix") {
        out["prefix"]["addr"] = with_hex_numbers(expression["prefix"].at("addr"));
    } else if (expression.is_structured()) {
        for (auto& item : out)
            item = with_hex_numbers(item);
    }
    return out;
}

/// nft prints names of devices in quotes.
std::string render_operand(const Json& left, const Json& right) {
    const std::string key = only_key(left) == "meta" ? left["meta"].value("key", "") : "";
    const bool quoted = key == "iifname" || key == "oifname" || key == "iif" || key == "oif";
    return quoted && right.is_string() ? '"' + right.get<std::string>() + '"' : render(right);
}

std::string render_match(const Json& raw) {
    const Json match = is_mark(raw.at("left")) ? with_hex_numbers(raw) : raw;
    const std::string op = match.at("op").get<std::string>();
    // Equality goes without a sign, but not behind an expression that has one.
    const bool silent = op == "in" || (op == "==" && only_key(match.at("left")) != "&");
    const std::string shown = silent ? " " : fmt::format(" {} ", op);
    return render(match.at("left")) + shown + render_operand(match["left"], match.at("right"));
}

std::string render_nat(const std::string& kind, const Json& nat) {
    if (!nat.is_object()) return kind;
    std::string out = kind;
    if (nat.contains("addr")) out += " to " + render(nat["addr"]);
    if (nat.contains("port")) out += (nat.contains("addr") ? ":" : " to :") + render(nat["port"]);
    if (nat.contains("flags")) out += " " + render(nat["flags"]);
    return out;
}

std::string render_statement(const Json& statement) {
    std::string kind = only_key(statement);
    if (kind.empty()) return statement.dump();
    const Json& body = statement.begin().value();
    if (kind == "match") return render_match(body);
    if (kind == "dnat" || kind == "snat" || kind == "masquerade" || kind == "redirect") return render_nat(kind, body);
    if (kind == "mangle") {
        const Json value = is_mark(body.at("key")) ? with_hex_numbers(body.at("value")) : body.at("value");
        return fmt::format("{} set {}", render(body["key"]), render(value));
    }
    if (kind == "vmap") return fmt::format("{} vmap {}", render(body.at("key")), render(body.at("data")));
    if (kind == "counter") return kind;
    return render_other(kind, body);
}

}  // namespace

std::string render_rule(const Json& statements) {
    std::string out;
    for (const auto& statement : statements)
        out += (out.empty() ? "" : " ") + render_statement(statement);
    return out;
}

}  // namespace fiplane::nft
