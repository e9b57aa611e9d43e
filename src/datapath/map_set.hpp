// SPDX-License-Identifier: Apache-2.0
// All maps of the datapath, opened and typed, and the names of their rows for messages.
#pragma once

#include <linux/types.h>

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/result.hpp"
#include "core/tables.hpp"
#include "core/types.hpp"
#include "datapath/bpf_map.hpp"
#include "datapath/datapath.hpp"
#include "fiplane/abi.h"

namespace fiplane {

/// fl_devs: devices that XDP may redirect to. The kernel removes a row by itself when its device goes.
struct DeviceKey {
    __u32 ifindex = 0;
};

struct DeviceValue {
    __u32 ifindex = 0;
};

/// The map that rows with this key type live in: each map has a key type of its own.
template <typename K>
inline constexpr std::string_view kMapName = {};
template <>
inline constexpr std::string_view kMapName<fl_source_key> = "fl_sources";
template <>
inline constexpr std::string_view kMapName<fl_tunnel_key> = "fl_tunnels";
template <>
inline constexpr std::string_view kMapName<fl_fdb_key> = "fl_fdb";
template <>
inline constexpr std::string_view kMapName<fl_arp_key> = "fl_arp";
template <>
inline constexpr std::string_view kMapName<fl_fip_key> = "fl_fip_in";
template <>
inline constexpr std::string_view kMapName<fl_vm_key> = "fl_vms";
template <>
inline constexpr std::string_view kMapName<fl_sender_key> = "fl_senders";
template <>
inline constexpr std::string_view kMapName<fl_dest_key> = "fl_dests";
template <>
inline constexpr std::string_view kMapName<fl_route_key> = "fl_routes";
template <>
inline constexpr std::string_view kMapName<fl_crossing_key> = "fl_crossings";
template <>
inline constexpr std::string_view kMapName<fl_translated_key> = "fl_translated";
template <>
inline constexpr std::string_view kMapName<fl_flow_key> = "fl_flows";
template <>
inline constexpr std::string_view kMapName<fl_fip_stat_key> = "fl_fip_stats";
template <>
inline constexpr std::string_view kMapName<DeviceKey> = "fl_devs";
inline constexpr std::string_view kConfigMap = "fl_config";
inline constexpr std::string_view kCountersMap = "fl_counters";

/// Every map that the programs and this process share.
inline constexpr std::array kSharedMaps = {
    kConfigMap,
    kMapName<fl_source_key>,
    kMapName<fl_tunnel_key>,
    kMapName<fl_fdb_key>,
    kMapName<fl_arp_key>,
    kMapName<fl_fip_key>,
    kMapName<fl_vm_key>,
    kMapName<fl_sender_key>,
    kMapName<fl_dest_key>,
    kMapName<fl_route_key>,
    kMapName<fl_crossing_key>,
    kMapName<fl_translated_key>,
    kMapName<fl_flow_key>,
    kMapName<fl_fip_stat_key>,
    kMapName<DeviceKey>,
    kCountersMap,
};

/// "172.24.5.11 in segment 7": a row as an operator knows it.
[[nodiscard]] std::string describe(const fl_source_key& key);
[[nodiscard]] std::string describe(const fl_tunnel_key& key);
[[nodiscard]] std::string describe(const fl_fdb_key& key);
[[nodiscard]] std::string describe(const fl_arp_key& key);
[[nodiscard]] std::string describe(const fl_fip_key& key);
[[nodiscard]] std::string describe(const fl_vm_key& key);
[[nodiscard]] std::string describe(const fl_sender_key& key);
[[nodiscard]] std::string describe(const fl_dest_key& key);
[[nodiscard]] std::string describe(const fl_route_key& key);
[[nodiscard]] std::string describe(const fl_crossing_key& key);
[[nodiscard]] std::string describe(const fl_translated_key& key);
[[nodiscard]] std::string describe(const fl_fip_stat_key& key);
[[nodiscard]] std::string describe(const DeviceKey& key);

using StatRows = std::set<fl_fip_stat_key, ByteLess<fl_fip_stat_key>>;
using DeviceRows = std::set<DeviceKey, ByteLess<DeviceKey>>;

/// What the kernel's maps hold, as far as sync decides about it.
struct MapContents {
    Tables tables;
    StatRows stats;
    DeviceRows devices;
};

/// The store that TableSync writes to, over the kernel's maps. Some of them no loaded program may use: they read as
/// empty, and a row for them is an error.
class MapSet {
  public:
    /// `take(name)` gives a file descriptor of the named map, which the set owns from then on; an empty one if no
    /// program uses it. kFailed if it is one that all need.
    [[nodiscard]] static Result<MapSet> open(const std::function<Result<UniqueFd>(std::string_view)>& take);

    /// All maps that sync keeps, read back.
    [[nodiscard]] Result<MapContents> read() const;
    [[nodiscard]] Result<Tables> read_tables() const;

    [[nodiscard]] Result<fl_config> config() const;
    [[nodiscard]] Result<> put_config(const fl_config& config);

    template <typename K, typename V>
    [[nodiscard]] Result<> put(const K& key, const V& value) {
        auto& map = table<K, V>();
        if (!map) return fail(ExitCode::kFailed, "no loaded BPF program uses this map", std::string(kMapName<K>));
        return map->put(key, value);
    }
    template <typename V, typename K>
    [[nodiscard]] Result<std::optional<V>> get(const K& key) const {
        const auto& map = table<K, V>();
        return map ? map->get(key) : Result<std::optional<V>>{std::nullopt};
    }
    template <typename V, typename K>
    [[nodiscard]] Result<bool> erase(const K& key) {
        auto& map = table<K, V>();
        return map ? map->erase(key) : Result<bool>{false};
    }
    template <typename V, typename K>
    [[nodiscard]] std::uint32_t max_entries(const K& /*key*/) const {
        const auto& map = table<K, V>();
        return map ? map->max_entries() : 0;
    }

    [[nodiscard]] Result<> add_stat(const fl_fip_stat_key& key);
    [[nodiscard]] Result<bool> erase_stat(const fl_fip_stat_key& key) { return stats_.erase(key); }
    [[nodiscard]] std::uint32_t max_stats() const { return stats_.max_entries(); }

    /// False: there is no such device (any more).
    [[nodiscard]] Result<bool> add_device(const DeviceKey& key);
    [[nodiscard]] Result<bool> erase_device(const DeviceKey& key);
    [[nodiscard]] Result<bool> has_device(const DeviceKey& key) const;
    [[nodiscard]] std::uint32_t max_devices() const { return devices_ ? devices_->max_entries() : 0; }

    /// Writes hook and reason into every counter row that lacks them, and changes no count.
    [[nodiscard]] Result<> name_counters();
    [[nodiscard]] Result<std::vector<CounterValue>> read_counters() const;
    [[nodiscard]] Result<std::map<Ipv4, FipCounters>> read_fip_counters() const;

  private:
    template <typename K, typename V>
    using Maybe = std::optional<Map<K, V>>;
    using TableMaps =
        std::tuple<Maybe<fl_source_key, fl_source>, Maybe<fl_tunnel_key, fl_tunnel>, Maybe<fl_fdb_key, fl_fdb>,
                   Maybe<fl_arp_key, fl_arp>, Maybe<fl_fip_key, fl_fip_in>, Maybe<fl_vm_key, fl_vm>,
                   Maybe<fl_sender_key, fl_sender>, Maybe<fl_dest_key, fl_next>, Maybe<fl_route_key, fl_next>,
                   Maybe<fl_crossing_key, fl_crossing>, Maybe<fl_translated_key, fl_translated>>;
    using Config = Map<__u32, fl_config>;
    using Counters = PerCpuMap<__u32, fl_counter>;
    using Stats = PerCpuMap<fl_fip_stat_key, fl_fip_stat>;
    using Devices = Maybe<DeviceKey, DeviceValue>;

    MapSet(Config config, Counters counters, Stats stats, Devices devices, TableMaps tables)
        : config_(std::move(config)),
          counters_(std::move(counters)),
          stats_(std::move(stats)),
          devices_(std::move(devices)),
          tables_(std::move(tables)) {}

    template <typename K, typename V>
    [[nodiscard]] Maybe<K, V>& table() {
        return std::get<Maybe<K, V>>(tables_);
    }
    template <typename K, typename V>
    [[nodiscard]] const Maybe<K, V>& table() const {
        return std::get<Maybe<K, V>>(tables_);
    }
    template <typename K, typename V>
    [[nodiscard]] Result<> read_table(Table<K, V>& into) const {
        const auto& map = table<K, V>();
        if (!map) return {};
        auto rows = map->read();
        if (!rows) return pass_on(rows);
        into = std::move(*rows);
        return {};
    }

    Config config_;
    Counters counters_;
    Stats stats_;
    Devices devices_;
    TableMaps tables_;
};

}  // namespace fiplane
