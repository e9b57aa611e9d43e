// SPDX-License-Identifier: Apache-2.0
#include "fuzz/frame_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "core/reasons.hpp"

namespace fiplane::test {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
    throw std::runtime_error(path.string() + ": " + what);
}

Bytes from_hex(const std::filesystem::path& path, const std::string& text) {
    Bytes out(text.size() / 2);
    for (std::size_t i = 0; i < out.size(); ++i) {
        const char* first = text.data() + 2 * i;
        if (std::from_chars(first, first + 2, out[i], 16).ptr != first + 2) fail(path, "not a hex number");
    }
    if (text.size() % 2 != 0) fail(path, "half a byte at the end of the frame");
    return out;
}

}  // namespace

std::optional<fl_hook> program_of(std::string_view name) {
    for (int hook = 0; hook < FL_HOOK_COUNT; ++hook) {
        if (hook_name(static_cast<fl_hook>(hook)) == name) return static_cast<fl_hook>(hook);
    }
    return std::nullopt;
}

std::vector<Input> read_frame_file(const std::filesystem::path& path) {
    std::ifstream file(path);
    if (!file) fail(path, "cannot be read");
    std::vector<Input> inputs;
    Input input;
    bool has_program = false;
    for (std::string line; std::getline(file, line);) {
        if (line.empty() || line.starts_with('#')) continue;
        std::istringstream words(line);
        std::string key;
        std::string value;
        if (!(words >> key >> value)) fail(path, "a line without a value: " + line);
        if (key == "program") {
            const auto hook = program_of(value);
            if (!hook) fail(path, "no program " + value);
            input.hook = *hook;
            has_program = true;
        } else if (key == "device") {
            input.device = static_cast<std::uint32_t>(std::stoul(value));
        } else if (key == "gso_size") {
            input.gso_size = static_cast<std::uint32_t>(std::stoul(value));
        } else if (key == "mark") {
            input.mark = static_cast<std::uint32_t>(std::stoul(value));
        } else if (key == "frame") {
            input.frame = from_hex(path, value);
            inputs.push_back(input);
        } else {
            fail(path, "unknown key " + key);
        }
    }
    if (!has_program || inputs.empty()) fail(path, "program or frame is missing");
    return inputs;
}

void write_frame_file(const std::filesystem::path& path, const std::vector<Input>& inputs, const std::string& comment) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path);
    file << fmt::format("# {}\n", comment);
    for (const Input& input : inputs) {
        file << fmt::format("program {}\ndevice {}\ngso_size {}\nmark {}\nframe {:02x}\n", hook_name(input.hook),
                            input.device, input.gso_size, input.mark, fmt::join(input.frame, ""));
    }
    if (!file.flush()) fail(path, "cannot be written");
}

std::vector<std::filesystem::path> frame_files(const std::filesystem::path& directory) {
    std::vector<std::filesystem::path> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        if (entry.path().extension() == ".frame") out.push_back(entry.path());
    }
    std::ranges::sort(out);
    return out;
}

}  // namespace fiplane::test
