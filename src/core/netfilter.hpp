// SPDX-License-Identifier: Apache-2.0
// netfilter rules as values, and a symbolic evaluation of a hook for one packet of the walk.
//
// A rule is understood as a whole or not at all: a statement that this model cannot express is kept as kUnknown with
// its text, and a packet that could reach it makes the evaluation stop there with that text.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "core/types.hpp"

namespace fiplane::nf {

enum class Family { kIp, kInet, kBridge, kNetdev, kArp, kIp6 };
enum class Hook { kIngress, kPrerouting, kInput, kForward, kOutput, kPostrouting, kEgress };
enum class ChainType { kFilter, kNat, kRoute };

/// What a match looks at.
enum class Field {
    kIifname,
    kOifname,
    kEtherSaddr,
    kEtherDaddr,
    kEtherType,  ///< also "meta protocol"; values are numbers in host order
    kIpSaddr,
    kIpDaddr,
    kArpSaddrIp,
    kArpSaddrEther,
    kIpProtocol,  ///< also "meta l4proto"
    kCtState,     ///< values: "invalid", "new", "established", "related", "untracked"; of iptables "dnat", "snat", too
    kCtStatus,    ///< values: "dnat", "snat", ...
    kMark,        ///< of the packet; values are numbers, compared after Match::mask
    kCtMark,      ///< of the packet's connection, alike
    kOther,       ///< anything else: a match on it is undecidable
};

/// A literal: text for names, a prefix for addresses, a MAC, a number; an IPv6 address only as a member of a set.
using Value = std::variant<std::string, Prefix, Mac, std::uint64_t, IpAddress>;

struct Match {
    Field field = Field::kOther;
    bool negate = false;
    std::vector<Value> any_of;            ///< a set literal, or one value; names may end in '*' (interface wildcard)
    std::optional<std::string> set_name;  ///< @name: members are in Ruleset::sets; any_of is then empty
    std::uint32_t mask = 0xffffffff;      ///< of kMark and kCtMark: the bits that are compared
    bool operator==(const Match&) const = default;
};

/// Target of a NAT or payload statement: a fixed address, or a map looked up by an address of the packet.
struct AddressSource {
    std::optional<Ipv4> address;
    std::optional<std::string> map_name;
    Field map_key = Field::kOther;       ///< kIpSaddr or kIpDaddr
    std::map<Ipv4, Ipv4> anonymous_map;  ///< `ip daddr map { a : b }`
    bool operator==(const AddressSource&) const = default;
};

struct Dnat {
    AddressSource to;
    bool operator==(const Dnat&) const = default;
};
struct Snat {
    AddressSource to;
    bool random = false;  ///< random or fully-random: ports are not kept
    bool operator==(const Snat&) const = default;
};
/// `ip daddr set …` / `ip saddr set …`: stateless rewrite.
struct SetAddress {
    Field field;  ///< kIpSaddr or kIpDaddr
    AddressSource to;
    bool operator==(const SetAddress&) const = default;
};
/// The packet's mark becomes (mark & ~mask) ^ value: `meta mark set N`, or MARK --set-xmark value/mask (xt_mark.c).
struct SetMark {
    std::uint32_t value = 0;
    std::uint32_t mask = 0xffffffff;
    bool operator==(const SetMark&) const = default;
};
/// The same with the mark of the packet's connection: `ct mark set N`, CONNMARK --set-xmark (xt_connmark.c).
struct SetCtMark {
    std::uint32_t value = 0;
    std::uint32_t mask = 0xffffffff;
    bool operator==(const SetCtMark&) const = default;
};
/// The connection's mark becomes (mark & ~to) ^ (the packet's & from): CONNMARK --save-mark.
struct SaveMark {
    std::uint32_t from = 0xffffffff;  ///< --nfmask
    std::uint32_t to = 0xffffffff;    ///< --ctmask
    bool operator==(const SaveMark&) const = default;
};
/// The packet's mark becomes (mark & ~to) ^ (the connection's & from): CONNMARK --restore-mark.
struct RestoreMark {
    std::uint32_t from = 0xffffffff;  ///< --ctmask
    std::uint32_t to = 0xffffffff;    ///< --nfmask
    bool operator==(const RestoreMark&) const = default;
};
/// `tcp option maxseg size set …`, which lowers the MSS that TCP offers and never raises it (nft_exthdr.c). Only a SYN
/// offers one (RFC 9293, 3.7.1): what else has the option is not looked for.
struct LowerMss {
    std::uint16_t to = 0;  ///< bytes; 0: `rt mtu`, what the route's MTU leaves for a segment
    bool operator==(const LowerMss&) const = default;
};
struct Notrack {
    bool operator==(const Notrack&) const = default;
};
struct Counter {
    bool operator==(const Counter&) const = default;
};
enum class VerdictKind { kAccept, kDrop, kReturn, kJump, kGoto, kContinue };
struct Verdict {
    VerdictKind kind;
    std::string chain;  ///< for kJump and kGoto
    bool operator==(const Verdict&) const = default;
};
/// A statement that the model cannot express. Where it may translate addresses, answers to what it translated pass as
/// packets that no rule shows: conntrack translates them back.
struct Unknown {
    bool may_translate = false;  ///< to or from addresses that are not known
    std::optional<Ipv4> dnat{};  ///< destination that a translation with more conditions or ports gives
    std::optional<Ipv4> snat{};  ///< the same for the source
    bool by_iptables = false;    ///< an extension of iptables, of which nft shows the name only
    bool operator==(const Unknown&) const = default;
};

using Statement = std::variant<Match, Dnat, Snat, SetAddress, SetMark, SetCtMark, SaveMark, RestoreMark, LowerMss,
                               Notrack, Counter, Verdict, Unknown>;

struct Rule {
    std::vector<Statement> statements;
    std::string text;  ///< as nft prints it, or close to it; for messages
    bool operator==(const Rule&) const = default;
};

struct Chain {
    Family family = Family::kIp;
    std::string table;
    std::string name;
    /// Base chains only:
    std::optional<Hook> hook;
    ChainType type = ChainType::kFilter;
    int priority = 0;
    bool policy_accept = true;
    std::string device;  ///< netdev family: the device that it is bound to
    std::vector<Rule> rules;
    bool operator==(const Chain&) const = default;
};

/// All rules of one network namespace. Maps and sets are keyed by "family table name" (see scoped_name()).
struct Ruleset {
    std::vector<Chain> chains;
    std::map<std::string, std::map<Ipv4, Ipv4>> maps;
    std::map<std::string, std::vector<Value>> sets;
    /// Tables that cannot be read, one phrase each; any of them stops a walk through the namespace.
    std::vector<std::string> opaque;
    /// Those that nft does not show: of iptables-legacy, which stop IPv4 packets, and of ip6tables-legacy.
    std::vector<std::string> opaque_ipv4;
    std::vector<std::string> opaque_ipv6;
    /// Why rules of iptables-nft are not understood; empty if they are, or if there are none.
    std::string not_shown;

    [[nodiscard]] std::size_t rule_count() const;
    static std::string scoped_name(Family family, const std::string& table, const std::string& name);
    bool operator==(const Ruleset&) const = default;
};

/// Makes one rule of those that follow one another and differ in one address alone, of a match or of a translation from
/// one to one: with a set, or a map. Nothing else changes for any packet.
void fold(Ruleset& ruleset);

/// What rules have noted on a packet. An unset mark could be anything.
struct Marks {
    std::optional<std::uint32_t> packet;
    std::optional<std::uint32_t> connection;
    bool operator==(const Marks&) const = default;
};

struct Outcome;

/// The packet of a walk: what is known of it. An unset optional is "could be anything".
struct Packet {
    std::string iifname;  ///< empty: the host's own packet
    std::string oifname;
    std::optional<Mac> ether_saddr;
    std::uint16_t ether_type = 0x0800;
    std::optional<Ipv4> saddr;  ///< none of an IPv6 packet, whose addresses rules cannot be compared with
    /// The destination: an address (length 32) or a region, i.e. any address of the prefix for which no longer
    /// prefix is known anywhere.
    std::optional<Prefix> daddr;
    std::optional<std::uint64_t> protocol;  ///< of layer 4
    /// Rules may note other marks on packets that conntrack calls invalid, and on later ones of a connection whose mark
    /// an earlier one has left behind: each of these is a packet that has to fare as the first does.
    Marks marks;
    Marks marks_invalid;
    std::vector<Marks> marks_later;
    bool dnat_done = false;  ///< ct status dnat
    /// Of a flow that the fast path carries from its first packet to its last, with the ports that it has: also what
    /// conntrack would call invalid is translated, and ports that a rule would choose at random stay.
    bool by_flow = false;

    /// Takes the marks that a hook has left, to the next hook of the same namespace.
    void take_marks(const Outcome& outcome);
};

/// A place in a ruleset that looks at the source address: a match, or a map keyed by it.
struct SourceTest {
    const Match* match = nullptr;
    const std::map<Ipv4, Ipv4>* map = nullptr;
    auto operator<=>(const SourceTest&) const = default;
};

/// Outcome of a hook. `stopped` is set where the outcome depends on something unknown: the rule's text.
///
/// Where the packet's source is unknown, the outcome is that of a source which none of `source_tests` knows. If one of
/// those would change it, `by_source` is the rule that does, and `by_source_snat_only` says that it changes nothing
/// but the source translation.
struct Outcome {
    bool accepted = true;
    std::string dropped_by;  ///< rule or policy, where it is not accepted
    std::optional<Ipv4> dnat;
    std::optional<Ipv4> snat;
    std::string snat_by;  ///< map or literal that gave `snat`: two packets with the same one are translated alike
    bool notrack = false;
    /// LowerMss::to of all rules that may see the packet if it is a TCP SYN, whether the rest of them is decidable or
    /// not: where the fast path leaves a packet to Linux in vain, nothing is wrong.
    std::set<std::uint16_t> mss;
    Marks marks;  ///< for the next hook of the same namespace, like the next two
    Marks marks_invalid;
    std::vector<Marks> marks_later;
    std::optional<std::string> stopped;
    std::optional<std::string> by_source;
    bool by_source_snat_only = false;
    std::vector<SourceTest> source_tests;
};

/// A ruleset made ready for many evaluations: chains by hook in the kernel's order, sets and maps resolved.
/// Keeps references into the ruleset, which must outlive it unchanged.
class Evaluator {
  public:
    explicit Evaluator(const Ruleset& ruleset);
    ~Evaluator();
    Evaluator(Evaluator&&) noexcept;
    Evaluator& operator=(Evaluator&&) = delete;

    /// Sets the marks with which a packet comes into the namespace: 0, which a veth from another one makes them
    /// (skb_scrub_packet), and of its connection those that rules here leave behind.
    void enter(Packet& packet) const;

    /// Evaluates all base chains of `hook` (families ip, or ip6 for such a packet, and inet; netdev for kIngress and
    /// kEgress, chains of device `packet.iifname` and `packet.oifname`) in the kernel's order: for tracked packets, for
    /// packets that conntrack calls invalid, and for those of `packet.marks_later`; the outcome counts only where all
    /// agree on addresses and acceptance. Untracked packets (notrack seen before conntrack) skip NAT chains. Where a
    /// match is undecidable both answers are followed and their outcomes compared.
    [[nodiscard]] Outcome evaluate(Hook hook, const Packet& packet, bool untracked = false) const;

    /// Every place that looks at the source address; which of them know `source` (indices into source_tests()).
    [[nodiscard]] const std::vector<SourceTest>& source_tests() const;
    [[nodiscard]] std::vector<std::size_t> source_hits(Ipv4 source) const;
    [[nodiscard]] bool knows_source(const SourceTest& test, Ipv4 source) const;
    /// Addresses that a test knows: a map's keys, a match's prefixes.
    [[nodiscard]] std::vector<Prefix> known_sources(const SourceTest& test) const;

    /// Destinations that some rule treats apart: literals, set members and keys of maps; not sorted.
    [[nodiscard]] const std::vector<Prefix>& destinations() const;
    /// What destination NAT does, read off maps and literal rules: for reports and as starting points of walks.
    [[nodiscard]] const std::map<Ipv4, Ipv4>& dnats() const;
    /// The same for source NAT of single addresses, only where no other address gets the same one: fixed to floating.
    [[nodiscard]] const std::map<Ipv4, Ipv4>& snats() const;

    /// Translated both ways, one to one: floating to fixed.
    [[nodiscard]] std::map<Ipv4, Ipv4> floating_ips() const;

    /// Conntrack translates answers back, which no rule shows. Of packets from `source` that is what the rules say as
    /// well: no destination translation leads to it but from the one address that the rules translate it to.
    [[nodiscard]] bool answers_follow_rules(Ipv4 source) const;
    /// The sources of which that is not so, ascending.
    [[nodiscard]] std::vector<Ipv4> only_conntrack_answers() const;
    /// A source translation gives this address, and no destination translation leads back from it to the same one
    /// alone: only conntrack knows where answers to it go.
    [[nodiscard]] bool only_conntrack_routes_to(Ipv4 destination) const;
    /// Is there any rule that may translate an address?
    [[nodiscard]] bool translates() const;
    /// A rule that may translate to or from addresses that are not known; empty if there is none.
    [[nodiscard]] const std::string& hidden_translation() const;

    /// Has a base chain that could do something: one with rules or a policy other than accept.
    [[nodiscard]] bool has_effect(Family family, std::optional<Hook> hook = std::nullopt) const;
    [[nodiscard]] bool has_ingress(const std::string& device) const;
    [[nodiscard]] bool has_egress(const std::string& device) const;
    /// Single source addresses that a device's ingress chains name, 0.0.0.0 aside: candidates for what they admit.
    [[nodiscard]] std::set<Ipv4> ingress_sources(const std::string& device) const;

    struct Prepared;  ///< defined in netfilter_prepared.hpp, for netfilter*.cpp only

  private:
    std::unique_ptr<const Prepared> prepared_;
};

/// One evaluation: Evaluator(ruleset).evaluate(...).
[[nodiscard]] Outcome evaluate(const Ruleset& ruleset, Hook hook, const Packet& packet, bool untracked = false);

}  // namespace fiplane::nf
