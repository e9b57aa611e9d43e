// SPDX-License-Identifier: Apache-2.0
// Fuzzed frames as files, one each: lines `program NAME`, `device IFINDEX`, `gso_size BYTES`, `frame HEX`; # starts a
// comment line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/judge.hpp"

namespace fiplane::test {

[[nodiscard]] std::optional<fl_hook> program_of(std::string_view name);

/// Throws std::runtime_error with the file's name.
[[nodiscard]] Input read_frame_file(const std::filesystem::path& path);
void write_frame_file(const std::filesystem::path& path, const Input& input, const std::string& comment);

/// All files below a directory, in the order of their names.
[[nodiscard]] std::vector<std::filesystem::path> frame_files(const std::filesystem::path& directory);

}  // namespace fiplane::test
