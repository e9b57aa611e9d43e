// SPDX-License-Identifier: Apache-2.0
#include "datapath/program_info.hpp"

#include <bpf/bpf.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "datapath/bpf_map.hpp"

namespace fiplane {

namespace {

/// Constants of the program's own object: each load makes a new map with, usually, the same contents.
Result<std::string> read_only_data(int map_fd, const bpf_map_info& info) {
    std::vector<std::uint8_t> value(info.value_size);
    const std::uint32_t first = 0;
    if (const int error = bpf_map_lookup_elem(map_fd, &first, value.data()); error != 0) {
        return fail_errno(error, "cannot read a program's constants");
    }
    return fmt::format("{:02x}", fmt::join(value, ""));
}

Result<std::string> map_fingerprint(std::uint32_t id) {
    const UniqueFd fd(bpf_map_get_fd_by_id(id));
    if (!fd) return fail_errno(errno, fmt::format("cannot open BPF map {}", id));
    bpf_map_info info{};
    std::uint32_t length = sizeof(info);
    if (const int error = bpf_map_get_info_by_fd(fd.get(), &info, &length); error != 0) {
        return fail_errno(error, fmt::format("cannot inspect BPF map {}", id));
    }
    if (info.type == BPF_MAP_TYPE_ARRAY && (info.map_flags & BPF_F_RDONLY_PROG) != 0) {
        return read_only_data(fd.get(), info);
    }
    return fmt::format("map {}", id);
}

}  // namespace

Result<ProgramInfo> program_info(int program_fd) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof(info);
    if (const int error = bpf_prog_get_info_by_fd(program_fd, &info, &length); error != 0) {
        return fail_errno(error, "cannot inspect a BPF program");
    }
    return ProgramInfo{info.id, info.name};
}

std::string program_name(std::uint32_t id) {
    const auto fd = open_program(id);
    if (!fd) return {};
    const auto info = program_info(fd->get());
    return info ? info->name : std::string();
}

Result<std::string> program_fingerprint(int program_fd) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof(info);
    if (const int error = bpf_prog_get_info_by_fd(program_fd, &info, &length); error != 0) {
        return fail_errno(error, "cannot inspect a BPF program");
    }
    std::vector<std::uint32_t> map_ids(info.nr_map_ids);
    info = {};
    info.nr_map_ids = static_cast<std::uint32_t>(map_ids.size());
    info.map_ids = reinterpret_cast<std::uintptr_t>(map_ids.data());
    length = sizeof(info);
    if (const int error = bpf_prog_get_info_by_fd(program_fd, &info, &length); error != 0) {
        return fail_errno(error, "cannot list the maps of a BPF program");
    }
    std::vector<std::string> maps;
    for (const std::uint32_t id : map_ids) {
        auto part = map_fingerprint(id);
        if (!part) return pass_on(part);
        maps.push_back(std::move(*part));
    }
    std::sort(maps.begin(), maps.end());
    return fmt::format("{} {:02x} {}", info.name, fmt::join(info.tag, ""), fmt::join(maps, " "));
}

Result<UniqueFd> open_program(std::uint32_t id) {
    UniqueFd fd(bpf_prog_get_fd_by_id(id));
    if (!fd) return fail_errno(errno, fmt::format("cannot open BPF program {}", id));
    return fd;
}

}  // namespace fiplane
