// SPDX-License-Identifier: Apache-2.0
// What the rtnl_*.cpp files share: the socket behind Rtnl. Private to this folder.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "linux/nl_socket.hpp"
#include "linux/rtnl.hpp"

namespace fiplane {

/// For all there is of one family. `Header` is the message's fixed part, which begins with the family in all of
/// rtnetlink.
template <typename Header>
[[nodiscard]] nl::Request dump_request(int type, unsigned char family) {
    Header header{};
    std::memcpy(&header, &family, sizeof family);
    nl::Request request(type, NLM_F_DUMP);
    request.header(header);
    return request;
}

struct Rtnl::Impl {
    nl::Socket socket;
    std::string where;  ///< for Error::where

    /// A request that changes something; `what` completes "cannot ...".
    [[nodiscard]] Result<> change(nl::Request& request, const std::string& what) {
        const auto answer = socket.transact(request);
        if (!answer) return nl::fail_kernel(answer.error(), "cannot " + what, where);
        return {};
    }

    /// Second half of the creation of a link: what the kernel does not take in the first request. The link is removed
    /// again if it fails.
    [[nodiscard]] Result<> finish_link(const std::string& name, const std::string& alias,
                                       std::optional<std::uint32_t> mtu, const std::string& what);

    /// A dump; `parse(message)` gives an optional value, none to leave the message out.
    template <typename Value, typename Parse>
    [[nodiscard]] Result<std::vector<Value>> collect(nl::Request& request, const std::string& what, Parse parse) {
        std::vector<Value> values;
        const auto on_message = [&](const nlmsghdr& message) {
            if (auto value = parse(message)) values.push_back(std::move(*value));
        };
        const auto answer = socket.dump(request, [&] { values.clear(); }, on_message);
        if (!answer) return nl::fail_kernel(answer.error(), "cannot " + what, where);
        return values;
    }
};

}  // namespace fiplane
