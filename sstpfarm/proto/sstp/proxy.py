"""The way of a client through an HTTP proxy: one CONNECT, one answer, then all bytes are the server's (RFC 9110 9.3.6).

Nothing of the proxy's answer is trusted: it is bounded, and only its status line is shown, without what does not print.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

from sstpfarm.errors import LocalError, PeerError
from sstpfarm.proto.sstp.http import HEAD_LIMIT, HeadReader
from sstpfarm.reasons import Reason

_STATUS_LINE: Final = re.compile(r"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r\n")
_SCHEMES: Final = re.compile(r"^proxy-authenticate:[ \t]*([A-Za-z0-9._~+-]+)", re.IGNORECASE | re.MULTILINE)
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_SHOWN: Final = 80  # characters of a status line in a message
_OK: Final = range(200, 300)  # RFC 9110 9.3.6: any 2xx
_AUTHENTICATION_REQUIRED: Final = 407  # RFC 9110 15.5.8


class CredentialsWantedError(Exception):
    """The proxy wants the name and the password that have not been sent yet: dial it again, with them."""


class ProxyConnect:
    """One CONNECT on one connection to a proxy.

    Args:
        host, port: of the server; a name is resolved by the proxy.
        user, password: for Basic authentication; an empty user has none.
        authenticate: send them now. A proxy that does not ask for them need not see them.
    """

    def __init__(self, host: str, port: int, user: str = "", password: str = "", *, authenticate: bool = False) -> None:
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if _UNPRINTABLE.search(self._target) or " " in self._target:
            raise LocalError("a server's name must be printable ASCII")
        if ":" in user:
            raise LocalError("a name for Basic authentication has no colon")  # RFC 7617 2
        self._credentials = f"{user}:{password}" if user else ""
        self._authenticate = authenticate and bool(user)
        self._reader = HeadReader(HEAD_LIMIT)

    def request(self) -> bytes:
        """Return the request.

        SSTPVERSION lets an administrator of the proxy tell SSTP from other tunnels (MS-SSTP).
        """
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}", "SSTPVERSION: 1.0"]
        if self._authenticate:
            lines.append(f"Proxy-Authorization: Basic {b64encode(self._credentials.encode()).decode()}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def receive(self, data: bytes) -> int | None:
        """Take bytes of the answer; return how many of them were its last, None when more must come.

        All behind these belongs to the server.

        Raises:
            PeerError: PROXY_REFUSED or PROXY_AUTHENTICATION, with the status line.
            CredentialsWantedError: as it says.
        """
        try:
            found = self._reader.feed(data)
        except PeerError:
            text = f"its answer is longer than {HEAD_LIMIT} bytes"
            raise PeerError(text, reason=Reason.PROXY_REFUSED) from None
        if found is None:
            return None
        head, rest = found
        self._judge(head.decode("latin-1"))
        return len(data) - len(rest)

    def _judge(self, head: str) -> None:
        match = _STATUS_LINE.match(head)
        if match is None:
            raise PeerError("it does not answer as an HTTP proxy does", reason=Reason.PROXY_REFUSED)
        status = int(match[1])
        if status in _OK:
            return
        said = _UNPRINTABLE.sub("", f"{status} {match[2] or ''}").strip()[:_SHOWN]
        if status != _AUTHENTICATION_REQUIRED:
            raise PeerError(f"it says: {said}", reason=Reason.PROXY_REFUSED)
        schemes = [scheme.lower() for scheme in _SCHEMES.findall(head)]
        if "basic" not in schemes:
            offered = ", ".join(dict.fromkeys(schemes))[:_SHOWN] or "nothing"
            why = f"it says: {said}; it offers {offered}, and only Basic is supported"
        elif not self._credentials:
            why = f"it says: {said}; set proxy-user and proxy-password-file"
        elif not self._authenticate:
            raise CredentialsWantedError
        else:
            why = f"it says: {said}; proxy-user or its password is wrong"
        raise PeerError(why, reason=Reason.PROXY_AUTHENTICATION)
