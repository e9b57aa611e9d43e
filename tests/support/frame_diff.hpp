// SPDX-License-Identifier: Apache-2.0
// Whole-frame comparison for tests. A difference is told as a person looks for it: the first field that differs by its
// name, both frames dissected, both in hex, and a line for scapy.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "support/packet.hpp"

namespace fiplane::test {

/// A run of bytes with a meaning: "ip.ttl", "vxlan/eth.dst".
struct Field {
    std::size_t offset = 0;
    std::size_t length = 0;
    std::string name;
    std::string value;
};

/// Every byte of the frame in exactly one field; what is not understood is one field "data" at the end.
[[nodiscard]] std::vector<Field> dissect(const Bytes& frame);

enum class Freedom {
    kNone,
    /// UDP source port, and over IPv4 the ID and so the checksum, of the outer header of a tunnel packet are the
    /// sender's choice. The port must still lie in 32768..60999 and the checksum be right.
    kOuterPortAndId,
};

/// Nothing if the frames are the same.
[[nodiscard]] std::optional<std::string> frame_difference(const Bytes& expected, const Bytes& actual,
                                                          Freedom freedom = Freedom::kNone);

}  // namespace fiplane::test
