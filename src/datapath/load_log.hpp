// SPDX-License-Identifier: Apache-2.0
// What libbpf and the verifier say while an object is loaded, and what it most likely means.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.hpp"

struct bpf_object;
struct bpf_program;

namespace fiplane {

/// Collects libbpf's own messages while it lives; outside of that they go to the debug log. libbpf has one printer per
/// process, so at most one collector exists at a time, on the thread that loads.
class LibbpfMessages {
  public:
    LibbpfMessages();
    LibbpfMessages(const LibbpfMessages&) = delete;
    LibbpfMessages& operator=(const LibbpfMessages&) = delete;
    ~LibbpfMessages();

    [[nodiscard]] const std::vector<std::string>& lines() const { return lines_; }
    void add(std::string line) { lines_.push_back(std::move(line)); }

  private:
    std::vector<std::string> lines_;
};

/// One verifier log per program of an object. The kernel fills a log only when it refuses the program.
class VerifierLogs {
  public:
    /// Must outlive the load of `object`.
    explicit VerifierLogs(bpf_object* object);

    struct Log {
        std::string program;
        std::string text;
        bool trimmed = false;  ///< the buffer was too small for all of it
    };
    /// The log of the program that was refused; empty if none was.
    [[nodiscard]] Log refused() const;

  private:
    struct Buffer {
        std::string program;
        std::unique_ptr<char[]> text;
    };
    std::vector<Buffer> buffers_;
};

/// The error of a failed load: errno, the verifier's last lines or else libbpf's, and the likely cause.
[[nodiscard]] Error explain_load_failure(int error, std::string_view object, const VerifierLogs::Log& log,
                                         const std::vector<std::string>& messages);

}  // namespace fiplane
