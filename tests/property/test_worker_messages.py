"""Whatever a peer sends, what its worker tells auth and the master keeps to the bounds of ipc/messages.py.

A message that does not is taken for a worker that breaks the rules: it is killed, and all of its sessions with it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sstpfarm.dataplane.interface import CELLS
from sstpfarm.dataplane.pure import PurePath
from sstpfarm.ipc import messages as m
from sstpfarm.ipc.permissions import Party, may_send
from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, Ipv6Opened, LcpOpened
from sstpfarm.proto.ppp.constants import Code, LcpOption, PppProtocol
from sstpfarm.proto.ppp.frame import decode_frame, encode_frame
from sstpfarm.proto.ppp.link import PppSettings
from sstpfarm.proto.ppp.multilink import Fragmenter, Multilink
from sstpfarm.proto.ppp.packet import Option, Packet, decode_packet, encode_options, encode_packet
from sstpfarm.proto.roles import AuthDecision, AuthMethod, Ipv4Terms, Ipv6Terms, Role
from sstpfarm.proto.sstp import binding
from sstpfarm.proto.sstp.call import SstpSettings
from sstpfarm.proto.sstp.constants import HashProtocol, MessageType
from sstpfarm.proto.sstp.http import encode_request
from sstpfarm.proto.sstp.packets import CALL_CONNECT_REQUEST, encode_data
from sstpfarm.proto.tunnel import GatesChanged, Tunnel, TunnelEnded, TunnelSettings
from sstpfarm.reasons import Reason
from sstpfarm.telemetry.stats import Stats
from sstpfarm.transport.connection import Connection
from sstpfarm.transport.path_settings import gates_of
from sstpfarm.worker.server import WorkerServer
from sstpfarm.worker.session import Session
from tests.sim.world import CERTIFICATE
from tests.unit.ppp_bench import seeded

SESSION: Final = "0123456789abcdef"
TERMS: Final = m.Terms(local_address="10.20.0.1", remote_address="10.20.0.2", ipv6_local=bytes(7) + b"\1")
EAP_REQUEST: Final = encode_packet(Packet(1, 77, b"\x1a"))
LOGIN: Final = {  # what a peer says to be asked for no more; EAP takes two Responses
    AuthMethod.PAP: [b"\4user\4word"],
    AuthMethod.CHAP: [b"\x10" + bytes(16) + b"user"],
    AuthMethod.MSCHAP1: [b"\x31" + bytes(49) + b"user"],
    AuthMethod.MSCHAP2: [b"\x31" + bytes(49) + b"user"],
    AuthMethod.EAP: [b"\1user", b"\x1a\2"],
}
PROTOCOLS: Final = {AuthMethod.PAP: PppProtocol.PAP, AuthMethod.EAP: PppProtocol.EAP}  # the others are CHAP's
STATS: Final = Stats.create(1)


class Channel:
    """Takes what is sent through it only if the other end would."""

    def __init__(self, receiver: Party) -> None:
        self._decoder = msgspec.msgpack.Decoder(may_send(Party.WORKER, receiver))
        self.taken: list[m.Message] = []

    def send(self, message: m.Message) -> None:
        """Encode and decode."""
        self.taken.append(self._decoder.decode(msgspec.msgpack.encode(message)))


class Worker(WorkerServer):
    """What a session uses of its worker, with channels that judge what goes through them."""

    def __init__(self) -> None:
        self.stats, self.log = STATS, cast(Any, self)
        self.to_auth, self.to_master = Channel(Party.AUTH), Channel(Party.MASTER)
        self._auth, self._master, self._admission = cast(Any, self.to_auth), cast(Any, self.to_master), cast(Any, self)
        self._opened = 0
        self._sessions, self._resting_slots, self._free_slots = {}, deque(), []

    def emit(self, name: str, **_: object) -> None:
        """Of the log."""

    def leave(self, session: str) -> None:
        """Of the admission."""

    def _check_done(self) -> None:
        pass

    def take_slot(self) -> int:
        return 0

    def make_tunnel(self, settings: Mapping[bool, TunnelSettings], *, available: bool) -> Tunnel:
        return Tunnel(settings[True], seeded(5))

    def make_path(self, slot: int) -> PurePath:
        return PurePath(memoryview(array("Q", bytes(8 * CELLS))), memoryview(array("Q", bytes(8 * CELLS))))


class Peer:
    """One peer at one session, whose connection it is too; auth lets everybody in."""

    peer, tls_version, cipher, correlation_id, lasts = "192.0.2.7:5000", "TLSv1.3", "AES", "", True

    def __init__(self, method: AuthMethod, mru: int, mrru: int, identifier: bytes) -> None:
        self.method, self.mru, self.mrru, self.identifier = method, mru, mrru, identifier
        self.protocol = PROTOCOLS.get(method, PppProtocol.CHAP)
        self.worker = Worker()
        made = TunnelSettings(
            sstp=SstpSettings(role=Role.SERVER, certificates=(CERTIFICATE,)),
            ppp=PppSettings(role=Role.SERVER, methods=(method,), mrru=16384),
        )
        self.session = Session(self.worker, SESSION, "192.0.2.1:443", {True: made})
        self.session.connection = cast(Connection, self)
        self.worker._sessions[SESSION] = self.session
        self.mtu = self.frame_limit = 0
        self.answered = self.rounds = 0
        self.fragmenter = Fragmenter(Multilink(16384, 16384, send_short=True), 4000)
        self.asked: dict[int, Packet] = {}  # the latest packet of each protocol that the server sent
        self.nonce = b""
        self.now = 0.0
        self.tunnel, _ = self.session.open_tunnel(self.session.connection, b"")
        self.tunnel.start(self.now)
        self.tunnel.receive_head(encode_request("vpn.example", "{1}"), self.now)
        self.tunnel.data_to_send()
        self.settle()

    # -- the connection ----------------------------------------------------------------------------------------------

    def auth_result(self, decision: AuthDecision) -> None:
        self.tunnel.auth_result(decision, self.now)

    def reauthenticate(self) -> None:
        self.tunnel.reauthenticate(self.now)

    def configure(self, ipv4: Ipv4Terms | None, ipv6: Ipv6Terms | None, *, bridge: bool = False) -> None:
        self.tunnel.configure(ipv4, ipv6, self.now, bridge)

    def attach(self, tun: int, *, bridged: bool) -> None:
        """There is no device."""

    def settle(self) -> None:
        """Hand out events, note what was sent, give auth's answers, until nothing moves."""
        while True:
            self.hear(self.tunnel.data_to_send())
            events = self.tunnel.events()
            for event in events:
                self.on(event)
            waiting = self.worker.to_auth.taken[self.answered :]
            for request in waiting:
                self.answered += 1
                if isinstance(request, m.AccessRequest):
                    self.decide()
            if not events and not waiting:
                return

    def on(self, event: object) -> None:
        connection = cast(Connection, self)
        match event:
            case LcpOpened():
                self.mtu, self.frame_limit = event.mtu, event.send_limit
            case AuthRequest():
                self.session.authenticate(connection, event)
            case AuthSucceeded():
                self.session.authenticated(connection, event)
            case Ipv4Opened() | Ipv6Opened():
                self.session.network_opened(connection, event)
            case GatesChanged():
                self.session.gates_changed(connection, gates_of(event))
            case TunnelEnded(reason, detail):
                assert reason is not Reason.INTERNAL_ERROR
                self.session.closed(connection, reason, detail)

    def decide(self) -> None:
        self.rounds += 1
        if self.method is AuthMethod.EAP and self.rounds % 2:
            self.session.challenged(m.AccessChallenge(session=SESSION, message=EAP_REQUEST))
        else:
            self.session.accepted(m.AccessAccept(session=SESSION, user="user", terms=TERMS, hlak=bytes(32)))

    # -- the peer ----------------------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        while data:
            length = int.from_bytes(data[2:4], "big")
            packet, data = data[:length], data[length:]
            if not packet[1] & 1:
                protocol, information = decode_frame(packet[4:])
                self.asked[protocol] = decode_packet(information)
            elif packet[5] == MessageType.CALL_CONNECT_ACK:
                self.nonce = packet[-32:]

    def send(self, packet: bytes) -> None:
        """Send one SSTP packet, a second after the last one."""
        self.now += 1.0
        self.tunnel.receive_frame(packet, self.now)
        for whole in self.tunnel.packets():
            assert len(whole) <= 16388
        self.settle()

    def say(self, protocol: int, information: bytes, *, headers: bool = True) -> None:
        """Send a PPP packet, in fragments where no frame holds it."""
        frame = encode_frame(protocol, information)
        if not headers:
            frame = frame[2:]
        if len(frame) <= 4091:
            self.send(encode_data(frame))
            return
        for piece in self.fragmenter.split(protocol.to_bytes(2, "big") + information):
            self.send(encode_data(encode_frame(PppProtocol.MULTILINK, piece)))

    def agree(self, protocol: int, *options: Option) -> None:
        """Ask for these options, or for what the server would rather have; take what it asks for."""
        asked = self.asked[protocol]
        self.say(protocol, encode_packet(replace(asked, code=Code.CONFIGURE_ACK)))
        self.say(protocol, encode_packet(Packet(Code.CONFIGURE_REQUEST, 1, encode_options(options))))
        if self.asked[protocol].code == Code.CONFIGURE_NAK:
            self.say(protocol, encode_packet(Packet(Code.CONFIGURE_REQUEST, 2, self.asked[protocol].data)))

    def prove(self, data: bytes) -> None:
        """Answer what authentication asked last, if anything."""
        code = 1 if self.method is AuthMethod.PAP else 2
        identifier = self.asked.get(self.protocol, Packet(0, 0)).identifier
        self.say(self.protocol, encode_packet(Packet(code, identifier, data)))

    def advance(self, stage: int) -> None:
        """Behave: 1 until LCP is open, 2 until packets may pass."""
        if stage > 0:
            self.send(CALL_CONNECT_REQUEST.encode())
            mru, mrru = self.mru.to_bytes(2, "big"), self.mrru.to_bytes(2, "big")
            self.agree(PppProtocol.LCP, Option(LcpOption.MRU, mru), Option(LcpOption.MRRU, mrru))
            assert self.frame_limit
        if stage > 1:
            for data in LOGIN[self.method]:
                self.prove(data)
            self.session.interface_ready(m.InterfaceReady(session=SESSION, name="sstp0"), -1)
            self.settle()
            self.send(
                binding.build_call_connected(
                    hash_protocol=HashProtocol.SHA256, nonce=self.nonce, certificate=CERTIFICATE, hlak=bytes(32)
                )
            )
            self.agree(PppProtocol.IPCP, Option(3, bytes((10, 20, 0, 2))))
            if PppProtocol.IPV6CP in self.asked:  # not where its smallest packet does not fit
                self.agree(PppProtocol.IPV6CP, Option(1, self.identifier))
            told = [type(message) for message in self.worker.to_master.taken]
            assert m.SessionOpened in told
            assert (m.Ipv6Opened in told) == (PppProtocol.IPV6CP in self.asked)


def refused_options(size: int) -> bytes:
    """A Configure-Request of that many bytes, all of which a Reject has to repeat."""
    whole, rest = divmod(size - 4, 240)
    options = [Option(99, bytes(238))] * whole + [Option(99, bytes(rest - 2))]
    return encode_packet(Packet(Code.CONFIGURE_REQUEST, 3, encode_options(options)))


lengths = st.sampled_from([0, 1, 200, 255, 256, 4083, 4087, 4088, 4090, 5000, 16380])
bodies = st.builds(lambda head, length: head + bytes(length), st.binary(max_size=60), lengths)
proofs = st.one_of(
    bodies,
    st.builds(lambda kind, body: bytes((kind,)) + body, st.sampled_from([1, 3, 13, 16, 26, 49]), bodies),
    st.builds(lambda name, word: bytes((len(name),)) + name + bytes((len(word),)) + word,
              st.binary(max_size=255), st.binary(max_size=255)),
    st.builds(lambda length, name: bytes((length,)) + bytes(length) + name, st.sampled_from([16, 49]), bodies),
)  # fmt: skip
packets = st.builds(lambda code, identifier, data: encode_packet(Packet(code, identifier, data)),
                    st.integers(0, 14), st.integers(0, 9), bodies)  # fmt: skip
identifications = st.builds(
    lambda name: encode_packet(Packet(Code.IDENTIFICATION, 1, bytes(4) + name)),
    st.one_of(st.binary(max_size=60), st.from_regex(rb"MSRAS(V|-0-).{0,40}", fullmatch=True)),
)
steps = st.one_of(
    st.tuples(st.just("prove"), proofs),
    st.tuples(st.sampled_from([*PppProtocol, 0x80FF]), st.one_of(packets, identifications, bodies)),
    st.just(("ask again", b"")),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(AuthMethod),
    st.integers(0, 2),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.binary(min_size=8, max_size=8).filter(lambda drawn: any(drawn) and drawn != TERMS.ipv6_local),
    st.booleans(),
    st.lists(steps, max_size=12),
)
@example(
    AuthMethod.EAP, 2, 1500, 2000, bytes(7) + b"\2", True,
    [("ask again", b""), ("prove", b"\1user"), ("prove", b"\x1a" + bytes(5000))],
)  # fmt: skip
@example(AuthMethod.EAP, 1, 1500, 2000, bytes(7) + b"\2", False, [("prove", b"\1user"), ("prove", bytes(4085))])
@example(AuthMethod.PAP, 1, 65535, 65535, bytes(7) + b"\2", True, [("prove", (b"\xff" + b"\xfe" * 255) * 2)])
@example(AuthMethod.PAP, 1, 1500, 0, bytes(7) + b"\2", False, [(PppProtocol.LCP, refused_options(4088))])
@example(AuthMethod.PAP, 2, 1500, 2000, bytes(7) + b"\2", True, [(PppProtocol.IPCP, refused_options(5000))])
def test_any_peer(
    method: AuthMethod,
    stage: int,
    mru: int,
    mrru: int,
    identifier: bytes,
    headers: bool,
    script: list[tuple[str | int, bytes]],
) -> None:
    peer = Peer(method, mru, mrru, identifier)
    peer.advance(stage)
    for what, data in script:
        if what == "prove":
            peer.prove(data)
        elif what == "ask again":
            peer.session.reauthenticate()
            peer.settle()
        elif isinstance(what, int):
            peer.say(what, data, headers=headers)
    peer.tunnel.broken(Reason.TRANSPORT_LOST, "")
    peer.settle()
    assert not peer.worker._sessions
