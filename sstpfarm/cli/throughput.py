"""Two small programs that move bytes through a tunnel and check them: `serve` on one side, `transfer` on the other.

They stand alone (standard library only), so that they also run where nothing of sstpfarm is installed:

    python throughput.py serve PORT
    python throughput.py transfer upload|download HOST PORT BYTES [INTERFACE]

`transfer` prints one line of JSON, {"bytes", "seconds", "sha256"}, and fails unless both sides have seen the same
bytes. The wire: the client sends a line `upload N` or `download N`; then N bytes pass in that direction; then the
receiver of an upload, or the sender of a download, sends the SHA-256 as 64 hexadecimal digits and closes.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from typing import Final

BLOCK: Final = 1 << 18  # bytes handed to the socket at once
MAX_BYTES: Final = 1 << 40  # a request for more is a mistake
DIGEST_LENGTH: Final = 64
SILENCE: Final = 30.0  # seconds without a byte after which a transfer has failed
LINE_LIMIT: Final = 64


def send_bytes(sock: socket.socket, count: int) -> str:
    """Send `count` pseudo-random bytes and return their SHA-256 in hexadecimal."""
    block = random.Random(count).randbytes(BLOCK)  # noqa: S311 - a test pattern, not a secret
    digest = hashlib.sha256()
    left = count
    while left:
        part = memoryview(block)[: min(left, BLOCK)]
        sock.sendall(part)
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()


def receive_bytes(sock: socket.socket, count: int) -> str:
    """Receive exactly `count` bytes and return their SHA-256 in hexadecimal.

    Raises:
        ConnectionError: the other side closed earlier.
    """
    buffer = memoryview(bytearray(BLOCK))
    digest = hashlib.sha256()
    left = count
    while left:
        got = sock.recv_into(buffer[: min(left, BLOCK)])
        if not got:
            raise ConnectionError(f"the connection ended {left} bytes too early")
        digest.update(buffer[:got])
        left -= got
    return digest.hexdigest()


def receive_text(sock: socket.socket, count: int) -> str:
    """Receive exactly `count` characters of ASCII."""
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionError("the connection ended too early")
        data += part
    return data.decode("ascii")


def answer(sock: socket.socket) -> None:
    """Serve one request."""
    with sock:
        sock.settimeout(SILENCE)
        line = ""
        while not line.endswith("\n") and len(line) < LINE_LIMIT:
            line += receive_text(sock, 1)
        direction, _, number = line.strip().partition(" ")
        count = min(int(number), MAX_BYTES)
        seen = receive_bytes(sock, count) if direction == "upload" else send_bytes(sock, count)
        sock.sendall(seen.encode("ascii"))


def serve(port: int) -> None:
    """Answer requests on that port until killed; says "ready" when it listens."""
    with socket.create_server(("", port)) as listener:
        print("ready", flush=True)  # noqa: T201 - this program's output
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()


def transfer(direction: str, host: str, port: int, count: int, interface: str = "") -> dict[str, object]:
    """Move `count` bytes and return the measure.

    Args:
        direction: "upload" or "download".
        interface: the device that the connection must take; "" leaves it to the routes.

    Raises:
        OSError: no connection, silence, or an early end.
        ValueError: the two sides have not seen the same bytes.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        if interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.settimeout(SILENCE)
        sock.connect((host, port))
        began = time.perf_counter()
        sock.sendall(f"{direction} {count}\n".encode("ascii"))
        ours = send_bytes(sock, count) if direction == "upload" else receive_bytes(sock, count)
        theirs = receive_text(sock, DIGEST_LENGTH)
        seconds = time.perf_counter() - began
    if ours != theirs:
        raise ValueError(f"{direction} of {count} bytes: SHA-256 {ours} here, {theirs} there")
    return {"bytes": count, "seconds": seconds, "sha256": ours}


def main(words: list[str]) -> int:
    """Run as a program; the exit status."""
    match words:
        case ["serve", port]:
            serve(int(port))
        case ["transfer", ("upload" | "download") as direction, host, port, count, *interface] if len(interface) < 2:
            try:
                print(json.dumps(transfer(direction, host, int(port), int(count), *interface)))  # noqa: T201 - output
            except (OSError, ValueError) as error:
                print(f"{direction}: {error}", file=sys.stderr)  # noqa: T201 - this program's error output
                return 1
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201 - this program's error output
            return 64
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
