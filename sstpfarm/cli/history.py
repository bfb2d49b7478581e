"""`sstpfarm show history`: sessions that have ended, from the local accounting."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from sstpfarm.auth.sqlite.history import read_history
from sstpfarm.cli.commands import config_option
from sstpfarm.cli.table import print_table
from sstpfarm.config.expiry import expiry_time
from sstpfarm.config.load import locate_farm

UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
COLUMNS: Final = ("STARTED", "ENDED", "USER", "CALLER-ID", "ADDRESS", "INTERFACE", "METHOD", "IN", "OUT", "REASON")


def parse_since(text: str, now: datetime) -> float:
    """Return the time that "2d" (before now), a date or an RFC 3339 time means, in seconds since the epoch.

    Raises:
        ValueError: it is none of them.
    """
    match = re.fullmatch(r"([0-9]{1,5})([mhdw])", text, re.ASCII)
    if match:
        return (now - timedelta(**{UNITS[match[2]]: int(match[1])})).timestamp()
    return expiry_time(text)


def _since(context: click.Context, parameter: click.Parameter, text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        return parse_since(text, datetime.now(UTC))
    except ValueError:
        raise click.BadParameter('allowed: such as "90m", "12h", "2d", "3w", a date, an RFC 3339 time') from None


@click.command()
@config_option
@click.option("--user", help="Only this user's sessions.")
@click.option("--since", callback=_since, help="Only what ended since then: 2d, a date or an RFC 3339 time.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="The last so many.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def history(path: Path, user: str | None, since: float, limit: int, as_json: bool) -> None:
    """Show sessions that have ended, the last one first; the farm need not run."""
    directory = Path(locate_farm(path).state_directory) / "auth"
    found = list(read_history(directory, user=user, since=since, limit=limit))
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print_table(COLUMNS, map(_texts, found))


def _texts(row: dict[str, Any]) -> list[str]:
    times = (datetime.fromtimestamp(row[key], UTC).astimezone() for key in ("started_at", "ended_at"))
    address = f"{row['address']} {row['ipv6_networks']}".rstrip()
    facts = (row["user"], row["caller_id"], address, row["interface"], row["method"])
    sizes = (f"{row[key]:,}" for key in ("bytes_in", "bytes_out"))
    return [*(f"{time:%Y-%m-%d %H:%M:%S}" for time in times), *facts, *sizes, row["reason"]]
