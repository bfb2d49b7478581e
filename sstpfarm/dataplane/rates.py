"""The rate limit of a session, as RouterOS writes it (`rate-limit`, Mikrotik-Rate-Limit)."""

from __future__ import annotations

import msgspec


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a session may send and receive; rx is from the client, tx towards it; 0 is no limit.

    Attributes:
        rx, tx: bit/s on average.
        rx_burst, tx_burst: bit/s while a burst lasts.
        rx_threshold, tx_threshold: bit/s; below this average a burst may begin.
        rx_time, tx_time: seconds over which the average is taken.
    """

    rx: int = 0
    tx: int = 0
    rx_burst: int = 0
    tx_burst: int = 0
    rx_threshold: int = 0
    tx_threshold: int = 0
    rx_time: int = 0
    tx_time: int = 0
