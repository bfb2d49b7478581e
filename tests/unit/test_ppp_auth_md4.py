"""MD4 against the test suite of RFC 1320 A.5, and at the lengths where the padding changes its shape."""

from __future__ import annotations

import pytest

from sstpfarm.proto.ppp.md4 import md4

RFC_1320_A5 = {
    b"": "31d6cfe0d16ae931b73c59d7e0c089c0",
    b"a": "bde52cb31de33e46245e05fbdbd6fb24",
    b"abc": "a448017aaf21d8525fc10ae87aa6729d",
    b"message digest": "d9130a8164549fe818874806e1c7014b",
    b"abcdefghijklmnopqrstuvwxyz": "d79e1c308aa5bbcdeea8ed63df412da9",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": "043f8582f241db351ce627e153e7f0e4",
    b"1234567890" * 8: "e33b4ddc9c38f2199c3e7b164fcc0536",
}


@pytest.mark.parametrize("message", RFC_1320_A5, ids=len)
def test_rfc_1320_test_suite(message: bytes) -> None:
    assert md4(message).hex() == RFC_1320_A5[message]
