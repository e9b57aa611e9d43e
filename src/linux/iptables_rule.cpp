// SPDX-License-Identifier: Apache-2.0
#include "linux/iptables_rule.hpp"

#include <charconv>
#include <map>
#include <optional>
#include <span>

namespace fiplane::iptables {
namespace {

using nf::Field;
using nf::Match;
using nf::Statement;

constexpr std::uint32_t kAll = 0xffffffff;

bool is_option(const Word& word) {
    return !word.quoted && word.text.starts_with('-') && word.text.size() > 1;
}

std::optional<std::uint32_t> number(std::string_view text) {
    int base = 10;
    if (text.starts_with("0x")) {
        text.remove_prefix(2);
        base = 16;
    }
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

struct Masked {
    std::uint32_t value = 0;
    std::uint32_t mask = kAll;
};

/// "0x4000000/0xffff0000"
std::optional<Masked> masked(const std::string& text) {
    const auto slash = text.find('/');
    const auto value = number(std::string_view(text).substr(0, slash));
    const auto mask = slash == std::string::npos ? kAll : number(std::string_view(text).substr(slash + 1));
    if (!value || !mask) return std::nullopt;
    return Masked{*value, *mask};
}

/// An option of a rule: what stands between it and the next one are its arguments.
struct Option {
    std::string name;
    bool negate = false;
    std::vector<std::string> arguments;

    [[nodiscard]] const std::string* only_argument() const { return arguments.size() == 1 ? &arguments[0] : nullptr; }
};

std::vector<Option> options_of(std::span<const Word> words) {
    std::vector<Option> options;
    bool negate = false;
    for (const Word& word : words) {
        if (!word.quoted && word.text == "!") {
            negate = true;
        } else if (is_option(word)) {
            options.push_back({.name = word.text, .negate = negate, .arguments = {}});
            negate = false;
        } else if (!options.empty()) {
            options.back().arguments.push_back(word.text);
        }
    }
    return options;
}

Match match_on(Field field, bool negate, std::vector<nf::Value> values) {
    return {.field = field, .negate = negate, .any_of = std::move(values), .set_name = std::nullopt};
}

Match undecidable() {
    return match_on(Field::kOther, false, {});
}

std::optional<Prefix> prefix_of(const std::string& text) {
    if (auto prefix = Prefix::parse(text)) return prefix->network();
    const auto address = Ipv4::parse(text);
    return address ? std::optional(Prefix::host(*address)) : std::nullopt;
}

/// iptables prints protocols by the names of /etc/protocols, which may say anything: the ones that everybody has.
std::optional<std::uint64_t> protocol_of(const std::string& text) {
    static const std::map<std::string, std::uint64_t> kNames = {{"icmp", 1}, {"tcp", 6}, {"udp", 17},  {"gre", 47},
                                                                {"esp", 50}, {"ah", 51}, {"sctp", 132}};
    if (const auto found = kNames.find(text); found != kNames.end()) return found->second;
    return number(text);
}

/// "DNAT,ESTABLISHED" in lower case.
std::optional<std::vector<nf::Value>> states_of(const std::string& text) {
    static const std::map<std::string, std::string> kNames = {{"NEW", "new"},
                                                              {"ESTABLISHED", "established"},
                                                              {"RELATED", "related"},
                                                              {"INVALID", "invalid"},
                                                              {"DNAT", "dnat"},
                                                              {"SNAT", "snat"},
                                                              {"UNTRACKED", "untracked"}};
    std::vector<nf::Value> states;
    for (std::size_t start = 0; start <= text.size();) {
        const std::size_t end = std::min(text.find(',', start), text.size());
        const auto found = kNames.find(text.substr(start, end - start));
        if (found == kNames.end()) return std::nullopt;
        states.emplace_back(found->second);
        start = end + 1;
    }
    return states;
}

class Parser {
  public:
    Parser(nf::Family family, bool in_nat) : family_(family), in_nat_(in_nat) {}

    std::vector<Statement> parse(const std::vector<Option>& options) {
        std::size_t at = 0;
        for (; at < options.size(); ++at) {
            if (options[at].name == "-j" || options[at].name == "-g") break;
            add_match(options[at]);
        }
        // A rule without a target is there to count what passes (neutron-metering-agent bills by such rules).
        statements_.push_back(at < options.size() ? target(options[at], std::span(options).subspan(at + 1))
                                                  : unknown());
        return std::move(statements_);
    }

  private:
    void add_match(const Option& option) {
        const std::string& name = option.name;
        if (name == "-m") {
            module_ = option.arguments.empty() ? "" : option.arguments[0];
            return;
        }
        if (module_ == "comment" && name == "--comment") return;
        statements_.emplace_back(match(option).value_or(undecidable()));
    }

    std::optional<Match> match(const Option& option) const {
        const std::string* argument = option.only_argument();
        if (argument == nullptr) return std::nullopt;
        const std::string& name = option.name;
        if (name == "-s" || name == "-d") return match_address(option, *argument);
        if (name == "-i" || name == "-o") return match_device(option, *argument);
        if (name == "-p") {
            const auto protocol = protocol_of(*argument);
            if (!protocol) return std::nullopt;
            return match_on(Field::kIpProtocol, option.negate, {*protocol});
        }
        if (name == "--mark") return match_mark(option, *argument);
        const bool state = (module_ == "conntrack" && name == "--ctstate") || (module_ == "state" && name == "--state");
        if (!state) return std::nullopt;
        auto states = states_of(*argument);
        if (!states) return std::nullopt;
        return match_on(Field::kCtState, option.negate, std::move(*states));
    }

    std::optional<Match> match_address(const Option& option, const std::string& argument) const {
        const auto prefix = family_ == nf::Family::kIp ? prefix_of(argument) : std::nullopt;
        if (!prefix) return std::nullopt;
        return match_on(option.name == "-s" ? Field::kIpSaddr : Field::kIpDaddr, option.negate, {*prefix});
    }

    /// "qr-+" is every name that begins with qr-.
    static Match match_device(const Option& option, std::string argument) {
        if (argument.ends_with('+')) argument.back() = '*';
        return match_on(option.name == "-i" ? Field::kIifname : Field::kOifname, option.negate, {argument});
    }

    std::optional<Match> match_mark(const Option& option, const std::string& argument) const {
        const auto bits = masked(argument);
        if (!bits || (module_ != "mark" && module_ != "connmark")) return std::nullopt;
        Match out =
            match_on(module_ == "mark" ? Field::kMark : Field::kCtMark, option.negate, {std::uint64_t{bits->value}});
        out.mask = bits->mask;
        return out;
    }

    [[nodiscard]] Statement unknown() const { return nf::Unknown{.may_translate = in_nat_}; }

    Statement target(const Option& jump, std::span<const Option> options) const {
        const std::string* name = jump.only_argument();
        if (name == nullptr) return unknown();
        if (jump.name == "-g") return nf::Verdict{nf::VerdictKind::kGoto, *name};
        if (*name == "ACCEPT") return nf::Verdict{nf::VerdictKind::kAccept, {}};
        if (*name == "DROP") return nf::Verdict{nf::VerdictKind::kDrop, {}};
        if (*name == "RETURN") return nf::Verdict{nf::VerdictKind::kReturn, {}};
        if (*name == "MARK") return set_mark(options);
        if (*name == "CONNMARK") return set_ct_mark(options);
        if (*name == "DNAT" || *name == "SNAT") return translate(*name == "DNAT", options);
        if (*name == "CT" || *name == "NOTRACK") return tracking(*name, options);
        // These neither change nor stop a packet, but tell somebody of it.
        if (*name == "LOG" || *name == "NFLOG") return nf::Unknown{};
        // The namespace's own addresses, whose packets are delivered locally.
        if (*name == "MASQUERADE" || *name == "REDIRECT") return nf::Unknown{};
        // A target that is not known here has options, or is no chain, which stops the evaluation as well.
        if (!options.empty()) return unknown();
        return nf::Verdict{nf::VerdictKind::kJump, *name};
    }

    static Statement set_mark(std::span<const Option> options) {
        const auto bits = options.size() == 1 ? xmark(options[0]) : std::nullopt;
        if (!bits) return nf::Unknown{};
        return nf::SetMark{.value = bits->value, .mask = bits->mask};
    }

    static std::optional<Masked> xmark(const Option& option) {
        const std::string* argument = option.only_argument();
        return option.name == "--set-xmark" && argument != nullptr ? masked(*argument) : std::nullopt;
    }

    static Statement set_ct_mark(std::span<const Option> options) {
        if (options.empty()) return nf::Unknown{};
        if (const auto bits = xmark(options[0])) return nf::SetCtMark{.value = bits->value, .mask = bits->mask};
        std::uint32_t of_packet = kAll;
        std::uint32_t of_connection = kAll;
        for (const Option& option : options.subspan(1)) {
            const std::string* argument = option.only_argument();
            const auto mask = argument != nullptr ? number(*argument) : std::nullopt;
            if (!mask || (option.name != "--nfmask" && option.name != "--ctmask")) return nf::Unknown{};
            (option.name == "--nfmask" ? of_packet : of_connection) = *mask;
        }
        if (!options[0].arguments.empty()) return nf::Unknown{};
        if (options[0].name == "--save-mark") return nf::SaveMark{.from = of_packet, .to = of_connection};
        if (options[0].name == "--restore-mark") return nf::RestoreMark{.from = of_connection, .to = of_packet};
        return nf::Unknown{};
    }

    /// To one address; ports, and ranges of addresses, are not expressible.
    [[nodiscard]] Statement translate(bool destination, std::span<const Option> options) const {
        const char* where = destination ? "--to-destination" : "--to-source";
        const std::string* argument = options.empty() ? nullptr : options[0].only_argument();
        if (argument == nullptr || options[0].name != where) return unknown();
        const std::size_t colon = argument->find(':');
        const auto address = Ipv4::parse(argument->substr(0, colon));
        if (!address) return unknown();
        bool random = false;
        bool plain = colon == std::string::npos;
        for (const Option& option : options.subspan(1)) {
            const bool any_port = !destination && (option.name == "--random" || option.name == "--random-fully");
            random = random || any_port;
            plain = plain && option.arguments.empty() && (any_port || option.name == "--persistent");
        }
        if (!plain) return destination ? nf::Unknown{.dnat = address} : nf::Unknown{.snat = address};
        nf::AddressSource to;
        to.address = address;
        if (destination) return nf::Dnat{std::move(to)};
        return nf::Snat{.to = std::move(to), .random = random};
    }

    static Statement tracking(const std::string& name, std::span<const Option> options) {
        const bool off = name == "NOTRACK" ? options.empty() : options.size() == 1 && options[0].name == "--notrack";
        if (off) return nf::Notrack{};
        return nf::Unknown{};
    }

    nf::Family family_;
    bool in_nat_;
    std::string module_;
    std::vector<Statement> statements_;
};

}  // namespace

std::vector<Word> split(const std::string& line) {
    std::vector<Word> words;
    bool inside = false;  // a word
    bool quotes = false;
    for (std::size_t i = 0; i < line.size(); ++i) {
        const char c = line[i];
        if (!quotes && (c == ' ' || c == '\t')) {
            inside = false;
            continue;
        }
        if (!inside) words.push_back({});
        inside = true;
        if (c == '"') {
            quotes = !quotes;
            words.back().quoted = true;
        } else {
            if (quotes && c == '\\' && i + 1 < line.size()) ++i;
            words.back().text += line[i];
        }
    }
    return words;
}

nf::Rule parse_rule(const std::string& text, nf::Family family, bool in_nat) {
    const std::vector<Word> words = split(text);
    return {.statements = Parser(family, in_nat).parse(options_of(words)), .text = text};
}

}  // namespace fiplane::iptables
