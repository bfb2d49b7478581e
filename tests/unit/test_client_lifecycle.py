"""client/lifecycle.py, client/backoff.py: the table as a whole, and the waits."""

from __future__ import annotations

import itertools

import pytest

from sstpfarm.client.backoff import LASTED, Backoff
from sstpfarm.client.lifecycle import TABLE, Action, Input, State, follow
from sstpfarm.client.plan import Delays
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason

RUNS = frozenset({State.DIALING, State.UP, State.HANGING_UP, State.DISABLING, State.REDIALING})
"""The states in which there is a run: each other one has none."""


@pytest.mark.parametrize(("state", "happened"), list(itertools.product(State, Input)), ids=str)
def test_every_cell(state: State, happened: Input) -> None:
    """A run is begun where there is none, ends once, and nothing is left armed, whatever happens when."""
    after, actions = follow(state, happened)
    if state not in RUNS and after in RUNS:
        assert actions[-1] is Action.DIAL
    if state in RUNS and after not in RUNS:
        assert happened in (Input.ENDED, Input.IDLE), "only the run's own end leads out"
    if Action.DIAL in actions:
        assert state not in RUNS or happened in (Input.ENDED, Input.IDLE)
        assert after is State.DIALING
    if Action.HANG_UP in actions:
        assert state in (State.DIALING, State.UP)
        assert after in (State.HANGING_UP, State.DISABLING, State.REDIALING)
    assert (Action.ARM in actions) == (after is State.BACKOFF and state is not State.BACKOFF)
    assert (Action.DISARM in actions) == (state is State.BACKOFF and after is not State.BACKOFF)
    if after in (State.HELD, State.DISABLED) and state not in (State.HELD, State.DISABLED):
        assert actions[-1] is Action.REST
    assert (Action.WAIT in actions) <= (after is State.WAITING)


@pytest.mark.parametrize("state", State)
def test_a_stop_always_leads_down(state: State) -> None:
    state, _ = follow(state, Input.STOP)
    if state in RUNS:
        state, _ = follow(state, Input.ENDED)
    assert state is State.DISABLED


@pytest.mark.parametrize("state", [state for state in State if state is not State.DISABLED])
def test_an_operator_can_always_disconnect_and_connect(state: State) -> None:
    down, _ = follow(state, Input.DISCONNECT)
    if down in RUNS:
        down, _ = follow(down, Input.ENDED)
    if state is State.DISABLING:
        assert down is State.DISABLED
        return
    assert down is State.HELD
    for happened in (Input.GO, Input.STANDBY, Input.PACKET, Input.NETWORK, Input.REDIAL, Input.ENDED):
        assert follow(down, happened) == (State.HELD, ()), "nothing but an operator, or the file, ends that"
    assert follow(down, Input.CONNECT) == (State.DIALING, (Action.DIAL,))


def test_no_cell_says_nothing() -> None:
    for (state, happened), (after, actions) in TABLE.items():
        assert state is not after or actions, (state, happened)


# -- back-off

DELAYS = Delays(1.0, 60.0, 30.0, 600.0)


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(DELAYS, chance=lambda: 0.0)
    assert [backoff.after(Reason.TRANSPORT_LOST, 0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    for _ in range(2000):
        assert backoff.after(Reason.TRANSPORT_LOST, 0) == 60, "for ever, and no number grows too large"


def test_chance_takes_up_to_half_of_a_wait() -> None:
    assert Backoff(DELAYS, chance=lambda: 1.0).after(Reason.TRANSPORT_LOST, 0) == 0.5
    waits = {Backoff(DELAYS).after(Reason.TRANSPORT_LOST, 0) for _ in range(50)}
    assert len(waits) > 40
    assert all(0.5 <= wait <= 1 for wait in waits)


def test_a_session_that_lasted_begins_anew() -> None:
    backoff = Backoff(DELAYS, chance=lambda: 0.0)
    for _ in range(5):
        backoff.after(Reason.TRANSPORT_LOST, 0)
    assert backoff.after(Reason.TRANSPORT_LOST, LASTED - 1) == 32
    assert backoff.after(Reason.TRANSPORT_LOST, LASTED) == 1
    backoff.after(Reason.TRANSPORT_LOST, 0)
    backoff.forget()
    assert backoff.after(Reason.TRANSPORT_LOST, 0) == 1


@pytest.mark.parametrize(
    "reason", [Reason.AUTH_REFUSED, Reason.CERTIFICATE_UNTRUSTED, Reason.PROXY_AUTHENTICATION, Reason.EXPIRED]
)
def test_what_a_person_has_to_mend_waits_longer(reason: Reason) -> None:
    backoff = Backoff(DELAYS, chance=lambda: 0.0)
    assert [backoff.after(reason, 0) for _ in range(6)] == [30, 60, 120, 240, 480, 600]


def test_every_reason_has_a_wait() -> None:
    for reason in Reason:
        human = OUTCOMES[reason].exit_code in (ExitCode.AUTHENTICATION, ExitCode.CERTIFICATE)
        assert Backoff(DELAYS, chance=lambda: 0.0).after(reason, 0) == (30 if human else 1)
