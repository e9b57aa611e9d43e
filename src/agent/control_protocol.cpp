// SPDX-License-Identifier: Apache-2.0
#include "agent/control_protocol.hpp"

namespace fiplane {
namespace {

using nlohmann::json;

json parse(const std::string& line) {
    return json::parse(line, nullptr, /*allow_exceptions=*/false);
}

std::string line_of(const json& value) {
    // Interface aliases and the like may hold any byte; they must not make the answer fail.
    return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string text_of(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

int number_of(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_integer() ? found->get<int>() : 0;
}

}  // namespace

std::string Request::text(const char* key) const {
    return text_of(arguments, key);
}

json to_json(const Error& error) {
    return {{"code", static_cast<int>(error.code)}, {"what", error.what}, {"where", error.where}, {"hint", error.hint}};
}

json to_json(const Mistake& mistake, const std::string& file) {
    return {{"file", file},
            {"line", mistake.line},
            {"column", mistake.column},
            {"what", mistake.what},
            {"hint", mistake.hint}};
}

Result<Request> decode_request(const std::string& line) {
    json value = parse(line);
    if (!value.is_object()) return fail(ExitCode::kUsage, "the request is no JSON object");
    std::string verb = text_of(value, "verb");
    if (verb.empty()) return fail(ExitCode::kUsage, "the request has no verb");
    return Request{std::move(verb), std::move(value)};
}

std::string encode_request(const json& request) {
    return line_of(request);
}

std::string encode_response(const Response& response) {
    if (response) return line_of({{"ok", true}, {"result", *response}});
    const Refusal& refusal = response.error();
    json error = to_json(refusal.error);
    json& mistakes = error["mistakes"] = json::array();
    for (const Mistake& mistake : refusal.mistakes)
        mistakes.push_back(to_json(mistake, refusal.file));
    return line_of({{"ok", false}, {"error", std::move(error)}});
}

Response decode_response(const std::string& line) {
    const json value = parse(line);
    const bool understood = value.is_object() && value.contains("ok") && value["ok"].is_boolean();
    if (understood && value["ok"].get<bool>() && value.contains("result")) return value["result"];
    Refusal refusal;
    if (!understood || !value.contains("error") || !value["error"].is_object()) {
        refusal.error = {ExitCode::kFailed, "the agent's answer cannot be understood", {}, "is it of another version?"};
        return std::unexpected(std::move(refusal));
    }
    const json& error = value["error"];
    refusal.error = {static_cast<ExitCode>(number_of(error, "code")), text_of(error, "what"), text_of(error, "where"),
                     text_of(error, "hint")};
    if (error.contains("mistakes") && error["mistakes"].is_array()) {
        for (const json& mistake : error["mistakes"]) {
            refusal.file = text_of(mistake, "file");
            refusal.mistakes.push_back({number_of(mistake, "line"), number_of(mistake, "column"),
                                        text_of(mistake, "what"), text_of(mistake, "hint")});
        }
    }
    return std::unexpected(std::move(refusal));
}

}  // namespace fiplane
