"""Bulk data over TCP between two namespaces, in the test's own process, with SHA-256 at both ends."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import Final

from .netns import Namespace

BLOCK: Final = 1 << 18
_SEED: Final = random.Random(443).randbytes(BLOCK)


def transfer(sender: Namespace, receiver: Namespace, address: str, megabytes: int, source: str = "") -> tuple[str, str]:
    """Send that many MB (10^6 bytes) from one namespace to `address` in the other.

    `source` binds the sender's end. Returns the SHA-256 of what was sent and of what was received.
    """
    total = megabytes * 1_000_000
    sent, received = hashlib.sha256(), hashlib.sha256()
    failures: list[BaseException] = []
    with receiver.listener(address) as listener:
        port = listener.getsockname()[1]

        def receive() -> None:
            try:
                with listener.accept()[0] as sock:
                    sock.settimeout(60)
                    while part := sock.recv(BLOCK):
                        received.update(part)
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        with sender.open_socket() as sock:
            sock.settimeout(60)
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            for start in range(0, total, BLOCK):
                # each block differs from every other, so that a lost or repeated one shows
                block = (start.to_bytes(8, "big") + _SEED)[: min(BLOCK, total - start)]
                sock.sendall(block)
                sent.update(block)
        thread.join(90)
        assert not thread.is_alive(), "the receiver hangs"
    assert not failures, failures
    return sent.hexdigest(), received.hexdigest()
