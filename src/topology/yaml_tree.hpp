// SPDX-License-Identifier: Apache-2.0
// A YAML document as a tree that keeps places and duplicate keys.
//
// Made from yaml-cpp's events rather than from YAML::Node, which merges duplicate keys silently, has no place for
// empty values and costs seconds for large files.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "topology/mistakes.hpp"

namespace fiplane::topology {

struct YamlNode {
    enum class Kind { kNull, kScalar, kSequence, kMap };
    struct Entry {
        const YamlNode* key;
        const YamlNode* value;
    };

    Kind kind = Kind::kNull;
    Place place;                         ///< of an empty value: its key's
    std::string text;                    ///< scalars
    bool explicit_null = false;          ///< `~` or `null`, not an empty value
    std::vector<const YamlNode*> items;  ///< sequences
    std::vector<Entry> entries;          ///< maps: in file order, duplicates kept
};

/// Owns the nodes. An alias is a second pointer to the anchored node, so the graph may even have cycles: readers go
/// down by what they expect, never to the bottom.
struct YamlTree {
    std::deque<YamlNode> nodes;
    const YamlNode* root = nullptr;
};

/// Parses one document. Syntax errors, an empty text and a second document are reported, and nothing is returned for
/// the first two.
[[nodiscard]] std::optional<YamlTree> parse_yaml(std::string_view text, MistakeList& mistakes);

}  // namespace fiplane::topology
