// SPDX-License-Identifier: Apache-2.0
// Typed handles on BPF maps: key and value sizes are checked against the kernel when a handle is made, and every later
// call passes values of exactly those types.
//
// One thread at a time. Errors: a full map (E2BIG, ENOSPC, ENOMEM) is ExitCode::kTableFull; everything else follows
// errno. Absence is a value, never an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "core/result.hpp"
#include "core/tables.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

/// CPUs that can ever be online: the kernel reads and writes one per-CPU value for each of them.
[[nodiscard]] Result<std::size_t> possible_cpus();

/// A map without its types: what Map and PerCpuMap share. `stride` is the size of what the kernel copies per entry.
class MapHandle {
  public:
    using Visitor = std::function<void(const std::byte* key, const std::byte* value)>;

    /// Takes `fd`. kFailed if the sizes differ from what the map has.
    [[nodiscard]] static Result<MapHandle> open(UniqueFd fd, std::string name, std::uint32_t key_size,
                                                std::uint32_t value_size, std::size_t stride);

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] std::uint32_t max_entries() const { return max_entries_; }
    [[nodiscard]] int fd() const { return fd_.get(); }

    /// `flags`: BPF_ANY, BPF_NOEXIST or BPF_EXIST. False: BPF_NOEXIST, and the key is there.
    [[nodiscard]] Result<bool> put(const void* key, const void* value, std::uint64_t flags);
    /// False: there was no such key.
    [[nodiscard]] Result<bool> erase(const void* key);
    /// False: no such key; `value` is then unchanged.
    [[nodiscard]] Result<bool> get(const void* key, void* value) const;
    /// Every entry, in the kernel's order, by batches where the map type has them.
    [[nodiscard]] Result<> for_each(const Visitor& visit) const;

  private:
    MapHandle(UniqueFd fd, std::string name, std::uint32_t key_size, std::size_t stride, std::uint32_t max_entries)
        : fd_(std::move(fd)), name_(std::move(name)), key_size_(key_size), stride_(stride), max_entries_(max_entries) {}

    [[nodiscard]] Result<bool> for_each_batch(const Visitor& visit) const;
    [[nodiscard]] Result<> for_each_key(const Visitor& visit) const;

    UniqueFd fd_;
    std::string name_;
    std::uint32_t key_size_ = 0;
    std::size_t stride_ = 0;
    std::uint32_t max_entries_ = 0;
};

template <typename K, typename V>
class Map {
    static_assert(std::is_trivially_copyable_v<K> && std::is_trivially_copyable_v<V>);

  public:
    [[nodiscard]] static Result<Map> open(UniqueFd fd, std::string name) {
        auto handle = MapHandle::open(std::move(fd), std::move(name), sizeof(K), sizeof(V), sizeof(V));
        if (!handle) return pass_on(handle);
        return Map(std::move(*handle));
    }

    [[nodiscard]] const std::string& name() const { return handle_.name(); }
    [[nodiscard]] std::uint32_t max_entries() const { return handle_.max_entries(); }

    /// Makes or replaces an entry; readers see the old or the new value, except in arrays, where they may see a mix.
    [[nodiscard]] Result<> put(const K& key, const V& value) {
        auto done = handle_.put(&key, &value, 0);
        if (!done) return pass_on(done);
        return {};
    }
    [[nodiscard]] Result<bool> erase(const K& key) { return handle_.erase(&key); }
    [[nodiscard]] Result<std::optional<V>> get(const K& key) const {
        V value{};
        const auto found = handle_.get(&key, &value);
        if (!found) return std::unexpected(found.error());
        return *found ? std::optional<V>(value) : std::nullopt;
    }
    [[nodiscard]] Result<Table<K, V>> read() const {
        Table<K, V> out;
        auto done = for_each([&out](const K& key, const V& value) { out.insert_or_assign(key, value); });
        if (!done) return pass_on(done);
        return out;
    }
    /// Calls visit(key, value) for each row; for one that moves meanwhile perhaps twice.
    template <typename Visit>
    [[nodiscard]] Result<> for_each(Visit visit) const {
        return handle_.for_each([&visit](const std::byte* raw_key, const std::byte* raw_value) {
            K key;
            V value;
            std::memcpy(&key, raw_key, sizeof(K));
            std::memcpy(&value, raw_value, sizeof(V));
            visit(key, value);
        });
    }

  private:
    explicit Map(MapHandle handle) : handle_(std::move(handle)) {}
    MapHandle handle_;
};

/// A per-CPU map. The kernel pads each CPU's value to 8 bytes, so V must be a multiple of that.
template <typename K, typename V>
class PerCpuMap {
    static_assert(std::is_trivially_copyable_v<K> && std::is_trivially_copyable_v<V>);
    static_assert(sizeof(V) % 8 == 0, "the kernel copies per-CPU values in units of 8 bytes");

  public:
    using PerCpu = std::vector<V>;  ///< one value per possible CPU

    [[nodiscard]] static Result<PerCpuMap> open(UniqueFd fd, std::string name) {
        const auto cpus = possible_cpus();
        if (!cpus) return std::unexpected(cpus.error());
        auto handle = MapHandle::open(std::move(fd), std::move(name), sizeof(K), sizeof(V), sizeof(V) * *cpus);
        if (!handle) return pass_on(handle);
        return PerCpuMap(std::move(*handle), *cpus);
    }

    [[nodiscard]] const std::string& name() const { return handle_.name(); }
    [[nodiscard]] std::uint32_t max_entries() const { return handle_.max_entries(); }

    /// Makes an entry of zeros on all CPUs; one that exists keeps its values. True: it was made.
    [[nodiscard]] Result<bool> add_zero(const K& key) {
        const PerCpu zeros(cpus_);
        return handle_.put(&key, zeros.data(), kNoExist);
    }
    /// `values` has one element per possible CPU.
    [[nodiscard]] Result<> put(const K& key, const PerCpu& values) {
        if (values.size() != cpus_) return fail(ExitCode::kFailed, "per-CPU value of wrong length", name());
        auto done = handle_.put(&key, values.data(), 0);
        if (!done) return pass_on(done);
        return {};
    }
    [[nodiscard]] Result<bool> erase(const K& key) { return handle_.erase(&key); }
    [[nodiscard]] Result<std::optional<PerCpu>> get(const K& key) const {
        PerCpu values(cpus_);
        const auto found = handle_.get(&key, values.data());
        if (!found) return std::unexpected(found.error());
        return *found ? std::optional<PerCpu>(std::move(values)) : std::nullopt;
    }
    /// Calls visit(key, span of one value per CPU) for every entry.
    template <typename Visit>
    [[nodiscard]] Result<> for_each(Visit visit) const {
        PerCpu values(cpus_);
        return handle_.for_each([&](const std::byte* raw_key, const std::byte* raw_values) {
            K key;
            std::memcpy(&key, raw_key, sizeof(K));
            std::memcpy(values.data(), raw_values, sizeof(V) * cpus_);
            visit(key, std::span<const V>(values));
        });
    }

  private:
    static constexpr std::uint64_t kNoExist = 1;  // BPF_NOEXIST
    PerCpuMap(MapHandle handle, std::size_t cpus) : handle_(std::move(handle)), cpus_(cpus) {}
    MapHandle handle_;
    std::size_t cpus_ = 0;
};

}  // namespace fiplane
