"""`sstpfarm client`, and what can be asked of it while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from sstpfarm.client.daemon import run_client
from sstpfarm.config.client_load import load_client
from sstpfarm.errors import SystemRefusal
from sstpfarm.ipc.control import control_request

CLIENT_CONFIG: Final = Path("/etc/sstpfarm/client.toml")
RUN_DIRECTORY: Final = Path("/run/sstpfarm-client")


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=CLIENT_CONFIG,
    show_default=True,
    help="Configuration file (TOML).",
)
@click.option("--check", is_flag=True, help="Validate the file and those that it names; change nothing.")
@click.pass_context
def client(context: click.Context, path: Path, check: bool) -> None:
    """Hold the tunnels of a configuration up until SIGTERM or Ctrl-C; SIGHUP reads it again."""
    if check:
        config = load_client(path)
        click.echo(f"{path}: good; interfaces {', '.join(config.interface)}")
        return
    context.exit(run_client(path))


def client_option(function: click.decorators.FC) -> click.decorators.FC:
    """Which client is asked: by its configuration file, whose run-directory holds the control socket."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        help=f"Configuration of the client that is asked.  [default: {CLIENT_CONFIG}, if it is there]",
    )(function)


@click.command("connect-interface")
@client_option
@click.argument("name")
def connect_interface(path: Path | None, name: str) -> None:
    """Dial now, also where a failure or an operator made the client wait."""
    reply = ask_client(path, {"command": "connect", "interface": name})
    click.echo(f"{name}: {reply['said']}")


@click.command("disconnect-interface")
@client_option
@click.argument("name")
def disconnect_interface(path: Path | None, name: str) -> None:
    """End a session in order; it is not dialled again before connect-interface."""
    reply = ask_client(path, {"command": "disconnect", "interface": name})
    click.echo(f"{name}: {reply['said']}")


def client_directory(path: Path | None) -> Path:
    """Return the run directory of the client that a configuration names, or of the ordinary one.

    Raises:
        SystemRefusal: we may not read it.
        ConfigError: it is faulty.
    """
    try:
        if path is not None or CLIENT_CONFIG.exists():
            return Path(load_client(path or CLIENT_CONFIG).client.run_directory)
    except PermissionError:
        raise SystemRefusal(f"{CLIENT_CONFIG.parent} cannot be read: only root may ask the client") from None
    return RUN_DIRECTORY


def ask_client(path: Path | None, request: dict[str, str]) -> dict[str, Any]:
    """Ask the running client; return its reply.

    Raises:
        SystemRefusal: none runs, or it refuses.
    """
    reply = control_request(client_directory(path), request, whom="client")
    if not reply.get("ok"):
        raise SystemRefusal(str(reply.get("error", "the client gave no reason")))
    return reply
