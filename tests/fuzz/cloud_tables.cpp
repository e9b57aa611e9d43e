// SPDX-License-Identifier: Apache-2.0
// The cloud's rows in the form of the BPF tables.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "fuzz/cloud.hpp"
#include "fuzz/wire.hpp"

namespace fiplane::test {
namespace {

void copy(const Mac& from, __u8 (&to)[6]) {
    std::ranges::copy(from.bytes, to);
}

void copy(Ipv4 from, __u8 (&to)[4]) {
    std::ranges::copy(from.bytes(), to);
}

class Writer {
  public:
    Writer(const Cloud& cloud, const BpfObjects& objects) : cloud_(cloud), objects_(objects) {}

    void write() const {
        config();
        sources();
        tunnels();
        devices();
        routers();
        segments();
        journeys();
    }

  private:
    template <typename K, typename V>
    void put(const char* map, const K& key, const V& value) const {
        objects_.update(map, &key, &value);
    }

    void config() const {
        fl_config config{};
        config.layout = FL_ABI_LAYOUT;
        config.vxlan_port = kVxlanPort;
        config.geneve_port = kGenevePort;
        config.gre = 1;
        config.lease_end = std::numeric_limits<std::int32_t>::max();  // never
        copy_bytes(config.vtep, IpAddress(cloud_.vtep));
        put("fl_config", std::uint32_t{0}, config);
    }

    void sources() const {
        for (const CloudPort& port : cloud_.ports) {
            fl_source row{};
            row.role = FL_ROLE_PORT;
            row.segment = port.segment;
            copy(port.mac, row.mac);
            copy(port.ip, row.ip);
            row.flags = port.checked ? FL_SRC_CHECK : FL_SRC_LEARNS;
            source(port.ifindex, row);
        }
        for (const CloudSegment& segment : cloud_.segments) {
            fl_source row{};
            row.segment = segment.bridge;
            row.role = FL_ROLE_HOST;
            source(segment.bridge, row);
        }
        for (const CloudTunnel& tunnel : cloud_.tunnels) {
            fl_source row{};
            row.segment = tunnel.segment;
            row.role = FL_ROLE_TUNNEL;
            row.flags = flags_of(tunnel);
            source(tunnel.device, row);
        }
    }

    void source(std::uint32_t ifindex, fl_source row) const {
        row.port = ifindex;
        put("fl_sources", fl_source_key{.ifindex = ifindex, .vlan = 0, .pad = {}}, row);
    }

    void tunnels() const {
        for (const CloudTunnel& tunnel : cloud_.tunnels) {
            fl_tunnel_key key{.type = tunnel.type, .id = tunnel.id, .peer = {}};
            copy_bytes(key.peer, IpAddress(tunnel.peer));
            fl_tunnel row{};
            row.segment = tunnel.segment;
            row.ifindex = tunnel.device;
            copy(cloud_.underlay_mac, row.mac);
            row.type = static_cast<std::uint8_t>(tunnel.type);
            copy_bytes(row.peer, IpAddress(tunnel.peer));
            row.outer_len = static_cast<std::uint8_t>(tunnel.type == FL_TUNNEL_GRE ? kGreOuterSize : kUdpOuterSize);
            row.flags = flags_of(tunnel);
            put("fl_tunnels", key, row);
        }
    }

    [[nodiscard]] std::uint32_t flags_of(const CloudTunnel& tunnel) const {
        return (tunnel.isolated ? FL_SRC_ISOLATED : 0U) | (tunnel.learns ? FL_SRC_LEARNS : 0U) |
               (cloud_.is_routed(tunnel.device) ? FL_SRC_ROUTED : 0U);
    }

    void devices() const {
        // Those without FL_OUT_XDP, too: it is the row's flag that allows a redirect.
        for (const CloudPort& port : cloud_.ports)
            put("fl_devs", port.ifindex, port.ifindex);
    }

    void routers() const {
        for (const RouterPort& port : cloud_.router_ports) {
            fl_source row{};
            row.role = FL_ROLE_ROUTER;
            row.segment = port.segment.bridge;
            row.router = port.netns;
            source(port.segment.bridge, row);
        }
        for (const CrossingRow& crossing : cloud_.crossings) {
            put("fl_crossings", fl_crossing_key{.device = crossing.veth, .target = crossing.target},
                fl_crossing{.ifindex = crossing.ifindex, .flags = crossing.crosses_on ? FL_OUT_CROSS : 0U});
        }
    }

    void segments() const {
        for (const FdbRow& row : cloud_.fdb) {
            fl_fdb_key key{.segment = row.segment, .mac = {}, .pad = {}};
            copy(row.mac, key.mac);
            put("fl_fdb", key, fl_fdb{.out = out(row.exit), .flags = 0, .last_use = 0});
        }
        for (const ArpRow& row : cloud_.arp) {
            fl_arp_key key{.segment = row.segment, .ip = {}};
            copy(row.ip, key.ip);
            fl_arp value{};
            copy(row.mac, value.mac);
            value.flags = row.crosses_tunnels ? 0 : FL_ARP_NO_TUNNEL;
            put("fl_arp", key, value);
        }
    }

    void journeys() const {
        for (const FipInRow& row : cloud_.fip_in) {
            fl_fip_key key{.segment = row.segment, .fip = {}};
            copy(row.fip, key.fip);
            fl_fip_in value{};
            copy(row.router_mac, value.router_mac);
            value.next = next(row.journey);
            value.netnsid = -1;  // of test runs there is one namespace
            put("fl_fip_in", key, value);
        }
        for (const VmRow& row : cloud_.vms) {
            fl_vm_key key{.port = row.port, .fixed = {}, .router_mac = {}, .pad = {}};
            copy(row.fixed, key.fixed);
            copy(row.router_mac, key.router_mac);
            fl_vm value{};
            copy(row.vm_mac, value.mac);
            copy(row.fip, value.fip);
            value.domain = row.domain;
            put("fl_vms", key, value);
        }
        for (const SenderRow& row : cloud_.senders) {
            fl_sender_key key{};
            key.prefixlen = FL_SENDER_KEY_BITS + row.sources.length;
            key.segment = row.segment;
            copy(row.router_mac, key.router_mac);
            copy(row.sources.address, key.ip);
            put("fl_senders", key, fl_sender{.domain = row.domain});
        }
        for (const DestRow& row : cloud_.dests)
            destination(row);
    }

    void destination(const DestRow& row) const {
        if (row.prefix.length == 32) {
            fl_dest_key key{.domain = row.domain, .ip = {}};
            copy(row.prefix.address, key.ip);
            put("fl_dests", key, next(row.journey));
            return;
        }
        fl_route_key key{.prefixlen = 32U + row.prefix.length, .domain = row.domain, .ip = {}};
        copy(row.prefix.address, key.ip);
        put("fl_routes", key, next(row.journey));
    }

    [[nodiscard]] fl_next next(const Journey& journey) const {
        fl_next next{};
        copy(journey.dmac, next.dmac);
        copy(journey.smac, next.smac);
        copy(journey.dnat, next.dnat);
        next.hops = journey.hops;
        next.mtu = journey.mtu;
        next.flags = (journey.snat ? FL_NEXT_SNAT : 0) | (journey.hairpin ? FL_NEXT_HAIRPIN : 0) |
                     (journey.one_entry ? FL_NEXT_ONE_ENTRY : 0) | (journey.excepts ? FL_NEXT_EXCEPT : 0);
        next.router = journey.router;
        next.out = out(journey.exit);
        return next;
    }

    [[nodiscard]] fl_out out(const Exit& exit) const {
        fl_out out{};
        out.kind = exit.kind;
        out.ifindex = exit.ifindex;
        out.port = exit.port != 0 ? exit.port : exit.ifindex;
        out.flags = exit.crosses ? FL_OUT_CROSS : exit.flags;
        out.mtu = exit.mtu;
        if (exit.kind != FL_OUT_TUNNEL) return out;
        const CloudTunnel& tunnel = *exit.tunnel;
        out.port = tunnel.device;
        out.flags = tunnel.isolated ? FL_OUT_ISOLATED : 0;
        out.tunnel = tunnel.type;
        out.tunnel_id = tunnel.id;
        copy_bytes(out.remote, IpAddress(tunnel.peer));
        copy(cloud_.peer(tunnel.peer)->underlay_mac, out.outer_dmac);
        copy(cloud_.underlay_mac, out.outer_smac);
        return out;
    }

    const Cloud& cloud_;
    const BpfObjects& objects_;
};

}  // namespace

void Cloud::write_tables(const BpfObjects& objects) const {
    Writer(*this, objects).write();
}

}  // namespace fiplane::test
