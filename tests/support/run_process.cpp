// SPDX-License-Identifier: Apache-2.0
#include "support/run_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "linux/unique_fd.hpp"

extern char** environ;

namespace fiplane::test {
namespace {

struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
};

Pipe make_pipe() {
    std::array<int, 2> fds{-1, -1};
    if (pipe2(fds.data(), O_CLOEXEC) != 0) return {};
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

/// Reads both pipes until the program has closed them; one after the other could deadlock on a full pipe.
void drain(const UniqueFd& out, const UniqueFd& err, ProcessResult& result) {
    std::array<pollfd, 2> watched{{{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}}};
    const std::array<std::string*, 2> texts{&result.out, &result.err};
    std::array<char, 65536> buffer{};
    while (watched[0].fd >= 0 || watched[1].fd >= 0) {
        if (poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) return;
        for (std::size_t i = 0; i < watched.size(); ++i) {
            if (watched[i].fd < 0 || watched[i].revents == 0) continue;
            const ssize_t size = read(watched[i].fd, buffer.data(), buffer.size());
            if (size > 0) {
                texts[i]->append(buffer.data(), static_cast<std::size_t>(size));
            } else {
                watched[i].fd = -1;
            }
        }
    }
}

int wait_for(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return -1;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& command) {
    ProcessResult result;
    Pipe out = make_pipe();
    Pipe err = make_pipe();
    std::vector<char*> arguments;
    for (const auto& argument : command)
        arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out.write_end.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err.write_end.get(), STDERR_FILENO);
    pid_t child = -1;
    const int status = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    out.write_end.reset();
    err.write_end.reset();
    if (status != 0) {
        result.err = std::strerror(status);
        return result;
    }
    drain(out.read_end, err.read_end, result);
    result.exit_status = wait_for(child);
    return result;
}

ProcessResult run_process_in(const Netns& netns, const std::vector<std::string>& command) {
    // A child starts in the namespaces of the thread that spawns it.
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return {.exit_status = -1, .out = {}, .err = inside.error().message()};
    return run_process(command);
}

}  // namespace fiplane::test
