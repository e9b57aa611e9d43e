// SPDX-License-Identifier: Apache-2.0
#include "support/bpf_objects.hpp"

#include <unistd.h>

#include <array>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace fiplane::test {
namespace {

std::string& last_message() {
    static std::string text;
    return text;
}

int keep_message(libbpf_print_level level, const char* format, va_list arguments) {
    if (level == LIBBPF_DEBUG) return 0;
    std::array<char, 1 << 16> line{};
    const int length = std::vsnprintf(line.data(), line.size(), format, arguments);
    last_message() += line.data();
    return length;
}

void demand(int error, const char* action, const std::string& map) {
    if (error != 0) throw std::runtime_error(std::string(action) + " " + map + ": " + std::strerror(-error));
}

}  // namespace

BpfObjects::BpfObjects() {
    libbpf_set_print(keep_message);
    last_message().clear();
}

BpfObjects::~BpfObjects() {
    if (const char* directory = std::getenv("FIPLANE_BPF_COUNTERS")) write_counters(directory);
}

void BpfObjects::write_counters(const std::string& directory) const {
    for (std::size_t i = 0; i < objects_.size(); ++i) {
        bpf_map* map = nullptr;
        bpf_object__for_each_map(map, objects_[i].get()) {
            if (!std::string_view(bpf_map__name(map)).ends_with(".data.coverage")) continue;
            std::string counters(bpf_map__value_size(map), '\0');
            const std::uint32_t key = 0;
            if (bpf_map__lookup_elem(map, &key, sizeof(key), counters.data(), counters.size(), 0) != 0) continue;
            const std::string name = directory + "/" + std::to_string(getpid()) + "-" + std::to_string(i);
            std::ofstream(name + ".object") << paths_[i];
            std::ofstream(name + ".counters", std::ios::binary) << counters;
        }
    }
}

bpf_object* BpfObjects::load(const std::string& path) {
    Owner object(bpf_object__open_file(path.c_str(), nullptr), bpf_object__close);
    if (object == nullptr) throw std::runtime_error("cannot open " + path + ": " + last_message());
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object.get()) {
        if (bpf_map__is_internal(map)) continue;
        bpf_map__set_pin_path(map, nullptr);
        const auto known = maps_.find(bpf_map__name(map));
        if (known != maps_.end()) bpf_map__reuse_fd(map, bpf_map__fd(known->second));
    }
    if (bpf_object__load(object.get()) != 0) throw std::runtime_error("cannot load " + path + ": " + last_message());
    bpf_object__for_each_map(map, object.get()) {
        if (!bpf_map__is_internal(map)) maps_.try_emplace(bpf_map__name(map), map);
    }
    paths_.push_back(path);
    return objects_.emplace_back(std::move(object)).get();
}

const bpf_map* BpfObjects::map(const std::string& name) const {
    return maps_.at(name);
}

void BpfObjects::update(const std::string& name, const void* key, const void* value) const {
    const bpf_map* target = map(name);
    demand(bpf_map__update_elem(target, key, bpf_map__key_size(target), value, bpf_map__value_size(target), 0),
           "cannot write", name);
}

void BpfObjects::remove(const std::string& name, const void* key) const {
    const bpf_map* target = map(name);
    demand(bpf_map__delete_elem(target, key, bpf_map__key_size(target), 0), "cannot remove a row of", name);
}

bool BpfObjects::lookup(const std::string& name, const void* key, void* value) const {
    const bpf_map* target = map(name);
    return bpf_map__lookup_elem(target, key, bpf_map__key_size(target), value, bpf_map__value_size(target), 0) == 0;
}

}  // namespace fiplane::test
