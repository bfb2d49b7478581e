"""`sstpfarm show interfaces` and `sstpfarm monitor`: the tunnels of this machine, whoever serves them.

`show interfaces` lists as RouterOS's print does (flags X disabled, D dynamic, R running); with the name of a client's
interface it shows what the kernel knows of the device, as VyOS does. `monitor` has the lines of RouterOS's monitor.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import click

from sstpfarm.cli.client import ask_client
from sstpfarm.cli.sessions import ask_farm
from sstpfarm.cli.table import print_table
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
FARM_COLUMNS: Final = {
    "#": "#",
    "flags": "FLAGS",
    "name": "NAME",
    "user": "USER",
    "mtu": "MTU",
    "caller_id": "CLIENT-ADDRESS",
    "uptime_s": "UPTIME",
    "encoding": "ENCODING",
}
FARM_MONITOR: Final = {  # RouterOS's names, but the last two
    "status": "status",
    "uptime": "uptime_s",
    "idle-time": "idle_s",
    "user": "user",
    "caller-id": "caller_id",
    "mtu": "mtu",
    "encoding": "encoding",
    "last-reason": "last_reason",
    "comment": "comment",
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
PROGRAM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE_S: Final = 10


def which(function: click.decorators.FC) -> click.decorators.FC:
    """Which farm and which client are asked: with one of the options that one alone, with none both ordinary ones."""
    for option, name, whom in (("--client-config", "client", "client"), ("--config", "farm", "farm")):
        kind = click.Path(path_type=Path)
        function = click.option(option, name, type=kind, help=f"Configuration of the {whom} that is asked.")(function)
    return function


@click.command()
@which
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole facts, as a JSON list.")
def interfaces(farm: Path | None, client: Path | None, name: str | None, as_json: bool) -> None:
    """List the interfaces of the farm and of the client, or show the one of that NAME."""
    served, dialled = listing(farm, client)
    if name is not None:
        served, dialled = ([entry for entry in found or () if entry["name"] == name] for found in (served, dialled))
        if not served and not dialled:
            raise SystemRefusal(f"no interface {name}")
    if as_json:
        for entry in dialled or ():
            entry["kernel"] = kernel_facts(entry["name"])
        click.echo(json.dumps([*(served or ()), *(dialled or ())], indent=2))
    elif name is not None and dialled:
        for line in kernel_text(name).splitlines():
            if line.lstrip().startswith("RX:") and dialled[0]["comment"]:
                click.echo(f"    Description: {dialled[0]['comment']}")
            click.echo(line.rstrip())
    else:
        click.echo("Flags: X - disabled, D - dynamic, R - running")
        if served is not None and (served or not dialled):
            _print(FARM_COLUMNS, [{"#": number, **entry} for number, entry in enumerate(served)])
        if dialled is not None and (dialled or not served):
            _print(COLUMNS, dialled)


@click.command()
@which
@click.argument("name")
@click.option("--once", is_flag=True, help="Show it once, do not watch.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON objects, one a line.")
def monitor(farm: Path | None, client: Path | None, name: str, once: bool, interval: float, as_json: bool) -> None:
    """Watch an interface until Ctrl-C: status, uptime, idle time, user, MTU."""
    while True:
        lines, found = _monitored(farm, client, name)
        if as_json:
            click.echo(json.dumps({title: found.get(key) for title, key in lines.items()}))
        else:
            for title, key in lines.items():
                if found.get(key) not in (None, ""):
                    click.echo(f"{title:>16}: {text(key, found[key])}")
        if once:
            return
        time.sleep(interval)


def listing(farm: Path | None, client: Path | None) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]:
    """Return the facts of all interfaces, the farm's and the client's; None for what does not run.

    Raises:
        SystemRefusal: what was named does not answer, or neither does.
    """
    served = dialled = None
    failures = []
    if farm is not None or client is None:
        try:
            served = ask_farm(farm, {"command": "interfaces"})["interfaces"]
        except SystemRefusal as error:
            failures.append(error)
    if client is not None or farm is None:
        try:
            dialled = [_of_client(facts) for facts in ask_client(client, {"command": "interfaces"})["interfaces"]]
        except SystemRefusal as error:
            failures.append(error)
    if (served is None and dialled is None) or (farm is not None and client is not None and failures):
        raise SystemRefusal("; ".join(map(str, failures)))
    return served, dialled


def _monitored(farm: Path | None, client: Path | None, name: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what is shown of an interface, and its facts."""
    if client is None:
        try:
            return FARM_MONITOR, ask_farm(farm, {"command": "interface", "name": name})["interface"]
        except SystemRefusal:
            if farm is not None:
                raise
    for entry in listing(farm, client)[1] or ():
        if entry["name"] == name:
            return MONITOR, entry
    raise SystemRefusal(f"no interface {name}")


def _print(columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
    print_table([*columns.values()], ([text(key, row.get(key)) for key in columns] for row in rows))


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
