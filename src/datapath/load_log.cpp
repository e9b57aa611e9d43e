// SPDX-License-Identifier: Apache-2.0
#include "datapath/load_log.hpp"

#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace fiplane {

namespace {

/// Pages are touched only where the kernel writes, so a generous buffer costs nothing on success.
constexpr std::size_t kLogBytes = std::size_t{4} << 20;
constexpr std::size_t kShownLines = 12;

thread_local LibbpfMessages* current_messages = nullptr;

__attribute__((format(printf, 2, 0))) int print_message(enum libbpf_print_level level, const char* format,
                                                        va_list arguments) {
    std::array<char, 2048> buffer{};
    const int length = std::vsnprintf(buffer.data(), buffer.size(), format, arguments);
    if (length <= 0) return length;
    std::string line(buffer.data());
    while (!line.empty() && line.back() == '\n')
        line.pop_back();
    if (level == LIBBPF_DEBUG) {
        spdlog::trace("{}", line);
        return length;
    }
    spdlog::debug("{}", line);
    if (current_messages != nullptr) current_messages->add(std::move(line));
    return length;
}

std::vector<std::string> last_lines(std::string_view text) {
    std::vector<std::string> lines;
    while (!text.empty()) {
        const auto end = text.find('\n');
        const auto line = text.substr(0, end);
        if (!line.empty()) lines.emplace_back(line);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    }
    if (lines.size() > kShownLines) lines.erase(lines.begin(), lines.end() - kShownLines);
    return lines;
}

struct Cause {
    std::string_view sign;  ///< found in the verifier's or libbpf's words
    ExitCode code;
    std::string_view hint;
};

constexpr std::array kCauses = {
    Cause{"unknown func", ExitCode::kMissingFeature, "the kernel lacks a BPF helper: 6.1 or later is needed"},
    Cause{"invalid func unknown", ExitCode::kMissingFeature, "the kernel lacks a BPF helper: 6.1 or later is needed"},
    Cause{"program of this type cannot use helper", ExitCode::kMissingFeature,
          "the kernel does not offer a BPF helper here: 6.1 or later is needed"},
    Cause{"too many instructions", ExitCode::kMissingFeature, "this kernel's verifier gives up on the program's size"},
    Cause{"program is too large", ExitCode::kMissingFeature, "this kernel's verifier gives up on the program's size"},
    Cause{"too complex", ExitCode::kMissingFeature, "this kernel's verifier gives up on the program's complexity"},
    Cause{"kernel or module BTFs", ExitCode::kMissingFeature,
          "the kernel lacks functions of connection tracking for BPF: 6.1 or later is needed, with type information of "
          "modules and nf_nat loaded (modprobe nf_nat)"},
    Cause{"kernel BTF", ExitCode::kMissingFeature, "the kernel has no usable type information (BTF)"},
    Cause{"parameter mismatch", ExitCode::kFailed, "a pinned map is another program's: remove the pins"},
    Cause{"processed", ExitCode::kFailed,
          "this kernel's verifier refuses the program: report it with the kernel version"},
};

Cause cause_by_errno(int error) {
    switch (error) {
        case EPERM:
        case EACCES:
            return {{},
                    ExitCode::kNotPrivileged,
                    "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed, and no LSM may forbid BPF"};
        case ENOMEM:
        case E2BIG:
            return {{}, ExitCode::kFailed, "not enough memory for the maps: lower the limit on floating IPs"};
        case ENOSYS:
        case EOPNOTSUPP:
            return {{}, ExitCode::kMissingFeature, "the kernel is built without CONFIG_BPF_SYSCALL"};
        default:
            return {{}, ExitCode::kFailed, "the log with --log-level debug says more"};
    }
}

}  // namespace

LibbpfMessages::LibbpfMessages() {
    libbpf_set_print(print_message);
    current_messages = this;
}

LibbpfMessages::~LibbpfMessages() {
    current_messages = nullptr;
}

VerifierLogs::VerifierLogs(bpf_object* object) {
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object) {
        Buffer buffer{bpf_program__name(program), std::make_unique_for_overwrite<char[]>(kLogBytes)};
        buffer.text[0] = '\0';
        buffer.text[kLogBytes - 1] = '\0';
        bpf_program__set_log_buf(program, buffer.text.get(), kLogBytes);
        buffers_.push_back(std::move(buffer));
    }
}

VerifierLogs::Log VerifierLogs::refused() const {
    for (const auto& buffer : buffers_) {
        const std::size_t length = strnlen(buffer.text.get(), kLogBytes);
        if (length == 0) continue;
        // A full buffer was cut: at its end up to kernel 6.3, at its beginning since.
        return {buffer.program, std::string(buffer.text.get(), length), length >= kLogBytes - 1};
    }
    return {};
}

Error explain_load_failure(int error, std::string_view object, const VerifierLogs::Log& log,
                           const std::vector<std::string>& messages) {
    std::string said = log.text;
    for (const auto& message : messages)
        said += '\n' + message;
    const auto* found = std::find_if(kCauses.begin(), kCauses.end(), [&said](const Cause& cause) {
        return said.find(cause.sign) != std::string::npos;
    });
    const bool refused = error == EPERM || error == ENOMEM;
    const Cause cause = found != kCauses.end() && !refused ? *found : cause_by_errno(error);

    std::string text = fmt::format("cannot load BPF object {}: {}", object, std::strerror(error));
    if (!log.text.empty()) {
        text += fmt::format("; the verifier on {}{}:\n{}", log.program, log.trimmed ? ", its log trimmed" : "",
                            fmt::join(last_lines(log.text), "\n"));
    } else if (!messages.empty()) {
        text += fmt::format("; libbpf: {}", messages.back());
    }
    return Error{cause.code, std::move(text), {}, std::string(cause.hint)};
}

}  // namespace fiplane
