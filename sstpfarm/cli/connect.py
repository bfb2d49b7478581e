"""`sstpfarm connect`: one tunnel in the foreground, its phases as they happen, then a line of counters."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.status import Status
from rich.text import Text

from sstpfarm.client.foreground import connect as connect_tunnel
from sstpfarm.client.run import Counters, Observer, Up
from sstpfarm.client.settings import (
    METHODS,
    ClampToPmtu,
    ClientCertificate,
    ClientSettings,
    HttpProxy,
    SourceValidation,
    Wishes,
)
from sstpfarm.config.addresses import Endpoint, parse_server
from sstpfarm.config.client import HTTPS
from sstpfarm.config.client_checks import parse_host_alone, pin_digits
from sstpfarm.config.fields import DISABLED, MRRU_MAX, MRRU_MIN, Password
from sstpfarm.config.pem import check_pair, read_authorities, read_pem
from sstpfarm.errors import ConfigError, SystemRefusal
from sstpfarm.ipc.messages import Method
from sstpfarm.net.tun import check_name
from sstpfarm.proto.ppp.authentication import check_credentials
from sstpfarm.proto.roles import AuthMethod
from sstpfarm.reasons import OUTCOMES, ExitCode, Reason

MAX_PASSWORD_FILE: Final = 4096
TITLES: Final = {
    "tcp": "TCP",
    "tls": "TLS",
    "http": "HTTP",
    "sstp": "SSTP",
    "lcp": "LCP",
    "authentication": "authentication",
    "binding": "crypto binding",
    "ipcp": "IPCP",
    "interface": "interface up",
}


class JsonDisplay:
    """One JSON object a line on standard output: phase, up, counters, closed."""

    def phase(self, name: str, seconds: float, detail: str) -> None:
        """A phase is done."""
        self._line({"event": "phase", "phase": name, "seconds": round(seconds, 6), "detail": detail})

    def up(self, up: Up) -> None:
        """The tunnel carries packets."""
        self._line({"event": "up", **_fields(up)})

    def counters(self, counters: Counters) -> None:
        """Once a second."""
        self._line({"event": "counters", **_fields(counters)})

    def trouble(self, text: str) -> None:
        """The tunnel lives without it."""
        self._line({"event": "trouble", "text": text})

    def closed(self, reason: Reason, detail: str) -> None:
        """The end."""
        text = OUTCOMES[reason].text
        self._line(
            {
                "event": "closed",
                "reason": reason.value,
                "text": text,
                "detail": detail,
                "exit_code": int(OUTCOMES[reason].exit_code),
            }
        )

    def _line(self, fields: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


class ConsoleDisplay:
    """For people: a line for each phase, then one line that counts.

    Details hold what a server said, so they never pass through rich's markup.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def phase(self, name: str, seconds: float, detail: str) -> None:
        """A phase is done."""
        title = f" {TITLES.get(name, name):<16}{seconds * 1000:8.1f} ms  "
        self._console.print(Text.assemble(("✓", "green"), title, (detail, "dim")))

    def up(self, up: Up) -> None:
        """The tunnel carries packets."""
        dns = f", DNS {', '.join(up.dns)}" if up.dns else ""
        ours = f"in bridge {up.bridge}" if up.bridge else up.local_address or up.ipv6_local
        facts = (
            f" {ours} > {up.remote_address or up.server_address}, "
            f"MTU {up.mtu}, {up.method}, {up.tls_version} {up.cipher}{dns}"
        )
        self._console.print(Text.assemble((up.interface, "bold"), facts))
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()

    def counters(self, counters: Counters) -> None:
        """Once a second."""
        if self._status is not None:
            self._status.update(
                f"up {int(counters.seconds)} s   in {counters.bytes_in:,} bytes, {counters.packets_in:,} packets   "
                f"out {counters.bytes_out:,} bytes, {counters.packets_out:,} packets   (Ctrl-C ends)"
            )

    def trouble(self, text: str) -> None:
        """The tunnel lives without it."""
        self._console.print(Text.assemble(("!", "yellow"), f" {text}"))

    def closed(self, reason: Reason, detail: str) -> None:
        """The end."""
        if self._status is not None:
            self._status.stop()
        good = OUTCOMES[reason].exit_code is ExitCode.OK
        line = OUTCOMES[reason].text + (f": {detail}" if detail else "")
        self._console.print(Text.assemble(("✓", "green") if good else ("✗", "bold red"), f" {line}"))


class Deadline(click.FloatRange):
    """Seconds, 0.1 to 600. `nan` is in no range and yet passes click's: no deadline would ever come."""

    def __init__(self) -> None:
        super().__init__(0.1, 600)

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("not a number", param, ctx)
        return seconds


class Mrru(click.ParamType):  # type: ignore[type-arg]  # generic only for type checkers, in click 8.4
    """Bytes, MRRU_MIN to MRRU_MAX, or "disabled", which is None."""

    name = "bytes"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number."""
        if value == DISABLED:
            return None
        if not value.isdecimal() or not MRRU_MIN <= int(value) <= MRRU_MAX:
            self.fail(f'{value!r} is not {MRRU_MIN} to {MRRU_MAX}, or "{DISABLED}"', param, ctx)
        return int(value)


@click.command(
    epilog="Exit codes: 0 ended in order, 64 usage, 65 certificate not trusted, 69 network, 70 internal error, "
    "71 system, 76 protocol, 77 authentication refused, 78 a file is wrong."
)
@click.argument("server", metavar="HOST[:PORT]")
@click.option("--user", required=True, help="User name; DOMAIN\\user is understood.")
@click.option(
    "--password-file", type=click.Path(dir_okay=False, path_type=Path), help="File with the password; else it is asked."
)
@click.option(
    "--ca",
    type=click.Path(exists=True, path_type=Path),
    help="PEM file, or directory of such files, with the certificates to trust instead of the system's.",
)
@click.option("--pin", metavar="sha256:HEX", help="Trust exactly the certificate with this SHA-256.")
@click.option("--insecure", is_flag=True, help="Trust any certificate: anyone on the way can read along.")
@click.option("--insecure-anonymous", is_flag=True, help="For a server without a certificate: TLS protects nothing.")
@click.option("--server-name", default="", help="Name to ask for and to check, instead of HOST.")
@click.option(
    "--certificate",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="CHAIN KEY",
    help="PEM files: a certificate to show to the server, and its key.",
)
@click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy to go through.")
@click.option("--proxy-user", default="", help="Name for the proxy, if it asks.")
@click.option(
    "--proxy-password-file", type=click.Path(dir_okay=False, path_type=Path), help="File with the password for it."
)
@click.option(
    "--authentication", default="mschap2", show_default=True, help="Allowed methods: eap, mschap2, mschap1, chap, pap."
)
@click.option("--interface", metavar="NAME", help="Name of the interface.  [default: sstpc0, sstpc1, ...]")
@click.option("--no-default-route", is_flag=True, help="Leave the default route alone.")
@click.option("--default-route-distance", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--no-peer-dns", is_flag=True, help="Do not ask for DNS servers.")
@click.option("--use-peer-dns", is_flag=True, help="Give the server's DNS servers to this machine's resolver.")
@click.option("--vrf", metavar="NAME", default="", help="VRF that the interface and its routes belong to.")
@click.option("--adjust-mss", metavar="N|clamp-mss-to-pmtu", help="Bound the segments of TCP through the tunnel.")
@click.option("--disable-forwarding", is_flag=True, help="Forward no IPv4 packets that come out of the tunnel.")
@click.option("--source-validation", type=click.Choice(["strict", "loose", "disable"]), help="Reverse path filter.")
@click.option("--no-ipv6", is_flag=True, help="Do not offer IPv6 inside the tunnel.")
@click.option("--keepalive-timeout", default="60", show_default=True, help='Seconds, or "disabled".')
@click.option("--max-mtu", type=click.IntRange(576, 4087), default=1500, show_default=True)
@click.option("--max-mru", type=click.IntRange(576, 4087), default=1500, show_default=True)
@click.option(
    "--mrru",
    type=Mrru(),
    default="disabled",
    show_default=True,
    help='The largest packet that may travel in fragments (multilink), 1500 to 16384, or "disabled".',
)
@click.option(
    "--bridge",
    metavar="NAME",
    help="Carry Ethernet frames (BCP), and make the interface a port of this bridge; it has no address then.",
)
@click.option("--connect-timeout-s", type=Deadline(), default=10.0, show_default=True)
@click.option("--login-deadline-s", type=Deadline(), default=120.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
@click.pass_context
def connect(
    context: click.Context,
    server: str,
    user: str,
    password_file: Path | None,
    ca: Path | None,
    pin: str | None,
    insecure: bool,
    insecure_anonymous: bool,
    server_name: str,
    certificate: tuple[Path, Path] | None,
    proxy: str | None,
    proxy_user: str,
    proxy_password_file: Path | None,
    authentication: str,
    interface: str | None,
    no_default_route: bool,
    default_route_distance: int,
    no_peer_dns: bool,
    use_peer_dns: bool,
    vrf: str,
    adjust_mss: str | None,
    disable_forwarding: bool,
    source_validation: SourceValidation | None,
    no_ipv6: bool,
    keepalive_timeout: str,
    max_mtu: int,
    max_mru: int,
    mrru: int | None,
    bridge: str | None,
    connect_timeout_s: float,
    login_deadline_s: float,
    as_json: bool,
) -> None:
    """Connect to an SSTP server and stay in the foreground until Ctrl-C, SIGTERM or the server ends it."""
    if sum((ca is not None, pin is not None, insecure, insecure_anonymous)) > 1:
        raise click.UsageError("choose one of --ca, --pin, --insecure and --insecure-anonymous")
    host, port = _server(server)
    if server_name:
        try:
            parse_host_alone(server_name)
        except ValueError as error:
            raise click.UsageError(f"--server-name: {server_name!r} {error}") from None
    for option, device in (("--interface", interface), ("--bridge", bridge)):
        if device is not None:
            try:
                check_name(device)
            except SystemRefusal as error:
                raise click.UsageError(f"{option}: {error}") from None
    try:
        name = user.encode()
    except UnicodeEncodeError:
        raise click.UsageError("--user is not UTF-8") from None
    password = _password(password_file, user)
    methods = _methods(authentication)
    for method in methods:
        check_credentials(AuthMethod(method), name, password)
    settings = ClientSettings(
        host=host,
        port=port,
        user=user,
        password=password,
        authentication=methods,
        certificate=_certificate(*certificate) if certificate else None,
        ca_pem=_authorities(ca) if ca else None,
        pin=_pin(pin) if pin else None,
        insecure=insecure,
        insecure_anonymous=insecure_anonymous,
        server_name=server_name,
        proxy=_proxy(proxy, proxy_user, proxy_password_file) if proxy else None,
        keepalive_timeout=_keepalive(keepalive_timeout),
        max_mtu=max_mtu,
        max_mru=max_mru,
        mrru=mrru,
        bridging=bridge is not None,
        ipv6=not no_ipv6,
        peer_dns=not no_peer_dns,
        connect_timeout_s=connect_timeout_s,
        login_deadline_s=login_deadline_s,
    )
    wishes = Wishes(
        interface=interface,
        default_route=not no_default_route,
        default_route_distance=default_route_distance,
        bridge=bridge or "",
        register_dns=use_peer_dns and not no_peer_dns,
        vrf=vrf,
        adjust_mss=_segment_size(adjust_mss) if adjust_mss else None,
        disable_forwarding=disable_forwarding,
        source_validation=source_validation,
    )
    display: Observer = JsonDisplay() if as_json else ConsoleDisplay(Console(highlight=False))
    context.exit(asyncio.run(connect_tunnel(settings, wishes, display)))


def _server(text: str) -> Endpoint:
    try:
        return parse_server(text, HTTPS)
    except ValueError as error:
        raise click.UsageError(f"{text!r} {error}") from None


def _methods(text: str) -> tuple[Method, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise click.UsageError(f"--authentication {text!r}: allowed are {', '.join(METHODS)}, separated by commas")
    return tuple(method for method in METHODS if method in names)


def _pin(text: str) -> str:
    try:
        return pin_digits(text)
    except ValueError as error:
        raise click.UsageError(f"--pin {error}") from None


def _authorities(path: Path) -> str:
    try:
        return read_authorities(path)
    except ConfigError as error:
        raise ConfigError(f"--ca {error}") from None


def _certificate(chain: Path, key: Path) -> ClientCertificate:
    found = ClientCertificate(chain_pem=read_pem(chain), key_pem=Password(read_pem(key)))
    try:
        check_pair(found.chain_pem.encode(), found.key_pem.text.encode())
    except ValueError as error:
        raise ConfigError(f"--certificate {chain} {key}: {error}") from None
    return found


def _segment_size(text: str) -> int | ClampToPmtu:
    if text == "clamp-mss-to-pmtu":
        return "clamp-mss-to-pmtu"
    if not text.isdecimal() or not 536 <= int(text) <= 65535:
        raise click.UsageError(f'--adjust-mss {text!r}: 536 to 65535, or "clamp-mss-to-pmtu"')
    return int(text)


def _proxy(text: str, user: str, password_file: Path | None) -> HttpProxy:
    try:
        host, port = parse_server(text)
    except ValueError as error:
        raise click.UsageError(f"--proxy {text!r} {error}") from None
    if ":" in user:
        raise click.UsageError("--proxy-user holds a colon, which Basic authentication cannot carry")
    if bool(user) != (password_file is not None):
        raise click.UsageError("--proxy-user and --proxy-password-file belong together")
    return HttpProxy(host=host, port=port, user=user, password=Password(_password(password_file, user) if user else ""))


def _keepalive(text: str) -> float | None:
    if text == "disabled":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400:
        raise click.UsageError(f'--keepalive-timeout {text!r}: 1 to 86400 seconds, or "disabled"')
    return seconds


def _password(file: Path | None, user: str) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise click.UsageError("no terminal to ask for the password on: use --password-file")
        return str(click.prompt(f"Password of {user}", hide_input=True, err=True))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--password-file {file}: {error.strerror}") from None
    if len(data) > MAX_PASSWORD_FILE:
        raise ConfigError(f"--password-file {file}: larger than {MAX_PASSWORD_FILE} bytes")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"--password-file {file}: not UTF-8") from None


def _fields(value: Up | Counters) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(value)
    return fields
