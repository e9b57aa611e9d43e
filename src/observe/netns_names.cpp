// SPDX-License-Identifier: Apache-2.0
#include "observe/netns_names.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace fiplane {
namespace {

/// A name that leads to no namespace yet, or cannot be opened, is tried after 1, 2, 4 ... ms, and from the tenth time
/// on once a second for as long as it is there: nothing tells when it is, and Linux may take seconds over a new
/// namespace while it removes others.
constexpr int kSlowestAttempt = 10;

}  // namespace

Result<NetnsNames> NetnsNames::open(NetnsListener& listener) {
    auto directory = NetnsDirectory::open();
    if (!directory) return pass_on(directory);
    auto retry_timer = Timer::open();
    if (!retry_timer) return pass_on(retry_timer);
    return NetnsNames(listener, std::move(*directory), std::move(*retry_timer));
}

bool NetnsNames::on_ready(int fd) {
    if (fd == directory_.fd()) {
        on_directory();
        return true;
    }
    retry_timer_.drain();
    retry();
    return false;
}

void NetnsNames::on_directory() {
    const auto events = directory_.receive();
    if (events.rescan) return rescan();
    for (const auto& name : events.touched)
        look_again(name);
    arm_retry();
}

void NetnsNames::look_at(const NetnsName& name) {
    auto found = Netns::find(name);
    if (!found) return cannot_open(name, found.error());
    if (*found && listener_->inode_of(name) == (*found)->inode()) {
        unopened_.erase(name);
        return;
    }
    listener_->on_gone(name);
    if (!*found) {
        unopened_[name].failure.reset();
        return;
    }
    if (const auto taken = listener_->on_found(std::move(**found)); !taken) return cannot_open(name, taken.error());
    unopened_.erase(name);
}

/// As look_at(), with retries that begin anew.
void NetnsNames::look_again(const NetnsName& name) {
    if (const auto entry = unopened_.find(name); entry != unopened_.end()) entry->second.attempts = 0;
    look_at(name);
}

void NetnsNames::cannot_open(const NetnsName& name, const Error& error) {
    Unopened& entry = unopened_[name];
    if (!entry.failure) spdlog::warn("namespace {}: {}", name, error.message());
    entry.failure = error;
    listener_->on_unknown(name, error);
}

void NetnsNames::rescan() {
    directory_.arm();
    const auto names = Netns::list();
    if (!names) return cannot_list(names.error());
    were_listed_ = true;
    unlisted_.reset();
    listings_ = 0;
    for (const auto& name : listener_->names()) {
        if (!std::ranges::binary_search(*names, name)) listener_->on_gone(name);
    }
    std::erase_if(unopened_, [&](const auto& entry) { return !std::ranges::binary_search(*names, entry.first); });
    for (const auto& name : *names) {
        if (is_router_netns(name)) look_again(name);
    }
    arm_retry();
}

/// What the listener has stays as it is.
void NetnsNames::cannot_list(const Error& error) {
    if (!unlisted_) spdlog::warn("{}", error.message());
    unlisted_ = error;
    listings_ = std::min(listings_ + 1, kSlowestAttempt);
    arm_retry();
}

void NetnsNames::retry() {
    if (unlisted_) return rescan();
    const auto names = Netns::list();
    if (!names) return cannot_list(names.error());
    const auto tried = unopened_;
    for (const auto& [name, entry] : tried) {
        if (!std::ranges::binary_search(*names, name)) {
            unopened_.erase(name);
            listener_->on_gone(name);
            continue;
        }
        unopened_[name].attempts = std::min(entry.attempts + 1, kSlowestAttempt);
        look_at(name);
    }
    arm_retry();
}

void NetnsNames::arm_retry() {
    if (unopened_.empty() && !unlisted_) return;
    int fewest = unlisted_ ? listings_ : kSlowestAttempt;
    for (const auto& [name, entry] : unopened_)
        fewest = std::min(fewest, entry.attempts);
    retry_timer_.set(std::chrono::milliseconds(1 << fewest));
}

void NetnsNames::for_each_failure(const std::function<void(const NetnsName&, const Error&)>& note) const {
    if (unlisted_) note({}, *unlisted_);
    for (const auto& [name, entry] : unopened_) {
        if (entry.failure) note(name, *entry.failure);
    }
}

}  // namespace fiplane
