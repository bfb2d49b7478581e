"""The kinds of value that keys of a configuration file have, and the base of every table of it.

The keys in the file are the field names in kebab-case. The description of a field says what is allowed; it is what an
error message tells the operator.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Method = Literal["eap", "mschap2", "mschap1", "chap", "pap"]
LogFormat = Literal["auto", "json", "console"]
STRENGTH: Final[tuple[Method, ...]] = ("eap", "mschap2", "mschap1", "chap", "pap")
"""The methods, strongest first: the order in which they are offered, whatever the order in the file."""

_BASE64: Final = r"[A-Za-z0-9+/]"
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[0-9]{1,7}),t=(?P<passes>[0-9]{1,2}),p=(?P<lanes>[0-9]{1,2})"
    rf"\${_BASE64}{{11,86}}\${_BASE64}{{22,86}}",
    re.ASCII,
)

AUTO: Final = "auto"
ANONYMOUS: Final = "none-anonymous-tls"
DISABLED: Final = "disabled"

# RFC 791 3.1: every host takes datagrams of 576 bytes. MS-SSTP 2.2.1: a packet's length has 12 bits, so it is at most
# 4095 bytes, less 4 of SSTP header and 4 of PPP header (FF 03 and the protocol).
MTU_MIN: Final = 576
MTU_MAX: Final = 4087
IPV6_MTU_MIN: Final = 1280  # RFC 8200 5
MRRU_MIN: Final = 1500  # RFC 1990 5.1.1
MRRU_MAX: Final = 16384  # what waits to be put together is memory of the worker
MAX_PASSWORD: Final = 256  # UTF-16 code units, RFC 2759 8.3
MAX_USER: Final = 253  # bytes of a name; a PAP Peer-ID holds 255 (RFC 1334 2.2.1), messages between processes 256
MAX_NAME: Final = 64  # characters of a profile's or pool's name

Mtu = Annotated[int, Meta(ge=MTU_MIN, le=MTU_MAX, description="a whole number of bytes, 576 to 4087")]
Mrru = Annotated[
    Annotated[int, Meta(ge=MRRU_MIN, le=MRRU_MAX)] | Literal["disabled"],
    Meta(description='a whole number of bytes, 1500 to 16384, or "disabled"'),
]
Deadline = Annotated[float, Meta(gt=0, le=3600, description="seconds, more than 0, at most 3600")]
Path = Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]+$")]
FilePath = Annotated[Path, Meta(description="the path of a file")]
Directory = Annotated[Path, Meta(description="the path of a directory")]
Address = Annotated[str, Meta(max_length=64, description='an IPv4 address such as "10.20.0.1"')]
Addresses = Annotated[
    tuple[Annotated[str, Meta(max_length=64)], ...],
    Meta(max_length=2, description="a list of at most two IPv4 addresses"),
]
NameServers = Annotated[
    tuple[Annotated[str, Meta(max_length=64)], ...],
    Meta(max_length=4, description="a list of at most two IPv4 and two IPv6 addresses"),
]
PoolName = Annotated[str, Meta(description='the name of a pool, or "" for none')]
Seconds = Annotated[int, Meta(ge=0, le=31_536_000, description="a whole number of seconds, 0 (none) to 31536000")]
ByteLimit = Annotated[int, Meta(ge=0, le=2**63 - 1, description="a whole number of bytes, 0 for no limit")]
Command = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")], ...],
    Meta(max_length=64, description="a list: the absolute path of a program, then its arguments; [] for none"),
]
DeviceName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._@+-]{0,15}\Z", description='an interface\'s name, at most 15 characters, or "" for none'
    ),
]
VID_MAX: Final = 4094  # IEEE 802.1Q 9.6
Vid = Annotated[int, Meta(ge=1, le=VID_MAX, description="a VLAN, 1 to 4094")]
SetName = Annotated[str, Meta(pattern=r"^(?!sstpfarm)[A-Za-z_][A-Za-z0-9._-]{0,63}\Z")]
TAKES_DATES: Final = {"dates": True}  # Meta.extra of a text that may also stand as TOML's own date or time
Text = Annotated[str, Meta(max_length=1024, description="text, at most 1024 characters")]
Remote = Annotated[str, Meta(max_length=80, description='an IPv4 address or "pool:NAME"')]
Switch = Annotated[bool, Meta(description="true or false")]


class Password(msgspec.Struct, frozen=True):
    """A password that no repr, log or traceback shows; `text` is the secret itself."""

    text: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"

    @classmethod
    def fits(cls, text: str) -> bool:
        """Whether a text can be one: 1 to 256 characters (RFC 2759 8.3)."""
        return 1 <= len(text.encode("utf-16-le", "surrogatepass")) // 2 <= MAX_PASSWORD


class NtHash(Password, frozen=True):
    """The NT hash of a password: 32 hexadecimal digits (RFC 2759 8.3)."""

    @classmethod
    def fits(cls, text: str) -> bool:
        """Whether a text can be one."""
        return re.fullmatch(r"[0-9A-Fa-f]{32}", text, re.ASCII) is not None


class PasswordHash(Password, frozen=True):
    """An argon2id hash of a password in the PHC string format, with costs that a login server can bear."""

    @classmethod
    def fits(cls, text: str) -> bool:
        """Whether a text can be one: at most 1 GiB, 16 passes and 16 lanes."""
        match = _ARGON2ID.fullmatch(text)
        return match is not None and (
            8 <= int(match["memory"]) <= 1 << 20 and 1 <= int(match["passes"]) <= 16 and 1 <= int(match["lanes"]) <= 16
        )


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """Base of every table of the file."""
