// SPDX-License-Identifier: Apache-2.0
// Fuzzed frames as files: lines `program NAME`, `device IFINDEX`, `gso_size BYTES`, `mark NUMBER`, each for all frames
// behind it, and `frame HEX`; # starts a comment line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "fuzz/judge.hpp"

namespace fiplane::test {

[[nodiscard]] std::optional<fl_hook> program_of(std::string_view name);

/// Throws std::runtime_error with the file's name.
[[nodiscard]] std::vector<Input> read_frame_file(const std::filesystem::path& path);
void write_frame_file(const std::filesystem::path& path, const std::vector<Input>& inputs, const std::string& comment);

/// All files below a directory, in the order of their names.
[[nodiscard]] std::vector<std::filesystem::path> frame_files(const std::filesystem::path& directory);

}  // namespace fiplane::test
