// SPDX-License-Identifier: Apache-2.0
// Topology file -> Topology. The file format is described in docs/topology.md.
//
// Loading reports every mistake of the file at once. It happens in three steps, each of which goes on after a mistake:
// YAML text -> YamlTree (places kept), YamlTree -> Document (shape, types, ranges), Document -> Topology (references,
// addresses, derived values).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model.hpp"
#include "core/result.hpp"

namespace fiplane {

/// One thing that is wrong in a topology file.
struct Mistake {
    int line = 0;      ///< 1-based; 0: the file as a whole (it cannot be read)
    int column = 0;    ///< 1-based, in characters
    std::string what;  ///< "port vm1: unknown node subnode9"
    std::string hint;  ///< what would be right: "did you mean subnode1?"; may be empty
    bool operator==(const Mistake&) const = default;
};

/// Outcome of loading: a topology, or at least one mistake, never both.
struct LoadResult {
    std::optional<Topology> topology;
    std::vector<Mistake> mistakes;  ///< by line and column
};

/// Reads and validates the file at `path`. A file that cannot be read is a mistake at line 0.
[[nodiscard]] LoadResult load_topology(const std::string& path);

/// The same for text in memory. `file_name` becomes Topology::file; nothing is opened.
[[nodiscard]] LoadResult parse_topology(std::string_view yaml, const std::string& file_name);

/// "file:line:column: what (hint)", one line for each mistake, each ended by a newline.
[[nodiscard]] std::string format_mistakes(const std::vector<Mistake>& mistakes, const std::string& file_name);

/// For verbs that need a valid topology: ExitCode::kBadTopology, the first mistake, and how many more there are.
/// `mistakes` must not be empty.
[[nodiscard]] Error to_error(const std::vector<Mistake>& mistakes, const std::string& file_name);

}  // namespace fiplane
