"""`sstpfarm show interfaces` and `sstpfarm monitor`: the tunnels of this machine, whoever serves them.

`show interfaces` lists as RouterOS's print does (flags X disabled, D dynamic, R running); with a name it shows what the
kernel knows of the device, as VyOS does. `monitor` has the lines of RouterOS's monitor.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from sstpfarm.cli.client import ask_client, client_option
from sstpfarm.errors import SystemRefusal

COLUMNS: Final = {
    "flags": "FLAGS",
    "name": "NAME",
    "user": "USER",
    "mtu": "MTU",
    "peer": "PEER",
    "uptime_s": "UPTIME",
    "encoding": "ENCODING",
    "state": "STATE",
    "comment": "COMMENT",
}
MONITOR: Final = {  # RouterOS's names
    "status": "state",
    "uptime": "uptime_s",
    "idle-time": "idle_s",
    "user": "user",
    "mtu": "mtu",
    "local-address": "local_address",
    "remote-address": "remote_address",
    "encoding": "encoding",
    "authentication": "method",
    "connect-to": "connect_to",
    "server": "peer",
    "last-reason": "last_reason",
    "retry": "retry_s",
    "bytes-in": "bytes_in",
    "bytes-out": "bytes_out",
    "packets-in": "packets_in",
    "packets-out": "packets_out",
}
DURATIONS: Final = frozenset({"uptime_s", "idle_s", "retry_s"})
WIDE: Final = 10_000  # columns when nobody looks: no line is folded
INTERVAL: Final = 1.0
PROGRAM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE_S: Final = 10


@click.command()
@client_option
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole facts, as a JSON list.")
def interfaces(path: Path | None, name: str | None, as_json: bool) -> None:
    """List the tunnels' interfaces, or show one as the kernel knows it."""
    found = [entry for entry in listing(path) if name in (None, entry["name"])]
    if name is not None and not found:
        raise SystemRefusal(f"no interface {name}")
    if as_json:
        for entry in found:
            entry["kernel"] = kernel_facts(entry["name"])
        click.echo(json.dumps(found, indent=2))
    elif name is not None:
        for line in kernel_text(name).splitlines():
            if line.lstrip().startswith("RX:") and found[0]["comment"]:
                click.echo(f"    Description: {found[0]['comment']}")
            click.echo(line.rstrip())
    else:
        click.echo("Flags: X - disabled, D - dynamic, R - running")
        table = Table(box=None, pad_edge=False)
        for title in COLUMNS.values():
            table.add_column(title, overflow="fold")
        for entry in found:
            table.add_row(*(text(key, entry.get(key)) for key in COLUMNS))
        _console().print(table)


@click.command()
@client_option
@click.argument("name")
@click.option("--follow", is_flag=True, help="Once a second until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def monitor(path: Path | None, name: str, follow: bool, as_json: bool) -> None:
    """Show how a tunnel is: status, uptime, idle time, user, MTU."""
    while True:
        found = next((entry for entry in listing(path) if entry["name"] == name), None)
        if found is None:
            raise SystemRefusal(f"no interface {name}")
        if as_json:
            click.echo(json.dumps({title: found.get(key) for title, key in MONITOR.items()}))
        else:
            for title, key in MONITOR.items():
                if found.get(key) not in (None, ""):
                    click.echo(f"{title:>16}: {text(key, found[key])}")
        if not follow:
            return
        time.sleep(INTERVAL)


def listing(path: Path | None) -> list[dict[str, Any]]:
    """Return the facts of all interfaces."""
    return [_of_client(facts) for facts in ask_client(path, {"command": "interfaces"})["interfaces"]]


def _of_client(facts: dict[str, Any]) -> dict[str, Any]:
    session = facts["session"] or {}
    flags = ("X" if facts["disabled"] else "") + ("R" if facts["running"] else "")
    encoding = f"{session['cipher']} {session['tls_version']}" if session else ""
    return {
        **facts,
        "flags": flags,
        "mtu": session.get("mtu"),
        "peer": session.get("server_address") or facts["connect_to"],
        "encoding": encoding,
        "method": session.get("method"),
        "local_address": session.get("local_address"),
        "remote_address": session.get("remote_address"),
        "comment": facts["description"],
    }


def kernel_text(name: str) -> str:
    """Return what `ip -s address show` prints of a device.

    Raises:
        SystemRefusal: the program is not there, or there is no such device in this network namespace.
    """
    program = shutil.which("ip", path=PROGRAM_PATH)
    if program is None:
        raise SystemRefusal("the program ip is not there (Debian: iproute2)")
    done = subprocess.run(  # noqa: S603 - a fixed program from system directories, no shell
        [program, "-s", "address", "show", "dev", name], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise SystemRefusal(f"interface {name}: {done.stderr.strip()}")
    return done.stdout


def kernel_facts(name: str) -> dict[str, Any] | None:
    """Return what `ip -json -s address show` says of a device; None when it is not there."""
    program = shutil.which("ip", path=PROGRAM_PATH)
    if program is None:
        return None
    done = subprocess.run(  # noqa: S603 - as above
        [program, "-json", "-s", "address", "show", "dev", name], capture_output=True, timeout=PATIENCE_S, check=False
    )
    found = json.loads(done.stdout or "[]")
    return found[0] if found else None


def text(key: str, value: object) -> str:
    """Return a value for people; times as RouterOS writes them (1h2m3s)."""
    if value is None:
        return ""
    if key in DURATIONS and isinstance(value, int | float):
        return duration(int(value))
    return f"{value:,}" if isinstance(value, int) and key.startswith("bytes") else str(value)


def duration(seconds: int) -> str:
    """Return a time as RouterOS writes it, without parts that are zero."""
    parts = []
    for unit, size in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDE)
