"""The farm's one nftables table: fixed at start, deleted at stop; sessions are told by their interface's group.

No session ever adds a rule: its interface is in one of the session groups, and that is what the rules look at. Its
address may enter sets of the table (`sets`), which the operator's own chains in it can look at.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from sstpfarm.errors import SystemRefusal
from sstpfarm.net.groups import CLAMP_MASK, SESSION_GROUP_MASK, SESSION_GROUPS
from sstpfarm.net.tun import check_name

TABLE_NAME: Final = "sstpfarm"
TABLE: Final = f"inet {TABLE_NAME}"
TIMEOUT_S: Final = 10.0  # one transaction takes milliseconds; the program waits for the kernel's nftables lock
SEARCH_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def ruleset(
    *, forwarding: bool, client_to_client: bool, masquerade: str, lists: Iterable[str] = (), include: str = ""
) -> str:
    """Return the table as text for `nft -f -`; it replaces an older one in one transaction.

    Args:
        forwarding: let packets pass between session interfaces and the host's other interfaces.
        client_to_client: let packets pass from one session's interface to another's.
        masquerade: interface behind whose address the sessions' packets are hidden; empty for none.
        lists: names of the sets of IPv4 addresses that sessions enter.
        include: absolute path of a file with chains of the operator for the table; empty for none.

    Raises:
        SystemRefusal: `masquerade` is no interface name.
    """
    from_session = f"iifgroup & {SESSION_GROUP_MASK:#x} == {SESSION_GROUPS:#x}"
    to_session = f"oifgroup & {SESSION_GROUP_MASK:#x} == {SESSION_GROUPS:#x}"
    between = "accept" if client_to_client else "drop"
    rest = "accept" if forwarding else "drop"
    clamped = f"& {CLAMP_MASK:#x} == {SESSION_GROUPS:#x}"
    clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
    lines = [
        f"table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        *(f"  set {name} {{ type ipv4_addr; }}" for name in lists),
        "  chain input {",
        "    type filter hook input priority filter; policy accept;",
        # a client is no router of ours: with accept_ra on, its advertisement would move the host's default route
        f"    {from_session} icmpv6 type {{ nd-router-advert, nd-redirect }} drop",
        f"    {from_session} icmp type redirect drop",
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        f"    iifgroup {clamped} {clamp}",
        f"    oifgroup {clamped} {clamp}",
        f"    {from_session} {to_session} {between}",
        f"    {from_session} {rest}",
        f"    {to_session} {rest}",
        "  }",
    ]
    if masquerade:
        check_name(masquerade)
        if '"' in masquerade or "*" in masquerade:
            raise SystemRefusal(f"masquerade = {masquerade!r}: no interface name")
        lines += [
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            f'    {from_session} oifname "{masquerade}" masquerade',
            "  }",
        ]
    if include:
        lines.append(f'  include "{include}"')
    lines.append("}")
    return "\n".join(lines) + "\n"


def install(
    *, forwarding: bool, client_to_client: bool, masquerade: str, lists: Iterable[str] = (), include: str = ""
) -> None:
    """Put the farm's table, as `ruleset` has it, into the kernel, in place of one that was left over.

    Raises:
        SystemRefusal: the program nft is missing, or refused.
    """
    text = ruleset(
        forwarding=forwarding, client_to_client=client_to_client, masquerade=masquerade, lists=lists, include=include
    )
    try:
        apply(text)
    except SystemRefusal:
        for name in lists:
            _check_list(name)
        raise


def remove() -> None:
    """Delete the farm's table; nothing happens when it is gone already.

    Raises:
        SystemRefusal: the program nft is missing, or refused.
    """
    apply(f"table {TABLE}\ndelete table {TABLE}\n")


def _check_list(name: str) -> None:
    """Refuse a name that is a word of nft's own language (its list depends on the version): it cannot be quoted."""
    try:
        apply(f"table {TABLE} {{\n  set {name} {{ type ipv4_addr; }}\n}}\n", "--check")
    except SystemRefusal as error:
        raise SystemRefusal(
            f"address-list {name}: nft takes no set of this name, choose another one ({error})"
        ) from None


def apply(text: str, *options: str) -> None:
    """Have the program nft carry out that text in one transaction.

    Raises:
        SystemRefusal: the program is missing, or refused.
    """
    program = shutil.which("nft", path=SEARCH_PATH)
    if program is None:
        raise SystemRefusal("the program nft is missing: install the Debian package nftables")
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program from system directories, no shell
            [program, *options, "-f", "-"], input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemRefusal(f"nft: {error}") from error
    if done.returncode:
        raise SystemRefusal(f"nft refused the rules: {done.stderr.strip()[:500]}")
