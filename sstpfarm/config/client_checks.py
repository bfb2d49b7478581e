"""What must hold between the keys of a client's configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sstpfarm.config.addresses import parse_server
from sstpfarm.config.client import HTTPS, MAX_INTERFACES, SYSTEM, ClientConfig, Interface
from sstpfarm.config.locate import KeyPath
from sstpfarm.config.report import Report, show, suggest
from sstpfarm.config.routes import ROUTE_FORMS, parse_route

DEFAULT_PROFILE: Final = "default"
SERVER_FORMS: Final = '"HOST", "HOST:PORT", "ADDRESS" or "[ADDRESS]:PORT"'
NAME_FORM: Final = "1 to 15 letters, digits and . _ @ + -"
_DEVICE: Final = re.compile(r"[A-Za-z0-9._@+-]{1,15}")
_PIN: Final = re.compile(r"sha256:((?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2})")
# Two names of one thing, RouterOS's and VyOS's: a file has at most one of them for an interface.
SAME_THING: Final = (
    ("connect_to", "server"),
    ("connect_to", "port"),
    ("comment", "description"),
    ("disabled", "disable"),
    ("add_default_route", "no_default_route"),
    ("max_mtu", "mtu"),
    ("max_mru", "mtu"),
    ("password", "password_file"),
    ("proxy_password", "proxy_password_file"),
)


def check_name(section: str, name: str, report: Report) -> None:
    """Report an interface's name that no device can have, and a profile's that is unusable."""
    if section == "interface":
        if not _DEVICE.fullmatch(name) or name in (".", ".."):
            report.add((section, name), f"is no name of a device; allowed: {NAME_FORM}")
    elif not 1 <= len(name) <= 64 or not name.isprintable():
        report.add((section, name), f"is no {section}'s name; allowed: 1 to 64 printable characters")


def check_client(config: ClientConfig, report: Report) -> None:
    """Report every contradiction between keys."""
    if not config.interface:
        report.add(("interface",), "there is none; allowed: one or more tables [interface.NAME]")
    if len(config.interface) > MAX_INTERFACES:
        report.add(("interface",), f"there are {len(config.interface)}; allowed: at most {MAX_INTERFACES}")
    for name, interface in config.interface.items():
        _check_interface(config, interface, ("interface", name), report)


def pin_digits(text: str) -> str:
    """Return the 64 lower-case digits of ``sha256:HEX``, colons between them allowed.

    Raises:
        ValueError: it is not of that form.
    """
    match = _PIN.fullmatch(text)
    if match is None:
        raise ValueError('is not "sha256:" and 64 hexadecimal digits')
    return match[1].replace(":", "").lower()


def _check_interface(config: ClientConfig, interface: Interface, path: KeyPath, report: Report) -> None:
    for one, other in SAME_THING:
        if getattr(interface, one) is not None and getattr(interface, other) is not None:
            report.add((*path, _key(other)), f"stands beside {_key(one)}; allowed: one of them")
    if interface.connect_to is None and interface.server is None:
        report.add(path, "has no server; allowed: exactly one of connect-to and server")
    if interface.password is None and interface.password_file is None:
        report.add(path, "has no password; allowed: exactly one of password-file and password")
    _parsed(lambda text: parse_server(text, HTTPS), interface.connect_to, (*path, "connect-to"), SERVER_FORMS, report)
    _parsed(
        parse_host_alone, interface.server, (*path, "server"), "a name or an address, its port is the key port", report
    )
    if interface.profile not in config.profile and interface.profile != DEFAULT_PROFILE:
        found = suggest(interface.profile, config.profile)
        report.add((*path, "profile"), f"there is no profile {show(interface.profile)}; {found}")
    for index, method in enumerate(interface.authentication):
        if method in interface.authentication[:index]:
            report.add((*path, "authentication", index), f"{show(method)} is listed twice")
    _check_trust(interface, path, report)
    _check_proxy(interface, path, report)
    for index, text in enumerate(interface.routes):
        _parsed(parse_route, text, (*path, "routes", index), ROUTE_FORMS, report)
    if interface.bridge and interface.dial_on_demand:
        report.add((*path, "dial-on-demand"), "stands beside bridge; a bridged tunnel has no packets of its own")
    for least, most in (("reconnect_delay_s", "reconnect_delay_max_s"), ("refused_delay_s", "refused_delay_max_s")):
        if getattr(interface, least) > getattr(interface, most):
            report.add((*path, _key(most)), f"is less than {_key(least)}; allowed: that or more")


def _check_trust(interface: Interface, path: KeyPath, report: Report) -> None:
    asked = {"ca": interface.ca != SYSTEM, "pin": bool(interface.pin), "insecure": interface.insecure}
    asked["insecure-anonymous"] = interface.insecure_anonymous
    chosen = [key for key, is_asked in asked.items() if is_asked]
    if len(chosen) > 1:
        allowed = "one of ca, pin, insecure and insecure-anonymous"
        report.add((*path, chosen[1]), f"stands beside {chosen[0]}; allowed: {allowed}")
    if interface.pin:
        _parsed(pin_digits, interface.pin, (*path, "pin"), '"sha256:" and 64 hexadecimal digits', report)
    names = 'a name, or "" for that of the server'
    _parsed(parse_host_alone, interface.server_name or None, (*path, "server-name"), names, report)


def _check_proxy(interface: Interface, path: KeyPath, report: Report) -> None:
    if interface.proxy:
        forms = '"HOST:PORT" or "[ADDRESS]:PORT", or "" for none'
        _parsed(parse_server, interface.proxy, (*path, "proxy"), forms, report)
    elif interface.proxy_user:
        report.add((*path, "proxy-user"), "has no effect without proxy")
    has_password = interface.proxy_password is not None or interface.proxy_password_file is not None
    if has_password and not interface.proxy_user:
        key = "proxy-password" if interface.proxy_password is not None else "proxy-password-file"
        report.add((*path, key), "has no effect without proxy-user")


def parse_host_alone(text: str) -> None:
    """Raise ValueError for what is not a name or an address without a port."""
    if text.startswith("[") or text.count(":") == 1:  # an IPv6 address has two colons or more
        raise ValueError("is not a name or an address alone")
    parse_server(text, HTTPS)


def _parsed(parse: Callable[[str], object], text: str | None, key: KeyPath, allowed: str, report: Report) -> None:
    if text is None:
        return
    try:
        parse(text)
    except ValueError as error:
        report.add_value(key, text, str(error), allowed)


def _key(field: str) -> str:
    return field.replace("_", "-")
