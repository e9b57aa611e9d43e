// SPDX-License-Identifier: Apache-2.0
// The one error type of fiplane, and Result<T>, which carries it.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace fiplane {

/// Kinds of failure that an operator or a script tells apart. The value is the process's exit code.
enum class ExitCode : int {
    kOk = 0,
    kFailed = 1,          ///< the kernel or the system refused something; the message has errno
    kBadTopology = 2,     ///< the topology file is wrong; nothing was touched
    kUsage = 3,           ///< the command line is wrong
    kNotPrivileged = 4,   ///< root or a capability is missing
    kMissingFeature = 5,  ///< the kernel lacks something (BTF, XDP mode, a device type)
    kMissingDevice = 6,   ///< a network device that the topology names does not exist
    kForeignObject = 7,   ///< an object carries a name that we need, and somebody else made it
    kAgentRunning = 8,    ///< a second agent on the same node
    kNoAgent = 9,         ///< a verb needs the agent, and none answers
    kTableFull = 10,      ///< a BPF map cannot hold what the topology needs
};

/// What failed, on which object, and what the operator can try. All three are complete phrases without a full stop.
struct Error {
    ExitCode code = ExitCode::kFailed;
    std::string what;   ///< "cannot create bridge br-ex: File exists"
    std::string where;  ///< file:line:column, namespace or device; may be empty
    std::string hint;   ///< "run `fiplane teardown` first"; may be empty

    /// One line for a terminal or a log: "where: what (hint)".
    [[nodiscard]] std::string message() const {
        std::string text = where.empty() ? what : where + ": " + what;
        return hint.empty() ? text : text + " (" + hint + ")";
    }
};

template <typename T = void>
using Result = std::expected<T, Error>;

[[nodiscard]] inline std::unexpected<Error> fail(ExitCode code, std::string what, std::string where = {},
                                                 std::string hint = {}) {
    return std::unexpected(Error{code, std::move(what), std::move(where), std::move(hint)});
}

/// An error from errno, which is read before anything else can change it: EPERM and EACCES become kNotPrivileged.
[[nodiscard]] inline std::unexpected<Error> fail_errno(int saved_errno, const std::string& what, std::string where = {},
                                                       std::string hint = {}) {
    const int number = saved_errno < 0 ? -saved_errno : saved_errno;
    const auto code = number == EPERM || number == EACCES ? ExitCode::kNotPrivileged : ExitCode::kFailed;
    return fail(code, what + ": " + std::strerror(number), std::move(where), std::move(hint));
}

/// Hands an error on unchanged: `if (!x) return pass_on(x);`
template <typename T>
[[nodiscard]] std::unexpected<Error> pass_on(Result<T>& failed) {
    return std::unexpected(std::move(failed.error()));
}

}  // namespace fiplane
