// SPDX-License-Identifier: Apache-2.0
// BPF objects from skeletons, loaded unpinned; maps of the same name are one map in all of them.
#pragma once

#include <bpf/libbpf.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fiplane::test {

/// A skeleton's elf_bytes().
using ElfBytes = const void* (*)(std::size_t*);

/// Everything throws std::runtime_error, with libbpf's own messages where it has some. Not thread-safe. Needs root.
class BpfObjects {
  public:
    BpfObjects();
    /// If the objects count what runs (tests/support/bpf_coverage.py) and $FIPLANE_BPF_COUNTERS names a directory,
    /// writes each object and its counters there.
    ~BpfObjects();
    BpfObjects(const BpfObjects&) = delete;
    BpfObjects& operator=(const BpfObjects&) = delete;

    /// The object lives as long as this.
    bpf_object* load(ElfBytes elf_bytes);

    /// A map by its name in the source. Variables (.bss and the like) are no such map: each object has its own.
    [[nodiscard]] const bpf_map* map(const std::string& name) const;
    [[nodiscard]] const std::map<std::string, const bpf_map*>& maps() const { return maps_; }
    void update(const std::string& map, const void* key, const void* value) const;
    void remove(const std::string& map, const void* key) const;
    /// False if the key is absent.
    bool lookup(const std::string& map, const void* key, void* value) const;

  private:
    void write_counters(const std::string& directory) const;

    using Owner = std::unique_ptr<bpf_object, decltype(&bpf_object__close)>;
    std::vector<Owner> objects_;
    std::vector<std::string_view> elf_;  ///< of each object
    std::map<std::string, const bpf_map*> maps_;
};

}  // namespace fiplane::test
