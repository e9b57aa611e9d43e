// SPDX-License-Identifier: Apache-2.0
// The smallest nftables transaction between what is there and what is desired.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <ranges>

#include "build/names.hpp"
#include "build/nft_tables.hpp"

namespace fiplane::build {
namespace {

/// Elements per command: the text of one stays readable, and netlink messages stay small.
constexpr std::size_t kElementsPerCommand = 500;

const char* hook_word(nf::Hook hook) {
    switch (hook) {
        case nf::Hook::kIngress:
            return "ingress";
        case nf::Hook::kEgress:
            return "egress";
        case nf::Hook::kPrerouting:
            return "prerouting";
        case nf::Hook::kInput:
            return "input";
        case nf::Hook::kForward:
            return "forward";
        case nf::Hook::kOutput:
            return "output";
        case nf::Hook::kPostrouting:
            break;
    }
    return "postrouting";
}

bool same_base(const nf::Chain& now, const NftChain& wanted) {
    return now.hook && hook_word(*now.hook) == wanted.hook &&
           (now.type == nf::ChainType::kNat) == (wanted.type == "nat") && now.type != nf::ChainType::kRoute &&
           now.priority == wanted.priority && now.policy_accept && now.device == wanted.device;
}

bool same_rules(const nf::Chain& now, const NftChain& wanted) {
    return std::ranges::equal(now.rules, wanted.rules, {}, &nf::Rule::text);
}

/// For the plan: where the rules of two chains begin to differ.
std::string first_difference(const nf::Chain& now, const NftChain& wanted) {
    std::size_t at = 0;
    while (at < now.rules.size() && at < wanted.rules.size() && now.rules[at].text == wanted.rules[at])
        ++at;
    return fmt::format("rule {}: {} -> {}", at + 1, at < now.rules.size() ? now.rules[at].text : "none",
                       at < wanted.rules.size() ? wanted.rules[at] : "none");
}

std::set<IpAddress> addresses_in(const std::vector<nf::Value>& values) {
    std::set<IpAddress> out;
    for (const auto& value : values) {
        if (const auto* prefix = std::get_if<Prefix>(&value); prefix != nullptr) out.insert(prefix->address);
        if (const auto* address = std::get_if<IpAddress>(&value); address != nullptr) out.insert(*address);
    }
    return out;
}

/// Elements as nft writes them, by what identifies them: for maps the key and, for display, the whole.
struct Elements {
    std::map<IpAddress, std::string> text;
};

Elements elements_of(const std::map<Ipv4, Ipv4>& map) {
    Elements out;
    for (const auto& [key, value] : map)
        out.text.emplace(key, fmt::format("{} : {}", key.str(), value.str()));
    return out;
}

Elements elements_of(const std::set<IpAddress>& set) {
    Elements out;
    for (const IpAddress& key : set)
        out.text.emplace(key, key.str());
    return out;
}

/// Differences of one table, in the order in which one transaction may hold them.
class TableDiff {
  public:
    TableDiff(const NftTable* desired, nf::Family family, const nf::Ruleset& actual,
              const std::set<std::string>& present, const std::set<std::string>& removed)
        : desired_(desired),
          family_(family),
          actual_(actual),
          present_(present),
          removed_(removed),
          name_(table_name(family)) {}

    [[nodiscard]] NftChange run() {
        collect_actual();
        if (desired_ == nullptr) {
            remove_table();
            return std::move(change_);
        }
        const bool new_table = !exists_;
        compare_chains();
        for (const auto& [name, elements] : desired_->maps) {
            compare_elements(name, "map", "ipv4_addr : ipv4_addr", elements_of(elements), actual_elements(maps_, name));
        }
        for (const auto& [name, set] : desired_->sets) {
            compare_elements(name, "set", set.ipv6 ? "ipv6_addr" : "ipv4_addr", elements_of(set.members),
                             actual_elements(sets_, name));
        }
        remove_stale_containers();
        assemble(new_table);
        return std::move(change_);
    }

  private:
    void collect_actual() {
        for (const auto& chain : actual_.chains) {
            if (chain.family != family_ || chain.table != kTableName) continue;
            exists_ = true;
            if (!removed_.contains(chain.device)) chains_.emplace(chain.name, &chain);
        }
        const std::string prefix = nf::Ruleset::scoped_name(family_, std::string{kTableName}, "");
        for (const auto& [name, elements] : actual_.maps) {
            if (name.starts_with(prefix)) maps_.emplace(name.substr(prefix.size()), elements_of(elements));
        }
        for (const auto& [name, values] : actual_.sets) {
            if (name.starts_with(prefix)) sets_.emplace(name.substr(prefix.size()), elements_of(addresses_in(values)));
        }
        exists_ = exists_ || !maps_.empty() || !sets_.empty();
    }

    static const Elements* actual_elements(const std::map<std::string, Elements>& containers, const std::string& name) {
        const auto found = containers.find(name);
        return found == containers.end() ? nullptr : &found->second;
    }

    void remove_table() {
        if (!exists_) return;
        change_.commands = delete_tables({family_});
        step(Step::Action::kRemove, fmt::format("nft table {}", name_));
    }

    [[nodiscard]] bool is_absent_device(const std::string& device) const {
        return !device.empty() && !present_.contains(device);
    }

    void compare_chains() {
        std::set<std::string> wanted;
        for (const auto& chain : desired_->chains) {
            wanted.insert(chain.name);
            if (is_absent_device(chain.device)) continue;
            const auto found = chains_.find(chain.name);
            compare_chain(chain, found == chains_.end() ? nullptr : found->second);
        }
        for (const auto& [name, chain] : chains_) {
            if (wanted.contains(name)) continue;
            flush_ += fmt::format("flush chain {} {}\n", name_, name);
            remove_ += fmt::format("delete chain {} {}\n", name_, name);
            step(Step::Action::kRemove, fmt::format("nft chain {} {}", name_, name));
        }
    }

    void compare_chain(const NftChain& chain, const nf::Chain* now) {
        const std::string object = fmt::format("nft chain {} {}", name_, chain.name);
        if (now == nullptr) {
            step(Step::Action::kAdd, object);
            add_chain(chain);
        } else if (!same_base(*now, chain)) {
            step(Step::Action::kChange, object, "hook, priority, policy or device");
            early_remove_ += fmt::format("flush chain {0} {1}\ndelete chain {0} {1}\n", name_, chain.name);
            add_chain(chain);
        } else if (!same_rules(*now, chain)) {
            step(Step::Action::kChange, object, first_difference(*now, chain));
            flush_ += fmt::format("flush chain {} {}\n", name_, chain.name);
            add_rules(chain);
        }
    }

    void add_chain(const NftChain& chain) {
        const std::string device = chain.device.empty() ? "" : fmt::format(" device \"{}\"", chain.device);
        add_ += fmt::format("add chain {} {} {{ type {} hook {}{} priority {}; policy accept; }}\n", name_, chain.name,
                            chain.type, chain.hook, device, chain.priority);
        // One that lost its device does not show among the chains, but may still be there with its rules.
        if (!chain.device.empty()) add_ += fmt::format("flush chain {} {}\n", name_, chain.name);
        add_rules(chain);
    }

    void add_rules(const NftChain& chain) {
        for (const auto& rule : chain.rules)
            add_ += fmt::format("add rule {} {} {}\n", name_, chain.name, rule);
    }

    void compare_elements(const std::string& name, const char* kind, const char* type, const Elements& wanted,
                          const Elements* now) {
        if (now == nullptr) {
            containers_ += fmt::format("add {} {} {} {{ type {}; }}\n", kind, name_, name, type);
            step(Step::Action::kAdd, fmt::format("nft {} {} {}", kind, name_, name));
        }
        static const Elements kNone;
        const auto& before = now == nullptr ? kNone.text : now->text;
        std::vector<std::string> gone;
        std::vector<std::string> fresh;
        for (const auto& [key, text] : before) {
            const auto found = wanted.text.find(key);
            if (found != wanted.text.end() && found->second == text) continue;
            gone.push_back(key.str());
            if (found == wanted.text.end()) element_step(Step::Action::kRemove, name, text);
        }
        for (const auto& [key, text] : wanted.text) {
            const auto found = before.find(key);
            if (found != before.end() && found->second == text) continue;
            fresh.push_back(text);
            if (found == before.end()) {
                element_step(Step::Action::kAdd, name, text);
            } else {
                element_step(Step::Action::kChange, name, key.str(), fmt::format("{} -> {}", found->second, text));
            }
        }
        write_elements(elements_, "delete", name, gone);
        write_elements(elements_, "add", name, fresh);
    }

    void element_step(Step::Action action, const std::string& container, const std::string& element,
                      std::string detail = {}) {
        step(action, fmt::format("nft element {} {} {{ {} }}", name_, container, element), std::move(detail));
    }

    void write_elements(std::string& out, const char* verb, const std::string& name,
                        const std::vector<std::string>& elements) const {
        for (std::size_t from = 0; from < elements.size(); from += kElementsPerCommand) {
            const auto until = std::min(from + kElementsPerCommand, elements.size());
            const auto part = elements | std::views::drop(from) | std::views::take(until - from);
            out += fmt::format("{} element {} {} {{ {} }}\n", verb, name_, name, fmt::join(part, ", "));
        }
    }

    void remove_stale_containers() {
        const auto remove = [this](const char* kind, const auto& now, const auto& wanted) {
            for (const auto& [name, elements] : now) {
                if (wanted.contains(name)) continue;
                remove_ += fmt::format("delete {} {} {}\n", kind, name_, name);
                step(Step::Action::kRemove, fmt::format("nft {} {} {}", kind, name_, name));
            }
        };
        remove("map", maps_, desired_->maps);
        remove("set", sets_, desired_->sets);
    }

    /// Rules refer to maps: those come first and go last.
    void assemble(bool new_table) {
        const std::string body = early_remove_ + flush_ + containers_ + elements_ + add_ + remove_;
        if (body.empty()) return;
        change_.commands = fmt::format("add table {}\n", name_) + body;
        if (new_table) {
            change_.steps.insert(change_.steps.begin(),
                                 Step{Step::Action::kAdd, {}, fmt::format("nft table {}", name_), {}});
        }
    }

    void step(Step::Action action, std::string object, std::string detail = {}) {
        change_.steps.push_back({action, {}, std::move(object), std::move(detail)});
    }

    const NftTable* desired_;
    nf::Family family_;
    const nf::Ruleset& actual_;
    const std::set<std::string>& present_;
    const std::set<std::string>& removed_;
    std::string name_;
    bool exists_ = false;
    std::map<std::string, const nf::Chain*> chains_;
    std::map<std::string, Elements> maps_;
    std::map<std::string, Elements> sets_;
    std::string early_remove_;
    std::string flush_;
    std::string containers_;
    std::string elements_;
    std::string add_;
    std::string remove_;
    NftChange change_;
};

}  // namespace

std::string delete_device_chains(const nf::Ruleset& actual, const std::set<std::string>& removed) {
    std::string commands;
    for (const auto& chain : actual.chains) {
        if (chain.table != kTableName || !removed.contains(chain.device)) continue;
        commands += fmt::format("flush chain {0} {1}\ndelete chain {0} {1}\n", table_name(chain.family), chain.name);
    }
    return commands;
}

NftChange diff_tables(const std::vector<NftTable>& desired, const nf::Ruleset& actual,
                      const std::set<std::string>& present, const std::set<std::string>& removed) {
    std::map<nf::Family, const NftTable*> by_family;
    for (const auto& table : desired)
        by_family.emplace(table.family, &table);
    NftChange all;
    for (const auto family : {nf::Family::kIp, nf::Family::kInet, nf::Family::kNetdev}) {
        const auto found = by_family.find(family);
        auto change =
            TableDiff(found == by_family.end() ? nullptr : found->second, family, actual, present, removed).run();
        all.commands += change.commands;
        std::ranges::move(change.steps, std::back_inserter(all.steps));
    }
    return all;
}

}  // namespace fiplane::build
