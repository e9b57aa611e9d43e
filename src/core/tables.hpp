// SPDX-License-Identifier: Apache-2.0
// The contents of the BPF maps as values, and the difference between two of them.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "fiplane/abi.h"

namespace fiplane {

/// Orders ABI structs by their bytes: keys have no holes, so this is total and agrees with the kernel's equality.
template <typename T>
struct ByteLess {
    static_assert(std::has_unique_object_representations_v<T>, "ABI structs have no holes");
    bool operator()(const T& a, const T& b) const { return std::memcmp(&a, &b, sizeof(T)) < 0; }
};

template <typename T>
[[nodiscard]] bool same_bytes(const T& a, const T& b) {
    static_assert(std::has_unique_object_representations_v<T>, "ABI structs have no holes");
    return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <typename K, typename V>
using Table = std::map<K, V, ByteLess<K>>;

/// Equality as far as userspace decides: a program's own last-use stamps do not count.
template <typename V>
[[nodiscard]] bool same_entry(const V& a, const V& b) {
    return same_bytes(a, b);
}
template <>
[[nodiscard]] inline bool same_entry(const fl_next& a, const fl_next& b) {
    fl_next x = a;
    x.last_use = b.last_use;
    return same_bytes(x, b);
}
template <>
[[nodiscard]] inline bool same_entry(const fl_fip_in& a, const fl_fip_in& b) {
    fl_fip_in x = a;
    x.next.last_use = b.next.last_use;
    return same_bytes(x, b);
}
template <>
[[nodiscard]] inline bool same_entry(const fl_fdb& a, const fl_fdb& b) {
    fl_fdb x = a;
    x.last_use = b.last_use;
    return same_bytes(x, b);
}

/// Everything that sync writes. Made by compile() or read back from the kernel.
struct Tables {
    fl_config config{};
    Table<fl_source_key, fl_source> sources;
    Table<fl_tunnel_key, fl_tunnel> tunnels;
    Table<fl_fdb_key, fl_fdb> fdb;
    Table<fl_arp_key, fl_arp> arp;
    Table<fl_fip_key, fl_fip_in> fip_in;
    Table<fl_vm_key, fl_vm> vms;
    Table<fl_sender_key, fl_sender> senders;
    Table<fl_dest_key, fl_next> dests;
    Table<fl_route_key, fl_next> routes;
    Table<fl_crossing_key, fl_crossing> crossings;
    Table<fl_translated_key, fl_translated> translated;
};

/// What turns `actual` into `desired`, for one map.
template <typename K, typename V>
struct TableDiff {
    Table<K, V> upserts;
    std::vector<K> removals;
    [[nodiscard]] bool empty() const { return upserts.empty() && removals.empty(); }
};

template <typename K, typename V>
[[nodiscard]] TableDiff<K, V> diff(const Table<K, V>& desired, const Table<K, V>& actual) {
    TableDiff<K, V> out;
    for (const auto& [key, value] : desired) {
        const auto found = actual.find(key);
        if (found == actual.end() || !same_entry(value, found->second)) out.upserts.emplace(key, value);
    }
    for (const auto& [key, value] : actual) {
        if (!desired.contains(key)) out.removals.push_back(key);
    }
    return out;
}

}  // namespace fiplane
