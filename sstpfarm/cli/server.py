"""`sstpfarm serve` and `sstpfarm check`: run the farm of a configuration, or only look at it."""

from __future__ import annotations

from pathlib import Path

import click

from sstpfarm.cli.commands import config_option
from sstpfarm.config.load import describe, load
from sstpfarm.dataplane.select import shortfall
from sstpfarm.master.certificate import check_files
from sstpfarm.master.farm import serve as serve_farm
from sstpfarm.master.table import masquerade_without_interface


@click.command()
@config_option
@click.pass_context
def serve(context: click.Context, path: Path) -> None:
    """Run the server in the foreground until SIGTERM or Ctrl-C."""
    context.exit(serve_farm(load(path), path))


@click.command()
@config_option
def check(path: Path) -> None:
    """Validate a configuration file and the files that it names; change nothing.

    Faults of form (no TOML, unknown keys, wrong values) come first; what must hold between the keys, and the files, are
    looked at when the configuration file has none of these.
    """
    found: list[str] = []
    config = load(path, look=lambda config: found.extend(check_files(config)))
    notes = [*found, masquerade_without_interface(config.server), shortfall()]
    click.echo("\n".join([describe(config, path), *(f"{path}: warning: {note}" for note in notes if note)]))
