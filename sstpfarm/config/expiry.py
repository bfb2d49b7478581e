"""When an account expires, as the configuration writes it."""

from __future__ import annotations

from datetime import date, datetime, time
from functools import lru_cache
from typing import Final

EXPIRY_FORMS: Final = 'a date ("2027-01-31": from its first moment on) or a time ("2027-01-31T18:00:00Z", RFC 3339)'


@lru_cache(maxsize=4096)
def expiry_time(text: str) -> float:
    """Return seconds since the epoch: of midnight at the beginning of a date, local time, or of an RFC 3339 time.

    Raises:
        ValueError: it is neither.
    """
    try:
        if len(text) == len("2027-01-31"):
            return datetime.combine(date.fromisoformat(text), time()).timestamp()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError("is neither a date nor a time") from None
    if moment.tzinfo is None:
        raise ValueError("is a time without its zone")
    return moment.timestamp()
