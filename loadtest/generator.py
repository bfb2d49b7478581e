"""A generator process: takes an order on standard input, runs its share of the scenario, reports on standard output."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import traceback
from typing import Any, Final

import msgspec
import uvloop

from loadtest.measures import Tally
from loadtest.observe import cpu_nanoseconds, resident_bytes
from loadtest.orders import Bulk, Churn, Hold, Hostile, Order, Report, Step, Storm, Traffic
from loadtest.scenarios.base import Stages
from loadtest.scenarios.bulk import BulkStages
from loadtest.scenarios.churn import ChurnStages
from loadtest.scenarios.hold import HoldStages
from loadtest.scenarios.hostile import AttackStages, ProbeStages
from loadtest.scenarios.storm import StormStages
from loadtest.scenarios.traffic import TrafficStages

MAX_LINE: Final = 1 << 20  # bytes of an order
LOOK: Final = 0.02  # seconds between looks at the scenario's marks
COLLECT_EVERY: Final = 100_000  # new objects; thousands of living clients make each collection dear


class Generator:
    """The process; `run` returns when the scenario is finished, or when nobody listens any more."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._tally = Tally()
        self._stages = make_stages(order, self._tally)
        self._step: Step | None = None
        self._marks = (False, False)
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Take steps, report."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        reader = asyncio.StreamReader(limit=MAX_LINE)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._report()
        steps = loop.create_task(self._take(reader))
        due = loop.time() + self._order.interval
        while not self._done.is_set():
            await asyncio.sleep(LOOK)
            marks = (self._stages.settled, self._stages.finished)
            if marks != self._marks or loop.time() >= due:
                self._marks = marks
                due = loop.time() + self._order.interval
                self._report()
            if self._stages.finished:
                break
        steps.cancel()

    async def _take(self, reader: asyncio.StreamReader) -> None:
        actions = {
            Step.BEGIN: self._stages.begin,
            Step.MEASURE: self._stages.measure,
            Step.FINISH: self._stages.finish,
        }
        while line := await reader.readline():
            step = msgspec.json.decode(line, type=Step)
            self._report()  # what was counted until now belongs to the step before
            self._step = step
            actions[step]()
        self._done.set()  # the conductor is gone

    def _report(self) -> None:
        self._stages.look()
        self._tally.gauges.update(cpu=cpu_nanoseconds(os.getpid()), rss=resident_bytes(os.getpid()))
        report = Report(self._tally.take(), self._step, *self._marks)
        try:
            sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._done.set()

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A bug of ours: figures that come after it are worth nothing."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            traceback.print_exception(error)
        else:
            print(context.get("message"), file=sys.stderr)  # noqa: T201 - a traceback's place
        sys.stderr.flush()
        os._exit(70)  # EX_SOFTWARE


def make_stages(order: Order, tally: Tally) -> Stages:
    """The scenario of an order."""
    match order.scenario:
        case Storm() as plan:
            return StormStages(order, plan, tally)
        case Hold() as plan:
            return HoldStages(order, plan, tally)
        case Churn() as plan:
            return ChurnStages(order, plan, tally)
        case Traffic() as plan:
            return TrafficStages(order, plan, tally)
        case Bulk() as plan:
            return BulkStages(order, plan, tally)
        case Hostile() as plan:
            return ProbeStages(order, plan, tally) if order.index == 0 else AttackStages(order, plan, tally)


def _first_line() -> bytes:
    """Read the order and not a byte more: the loop reads on from the descriptor."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < MAX_LINE and (byte := os.read(0, 1)):
        line += byte
    return bytes(line)


def main() -> int:
    """Run one generator."""
    order = msgspec.json.decode(_first_line(), type=Order)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if order.cpu >= 0:
        os.sched_setaffinity(0, {order.cpu})
    gc.set_threshold(COLLECT_EVERY, 50, 1000)

    async def run() -> None:
        await Generator(order).run()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
