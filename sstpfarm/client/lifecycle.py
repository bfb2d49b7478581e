"""The life of one interface of the client, as a table: what it is doing, what can happen, and what follows.

          go                opened
DISABLED ------> DIALING ----------> UP          ended: BACKOFF, and dial again
    |               ^                 |
    | standby       | packet          | idle
    +-----------> WAITING <-----------+          HELD: an operator disconnected it
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What the interface is doing; the values are what an operator sees."""

    DISABLED = "disabled"
    HELD = "disconnected"  # at an operator's request, until another one
    WAITING = "waiting for packets"
    DIALING = "dialing"
    UP = "connected"
    BACKOFF = "waiting to dial again"
    HANGING_UP = "disconnecting"  # then HELD
    DISABLING = "disabling"  # then DISABLED
    REDIALING = "dialing anew"  # ends, then DIALING


class Input(StrEnum):
    """What can happen to it.

    GO and STANDBY both say that nothing stands against a session, now that it is enabled or a wait is over: the second
    where a packet has to ask for it (dial-on-demand). IDLE is an end for want of traffic where a packet can dial again;
    NETWORK a change of the way to the server that ends the session, or gives a new chance.
    """

    GO = "go"
    STANDBY = "standby"
    STOP = "stop"
    PACKET = "packet"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    REDIAL = "redial"
    NETWORK = "network"
    OPENED = "opened"
    IDLE = "idle"
    ENDED = "ended"


class Action(StrEnum):
    """What follows."""

    DIAL = "dial"
    HANG_UP = "hang up"
    ARM = "arm"  # the timer of the next dial
    DISARM = "disarm"
    WAIT = "wait"  # placeholder, routes, and an eye on the device
    REST = "rest"  # the device goes down


_S, _I, _A = State, Input, Action

TABLE: Final[Mapping[tuple[State, Input], tuple[State, tuple[Action, ...]]]] = {
    # nothing is wanted
    (_S.DISABLED, _I.GO): (_S.DIALING, (_A.DIAL,)),
    (_S.DISABLED, _I.STANDBY): (_S.WAITING, (_A.WAIT,)),
    # an operator does not want it: a changed file does not change that
    (_S.HELD, _I.CONNECT): (_S.DIALING, (_A.DIAL,)),
    (_S.HELD, _I.STOP): (_S.DISABLED, ()),
    # waiting for a packet
    (_S.WAITING, _I.GO): (_S.DIALING, (_A.DIAL,)),
    (_S.WAITING, _I.PACKET): (_S.DIALING, (_A.DIAL,)),
    (_S.WAITING, _I.CONNECT): (_S.DIALING, (_A.DIAL,)),
    (_S.WAITING, _I.DISCONNECT): (_S.HELD, (_A.REST,)),
    (_S.WAITING, _I.STOP): (_S.DISABLED, (_A.REST,)),
    (_S.WAITING, _I.STANDBY): (_S.WAITING, (_A.WAIT,)),
    # dialing
    (_S.DIALING, _I.OPENED): (_S.UP, ()),
    (_S.DIALING, _I.ENDED): (_S.BACKOFF, (_A.ARM,)),
    (_S.DIALING, _I.DISCONNECT): (_S.HANGING_UP, (_A.HANG_UP,)),
    (_S.DIALING, _I.STOP): (_S.DISABLING, (_A.HANG_UP,)),
    (_S.DIALING, _I.REDIAL): (_S.REDIALING, (_A.HANG_UP,)),
    # connected
    (_S.UP, _I.ENDED): (_S.BACKOFF, (_A.ARM,)),
    (_S.UP, _I.IDLE): (_S.WAITING, (_A.WAIT,)),
    (_S.UP, _I.DISCONNECT): (_S.HANGING_UP, (_A.HANG_UP,)),
    (_S.UP, _I.STOP): (_S.DISABLING, (_A.HANG_UP,)),
    (_S.UP, _I.REDIAL): (_S.REDIALING, (_A.HANG_UP,)),
    (_S.UP, _I.NETWORK): (_S.REDIALING, (_A.HANG_UP,)),
    # waiting to dial again
    (_S.BACKOFF, _I.GO): (_S.DIALING, (_A.DISARM, _A.DIAL)),
    (_S.BACKOFF, _I.STANDBY): (_S.WAITING, (_A.DISARM, _A.WAIT)),
    (_S.BACKOFF, _I.CONNECT): (_S.DIALING, (_A.DISARM, _A.DIAL)),
    (_S.BACKOFF, _I.REDIAL): (_S.DIALING, (_A.DISARM, _A.DIAL)),
    (_S.BACKOFF, _I.NETWORK): (_S.DIALING, (_A.DISARM, _A.DIAL)),
    (_S.BACKOFF, _I.DISCONNECT): (_S.HELD, (_A.DISARM, _A.REST)),
    (_S.BACKOFF, _I.STOP): (_S.DISABLED, (_A.DISARM, _A.REST)),
    # on the way down, for an operator
    (_S.HANGING_UP, _I.ENDED): (_S.HELD, (_A.REST,)),
    (_S.HANGING_UP, _I.IDLE): (_S.HELD, (_A.REST,)),
    (_S.HANGING_UP, _I.CONNECT): (_S.REDIALING, ()),
    (_S.HANGING_UP, _I.STOP): (_S.DISABLING, ()),
    # on the way down, for good
    (_S.DISABLING, _I.ENDED): (_S.DISABLED, (_A.REST,)),
    (_S.DISABLING, _I.IDLE): (_S.DISABLED, (_A.REST,)),
    (_S.DISABLING, _I.GO): (_S.REDIALING, ()),
    (_S.DISABLING, _I.STANDBY): (_S.REDIALING, ()),
    # on the way down, to be dialled anew
    (_S.REDIALING, _I.ENDED): (_S.DIALING, (_A.DIAL,)),
    (_S.REDIALING, _I.IDLE): (_S.DIALING, (_A.DIAL,)),
    (_S.REDIALING, _I.DISCONNECT): (_S.HANGING_UP, ()),
    (_S.REDIALING, _I.STOP): (_S.DISABLING, ()),
}
"""What stands in no cell changes nothing: an operator's second word, a change of the network while it dials."""


def follow(state: State, happened: Input) -> tuple[State, tuple[Action, ...]]:
    """Return the next state and what is to be done, in order."""
    return TABLE.get((state, happened), (state, ()))
