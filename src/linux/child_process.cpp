// SPDX-License-Identifier: Apache-2.0
#include "linux/child_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

#include "linux/descriptor_limit.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array kDirectories{"/usr/sbin", "/usr/bin", "/sbin", "/bin"};

/// posix_spawnp() would look in the PATH of this process, which need not have the directories of root's programs.
std::string find_program(const std::string& name) {
    for (const char* directory : kDirectories) {
        const std::string path = fmt::format("{}/{}", directory, name);
        if (::access(path.c_str(), X_OK) == 0) return path;
    }
    // Not the bare name, which would be a file of the working directory. The kernel says that this one is not there.
    return fmt::format("{}/{}", kDirectories.front(), name);
}

/// A child process with its output. Whatever happens, it does not outlive this.
class Child {
  public:
    static Result<Child> start(std::vector<std::string> words) {
        const std::string program = words.front();
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "cannot make a pipe", program);
        Child child(UniqueFd{ends[0]});
        const UniqueFd output(ends[1]);
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        ::posix_spawn_file_actions_adddup2(&actions, output.get(), STDOUT_FILENO);
        ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
        // The agent blocks signals for its event loop, which a program does not expect.
        posix_spawnattr_t attributes;
        ::posix_spawnattr_init(&attributes);
        sigset_t none;
        ::sigemptyset(&none);
        ::posix_spawnattr_setsigmask(&attributes, &none);
        ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        std::string path = fmt::format("PATH={}", fmt::join(kDirectories, ":"));
        std::string locale = "LC_ALL=C";
        std::vector<char*> arguments;
        arguments.reserve(words.size() + 1);
        for (std::string& word : words)
            arguments.push_back(word.data());
        arguments.push_back(nullptr);
        const std::array<char*, 3> environment{path.data(), locale.data(), nullptr};
        const int error = [&] {
            const UsualDescriptorLimit limit;
            return ::posix_spawn(&child.pid_, find_program(program).c_str(), &actions, &attributes, arguments.data(),
                                 environment.data());
        }();
        ::posix_spawnattr_destroy(&attributes);
        ::posix_spawn_file_actions_destroy(&actions);
        if (error != 0) {
            child.pid_ = -1;
            auto failed = fail_errno(error, "cannot run " + program, {});
            if (error == ENOENT) failed.error().code = ExitCode::kMissingFeature;
            return failed;
        }
        return child;
    }

    Child(Child&& other) noexcept : output_(std::move(other.output_)), pid_(std::exchange(other.pid_, -1)) {}
    Child& operator=(Child&&) = delete;
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        if (pid_ < 0) return;
        ::kill(pid_, SIGKILL);
        (void)wait();
    }

    /// All that it prints. An error if that is not over in time, or if the program fails.
    Result<std::string> finish(const std::string& program, std::chrono::milliseconds patience) {
        std::string text;
        const auto end = Clock::now() + patience;
        for (;;) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
            pollfd ready{.fd = output_.get(), .events = POLLIN, .revents = 0};
            const int count = ::poll(&ready, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
            if (count < 0 && errno == EINTR) continue;
            if (count <= 0) return fail(ExitCode::kFailed, program + " does not end");
            std::array<char, 16384> chunk{};
            const ssize_t got = ::read(output_.get(), chunk.data(), chunk.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return fail_errno(errno, "cannot read from " + program, {});
            if (got == 0) break;
            text.append(chunk.data(), static_cast<std::size_t>(got));
        }
        const int status = wait();
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            return fail(ExitCode::kFailed, fmt::format("{} failed with status {}", program, status));
        return text;
    }

  private:
    explicit Child(UniqueFd output) : output_(std::move(output)) {}

    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return status;
    }

    UniqueFd output_;
    pid_t pid_ = -1;
};

}  // namespace

Result<std::string> run_program(const std::vector<std::string>& words, std::chrono::milliseconds patience) {
    auto child = Child::start(words);
    if (!child) return pass_on(child);
    return child->finish(words.front(), patience);
}

void load_kernel_module(const std::string& name) {
    const auto done = run_program({"modprobe", "--quiet", name}, std::chrono::seconds{10});
    if (!done) spdlog::debug("kernel module {}: {}", name, done.error().message());
}

}  // namespace fiplane
