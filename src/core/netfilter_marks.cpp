// SPDX-License-Identifier: Apache-2.0
// Marks of packets and of connections. A later packet of a connection may find a mark that an earlier one has left, so
// what a ruleset can leave there is worked out once, as a set of numbers.
#include "core/netfilter_prepared.hpp"

namespace fiplane::nf {

namespace {

/// More marks than that are no longer told apart. A Neutron router has two or three.
constexpr std::size_t kMaxMarks = 16;

using Numbers = std::set<std::uint32_t>;

std::uint32_t changed(std::uint32_t mark, std::uint32_t mask, std::uint32_t value) {
    return (mark & ~mask) ^ value;
}

}  // namespace

Marks changed(const Marks& marks, const Statement& statement) {
    Marks out = marks;
    const auto change = [](std::optional<std::uint32_t> mark, std::uint32_t mask, std::optional<std::uint32_t> value) {
        if (!value || (!mark && mask != ~std::uint32_t{0})) return std::optional<std::uint32_t>();
        return std::optional(changed(mark.value_or(0), mask, *value));
    };
    const auto part = [](std::optional<std::uint32_t> mark, std::uint32_t mask) {
        return mark ? std::optional(*mark & mask) : mark;
    };
    if (const auto* set = std::get_if<SetMark>(&statement)) out.packet = change(marks.packet, set->mask, set->value);
    if (const auto* set = std::get_if<SetCtMark>(&statement))
        out.connection = change(marks.connection, set->mask, set->value);
    if (const auto* save = std::get_if<SaveMark>(&statement))
        out.connection = change(marks.connection, save->to, part(marks.packet, save->from));
    if (const auto* restore = std::get_if<RestoreMark>(&statement))
        out.packet = change(marks.packet, restore->to, part(marks.connection, restore->from));
    return out;
}

void Evaluator::Prepared::note_connection_marks() {
    std::unordered_set<const Chain*> reached;
    for (const auto& [hook, chains] : ip_hooks) {
        for (const HookChain& at : chains)
            add_reachable(*at.chain, reached);
    }
    std::vector<const Statement*> changes;
    for (const Chain* chain : reached) {
        for (const Rule& rule : chain->rules) {
            for (const Statement& statement : rule.statements) {
                const bool changes_mark =
                    std::holds_alternative<SetMark>(statement) || std::holds_alternative<SetCtMark>(statement) ||
                    std::holds_alternative<SaveMark>(statement) || std::holds_alternative<RestoreMark>(statement);
                if (changes_mark) changes.push_back(&statement);
            }
        }
    }
    // Which rules a packet meets, and in which order, is left open: the marks that any order could give.
    Numbers packets{0};
    Numbers connections{0};
    for (std::size_t known = 0; known != packets.size() + connections.size();) {
        known = packets.size() + connections.size();
        for (const Statement* statement : changes) {
            const Numbers before = packets;
            const Numbers kept = connections;
            for (const std::uint32_t packet : before) {
                for (const std::uint32_t connection : kept) {
                    const Marks after = changed(Marks{packet, connection}, *statement);
                    packets.insert(*after.packet);
                    connections.insert(*after.connection);
                }
            }
            if (packets.size() > kMaxMarks || connections.size() > kMaxMarks) return;
        }
    }
    connections.erase(0);
    connection_marks = std::move(connections);
}

void Packet::take_marks(const Outcome& outcome) {
    marks = outcome.marks;
    marks_invalid = outcome.marks_invalid;
    marks_later = outcome.marks_later;
}

void Evaluator::enter(Packet& packet) const {
    packet.marks = packet.marks_invalid = {0, 0};
    packet.marks_later.clear();
    if (!prepared_->connection_marks) {
        packet.marks.connection.reset();
        return;
    }
    for (const std::uint32_t mark : *prepared_->connection_marks)
        packet.marks_later.push_back({0, mark});
}

}  // namespace fiplane::nf
