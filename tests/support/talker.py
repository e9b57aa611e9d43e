# SPDX-License-Identifier: Apache-2.0
"""Many long-lived connections of one host, in one process: TCP, UDP and echoes (ping), each a sequence of numbered messages
that the other end sends back. Orders come as lines of JSON on stdin, each is answered by one line on stdout:

    {"open": [{"id": "7", "protocol": "udp", "to": "203.0.113.101", "interval": 0.3, "size": 40, "far_talks": false}, ...]}
    {"say": ["7", ...], "count": 3, "interval": 0.2}
    {"stop": ["7", ...]}
    {"report": []}

A connection with an interval sends a message that often, until it is stopped; without one (null) only what it is told to say.
Where the far end talks, it is the one that sends messages, and the opener sends them back. A message is a line: the
connection's id, its number and padding; what comes back has the address, as the answering end sees it, in place of the
padding's beginning.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time

PORT = 7007
LINE = 1 << 20
MOST_UNANSWERED = 50  # of TCP, where a message that is late keeps the others waiting
ECHO_REQUEST, ECHO_REPLY = 8, 0
SO_RCVBUFFORCE, RECEIVE_BUFFER = 33, 8 << 20


class Talk:
    """The talking end of a connection."""

    def __init__(self, id: str, interval: float | None, size: int):
        self.id = id
        self.interval = interval
        self.size = size
        self.sent = self.answered = self.last = 0
        self.waiting_since: float | None = None  # when the first message left that is younger than the last answer
        self.worst_wait = 0.0
        self.seen_as: set[str] = set()  # the opener's address, as the other end sees it
        self.own = ""
        self.broken = ""
        self.most_unanswered = 1 << 30
        self.write = lambda data: None

    def message(self, number: int) -> bytes:
        return f"{self.id} {number} ".encode().ljust(self.size - 1, b".") + b"\n"

    def say(self) -> None:
        if self.broken or self.sent - self.answered >= self.most_unanswered:
            return
        self.sent += 1
        if self.waiting_since is None:
            self.waiting_since = time.monotonic()
        try:
            self.write(self.message(self.sent))
        except OSError:
            pass  # it counts as sent: what comes of it the answers tell

    def on_answer(self, number: int, seen_as: str = "") -> None:
        self.answered += 1
        if seen_as:
            self.seen_as.add(seen_as)
        if number > self.last:
            self.last = number
            self._note_wait()
            self.waiting_since = None if number == self.sent else time.monotonic()

    def _note_wait(self) -> None:
        if self.waiting_since is not None:
            self.worst_wait = max(self.worst_wait, time.monotonic() - self.waiting_since)

    async def talk(self) -> None:
        while (interval := self.interval) is not None and not self.broken:
            self.say()
            await asyncio.sleep(interval)

    async def say_some(self, count: int, interval: float) -> None:
        for _ in range(count):
            self.say()
            await asyncio.sleep(interval)

    def report(self) -> dict:
        self._note_wait()
        return {"sent": self.sent, "answered": self.answered, "wait": round(self.worst_wait, 3), "broken": self.broken,
                "seen_as": sorted(self.seen_as), "own": self.own, "unanswered": self.sent - self.last}


class Udp(asyncio.DatagramProtocol):
    def __init__(self, on_line):
        self.on_line = on_line

    def connection_made(self, transport) -> None:
        # Nothing is to be lost here, also if this process gets no CPU for a while.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)

    def datagram_received(self, data: bytes, address) -> None:
        self.on_line(data, address)

    def error_received(self, error: OSError) -> None:
        pass  # an ICMP error. Whether anything is lost the answers tell


def answer(line: bytes, address) -> bytes:
    """The same line, of the same length if there is room."""
    id, number, padding = line.split(b" ", 2)
    seen = f"{address[0]}:{address[1]} ".encode()
    return b" ".join((id, number, seen + padding[len(seen):] if len(padding) > len(seen) else seen + b"\n"))


class Talker:
    def __init__(self) -> None:
        self.talks: dict[str, Talk] = {}
        self.callers: dict[str, set[str]] = {}  # of connections to this host by UDP, by id: where they come from
        self.tasks: set[asyncio.Task] = set()
        self.pings: dict[int, Talk] = {}
        self.by_far: dict[str, Talk] = {}  # connections by which this host talks to its opener

    def spawn(self, work) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self.serve, "0.0.0.0", PORT, limit=LINE, backlog=500)
        self.udp, _ = await loop.create_datagram_endpoint(lambda: Udp(self.on_datagram), local_addr=("0.0.0.0", PORT))
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.icmp.setblocking(False)
        loop.add_reader(self.icmp, self.on_icmp)
        orders = asyncio.StreamReader(limit=1 << 24)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        print(json.dumps({"ready": True}), flush=True)
        while line := await orders.readline():
            print(json.dumps(await self.obey(json.loads(line))), flush=True)
        server.close()

    async def obey(self, order: dict) -> dict:
        if "open" in order:
            # One that does not come to be is broken; which ones, the report says.
            await asyncio.gather(*(self.open(one) for one in order["open"]))
        elif "say" in order:
            for id in order["say"]:
                if id in self.talks:
                    self.spawn(self.talks[id].say_some(order["count"], order["interval"]))
        elif "stop" in order:
            for id in order["stop"]:
                if id in self.talks:
                    self.talks[id].interval = None
        else:
            return {"talks": {id: talk.report() for id, talk in self.talks.items()},
                    "callers": {id: sorted(addresses) for id, addresses in self.callers.items() if len(addresses) > 1}}
        return {}

    # Connections that this host opens

    async def open(self, order: dict) -> None:
        talk = Talk(order["id"], None if order["far_talks"] else order["interval"], order["size"])
        if order["far_talks"]:
            greeting = f"{talk.id} hello {json.dumps([order['interval'], order['size']])}\n".encode()
        else:
            greeting = b""
            self.talks[talk.id] = talk
        try:
            await getattr(self, f"open_{order['protocol']}")(talk, order["to"], greeting)
        except OSError as error:
            talk.broken = f"it did not come to be: {error}"
            self.talks[talk.id] = talk
            return
        self.spawn(talk.talk())

    async def open_tcp(self, talk: Talk, to: str, greeting: bytes) -> None:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(to, PORT, limit=LINE), 10)
        talk.own = str(writer.get_extra_info("sockname")[1])
        talk.most_unanswered = MOST_UNANSWERED
        talk.write = writer.write
        writer.write(greeting)
        self.spawn(self.read_lines(talk, reader, writer, bool(greeting)))

    async def read_lines(self, talk: Talk, reader, writer, answers: bool) -> None:
        """Also of the end that did not open it. `answers`: the other end talks."""
        try:
            while line := await reader.readline():
                if answers:
                    writer.write(answer(line, writer.get_extra_info("peername")))
                else:
                    self.on_answer(talk, line)
            talk.broken = "closed by the other end"
        except (OSError, asyncio.IncompleteReadError) as error:
            talk.broken = f"{error}"
        self.talks.setdefault(talk.id, talk)  # the broken are reported by both ends

    def on_answer(self, talk: Talk, line: bytes) -> None:
        _, number, seen, *_ = line.split(None, 3)
        talk.on_answer(int(number), seen.decode())

    async def open_udp(self, talk: Talk, to: str, greeting: bytes) -> None:
        greeted = asyncio.Event()

        def on_line(line: bytes, _) -> None:
            if greeting:
                greeted.set()
                transport.sendto(answer(line, (to, PORT)))
            else:
                self.on_answer(talk, line)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Udp(on_line), remote_addr=(to, PORT))
        talk.own = str(transport.get_extra_info("sockname")[1])
        talk.write = transport.sendto
        while greeting and not greeted.is_set():
            transport.sendto(greeting)
            await asyncio.sleep(0.3)

    async def open_ping(self, talk: Talk, to: str, greeting: bytes) -> None:
        id = 1 + len(self.pings)
        self.pings[id] = talk

        def write(line: bytes) -> None:
            number = int(line.split()[1])
            head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, id, number & 0xFFFF)
            data = head + line
            total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            self.icmp.sendto(data[:2] + struct.pack("!H", ~total & 0xFFFF) + data[4:], (to, 0))

        talk.write = write

    def on_icmp(self) -> None:
        while True:
            try:
                packet = self.icmp.recv(65536)
            except BlockingIOError:
                return
            message = packet[(packet[0] & 0xF) * 4:]
            talk = self.pings.get(int.from_bytes(message[4:6], "big"))
            if message[0] == ECHO_REPLY and talk and message[8:].split(b" ", 1)[0] == talk.id.encode():
                talk.on_answer(int(message[8:].split()[1]))

    # Connections that others open

    def hear_greeting(self, line: bytes, write, address) -> Talk:
        id, _, what = line.decode().split(None, 2)
        interval, size = json.loads(what)
        talk = Talk(id, interval, size)
        talk.write = write
        self.talks[id] = talk
        talk.say()
        self.spawn(talk.talk())
        return talk

    async def serve(self, reader, writer) -> None:
        peer = writer.get_extra_info("peername")
        try:
            first = await reader.readline()
        except OSError:
            return
        if not first:
            return
        if first.split()[1] == b"hello":
            talk = self.hear_greeting(first, writer.write, peer)
            talk.most_unanswered = MOST_UNANSWERED
            await self.read_lines(talk, reader, writer, False)
        else:
            talk = Talk(first.split(None, 1)[0].decode(), None, 0)
            writer.write(answer(first, peer))
            await self.read_lines(talk, reader, writer, True)

    def on_datagram(self, line: bytes, address) -> None:
        id, word, *_ = line.split(None, 2)
        name = id.decode()
        self.callers.setdefault(name, set()).add(f"{address[0]}:{address[1]}")
        if word == b"hello":
            if name not in self.by_far:
                self.by_far[name] = self.hear_greeting(line, lambda data: self.udp.sendto(data, address), address)
            else:
                self.by_far[name].say()
        elif name in self.by_far:
            self.on_answer(self.by_far[name], line)
        else:
            self.udp.sendto(answer(line, address), address)


if __name__ == "__main__":
    asyncio.run(Talker().run())
