"""dataplane/rates.py: RouterOS's way to write a rate limit, and what is refused."""

from __future__ import annotations

import pytest

from sstpfarm.dataplane.rates import UNLIMITED, RateLimit, parse_rate_limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", UNLIMITED),
        ("0", UNLIMITED),
        ("0/0", UNLIMITED),
        ("2M", RateLimit(2_000_000, 2_000_000)),
        ("64k/128k", RateLimit(64_000, 128_000)),
        ("128000/1G", RateLimit(128_000, 10**9)),
        ("0/10m", RateLimit(0, 10_000_000)),
        (" 1M/8M  2M/16M 512k/4M 8 ", RateLimit(10**6, 8 * 10**6, 2 * 10**6, 16 * 10**6, 512_000, 4 * 10**6, 8, 8)),
        ("1M 2M", RateLimit(10**6, 10**6, 2 * 10**6, 2 * 10**6, 10**6, 10**6, 1, 1)),  # threshold: the rate; time: 1 s
        ("1M/2M 0/4M 0/1M 0/5s", RateLimit(10**6, 2 * 10**6, 0, 4 * 10**6, 0, 10**6, 0, 5)),
        ("64k 256k/256k 128k 10/9 5 32k", RateLimit(64_000, 64_000, 256_000, 256_000, 128_000, 128_000, 10, 9)),
        ("0/1M 5M", RateLimit(0, 10**6, 0, 5 * 10**6, 0, 10**6, 0, 1)),  # no limit, no burst
    ],
)  # fmt: skip
def test_what_routeros_writes(text: str, limit: RateLimit) -> None:
    assert parse_rate_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "holds 'fast', which is no rate"),
        ("2M/", "holds '', which is no rate"),
        ("/2M", "holds '', which is no rate"),
        ("-1M", "holds '-1M', which is no rate"),
        ("1.5M", "holds '1.5M', which is no rate"),
        ("1T", "holds '1T', which is no rate"),
        ("\N{ARABIC-INDIC DIGIT TWO}M", "holds '\N{ARABIC-INDIC DIGIT TWO}M', which is no rate"),
        ("1M/2M/3M", "holds '2M/3M', which is no rate"),
        ("5/5", "holds '5', which is less than 1k"),
        ("2000G", "holds '2000G', which is more than 1000G"),
        ("2M 1M", "has its rx-burst below its rx"),
        ("1M/2M 1M/1M", "has its tx-burst below its tx"),
        ("1M 2M 1M later", "holds 'later', which is no number of seconds, 0 to 3600"),
        ("1M 2M 1M 3601", "holds '3601', which is no number of seconds, 0 to 3600"),
        ("1M 2M 1M 8 9", "has the priority '9', which is not 1 to 8"),
        ("1M 2M 1M 8 8 1M/2M", "has its tx-min above its tx"),
        ("1M 2M 1M 8 8 1M 7", "has more than six parts"),
    ],
)
def test_what_it_does_not(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        parse_rate_limit(text)
    assert str(caught.value) == message
