// SPDX-License-Identifier: Apache-2.0
#include "topology/yaml_tree.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>

namespace fiplane::topology {
namespace {

Place to_place(const YAML::Mark& mark) {
    return {mark.line + 1, mark.column + 1};
}

class TreeBuilder : public YAML::EventHandler {
  public:
    explicit TreeBuilder(std::string_view source) : source_(source) {}

    void OnDocumentStart(const YAML::Mark& mark) override { start = to_place(mark); }
    void OnDocumentEnd() override {}

    void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
        // For a value that is not there at all, yaml-cpp gives the place of whatever token comes next.
        YamlNode& node = make(YamlNode::Kind::kNull, mark, anchor);
        const std::size_t at = mark.pos < 0 ? source_.size() : static_cast<std::size_t>(mark.pos);
        const std::string_view rest = at < source_.size() ? source_.substr(at) : std::string_view{};
        node.explicit_null =
            rest.starts_with('~') || rest.starts_with("null") || rest.starts_with("Null") || rest.starts_with("NULL");
        if (!node.explicit_null && !open_.empty() && open_.back().key != nullptr) node.place = open_.back().key->place;
        attach(node);
    }

    void OnAlias(const YAML::Mark&, YAML::anchor_t anchor) override { attach(*anchors_.at(anchor)); }

    void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  const std::string& value) override {
        YamlNode& node = make(YamlNode::Kind::kScalar, mark, anchor);
        node.text = value;
        attach(node);
    }

    void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                         YAML::EmitterStyle::value) override {
        open(make(YamlNode::Kind::kSequence, mark, anchor));
    }
    void OnSequenceEnd() override { open_.pop_back(); }

    void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                    YAML::EmitterStyle::value) override {
        open(make(YamlNode::Kind::kMap, mark, anchor));
    }
    void OnMapEnd() override { open_.pop_back(); }

    YamlTree tree;
    Place start;

  private:
    struct Open {
        YamlNode* node;
        const YamlNode* key;  ///< of a map: read, and waiting for its value
    };

    YamlNode& make(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
        YamlNode& node = tree.nodes.emplace_back();
        node.kind = kind;
        node.place = to_place(mark);
        if (anchor != YAML::NullAnchor) anchors_[anchor] = &node;
        return node;
    }

    void attach(const YamlNode& node) {
        if (open_.empty()) {
            tree.root = &node;
            return;
        }
        Open& parent = open_.back();
        if (parent.node->kind == YamlNode::Kind::kSequence) {
            parent.node->items.push_back(&node);
        } else if (parent.key == nullptr) {
            parent.key = &node;
        } else {
            parent.node->entries.push_back({parent.key, &node});
            parent.key = nullptr;
        }
    }

    void open(YamlNode& node) {
        attach(node);
        open_.push_back({&node, nullptr});
    }

    std::string_view source_;
    std::vector<Open> open_;
    std::map<YAML::anchor_t, const YamlNode*> anchors_;
};

}  // namespace

std::optional<YamlTree> parse_yaml(std::string_view text, MistakeList& mistakes) {
    try {
        std::istringstream stream{std::string(text)};
        YAML::Parser parser(stream);
        TreeBuilder builder(text);
        const bool any = parser.HandleNextDocument(builder);
        if (!any || builder.tree.root == nullptr || builder.tree.root->kind == YamlNode::Kind::kNull) {
            mistakes.add({}, "the file is empty",
                         "a topology has at least name, nodes and networks; see examples/devstack-dvr-vxlan.yaml");
            return std::nullopt;
        }
        TreeBuilder second(text);
        if (parser.HandleNextDocument(second)) {
            mistakes.add(second.start, "a second YAML document begins here", "one topology to a file");
        }
        return std::move(builder.tree);
    } catch (const YAML::ParserException& error) {
        mistakes.add(to_place(error.mark), "YAML syntax: " + error.msg, "what stands after this place was not checked");
    } catch (const YAML::Exception& error) {
        mistakes.add(to_place(error.mark), "YAML: " + error.msg);
    }
    return std::nullopt;
}

}  // namespace fiplane::topology
