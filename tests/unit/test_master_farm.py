"""Parts of the master that need no processes: listeners, directories, lock, CPUs, backoff, notifications, reload."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from sstpfarm.config.addresses import Endpoint
from sstpfarm.config.load import load
from sstpfarm.config.schema import Config
from sstpfarm.dataplane import select
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.run_directory import hold_lock
from sstpfarm.master import farm
from sstpfarm.master.certificate import NO_CERTIFICATE
from sstpfarm.master.child import SETTLED, Backoff
from sstpfarm.master.farm import choose_cpus, prepare_directories
from sstpfarm.master.identities import AUTH_ID, LAST_ID, worker_id
from sstpfarm.master.listeners import close_listeners, open_listeners, usable_endpoints
from sstpfarm.master.supervisor import Supervisor
from sstpfarm.telemetry.log import get_log
from sstpfarm.telemetry.notify import Notifier


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_listeners() -> None:
    port = free_port()
    endpoints = [Endpoint("127.0.0.1", port), Endpoint("::1", port)]
    listeners = open_listeners(endpoints, 3, 10.0)
    assert len({listener.number for listener in listeners}) == 6
    assert [listener.worker for listener in listeners] == [0, 1, 2, 0, 1, 2]
    for listener in listeners:
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        assert listener.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) >= 5
        assert not os.get_inheritable(listener.sock.fileno())
    with pytest.raises(SystemRefusal, match=f"listen 127.0.0.1:{port}: .*another program"):
        open_listeners(endpoints, 1, 10.0)  # even of the same user, which SO_REUSEPORT alone would let in
    close_listeners(listeners)
    (again,) = open_listeners(endpoints[:1], 1, 1.0)
    assert again.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0
    again.sock.close()


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    any4, any6, named = Endpoint("0.0.0.0", 443), Endpoint("::", 443), Endpoint("2001:db8::1", 443)
    assert usable_endpoints([any4, any6, named]) == ([any4, any6, named], [])

    class Socket(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().__init__(family, kind)

    monkeypatch.setattr("sstpfarm.master.listeners.socket.socket", Socket)
    assert usable_endpoints([any4, any6]) == ([any4], [any6])
    assert usable_endpoints([any4, named]) == ([any4, named], [])  # an address that was named must work
    assert usable_endpoints([any6]) == ([any6], [])
    with pytest.raises(SystemRefusal, match=r"listen \[::\]:443"):
        open_listeners([any6], 1, 10.0)


def test_foreign_address() -> None:
    with pytest.raises(SystemRefusal, match="no interface of this machine"):
        open_listeners([Endpoint("192.0.2.1", 443)], 1, 10.0)


def test_failed_start_closes_all() -> None:
    port = free_port()
    with pytest.raises(SystemRefusal):
        open_listeners([Endpoint("127.0.0.1", port), Endpoint("192.0.2.1", port)], 2, 10.0)
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_lock(tmp_path: Path) -> None:
    with hold_lock(tmp_path, "farm"), pytest.raises(SystemRefusal, match=rf"another farm \(process {os.getpid()}\)"):
        hold_lock(tmp_path, "farm")
    with hold_lock(tmp_path, "farm"):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a directory to another user")
def test_directories(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "a" / "state"
    for _ in range(2):  # a second start finds them
        prepare_directories(run, state)
        assert state.stat().st_mode & 0o777 == 0o711
        own = (state / "auth").stat()
        assert (own.st_uid, own.st_gid, own.st_mode & 0o777) == (AUTH_ID, AUTH_ID, 0o700)
    (state / "auth").rmdir()
    (state / "auth").symlink_to("/etc")
    with pytest.raises(SystemRefusal, match="symbolic link"):
        prepare_directories(run, state)
    with pytest.raises(SystemRefusal):
        prepare_directories(run, Path("/dev/null/state"))


def test_cpus() -> None:
    assert choose_cpus("auto", [0, 2, 5]) == [0, 2, 5]
    assert choose_cpus(2, [0, 2, 5]) == [0, 2]
    assert choose_cpus(1, [0, 2, 5]) == [-1]
    assert choose_cpus(4, [0, 1]) == [-1, -1, -1, -1]


def test_backoff() -> None:
    backoff = Backoff()
    assert [backoff.lost(0.1) for _ in range(9)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0, 10.0, 10.0]
    assert backoff.lost(SETTLED) == 0.0
    assert backoff.lost(1) == 0.25


def test_identities() -> None:
    numbers = [AUTH_ID, *map(worker_id, range(64))]
    assert len(set(numbers)) == 65
    assert max(numbers) <= LAST_ID


def test_notifications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Notifier().send("READY=1")  # no manager: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        assert notifier.watchdog == 5.0
        notifier.send("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
    notifier.send("STOPPING=1")  # the manager is gone: no error


@pytest.mark.parametrize("failing", ["load", "supervisor"])
def test_a_reload_that_the_system_has_no_room_for_is_refused_and_says_so(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By SIGHUP it is told by the log alone; nothing else comes of it."""
    path = tmp_path / "sstpfarm.toml"
    path.write_text('[profile.default]\nlocal-address = "10.20.0.1"\n')
    config = load(path)

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        made = farm._Farm(config, path, get_log())
        if failing == "load":
            monkeypatch.setattr(farm, "load", full)
        else:
            made._supervisor = cast(Supervisor, SimpleNamespace(certificate=NO_CERTIFICATE, reload=full))
        with pytest.raises(SystemRefusal, match="Too many open files"):
            await made.reload()
        made._on_hangup()
        await asyncio.wait(made._tasks)
        assert made._config is config

    asyncio.run(scenario())
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    refused = ("config.refused", ["[Errno 24] Too many open files"])
    assert [(event["event"], event["faults"]) for event in told] == [refused] * 2


def test_the_slow_packet_path_that_nobody_asked_for_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = farm._Farm(Config(), tmp_path / "sstpfarm.toml", get_log())
    monkeypatch.setattr(farm, "probe_offload", lambda limit: limit)
    monkeypatch.delenv(select.PATH_VARIABLE, raising=False)
    made._dataplane()
    monkeypatch.setattr(select, "_missing", "no module")
    made._dataplane()
    monkeypatch.setenv(select.PATH_VARIABLE, "pure")
    made._dataplane()
    told = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert told == ["dataplane.chosen", "dataplane.chosen", "dataplane.degraded", "dataplane.chosen"]
