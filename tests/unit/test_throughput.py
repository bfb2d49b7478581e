"""The two programs that move bytes: what arrives is compared, and every kind of trouble is a failure."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sstpfarm.cli import throughput

COUNTS = [0, 1, throughput.BLOCK, throughput.BLOCK + 1, 3_000_000]


@contextmanager
def peer(behaviour: Callable[[socket.socket], None]) -> Iterator[int]:
    """A peer on loopback that serves one connection like that; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: behaviour(listener.accept()[0]), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize("count", COUNTS)
def test_both_sides_see_the_same_bytes(direction: str, count: int) -> None:
    with peer(throughput.answer) as port:
        found = throughput.transfer(direction, "127.0.0.1", port, count)
    block = random.Random(count).randbytes(throughput.BLOCK)
    whole = (block * (count // len(block) + 1))[:count]
    assert (found["bytes"], found["sha256"]) == (count, hashlib.sha256(whole).hexdigest())


def lie(sock: socket.socket) -> None:
    """Answer a download with other bytes than the checksum says."""
    with sock:
        sock.recv(64)
        sock.sendall(b"x" * 100 + b"0" * throughput.DIGEST_LENGTH)


def hang_up(sock: socket.socket) -> None:
    """Close in the middle of a download."""
    with sock:
        sock.recv(64)
        sock.sendall(b"x" * 50)


def test_other_bytes_are_a_failure() -> None:
    with peer(lie) as port, pytest.raises(ValueError, match="download of 100 bytes: SHA-256"):
        throughput.transfer("download", "127.0.0.1", port, 100)


def test_an_early_end_is_a_failure() -> None:
    with peer(hang_up) as port, pytest.raises(ConnectionError, match="50 bytes too early"):
        throughput.transfer("download", "127.0.0.1", port, 100)


def test_program_reports_a_refused_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert throughput.main(["transfer", "upload", "127.0.0.1", str(port), "10"]) == 1
    assert capsys.readouterr().err.startswith("upload: ")


@pytest.mark.parametrize("words", [[], ["serve"], ["transfer", "sideways", "h", "1", "1"], ["serve", "1", "2"]])
def test_program_refuses_other_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert throughput.main(words) == 64
    assert "transfer upload|download" in capsys.readouterr().err
