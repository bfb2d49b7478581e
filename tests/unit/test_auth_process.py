"""The auth process itself: started as the master starts it, without rights, and gone with its master."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sstpfarm.auth.sqlite.database import FILE_NAME
from sstpfarm.config.fields import STRENGTH
from sstpfarm.ipc.channel import channel_pair
from sstpfarm.ipc.messages import AccessAccept, AccessReject, AccessRequest, AuthReady, Grant, WorkerAttached
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.ipc.process import seal_memfd
from tests.unit.logins import request, view

UID = 65533
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the process gives up root")


class Auth:
    """A running auth process and the master's end of its channel."""

    def __init__(self, state: Path) -> None:
        settings = msgspec.structs.replace(view(delay=0.05), state_directory=str(state))
        self.master, theirs = channel_pair()
        self.ends = [self.master]
        config = seal_memfd("config", msgspec.msgpack.encode(settings))
        fds = (theirs.fileno(), config)
        names = ("--fd-master", "--fd-config", "--uid", "--gid")
        values = (*fds, UID, UID)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sstpfarm.auth.process",
                *(str(part) for pair in zip(names, values, strict=True) for part in pair),
            ],
            pass_fds=fds,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        os.close(config)

    def worker(self, number: int) -> socket.socket:
        ours, theirs = channel_pair()
        data = msgspec.msgpack.encode(WorkerAttached(number, generation=1))
        socket.send_fds(self.master, [data], [theirs.fileno()])
        theirs.close()
        self.ends.append(ours)
        return ours

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Close our ends; return the exit code and the log."""
        for end in self.ends:
            end.close()
        _, text = self.process.communicate(timeout=60)
        return self.process.returncode, [msgspec.json.decode(line) for line in text.splitlines()]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    (directory / "auth").mkdir(parents=True, mode=0o700)
    directory.chmod(0o700)
    os.chown(directory / "auth", UID, UID)
    return directory


@pytest.fixture
def auth(state: Path) -> Iterator[Auth]:
    started = Auth(state)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.end()
    for end in started.ends:
        end.close()


def from_auth(sock: socket.socket, receiver: Party) -> Any:
    ready, _, _ = select.select([sock], [], [], 20)
    assert ready, "no message came"
    return msgspec.msgpack.decode(sock.recv(65536), type=may_send(Party.AUTH, receiver))


def ask(worker: socket.socket, message: AccessRequest) -> Any:
    worker.send(msgspec.msgpack.encode(message))
    return from_auth(worker, Party.WORKER)


def test_it_judges_every_method_without_rights_and_ends_with_its_master(auth: Auth, state: Path) -> None:
    assert isinstance(from_auth(auth.master, Party.MASTER), AuthReady)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{auth.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(UID)}
    assert status["Groups"].strip() == ""
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"

    worker = auth.worker(2)
    for number, method in enumerate(STRENGTH[1:4], 1):
        accept = ask(worker, request(b"alice", "wonderland", method, session=number))
        assert isinstance(accept, AccessAccept)
        grant = from_auth(auth.master, Party.MASTER)
        assert isinstance(grant, Grant)
        assert (grant.worker, grant.terms) == (2, accept.terms)
    assert isinstance(ask(worker, request(b"mallory\xff", "wonderland", "pap", session=9)), AccessReject)
    code, events = auth.end()
    assert code == 0
    assert [event["event"] for event in events] == ["auth.ready", "login.denied"]
    assert {event["role"] for event in events} == {"auth"}
    assert (state / "auth" / FILE_NAME).stat().st_uid == UID


def test_signals_to_the_whole_group_do_not_end_it_before_its_master(auth: Auth) -> None:
    assert isinstance(from_auth(auth.master, Party.MASTER), AuthReady)
    auth.process.send_signal(signal.SIGTERM)
    auth.process.send_signal(signal.SIGINT)
    assert isinstance(ask(auth.worker(0), request(b"alice", "wonderland")), AccessAccept)
    code, _ = auth.end()
    assert code == 0


def test_without_its_directory_it_says_so_and_ends(tmp_path: Path) -> None:
    auth = Auth(tmp_path / "nowhere")
    code, events = auth.end()
    assert code == 71
    assert [event["event"] for event in events] == ["internal.error"]
    assert f"{tmp_path}/nowhere/auth/{FILE_NAME} cannot be opened" in events[0]["detail"]
