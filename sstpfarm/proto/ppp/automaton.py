"""The option negotiation automaton of RFC 1661 4, transcribed cell for cell; it runs in `control.py`.

An event that the RFC marks "-" (impossible) has no cell. Its options are not used: Open in an opened or closing
state restarts nothing (r), a timed-out negotiation is not retried in silence (p), and a crossed answer (x) only gets
as far as this table when its identifier matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Final


class State(IntEnum):
    """States, with the numbers of RFC 1661 4.1."""

    INITIAL = 0
    STARTING = 1
    CLOSED = 2
    STOPPED = 3
    CLOSING = 4
    STOPPING = 5
    REQ_SENT = 6
    ACK_RCVD = 7
    ACK_SENT = 8
    OPENED = 9


class Input(StrEnum):
    """Events (RFC 1661 4.3), under their names in the table."""

    UP = "Up"
    DOWN = "Down"
    OPEN = "Open"
    CLOSE = "Close"
    TO_PLUS = "TO+"  # timeout with restart counter above zero
    TO_MINUS = "TO-"  # timeout with restart counter zero
    RCR_PLUS = "RCR+"  # acceptable Configure-Request
    RCR_MINUS = "RCR-"  # unacceptable Configure-Request
    RCA = "RCA"  # Configure-Ack
    RCN = "RCN"  # Configure-Nak or Configure-Reject
    RTR = "RTR"  # Terminate-Request
    RTA = "RTA"  # Terminate-Ack
    RUC = "RUC"  # unknown code
    RXJ_PLUS = "RXJ+"  # Code-Reject or Protocol-Reject that is permitted
    RXJ_MINUS = "RXJ-"  # Code-Reject or Protocol-Reject that is catastrophic
    RXR = "RXR"  # Echo-Request, Echo-Reply or Discard-Request


class Action(StrEnum):
    """Actions (RFC 1661 4.4), under their names in the table."""

    TLU = "tlu"  # this layer up
    TLD = "tld"  # this layer down
    TLS = "tls"  # this layer started
    TLF = "tlf"  # this layer finished
    IRC = "irc"  # initialize restart counter
    ZRC = "zrc"  # zero restart counter
    SCR = "scr"  # send Configure-Request
    SCA = "sca"  # send Configure-Ack
    SCN = "scn"  # send Configure-Nak or Configure-Reject
    STR = "str"  # send Terminate-Request
    STA = "sta"  # send Terminate-Ack
    SCJ = "scj"  # send Code-Reject
    SER = "ser"  # send Echo-Reply


TIMED: Final = frozenset((State.CLOSING, State.STOPPING, State.REQ_SENT, State.ACK_RCVD, State.ACK_SENT))
"""The states in which the restart timer runs (RFC 1661 4.1)."""

TABLE: Final[Mapping[tuple[State, Input], tuple[State, tuple[Action, ...]]]] = {
    # Up
    (State.INITIAL, Input.UP): (State.CLOSED, ()),
    (State.STARTING, Input.UP): (State.REQ_SENT, (Action.IRC, Action.SCR)),
    # Down
    (State.CLOSED, Input.DOWN): (State.INITIAL, ()),
    (State.STOPPED, Input.DOWN): (State.STARTING, (Action.TLS,)),
    (State.CLOSING, Input.DOWN): (State.INITIAL, ()),
    (State.STOPPING, Input.DOWN): (State.STARTING, ()),
    (State.REQ_SENT, Input.DOWN): (State.STARTING, ()),
    (State.ACK_RCVD, Input.DOWN): (State.STARTING, ()),
    (State.ACK_SENT, Input.DOWN): (State.STARTING, ()),
    (State.OPENED, Input.DOWN): (State.STARTING, (Action.TLD,)),
    # Open
    (State.INITIAL, Input.OPEN): (State.STARTING, (Action.TLS,)),
    (State.STARTING, Input.OPEN): (State.STARTING, ()),
    (State.CLOSED, Input.OPEN): (State.REQ_SENT, (Action.IRC, Action.SCR)),
    (State.STOPPED, Input.OPEN): (State.STOPPED, ()),
    (State.CLOSING, Input.OPEN): (State.STOPPING, ()),
    (State.STOPPING, Input.OPEN): (State.STOPPING, ()),
    (State.REQ_SENT, Input.OPEN): (State.REQ_SENT, ()),
    (State.ACK_RCVD, Input.OPEN): (State.ACK_RCVD, ()),
    (State.ACK_SENT, Input.OPEN): (State.ACK_SENT, ()),
    (State.OPENED, Input.OPEN): (State.OPENED, ()),
    # Close
    (State.INITIAL, Input.CLOSE): (State.INITIAL, ()),
    (State.STARTING, Input.CLOSE): (State.INITIAL, (Action.TLF,)),
    (State.CLOSED, Input.CLOSE): (State.CLOSED, ()),
    (State.STOPPED, Input.CLOSE): (State.CLOSED, ()),
    (State.CLOSING, Input.CLOSE): (State.CLOSING, ()),
    (State.STOPPING, Input.CLOSE): (State.CLOSING, ()),
    (State.REQ_SENT, Input.CLOSE): (State.CLOSING, (Action.IRC, Action.STR)),
    (State.ACK_RCVD, Input.CLOSE): (State.CLOSING, (Action.IRC, Action.STR)),
    (State.ACK_SENT, Input.CLOSE): (State.CLOSING, (Action.IRC, Action.STR)),
    (State.OPENED, Input.CLOSE): (State.CLOSING, (Action.TLD, Action.IRC, Action.STR)),
    # TO+
    (State.CLOSING, Input.TO_PLUS): (State.CLOSING, (Action.STR,)),
    (State.STOPPING, Input.TO_PLUS): (State.STOPPING, (Action.STR,)),
    (State.REQ_SENT, Input.TO_PLUS): (State.REQ_SENT, (Action.SCR,)),
    (State.ACK_RCVD, Input.TO_PLUS): (State.REQ_SENT, (Action.SCR,)),
    (State.ACK_SENT, Input.TO_PLUS): (State.ACK_SENT, (Action.SCR,)),
    # TO-
    (State.CLOSING, Input.TO_MINUS): (State.CLOSED, (Action.TLF,)),
    (State.STOPPING, Input.TO_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.REQ_SENT, Input.TO_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.ACK_RCVD, Input.TO_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.ACK_SENT, Input.TO_MINUS): (State.STOPPED, (Action.TLF,)),
    # RCR+
    (State.CLOSED, Input.RCR_PLUS): (State.CLOSED, (Action.STA,)),
    (State.STOPPED, Input.RCR_PLUS): (State.ACK_SENT, (Action.IRC, Action.SCR, Action.SCA)),
    (State.CLOSING, Input.RCR_PLUS): (State.CLOSING, ()),
    (State.STOPPING, Input.RCR_PLUS): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RCR_PLUS): (State.ACK_SENT, (Action.SCA,)),
    (State.ACK_RCVD, Input.RCR_PLUS): (State.OPENED, (Action.SCA, Action.TLU)),
    (State.ACK_SENT, Input.RCR_PLUS): (State.ACK_SENT, (Action.SCA,)),
    (State.OPENED, Input.RCR_PLUS): (State.ACK_SENT, (Action.TLD, Action.SCR, Action.SCA)),
    # RCR-
    (State.CLOSED, Input.RCR_MINUS): (State.CLOSED, (Action.STA,)),
    (State.STOPPED, Input.RCR_MINUS): (State.REQ_SENT, (Action.IRC, Action.SCR, Action.SCN)),
    (State.CLOSING, Input.RCR_MINUS): (State.CLOSING, ()),
    (State.STOPPING, Input.RCR_MINUS): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RCR_MINUS): (State.REQ_SENT, (Action.SCN,)),
    (State.ACK_RCVD, Input.RCR_MINUS): (State.ACK_RCVD, (Action.SCN,)),
    (State.ACK_SENT, Input.RCR_MINUS): (State.REQ_SENT, (Action.SCN,)),
    (State.OPENED, Input.RCR_MINUS): (State.REQ_SENT, (Action.TLD, Action.SCR, Action.SCN)),
    # RCA
    (State.CLOSED, Input.RCA): (State.CLOSED, (Action.STA,)),
    (State.STOPPED, Input.RCA): (State.STOPPED, (Action.STA,)),
    (State.CLOSING, Input.RCA): (State.CLOSING, ()),
    (State.STOPPING, Input.RCA): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RCA): (State.ACK_RCVD, (Action.IRC,)),
    (State.ACK_RCVD, Input.RCA): (State.REQ_SENT, (Action.SCR,)),
    (State.ACK_SENT, Input.RCA): (State.OPENED, (Action.IRC, Action.TLU)),
    (State.OPENED, Input.RCA): (State.REQ_SENT, (Action.TLD, Action.SCR)),
    # RCN
    (State.CLOSED, Input.RCN): (State.CLOSED, (Action.STA,)),
    (State.STOPPED, Input.RCN): (State.STOPPED, (Action.STA,)),
    (State.CLOSING, Input.RCN): (State.CLOSING, ()),
    (State.STOPPING, Input.RCN): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RCN): (State.REQ_SENT, (Action.IRC, Action.SCR)),
    (State.ACK_RCVD, Input.RCN): (State.REQ_SENT, (Action.SCR,)),
    (State.ACK_SENT, Input.RCN): (State.ACK_SENT, (Action.IRC, Action.SCR)),
    (State.OPENED, Input.RCN): (State.REQ_SENT, (Action.TLD, Action.SCR)),
    # RTR
    (State.CLOSED, Input.RTR): (State.CLOSED, (Action.STA,)),
    (State.STOPPED, Input.RTR): (State.STOPPED, (Action.STA,)),
    (State.CLOSING, Input.RTR): (State.CLOSING, (Action.STA,)),
    (State.STOPPING, Input.RTR): (State.STOPPING, (Action.STA,)),
    (State.REQ_SENT, Input.RTR): (State.REQ_SENT, (Action.STA,)),
    (State.ACK_RCVD, Input.RTR): (State.REQ_SENT, (Action.STA,)),
    (State.ACK_SENT, Input.RTR): (State.REQ_SENT, (Action.STA,)),
    (State.OPENED, Input.RTR): (State.STOPPING, (Action.TLD, Action.ZRC, Action.STA)),
    # RTA
    (State.CLOSED, Input.RTA): (State.CLOSED, ()),
    (State.STOPPED, Input.RTA): (State.STOPPED, ()),
    (State.CLOSING, Input.RTA): (State.CLOSED, (Action.TLF,)),
    (State.STOPPING, Input.RTA): (State.STOPPED, (Action.TLF,)),
    (State.REQ_SENT, Input.RTA): (State.REQ_SENT, ()),
    (State.ACK_RCVD, Input.RTA): (State.REQ_SENT, ()),
    (State.ACK_SENT, Input.RTA): (State.ACK_SENT, ()),
    (State.OPENED, Input.RTA): (State.REQ_SENT, (Action.TLD, Action.SCR)),
    # RUC
    (State.CLOSED, Input.RUC): (State.CLOSED, (Action.SCJ,)),
    (State.STOPPED, Input.RUC): (State.STOPPED, (Action.SCJ,)),
    (State.CLOSING, Input.RUC): (State.CLOSING, (Action.SCJ,)),
    (State.STOPPING, Input.RUC): (State.STOPPING, (Action.SCJ,)),
    (State.REQ_SENT, Input.RUC): (State.REQ_SENT, (Action.SCJ,)),
    (State.ACK_RCVD, Input.RUC): (State.ACK_RCVD, (Action.SCJ,)),
    (State.ACK_SENT, Input.RUC): (State.ACK_SENT, (Action.SCJ,)),
    (State.OPENED, Input.RUC): (State.OPENED, (Action.SCJ,)),
    # RXJ+
    (State.CLOSED, Input.RXJ_PLUS): (State.CLOSED, ()),
    (State.STOPPED, Input.RXJ_PLUS): (State.STOPPED, ()),
    (State.CLOSING, Input.RXJ_PLUS): (State.CLOSING, ()),
    (State.STOPPING, Input.RXJ_PLUS): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RXJ_PLUS): (State.REQ_SENT, ()),
    (State.ACK_RCVD, Input.RXJ_PLUS): (State.REQ_SENT, ()),
    (State.ACK_SENT, Input.RXJ_PLUS): (State.ACK_SENT, ()),
    (State.OPENED, Input.RXJ_PLUS): (State.OPENED, ()),
    # RXJ-
    (State.CLOSED, Input.RXJ_MINUS): (State.CLOSED, (Action.TLF,)),
    (State.STOPPED, Input.RXJ_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.CLOSING, Input.RXJ_MINUS): (State.CLOSED, (Action.TLF,)),
    (State.STOPPING, Input.RXJ_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.REQ_SENT, Input.RXJ_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.ACK_RCVD, Input.RXJ_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.ACK_SENT, Input.RXJ_MINUS): (State.STOPPED, (Action.TLF,)),
    (State.OPENED, Input.RXJ_MINUS): (State.STOPPING, (Action.TLD, Action.IRC, Action.STR)),
    # RXR
    (State.CLOSED, Input.RXR): (State.CLOSED, ()),
    (State.STOPPED, Input.RXR): (State.STOPPED, ()),
    (State.CLOSING, Input.RXR): (State.CLOSING, ()),
    (State.STOPPING, Input.RXR): (State.STOPPING, ()),
    (State.REQ_SENT, Input.RXR): (State.REQ_SENT, ()),
    (State.ACK_RCVD, Input.RXR): (State.ACK_RCVD, ()),
    (State.ACK_SENT, Input.RXR): (State.ACK_SENT, ()),
    (State.OPENED, Input.RXR): (State.OPENED, (Action.SER,)),
}
