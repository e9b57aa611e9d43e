# SPDX-License-Identifier: Apache-2.0
"""What somebody outside sees of a VM: connections and echo requests whose source is translated on their way."""

from __future__ import annotations

import random
import subprocess
from typing import Protocol, Sequence

from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet, Raw

from lab import LabError
from timing import scaled

SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    server.settimeout(float(sys.argv[2]))
    print(server.getsockname()[1], flush=True)
    connection, peer = server.accept()
    connection.sendall(connection.recv(100).upper())
    print(peer[0])
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as connection:
    connection.sendall(b"hello")
    print(connection.recv(100).decode())
"""


class Place(Protocol):
    """A node, a VM or a host outside."""

    def run(self, argv: Sequence[str], **options) -> subprocess.CompletedProcess[str]: ...

    def start(self, argv: Sequence[str], **options) -> subprocess.Popen: ...


def tcp_source(client: Place, server: Place, address: str, bind: str | None = None) -> str:
    """The address that a client has for a server that it reaches by `address`, after a word each way. `bind`: the server's
    own address, if it is another."""
    limit = scaled(10)
    listener = server.start(
        ["python3", "-c", SERVER, bind or address, limit], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert listener.stdout is not None
        port = listener.stdout.readline().strip()
        answer = client.run(["python3", "-c", CLIENT, address, port, scaled(5)], check=False)
        seen, complaint = listener.communicate(timeout=limit + 5)
    finally:
        listener.kill()
        listener.wait()
    if answer.stdout.strip() != "HELLO":
        raise LabError(f"no connection to {address}: {answer.stderr}{complaint}")
    return seen.strip()


class Echo:
    """One ping of a test's own. Its ICMP id is the translator's to choose: `learn()` takes it from a frame seen."""

    def __init__(self) -> None:
        self.identifier = random.randrange(1, 65535)
        self.number = random.randrange(1, 65535)
        self.tag = random.randbytes(24)

    def request(self, source: str, destination: str, ttl: int = 64, identifier: int | None = None) -> Packet:
        return IP(src=source, dst=destination, ttl=ttl, id=self.number) / self._icmp(8, identifier)

    def reply(self, source: str, destination: str, ttl: int, number: int, identifier: int | None = None) -> Packet:
        """`number`: the IPv4 ID, which the answering stack chose."""
        return IP(src=source, dst=destination, ttl=ttl, id=number) / self._icmp(0, identifier)

    def _icmp(self, kind: int, identifier: int | None) -> Packet:
        return ICMP(type=kind, id=self.identifier if identifier is None else identifier, seq=1) / Raw(self.tag)

    def is_request(self, packet: Packet, **ip_fields) -> bool:
        return self._is(8, packet, ip_fields)

    def is_reply(self, packet: Packet, **ip_fields) -> bool:
        return self._is(0, packet, ip_fields)

    def _is(self, kind: int, packet: Packet, ip_fields: dict) -> bool:
        if ICMP not in packet or packet[ICMP].type != kind or self.tag not in bytes(packet):
            return False
        return all(getattr(packet[IP], key) == value for key, value in ip_fields.items())
