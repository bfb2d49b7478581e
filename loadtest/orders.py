"""What the conductor tells a generator process and what it hears back: one JSON object a line, each way."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from loadtest.measures import Tally
from loadtest.target import Target
from sstpfarm.proto.roles import AuthMethod

Direction = Literal["echo", "up", "down"]


class Attack(StrEnum):
    """What a hostile connection does."""

    SILENT = "silent"  # TCP, then nothing
    SLOW_HELLO = "slow-hello"  # the ClientHello, one byte a second
    SLOW_HEAD = "slow-head"  # TLS, then the HTTP head, one byte a second
    DROP = "drop"  # a handshake that is reset behind the server's answer
    GARBAGE = "garbage"  # TLS, then random bytes
    GARBAGE_FRAMES = "garbage-frames"  # TLS and HTTP, then random SSTP frames


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What all scenarios have.

    Attributes:
        seconds: how long the measured stage lasts; at a storm, how long it may take.
        window: logins in progress at once, over all processes.
        ramp_seconds: how long it may take until all sessions are up.
    """

    seconds: float
    window: int = 32
    ramp_seconds: float = 600.0


class Storm(Plan, frozen=True, tag="storm"):
    """Log in `count` times, as fast as `window` logins in progress allow; `keep` the sessions until all are up."""

    count: int
    keep: bool = False


class Hold(Plan, frozen=True, tag="hold"):
    """Have `sessions` and let them idle; `at_once`: end them all at once."""

    sessions: int
    at_once: bool = False


class Churn(Plan, frozen=True, tag="churn"):
    """Begin `rate` sessions a second; each sends an echo request every `interval` for `life` seconds."""

    rate: float
    life: float = 5.0
    interval: float = 0.2


class Traffic(Plan, frozen=True, tag="traffic"):
    """Have `sessions`, each sending `bits` a second in packets of these sizes.

    Attributes:
        sizes: IP packet sizes in bytes, sent in turn; bounded by each session's MTU.
        sink: address and port of a reflector behind the server; None: ICMP echo to the server's own address.
    """

    sessions: int
    bits: float
    sizes: tuple[int, ...] = (64, 64, 64, 64, 64, 64, 64, 576, 576, 576, 576, 1400)
    sink: tuple[str, int] | None = None


class Bulk(Plan, frozen=True, tag="bulk"):
    """Have `sessions`, each moving as much as it can.

    Attributes:
        flight: bytes in flight for each session (echo, down); up is bounded by the connection itself.
        sink: needed for up and down.
    """

    sessions: int
    direction: Direction = "echo"
    size: int = 1400
    flight: int = 256 * 1024
    sink: tuple[str, int] | None = None


class Hostile(Plan, frozen=True, tag="hostile"):
    """Hold `connections` hostile connections, opened at `rate` a second, while one client logs in again and again.

    Attributes:
        baseline: seconds for which the client measures before the attack.
        probe_interval: seconds from a login of that client to its next.
    """

    connections: int
    rate: float = 100.0
    attacks: tuple[Attack, ...] = tuple(Attack)
    baseline: float = 2.0
    probe_interval: float = 0.2


Scenario = Storm | Hold | Churn | Traffic | Bulk | Hostile


class Order(msgspec.Struct, frozen=True):
    """The first line to a generator.

    Attributes:
        index, processes: which share of the work is its own.
        users: how many user names there are; session n logs in as user n modulo this; 0: one for each session.
        keepalive: of the clients, in seconds; None: never.
        login_seconds: how long one login may take.
        cpu: to run on; -1 for any.
    """

    target: Target
    scenario: Scenario
    index: int
    processes: int
    users: int = 0
    keepalive: float | None = 60.0
    methods: tuple[AuthMethod, ...] = (AuthMethod.MSCHAP2,)
    ipv6: bool = False
    login_seconds: float = 60.0
    interval: float = 1.0
    cpu: int = -1

    def share(self, count: int) -> int:
        """How many of `count` are ours."""
        return count // self.processes + (self.index < count % self.processes)


class Step(StrEnum):
    """The later lines to a generator, each in JSON quotes."""

    BEGIN = "begin"  # bring the sessions up
    MEASURE = "measure"  # the measured stage begins
    FINISH = "finish"  # end all sessions in order, then exit


class Report(msgspec.Struct):
    """What a generator tells: once a second, before each step, and whenever one of the two marks changes.

    Attributes:
        step: in which all of the tally was counted; None before the first.
        settled: what BEGIN asked for is done; False in the first report, which says that the process is ready.
        finished: the last report.
    """

    tally: Tally
    step: Step | None = None
    settled: bool = False
    finished: bool = False
