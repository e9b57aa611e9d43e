// SPDX-License-Identifier: Apache-2.0
// Loads BPF objects on the running kernel, one after the other and unpinned, and prints for each program what the
// verifier says of it: a JSON array of {object, program, error, instructions, processed, states}. Nothing is attached.
//
//   verifier_sizes OBJECT...
//
// Exit code: 0 all loaded, 1 at least one did not (its "error" is the end of the verifier's log), 2 usage.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstring>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t kLogOnlyStatistics = 4;  // BPF_LOG_STATS, kernel/bpf/verifier.c
constexpr std::size_t kLogSize = std::size_t{1} << 20;
constexpr std::size_t kErrorSize = 4000;

using ObjectOwner = std::unique_ptr<bpf_object, decltype(&bpf_object__close)>;

/// "processed 1234 insns (limit 1000000) max_states_per_insn 5 total_states 67 peak_states 67 mark_read 12"
void read_statistics(const std::string& log, nlohmann::json& row) {
    static const std::regex pattern(R"(processed (\d+) insns .* total_states (\d+))");
    std::smatch found;
    if (!std::regex_search(log, found, pattern)) {
        row["error"] = "no statistics in the verifier's log";
        return;
    }
    row["processed"] = std::stoul(found[1]);
    row["states"] = std::stoul(found[2]);
}

/// Length after the kernel's rewriting, in instructions.
std::uint32_t translated_length(const bpf_program* program) {
    bpf_prog_info info{};
    std::uint32_t length = sizeof(info);
    if (bpf_prog_get_info_by_fd(bpf_program__fd(program), &info, &length) != 0) return 0;
    return info.xlated_prog_len / static_cast<std::uint32_t>(sizeof(bpf_insn));
}

std::string tail(const std::string& text) {
    return text.size() <= kErrorSize ? text : text.substr(text.size() - kErrorSize);
}

nlohmann::json load(const std::string& path) {
    nlohmann::json row{{"object", path}};
    const ObjectOwner object(bpf_object__open_file(path.c_str(), nullptr), bpf_object__close);
    if (object == nullptr) {
        row["error"] = std::string("cannot open: ") + std::strerror(errno);
        return row;
    }
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object.get()) bpf_map__set_pin_path(map, nullptr);
    bpf_program* program = bpf_object__next_program(object.get(), nullptr);
    if (program == nullptr || bpf_object__next_program(object.get(), program) != nullptr) {
        row["error"] = "does not hold exactly one program";
        return row;
    }
    row["program"] = bpf_program__name(program);
    std::string log(kLogSize, '\0');
    bpf_program__set_log_level(program, kLogOnlyStatistics);
    bpf_program__set_log_buf(program, log.data(), log.size());
    const int error = bpf_object__load(object.get());
    log.resize(std::strlen(log.c_str()));
    if (error != 0) {
        row["error"] = std::string(std::strerror(-error)) + "\n" + tail(log);
        return row;
    }
    row["instructions"] = translated_length(program);
    read_statistics(log, row);
    return row;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) {
        std::cerr << "usage: verifier_sizes OBJECT...\n";
        return 2;
    }
    nlohmann::json rows = nlohmann::json::array();
    bool failed = false;
    for (int i = 1; i < count; ++i) {
        rows.push_back(load(arguments[i]));
        failed = failed || rows.back().contains("error");
    }
    std::cout << rows.dump(2) << '\n';
    return failed ? 1 : 0;
}
