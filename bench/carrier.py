"""Many SSTP sessions from one process at little cost: the native tunnel moves the packets, our protocol core logs in.

    python -m bench.carrier TUNNEL HOST PORT SESSIONS USER PASSWORD_FILE DEVICE MTU

The native program makes the connections and the devices DEVICE0, DEVICE1, ... and hands every byte that is not an IPv4
packet to this one (native/tunnel.c, CONTROL). When all sessions are up and their devices have their addresses, one line
of JSON is written: {"event": "up", "seconds", "addresses"}. It runs in the namespace of the clients, until SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from sstpfarm.proto.events import AuthSucceeded, Ipv4Opened
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.roles import AuthMethod, Ipv4Terms, Role
from sstpfarm.proto.sstp.binding import CertificateHash
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.tunnel import GatesChanged, Tunnel, TunnelEnded, TunnelSettings

HEADER: Final = struct.Struct("=Hc")  # native/tunnel.c, struct message: session, kind
MAX_MESSAGE: Final = HEADER.size + 16384
TICK: Final = 0.25  # seconds
LOGIN_PATIENCE: Final = 120.0  # seconds for all sessions
CHANNEL_BYTES: Final = 4 * 1024 * 1024  # what may wait between the two programs
SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h


class CarrierError(Exception):
    """A session did not come up, or ended."""


@dataclass(slots=True)
class Session:
    """One login: the protocol core and what it agreed on."""

    tunnel: Tunnel
    opened: Ipv4Opened | None = None
    is_open: bool = False


class Carrier:
    """All sessions of this process.

    Args:
        channel: the SEQPACKET socket to the native program.
    """

    def __init__(self, channel: socket.socket, host: str, user: str, password: str, mtu: int) -> None:
        self._channel = channel
        self._host = host
        self._user = user
        self._password = password
        self._mtu = mtu
        self.sessions: dict[int, Session] = {}

    def receive(self) -> None:
        """Take one message of the native program."""
        message = self._channel.recv(MAX_MESSAGE)
        if not message:
            raise CarrierError("the native program has ended")
        number, kind = HEADER.unpack_from(message)
        data, now = message[HEADER.size :], time.monotonic()
        if kind == b"C":
            self.sessions[number] = Session(self._tunnel(data))
            self.sessions[number].tunnel.start(now)
        elif kind == b"H":
            self.sessions[number].tunnel.receive_head(data, now)
        elif kind == b"F":
            self.sessions[number].tunnel.heard(now)
            self.sessions[number].tunnel.receive_frame(data, now)
        else:
            raise CarrierError(f"session {number} was closed by the server")
        self._settle(number, now)

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for number, session in self.sessions.items():
            due = session.tunnel.next_deadline()
            if due is not None and now >= due:
                session.tunnel.tick(now)
                self._settle(number, now)

    def _tunnel(self, certificate: bytes) -> Tunnel:
        sstp = SstpSettings(role=Role.CLIENT, certificates=(CertificateHash.of(certificate),), keepalive=None)
        ppp = PppSettings(
            role=Role.CLIENT,
            methods=(AuthMethod.MSCHAP2,),
            mru=self._mtu,
            mtu=self._mtu,
            user=self._user.encode(),
            password=self._password,
            ipv6=False,
        )
        return Tunnel(TunnelSettings(sstp=sstp, ppp=ppp, host=self._host), os.urandom)

    def _settle(self, number: int, now: float) -> None:
        """Hand on what the core has to say, until it has nothing more."""
        session = self.sessions[number]
        while True:
            data = session.tunnel.data_to_send()
            if data:
                self._channel.send(HEADER.pack(number, b"S") + data)
            events = session.tunnel.events()
            if not events and not data:
                return
            for event in events:
                match event:
                    case AuthSucceeded():
                        session.tunnel.configure(Ipv4Terms(), None, now)
                    case Ipv4Opened():
                        session.opened = event
                    case GatesChanged(ipv4, _):
                        session.is_open = ipv4
                    case TunnelEnded(reason, detail, _):
                        raise CarrierError(f"session {number} ended: {reason} {detail}".rstrip())


def set_addresses(sessions: dict[int, Session], device: str, mtu: int) -> dict[str, str]:
    """Give each device its addresses and its MTU; return the local address by device."""
    lines, addresses = [], {}
    for number, session in sessions.items():
        opened, name = session.opened, f"{device}{number}"
        if opened is None or opened.peer is None:
            raise CarrierError(f"session {number} has no addresses")
        lines += [f"address add {opened.local} peer {opened.peer} dev {name}", f"link set {name} mtu {mtu} up"]
        addresses[name] = str(opened.local)
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)  # noqa: S607 - ip(8)
    return addresses


def run(words: list[str]) -> None:
    """Run as a program."""
    tunnel, host, port, count, user, password_file, device, mtu = words
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, CHANNEL_BYTES)
    command = [tunnel, "client", host, port, device, count, str(theirs.fileno())]
    native = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    theirs.close()
    began, is_up = time.monotonic(), False
    carrier = Carrier(ours, host, user, Path(password_file).read_text().strip(), int(mtu))
    ours.settimeout(TICK)
    try:
        while True:
            try:
                carrier.receive()
            except TimeoutError:
                carrier.tick()
            if is_up:
                continue
            is_up = len(carrier.sessions) == int(count) and all(each.is_open for each in carrier.sessions.values())
            seconds = time.monotonic() - began
            if is_up:
                addresses = set_addresses(carrier.sessions, device, int(mtu))
                facts = {"event": "up", "seconds": seconds, "addresses": addresses}
                print(json.dumps(facts), flush=True)  # noqa: T201 - this program's output
            elif seconds > LOGIN_PATIENCE:
                raise CarrierError(f"not all sessions are up after {seconds:.0f} s")
    finally:
        native.kill()
        native.wait()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(sys.argv[1:])
    except CarrierError as error:
        sys.exit(f"carrier: {error}")
