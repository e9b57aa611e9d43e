// SPDX-License-Identifier: Apache-2.0
// The order of sync, seen write by write: a store in memory checks after each of them that no row refers to something
// that is not there.
#include <catch2/catch_test_macros.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "datapath/table_sync.hpp"

namespace fiplane::test {
namespace {

/// Holds rows as the kernel would, and records the first state in which a program could run into a gap.
class WatchingStore {
  public:
    MapContents held;
    std::string first_gap;
    std::uint64_t writes = 0;
    std::set<IpAddress> own_addresses;  ///< that the configuration had while rows changed
    std::size_t fip_in_size = 1000;
    std::size_t trie_size = 1000;
    const Tables* goal = nullptr;  ///< of the sync that runs

    Result<> put_config(const fl_config& config) {
        held.tables.config = config;
        return {};
    }
    template <typename K, typename V>
    Result<> put(const K& key, const V& value) {
        auto& rows = table<K, V>();
        if constexpr (std::is_same_v<K, fl_fip_key>) {
            if (rows.size() >= fip_in_size && !rows.contains(key)) return fail(ExitCode::kTableFull, "full");
        }
        if constexpr (PrefixKey<K>) {
            if (rows.size() >= trie_size && !rows.contains(key)) return fail(ExitCode::kTableFull, "full");
        }
        rows.insert_or_assign(key, value);
        watch("write");
        watch_translations();
        if constexpr (PrefixKey<K>) watch_longer(key, value);
        if constexpr (std::is_same_v<K, fl_source_key>) watch_opening();
        return {};
    }
    template <typename V, typename K>
    Result<std::optional<V>> get(const K& key) {
        const auto& rows = table<K, V>();
        const auto found = rows.find(key);
        return found == rows.end() ? std::optional<V>() : found->second;
    }
    template <typename V, typename K>
    Result<bool> erase(const K& key) {
        const bool there = table<K, V>().erase(key) == 1;
        watch("removal");
        if constexpr (PrefixKey<K>) watch_shorter<K, V>(key);
        // A translation ends before anything else.
        if constexpr (std::is_same_v<K, fl_translated_key>) return there;
        watch_translations();
        if constexpr (!std::is_same_v<K, fl_source_key>) watch_closing();
        return there;
    }
    template <typename V, typename K>
    std::uint32_t max_entries(const K&) {
        return 1000;
    }
    Result<> add_stat(const fl_fip_stat_key& key) {
        held.stats.insert(key);
        return {};
    }
    Result<bool> erase_stat(const fl_fip_stat_key& key) {
        const bool there = held.stats.erase(key) == 1;
        watch("removal of statistics");
        return there;
    }
    std::uint32_t max_stats() { return 1000; }
    Result<bool> add_device(const DeviceKey& key) {
        if (key.ifindex == gone_device) return false;
        held.devices.insert(key);
        return true;
    }
    Result<bool> erase_device(const DeviceKey& key) {
        const bool there = held.devices.erase(key) == 1;
        watch("removal of a device");
        return there;
    }
    Result<bool> has_device(const DeviceKey& key) { return held.devices.contains(key); }
    std::uint32_t max_devices() { return 1000; }

    __u32 gone_device = 0;

  private:
    template <typename K, typename V>
    Table<K, V>& table() {
        return table_of<K>(held.tables);
    }
    template <typename K, typename AnyTables>
    static auto& table_of(AnyTables& tables) {
        if constexpr (std::is_same_v<K, fl_source_key>) return tables.sources;
        if constexpr (std::is_same_v<K, fl_tunnel_key>) return tables.tunnels;
        if constexpr (std::is_same_v<K, fl_fdb_key>) return tables.fdb;
        if constexpr (std::is_same_v<K, fl_arp_key>) return tables.arp;
        if constexpr (std::is_same_v<K, fl_fip_key>) return tables.fip_in;
        if constexpr (std::is_same_v<K, fl_vm_key>) return tables.vms;
        if constexpr (std::is_same_v<K, fl_sender_key>) return tables.senders;
        if constexpr (std::is_same_v<K, fl_dest_key>) return tables.dests;
        if constexpr (std::is_same_v<K, fl_route_key>) return tables.routes;
        if constexpr (std::is_same_v<K, fl_crossing_key>) return tables.crossings;
        if constexpr (std::is_same_v<K, fl_translated_key>) return tables.translated;
    }

    /// A row that takes a part out of a shorter prefix is there before that, ...
    template <typename K, typename V>
    void watch_longer(const K& key, const V& /*value*/) {
        if (goal == nullptr || !first_gap.empty()) return;
        for (const auto& [other, value] : table_of<K>(*goal)) {
            const auto at = table<K, V>().find(other);
            if (other.prefixlen > key.prefixlen && (at == table<K, V>().end() || !same_entry(at->second, value)))
                first_gap = "prefix written before a longer one";
        }
    }
    /// ... and still there when it is gone.
    template <typename K, typename V>
    void watch_shorter(const K& key) {
        if (goal == nullptr || !first_gap.empty()) return;
        for (const auto& [other, value] : table<K, V>()) {
            if (other.prefixlen < key.prefixlen && !table_of<K>(*goal).contains(other))
                first_gap = "prefix removed before a shorter one";
        }
    }

    void watch(const char* after) {
        ++writes;
        own_addresses.insert(IpAddress::from_bytes(held.tables.config.vtep));
        if (first_gap.empty()) {
            const std::string gap = find_gap();
            if (!gap.empty()) first_gap = std::string(gap) + " after a " + after;
        }
    }

    /// A source opens a device to the fast path: by then everything else of the new state must be there.
    void watch_opening() {
        if (goal == nullptr || !first_gap.empty()) return;
        const auto complete = [this](auto member) { return diff(goal->*member, held.tables.*member).upserts.empty(); };
        if (!complete(&Tables::tunnels) || !complete(&Tables::arp) || !complete(&Tables::fdb) ||
            !complete(&Tables::dests) || !complete(&Tables::routes) || !complete(&Tables::vms) ||
            !complete(&Tables::senders) || !complete(&Tables::fip_in) || !complete(&Tables::crossings)) {
            first_gap = "source opened before the rest was there";
        }
    }

    /// And it is closed before anything that it used goes.
    void watch_closing() {
        if (goal == nullptr || !first_gap.empty()) return;
        if (!diff(goal->sources, held.tables.sources).removals.empty())
            first_gap = "removal before a source was closed";
    }

    /// No row changes while a translation is there that is to end.
    void watch_translations() {
        if (goal == nullptr || !first_gap.empty()) return;
        for (const auto& [key, value] : held.tables.translated) {
            const auto wanted = goal->translated.find(key);
            if (wanted == goal->translated.end() || !same_bytes(wanted->second, value))
                first_gap = "a row changed before a translation had ended";
        }
    }

    [[nodiscard]] std::string find_gap() const {
        for (const auto& key : stats_of(held.tables)) {
            if (!held.stats.contains(key)) return "floating IP without statistics";
        }
        for (const auto& key : devices_of(held.tables)) {
            if (!held.devices.contains(key)) return "XDP output without its device";
        }
        std::set<std::uint32_t> ways;
        for (const auto& [key, value] : held.tables.crossings)
            ways.insert(key.target);
        bool lost = false;
        for_each_out(held.tables, [&](const fl_out& out) {
            lost = lost || ((out.flags & FL_OUT_CROSS) != 0 && !ways.contains(out.port));
        });
        if (lost) return "a way into another namespace that ends there";
        const auto has_next_hop = [this](__u32 domain) {
            const auto same_domain = [domain](const auto& row) { return row.first.domain == domain; };
            return std::ranges::any_of(held.tables.dests, same_domain) ||
                   std::ranges::any_of(held.tables.routes, same_domain);
        };
        for (const auto& [key, value] : held.tables.vms) {
            if (!has_next_hop(value.domain)) return "a VM without any next hop";
        }
        for (const auto& [key, value] : held.tables.senders) {
            if (value.domain != 0 && !has_next_hop(value.domain)) return "senders without any next hop";
        }
        for (const auto& [key, value] : held.tables.sources) {
            const auto same_segment = [&segment = value.segment](const auto& row) {
                return row.first.segment == segment;
            };
            if (std::ranges::none_of(held.tables.fdb, same_segment)) return "source whose segment knows no MAC";
        }
        return {};
    }
};

/// Tables that are complete in themselves, over few keys, so that two of them share many rows with other contents.
class Generator {
  public:
    explicit Generator(std::uint32_t seed) : random_(seed) {}

    Tables tables() {
        Tables out;
        out.config.layout = FL_ABI_LAYOUT;
        out.config.vxlan_port = static_cast<__u16>(4789 + pick(2));
        for (std::uint32_t i = pick(4); i > 0; --i) {
            const __u32 segment = 1 + pick(3);
            out.fdb[{.segment = segment, .mac = {0xfa, byte(4)}, .pad = {}}].out = output();
            out.sources[{.ifindex = 1 + pick(4), .vlan = 0, .pad = {}}] = {.role = FL_ROLE_PORT,
                                                                           .segment = segment,
                                                                           .mac = {},
                                                                           .pad = {},
                                                                           .ip = {},
                                                                           .flags = pick(2),
                                                                           .port = 0,
                                                                           .router = 0};
        }
        for (std::uint32_t i = pick(5); i > 0; --i) {
            const __u32 domain = 1 + pick(3);
            if (pick(2) == 0) {
                out.dests[{.domain = domain, .ip = {10, 0, 0, byte(4)}}] = next();
            } else {
                out.routes[{.prefixlen = 56, .domain = domain, .ip = {10, 0, byte(4), 0}}] = next();
                if (pick(2) == 0) out.routes[{.prefixlen = 40, .domain = domain, .ip = {10}}] = next();
            }
            fl_vm value{};
            value.fip[3] = byte(5);
            value.domain = domain;
            out.vms[{.port = 1 + pick(3), .fixed = {10, 0, 0, byte(3)}, .router_mac = {}, .pad = {}}] = value;
            out.senders[{
                .prefixlen = FL_SENDER_KEY_BITS + 8, .segment = 1 + pick(3), .router_mac = {}, .pad = {}, .ip = {10}}] =
                {.domain = domain};
            if (pick(2) == 0) {
                out.senders[{.prefixlen = FL_SENDER_KEY_BITS + 16,
                             .segment = 1 + pick(3),
                             .router_mac = {},
                             .pad = {},
                             .ip = {10, byte(4)}}] = {.domain = 0};
            }
        }
        for (std::uint32_t i = pick(5); i > 0; --i) {
            fl_fip_in value{};
            value.next = next();
            out.fip_in[{.segment = 1 + pick(2), .fip = {172, 24, 5, byte(5)}}] = value;
        }
        for (std::uint32_t i = pick(3); i > 0; --i) {
            out.tunnels[{.type = FL_TUNNEL_GRE, .id = pick(3), .peer = {192, 0, 2, byte(3)}}] = {.segment = 1,
                                                                                                 .ifindex = pick(3),
                                                                                                 .mac = {},
                                                                                                 .outer_len = 42,
                                                                                                 .type = FL_TUNNEL_GRE,
                                                                                                 .flags = 0,
                                                                                                 .peer = {}};
            out.arp[{.segment = 1, .ip = {172, 24, 5, byte(5)}}] = {.mac = {byte(3)}, .flags = 0, .pad = 0};
        }
        for (std::uint32_t i = pick(4); i > 0; --i)
            out.translated[{.router = 0x80000000 | pick(2), .fip = {172, 24, 5, byte(3)}}] = {
                .fixed = {10, 0, 0, byte(2)}};
        for_each_out(out, [&](fl_out& row) {
            if (pick(3) != 0) return;
            row.flags |= FL_OUT_CROSS;
            row.port = 0x80000000 | pick(4);
            out.crossings[{.device = 7, .target = row.port}] = {.ifindex = pick(4), .flags = 0};
        });
        return out;
    }

  private:
    std::uint32_t pick(std::uint32_t limit) {
        return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random_);
    }
    __u8 byte(std::uint32_t limit) { return static_cast<__u8>(pick(limit)); }
    fl_out output() {
        fl_out out{};
        out.kind = FL_OUT_PORT;
        out.ifindex = 10 + pick(4);
        out.flags = pick(2) == 0 ? FL_OUT_XDP : 0;
        return out;
    }
    fl_next next() {
        fl_next value{};
        value.hops = pick(3);
        value.out = output();
        return value;
    }
    std::mt19937 random_;
};

bool equal(const Tables& a, const Tables& b) {
    return std::apply([&](auto... member) { return (diff(a.*member, b.*member).empty() && ...); }, kAdditionOrder) &&
           same_bytes(a.config, b.config);
}

}  // namespace

TEST_CASE("no write of sync leaves a row that refers to what is not there", "[datapath][order]") {
    std::uint64_t writes = 0;
    for (std::uint32_t seed = 0; seed < 3000; ++seed) {
        Generator generator(seed);
        WatchingStore store;
        MapContents actual;
        for (int step = 0; step < 4; ++step) {
            const Tables desired = generator.tables();
            store.goal = &desired;
            TableSync sync(store, actual);
            INFO("seed " << seed << " step " << step);
            REQUIRE(sync.run(desired));
            REQUIRE_FALSE(sync.inconsistent());
            REQUIRE(store.first_gap == "");
            REQUIRE(equal(store.held.tables, desired));
            REQUIRE(equal(actual.tables, desired));
            TableSync again(store, actual);
            const auto before = store.writes;
            REQUIRE(again.run(desired)->total() == 0);
            REQUIRE(store.writes == before);
        }
        writes += store.writes;
    }
    // The watch was kept: an empty generator would also find no gap.
    CHECK(writes > 20000);
}

TEST_CASE("the watch itself sees a gap", "[datapath][order]") {
    WatchingStore store;
    fl_vm value{};
    value.fip[0] = 172;
    value.domain = 3;
    REQUIRE(store.put(fl_vm_key{.port = 1, .fixed = {10, 0, 0, 1}, .router_mac = {}, .pad = {}}, value));
    CHECK(store.first_gap == "floating IP without statistics after a write");
}

TEST_CASE("a full trie has no prefix from which a part that was to be taken out is not", "[datapath][order]") {
    const auto route = [](std::uint32_t length, __u8 second, __u8 third = 0) {
        return fl_route_key{.prefixlen = 32 + length, .domain = 1, .ip = {10, second, third, 0}};
    };
    fl_next fast{};
    fast.out.kind = FL_OUT_PORT;
    Tables before;
    before.config.layout = FL_ABI_LAYOUT;
    before.routes[route(8, 0)] = fast;
    before.routes[route(16, 7)] = fast;
    WatchingStore store;
    MapContents actual;
    REQUIRE(TableSync(store, actual).run(before));

    // Room for one of the two parts of 10.7/16 only, which must therefore go, and so must 10/8.
    store.trie_size = 3;
    Tables desired = before;
    desired.routes[route(24, 7, 1)] = {};
    desired.routes[route(24, 7, 2)] = {};
    desired.routes[route(16, 9)] = fast;
    TableSync sync(store, actual);
    const auto full = sync.run(desired);
    REQUIRE_FALSE(full);
    CHECK(full.error().code == ExitCode::kTableFull);
    CHECK_FALSE(sync.inconsistent());
    CHECK(equal(store.held.tables, actual.tables));
    for (const auto& [wide, value] : store.held.tables.routes) {
        for (const auto& [narrow, wanted] : desired.routes)
            CHECK((!covers(wide, narrow) || store.held.tables.routes.contains(narrow)));
    }

    store.trie_size = 1000;
    REQUIRE(TableSync(store, actual).run(desired));
    CHECK(equal(store.held.tables, desired));
}

TEST_CASE("while rows change with the own address, nothing can leave from either", "[datapath][order]") {
    const auto from = [](const char* vtep, const char* peer) {
        Tables tables;
        tables.config.layout = FL_ABI_LAYOUT;
        copy_bytes(tables.config.vtep, IpAddress::parse(vtep).value());
        fl_fdb& row = tables.fdb[{.segment = 1, .mac = {2}, .pad = {}}];
        row.out.kind = FL_OUT_TUNNEL;
        copy_bytes(row.out.remote, IpAddress::parse(peer).value());
        return tables;
    };
    WatchingStore store;
    MapContents actual;
    const auto sync = [&](const Tables& desired) {
        store.own_addresses.clear();
        REQUIRE(TableSync(store, actual).run(desired));
        CHECK(equal(store.held.tables, desired));
        CHECK(same_bytes(store.held.tables.config, desired.config));
        return store.own_addresses;
    };
    const std::set<IpAddress> none{IpAddress{}};
    CHECK(sync(from("192.0.2.1", "192.0.2.2")) == none);
    CHECK(sync(from("2001:db8::1", "2001:db8::2")) == none);
    CHECK(sync(from("2001:db8::1", "2001:db8::3")) == std::set{*IpAddress::parse("2001:db8::1")});
    Tables without;
    without.config.layout = FL_ABI_LAYOUT;
    CHECK(sync(without) == none);
}

TEST_CASE("rows towards a device that cannot be in fl_devs are written without the XDP flag", "[datapath][order]") {
    WatchingStore store;
    store.gone_device = 11;
    MapContents actual;
    Tables desired;
    fl_fip_in value{};
    value.next.out = {.kind = FL_OUT_PORT,
                      .ifindex = 11,
                      .port = 11,
                      .flags = FL_OUT_XDP | FL_OUT_PEER,
                      .mtu = 1450,
                      .tunnel = FL_TUNNEL_NONE,
                      .tunnel_id = 0,
                      .remote = {},
                      .outer_dmac = {},
                      .outer_smac = {},
                      .vlan = 0,
                      .pad = {}};
    const fl_fip_key key{.segment = 1, .fip = {172, 24, 5, 1}};
    desired.fip_in[key] = value;
    REQUIRE(TableSync(store, actual).run(desired));
    CHECK(store.held.tables.fip_in.at(key).next.out.flags == FL_OUT_PEER);
    CHECK(store.first_gap == "");
    // That is stable, not rewritten each time.
    const auto before = store.writes;
    REQUIRE(TableSync(store, actual).run(desired));
    CHECK(store.writes == before);
    store.gone_device = 0;
    REQUIRE(TableSync(store, actual).run(desired));
    CHECK(store.held.tables.fip_in.at(key).next.out.flags == (FL_OUT_XDP | FL_OUT_PEER));
}

TEST_CASE("rows that did not fit come with a later sync once there is room", "[datapath][order]") {
    WatchingStore store;
    store.fip_in_size = 2;
    MapContents actual;
    Tables desired;
    desired.config.layout = FL_ABI_LAYOUT;
    for (__u8 i = 1; i <= 5; ++i)
        desired.fip_in[{.segment = 1, .fip = {172, 24, 5, i}}] = {};
    const auto full = TableSync(store, actual).run(desired);
    REQUIRE_FALSE(full);
    CHECK(full.error().code == ExitCode::kTableFull);
    CHECK(full.error().what.find("172.24.5.3 in segment 1 does not fit, 3 rows left to Linux") != std::string::npos);
    CHECK(store.held.tables.fip_in.size() == 2);
    store.fip_in_size = 5;
    REQUIRE(TableSync(store, actual).run(desired));
    CHECK(equal(store.held.tables, desired));
}

}  // namespace fiplane::test
