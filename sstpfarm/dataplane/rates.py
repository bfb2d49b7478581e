"""The rate limit of a session, as RouterOS writes it (`rate-limit`, Mikrotik-Rate-Limit)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

RATE_FORMS: Final = '"rx[/tx]" in bits per second such as "2M/10M", RouterOS\'s bursts behind it, or "" for none'
DEFAULT_BURST_TIME: Final = 1  # seconds, Mikrotik-Rate-Limit
MIN_RATE: Final = 1000  # bit/s; less is a forgotten k, M or G
MAX_RATE: Final = 10**12
MAX_BURST_TIME: Final = 3600  # seconds
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_RATE = re.compile(r"([0-9]{1,13})([kKmMgG]?)")
_TIME = re.compile(r"([0-9]{1,5})s?")


class RateLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a session may send and receive; rx is from the client, tx towards it; 0 is no limit.

    Attributes:
        rx, tx: bit/s on average.
        rx_burst, tx_burst: bit/s while a burst lasts; 0: there are no bursts, and the two others are 0 too.
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


UNLIMITED: Final = RateLimit()


def parse_rate_limit(text: str) -> RateLimit:
    """Return the limit that is written so; priority and guaranteed rates are checked, and mean nothing here.

    rx[/tx] [rx-burst[/tx-burst] [rx-threshold[/tx-threshold] [rx-time[/tx-time] [priority [rx-min[/tx-min]]]]]]

    Raises:
        ValueError: it is not; the text says what is wrong.
    """
    words = text.split()
    if len(words) > 6:
        raise ValueError("has more than six parts")
    rx, tx = _pair(words[0], _rate) if words else (0, 0)
    bursts = _pair(words[1], _rate) if len(words) > 1 else (0, 0)
    thresholds = _pair(words[2], _rate) if len(words) > 2 else (rx, tx)
    times = _pair(words[3], _seconds) if len(words) > 3 else (DEFAULT_BURST_TIME, DEFAULT_BURST_TIME)
    if len(words) > 4 and words[4] not in tuple("12345678"):
        raise ValueError(f"has the priority {words[4]!r}, which is not 1 to 8")
    for name, least, rate in zip(
        ("rx", "tx"), _pair(words[5], _rate) if len(words) > 5 else (0, 0), (rx, tx), strict=True
    ):
        if least > rate:
            raise ValueError(f"has its {name}-min above its {name}")
    rx_burst = _burst("rx", rx, bursts[0], thresholds[0], times[0])
    tx_burst = _burst("tx", tx, bursts[1], thresholds[1], times[1])
    return RateLimit(rx, tx, rx_burst[0], tx_burst[0], rx_burst[1], tx_burst[1], rx_burst[2], tx_burst[2])


def _burst(name: str, rate: int, burst: int, threshold: int, seconds: int) -> tuple[int, int, int]:
    """The three numbers of a direction; all 0 where no burst can ever begin."""
    if not (rate and burst and threshold and seconds):
        return 0, 0, 0
    if burst < rate:
        raise ValueError(f"has its {name}-burst below its {name}")
    return burst, threshold, seconds


def _pair(word: str, parse: Callable[[str], int]) -> tuple[int, int]:
    """One value for each direction; a single one is both."""
    rx, slash, tx = word.partition("/")
    return parse(rx), parse(tx if slash else rx)


def _rate(word: str) -> int:
    found = _RATE.fullmatch(word)
    if found is None:
        raise ValueError(f"holds {word!r}, which is no rate")
    rate = int(found[1]) * _UNITS[found[2].lower()]
    if rate > MAX_RATE:
        raise ValueError(f"holds {word!r}, which is more than {MAX_RATE // 10**9}G")
    if 0 < rate < MIN_RATE:
        raise ValueError(f"holds {word!r}, which is less than 1k")
    return rate


def _seconds(word: str) -> int:
    found = _TIME.fullmatch(word)
    if found is None or int(found[1]) > MAX_BURST_TIME:
        raise ValueError(f"holds {word!r}, which is no number of seconds, 0 to {MAX_BURST_TIME}")
    return int(found[1])
