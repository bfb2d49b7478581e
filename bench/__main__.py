"""Run the benchmark, as root: `python -m bench [--quick] [--only GROUP ...]`; `make bench` does the set-up."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.markup import escape

from bench import bulk, delay, instructions, report, sessions, udp
from bench.figure import Figure, Setup
from bench.peers import FLOWS, ROOT, TUNNEL, environment_note
from sstpfarm.cli.stage import StageError

GROUPS: Final[Mapping[str, Callable[[Setup], list[Figure]]]] = {
    "one-session": bulk.one_session,
    "many-sessions": bulk.many_sessions,
    "udp-cost": udp.packet_cost,
    "udp-bursts": udp.bursts,
    "login-cost": sessions.login_cost,
    "login-rate": sessions.login_rate,
    "memory": sessions.memory,
    "hold": sessions.hold,
    "delay": delay.ping_under_load,
    "pure-and-fast": bulk.pure_and_fast,
    "own-client": bulk.own_client,
    "ladder": sessions.ladder,
    "routed-ladder": sessions.routed_ladder,
    "instructions": instructions.instructions,
}
OUTPUT: Final = ROOT / "build/bench"
PAGE: Final = ROOT / "docs/performance.md"
PROGRAMS: Final = ("ip", "ping", "tc", "taskset", "openssl", "valgrind")
MISSED: Final = 2  # exit status of --assert


def main(arguments: list[str] | None = None) -> int:
    """Run as a program; the exit status: 0, 1 when a measurement failed, MISSED."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure what sstpfarm costs on this machine.")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--runs", type=int, help="runs of each figure (3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="of traffic in each run (3; quick: 1)")
    parser.add_argument("--dataplane", choices=("pure", "fast"), default="", help="the servers' packet path")
    parser.add_argument("--no-page", action="store_true", help="leave docs/performance.md alone")
    parser.add_argument(
        "--assert", dest="strict", action="store_true", help=f"exit with {MISSED} if a target is missed"
    )
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    obstacle = _obstacle()
    if obstacle:
        console.print(f"[red]The benchmark cannot run:[/] {escape(obstacle)}")
        return 1
    folder = OUTPUT / "quick" if options.quick else OUTPUT
    # Not $TMPDIR: root's may be a private one, and auth and the workers reach their files as users of their own.
    directory = Path(tempfile.mkdtemp(prefix=f"sstpfarm-bench-{os.getpid()}-", dir="/run"))
    directory.chmod(0o755)
    setup = Setup(
        directory=directory,
        quick=options.quick,
        runs=options.runs or (1 if options.quick else 3),
        seconds=options.seconds or (1.0 if options.quick else 3.0),
        dataplane=options.dataplane,
        say=lambda line: console.print(f"  {escape(line)}", soft_wrap=True),
    )
    signal.signal(signal.SIGTERM, _terminated)
    try:
        failed = [name for name in options.only or GROUPS if not _run(name, setup, folder, console)]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    groups = report.load(folder, GROUPS)
    figures = report.latest(groups)
    if groups and not options.quick and not options.no_page:
        report.update_page(PAGE, groups)
        console.print(f"Tables of {PAGE.relative_to(ROOT)} made anew from {folder.relative_to(ROOT)}/*.json")
    lines = report.missed(figures)
    if lines:
        console.print("Not reached, or not measured:")
        for line in lines:
            console.print(f"  {escape(line)}", soft_wrap=True)
    if failed:
        console.print(f"[red]Failed:[/] {', '.join(failed)}")
        return 1
    return MISSED if options.strict and lines else 0


def _terminated(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # everything is taken down now
    sys.exit(128 + signal.SIGTERM)


def _run(name: str, setup: Setup, folder: Path, console: Console) -> bool:
    """Run one group and keep what it found; whether it could be measured."""
    console.print(f"[bold]{name}[/]")
    began, before, clock = report.now(), environment_note(), time.monotonic()
    try:
        figures = GROUPS[name](setup)
    except (StageError, OSError, subprocess.SubprocessError) as error:
        console.print(f"  [red]failed:[/] {escape(str(error))}", soft_wrap=True)
        return False
    report.save(
        report.Group(
            name=name,
            date=began,
            machine=report.machine(),
            dataplane=setup.dataplane or "as the server chooses",
            load=(before, environment_note()),
            figures=figures,
        ),
        folder,
    )
    console.print(f"  [dim]{time.monotonic() - clock:.0f} s[/]")
    return True


def _obstacle() -> str:
    """Why it cannot run here; "" when it can."""
    if os.geteuid() != 0:
        return "it makes network namespaces and interfaces, for which it has to be root."
    if len(os.sched_getaffinity(0)) < 2:
        return "it needs two processors: one for the worker, one for everything else."
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"missing programs: {', '.join(missing)} (make bench installs them)."
    if not (TUNNEL.exists() and FLOWS.exists()):
        return "its native programs are not built: make bench."
    return ""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
