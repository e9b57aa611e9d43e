// SPDX-License-Identifier: Apache-2.0
// What goes over the control socket: one JSON object per line, a request and then its response.
//
//   {"verb": "explain", "address": "172.24.5.1"}
//   {"ok": true, "result": {...}}
//   {"ok": false, "error": {"code": 2, "what": "...", "where": "...", "hint": "...", "mistakes": [...]}}
#pragma once

#include <cstddef>
#include <expected>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/result.hpp"
#include "topology/load.hpp"

namespace fiplane {

constexpr const char* kDefaultSocket = "/run/fiplane/agent.sock";
/// A request longer than this is nobody's that speaks the protocol, bytes.
constexpr std::size_t kMaxRequest = std::size_t{64} * 1024;

struct Request {
    std::string verb;
    nlohmann::json arguments;  ///< the whole object

    /// A string argument; empty if it is absent or something else.
    [[nodiscard]] std::string text(const char* key) const;
};

/// Why a request failed: the error, and for a topology file every mistake in it.
struct Refusal {
    Error error;
    std::string file;
    std::vector<Mistake> mistakes;
};

using Response = std::expected<nlohmann::json, Refusal>;

[[nodiscard]] Result<Request> decode_request(const std::string& line);
/// Both encoders end the line.
[[nodiscard]] std::string encode_request(const nlohmann::json& request);
[[nodiscard]] std::string encode_response(const Response& response);
/// kFailed if the line is no response at all.
[[nodiscard]] Response decode_response(const std::string& line);

[[nodiscard]] nlohmann::json to_json(const Error& error);
[[nodiscard]] nlohmann::json to_json(const Mistake& mistake, const std::string& file);

}  // namespace fiplane
