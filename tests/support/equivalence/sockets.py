# SPDX-License-Identifier: Apache-2.0
"""Raw sockets: frames into the node under test, and everything that leaves it, as a wire would carry it.

What a veth hands over is not always what a wire carries: checksums may be unfinished (CHECKSUM_PARTIAL), several
segments may be one frame (GSO), and a VLAN tag stands beside the frame. A capture undoes all three, so that two ways to
the same packets on a wire compare as equal.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from dataclasses import dataclass

from equivalence.build import TCP, UDP, checksum, ones_sum, pseudo_header
from namespaces import PACKET_AUXDATA, SOL_PACKET, inside, with_tag

PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 15, 23
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
VNET_NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_UDP_L4 = 0, 1, 5
GSO_ECN = 0x80
VNET_HEADER = struct.Struct("<BBHHHH")
SEND_PATIENCE = 0.02


@dataclass(frozen=True)
class VnetHeader:
    """What a VM's driver says of a frame that it did not finish (virtio_net_hdr). Offsets from the frame's start."""

    csum_start: int
    csum_offset: int
    gso_type: int = GSO_NONE
    gso_size: int = 0
    header_length: int = 0

    def pack(self) -> bytes:
        return VNET_HEADER.pack(
            VNET_NEEDS_CSUM, self.gso_type, self.header_length, self.gso_size, self.csum_start, self.csum_offset
        )


def _raw_socket(netns_path: str, device: str, protocol: int) -> socket.socket:
    with inside(netns_path):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind((device, protocol))
        return made


class Injector:
    """Sends frames out of a device, so that they arrive at the node behind it."""

    def __init__(self, netns_path: str, device: str):
        self.device = device
        self._plain = _raw_socket(netns_path, device, 0)
        self._offloaded = _raw_socket(netns_path, device, 0)
        self._offloaded.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

    def send(self, frame: bytes, header: VnetHeader | None = None) -> None:
        """A full queue is waited for. What the link refuses (a veth: more than its end's MTU) is lost there."""
        deadline = time.monotonic() + SEND_PATIENCE
        while True:
            try:
                if header is None:
                    self._plain.send(frame)
                else:
                    self._offloaded.send(header.pack() + frame)
                return
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EMSGSIZE):
                    raise
                if error.errno == errno.EMSGSIZE or time.monotonic() > deadline:
                    return
                time.sleep(0.0005)

    def close(self) -> None:
        self._plain.close()
        self._offloaded.close()


class Capture:
    """Frames that come in at a device, finished and cut to what a wire carries."""

    def __init__(self, name: str, netns_path: str, device: str):
        self.name = name
        with inside(netns_path):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        for option in (PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
            self._socket.setsockopt(SOL_PACKET, option, 1)
        with inside(netns_path):
            self._socket.bind((device, ETH_P_ALL))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[bytes]:
        """What has arrived since the last time."""
        frames: list[bytes] = []
        while True:
            try:
                data, control, _, _ = self._socket.recvmsg(70000, 64)
            except BlockingIOError:
                return frames
            frames.extend(finished(data, control))

    def close(self) -> None:
        self._socket.close()


def finished(data: bytes, control: list) -> list[bytes]:
    """The frames of a wire that a captured one stands for. `data` begins with the virtio_net_hdr."""
    flags, gso_type, _, gso_size, csum_start, csum_offset = VNET_HEADER.unpack_from(data)
    frame = data[VNET_HEADER.size :]
    if gso_type & ~GSO_ECN:
        frames = segments(frame, gso_type & ~GSO_ECN, gso_size, csum_start)
    elif flags & VNET_NEEDS_CSUM:
        frames = [_completed(frame, csum_start, csum_offset)]
    else:
        frames = [frame]
    return [with_tag(frame, control) for frame in frames]


def _completed(frame: bytes, start: int, offset: int) -> bytes:
    """The checksum field holds the pseudo header's sum already."""
    at = start + offset
    value = 0xFFFF ^ ones_sum(frame[start:])
    if offset == 6 and value == 0:  # UDP, RFC 768
        value = 0xFFFF
    return frame[:at] + struct.pack("!H", value) + frame[at + 2 :]


def segments(frame: bytes, gso_type: int, size: int, start: int) -> list[bytes]:
    """What segmentation makes of a plain IPv4 frame whose transport header begins at `start`."""
    ip = 14
    if frame[12:14] != b"\x08\x00" or gso_type not in (GSO_TCPV4, GSO_UDP_L4) or not size:
        return [frame]
    transport = (frame[start + 12] >> 4) * 4 if gso_type == GSO_TCPV4 else 8
    header, payload = frame[: start + transport], frame[start + transport :]
    out = []
    for number, at in enumerate(range(0, len(payload), size)):
        part, last = payload[at : at + size], at + size >= len(payload)
        made = bytearray(header + part)
        struct.pack_into("!H", made, ip + 2, len(made) - ip)
        ident = struct.unpack_from("!H", made, ip + 4)[0]
        struct.pack_into("!H", made, ip + 4, (ident + number) & 0xFFFF)
        made[ip + 10 : ip + 12] = b"\0\0"
        struct.pack_into("!H", made, ip + 10, checksum(bytes(made[ip:start])))
        if gso_type == GSO_TCPV4:
            sequence = struct.unpack_from("!I", made, start + 4)[0]
            struct.pack_into("!I", made, start + 4, (sequence + at) & 0xFFFFFFFF)
            if not last:
                made[start + 13] &= ~0x09  # FIN, PSH
            if number:
                made[start + 13] &= ~0x80  # CWR
            field, protocol = start + 16, TCP
        else:
            struct.pack_into("!H", made, start + 4, 8 + len(part))
            field, protocol = start + 6, UDP
        made[field : field + 2] = b"\0\0"
        covered = bytes(made[start:])
        sum_over = pseudo_header(bytes(made[ip + 12 : ip + 16]), bytes(made[ip + 16 : ip + 20]), protocol, len(covered))
        struct.pack_into("!H", made, field, checksum(sum_over + covered) or (0xFFFF if protocol == UDP else 0))
        out.append(bytes(made))
    return out


def wait_readable(captures: list[Capture], seconds: float) -> bool:
    return bool(select.select(captures, [], [], seconds)[0])
