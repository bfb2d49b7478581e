"""The state machines of an SSTP call as literal tables (MS-SSTP 3.1.1.1, 3.2.1.1 and 3.3.1.1).

Everything that decides about a call's state lives in this file; what an action means is `call.py`'s business.

How to read the tables: a row is an input, a column is a state, a cell is what happens. Each received message is
judged before it comes here (as RFC 1661 tells RCR+ from RCR-), so that no cell has a condition. Every cell is
defined: `never` marks those that only a bug of our own can reach.

What differs from MS-SSTP, and why:

* ABORT_IN_PROGRESS_1 and 2, DISCONNECT_IN_PROGRESS_1 and 2 are missing: they last while a message is handed to the
  lower layer, which is an instant here. PPP was terminated before DISCONNECT comes in.
* CLOSED is CALL_DISCONNECTED after a call: one object serves one call.
* Echoes before CALL_CONNECTED are answered or ignored, where MS-SSTP aborts: real peers send them.
* A message of unknown type is ignored in CALL_CONNECTED.
* CALL_CONNECTED_EARLY: a Call Connected that overtakes the result of our own authentication is kept until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from sstpfarm.proto.roles import Role
from sstpfarm.reasons import Reason


class State(StrEnum):
    """States of a call; MS-SSTP puts Server_ or Client_ in front where a state is of one role only."""

    CALL_DISCONNECTED = "call-disconnected"
    # server
    CONNECT_REQUEST_PENDING = "connect-request-pending"
    CALL_CONNECTED_PENDING = "call-connected-pending"
    # client
    CONNECT_REQUEST_SENT = "connect-request-sent"
    CONNECT_ACK_RECEIVED = "connect-ack-received"
    # both
    CALL_CONNECTED = "call-connected"
    ABORT_PENDING = "abort-pending"
    ABORT_TIMEOUT_PENDING = "abort-timeout-pending"
    DISCONNECT_ACK_PENDING = "disconnect-ack-pending"
    DISCONNECT_TIMEOUT_PENDING = "disconnect-timeout-pending"
    CLOSED = "closed"


class Input(StrEnum):
    """What can happen to a call."""

    # messages of the peer, judged
    CONNECT_REQUEST_GOOD = "connect-request-good"
    CONNECT_REQUEST_BAD = "connect-request-bad"
    CONNECT_REQUEST_BAD_LAST = "connect-request-bad-last"  # and the Naks are used up
    CONNECT_ACK_GOOD = "connect-ack-good"
    CONNECT_ACK_BAD = "connect-ack-bad"
    CONNECT_NAK = "connect-nak"
    CONNECT_NAK_LAST = "connect-nak-last"  # and the retries are used up
    CALL_CONNECTED_GOOD = "call-connected-good"
    CALL_CONNECTED_EARLY = "call-connected-early"  # good but for its MAC, which cannot be checked yet
    CALL_CONNECTED_BAD = "call-connected-bad"
    CALL_ABORT = "call-abort"
    CALL_DISCONNECT = "call-disconnect"
    CALL_DISCONNECT_ACK = "call-disconnect-ack"
    ECHO_REQUEST = "echo-request"
    ECHO_RESPONSE = "echo-response"
    UNKNOWN = "unknown"  # a message type that MS-SSTP does not have
    MALFORMED = "malformed"  # a message whose attributes are wrong
    # wishes of the caller
    START = "start"
    AUTHENTICATED = "authenticated"
    DISCONNECT = "disconnect"
    ABORT = "abort"
    DROP = "drop"  # the stream is gone or cannot be trusted any more
    # time
    TIMEOUT = "timeout"  # of the one timer that the state has
    HELLO = "hello"  # nothing was received for a while
    PEER_SILENT = "peer-silent"  # nothing was received for twice as long


class Action(StrEnum):
    """What a cell asks `SstpCall` to do, in the cell's order, after the state has changed."""

    SEND_CONNECT_REQUEST = "send-connect-request"
    SEND_CONNECT_ACK = "send-connect-ack"
    SEND_CONNECT_NAK = "send-connect-nak"
    SEND_CALL_CONNECTED = "send-call-connected"
    SEND_ABORT = "send-abort"
    SEND_DISCONNECT = "send-disconnect"
    SEND_DISCONNECT_ACK = "send-disconnect-ack"
    SEND_ECHO_REQUEST = "send-echo-request"
    SEND_ECHO_RESPONSE = "send-echo-response"
    DISCARD_OUTPUT = "discard-output"
    # the state's timer; leaving a state stops it
    START_CONNECT_REQUEST = "start-connect-request"
    START_NEGOTIATION = "start-negotiation"
    START_HELLO = "start-hello"
    START_ABORT_1 = "start-abort-1"
    START_ABORT_2 = "start-abort-2"
    START_DISCONNECT_1 = "start-disconnect-1"
    START_DISCONNECT_2 = "start-disconnect-2"
    # what the crypto binding needs
    KEEP_OFFER = "keep-offer"  # nonce and hash of the Ack
    KEEP_HLAK = "keep-hlak"
    HOLD_CALL_CONNECTED = "hold-call-connected"
    ERASE_KEYS = "erase-keys"
    # events
    REPORT_ACCEPTED = "report-accepted"
    REPORT_CONNECTED = "report-connected"
    REPORT_ENDING = "report-ending"
    REPORT_ENDED = "report-ended"
    REPORT_DROPPED = "report-dropped"
    # a bug of our own
    IMPOSSIBLE = "impossible"


class Cell(NamedTuple):
    """What happens: the next state (None: the same), the actions, and the reason, if it is not the input's own."""

    next: State | None
    actions: tuple[Action, ...] = ()
    reason: Reason | None = None


_A, _I, _R, _S = Action, Input, Reason, State

_ENDING = (_A.ERASE_KEYS, _A.REPORT_ENDING)

stay: Final = Cell(None)
never: Final = Cell(None, (_A.IMPOSSIBLE,))

# establishment, server
listen: Final = Cell(_S.CONNECT_REQUEST_PENDING, (_A.START_CONNECT_REQUEST,))
nak: Final = Cell(None, (_A.SEND_CONNECT_NAK, _A.START_CONNECT_REQUEST))
accept: Final = Cell(_S.CALL_CONNECTED_PENDING, (_A.SEND_CONNECT_ACK, _A.START_NEGOTIATION, _A.REPORT_ACCEPTED))
hold: Final = Cell(None, (_A.HOLD_CALL_CONNECTED,))
keep: Final = Cell(None, (_A.KEEP_HLAK,))
verified: Final = Cell(_S.CALL_CONNECTED, (_A.ERASE_KEYS, _A.START_HELLO, _A.REPORT_CONNECTED))

# establishment, client
dial: Final = Cell(_S.CONNECT_REQUEST_SENT, (_A.SEND_CONNECT_REQUEST, _A.START_NEGOTIATION))
again: Final = Cell(None, (_A.SEND_CONNECT_REQUEST, _A.START_NEGOTIATION))
acked: Final = Cell(_S.CONNECT_ACK_RECEIVED, (_A.KEEP_OFFER, _A.START_NEGOTIATION, _A.REPORT_ACCEPTED))
bind: Final = Cell(
    _S.CALL_CONNECTED,
    (_A.KEEP_HLAK, _A.SEND_CALL_CONNECTED, _A.ERASE_KEYS, _A.START_HELLO, _A.REPORT_CONNECTED),
)

# echoes
echo: Final = Cell(None, (_A.SEND_ECHO_RESPONSE,))
hello: Final = Cell(None, (_A.SEND_ECHO_REQUEST,))

# teardown (MS-SSTP 3.1.1.1)
abort: Final = Cell(_S.ABORT_PENDING, (*_ENDING, _A.SEND_ABORT, _A.START_ABORT_1))
abort_5: Final = abort._replace(reason=_R.UNEXPECTED_MESSAGE)
abort_6: Final = abort._replace(reason=_R.NAK_LIMIT)
abort_rq: Final = abort._replace(reason=_R.CONNECT_REQUEST_TIMEOUT)
abort_8: Final = abort._replace(reason=_R.NEGOTIATION_TIMEOUT)
aborted: Final = Cell(_S.ABORT_TIMEOUT_PENDING, (*_ENDING, _A.SEND_ABORT, _A.START_ABORT_2))
crossed: Final = Cell(_S.ABORT_TIMEOUT_PENDING, (_A.START_ABORT_2,))
part: Final = Cell(_S.DISCONNECT_ACK_PENDING, (*_ENDING, _A.SEND_DISCONNECT, _A.START_DISCONNECT_1))
parted: Final = Cell(_S.DISCONNECT_TIMEOUT_PENDING, (*_ENDING, _A.SEND_DISCONNECT_ACK, _A.START_DISCONNECT_2))
close: Final = Cell(_S.CLOSED, (*_ENDING, _A.REPORT_ENDED))
drop: Final = Cell(_S.CLOSED, (*_ENDING, _A.DISCARD_OUTPUT, _A.REPORT_DROPPED))
dead: Final = drop._replace(reason=_R.PEER_DEAD)

Rows = Mapping[Input, tuple[Cell, ...]]

_SERVER_STATES: Final = (
    _S.CALL_DISCONNECTED, _S.CONNECT_REQUEST_PENDING, _S.CALL_CONNECTED_PENDING, _S.CALL_CONNECTED,
    _S.ABORT_PENDING, _S.ABORT_TIMEOUT_PENDING, _S.DISCONNECT_ACK_PENDING, _S.DISCONNECT_TIMEOUT_PENDING, _S.CLOSED,
)  # fmt: skip

# fmt: off
_SERVER: Final[Rows] = {
    #                             DISCONN. REQUEST_P CONNECTED_P CONNECTED ABORT_P  ABORT_TP DISC_AP  DISC_TP CLOSED
    _I.CONNECT_REQUEST_GOOD:     (never,   accept,   abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_REQUEST_BAD:      (never,   nak,      abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_REQUEST_BAD_LAST: (never,   abort_6,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_ACK_GOOD:         (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_ACK_BAD:          (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_NAK:              (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_NAK_LAST:         (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_GOOD:      (never,   abort_5,  verified,   abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_EARLY:     (never,   abort_5,  hold,       abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_BAD:       (never,   abort_5,  abort,      abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_ABORT:               (never,   aborted,  aborted,    aborted,  crossed, stay,    aborted, stay,   stay),
    _I.CALL_DISCONNECT:          (never,   parted,   parted,     parted,   stay,    stay,    parted,  stay,   stay),
    _I.CALL_DISCONNECT_ACK:      (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    close,   stay,   stay),
    _I.ECHO_REQUEST:             (never,   stay,     echo,       echo,     stay,    stay,    stay,    stay,   stay),
    _I.ECHO_RESPONSE:            (never,   stay,     stay,       stay,     stay,    stay,    stay,    stay,   stay),
    _I.UNKNOWN:                  (never,   abort,    abort,      stay,     stay,    stay,    stay,    stay,   stay),
    _I.MALFORMED:                (never,   abort,    abort,      abort,    stay,    stay,    stay,    stay,   stay),
    _I.START:                    (listen,  never,    never,      never,    never,   never,   never,   never,  never),
    _I.AUTHENTICATED:            (never,   never,    keep,       stay,     stay,    stay,    stay,    stay,   stay),
    _I.DISCONNECT:               (close,   part,     part,       part,     stay,    stay,    stay,    stay,   stay),
    _I.ABORT:                    (close,   abort,    abort,      abort,    stay,    stay,    stay,    stay,   stay),
    _I.DROP:                     (drop,    drop,     drop,       drop,     drop,    drop,    drop,    drop,   stay),
    _I.TIMEOUT:                  (never,   abort_rq, abort_8,    never,    close,   close,   close,   close,  never),
    _I.HELLO:                    (never,   never,    never,      hello,    never,   never,   never,   never,  never),
    _I.PEER_SILENT:              (never,   never,    never,      dead,     never,   never,   never,   never,  never),
}

_CLIENT_STATES: Final = (
    _S.CALL_DISCONNECTED, _S.CONNECT_REQUEST_SENT, _S.CONNECT_ACK_RECEIVED, _S.CALL_CONNECTED,
    _S.ABORT_PENDING, _S.ABORT_TIMEOUT_PENDING, _S.DISCONNECT_ACK_PENDING, _S.DISCONNECT_TIMEOUT_PENDING, _S.CLOSED,
)

_CLIENT: Final[Rows] = {
    #                             DISCONN. REQ_SENT  ACK_RECEIVED CONNECTED ABORT_P ABORT_TP DISC_AP  DISC_TP CLOSED
    _I.CONNECT_REQUEST_GOOD:     (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_REQUEST_BAD:      (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_REQUEST_BAD_LAST: (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_ACK_GOOD:         (never,   acked,    abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_ACK_BAD:          (never,   abort,    abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_NAK:              (never,   again,    abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CONNECT_NAK_LAST:         (never,   abort_6,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_GOOD:      (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_EARLY:     (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_CONNECTED_BAD:       (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    stay,    stay,   stay),
    _I.CALL_ABORT:               (never,   aborted,  aborted,    aborted,  crossed, stay,    aborted, stay,   stay),
    _I.CALL_DISCONNECT:          (never,   parted,   parted,     parted,   stay,    stay,    parted,  stay,   stay),
    _I.CALL_DISCONNECT_ACK:      (never,   abort_5,  abort_5,    abort_5,  stay,    stay,    close,   stay,   stay),
    _I.ECHO_REQUEST:             (never,   stay,     echo,       echo,     stay,    stay,    stay,    stay,   stay),
    _I.ECHO_RESPONSE:            (never,   stay,     stay,       stay,     stay,    stay,    stay,    stay,   stay),
    _I.UNKNOWN:                  (never,   abort,    abort,      stay,     stay,    stay,    stay,    stay,   stay),
    _I.MALFORMED:                (never,   abort,    abort,      abort,    stay,    stay,    stay,    stay,   stay),
    _I.START:                    (dial,    never,    never,      never,    never,   never,   never,   never,  never),
    _I.AUTHENTICATED:            (never,   never,    bind,       stay,     stay,    stay,    stay,    stay,   stay),
    _I.DISCONNECT:               (close,   part,     part,       part,     stay,    stay,    stay,    stay,   stay),
    _I.ABORT:                    (close,   abort,    abort,      abort,    stay,    stay,    stay,    stay,   stay),
    _I.DROP:                     (drop,    drop,     drop,       drop,     drop,    drop,    drop,    drop,   stay),
    _I.TIMEOUT:                  (never,   abort_8,  abort_8,    never,    close,   close,   close,   close,  never),
    _I.HELLO:                    (never,   never,    never,      hello,    never,   never,   never,   never,  never),
    _I.PEER_SILENT:              (never,   never,    never,      dead,     never,   never,   never,   never,  never),
}
# fmt: on


def _table(states: tuple[State, ...], rows: Rows) -> Mapping[tuple[State, Input], Cell]:
    cells = {(state, row): cell for row, line in rows.items() for state, cell in zip(states, line, strict=True)}
    return MappingProxyType(cells)


TABLE: Final[Mapping[Role, Mapping[tuple[State, Input], Cell]]] = MappingProxyType(
    {Role.SERVER: _table(_SERVER_STATES, _SERVER), Role.CLIENT: _table(_CLIENT_STATES, _CLIENT)}
)
"""By role, then by state and input: every state of the role with every input."""

CARRIES_CONTROL: Final = frozenset({State.CALL_CONNECTED_PENDING, State.CONNECT_ACK_RECEIVED, State.CALL_CONNECTED})
"""States in which PPP control frames pass, both ways (MS-SSTP 3.2.7.1, 3.3.7.1)."""
