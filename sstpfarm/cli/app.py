"""The `sstpfarm` command: its subcommands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click

from sstpfarm.cli.commands import Commands
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.reasons import ExitCode

PLACES: Final = {
    "certificate": "sstpfarm.cli.certificate",
    "check": "sstpfarm.cli.server",
    "client": "sstpfarm.cli.client",
    "connect": "sstpfarm.cli.connect",
    "connect-interface": "sstpfarm.cli.client",
    "demo": "sstpfarm.cli.demo",
    "disconnect-interface": "sstpfarm.cli.client",
    "kick": "sstpfarm.cli.sessions",
    "monitor": "sstpfarm.cli.interfaces",
    "reload": "sstpfarm.cli.sessions",
    "serve": "sstpfarm.cli.server",
    "show": "sstpfarm.cli.sessions",
    "user": "sstpfarm.cli.users",
}


@click.group(cls=Commands, places=PLACES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sstpfarm", prog_name="sstpfarm")
def cli() -> None:
    """An SSTP VPN server and client for Linux, for one machine or a farm of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (sysexits.h)."""
    try:
        result = cli.main(args=arguments, standalone_mode=False)
    except click.exceptions.Abort:
        return 130  # the shell's own code for Ctrl-C
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except ConfigError as error:
        click.echo(str(error), err=True)
        return ExitCode.CONFIG
    except SystemRefusal as error:
        click.echo(f"sstpfarm: {error}", err=True)
        return ExitCode.SYSTEM
    return result if isinstance(result, int) else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
