"""Accounting to RADIUS servers (RFC 2866, 2869): a record is in the store's spool until a server has acknowledged it.

Records of one session go out one after the other, those of several sessions side by side; On and Off wait for all
before them, and all behind wait for them. While no server answers they wait, over restarts too, and Acct-Delay-Time
says how long.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Final, NamedTuple

import msgspec

from sstpfarm.auth.accounting import AccountingRecord, Kind
from sstpfarm.auth.radius.client import RadiusClient, Service
from sstpfarm.auth.radius.endpoint import Emit
from sstpfarm.auth.radius.packet import MAX_VALUE, Code, Pairs, Value, prefix_value
from sstpfarm.auth.radius.request import FRAMED, PPP, VIRTUAL, calling_station, nas_attributes
from sstpfarm.auth.store import Store
from sstpfarm.config.radius import Radius
from sstpfarm.errors import PeerError, SystemRefusal, place_of

QUEUE: Final = "radius"
MAX_SPOOLED: Final = 200_000  # records; some 100 MB
MAX_INTERIMS: Final = MAX_SPOOLED // 2  # beyond, Interims are left out: a later one says the same and more
BATCH: Final = 64  # records that are on their way at once
RETRY_INTERVAL: Final = 1.0  # seconds after which the first records are tried again while no server answers
MAX_PASSED_OVER: Final = 10  # a record that a server does not acknowledge while it does others is given up then
REPORT_INTERVAL: Final = 60.0  # seconds between two log lines about lost records
STATUS: Final = {Kind.START: 1, Kind.STOP: 2, Kind.INTERIM: 3, Kind.ON: 7, Kind.OFF: 8}  # RFC 2866 5.1
AUTHENTIC: Final = {"radius": 1, "local": 2}  # RFC 2866 5.6
WORD: Final = 0xFFFF_FFFF


class _Waiting(NamedTuple):
    """A record and its number in the spool."""

    number: int
    record: AccountingRecord


class RadiusAccounting:
    """A sink that spools, and the task that sends.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(
        self, client: RadiusClient, radius: Radius, store: Store, *, wall: Callable[[], float], emit: Emit
    ) -> None:
        self._client = client
        self._radius = radius
        self._store = store
        self._wall = wall
        self._emit = emit
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(AccountingRecord).decode
        self._loop = asyncio.get_running_loop()
        self._more = asyncio.Event()
        self._more.set()  # what a process before this one has left
        self._empty = asyncio.Event()
        self._passed_over: Counter[int] = Counter()  # by the number of the record
        self._lost = 0
        self._reported_at = float("-inf")
        self._sender: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sender = self._loop.create_task(self._send_all())

    def reload(self, radius: Radius) -> None:
        """Name us by that from now on, in what is spooled too."""
        self._radius = radius

    def record(self, record: AccountingRecord) -> None:
        """Spool a record, as Sink says."""
        keep = MAX_INTERIMS if record.kind is Kind.INTERIM else MAX_SPOOLED
        if self._store.spool(QUEUE, self._encode(record), keep):
            self._empty.clear()
            self._loop.call_soon(self._more.set)
        else:
            self._count_lost()

    def waiting(self) -> tuple[int, float]:
        """Return how many records are spooled, and when the first was made, in seconds since the epoch; 0 for none."""
        count = self._store.count_spooled(QUEUE)
        try:
            return count, max((self._decode(one.data).at for one in self._store.spooled(QUEUE, 1)), default=0.0)
        except msgspec.MsgspecError:  # another version of this program wrote it; the sender drops it
            return count, 0.0

    async def close(self, patience: float) -> None:
        """Give the sender that many seconds for what is spooled, then end it; the rest stays there."""
        if self._sender is None:
            return
        self._loop.call_soon(self._more.set)
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            pass
        self._sender.cancel()
        await asyncio.wait({self._sender})

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        answered = True
        while True:
            await self._more.wait()
            self._more.clear()
            stuck = True
            try:
                batch = self._head(BATCH)
                if not batch:
                    self._empty.set()
                    continue
                if await self._committed():  # else it was undone, and its numbers are other records' next
                    sent = await self._send_head(batch, shuffle=not answered)
                    stuck = len(sent) < (len(batch) if batch[0].record.session else 1)
                    answered = bool(sent)
            except SystemRefusal as error:
                self._emit("internal.error", detail=str(error))
            except Exception as error:  # a bug must not end the accounting: nobody would see it
                self._emit("internal.error", detail=place_of(error))
            self._more.set()
            if stuck:
                await asyncio.sleep(RETRY_INTERVAL)

    async def _committed(self) -> bool:
        """Wait until what was read can be undone no more, before anybody outside is told; False when it was undone."""
        committed: asyncio.Future[bool] = self._loop.create_future()
        self._store.then(lambda kept: None if committed.done() else committed.set_result(kept))
        return await committed

    def _head(self, limit: int) -> list[_Waiting]:
        """Return the records at the head of the spool; On and Off stand alone, with one behind them (`_announce`)."""
        found: list[_Waiting] = []
        behind: list[_Waiting] = []
        unreadable = []
        for number, data in self._store.spooled(QUEUE, limit):
            try:
                waiting = _Waiting(number, self._decode(data))
            except msgspec.MsgspecError:  # another version of this program wrote it
                unreadable.append(number)
                continue
            if found and not found[0].record.session:
                if not behind or not behind[0].record.session:
                    behind = [waiting]  # best a session's: a server may ignore both On and Off
            elif found and not waiting.record.session:
                break
            else:
                found.append(waiting)
        self._store.unspool(unreadable)
        for _ in unreadable:
            self._count_lost()
        return self._head(limit) if unreadable and not found else found + behind

    async def _send_head(self, batch: Sequence[_Waiting], *, shuffle: bool) -> list[int]:
        """Send what `_head` returned, and unspool what is done with; return the numbers of what was taken."""
        if batch[0].record.session:
            sent = await self._send_batch(batch, shuffle=shuffle)
            self._store.unspool([*sent, *self._given_up(batch, sent)])
        else:
            sent = await self._announce(*batch)
            self._store.unspool(sent)
        return sent

    async def _send_batch(self, batch: Sequence[_Waiting], *, shuffle: bool) -> list[int]:
        """Send them, a session's one after the other; return the numbers of those that are done with.

        Args:
            shuffle: of a dead server that is due for a try only the first session gets one (`Endpoint.usable`), and
                that must not always be one whose record the server does not take.
        """
        sessions: dict[str, list[_Waiting]] = {}
        for waiting in batch:
            sessions.setdefault(waiting.record.session, []).append(waiting)
        order = list(sessions.values())
        if shuffle:
            random.shuffle(order)
        sent = await asyncio.gather(*(self._send_in_order(records) for records in order))
        return [number for numbers in sent for number in numbers]

    async def _send_in_order(self, records: Sequence[_Waiting]) -> list[int]:
        sent: list[int] = []
        for waiting in records:
            # a new packet each time, so that a changed Acct-Delay-Time has a new identifier (RFC 2866 5.2)
            def build(_secret: bytes, _authenticator: bytes, record: AccountingRecord = waiting.record) -> Pairs:
                return accounting_attributes(self._radius, record, self._wall())

            try:
                if await self._client.ask(Service.ACCOUNTING, Code.ACCOUNTING_REQUEST, build) is None:
                    break
            except (PeerError, ValueError):  # no packet can carry it, at whatever time
                self._count_lost()
            sent.append(waiting.number)
        return sent

    async def _announce(self, head: _Waiting, behind: _Waiting | None = None) -> list[int]:
        """Send On or Off; return its number when it is done with.

        A server may be there and ignore it. After some tries the record behind it tells: when that one is acknowledged,
        and then this one still is not, it is given up. The other one goes out again in any case, because On ends all
        sessions that the server knows.
        """
        tries = self._passed_over[head.number]
        self._passed_over = Counter({head.number: tries + 1})
        if behind is None or tries < MAX_PASSED_OVER:
            return await self._send_in_order([head])
        # of a dead server that is due for a try only the first one gets it, as in _send_batch; by chance, because turns
        # could keep step with its dead time
        first, second = random.sample((head, behind), 2)
        acknowledged = await self._send_in_order([first])
        if not acknowledged:
            acknowledged = await self._send_in_order([second])
        if acknowledged != [behind.number]:
            return acknowledged
        if not await self._send_in_order([head]):
            self._count_lost()
        return [head.number]

    def _given_up(self, batch: Sequence[_Waiting], sent: Sequence[int]) -> list[int]:
        """Return the records that others were acknowledged instead of too often: one must not hold up all."""
        self._passed_over = Counter({n: self._passed_over[n] + bool(sent) for n, _ in batch if n not in sent})
        found = [number for number, times in self._passed_over.items() if times >= MAX_PASSED_OVER]
        for _ in found:
            self._count_lost()
        return found

    def _count_lost(self) -> None:
        self._lost += 1
        now = self._loop.time()
        if now - self._reported_at >= REPORT_INTERVAL:
            self._emit("radius.records_lost", count=self._lost)
            self._reported_at, self._lost = now, 0


def accounting_attributes(radius: Radius, record: AccountingRecord, now: float) -> list[tuple[str, Value]]:
    """Return the attributes of an Accounting-Request.

    Args:
        now: seconds since the epoch.
    """
    found: list[tuple[str, Value]] = [
        ("Acct-Status-Type", STATUS[record.kind]),
        # RFC 2866 5.5 wants one in each record; On and Off get one that is the same whenever they are sent
        ("Acct-Session-Id", record.session or f"{int(record.at * 1000):016x}"),
        *nas_attributes(radius),
        ("Event-Timestamp", int(record.at)),
        ("Acct-Delay-Time", min(max(0, int(now - record.at)), WORD)),
    ]
    if not record.session:
        return found
    found += [
        ("User-Name", record.user.encode()[:MAX_VALUE]),
        ("NAS-Port", record.nas_port),
        ("NAS-Port-Type", VIRTUAL),
        ("Service-Type", FRAMED),
        ("Framed-Protocol", PPP),
        ("Acct-Authentic", AUTHENTIC[record.authentic]),
        ("Calling-Station-Id", calling_station(radius, record.caller_id)),
    ]
    optional: tuple[tuple[str, Value], ...] = (
        ("Called-Station-Id", record.called_id),
        ("Connect-Info", record.connect_info[:MAX_VALUE]),
        ("NAS-Port-Id", record.interface),
        ("Framed-IP-Address", record.address),
        ("Framed-Interface-Id", record.interface_id),
    )
    found += [(name, value) for name, value in optional if value]
    found += [("Framed-IPv6-Prefix", prefix_value(text)) for text in record.framed_prefixes]
    found += [("Delegated-IPv6-Prefix", prefix_value(text)) for text in record.delegated_prefixes]
    found += [("Framed-IPv6-Address", IPv6Address(text).packed) for text in record.ipv6_addresses]
    found += [("Class", value) for value in record.class_]
    if record.kind is not Kind.START:
        found += _counters(record)
    if record.kind is Kind.STOP:
        found.append(("Acct-Terminate-Cause", record.terminate_cause))
    return found


def _counters(record: AccountingRecord) -> list[tuple[str, Value]]:
    return [
        ("Acct-Session-Time", min(record.seconds, WORD)),
        ("Acct-Input-Octets", record.bytes_in & WORD),
        ("Acct-Output-Octets", record.bytes_out & WORD),
        ("Acct-Input-Gigawords", record.bytes_in >> 32),
        ("Acct-Output-Gigawords", record.bytes_out >> 32),
        ("Acct-Input-Packets", record.packets_in & WORD),
        ("Acct-Output-Packets", record.packets_out & WORD),
    ]
