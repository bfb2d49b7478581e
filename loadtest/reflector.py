"""The far end of `traffic --sink` and `bulk`: a small UDP program behind the server.

It only ever answers who sent it something with our stamp. ECHO comes back as it is; DATA is counted; QUERY is answered
with the count; BURST is answered with a burst, and only with `--source`, because that sends more than it got.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Final

from loadtest import packets
from loadtest.packets import Kind

MAX_PEERS: Final = 65_536  # whose packets are counted at once
MAX_BURST: Final = 64
RECEIVE_BUFFER: Final = 16 << 20  # bytes, so that it is not here that packets are lost
MAX_DATAGRAM: Final = 65_535
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h


def reflect(host: str, port: int, *, source: bool) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
                break
            except PermissionError:
                continue
        sock.bind((host, port))
        print(f"reflector on {host} port {sock.getsockname()[1]}", flush=True)  # noqa: T201 - a line that tools wait for
        Reflector(sock, source=source).run()
    return 0


class Reflector:
    """Answers what comes to a socket."""

    def __init__(self, sock: socket.socket, *, source: bool) -> None:
        self._sock = sock
        self._source = source
        self._counts: dict[tuple[str, int], list[int]] = {}

    def run(self) -> None:
        """Serve for ever."""
        buffer = memoryview(bytearray(MAX_DATAGRAM))
        while True:
            try:
                size, peer = self._sock.recvfrom_into(buffer)
            except ConnectionRefusedError:  # an answer of ours met nobody
                continue
            answers = self.answer(buffer[:size], peer[:2])
            for data in answers:
                try:
                    self._sock.sendto(data, peer)
                except OSError:  # no route back any more, or no room: as lost as on the wire
                    break

    def answer(self, data: memoryview, peer: tuple[str, int]) -> list[bytes]:
        """What to send back for a datagram."""
        try:
            stamp = packets.read_payload(data)
        except packets.Bad:
            return []
        if stamp.kind == Kind.ECHO:
            return [bytes(data)]
        if stamp.kind == Kind.DATA:
            self._count(peer, len(data) + packets.IPV4_HEADER + packets.UDP_HEADER)
        elif stamp.kind == Kind.QUERY:
            number, octets = self._counts.get(peer, [0, 0])
            return [packets.payload(Kind.REPORT, 0, number, octets, packets.STAMP.size)]
        elif stamp.kind == Kind.BURST and self._source:
            sequences = range(stamp.sequence, stamp.sequence + min(stamp.number, MAX_BURST))
            return [packets.payload(Kind.SOURCE, 0, number, stamp.nanoseconds, len(data)) for number in sequences]
        return []

    def _count(self, peer: tuple[str, int], size: int) -> None:
        found = self._counts.get(peer)
        if found is None:
            if len(self._counts) >= MAX_PEERS:
                del self._counts[next(iter(self._counts))]
            found = self._counts[peer] = [0, 0]
        found[0] += 1
        found[1] += size
