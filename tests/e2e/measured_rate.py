"""The rate at which a tunnel carries a TCP stream that goes as fast as it can, from the counters of the interface."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .netns import Namespace

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: what is not sent yet is forgotten


@contextmanager
def stream(sender: Namespace, receiver: Namespace, address: str, congestion: str = "") -> Iterator[None]:
    """A TCP stream without end, as fast as it goes, as long as the block lasts; with that congestion control."""
    stop = threading.Event()
    with receiver.listener(address) as listener, sender.open_socket() as out:
        out.settimeout(60)
        if congestion:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        out.connect(listener.getsockname())
        taker, _ = listener.accept()
        taker.settimeout(60)

        def give() -> None:
            with suppress(OSError):  # the end comes while it sends
                while not stop.is_set():
                    out.send(bytes(1 << 16))

        def take() -> None:
            with suppress(OSError):
                while taker.recv(1 << 16):
                    pass

        threads = [threading.Thread(target=give), threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for sock in (out, taker):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                with suppress(OSError):  # the other end was first
                    sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            taker.close()


def received(place: Namespace, interface: str) -> int:
    """Bytes that came out of a tunnel there."""
    (link,) = place.ip("-statistics", "link", "show", "dev", interface)
    return int(link["stats64"]["rx"]["bytes"])


def samples(place: Namespace, interface: str, seconds: float) -> list[tuple[float, int]]:
    """The counter again and again, each with its time."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.monotonic()
        value = received(place, interface)
        found.append(((before + time.monotonic()) / 2, value))  # `ip` takes its time on a busy machine
        time.sleep(0.05)
    return found


def rates(found: list[tuple[float, int]], least: float) -> list[float]:
    """Bit/s between each sample and the first that is `least` seconds later."""
    made = []
    for number, (begin, first) in enumerate(found):
        later = next(((at, value) for at, value in found[number:] if at - begin >= least), None)
        if later is not None:
            made.append((later[1] - first) * 8 / (later[0] - begin))
    return made


def whole_rate(found: list[tuple[float, int]]) -> float:
    """Bit/s from the first sample to the last one."""
    return (found[-1][1] - found[0][1]) * 8 / (found[-1][0] - found[0][0])
