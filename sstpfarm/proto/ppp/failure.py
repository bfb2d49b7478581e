"""The texts of refusals: as a server writes them, and as a client reads them (RFC 2433 6, RFC 2759 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.exchange import MAX_TEXT, readable
from sstpfarm.proto.roles import AuthMethod, Entropy

AUTHENTICATION_FAILURE: Final = 691

MEANINGS: Final[Mapping[int, str]] = {
    646: "the account may not log in at this hour",
    647: "the account is disabled",
    648: "the password has expired",
    649: "the account may not dial in",
    691: "wrong user name or password",
    709: "the password could not be changed",
}

_MAX_MESSAGE: Final = 200  # bytes of our own text; a PAP message has a one-byte length
_ERROR_CODE: Final = re.compile(rb"(?:^|\s)E=(\d{1,10})")
_ERROR_TEXT: Final = re.compile(rb"(?:^|\s)M=(.*)", re.DOTALL)


def failure_message(method: AuthMethod, error: int, entropy: Entropy, text: str) -> bytes:
    """Return the whole message of an Authenticate-Nak or a Failure.

    The MS-CHAPs get ``E=`` the error, ``R=0`` (no retry), ``C=`` a new challenge that nobody will use but that the
    form wants, ``V=`` the version of the password change that the protocol has, and v2 the text as ``M=``.
    The other methods get the text alone.
    """
    shown = text.encode("utf-8", "replace")[:_MAX_MESSAGE]
    match method:
        case AuthMethod.MSCHAP2:
            challenge = entropy(mschap.CHALLENGE_V2).hex().upper().encode("ascii")
            return b"E=%d R=0 C=%b V=3 M=%b" % (error, challenge, shown)
        case AuthMethod.MSCHAP1:
            challenge = entropy(mschap.CHALLENGE_V1).hex().upper().encode("ascii")
            return b"E=%d R=0 C=%b V=2" % (error, challenge)  # RFC 2433 6 has no M=
        case AuthMethod.CHAP | AuthMethod.PAP:
            return shown
        case AuthMethod.EAP:
            return b""  # RFC 3748 4.2: a Failure has no data


def describe_failure(method: AuthMethod, message: bytes) -> str:
    """Return for people what a refusal means, cleaned and bounded; the challenge in it is left out."""
    if method not in (AuthMethod.MSCHAP2, AuthMethod.MSCHAP1):
        return readable(message) or "no reason was given"
    code = _ERROR_CODE.search(message)
    if code is None:
        return readable(message) or "no reason was given"
    number = int(code[1])
    meaning = f"E={number}: {MEANINGS.get(number, 'unknown error')}"
    text = _ERROR_TEXT.search(message, code.end())
    said = readable(text[1]) if text else ""
    return f"{meaning} (the server says: {said})"[:MAX_TEXT] if said else meaning
