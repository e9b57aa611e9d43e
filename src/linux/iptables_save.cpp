// SPDX-License-Identifier: Apache-2.0
#include "linux/iptables_save.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <map>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "linux/iptables_rule.hpp"
#include "linux/nl_socket.hpp"

namespace fiplane::iptables {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{5};

/// Rules as text, by table and chain.
using SavedRules = std::map<std::string, std::map<std::string, std::vector<std::string>>>;

bool has_extension(const nf::Rule& rule) {
    return std::ranges::any_of(rule.statements, [](const nf::Statement& statement) {
        const auto* unknown = std::get_if<nf::Unknown>(&statement);
        return unknown != nullptr && unknown->by_iptables;
    });
}

std::set<std::string> tables_with_extensions(const nf::Ruleset& ruleset, nf::Family family) {
    std::set<std::string> tables;
    for (const nf::Chain& chain : ruleset.chains) {
        if (chain.family == family && std::ranges::any_of(chain.rules, has_extension)) tables.insert(chain.table);
    }
    return tables;
}

SavedRules read(const std::string& saved) {
    SavedRules rules;
    std::istringstream lines(saved);
    std::string table;
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('*')) table = line.substr(1);
        if (!line.starts_with("-A ")) continue;
        const std::size_t end = std::min(line.find(' ', 3), line.size());
        const std::string rule = end < line.size() ? line.substr(end + 1) : "";
        rules[table][line.substr(3, end - 3)].push_back(rule);
    }
    return rules;
}

/// A child process with its output. Whatever happens, it does not outlive this.
class Child {
  public:
    static Result<Child> start(const std::string& program) {
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
        std::string name = program;
        std::string path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        std::string locale = "LC_ALL=C";
        const std::array<char*, 2> arguments{name.data(), nullptr};
        const std::array<char*, 3> environment{path.data(), locale.data(), nullptr};
        const int error =
            ::posix_spawnp(&child.pid_, program.c_str(), &actions, &attributes, arguments.data(), environment.data());
        ::posix_spawnattr_destroy(&attributes);
        ::posix_spawn_file_actions_destroy(&actions);
        if (error != 0) {
            child.pid_ = -1;
            return fail_errno(error, "cannot run " + program, {});
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
    Result<std::string> finish(const std::string& program) {
        std::string text;
        const auto end = Clock::now() + kPatience;
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

bool needs_save(const nf::Ruleset& ruleset, nf::Family family) {
    return !tables_with_extensions(ruleset, family).empty();
}

Result<std::string> save(const Netns& netns, nf::Family family) {
    const std::string program = family == nf::Family::kIp6 ? "ip6tables-nft-save" : "iptables-nft-save";
    // A child of this thread starts in the network namespace that the thread is in.
    auto inside = NetnsGuard::enter(netns);
    if (!inside) return pass_on(inside);
    auto child = Child::start(program);
    if (!child) return pass_on(child);
    auto text = child->finish(program);
    if (!text) text.error().where = nl::where_of(netns);
    return text;
}

void complete(nf::Ruleset& ruleset, nf::Family family, const std::string& saved) {
    const std::set<std::string> tables = tables_with_extensions(ruleset, family);
    const SavedRules rules = read(saved);
    for (nf::Chain& chain : ruleset.chains) {
        if (chain.family != family || !tables.contains(chain.table) || !rules.contains(chain.table)) continue;
        const auto& chains = rules.at(chain.table);
        const auto found = chains.find(chain.name);
        if (found == chains.end() || found->second.size() != chain.rules.size()) continue;
        std::ranges::transform(found->second, chain.rules.begin(),
                               [&](const std::string& text) { return parse_rule(text, family, chain.table == "nat"); });
    }
}

}  // namespace fiplane::iptables
