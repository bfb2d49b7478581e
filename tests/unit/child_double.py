"""A process that plays a worker for the tests of `master.child`: it does what its --script says, message by message."""

from __future__ import annotations

import argparse
import socket
import sys
import time

import msgspec

from sstpfarm.ipc import messages as m

SESSION = "0" * 16


def main() -> int:
    """Play the script; each letter is one act."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd-master", type=int)
    parser.add_argument("--script")
    options = parser.parse_args()
    master = socket.socket(fileno=options.fd_master)
    master.setblocking(True)

    def send(message: m.Message) -> None:
        master.send(msgspec.msgpack.encode(message))

    for act in options.script:
        match act:
            case "r":
                send(m.WorkerReady())
            case "c":
                send(m.SessionClosed(session=SESSION, reason="shutdown"))
            case "g":
                master.send(b"garbage")
            case "a":
                send(m.AuthReady())
            case "P":
                send(m.Pong(number=99))
            case "p":
                master.recv(4096)
                send(m.Pong(number=1))
            case "w":  # wait for the master to say something, or to go
                master.recv(4096)
            case "s":
                time.sleep(60)
            case "e":
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
