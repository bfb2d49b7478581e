"""Logins a second of the auth process by itself, its CPU per login, and how alike its refusals are.

A real auth process between a master and a worker that are played here: ``python -m bench.logins [--logins N]``. Each
login is a whole one: request, grant, answer, start, release, so every one writes the books. With ``--radius`` a
FreeRADIUS on the loopback of a namespace decides and gets the accounting, on the same processors.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from sstpfarm.config.addresses import parse_range
from sstpfarm.config.books import Auth
from sstpfarm.config.fields import Method, Password
from sstpfarm.config.ppp import Profile, Secret
from sstpfarm.config.radius import Radius, RadiusServer
from sstpfarm.config.views import AuthView, PoolView
from sstpfarm.ipc.channel import channel_pair
from sstpfarm.ipc.messages import (
    AccessAccept,
    AccessReject,
    AccessRequest,
    Grant,
    SessionReleased,
    SessionStarted,
    WorkerAttached,
)
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.proto.ppp import mschap
from tests.e2e import freeradius
from tests.e2e.netns import inside, namespace

AUTH_USER = 65533
USERS = 10_000
METHODS: Final[tuple[Method, ...]] = ("mschap2", "pap")
PASSWORD = "correct horse"  # noqa: S105 - of users who are made here
CHALLENGE = bytes(range(16))
TO_MASTER = msgspec.msgpack.Decoder(may_send(Party.AUTH, Party.MASTER))
TO_WORKER = msgspec.msgpack.Decoder(may_send(Party.AUTH, Party.WORKER))
HASH = mschap.nt_hash(PASSWORD)


class AuthProcess:
    """A running auth process with one worker."""

    def __init__(self, state: Path, view: AuthView) -> None:
        (state / "auth").mkdir(mode=0o700)
        os.chown(state / "auth", AUTH_USER, AUTH_USER)
        self.master, theirs = channel_pair()
        config = seal_memfd("config", msgspec.msgpack.encode(view))
        words = {"fd-master": theirs.fileno(), "fd-config": config, "uid": AUTH_USER, "gid": AUTH_USER}
        options = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "sstpfarm.auth.process", *options],
            pass_fds=(theirs.fileno(), config),
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        os.close(config)
        self.receive(self.master)  # AuthReady
        self.worker, end = channel_pair()
        socket.send_fds(self.master, [msgspec.msgpack.encode(WorkerAttached(0, generation=1))], [end.fileno()])
        end.close()
        self.master.setblocking(True)
        self.worker.setblocking(True)

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def receive(self, end: socket.socket) -> object:
        select.select([end], [], [], 30)
        return (TO_MASTER if end is self.master else TO_WORKER).decode(end.recv(65536))


def settings(state: Path) -> AuthView:
    """10,000 users, and nothing that holds a refusal back."""
    return AuthView(
        state_directory=str(state),
        log_format="json",
        methods=METHODS,
        ipv6=True,
        failure_delay_s=0.0,
        max_starting=1500,
        default_profile="default",
        profiles={"default": Profile(local_address="10.0.0.1", remote_address="pool:main")},
        secrets={f"user{number}": Secret(password=Password(PASSWORD)) for number in range(USERS)},
        pools={"main": PoolView.of([parse_range("10.1.0.0/16")])},
        reserved=(),
        auth=Auth(failures_per_minute=0),
    )


def through_radius(view: AuthView) -> AuthView:
    """The same, without users of its own."""
    server = RadiusServer(address="127.0.0.1", secret=Password(freeradius.SECRET))
    return msgspec.structs.replace(
        view,
        secrets={},
        auth=Auth(backends=("radius",), failures_per_minute=0),
        radius=Radius(server=(server,), nas_identifier="bench"),
    )


def request(number: int, user: str, method: Method, right: bool = True) -> AccessRequest:
    """A peer's proof."""
    asked = AccessRequest(
        session=f"{number:016x}",
        user=user.encode(),
        method=method,
        caller_id="192.0.2.1:1",
        mtu=1400,
        slot=number % 1000,
    )
    if method == "pap":
        return msgspec.structs.replace(asked, password=PASSWORD.encode() if right else b"wrong password")
    hashed = mschap.challenge_hash(CHALLENGE, CHALLENGE, user.encode())
    answer = mschap.challenge_response(hashed, HASH if right else bytes(16))
    return msgspec.structs.replace(asked, challenge=CHALLENGE, value=mschap.response_value_v2(CHALLENGE, answer))


def logins(auth: AuthProcess, count: int, method: Method, at_once: int = 50) -> tuple[float, float]:
    """Do that many whole logins, some at once; return logins a second and CPU seconds of auth for each."""
    requests = [msgspec.msgpack.encode(request(number, f"user{number % USERS}", method)) for number in range(count)]
    encode = msgspec.msgpack.encode
    began, used = time.perf_counter(), auth.cpu()
    sent = done = granted = 0
    while done < count or granted < count:
        while sent < count and sent - done < at_once:
            auth.worker.send(requests[sent])
            sent += 1
        ready, _, _ = select.select([auth.master, auth.worker], [], [], 30)
        assert ready, "auth does not answer"
        for end in ready:
            message = auth.receive(end)
            if isinstance(message, Grant):
                granted += 1
                session = message.session
                auth.master.send(encode(SessionStarted(worker=0, session=session, interface="sstp0")))
                released = SessionReleased(worker=0, session=session, reason="peer-disconnect", opened=True, seconds=1)
                auth.master.send(encode(released))
            elif end is auth.worker:
                assert isinstance(message, AccessAccept), message
                done += 1
    return count / (time.perf_counter() - began), (auth.cpu() - used) / count


def refusal(auth: AuthProcess, number: int, user: str, method: Method) -> float:
    """Seconds to a refusal."""
    data = msgspec.msgpack.encode(request(number, user, method, right=False))
    began = time.perf_counter()
    auth.worker.send(data)
    answer = auth.receive(auth.worker)
    assert isinstance(answer, AccessReject), answer
    return time.perf_counter() - began


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.logins")
    parser.add_argument("--logins", type=int, default=5000)
    parser.add_argument("--refusals", type=int, default=2000)
    parser.add_argument("--radius", action="store_true", help="ask a FreeRADIUS; as root")
    options = parser.parse_args()
    if not options.radius:
        measure(settings, options)
        return
    users = {f"user{number}": (PASSWORD, ()) for number in range(USERS)}
    with namespace("logins") as place, freeradius.freeradius(place, users):
        inside(place, lambda: measure(lambda state: through_radius(settings(state)), options))


def measure(view: Callable[[Path], AuthView], options: argparse.Namespace) -> None:
    """Measure an auth process with that view, and print."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        auth = AuthProcess(Path(name), view(Path(name)))
        try:
            for method in METHODS:
                rate, cpu = logins(auth, options.logins, method)
                say(f"{method}: {rate:.0f} logins a second, {1e6 * cpu:.0f} us of CPU each")
            for method in METHODS if not options.radius else ():
                times: dict[str, list[float]] = {"known": [], "unknown": []}
                for number in range(options.refusals):  # in turns, so that load on the machine meets both alike
                    times["known"].append(refusal(auth, 10**9 + number, f"user{number % USERS}", method))
                    times["unknown"].append(refusal(auth, 2 * 10**9 + number, f"none{number % USERS}", method))
                known, unknown = (1e6 * statistics.median(found) for found in times.values())
                apart = abs(known - unknown) / known
                say(f"{method}: refused after {known:.0f} us (known), {unknown:.0f} us (unknown): {apart:.1%} apart")
        finally:
            auth.master.close()
            auth.worker.close()
            auth.process.wait(10)


if __name__ == "__main__":
    main()
