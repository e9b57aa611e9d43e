// SPDX-License-Identifier: Apache-2.0
// The policy of sync: which rows are written and removed, and in which order. What writes is a Store, so that the
// order can be observed without a kernel.
//
// A Store has, per table row type (see MapSet, the one over the kernel's maps):
//   put(key, value), get<V>(key), erase<V>(key), max_entries<V>(key), put_config(config),
//   add_stat(key), erase_stat(key), max_stats(), add_device(key), erase_device(key), has_device(key), max_devices()
//
// The invariant: a program that finds a row also finds everything that the row refers to. So rows are written from
// what is referred to (devices, statistics, next hops) to what refers (floating IPs, then sources, which open a device
// to the fast path), and removed the other way round. Absence is always safe: the packet goes to Linux.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <ranges>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/result.hpp"
#include "core/tables.hpp"
#include "core/types.hpp"
#include "datapath/datapath.hpp"
#include "datapath/map_set.hpp"

namespace fiplane {

/// The order of additions; removals go from its end to its beginning.
inline constexpr std::tuple kAdditionOrder{&Tables::crossings, &Tables::tunnels, &Tables::arp,       &Tables::fdb,
                                           &Tables::dests,     &Tables::routes,  &Tables::vms,       &Tables::senders,
                                           &Tables::fip_in,    &Tables::sources, &Tables::translated};

/// The stamp that a program writes into a row, or null for rows without one.
template <typename V>
[[nodiscard]] std::uint32_t* last_use_of(V& /*value*/) {
    return nullptr;
}
template <>
[[nodiscard]] inline std::uint32_t* last_use_of(fl_next& value) {
    return &value.last_use;
}
template <>
[[nodiscard]] inline std::uint32_t* last_use_of(fl_fip_in& value) {
    return &value.next.last_use;
}
template <>
[[nodiscard]] inline std::uint32_t* last_use_of(fl_fdb& value) {
    return &value.last_use;
}

/// Calls visit(out) for everything that a row sends packets to.
template <typename TablesRef, typename Visit>
void for_each_out(TablesRef& tables, Visit visit) {
    for (auto& [key, value] : tables.fdb)
        visit(value.out);
    for (auto& [key, value] : tables.dests)
        visit(value.out);
    for (auto& [key, value] : tables.routes)
        visit(value.out);
    for (auto& [key, value] : tables.fip_in)
        visit(value.next.out);
}

/// Rows of fl_devs that `tables` refer to.
[[nodiscard]] inline DeviceRows devices_of(const Tables& tables) {
    DeviceRows out;
    for_each_out(tables, [&out](const fl_out& row) {
        if ((row.flags & FL_OUT_XDP) != 0 && row.ifindex != 0) out.insert(DeviceKey{row.ifindex});
    });
    return out;
}

/// Rows of fl_fip_stats: one per floating IP, whichever direction is fast. Sorted by bytes, each once.
[[nodiscard]] inline std::vector<fl_fip_stat_key> stats_of(const Tables& tables) {
    std::vector<fl_fip_stat_key> out;
    out.reserve(tables.fip_in.size() + tables.vms.size());
    const auto add = [&out](const std::uint8_t(&fip)[4]) {
        std::copy(std::begin(fip), std::end(fip), std::begin(out.emplace_back().fip));
    };
    for (const auto& [key, value] : tables.fip_in)
        add(key.fip);
    for (const auto& [key, value] : tables.vms) {
        if (!Ipv4::from_bytes(value.fip).is_unset()) add(value.fip);
    }
    std::sort(out.begin(), out.end(), ByteLess<fl_fip_stat_key>{});
    const auto same = [](const fl_fip_stat_key& a, const fl_fip_stat_key& b) { return same_bytes(a, b); };
    out.erase(std::unique(out.begin(), out.end(), same), out.end());
    return out;
}

/// A trie's key: after .prefixlen come the bits that it counts (struct bpf_lpm_trie_key).
template <typename K>
concept PrefixKey = requires(K key) { key.prefixlen; };

/// Does `wide` match everything that `narrow` matches, and more?
template <PrefixKey K>
[[nodiscard]] bool covers(const K& wide, const K& narrow) {
    if (wide.prefixlen >= narrow.prefixlen) return false;
    const auto bit = [](const K& key, std::uint32_t position) {
        const auto* bits = reinterpret_cast<const unsigned char*>(&key) + sizeof(key.prefixlen);
        return (bits[position / 8] >> (7 - position % 8)) & 1;
    };
    for (std::uint32_t position = 0; position < wide.prefixlen; ++position) {
        if (bit(wide, position) != bit(narrow, position)) return false;
    }
    return true;
}

template <typename Store>
class TableSync {
  public:
    /// Both must outlive the object. `actual` is what the store holds; it is kept true after every single write.
    TableSync(Store& store, MapContents& actual) : store_(store), actual_(actual) {}

    /// See Datapath::sync.
    [[nodiscard]] Result<SyncReport> run(const Tables& desired) {
        if (auto done = pass(desired); !done) return pass_on(done);
        // Removals may have made room for what did not fit before them.
        if (overflow_ && removed_any_) {
            overflow_.reset();
            if (auto done = pass(desired); !done) return pass_on(done);
        }
        if (overflow_) return overflow_->error();
        return std::move(report_);
    }

    /// See Datapath::withdraw.
    [[nodiscard]] Result<> withdraw(const std::set<Ipv4>& addresses) {
        const auto named = [&addresses](const std::uint8_t(&wire)[4]) {
            return addresses.contains(Ipv4::from_bytes(wire));
        };
        const auto next_translates = [&named](const fl_next& next) {
            return !Ipv4::from_bytes(next.dnat).is_unset() && named(next.dnat);
        };
        auto done = erase_where(&Tables::fip_in, [&](const fl_fip_key& key, const fl_fip_in& value) {
            return named(key.fip) || next_translates(value.next);
        });
        if (!done) return done;
        done = erase_where(&Tables::vms, [&](const fl_vm_key& key, const fl_vm& value) {
            return named(key.fixed) || named(value.fip);
        });
        if (!done) return done;
        done = erase_where(&Tables::routes,
                           [&](const fl_route_key&, const fl_next& value) { return next_translates(value); });
        if (!done) return done;
        return erase_where(&Tables::dests, [&](const fl_dest_key& key, const fl_next& value) {
            return next_translates(value) || (named(key.ip) && !Ipv4::from_bytes(value.dnat).is_unset());
        });
    }

    /// The store held something else than `actual` said: it must be read again before the next run.
    [[nodiscard]] bool inconsistent() const { return inconsistent_; }

  private:
    /// The first map that was full, and the first row that was left out.
    struct Overflow {
        std::string map;
        std::uint32_t size = 0;
        std::string row;
        std::uint64_t rows = 0;

        [[nodiscard]] std::unexpected<Error> error() const {
            return fail(
                ExitCode::kTableFull,
                fmt::format("BPF map {} is full with {} entries: {} does not fit, {} rows left to Linux in all", map,
                            size, row, rows),
                {},
                "spread them over more nodes, or end with `fiplane teardown`, or `detach`, and start with a larger "
                "`--max-floating-ips`");
        }
    };

    [[nodiscard]] Result<> pass(const Tables& desired) {
        removed_any_ = false;
        auto done = put_config(config_meanwhile(desired.config));
        if (done) done = end_translations(desired);
        const auto stats = stats_of(desired);
        if (done) done = add_stats(stats);
        DeviceRows missing;
        if (done) done = add_devices(desired, missing);
        if (!done) return stop(done);

        std::optional<Tables> reduced;
        if (!missing.empty()) reduced = without_xdp(desired, missing);
        const Tables& target = reduced ? *reduced : desired;
        auto plan = std::apply([&](auto... member) { return std::tuple{diff_of(target, member)...}; }, kAdditionOrder);
        constexpr auto kAll = std::make_index_sequence<std::tuple_size_v<decltype(plan)>>{};
        done = write_all(plan, kAll);
        if (done) done = remove_all(plan, kAll);
        if (done) done = remove_devices(target);
        if (done) done = remove_stats(stats);
        if (done) done = put_config(desired.config);
        return done ? done : stop(done);
    }

    template <typename K, typename V>
    [[nodiscard]] TableDiff<K, V> diff_of(const Tables& target, Table<K, V> Tables::* member) const {
        return diff(target.*member, actual_.tables.*member);
    }

    template <typename Plan, std::size_t... Step>
    [[nodiscard]] Result<> write_all(const Plan& plan, std::index_sequence<Step...>) {
        Result<> done;
        (void)((done = write_rows(std::get<Step>(kAdditionOrder), std::get<Step>(plan).upserts), done.has_value()) &&
               ...);
        return done;
    }

    template <typename Plan, std::size_t... Step>
    [[nodiscard]] Result<> remove_all(const Plan& plan, std::index_sequence<Step...>) {
        constexpr std::size_t kLast = sizeof...(Step) - 1;
        Result<> done;
        (void)((done = remove_rows(std::get<kLast - Step>(kAdditionOrder), std::get<kLast - Step>(plan).removals),
                done.has_value()) &&
               ...);
        return done;
    }

    /// A floating IP that goes or moves is known to before anything else changes: with the first packet that misses its
    /// row a flow goes over to Linux, and takes along what is in here.
    [[nodiscard]] Result<> end_translations(const Tables& desired) {
        return erase_where(&Tables::translated, [&](const fl_translated_key& key, const fl_translated& value) {
            const auto wanted = desired.translated.find(key);
            return wanted == desired.translated.end() || !same_bytes(wanted->second, value);
        });
    }

    /// Rows that lead into tunnels rest on the address that their packets come from: while that is another's, none
    /// leave.
    [[nodiscard]] fl_config config_meanwhile(fl_config wanted) const {
        const IpAddress now = IpAddress::from_bytes(actual_.tables.config.vtep);
        if (now != IpAddress::from_bytes(wanted.vtep)) copy_bytes(wanted.vtep, IpAddress{});
        return wanted;
    }

    [[nodiscard]] Result<> put_config(fl_config wanted) {
        wanted.layout = FL_ABI_LAYOUT;
        wanted.lease_end = actual_.tables.config.lease_end;
        if (same_bytes(wanted, actual_.tables.config)) return {};
        if (auto done = store_.put_config(wanted); !done) return done;
        actual_.tables.config = wanted;
        ++report_.changes[std::string(kConfigMap)].written;
        return {};
    }

    [[nodiscard]] Result<> add_stats(const std::vector<fl_fip_stat_key>& wanted) {
        for (const auto& key : wanted) {
            if (actual_.stats.contains(key)) continue;
            auto done = store_.add_stat(key);
            if (done) {
                actual_.stats.insert(key);
                ++change(key).written;
            } else if (auto kept = keep_going(done, key, store_.max_stats()); !kept) {
                return kept;
            }
        }
        return {};
    }

    /// The kernel drops rows of vanished devices without a word, so what `actual` says about them is asked again.
    [[nodiscard]] Result<> add_devices(const Tables& desired, DeviceRows& missing) {
        for (const auto& key : devices_of(desired)) {
            if (actual_.devices.contains(key)) {
                auto there = store_.has_device(key);
                if (!there) return pass_on(there);
                if (*there) continue;
                actual_.devices.erase(key);
            }
            auto added = store_.add_device(key);
            if (added && *added) {
                actual_.devices.insert(key);
                ++change(key).written;
                continue;
            }
            missing.insert(key);
            if (added) continue;
            Result<> failed = pass_on(added);
            if (auto kept = keep_going(failed, key, store_.max_devices()); !kept) return kept;
        }
        return {};
    }

    /// Rows towards devices that are not in fl_devs go by tc instead.
    [[nodiscard]] static Tables without_xdp(const Tables& desired, const DeviceRows& missing) {
        Tables out = desired;
        for_each_out(out, [&missing](fl_out& row) {
            if (missing.contains(DeviceKey{row.ifindex})) row.flags &= ~static_cast<__u32>(FL_OUT_XDP);
        });
        return out;
    }

    template <typename K, typename V>
    [[nodiscard]] Result<> write_rows(Table<K, V> Tables::* member, const Table<K, V>& rows) {
        auto& known = actual_.tables.*member;
        if constexpr (PrefixKey<K>) return write_prefixes(known, rows);
        for (const auto& [key, value] : rows) {
            if (auto written = write_row(known, key, value); !written) return pass_on(written);
        }
        return {};
    }

    /// A trie's rows are ordered by their length: from the end, what takes a part out of a wider prefix comes before
    /// it. Removals go the other way. Where one finds no room, the wider ones that would match in its place go.
    template <typename K, typename V>
    [[nodiscard]] Result<> write_prefixes(Table<K, V>& known, const Table<K, V>& rows) {
        std::vector<K> left_out;
        for (const auto& [key, value] : std::views::reverse(rows)) {
            const auto covered = [&wide = key](const K& narrow) { return covers(wide, narrow); };
            if (std::ranges::any_of(left_out, covered)) {
                ++overflow_->rows;
                continue;
            }
            auto written = write_row(known, key, value);
            if (!written) return pass_on(written);
            if (*written) continue;
            left_out.push_back(key);
            std::vector<K> wider;
            for (const auto& [other, held] : known) {
                if (covers(other, key)) wider.push_back(other);
            }
            for (const K& other : wider) {
                if (auto gone = remove_row(known, other); !gone) return gone;
            }
        }
        return {};
    }

    /// False: there is no room for it.
    template <typename K, typename V>
    [[nodiscard]] Result<bool> write_row(Table<K, V>& known, const K& key, V value) {
        const bool replaces = known.contains(key);
        if (replaces) {
            if (auto done = carry_over(key, value); !done) return pass_on(done);
        }
        auto done = store_.put(key, value);
        if (!done && replaces && done.error().code == ExitCode::kTableFull) {
            // LPM tries before 6.13 refuse to replace a row when full. The old row must not stay: it is wrong now.
            if (auto gone = remove_row(known, key); !gone) return pass_on(gone);
            done = store_.put(key, value);
        }
        if (!done) {
            if (auto kept = keep_going(done, key, store_.template max_entries<V>(key)); !kept) return pass_on(kept);
            return false;
        }
        known.insert_or_assign(key, value);
        ++change(key).written;
        return true;
    }

    /// The programs' stamp survives a rewrite, else a used neighbour would look unused.
    template <typename K, typename V>
    [[nodiscard]] Result<> carry_over(const K& key, V& value) {
        std::uint32_t* stamp = last_use_of(value);
        if (stamp == nullptr) return {};
        auto current = store_.template get<V>(key);
        if (!current) return pass_on(current);
        if (*current) {
            *stamp = *last_use_of(**current);
        } else {
            inconsistent_ = true;
        }
        return {};
    }

    template <typename K, typename V>
    [[nodiscard]] Result<> remove_rows(Table<K, V> Tables::* member, const std::vector<K>& keys) {
        for (const auto& key : keys) {
            if (auto done = remove_row(actual_.tables.*member, key); !done) return done;
        }
        return {};
    }

    template <typename K, typename V>
    [[nodiscard]] Result<> remove_row(Table<K, V>& known, const K& key) {
        auto was_there = store_.template erase<V>(key);
        if (!was_there) return pass_on(was_there);
        if (!*was_there) inconsistent_ = true;
        known.erase(key);
        ++change(key).removed;
        removed_any_ = true;
        return {};
    }

    [[nodiscard]] Result<> remove_devices(const Tables& target) {
        const auto wanted = devices_of(target);
        for (auto row = actual_.devices.begin(); row != actual_.devices.end();) {
            if (wanted.contains(*row)) {
                ++row;
                continue;
            }
            auto done = store_.erase_device(*row);
            if (!done) return pass_on(done);
            ++change(*row).removed;
            removed_any_ = true;
            row = actual_.devices.erase(row);
        }
        return {};
    }

    [[nodiscard]] Result<> remove_stats(const std::vector<fl_fip_stat_key>& wanted) {
        for (auto row = actual_.stats.begin(); row != actual_.stats.end();) {
            if (std::binary_search(wanted.begin(), wanted.end(), *row, ByteLess<fl_fip_stat_key>{})) {
                ++row;
                continue;
            }
            auto was_there = store_.erase_stat(*row);
            if (!was_there) return pass_on(was_there);
            if (!*was_there) inconsistent_ = true;
            ++change(*row).removed;
            removed_any_ = true;
            row = actual_.stats.erase(row);
        }
        return {};
    }

    template <typename K, typename V, typename Matches>
    [[nodiscard]] Result<> erase_where(Table<K, V> Tables::* member, Matches matches) {
        std::vector<K> keys;
        for (const auto& [key, value] : actual_.tables.*member) {
            if (matches(key, value)) keys.push_back(key);
        }
        auto done = remove_rows(member, keys);
        return done ? done : stop(done);
    }

    template <typename K>
    [[nodiscard]] SyncReport::Change& change(const K& /*key*/) {
        return report_.changes[std::string(kMapName<K>)];
    }

    /// A full map costs only the rows that do not fit; any other failure ends the run.
    template <typename K>
    [[nodiscard]] Result<> keep_going(Result<>& failed, const K& key, std::uint32_t size) {
        if (failed.error().code != ExitCode::kTableFull) return std::move(failed);
        if (!overflow_) overflow_ = Overflow{std::string(kMapName<K>), size, describe(key), 0};
        ++overflow_->rows;
        return {};
    }

    [[nodiscard]] Result<> stop(Result<>& failed) {
        inconsistent_ = true;
        return std::move(failed);
    }

    Store& store_;
    MapContents& actual_;
    SyncReport report_;
    std::optional<Overflow> overflow_;
    bool removed_any_ = false;
    bool inconsistent_ = false;
};

}  // namespace fiplane
