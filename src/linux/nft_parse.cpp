// SPDX-License-Identifier: Apache-2.0
// `nft -j list ruleset` as an nf::Ruleset.
#include <fmt/format.h>

#include <set>
#include <tuple>

#include "linux/nft.hpp"
#include "linux/nft_json.hpp"

namespace fiplane {
namespace {

using nf::Family;
using nft::Json;

std::optional<Family> family_of(const Json& object) {
    const std::string name = object.at("family").get<std::string>();
    if (name == "ip") return Family::kIp;
    if (name == "ip6") return Family::kIp6;
    if (name == "inet") return Family::kInet;
    if (name == "arp") return Family::kArp;
    if (name == "bridge") return Family::kBridge;
    if (name == "netdev") return Family::kNetdev;
    return std::nullopt;
}

std::optional<nf::Hook> hook_of(const std::string& name) {
    if (name == "ingress") return nf::Hook::kIngress;
    if (name == "egress") return nf::Hook::kEgress;
    if (name == "prerouting") return nf::Hook::kPrerouting;
    if (name == "input") return nf::Hook::kInput;
    if (name == "forward") return nf::Hook::kForward;
    if (name == "output") return nf::Hook::kOutput;
    if (name == "postrouting") return nf::Hook::kPostrouting;
    return std::nullopt;
}

/// What elements of a set of this type are compared with.
nf::Field field_of_type(const Json& type) {
    if (type == "ipv4_addr") return nf::Field::kIpSaddr;
    if (type == "ether_addr") return nf::Field::kEtherSaddr;
    if (type == "ifname") return nf::Field::kIifname;
    if (type == "ether_type") return nf::Field::kEtherType;
    if (type == "inet_proto") return nf::Field::kIpProtocol;
    if (type == "mark") return nf::Field::kMark;
    return nf::Field::kOther;
}

bool mentions(const Json& flags, const char* flag) {
    if (!flags.is_array()) return flags == flag;
    for (const auto& one : flags) {
        if (one == flag) return true;
    }
    return false;
}

class Parser {
  public:
    explicit Parser(const Json& objects) : objects_(objects) {}

    nf::Ruleset parse() {
        // Rules name sets, and chains come before their rules, so one kind is read after the other.
        each("rule", [this](const Json& rule) { note_updated_sets(rule); });
        each("table", [this](const Json& table) { parse_table(table); });
        each("set", [this](const Json& set) { parse_set(set); });
        each("map", [this](const Json& map) { parse_map(map); });
        each("chain", [this](const Json& chain) { parse_chain(chain); });
        each("rule", [this](const Json& rule) { parse_rule(rule); });
        place_chains();
        return std::move(ruleset_);
    }

  private:
    using Key = std::tuple<Family, std::string, std::string>;

    template <typename Visit>
    void each(const char* kind, Visit visit) {
        for (const auto& object : objects_) {
            if (nft::only_key(object) == kind) visit(object[kind]);
        }
    }

    static std::string scoped(const Json& object, const std::string& name) {
        return nf::Ruleset::scoped_name(family_of(object).value(), object.at("table").get<std::string>(), name);
    }

    /// A set that packets change has no contents that one could rely on, and no notification tells of a change.
    void note_updated_sets(const Json& rule) {
        if (!family_of(rule)) return;
        for (const auto& statement : rule.value("expr", Json::array())) {
            for (const char* kind : {"set", "map"}) {
                if (nft::only_key(statement) != kind || !statement[kind].is_object()) continue;
                const std::string name = statement[kind].value(kind, "");
                if (name.starts_with('@')) updated_.insert(scoped(rule, name.substr(1)));
            }
        }
    }

    bool is_fixed(const Json& object, const std::string& name) const {
        const Json flags = object.value("flags", Json::array());
        return !mentions(flags, "timeout") && !mentions(flags, "dynamic") && !object.contains("timeout") &&
               !updated_.contains(name);
    }

    void parse_table(const Json& table) {
        const auto family = family_of(table);
        const std::string name = table.at("name").get<std::string>();
        if (!family) {
            ruleset_.opaque.push_back(fmt::format("nft table {} {}", table.at("family").get<std::string>(), name));
            return;
        }
        const Json flags = table.value("flags", Json());
        if (flags.is_null() || flags == "owner" || flags == "persist") return;
        if (mentions(flags, "dormant")) {
            dormant_.emplace(*family, name);
            return;
        }
        // nft 1.0.6 prints the table's family in place of the flag.
        ruleset_.opaque.push_back(
            fmt::format("nft table {} {} has flags", table.at("family").get<std::string>(), name));
    }

    void parse_set(const Json& set) {
        if (!family_of(set)) return;
        const std::string name = scoped(set, set.at("name").get<std::string>());
        if (!is_fixed(set, name)) return;
        const Json type = set.value("type", Json());
        if (type == "ipv6_addr") {
            // No match looks into it; its members are for those who made it.
            if (auto addresses = nft::parse_ipv6_addresses(set.value("elem", Json::array()))) {
                ruleset_.sets.emplace(name, std::move(*addresses));
            }
            return;
        }
        const nf::Field field = field_of_type(type);
        if (field == nf::Field::kOther) return;
        if (auto values = nft::parse_values(field, set.value("elem", Json::array()))) {
            ruleset_.sets.emplace(name, std::move(*values));
        }
    }

    void parse_map(const Json& map) {
        if (!family_of(map)) return;
        const std::string name = scoped(map, map.at("name").get<std::string>());
        if (map.value("type", Json()) != "ipv4_addr" || map.value("map", Json()) != "ipv4_addr" ||
            !is_fixed(map, name)) {
            return;
        }
        if (auto elements = nft::parse_address_map(map.value("elem", Json::array()))) {
            ruleset_.maps.emplace(name, std::move(*elements));
        }
    }

    void parse_chain(const Json& object) {
        const auto family = family_of(object);
        if (!family) return;
        nf::Chain chain;
        chain.family = *family;
        chain.table = object.at("table").get<std::string>();
        chain.name = object.at("name").get<std::string>();
        if (object.contains("hook") && !dormant_.contains({*family, chain.table})) parse_base(chain, object);
        Devices devices;
        const Json listed = object.value("dev", Json::array());
        for (const auto& device : listed.is_array() ? listed : Json::array({listed})) {
            devices.push_back(device.get<std::string>());
        }
        order_.emplace_back(*family, chain.table, chain.name);
        devices_.emplace(order_.back(), std::move(devices));
        chains_.emplace(order_.back(), std::move(chain));
    }

    void parse_base(nf::Chain& chain, const Json& object) {
        const std::string hook = object["hook"].get<std::string>();
        const bool of_device = hook == "ingress" || hook == "egress";
        chain.hook = !of_device || chain.family == Family::kNetdev ? hook_of(hook) : std::nullopt;
        if (!chain.hook || !object.at("prio").is_number_integer()) {
            chain.hook.reset();
            ruleset_.opaque.push_back(fmt::format("nft chain {} {} {} at hook {}",
                                                  object.at("family").get<std::string>(), chain.table, chain.name,
                                                  hook));
            return;
        }
        const std::string type = object.value("type", "filter");
        chain.type = type == "nat"     ? nf::ChainType::kNat
                     : type == "route" ? nf::ChainType::kRoute
                                       : nf::ChainType::kFilter;
        chain.priority = object["prio"].get<int>();
        chain.policy_accept = object.value("policy", "accept") == "accept";
    }

    void parse_rule(const Json& object) {
        const auto family = family_of(object);
        if (!family) return;
        const std::string table = object.at("table").get<std::string>();
        const auto chain = chains_.find(Key{*family, table, object.at("chain").get<std::string>()});
        if (chain == chains_.end()) return;
        const Json statements = object.value("expr", Json::array());
        chain->second.rules.push_back(
            {.statements = nft::parse_statements({.family = *family, .table = table, .objects = ruleset_}, statements),
             .text = nft::render_rule(statements)});
    }

    /// A chain that is bound to several devices becomes one for each.
    void place_chains() {
        for (const auto& key : order_) {
            nf::Chain& chain = chains_.at(key);
            const Devices& devices = devices_.at(key);
            for (std::size_t i = 1; i < devices.size(); ++i) {
                ruleset_.chains.push_back(chain);
                ruleset_.chains.back().device = devices[i];
            }
            if (!devices.empty()) chain.device = devices[0];
            ruleset_.chains.push_back(std::move(chain));
        }
    }

    using Devices = std::vector<std::string>;
    const Json& objects_;
    nf::Ruleset ruleset_;
    std::set<std::string> updated_;
    std::set<std::pair<Family, std::string>> dormant_;
    std::vector<Key> order_;
    std::map<Key, nf::Chain> chains_;
    std::map<Key, Devices> devices_;
};

}  // namespace

Result<nf::Ruleset> parse_ruleset(const std::string& json) {
    try {
        const Json document = Json::parse(json);
        return Parser(document.at("nftables")).parse();
    } catch (const Json::exception& error) {
        return fail(ExitCode::kFailed, fmt::format("cannot understand the nftables ruleset: {}", error.what()), {},
                    "compare `nft -j list ruleset` with libnftables-json(5)");
    }
}

}  // namespace fiplane
