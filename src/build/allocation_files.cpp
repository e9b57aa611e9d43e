// SPDX-License-Identifier: Apache-2.0
// The state directory on disk: a lock file, and atomic replacement of each allocation file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "build/allocations.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane::build {
namespace {

constexpr const char* kPairsFile = "fip-linklocal-networks";
constexpr const char* kPrioritiesFile = "fip-priorities";
constexpr const char* kLockFile = "fip-allocations.lock";

Result<std::string> read_file(const std::string& path) {
    const UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!file) {
        if (errno == ENOENT) return std::string{};
        return fail_errno(errno, "cannot read the allocations", path);
    }
    std::string text;
    std::array<char, 16384> chunk{};
    while (true) {
        const ssize_t got = ::read(file.get(), chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(errno, "cannot read the allocations", path);
        if (got == 0) return text;
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
}

Result<> write_all(int file, std::string_view text, const std::string& path) {
    while (!text.empty()) {
        const ssize_t done = ::write(file, text.data(), text.size());
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_errno(errno, "cannot write the allocations", path);
        text.remove_prefix(static_cast<std::size_t>(done));
    }
    return {};
}

/// After a crash at any point the file has its old or its new content.
Result<> replace_file(const std::string& directory, const std::string& name, const std::string& text) {
    const std::string path = directory + "/" + name;
    const std::string temporary = path + ".new";
    {
        const UniqueFd file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
        if (!file) return fail_errno(errno, "cannot write the allocations", temporary);
        if (auto written = write_all(file.get(), text, temporary); !written) return written;
        if (::fsync(file.get()) != 0) return fail_errno(errno, "cannot sync the allocations", temporary);
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        return fail_errno(errno, "cannot replace the allocations", path);
    }
    const UniqueFd folder{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!folder || ::fsync(folder.get()) != 0) return fail_errno(errno, "cannot sync the directory", directory);
    return {};
}

/// The lock lasts as long as the descriptor. Waits for whoever holds it: the critical section is two small files.
Result<UniqueFd> lock(const std::string& directory) {
    std::error_code status;
    std::filesystem::create_directories(directory, status);
    if (status) return fail_errno(status.value(), "cannot make the state directory", directory);
    const std::string path = directory + "/" + kLockFile;
    UniqueFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    if (!file) return fail_errno(errno, "cannot open the lock file", path);
    while (::flock(file.get(), LOCK_EX) != 0) {
        if (errno != EINTR) return fail_errno(errno, "cannot lock", path);
    }
    return file;
}

}  // namespace

Result<Allocations> AllocationFiles::load() const {
    auto pairs = read_file(directory_ + "/" + kPairsFile);
    if (!pairs) return pass_on(pairs);
    auto priorities = read_file(directory_ + "/" + kPrioritiesFile);
    if (!priorities) return pass_on(priorities);
    return Allocations::parse(*pairs, *priorities);
}

Result<> AllocationFiles::store(const Allocations& allocations) const {
    if (auto done = replace_file(directory_, kPairsFile, allocations.print_pairs()); !done) return done;
    return replace_file(directory_, kPrioritiesFile, allocations.print_priorities());
}

Result<> AllocationFiles::add(const Allocations& wanted) const {
    auto held = lock(directory_);
    if (!held) return pass_on(held);
    auto now = load();
    if (!now) return pass_on(now);
    if (auto merged = now->merge(wanted); !merged) return merged;
    return store(*now);
}

Result<> AllocationFiles::release(const std::set<std::string>& router_ids, const std::set<Ipv4>& fips) const {
    auto held = lock(directory_);
    if (!held) return pass_on(held);
    auto now = load();
    if (!now) return pass_on(now);
    for (const auto& router : router_ids)
        now->release_pair(router);
    for (const Ipv4 fip : fips)
        now->release_priority(fip);
    return store(*now);
}

}  // namespace fiplane::build
