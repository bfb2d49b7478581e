"""nftables rules and kernel settings of one tunnel of the client, in a table of its own.

A table for each interface, put in place and taken out in one transaction: the next start replaces what a killed client
has left, and `sweep` takes out what belongs to interfaces that are gone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from sstpfarm.errors import SystemRefusal
from sstpfarm.net import nft, sysctl
from sstpfarm.net.tun import check_name

SourceValidation = Literal["strict", "loose", "disable"]
PREFIX: Final = "sstpfarm_client_"  # and the interface's name in hexadecimal: nft's identifiers have few characters
LINKS: Final = Path("/sys/class/net")
IPV4_TCP_HEADERS: Final = 40  # bytes, RFC 791 3.1 and RFC 9293 3.1
IPV6_TCP_HEADERS: Final = 60  # RFC 8200 3
RP_FILTER: Final = {"disable": "0", "strict": "1", "loose": "2"}  # Documentation/networking/ip-sysctl.rst
FIB: Final = {"strict": "fib saddr . iif oif 0 drop", "loose": "fib saddr oif 0 drop"}


def ruleset(
    interface: str, *, mss: tuple[int, int] | None = None, source_validation: SourceValidation | None = None
) -> str:
    """Return the text for `nft -f -` that makes the interface's table, or empties it where there is nothing to do.

    Args:
        mss: bytes that TCP's segments have at most, with IPv4 and with IPv6, in both directions.
        source_validation: packets that come out of the tunnel must have a source that is routed into it (strict), or
            that is routed at all (loose).

    Raises:
        SystemRefusal: that is no interface's name.
    """
    table = _table(interface)
    lines = [f"table {table}", f"delete table {table}"]
    rules = FIB.get(source_validation or "")
    if mss is not None or rules is not None:
        lines.append(f"table {table} {{")
        if rules is not None:
            lines += _chain("source", "prerouting priority raw", [f'iifname "{interface}" {rules}'])
        if mss is not None:
            lines += _chain("from_tunnel", "prerouting priority mangle", _clamps(f'iifname "{interface}"', mss))
            lines += _chain("to_tunnel", "postrouting priority mangle", _clamps(f'oifname "{interface}"', mss))
        lines.append("}")
    return "\n".join(lines) + "\n"


def segment_sizes(mtu: int, adjust: int | None) -> tuple[int, int]:
    """Return the most that TCP's segments may have with IPv4 and IPv6: what is wished, or what fits the MTU."""
    return (mtu - IPV4_TCP_HEADERS, mtu - IPV6_TCP_HEADERS) if adjust is None else (adjust, adjust)


def set_kernel(interface: str, *, disable_forwarding: bool, source_validation: SourceValidation | None) -> None:
    """Set the interface's own settings; they go with it.

    Raises:
        SystemRefusal: one cannot be set, or cannot have an effect.
    """
    if disable_forwarding:
        _write(f"net/ipv4/conf/{interface}/forwarding", "0")
    if source_validation is not None:
        # The kernel takes the greater of this and of all's: strict here and loose there is loose, and our rule makes it
        # strict.
        _write(f"net/ipv4/conf/{interface}/rp_filter", RP_FILTER[source_validation])
        everywhere = sysctl.read("net/ipv4/conf/all/rp_filter")
        if source_validation == "disable" and everywhere != "0":
            raise SystemRefusal(
                f"source-validation = disable: net.ipv4.conf.all.rp_filter is {everywhere}, which counts for every "
                "interface; set it to 0"
            )


def reset_kernel(interface: str, *, forwarding: bool, source_validation: bool) -> None:
    """Give the interface the system's default again for what is not wished any more.

    Raises:
        SystemRefusal: a setting cannot be set.
    """
    for wanted, setting in ((forwarding, "forwarding"), (source_validation, "rp_filter")):
        if wanted:
            default = sysctl.read(f"net/ipv4/conf/default/{setting}")
            _write(f"net/ipv4/conf/{interface}/{setting}", default)


def sweep() -> None:
    """Take out the tables of interfaces that are gone; nothing happens without the program nft."""
    program = shutil.which("nft", path=nft.SEARCH_PATH)
    if program is None:
        return
    with suppress(OSError, subprocess.SubprocessError, ValueError, KeyError, SystemRefusal):
        listed = subprocess.run(  # noqa: S603 - a fixed program from system directories, no shell
            [program, "-j", "list", "tables"], capture_output=True, timeout=nft.TIMEOUT_S, check=True
        )
        tables = [item["table"] for item in json.loads(listed.stdout)["nftables"] if "table" in item]
        for table in tables:
            if table["family"] == "inet" and table["name"].startswith(PREFIX):
                interface = bytes.fromhex(table["name"].removeprefix(PREFIX)).decode()
                if not (LINKS / interface).exists():
                    nft.apply(ruleset(interface))


def _table(interface: str) -> str:
    check_name(interface)
    if '"' in interface or "*" in interface:
        raise SystemRefusal(f"{interface!r}: no interface name that nft can have")
    return f"inet {PREFIX}{interface.encode().hex()}"


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"  chain {name} {{", f"    type filter hook {hook}; policy accept;", *(f"    {r}" for r in rules), "  }"]


def _clamps(match: str, mss: tuple[int, int]) -> list[str]:
    syn = "tcp flags & (syn | rst) == syn tcp option maxseg size"
    return [
        f"{match} meta nfproto {family} {syn} > {size} tcp option maxseg size set {size}"
        for family, size in zip(("ipv4", "ipv6"), mss, strict=True)
    ]


def _write(key: str, value: str) -> None:
    try:
        sysctl.write(key, value)
    except OSError as error:
        raise SystemRefusal(f"sysctl {key} = {value}: {error.strerror}") from error
