"""The main process's part: starts the generators, takes them through the stages, samples the server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from loadtest.measures import Tally, sum_gauges
from loadtest.observe import Observer, Usage
from loadtest.orders import Order, Report, Step, Storm

READY_PATIENCE: Final = 60.0  # seconds until all generators have imported what they need
FINISH_PATIENCE: Final = 300.0  # seconds for the ends in order of all sessions
KILL_PATIENCE: Final = 5.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_REPORT: Final = 8 << 20  # bytes of one report
MAX_ROWS: Final = 3600  # of the series; a longer run has a longer interval
MIN_ROW: Final = 0.05  # seconds: what is left of a stage behind its last row makes one of its own
ROOT: Final = Path(__file__).resolve().parent.parent  # of the checkout: generators import from there


class GeneratorFailed(Exception):  # noqa: N818 - it says what happened
    """A generator ended before it was told to; the text says how."""


class StageFacts(msgspec.Struct):
    """One stage: what was counted in it, and what the server used."""

    name: str
    seconds: float
    tally: Tally
    before: list[Usage]
    after: list[Usage]


class Row(msgspec.Struct):
    """One line of the series.

    Attributes:
        at: seconds from the start.
        rates: counters, each second.
        gauges: summed over the generators.
        quantiles: of each duration: 50, 95 and 99 % in milliseconds.
        server: of each role: per cent of a core, and bytes of RSS.
    """

    at: float
    stage: str
    rates: dict[str, float]
    gauges: dict[str, int]
    quantiles: dict[str, tuple[float, float, float]]
    server: dict[str, tuple[float, int]]


class Books(msgspec.Struct):
    """What a run found."""

    stages: list[StageFacts] = []
    rows: list[Row] = []
    generators: list[dict[str, int]] = []
    interrupted: bool = False
    overdue: list[str] = []  # stages that did not end in their time


class Conductor:
    """One run.

    Args:
        order: what every generator gets, but for its index.
        argv: makes the command line that runs a command where the generators belong.
        cpus: for the generators, in turn; none for no choice.
        show: called with each new row.
    """

    def __init__(
        self,
        order: Order,
        observer: Observer,
        argv: Callable[..., list[str]],
        cpus: Sequence[int],
        show: Callable[[Row], None],
    ) -> None:
        self._order = order
        self._observer = observer
        self._argv = argv
        self._cpus = cpus
        self._show = show
        self.books = Books()
        self._processes: list[asyncio.subprocess.Process] = []
        self._reports: list[Report] = []
        self._tallies = {step: Tally() for step in Step}
        self._row = Tally()
        self._row_at = self._began = 0.0
        self._row_usage: list[Usage] = []
        self._stop = asyncio.Event()
        self._failure = ""
        plan = order.scenario
        self._interval = max(order.interval, (plan.seconds + plan.ramp_seconds) / MAX_ROWS)

    async def run(self) -> Books:
        """Run all stages; an interrupt leads to the last one.

        Raises:
            GeneratorFailed: and then there are no figures.
        """
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, self._interrupt)
        readers: list[asyncio.Task[None]] = []
        try:
            for index in range(self._order.processes):
                await self._start(index)
                readers.append(loop.create_task(self._read(index)))
            await self._until(lambda _: True, READY_PATIENCE, "start")
            if self.books.overdue:
                raise GeneratorFailed(f"generators were not ready within {READY_PATIENCE:.0f} s")
            await self._stages()
        finally:
            for reader in readers:
                reader.cancel()
            await self._end_processes()
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
        return self.books

    # -- stages ------------------------------------------------------------------------------------------------------

    async def _stages(self) -> None:
        plan = self._order.scenario
        self._began = self._row_at = monotonic()
        self._row_usage = self._observer.sample()
        storm = isinstance(plan, Storm)
        patience = plan.seconds if storm else plan.ramp_seconds
        await self._run_stage("ramp", Step.BEGIN, patience, lambda report: report.settled)
        if not storm and not self._stop.is_set():
            await self._run_stage("measure", Step.MEASURE, plan.seconds, None)
        self._stop.clear()
        await self._run_stage("finish", Step.FINISH, FINISH_PATIENCE, lambda report: report.finished)
        self.books.generators = [report.tally.gauges for report in self._reports]

    async def _run_stage(self, name: str, step: Step, patience: float, done: Callable[[Report], bool] | None) -> None:
        before, began = self._observer.sample(), monotonic()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(step) + b"\n")
            await process.stdin.drain()
        await self._until(done, patience, name)
        if monotonic() - self._row_at >= MIN_ROW:
            self._make_row(monotonic(), name)
        seconds, after = monotonic() - began, self._observer.sample()
        tally = self._tallies[step]  # the last report of this step comes with the beginning of the next
        tally.gauges = sum_gauges(report.tally for report in self._reports)
        self.books.stages.append(StageFacts(name, seconds, tally, before, after))

    async def _until(self, done: Callable[[Report], bool] | None, patience: float, name: str) -> None:
        """Wait until all generators say so, or until the time is up when there is nothing to say."""
        deadline = monotonic() + patience
        while not self._stop.is_set():
            if self._failure:
                raise GeneratorFailed(self._failure)
            reported = len(self._reports) == self._order.processes
            if done is not None and reported and all(done(report) for report in self._reports):
                return
            now = monotonic()
            if self._began and now >= self._row_at + self._interval:
                self._make_row(now, name)
            if now >= deadline:
                if done is not None:
                    self.books.overdue.append(name)
                return
            await asyncio.sleep(min(0.02, deadline - now))

    def _interrupt(self) -> None:
        self.books.interrupted = True
        self._stop.set()

    def _make_row(self, now: float, stage: str) -> None:
        seconds, usage = now - self._row_at, self._observer.sample()
        before = {found.pid: found.cpu for found in self._row_usage}
        server: dict[str, tuple[float, int]] = {}
        for found in usage:
            spent = found.cpu - before.get(found.pid, found.cpu)
            percent, rss = server.get(found.role, (0.0, 0))
            server[found.role] = (round(percent + 100 * spent / seconds, 2), rss + found.rss)
        row = Row(
            at=round(now - self._began, 3),
            stage=stage,
            rates={name: round(count / seconds, 3) for name, count in self._row.counts.items()},
            gauges=sum_gauges(report.tally for report in self._reports),
            quantiles={
                name: (
                    round(1000 * (histogram.quantile(0.5) or 0), 3),
                    round(1000 * (histogram.quantile(0.95) or 0), 3),
                    round(1000 * (histogram.quantile(0.99) or 0), 3),
                )
                for name, histogram in self._row.durations.items()
            },
            server=server,
        )
        self._row, self._row_at, self._row_usage = Tally(), now, usage
        self.books.rows.append(row)
        self._show(row)

    # -- processes ---------------------------------------------------------------------------------------------------

    async def _start(self, index: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._argv(sys.executable, "-m", "loadtest.generator"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # a Ctrl-C reaches it through us only
            limit=MAX_REPORT,
        )
        self._processes.append(process)
        cpu = self._cpus[index % len(self._cpus)] if self._cpus else -1
        order = msgspec.structs.replace(self._order, index=index, cpu=cpu, interval=self._interval)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await process.stdin.drain()

    async def _read(self, index: int) -> None:
        stream = self._processes[index].stdout
        assert stream is not None
        latest: Report | None = None
        while line := await stream.readline():
            report = msgspec.json.decode(line, type=Report)
            self._row.absorb(report.tally)
            if report.step is not None:
                self._tallies[report.step].absorb(report.tally)
            if latest is None:
                latest = report
                self._reports.append(report)
            else:
                latest.tally.gauges = report.tally.gauges
                latest.settled, latest.finished = report.settled, report.finished
        if latest is None or not latest.finished:
            status = await self._processes[index].wait()
            self._failure = f"generator {index} ended with {status} before it was finished"

    async def _end_processes(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            with suppress(TimeoutError):
                async with asyncio.timeout(KILL_PATIENCE):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
