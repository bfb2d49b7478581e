"""Many TCP streams and UDP datagrams between two namespaces, in the test's own process, every byte checked."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from .netns import Namespace

_PATTERN: Final = random.Random(4434).randbytes(1 << 16)
PATIENCE: Final = 60.0
MOST: Final = 256  # datagrams on their way: the queue of a TUN device holds 500, however slow who empties it
LOST: Final = 2.0  # seconds until those that are missing do not count for that any more
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h: beyond net.core.rmem_max too


@dataclass(frozen=True)
class Endpoint:
    """An address in a namespace; a link-local one with its interface."""

    place: Namespace
    address: str
    interface: str = ""

    def at(self, port: int) -> Any:
        """The socket address of a port there."""
        if ":" not in self.address:
            return self.address, port
        (link,) = self.place.ip("link", "show", "dev", self.interface)
        return self.address, port, 0, link["ifindex"]

    def seen_from(self, other: Endpoint, port: int) -> Any:
        """The same, for a socket in the other one's namespace."""
        return Endpoint(other.place, self.address, other.interface).at(port)

    def open(self, kind: int) -> socket.socket:
        """A socket bound there, to any port."""
        sock = self.place.open_socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, kind)
        sock.settimeout(PATIENCE)
        sock.bind(self.at(0))
        return sock


def content(number: int, size: int) -> bytes:
    """What stream `number` carries."""
    start = number * 257 % 1000
    return struct.pack("!I", number) + (_PATTERN[start:] + _PATTERN * (size // len(_PATTERN) + 1))[: size - 4]


def send_streams(sender: Endpoint, receiver: Endpoint, count: int, size: int) -> None:
    """Carry `count` TCP streams of `size` bytes at once; AssertionError unless each arrives whole."""
    expected = {number: hashlib.sha256(content(number, size)).digest() for number in range(count)}
    arrived: dict[int, bytes] = {}
    errors: list[BaseException] = []

    def take(sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(PATIENCE)
                parts = []
                while part := sock.recv(1 << 16):
                    parts.append(part)
                whole = b"".join(parts)
                arrived[struct.unpack_from("!I", whole)[0]] = hashlib.sha256(whole).digest()
        except (OSError, struct.error) as error:
            errors.append(error)

    def give(number: int, address: Any) -> None:
        try:
            with sender.open(socket.SOCK_STREAM) as sock:
                sock.connect(address)
                sock.sendall(content(number, size))
        except OSError as error:
            errors.append(error)

    with receiver.open(socket.SOCK_STREAM) as listener:
        listener.listen(count)
        address = receiver.seen_from(sender, listener.getsockname()[1])
        givers = [threading.Thread(target=give, args=(number, address)) for number in range(count)]
        for giver in givers:
            giver.start()
        takers = [threading.Thread(target=take, args=(listener.accept()[0],)) for _ in range(count)]
        for taker in takers:
            taker.start()
        for thread in (*givers, *takers):
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a stream hangs"
    assert not errors, errors
    assert arrived == expected


def send_datagrams(
    sender: Endpoint, receiver: Endpoint, sizes: list[int], *, burst: int = 64, pause: float = 0.005
) -> list[int]:
    """Send a UDP datagram of each size; the numbers of those that arrived, in the order of their arrival.

    AssertionError when one arrives changed.
    """
    got: list[int] = []
    wrong: list[bytes] = []
    with sender.open(socket.SOCK_DGRAM) as out, receiver.open(socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        address = receiver.seen_from(sender, sink.getsockname()[1])

        def take() -> None:
            while True:
                data = sink.recv(1 << 16)
                number = struct.unpack_from("!I", data)[0]
                if number == len(sizes):
                    return
                if data == content(number, sizes[number]):
                    got.append(number)
                else:
                    wrong.append(data)

        taker = threading.Thread(target=take)
        taker.start()
        pacing = threading.Event()
        for start in range(0, len(sizes), burst):
            for number in range(start, min(start + burst, len(sizes))):
                out.sendto(content(number, sizes[number]), address)
            pacing.wait(pause)
            patience = time.monotonic() + LOST
            while start + burst - len(got) > MOST and time.monotonic() < patience:
                pacing.wait(pause)
        while taker.is_alive():  # the last word may be lost too
            out.sendto(struct.pack("!I", len(sizes)), address)
            taker.join(0.05)
    assert not wrong, f"{len(wrong)} datagrams were changed on the way, the first: {wrong[0][:80].hex()}"
    return got
