"""loadtest.result, plot and observe: the figures of a run, from made-up books."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from loadtest import plot
from loadtest.conductor import Books, Row, StageFacts
from loadtest.measures import Tally
from loadtest.observe import Observer, Usage, descendants
from loadtest.orders import Order, Traffic
from loadtest.result import failures, make_result
from loadtest.target import Target
from sstpfarm.config.fields import Password

VOID = {"meta", "path", "polyline", "br"}


def order() -> Order:
    target = Target("127.0.0.1", 443, "localhost", "load{n}", Password("secret words"))
    return Order(target, Traffic(seconds=2, sessions=4, bits=1000), 0, 2)


def books(**counts: int) -> Books:
    before = [Usage(10, "master", 1.0, 100), Usage(11, "worker 0", 2.0, 100), Usage(12, "worker 1", 2.0, 100)]
    after = [Usage(10, "master", 1.1, 100), Usage(11, "worker 0", 2.2, 300), Usage(12, "worker 1", 2.2, 300)]
    ramp, measured = Tally({"logins": 4, "attempts": 4}), Tally(counts)
    ramp.observe("login", 0.010)
    stages = [StageFacts("ramp", 2.0, ramp, before, after), StageFacts("measure", 2.0, measured, after, after)]
    server = {"worker 0": (12.5, 1 << 20)}
    rows = [
        Row(float(at), "ramp", {"logins": 2.0, "bytes sent": 5e5}, {"up": at}, {"round trip": (1.0, 2.0, 3.0)}, server)
        for at in range(5)
    ]
    return Books(stages, rows, [{"cpu": 2_000_000_000, "rss": 5}])


def result(**counts: int) -> dict[str, Any]:
    return make_result(order(), books(**counts), datetime(2026, 1, 2, tzinfo=UTC), own_farm=True)


def test_cpu_per_login_adds_the_workers_up() -> None:
    ramp, _ = result()["stages"]
    assert ramp["server_cpu_ms_per_login"] == {"master": 25.0, "worker": 100.0}
    assert [found["cpu_percent"] for found in ramp["server"]] == [5.0, 10.0, 10.0]
    assert (ramp["server"][1]["rss_before_bytes"], ramp["server"][1]["rss_after_bytes"]) == (100, 300)
    assert ramp["durations"]["login"]["max"] == 10.0


def test_loss_and_throughput() -> None:
    found = result(**{"packets sent": 10, "packets received": 9, "bytes sent": 4000, "bytes received": 3600})
    assert found["counts"]["packets lost"] == 1
    assert found["stages"][1]["mbit_per_second"] == {"sent": 0.016, "received": 0.014}


def test_result_is_json_and_holds_no_password() -> None:
    text = json.dumps(result())
    assert "secret words" not in text
    assert json.loads(text)["scenario"]["name"] == "traffic"


@pytest.mark.parametrize(
    "name", ["failed: tls-timeout", "lost: transport-lost", "packets bad: corrupt", "probe failed during"]
)
def test_failures_are_named(name: str) -> None:
    assert list(failures(result())) == []
    assert list(failures(result(**{name: 3}))) == [f"3 {name}"]


class Checker(HTMLParser):
    """Every element is closed in order, and nothing is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


def test_page_is_whole_and_self_contained() -> None:
    found = result(**{"failed: <script>": 1})
    page = plot.page(found)
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.seen.count("svg") >= 5
    assert "script" not in checker.seen


def test_chart_of_nothing_is_a_chart() -> None:
    assert "<svg" in plot.chart("Nothing", "", {})


def test_chart_puts_the_largest_value_on_its_axis() -> None:
    drawn = plot.chart("Rate", "a second", {"logins": [(0.0, 0.0), (10.0, 130.0)]})
    assert f"{plot.LEFT:.1f},{plot.HEIGHT - plot.BOTTOM:.1f}" in drawn
    assert ">200</text>" in drawn


def test_processes_are_found_with_their_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert descendants(os.getpid())[0] == os.getpid()
        assert child.pid in descendants(os.getpid())
        usage = {found.pid: found for found in Observer((os.getpid(),)).sample()}
        assert usage[os.getpid()].cpu > 0
        assert usage[os.getpid()].rss > 1 << 20
        assert child.pid in usage
        child.communicate(b"\n", timeout=30)
    assert Observer((child.pid,)).sample() == []
