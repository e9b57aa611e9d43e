// SPDX-License-Identifier: Apache-2.0
// What the kernel says about loaded programs.
#pragma once

#include <cstdint>
#include <string>

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

struct ProgramInfo {
    std::uint32_t id = 0;
    std::string name;  ///< at most 15 characters
};

[[nodiscard]] Result<ProgramInfo> program_info(int program_fd);

/// The name of a program that somebody attached; empty if it is gone or the caller may not look (CAP_SYS_ADMIN).
[[nodiscard]] std::string program_name(std::uint32_t id);

/// Two programs with equal fingerprints do the same: the kernel's tag covers the instructions but not the maps that
/// they refer to, so the ids of the shared maps and the contents of the read-only ones are part of it.
[[nodiscard]] Result<std::string> program_fingerprint(int program_fd);

/// The program with this id (needs CAP_SYS_ADMIN).
[[nodiscard]] Result<UniqueFd> open_program(std::uint32_t id);

}  // namespace fiplane
