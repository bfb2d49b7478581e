"""The link against peers that send anything: nothing raises, nothing grows, and every link comes to its one end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.proto.events import AuthRequest, AuthSucceeded, Ipv4Opened, LcpOpened, LinkClosed, PppEvent
from sstpfarm.proto.ppp.constants import AUTHENTICATION_VALUES, PppProtocol
from sstpfarm.proto.ppp.frame import ADDRESS_CONTROL, encode_frame
from sstpfarm.proto.ppp.link import PppLink, PppSettings
from sstpfarm.proto.ppp.packet import Option, Packet, encode_options, encode_packet
from sstpfarm.proto.roles import AuthAccept, AuthMethod, Role
from sstpfarm.reasons import Reason
from tests.unit.ppp_bench import (
    ASSIGNED,
    CLIENT,
    CLIENT_IPV4,
    CLIENT_IPV6,
    OPEN_CLIENT,
    OPEN_SERVER,
    SERVER,
    SERVER_IPV4,
    SERVER_IPV6,
    seeded,
)

EVERY_SETTING = [
    SERVER,
    CLIENT,
    OPEN_SERVER,
    OPEN_CLIENT,
    replace(SERVER, methods=tuple(AuthMethod)),
    replace(CLIENT, methods=tuple(AuthMethod)),
    replace(SERVER, methods=(AuthMethod.PAP,), mru=1400, ipv6=False),
    replace(SERVER, mru=1400, mrru=1600),
    replace(OPEN_CLIENT, mrru=2000),
]
MAX_FRAMES_PER_CALL = 8

octets = st.integers(0, 255)
known_protocols = st.sampled_from([*PppProtocol, 0xC227, 0x8053, 0x0001])
known_options = st.builds(
    Option,
    st.sampled_from([1, 2, 3, 5, 6, 7, 8, 13, 17, 18, 19, 129, 131]),
    st.one_of(
        st.sampled_from([b"", b"\x05\xdc", b"\xc0\x23", b"\xc2\x23\x81", bytes(4), bytes(8), ASSIGNED.packed]),
        st.binary(max_size=8),
    ),
)
likely_packets = st.builds(
    lambda code, identifier, options: encode_packet(Packet(code, identifier, encode_options(options))),
    st.integers(0, 14),
    st.integers(0, 6),
    st.lists(known_options, max_size=5),
)
frames = st.one_of(
    st.binary(max_size=40),
    st.builds(encode_frame, known_protocols, st.one_of(likely_packets, st.binary(max_size=30))),
)
# What the peer does next: a frame of its own, an echo of one of ours turned into an answer, or silence.
steps = st.one_of(
    frames,
    st.builds(lambda code, which, flip: (code, which, flip), st.integers(1, 7), st.integers(0, 5), octets),
    st.floats(0.0, 8.0, allow_nan=False),
)


class Driver:
    """Does what a worker does, with a hostile peer: answers proofs, configures, keeps the books."""

    def __init__(self, chosen: PppSettings) -> None:
        self.settings = chosen
        self.role = chosen.role
        self.link = PppLink(chosen, seeded(5))
        self.now = 100.0
        self.events: list[PppEvent] = []
        self.sent: list[bytes] = []
        self.do(lambda: self.link.start(self.now))

    def do(self, call: Callable[[], None]) -> None:
        call()
        frames_out = self.link.frames_to_send()
        assert len(frames_out) <= MAX_FRAMES_PER_CALL
        assert all(frame.startswith(ADDRESS_CONTROL) and len(frame) <= 1504 for frame in frames_out)
        self.sent += frames_out
        for event in self.link.events():
            assert not any(isinstance(earlier, LinkClosed) for earlier in self.events)
            self.events.append(event)
            if isinstance(event, AuthRequest):
                self.do(lambda: self.link.auth_result(AuthAccept(bytes(32)), self.now))
            elif isinstance(event, AuthSucceeded):
                self.do(self.configure)

    def configure(self) -> None:
        if self.role is Role.SERVER:
            self.link.configure(SERVER_IPV4, SERVER_IPV6, self.now)
        else:
            self.link.configure(CLIENT_IPV4, CLIENT_IPV6, self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(500):
            at = self.link.next_deadline()
            if at is None or at > until:
                self.now = until
                return
            self.now = max(self.now, at)
            self.do(lambda: self.link.tick(self.now))
        raise AssertionError("the link ticks without end")

    def peer(self, step: bytes | tuple[int, int, int] | float) -> None:
        match step:
            case bytes():
                self.do(lambda: self.link.receive(step, self.now))
            case (code, which, flip) if self.sent:
                answer = bytearray(self.sent[-1 - which % len(self.sent)])
                answer[4] = code
                if flip > 127:
                    answer[flip % len(answer)] ^= flip
                self.do(lambda: self.link.receive(bytes(answer), self.now))
            case float():
                self.wait(step)

    def advance(self, stage: int) -> None:
        """Let a well-behaved peer go first: 1 opens LCP, 2 also authenticates where PAP or nothing is agreed."""
        if stage == 0:
            return
        method = AUTHENTICATION_VALUES[self.settings.methods[0]] if self.settings.methods else b""
        asks = [Option(3, method)] if method and self.role is Role.CLIENT else []
        self.peer((2, 0, 0))
        self.peer(encode_frame(PppProtocol.LCP, encode_packet(Packet(1, 9, encode_options(asks)))))
        assert any(isinstance(event, LcpOpened) for event in self.events)
        if stage == 2:
            self.peer(encode_frame(PppProtocol.PAP, encode_packet(Packet(1, 1, b"\x01u\x01p"))))

    def closed(self) -> bool:
        return any(isinstance(event, LinkClosed) for event in self.events)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(EVERY_SETTING), st.integers(0, 2), st.lists(steps, max_size=40))
def test_any_peer(chosen: PppSettings, stage: int, script: list[bytes | tuple[int, int, int] | float]) -> None:
    driver = Driver(chosen)
    driver.advance(stage)
    for step in script:
        driver.peer(step)
    for opened in (event for event in driver.events if isinstance(event, Ipv4Opened)):
        assert chosen.role is Role.CLIENT or opened.peer == ASSIGNED
    # Left alone, a link either ends or has reached a state in which it may rest: Opened, with an NCP that is open.
    driver.wait(200)
    if not driver.closed():
        assert driver.link.next_deadline() is None
        assert any(isinstance(event, AuthSucceeded) for event in driver.events)
    driver.do(lambda: driver.link.terminate(Reason.SHUTDOWN, driver.now))
    driver.wait(20)
    assert driver.closed()
    assert driver.link.next_deadline() is None


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(EVERY_SETTING),
    st.lists(st.tuples(st.integers(0, 200), octets, octets), min_size=1, max_size=3),
)
def test_good_peer_whose_frames_are_damaged(chosen: PppSettings, damage: list[tuple[int, int, int]]) -> None:
    """The other end is a real link; a few of its bytes arrive wrong."""
    other_settings = replace(CLIENT if chosen.role is Role.SERVER else SERVER, methods=chosen.methods)
    driver, other = Driver(chosen), Driver(other_settings)
    other.link = PppLink(other_settings, seeded(6))
    other.do(lambda: other.link.start(other.now))
    carried = 0
    for _ in range(60):
        batch, driver.sent = driver.sent, []
        for frame in batch:
            other.peer(frame)
        batch, other.sent = other.sent, []
        for frame in batch:
            damaged = bytearray(frame)
            for number, position, flip in damage:
                if number == carried:
                    damaged[position % len(damaged)] ^= flip
            carried += 1
            driver.peer(bytes(damaged))
        driver.wait(1.0)
        other.wait(1.0)
    assert driver.closed() or any(isinstance(event, LcpOpened) for event in driver.events)
    driver.do(lambda: driver.link.terminate(Reason.SHUTDOWN, driver.now))
    driver.wait(20)
    assert driver.closed()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(EVERY_SETTING), st.integers(2, 4), st.integers(0, 3))
def test_endless_refusal_of_our_requests_ends_at_once(chosen: PppSettings, code: int, extra: int) -> None:
    """SECURITY: an endless-Nak peer is gone within 35 seconds, however fast it is."""
    driver = Driver(chosen)
    received = 0
    while not driver.closed() and received < 400:
        batch, driver.sent = driver.sent, []
        if not batch:
            driver.wait(3.0)
        for frame in batch:
            if frame[2:5] != b"\xc0\x21\x01":
                continue
            received += 1
            answer = bytearray(frame)
            answer[4] = code
            driver.peer(bytes(answer))
            for _ in range(extra):
                driver.peer(bytes(answer))
    assert driver.closed()
    assert driver.now <= 100.0 + 35.0 * (2 if code == 2 else 1)
