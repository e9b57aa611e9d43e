// SPDX-License-Identifier: Apache-2.0
// Reads one mapping of the file key by key. Whatever is not asked for by the time of finish() is an unknown key.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "topology/mistakes.hpp"
#include "topology/scalar.hpp"
#include "topology/yaml_tree.hpp"

namespace fiplane::topology {

enum class Need { kOptional, kRequired };

class Fields {
  public:
    /// `kind` ("port") and the mapping's name, if it has one, make up how messages call it: "port vm1". Reports
    /// duplicate keys and keys that are not text. `map` and `mistakes` must outlive this.
    Fields(const YamlNode& map, std::string_view kind, MistakeList& mistakes);

    /// Whether `node` is a mapping; if not, that is reported.
    static bool is_map(const YamlNode& node, std::string_view kind, MistakeList& mistakes);

    /// Reads the scalar under `key` with `parse`: std::string_view -> Parsed<T>.
    template <typename T, typename Parser>
    [[nodiscard]] Field<T> read(std::string_view key, Need need, Parser&& parse) {
        const YamlNode* const node = find(key, need);
        if (node == nullptr) return {};
        return read_scalar<T>(*node, object_, key, parse, *mistakes_);
    }

    /// The same for a node that stands by itself; messages begin with "object: key".
    template <typename T, typename Parser>
    [[nodiscard]] static Field<T> read_scalar(const YamlNode& node, const std::string& object, std::string_view key,
                                              Parser&& parse, MistakeList& mistakes) {
        Field<T> field{true, node.place, std::nullopt};
        if (node.kind != YamlNode::Kind::kScalar) {
            report_no_scalar(node, object, key, mistakes);
            return field;
        }
        Parsed<T> parsed = parse(node.text);
        if (parsed) {
            field.value = std::move(*parsed);
        } else {
            report_refused(node, object, key, parsed.error(), mistakes);
        }
        return field;
    }

    /// The node under `key`, or null: absent (reported if required) or, if required, empty (reported).
    [[nodiscard]] const YamlNode* find(std::string_view key, Need need);

    /// The mapping under `key`; null if absent or something else (reported).
    [[nodiscard]] const YamlNode* find_map(std::string_view key, Need need);

    /// The sequence under `key`; null if absent, empty or something else (reported). `broken` says whether something
    /// was reported.
    [[nodiscard]] const YamlNode* find_list(std::string_view key, Need need, bool& broken);

    [[nodiscard]] Place place() const { return map_->place; }
    [[nodiscard]] const std::string& object() const { return object_; }

    /// Reports keys that were never asked for.
    void finish();

  private:
    static void report_no_scalar(const YamlNode& node, const std::string& object, std::string_view key,
                                 MistakeList& mistakes);
    static void report_refused(const YamlNode& node, const std::string& object, std::string_view key,
                               const Complaint& complaint, MistakeList& mistakes);

    const YamlNode* map_;
    std::string object_;
    MistakeList* mistakes_;
    std::vector<std::string_view> asked_;
    std::vector<bool> known_;  ///< parallel to map_->entries
};

}  // namespace fiplane::topology
