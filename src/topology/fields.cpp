// SPDX-License-Identifier: Apache-2.0
#include "topology/fields.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "topology/suggest.hpp"

namespace fiplane::topology {
namespace {

using Kind = YamlNode::Kind;

constexpr std::size_t kLongestQuote = 80;

/// What a key looks like in a file that is right, for the hint where it is missing.
constexpr std::pair<std::string_view, std::string_view> kExamples[] = {
    {"name", "name: vm1"},
    {"nodes", "nodes: [{name: primary, underlay: {device: eth0, address: 192.0.2.11}}]"},
    {"networks", "networks: [{name: private, segmentation_id: 1001, subnets: [...]}]"},
    {"transport", "transport: {type: vxlan, port: 4789}"},
    {"underlay", "underlay: {device: eth0, address: 192.0.2.11}"},
    {"device", "device: eth0"},
    {"address", "address: 192.0.2.11"},
    {"segmentation_id", "segmentation_id: 1001"},
    {"physical_network", "physical_network: extern"},
    {"cidr", "cidr: 10.1.0.0/20"},
    {"start", "start: 172.24.5.1"},
    {"end", "end: 172.24.5.254"},
    {"network", "network: private"},
    {"subnet", "subnet: private-subnet"},
    {"fixed_ip", "fixed_ip: 10.1.0.11"},
    {"destination", "destination: 10.2.0.0/24"},
    {"nexthop", "nexthop: 10.1.0.254"},
    {"floating_ip_address", "floating_ip_address: 172.24.5.11"},
    {"port", "port: vm1"},
};

std::string example_of(std::string_view key) {
    const auto* const found = std::ranges::find(kExamples, key, &std::pair<std::string_view, std::string_view>::first);
    return found == std::end(kExamples) ? std::string{} : fmt::format("like {}", found->second);
}

std::string_view kind_name(Kind kind) {
    switch (kind) {
        case Kind::kNull:
            return "nothing";
        case Kind::kScalar:
            return "a single value";
        case Kind::kSequence:
            return "a list";
        case Kind::kMap:
            return "a mapping";
    }
    return "something else";
}

/// Cut to a length that fits in a message, without control characters.
std::string printable(std::string_view text) {
    std::string out(text.substr(0, kLongestQuote));
    std::ranges::replace_if(out, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; }, '?');
    return text.size() > kLongestQuote ? out + "..." : out;
}

std::string object_name(const YamlNode& map, std::string_view kind) {
    for (const auto& [key, value] : map.entries) {
        const bool names = key->kind == Kind::kScalar && (key->text == "name" || key->text == "floating_ip_address");
        if (names && value->kind == Kind::kScalar && parse_name(value->text)) {
            return fmt::format("{} {}", kind, value->text);
        }
    }
    return std::string(kind);
}

}  // namespace

Fields::Fields(const YamlNode& map, std::string_view kind, MistakeList& mistakes)
    : map_(&map), object_(object_name(map, kind)), mistakes_(&mistakes), known_(map.entries.size()) {
    std::map<std::string_view, Place> seen;
    for (std::size_t i = 0; i < map.entries.size(); ++i) {
        const YamlNode& key = *map.entries[i].key;
        if (key.kind != Kind::kScalar) {
            mistakes.add(key.place, fmt::format("{}: a key is {}", object_, kind_name(key.kind)), "keys are words");
            known_[i] = true;
            continue;
        }
        const auto [first, fresh] = seen.try_emplace(key.text, key.place);
        if (fresh) continue;
        mistakes.add(key.place, fmt::format("{}: {} is written twice", object_, printable(key.text)),
                     fmt::format("line {} has it already", first->second.line));
        known_[i] = true;
    }
}

bool Fields::is_map(const YamlNode& node, std::string_view kind, MistakeList& mistakes) {
    if (node.kind == Kind::kMap) return true;
    mistakes.add(node.place, fmt::format("{} is {}, not a mapping", kind, kind_name(node.kind)),
                 "write \"key: value\" lines");
    return false;
}

void Fields::report_no_scalar(const YamlNode& node, const std::string& object, std::string_view key,
                              MistakeList& mistakes) {
    if (node.kind == Kind::kNull) {
        mistakes.add(node.place, fmt::format("{}: {} has no value", object, key), "write one, or leave the key out");
    } else {
        mistakes.add(node.place, fmt::format("{}: {} is {}", object, key, kind_name(node.kind)),
                     "a single value belongs here");
    }
}

void Fields::report_refused(const YamlNode& node, const std::string& object, std::string_view key,
                            const Complaint& complaint, MistakeList& mistakes) {
    mistakes.add(node.place, fmt::format("{}: {} \"{}\" {}", object, key, printable(node.text), complaint.what),
                 complaint.hint);
}

const YamlNode* Fields::find(std::string_view key, Need need) {
    asked_.push_back(key);
    for (std::size_t i = 0; i < map_->entries.size(); ++i) {
        if (known_[i] || map_->entries[i].key->text != key) continue;
        known_[i] = true;
        return map_->entries[i].value;
    }
    if (need == Need::kRequired) {
        mistakes_->add(map_->place, fmt::format("{} lacks {}", object_, key), example_of(key));
    }
    return nullptr;
}

const YamlNode* Fields::find_map(std::string_view key, Need need) {
    const YamlNode* const node = find(key, need);
    if (node == nullptr || (node->kind == Kind::kNull && need == Need::kOptional)) return nullptr;
    if (node->kind == Kind::kMap) return node;
    mistakes_->add(node->place, fmt::format("{}: {} is {}, not a mapping", object_, key, kind_name(node->kind)),
                   example_of(key));
    return nullptr;
}

const YamlNode* Fields::find_list(std::string_view key, Need need, bool& broken) {
    const YamlNode* const node = find(key, need);
    const bool empty =
        node != nullptr && (node->kind == Kind::kNull || (node->kind == Kind::kSequence && node->items.empty()));
    broken = node == nullptr && need == Need::kRequired;
    if (node == nullptr || (empty && need == Need::kOptional)) return nullptr;
    if (node->kind == Kind::kSequence && !empty) return node;
    broken = true;
    const std::string_view what = empty ? "is empty" : "is not a list";
    const std::string example = example_of(key);
    mistakes_->add(node->place, fmt::format("{}: {} {}", object_, key, what),
                   example.empty() ? "write one \"- \" line for each entry" : example);
    return nullptr;
}

void Fields::finish() {
    for (std::size_t i = 0; i < map_->entries.size(); ++i) {
        if (known_[i]) continue;
        const YamlNode& key = *map_->entries[i].key;
        const auto near = closest(key.text, asked_);
        mistakes_->add(
            key.place, fmt::format("{}: unknown key {}", object_, printable(key.text)),
            near ? fmt::format("did you mean {}?", *near) : fmt::format("known here: {}", fmt::join(asked_, ", ")));
    }
}

}  // namespace fiplane::topology
