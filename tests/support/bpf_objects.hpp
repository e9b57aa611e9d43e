// SPDX-License-Identifier: Apache-2.0
// BPF objects from files, loaded unpinned; maps of the same name are one map in all of them.
#pragma once

#include <bpf/libbpf.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fiplane::test {

/// Everything throws std::runtime_error, with libbpf's own messages where it has some. Not thread-safe. Needs root.
class BpfObjects {
  public:
    BpfObjects();
    /// If the objects count what runs (tests/support/bpf_coverage.py) and $FIPLANE_BPF_COUNTERS names a directory,
    /// writes the counters of each object there (.counters), and the object's path (.object).
    ~BpfObjects();
    BpfObjects(const BpfObjects&) = delete;
    BpfObjects& operator=(const BpfObjects&) = delete;

    /// Loads an ELF file. The object lives as long as this.
    bpf_object* load(const std::string& path);

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
    std::vector<std::string> paths_;  ///< of each object
    std::map<std::string, const bpf_map*> maps_;
};

}  // namespace fiplane::test
