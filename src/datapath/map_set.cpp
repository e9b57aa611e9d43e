// SPDX-License-Identifier: Apache-2.0
#include "datapath/map_set.hpp"

#include <fmt/format.h>
#include <net/if.h>

#include <algorithm>
#include <array>

namespace fiplane {

namespace {

std::string ip(const std::uint8_t (&wire)[4]) {
    return Ipv4::from_bytes(wire).str();
}

std::string mac(const std::uint8_t (&wire)[6]) {
    Mac out;
    std::copy(std::begin(wire), std::end(wire), out.bytes.begin());
    return out.str();
}

constexpr std::uint32_t counter_index(std::uint32_t hook, std::uint32_t reason) {
    return hook * FL_REASON_COUNT + reason;
}

}  // namespace

std::string describe(const fl_source_key& key) {
    return fmt::format("device {} VLAN {}", key.ifindex, key.vlan);
}
std::string describe(const fl_tunnel_key& key) {
    return fmt::format("{} {} from {}", key.type == FL_TUNNEL_GRE ? "key" : "VNI", key.id,
                       IpAddress::from_bytes(key.peer).str());
}
std::string describe(const fl_fdb_key& key) {
    return fmt::format("{} in segment {}", mac(key.mac), key.segment);
}
std::string describe(const fl_arp_key& key) {
    return fmt::format("{} in segment {}", ip(key.ip), key.segment);
}
std::string describe(const fl_fip_key& key) {
    return fmt::format("{} in segment {}", ip(key.fip), key.segment);
}
std::string describe(const fl_vm_key& key) {
    return fmt::format("{} on port {} to router {}", ip(key.fixed), key.port, mac(key.router_mac));
}
std::string describe(const fl_sender_key& key) {
    const auto length = key.prefixlen > FL_SENDER_KEY_BITS ? key.prefixlen - FL_SENDER_KEY_BITS : 0;
    return fmt::format("senders {}/{} to router {} in segment {}", ip(key.ip), length, mac(key.router_mac),
                       key.segment);
}
std::string describe(const fl_dest_key& key) {
    return fmt::format("{} in domain {:#x}", ip(key.ip), key.domain);
}
std::string describe(const fl_route_key& key) {
    constexpr std::uint32_t kDomainBits = 32;
    const auto length = key.prefixlen > kDomainBits ? key.prefixlen - kDomainBits : 0;
    return fmt::format("{}/{} in domain {:#x}", ip(key.ip), length, key.domain);
}
std::string describe(const fl_crossing_key& key) {
    return fmt::format("from device {:#x} to {:#x}", key.device, key.target);
}
std::string describe(const fl_translated_key& key) {
    return fmt::format("{} of router {:#x}", ip(key.fip), key.router);
}
std::string describe(const fl_fip_stat_key& key) {
    return ip(key.fip);
}
std::string describe(const DeviceKey& key) {
    return fmt::format("device {}", key.ifindex);
}

Result<MapSet> MapSet::open(const std::function<Result<UniqueFd>(std::string_view)>& take) {
    Result<> failed;
    const auto open_one = [&]<typename M>(std::string_view name, std::optional<M>& into) {
        if (!failed) return;
        auto fd = take(name);
        if (!fd) {
            failed = pass_on(fd);
            return;
        }
        if (!*fd) return;
        auto opened = M::open(std::move(*fd), std::string(name));
        if (opened) {
            into.emplace(std::move(*opened));
        } else {
            failed = pass_on(opened);
        }
    };
    const auto need = [&]<typename M>(std::string_view name, std::optional<M>& into) {
        open_one(name, into);
        if (failed && !into) failed = fail(ExitCode::kFailed, "no BPF object has this map", std::string(name));
    };
    std::optional<Config> config;
    std::optional<Counters> counters;
    std::optional<Stats> stats;
    Devices devices;
    need(kConfigMap, config);
    need(kCountersMap, counters);
    need(kMapName<fl_fip_stat_key>, stats);
    open_one(kMapName<DeviceKey>, devices);
    TableMaps tables;
    const auto open_table = [&]<typename K, typename V>(Maybe<K, V>& into) { open_one(kMapName<K>, into); };
    std::apply([&](auto&... map) { (open_table(map), ...); }, tables);
    if (!failed) return pass_on(failed);
    return MapSet(std::move(*config), std::move(*counters), std::move(*stats), std::move(devices), std::move(tables));
}

Result<MapContents> MapSet::read() const {
    auto tables = read_tables();
    if (!tables) return pass_on(tables);
    MapContents out;
    out.tables = std::move(*tables);
    auto stats = stats_.for_each([&out](const fl_fip_stat_key& key, auto /*values*/) { out.stats.insert(key); });
    if (!stats) return pass_on(stats);
    if (!devices_) return out;
    auto devices = devices_->read();
    if (!devices) return pass_on(devices);
    for (const auto& [key, value] : *devices)
        out.devices.insert(key);
    return out;
}

Result<Tables> MapSet::read_tables() const {
    Tables out;
    auto current = config();
    if (!current) return pass_on(current);
    out.config = *current;
    Result<> done = read_table(out.sources);
    if (done) done = read_table(out.tunnels);
    if (done) done = read_table(out.fdb);
    if (done) done = read_table(out.arp);
    if (done) done = read_table(out.fip_in);
    if (done) done = read_table(out.vms);
    if (done) done = read_table(out.senders);
    if (done) done = read_table(out.dests);
    if (done) done = read_table(out.routes);
    if (done) done = read_table(out.crossings);
    if (done) done = read_table(out.translated);
    if (!done) return pass_on(done);
    return out;
}

Result<fl_config> MapSet::config() const {
    auto value = config_.get(0);
    if (!value) return pass_on(value);
    return value->value_or(fl_config{});
}

Result<> MapSet::put_config(const fl_config& config) {
    return config_.put(0, config);
}

Result<> MapSet::add_stat(const fl_fip_stat_key& key) {
    auto added = stats_.add_zero(key);
    if (!added) return pass_on(added);
    return {};
}

Result<bool> MapSet::add_device(const DeviceKey& key) {
    if (!devices_) return false;
    auto done = devices_->put(key, DeviceValue{key.ifindex});
    if (done) return true;
    // The kernel says EINVAL for a device that is gone as for a bad key; only the first can happen here.
    std::array<char, IF_NAMESIZE> name{};
    if (done.error().code != ExitCode::kTableFull && if_indextoname(key.ifindex, name.data()) == nullptr) return false;
    return pass_on(done);
}

Result<bool> MapSet::erase_device(const DeviceKey& key) {
    return devices_ ? devices_->erase(key) : Result<bool>{false};
}

Result<bool> MapSet::has_device(const DeviceKey& key) const {
    if (!devices_) return false;
    auto row = devices_->get(key);
    if (!row) return pass_on(row);
    return row->has_value();
}

Result<> MapSet::name_counters() {
    for (std::uint32_t hook = 0; hook < FL_HOOK_COUNT; ++hook) {
        for (std::uint32_t reason = 0; reason < FL_REASON_COUNT; ++reason) {
            auto row = counters_.get(counter_index(hook, reason));
            if (!row) return pass_on(row);
            if (!*row) continue;
            bool named = true;
            for (auto& value : **row) {
                named =
                    named && value.hook == static_cast<fl_hook>(hook) && value.reason == static_cast<fl_reason>(reason);
                value.hook = static_cast<fl_hook>(hook);
                value.reason = static_cast<fl_reason>(reason);
            }
            if (named) continue;
            auto done = counters_.put(counter_index(hook, reason), **row);
            if (!done) return pass_on(done);
        }
    }
    return {};
}

Result<std::vector<CounterValue>> MapSet::read_counters() const {
    std::vector<CounterValue> out;
    auto done = counters_.for_each([&out](const std::uint32_t& index, std::span<const fl_counter> values) {
        CounterValue sum;
        sum.hook = static_cast<fl_hook>(index / FL_REASON_COUNT);
        sum.reason = static_cast<fl_reason>(index % FL_REASON_COUNT);
        for (const auto& value : values) {
            sum.packets += value.packets;
            sum.bytes += value.bytes;
        }
        if (sum.packets != 0 || sum.bytes != 0) out.push_back(sum);
    });
    if (!done) return pass_on(done);
    return out;
}

Result<std::map<Ipv4, FipCounters>> MapSet::read_fip_counters() const {
    std::map<Ipv4, FipCounters> out;
    auto done = stats_.for_each([&out](const fl_fip_stat_key& key, std::span<const fl_fip_stat> values) {
        FipCounters& sum = out[Ipv4::from_bytes(key.fip)];
        for (const auto& value : values) {
            sum.in_packets += value.in_packets;
            sum.in_bytes += value.in_bytes;
            sum.out_packets += value.out_packets;
            sum.out_bytes += value.out_bytes;
        }
    });
    if (!done) return pass_on(done);
    return out;
}

}  // namespace fiplane
