// SPDX-License-Identifier: Apache-2.0
#include "support/bpf_objects.hpp"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
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

bpf_object* BpfObjects::load(ElfBytes elf_bytes) {
    std::size_t size = 0;
    const void* elf = elf_bytes(&size);
    Owner object(bpf_object__open_mem(elf, size, nullptr), bpf_object__close);
    if (object == nullptr) throw std::runtime_error("cannot open a BPF object: " + last_message());
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object.get()) {
        if (bpf_map__is_internal(map)) continue;
        bpf_map__set_pin_path(map, nullptr);
        const auto known = maps_.find(bpf_map__name(map));
        if (known != maps_.end()) bpf_map__reuse_fd(map, bpf_map__fd(known->second));
    }
    if (bpf_object__load(object.get()) != 0) throw std::runtime_error("cannot load: " + last_message());
    bpf_object__for_each_map(map, object.get()) {
        if (!bpf_map__is_internal(map)) maps_.try_emplace(bpf_map__name(map), map);
    }
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
