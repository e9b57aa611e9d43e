// SPDX-License-Identifier: Apache-2.0
#include "datapath/bpf_map.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace fiplane {

namespace {

/// The kernel's own "operation not supported", which libbpf hands through and <cerrno> does not have.
constexpr int kKernelNotSupported = 524;
/// Entries per batch. A hash map returns whole buckets, so this must hold the fullest bucket; it grows on ENOSPC.
constexpr std::uint32_t kFirstBatch = 1024;
constexpr std::uint32_t kBatchLimit = 1U << 20;

bool means_full(int error) {
    return error == E2BIG || error == ENOSPC || error == ENOMEM;
}

std::unexpected<Error> map_error(int error, const char* operation, const std::string& name) {
    if (means_full(error)) {
        return fail(ExitCode::kTableFull, fmt::format("cannot {} {}: {}", operation, name, std::strerror(error)));
    }
    return fail_errno(error, fmt::format("cannot {} BPF map {}", operation, name));
}

}  // namespace

Result<std::size_t> possible_cpus() {
    const int count = libbpf_num_possible_cpus();
    if (count <= 0) return fail_errno(count, "cannot read /sys/devices/system/cpu/possible");
    return static_cast<std::size_t>(count);
}

Result<MapHandle> MapHandle::open(UniqueFd fd, std::string name, std::uint32_t key_size, std::uint32_t value_size,
                                  std::size_t stride) {
    bpf_map_info info{};
    std::uint32_t length = sizeof(info);
    if (const int error = bpf_map_get_info_by_fd(fd.get(), &info, &length); error != 0) {
        return fail_errno(error, fmt::format("cannot inspect BPF map {}", name));
    }
    if (info.key_size != key_size || info.value_size != value_size) {
        return fail(ExitCode::kFailed,
                    fmt::format("BPF map {} has keys of {} and values of {} bytes, this version needs {} and {}", name,
                                info.key_size, info.value_size, key_size, value_size));
    }
    return MapHandle(std::move(fd), std::move(name), key_size, stride, info.max_entries);
}

Result<bool> MapHandle::put(const void* key, const void* value, std::uint64_t flags) {
    const int error = -bpf_map_update_elem(fd_.get(), key, value, flags);
    if (error == 0) return true;
    if (error == EEXIST && flags == BPF_NOEXIST) return false;
    return map_error(error, "write", name_);
}

Result<bool> MapHandle::erase(const void* key) {
    const int error = -bpf_map_delete_elem(fd_.get(), key);
    if (error == 0) return true;
    if (error == ENOENT) return false;
    return map_error(error, "remove from", name_);
}

Result<bool> MapHandle::get(const void* key, void* value) const {
    const int error = -bpf_map_lookup_elem(fd_.get(), key, value);
    if (error == 0) return true;
    if (error == ENOENT) return false;
    return map_error(error, "read", name_);
}

Result<> MapHandle::for_each(const Visitor& visit) const {
    const auto done = for_each_batch(visit);
    if (!done) return std::unexpected(done.error());
    return *done ? Result<>{} : for_each_key(visit);
}

/// False: the map type has no batch reads, and nothing was visited.
Result<bool> MapHandle::for_each_batch(const Visitor& visit) const {
    std::uint32_t room = std::min(kFirstBatch, std::max(max_entries_, 1U));
    std::vector<std::byte> keys(std::size_t{room} * key_size_);
    std::vector<std::byte> values(room * stride_);
    // The position between batches: a bucket number for hash maps, a key for others.
    std::vector<std::byte> position(std::max<std::size_t>(key_size_, sizeof(std::uint64_t)));
    bool started = false;
    for (;;) {
        std::vector<std::byte> next(position.size());
        std::uint32_t count = room;
        const int error = -bpf_map_lookup_batch(fd_.get(), started ? position.data() : nullptr, next.data(),
                                                keys.data(), values.data(), &count, nullptr);
        if (error == ENOSPC && room < kBatchLimit) {
            room *= 2;
            keys.resize(std::size_t{room} * key_size_);
            values.resize(room * stride_);
            continue;
        }
        if (!started && (error == kKernelNotSupported || error == EOPNOTSUPP || error == EINVAL)) return false;
        if (error != 0 && error != ENOENT) return map_error(error, "read", name_);
        for (std::uint32_t i = 0; i < count; ++i) {
            visit(keys.data() + std::size_t{i} * key_size_, values.data() + i * stride_);
        }
        if (error == ENOENT) return true;
        position.swap(next);
        started = true;
    }
}

Result<> MapHandle::for_each_key(const Visitor& visit) const {
    std::vector<std::byte> key(key_size_);
    std::vector<std::byte> next(key_size_);
    std::vector<std::byte> value(stride_);
    int error = -bpf_map_get_next_key(fd_.get(), nullptr, next.data());
    while (error == 0) {
        key.swap(next);
        const auto found = get(key.data(), value.data());
        if (!found) return std::unexpected(found.error());
        if (*found) visit(key.data(), value.data());
        error = -bpf_map_get_next_key(fd_.get(), key.data(), next.data());
    }
    if (error != ENOENT) return map_error(error, "read", name_);
    return {};
}

}  // namespace fiplane
