"""A renewed certificate is taken over at a reload: who connects meets the new one, sessions never notice.

+-- client ------------+           +-- server -----------------------------+
| raw peers with a CA  |---veth----| sstpfarm serve, two workers, reload   |
+----------------------+           +---------------------------------------+
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar, cast

import pytest

from .authority import Authority, Pair
from .bytestream import TcpStream, name_of, tls_context
from .farm import PASSWORD, PORT, Farm, running
from .frames import NAK, PAP
from .netns import Wire, until
from .rawpeer import RawPeer, tls_peer

Value = TypeVar("Value")
CONNECTIONS = 12  # enough to meet both workers


class Ground(NamedTuple):
    """A farm, its authority, and the files that its configuration names."""

    farm: Farm
    authority: Authority
    files: Pair


@pytest.fixture
def ground(wire: Wire, tmp_path: Path) -> Iterator[Ground]:
    authority = Authority(tmp_path)
    first = authority.issue("first", "vpn.test", ["vpn.test"], server=True)
    files = Pair(tmp_path / "served.pem", tmp_path / "served.key")
    put(first, files)
    server = {"certificate": files.table(), "authentication": ["mschap2", "pap"]}
    with running(wire.server, server=server, auth={"secrets-directory": "secrets.d"}) as farm:
        yield Ground(farm, authority, files)


class SlowHello:
    """A TLS client whose ClientHello arrives in two parts; as much of a socket as TcpStream needs."""

    BEGINNING: Final = 20  # bytes

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls_context().wrap_bio(self._incoming, self._outgoing, server_hostname="vpn.test")
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.sock.sendall(self._outgoing.read(self.BEGINNING))

    def shake_hands(self) -> None:
        """Send the rest, and complete the handshake."""
        self._with_peer(self._tls.do_handshake)
        self.certificate = self._tls.getpeercert(binary_form=True) or b""

    def settimeout(self, seconds: float) -> None:
        """As a socket."""
        self.sock.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        """As a socket."""
        self._tls.write(data)
        self.sock.sendall(self._outgoing.read())

    def recv(self, size: int) -> bytes:
        """As a socket."""
        return self._with_peer(lambda: self._tls.read(size))

    def _with_peer(self, step: Callable[[], Value]) -> Value:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                self._incoming.write(self.sock.recv(65536))
            finally:
                self.sock.sendall(self._outgoing.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def put(pair: Pair, files: Pair) -> None:
    """Put a pair where the configuration looks, as certbot does."""
    shutil.copy(pair.chain, files.chain)
    shutil.copy(pair.key, files.key)


def was_read(wire: Wire, sock: socket.socket) -> bool:
    """Whether all that a client has sent came to the server, and was read there."""
    facts = wire.server.run("ss", "-Htnoi", "dst", f"{wire.CLIENT4}:{sock.getsockname()[1]}").stdout.split()
    return facts[:2] == ["ESTAB", "0"] and f"bytes_received:{SlowHello.BEGINNING}" in facts


def sha256(pair: Pair) -> str:
    """Of the leaf in a chain file."""
    text = pair.chain.read_text()
    leaf = text[: text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf)).hexdigest()


def presented(wire: Wire) -> str:
    """What the server presents to one connection more."""
    with tls_peer(wire.client, wire.SERVER4) as peer:
        found = peer.stream.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]  # a TcpStream over TLS
    return hashlib.sha256(found).hexdigest()


def all_presented(wire: Wire) -> set[str]:
    return {presented(wire) for _ in range(CONNECTIONS)}


def test_a_renewed_certificate(wire: Wire, ground: Ground) -> None:
    """Logins before and after, with PAP and so with the hash of the certificate in the crypto binding."""
    farm, authority, files = ground
    before, after = sha256(files), authority.issue("second", "vpn.test", ["vpn.test"], server=True)
    assert all_presented(wire) == {before}
    with ExitStack() as stack:
        kept = stack.enter_context(tls_peer(wire.client, wire.SERVER4))
        kept.open_session()
        early = stack.enter_context(SlowHello(wire.client.dial(wire.SERVER4, PORT)))
        until(lambda: was_read(wire, early.sock), "a worker has accepted it")
        put(after, files)
        mark = farm.log.mark()
        done = farm.cli("reload").stdout
        assert "restart" not in done, done
        loaded = farm.wait_event("certificate.loaded", mark)
        assert loaded["sha256"] == sha256(after)
        ends = datetime.datetime.fromisoformat(loaded["not_after"]).timestamp()
        assert farm.metric("sstpfarm_certificate_expiry_timestamp_seconds") == ends
        until(lambda: all_presented(wire) == {sha256(after)}, "both workers present the new one")
        early.shake_hands()
        assert hashlib.sha256(early.certificate).hexdigest() == before
        between = RawPeer(TcpStream(cast(socket.socket, early)), early.certificate, name_of(early.sock))
        between.open_session("user1")  # its crypto binding has the hash of the one that it has seen
        new = stack.enter_context(tls_peer(wire.client, wire.SERVER4))
        new.open_session("user2")
        for peer in (kept, between, new):
            assert peer.ping()
        for worker, pid in farm.worker_pids().items():
            os.kill(pid, signal.SIGKILL)
            farm.wait_event("worker.lost", mark, worker=worker)
            farm.wait_event("worker.ready", mark, worker=worker)
    assert all_presented(wire) == {sha256(after)}
    mark = farm.log.mark()
    farm.cli("reload")  # nothing has changed
    farm.wait_event("config.reloaded", mark)
    assert not farm.log.find("certificate.loaded", mark)
    farm.idle()


def test_one_that_cannot_be_used_changes_nothing_but_itself(wire: Wire, ground: Ground) -> None:
    farm, authority, files = ground
    before = sha256(files)
    for bad, why in (
        (authority.issue("old", "vpn.test", ["vpn.test"], server=True, days=-1), "it has expired on"),
        (Pair(authority.issue("other", "vpn.test", server=True).chain, files.key), "does not belong to"),
    ):
        put(bad, files) if bad.key != files.key else shutil.copy(bad.chain, files.chain)
        mark = farm.log.mark()
        done = farm.cli("reload", check=False)
        assert done.returncode == 78
        assert why in done.stderr, done.stderr
        assert why in str(farm.wait_event("certificate.kept", mark)["why"])
        farm.wait_event("config.reloaded", mark)
        assert all_presented(wire) == {before}
    good = authority.issue("good", "vpn.test", ["vpn.test"], server=True)
    text = farm.config.read_text()
    farm.config.write_text(text.replace(str(files.chain), str(good.chain)).replace(str(files.key), str(good.key)))
    assert "restart" not in farm.cli("reload").stdout  # other files will do too
    until(lambda: all_presented(wire) == {sha256(good)}, "both workers present it")
    farm.idle()


@pytest.mark.parametrize("fault", ["expired", "gone"])
def test_its_fault_keeps_nobody_in(wire: Wire, ground: Ground, fault: str) -> None:
    """A user who is deleted is out, and the command says with its exit code what the farm did not take."""
    farm, authority, files = ground
    before = sha256(files)
    password = farm.directory / "new.pw"
    password.write_text(PASSWORD + "\n")
    farm.cli("user", "add", "mallory", "--password-file", str(password))
    with tls_peer(wire.client, wire.SERVER4) as kept, tls_peer(wire.client, wire.SERVER4) as peer:
        kept.open_session("user1")
        peer.open_session("mallory")
        if fault == "expired":
            put(authority.issue("old", "vpn.test", ["vpn.test"], server=True, days=-1), files)
        else:
            files.chain.unlink()
        mark = farm.log.mark()
        done = farm.cli("user", "del", "mallory", check=False)
        assert re.fullmatch(r"written; the farm has \d+ users now\n", done.stdout), done
        assert done.returncode == 78
        assert done.stderr.startswith("the farm keeps the certificate of before: server.certificate"), done.stderr
        peer.answer_disconnect()
        assert farm.wait_event("session.closed", mark)["reason"] == "admin-reset"
        assert kept.ping()
    with tls_peer(wire.client, wire.SERVER4) as peer:
        peer.open_http()
        peer.call_connect()
        peer.open_lcp("pap")
        peer.send_pap("mallory", PASSWORD)
        assert peer.frame(PAP).code == NAK
        peer.answer_disconnect()
    assert all_presented(wire) == {before}
    done = farm.cli("user", "add", "oscar", "--password-file", str(password), check=False)
    assert (done.returncode, "written" in done.stdout) == (78, True)
    farm.idle()
