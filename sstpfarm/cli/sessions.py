"""`sstpfarm show` and `sstpfarm kick`: ask the running farm through its control socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from sstpfarm.cli.commands import CONFIG as DEFAULT
from sstpfarm.cli.commands import Commands
from sstpfarm.cli.table import print_table
from sstpfarm.config.load import locate_farm
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.control import ASKING_PATIENCE_S, control_request, raise_refusal

CONFIG: Final = Path(DEFAULT)
RUN_DIRECTORY: Final = Path("/run/sstpfarm")
PLACES: Final = {"history": "sstpfarm.cli.history", "interfaces": "sstpfarm.cli.interfaces"}
PATIENCE_S: Final = {"reload": 120.0}  # 100,000 users take some ten seconds to read
COLUMNS: Final = {
    "session": "SESSION",
    "name": "NAME",
    "user": "USER",
    "caller_id": "CALLER-ID",
    "address": "ADDRESS",
    "mtu": "MTU",
    "uptime_s": "UPTIME",
    "method": "METHOD",
    "cipher": "CIPHER",
    "worker": "WORKER",
    "bytes_in": "IN",
    "bytes_out": "OUT",
    "state": "STATE",
}


def farm_option(function: click.decorators.FC) -> click.decorators.FC:
    """Which farm is asked: by its configuration file, whose run-directory holds the control socket."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        help=f"Configuration of the farm that is asked.  [default: {CONFIG}, if it is there]",
    )(function)


@click.group(cls=Commands, places=PLACES)
def show() -> None:
    """Show what the running farm does."""


@show.command()
@farm_option
@click.option("--json", "as_json", is_flag=True, help="The whole facts, as a JSON list.")
def sessions(path: Path | None, as_json: bool) -> None:
    """List the sessions."""
    found = ask_farm(path, {"command": "sessions"})["sessions"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    print_table([*COLUMNS.values()], ([_text(key, session[key]) for key in COLUMNS] for session in found))


@show.command()
@farm_option
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def status(path: Path | None, as_json: bool) -> None:
    """Describe the farm: processes, sessions, listeners."""
    found = ask_farm(path, {"command": "status"})["status"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        click.echo(f"{key:10}{value if isinstance(value, str) else json.dumps(value)}")


@show.command()
@farm_option
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def pools(path: Path | None, as_json: bool) -> None:
    """Show how much of each pool is used."""
    found = ask_farm(path, {"command": "pools"})["pools"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = ([pool["pool"], *(f"{pool[key]:,}" for key in ("used", "free", "size"))] for pool in found)
    print_table(("POOL", "USED", "FREE", "SIZE"), rows)


@click.command()
@farm_option
def reload(path: Path | None) -> None:
    """Have the farm read its users, profiles, pools, RADIUS servers and certificate again.

    A faulty file changes nothing; a certificate that cannot be used changes nothing but itself.
    """
    found = ask_farm(path, {"command": "reload"})["reload"]
    click.echo(f"{found['users']} users")
    if found["need_restart"]:
        click.echo(f"changed, and needs a restart: {', '.join(found['need_restart'])}")
    raise_if_kept(found)


def raise_if_kept(found: Mapping[str, Any]) -> None:
    """Raise what kept the farm from taking the certificate over at a reload, if there is anything."""
    kept = found["certificate_kept"]
    if kept is not None:
        raise_refusal({**kept, "error": f"the farm keeps the certificate of before: {kept['error']}"})


@click.command()
@farm_option
@click.argument("session", metavar="SESSION|INTERFACE|USER")
def kick(path: Path | None, session: str) -> None:
    """End a session, or all sessions of a user; show their IDs.

    The argument is a session's ID; where no session has it, the name of an interface; where none has that, a user.
    """
    for ended in ask_farm(path, {"command": "kick", "session": session})["kicked"]:
        click.echo(ended)


def ask_farm(path: Path | None, request: dict[str, str]) -> dict[str, Any]:
    """Ask the farm of that configuration file and return its reply.

    Raises:
        ConfigError: the file is no TOML, or has wrong keys; or the farm refused a file of ours.
        NobodyThere: no farm runs there.
        SystemRefusal: we may not ask, or it refused something else.
    """
    directory = RUN_DIRECTORY
    try:
        if path is not None or CONFIG.exists():
            directory = Path(locate_farm(path or CONFIG).run_directory)
    except PermissionError:
        raise SystemRefusal(f"{CONFIG.parent} cannot be read: only root may ask the farm") from None
    reply = control_request(directory, request, patience=PATIENCE_S.get(request["command"], ASKING_PATIENCE_S))
    if not reply.get("ok"):
        raise_refusal(reply)
    return reply


def _text(key: str, value: object) -> str:
    if key == "uptime_s" and isinstance(value, int | float):
        minutes, seconds = divmod(int(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"
    if key in ("bytes_in", "bytes_out") and isinstance(value, int):
        return f"{value:,}"
    return str(value)
