"""The accounting server is away for a while, and sessions come and go all the time: its books are complete in the end.

client: peers that log in and out without a pause --> [server namespace: farm --> FreeRADIUS on lo, stopped, started]

SSTPFARM_OUTAGE_S is how long it is away: 15 seconds, or the minute of SECURITY 40. `pytest -s` shows the figures.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Final

from .farm import PASSWORD, Farm, running
from .frames import ACK, LCP, PAP, TERM_REQ
from .freeradius import SECRET, FreeRadius, freeradius
from .netns import Wire, until
from .rawpeer import tls_peer

OUTAGE: Final = float(os.environ.get("SSTPFARM_OUTAGE_S", "15"))
AROUND: Final = 2.0  # seconds of churn before and behind it
CHURNERS: Final = 4  # with secrets here: they come in whether a server answers or not
STAYING: Final = 3  # sessions from before the outage to behind it
SETTLED: Final = 60.0  # seconds for all that has waited
RADIUS_USER, RADIUS_PASSWORD = "rita", "radius pass"


def come_and_go(wire: Wire, user: str, password: str, stop: threading.Event) -> None:
    """Sessions of a user, one after the other; who is refused tries again."""
    while not stop.is_set():
        with tls_peer(wire.client, wire.SERVER4) as peer:
            peer.open_http()
            peer.call_connect()
            peer.open_lcp("pap")
            peer.send_pap(user, password)
            answer = peer.expect(lambda came: came.protocol == PAP or (came.protocol, came.code) == (LCP, TERM_REQ))
            if answer.protocol == LCP:  # nobody can judge it
                peer.put_back(answer)
                peer.answer_disconnect()
                continue
            assert answer.code == ACK
            peer.send(peer.call_connected())
            peer.open_ipcp()
            assert peer.ping()
            peer.disconnect()


@contextmanager
def churn(wire: Wire) -> Iterator[None]:
    """Users who come and go as long as the block lasts; AssertionError when one of them meets what it should not."""
    stop, failures = threading.Event(), list[BaseException]()

    def run(user: str, password: str) -> None:
        try:
            come_and_go(wire, user, password, stop)
        except BaseException as error:
            failures.append(error)

    everybody = [*((f"user{number % 4 + 1}", PASSWORD) for number in range(CHURNERS)), (RADIUS_USER, RADIUS_PASSWORD)]
    threads = [threading.Thread(target=run, args=one) for one in everybody]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert not failures, failures


def told(text: str) -> float:
    """Seconds since the epoch of an Event-Timestamp as FreeRADIUS writes it, in its time zone."""
    return datetime.strptime(text, "%b %d %Y %H:%M:%S %Z").timestamp()


def assert_complete(farm: Farm, radius: FreeRadius, stopped_at: float) -> list[dict[str, str]]:
    """Assert that each session has one Start and then one Stop, and that each record tells its time; return them.

    A record that was written in the moment of the stop may be there twice: FreeRADIUS may have ended before it
    acknowledged it.
    """
    sessions = {event["session"] for event in farm.log.find("session.opened")}
    records = [record for record in radius.records() if record["Acct-Status-Type"] in ("Start", "Stop")]
    assert {record["Acct-Session-Id"] for record in records} == sessions
    places: dict[tuple[str, str], list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault((record["Acct-Session-Id"], record["Acct-Status-Type"]), []).append(place)
    assert len(places) == 2 * len(sessions), "a session has no Start or no Stop"
    for found in places.values():
        first = int(records[found[0]]["Timestamp"])
        assert len(found) == 1 or (len(found) == 2 and abs(first - stopped_at) <= 1), [records[at] for at in found]
    for session in sessions:
        assert places[session, "Start"][0] < places[session, "Stop"][0]
    for record in records:
        happened = told(record["Event-Timestamp"])
        assert abs(int(record["Timestamp"]) - happened - int(record["Acct-Delay-Time"])) <= 2, record
    return records


def test_the_books_are_complete_behind_an_outage(wire: Wire) -> None:
    server = {"address": "127.0.0.1", "secret": SECRET, "timeout-s": 0.5, "retries": 1, "dead-time-s": 1.0}
    with (
        freeradius(wire.server, {RADIUS_USER: (RADIUS_PASSWORD, [])}) as radius,
        running(
            wire.server,
            server={"authentication": ["pap"], "failure-delay-s": 0.1},
            auth={"backends": ["local", "radius"]},
            tables={"radius": {"server": [server]}},
        ) as farm,
        ExitStack() as held,
    ):
        staying = [held.enter_context(tls_peer(wire.client, wire.SERVER4)) for _ in range(STAYING)]
        for peer in staying:
            peer.open_session()
        with churn(wire):
            time.sleep(AROUND)
            radius.stop()
            stopped_at = time.time()
            time.sleep(OUTAGE)
            for peer in staying:
                assert peer.ping()  # who is in stays in
            assert farm.metric("sstpfarm_radius_server_up") == 0
            assert farm.metric("sstpfarm_radius_requests_total", outcome="unanswered", service="accounting") > 0
            assert farm.metric("sstpfarm_accounting_spool_records") > OUTAGE * 10
            assert OUTAGE - 4 < farm.metric("sstpfarm_accounting_spool_age_seconds") < OUTAGE + 10
            starts_at = time.time()
            radius.start()
            started_at = time.time()
            time.sleep(AROUND)
        for peer in staying:
            peer.disconnect()
        farm.idle()
        opened = len(farm.log.find("session.opened"))
        until(lambda: len(radius.records(Acct_Status_Type="Stop")) >= opened, "all have a Stop", SETTLED)
        records = assert_complete(farm, radius, stopped_at)
        until(lambda: farm.metric("sstpfarm_radius_server_up", service="accounting") == 1, "the server is alive")
        until(lambda: farm.metric("sstpfarm_accounting_spool_records") == 0, "nothing waits")
        assert farm.metric("sstpfarm_accounting_spool_age_seconds") == 0
        for service in ("authentication", "accounting"):
            answered = farm.metric("sstpfarm_radius_requests_total", outcome="answered", service=service, server="1")
            assert answered == farm.metric("sstpfarm_radius_response_seconds_count", service=service) > 0
        late = [record for record in records if int(record["Acct-Delay-Time"]) >= 2]
        missed = [record for record in records if stopped_at + 1 < told(record["Event-Timestamp"]) < starts_at - 1]
        assert all(int(record["Timestamp"]) >= starts_at - 1 for record in missed)
        longest = max(int(record["Acct-Delay-Time"]) for record in records)
        assert longest > OUTAGE - 3
        drained = max(int(record["Timestamp"]) for record in late) - started_at
        kinds = Counter(record["Acct-Status-Type"] for record in records)
        outcomes = Counter(event["reason"] for event in farm.log.find("login.refused"))
        print(  # noqa: T201 - the figures, for who runs it with -s
            f"{OUTAGE:.0f} s away: {opened} sessions, {kinds['Start']} Starts, {kinds['Stop']} Stops, {len(missed)} of"
            f" them from the outage, {len(late)} late by up to {longest} s, the last of these {drained:.0f} s behind"
            f" the start; logins refused meanwhile: {dict(outcomes)}",
        )
        assert len(missed) > OUTAGE * 10  # there was something to lose
        assert set(outcomes) == {"auth-unavailable"}
