"""One session as fast as it goes beside 99 of 1 Mbit/s on the same worker: the 99 lose nothing (SECURITY.md).

+-- client --------------------+           +-- server -------------------+
| free0: one TCP stream        |<==tunnel==| 10.20.0.1                   |
| 99 sessions: echo, 1 Mbit/s  |==tunnels=>|   one worker serves them all |
+------------------------------+           +-----------------------------+
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .client import connected
from .farm import PASSWORD, ROOT, environment, running, users
from .measured_rate import received, stream
from .netns import Wire

pytestmark = pytest.mark.alone

COUNT = 99
SECONDS = 4
BITS = 1_000_000


def test_one_at_full_rate_costs_the_others_nothing(wire: Wire, tmp_path: Path) -> None:
    password, output = tmp_path / "password", tmp_path / "result.json"
    password.write_text(PASSWORD + "\n")
    secrets = {f"load{number}": {"password": PASSWORD} for number in range(COUNT)}
    traffic = [sys.executable, "-m", "loadtest", "traffic", wire.SERVER4, "--insecure", "--i-own-this-target"]
    load = ["--sessions", str(COUNT), "--bits", str(BITS), "--size", "1000", "--seconds", str(SECONDS)]
    login = ["--user", "load{n}", "--password-file", str(password), "--keepalive", "0"]
    quiet = ["--processes", "1", "--quiet", "--output", str(output)]
    server = {"workers": 1, "max-starting": 200}
    with (
        running(wire.server, server=server, secrets={**users(1), **secrets}),
        connected(wire.client, wire.SERVER4, "--interface", "free0", user="user1") as (_, up),
        stream(wire.server, wire.client, up["local_address"]),
    ):
        before = received(wire.client, "free0")
        process = wire.client.popen(*traffic, *load, *login, *quiet, cwd=ROOT, env=environment(ROOT))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        greedy = (received(wire.client, "free0") - before) * 8
    counts = json.loads(output.read_text())["counts"]
    # on a busy machine the generator cannot send all that it should; what it did send is what counts
    assert counts["packets sent"] > 0.5 * COUNT * SECONDS * BITS / 8000, counts
    assert counts["packets lost"] <= counts["packets sent"] / 1000, counts
    assert greedy > 10 * SECONDS * BITS, f"{greedy / 1e6} Mbit"
