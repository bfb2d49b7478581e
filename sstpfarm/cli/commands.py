"""Groups of commands that are imported when they are asked for, and the option that commands of the server share.

Importing everything takes several times as long as what one command needs; the client is often started.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

CONFIG: Final = "/etc/sstpfarm/sstpfarm.toml"


class Commands(click.Group):
    """A group that finds some of its commands in other modules.

    Args:
        places: the module of each of these commands; there it has its own name, with `_` for `-`.
    """

    def __init__(self, *arguments: Any, places: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._places})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None when there is none of that name."""
        if cmd_name not in self._places:
            return super().get_command(ctx, cmd_name)
        found = getattr(import_module(self._places[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found


def config_option(function: click.decorators.FC) -> click.decorators.FC:
    """The --config option of commands that read the server's configuration."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=CONFIG,
        show_default=True,
        help="Configuration file (TOML).",
    )(function)
