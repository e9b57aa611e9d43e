// SPDX-License-Identifier: Apache-2.0
// Only one process may manage a node: a name in the abstract socket space of the node's network namespace, which the
// kernel releases with the process, however it ends.
#pragma once

#include "core/result.hpp"
#include "linux/unique_fd.hpp"

namespace fiplane {

class SingleInstance {
  public:
    /// kAgentRunning if another process has it; the message names its pid. Held until destruction.
    [[nodiscard]] static Result<SingleInstance> acquire();

    /// Readable when somebody asked who holds the node. A process that lives long serves that by dismiss_callers(),
    /// else the queue of those who asked fills and later ones are not told the pid.
    [[nodiscard]] int fd() const { return socket_.get(); }
    void dismiss_callers() const;

  private:
    explicit SingleInstance(UniqueFd socket) : socket_(std::move(socket)) {}
    UniqueFd socket_;
};

}  // namespace fiplane
