"""The `sstpfarm` command: its subcommands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from sstpfarm.cli.certificate import certificate
from sstpfarm.cli.client import client, connect_interface, disconnect_interface
from sstpfarm.cli.connect import connect
from sstpfarm.cli.demo import run_demo
from sstpfarm.cli.history import history
from sstpfarm.cli.interfaces import interfaces, monitor
from sstpfarm.cli.sessions import kick, reload, show
from sstpfarm.cli.users import user
from sstpfarm.config.load import describe, load
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.master.certificate import check_files
from sstpfarm.master.farm import serve as serve_farm
from sstpfarm.reasons import ExitCode

CONFIG: Final = "/etc/sstpfarm/sstpfarm.toml"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("sstpfarm"), prog_name="sstpfarm")
def cli() -> None:
    """An SSTP VPN server and client for Linux, for one machine or a farm of them."""


def config_option(function: click.decorators.FC) -> click.decorators.FC:
    """The --config option that server commands share."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        default=CONFIG,
        show_default=True,
        help="Configuration file (TOML).",
    )(function)


@cli.command()
@config_option
@click.pass_context
def serve(context: click.Context, path: Path) -> None:
    """Run the server in the foreground until SIGTERM or Ctrl-C."""
    context.exit(serve_farm(load(path), path))


@cli.command()
@config_option
def check(path: Path) -> None:
    """Validate a configuration file and the files that it names; change nothing."""
    config = load(path)
    check_files(config)
    click.echo(describe(config, path))


@cli.command()
@click.pass_context
def demo(context: click.Context) -> None:
    """Show a server and a client in two network namespaces of this machine."""
    context.exit(run_demo(Console()))


for command in (
    certificate,
    connect,
    show,
    kick,
    reload,
    user,
    client,
    connect_interface,
    disconnect_interface,
    monitor,
):
    cli.add_command(command)
for command in (interfaces, history):
    show.add_command(command)


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
