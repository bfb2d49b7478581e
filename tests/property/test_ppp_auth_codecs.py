"""The forms of PPP authentication: encode and decode are inverse, and wrong bytes raise only what is declared."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sstpfarm.proto.ppp import chap, mschap, pap
from sstpfarm.proto.ppp.exchange import readable
from sstpfarm.proto.ppp.failure import MEANINGS, describe_failure, failure_message
from sstpfarm.proto.ppp.passwords import as_utf8, as_utf16
from sstpfarm.proto.roles import AuthMethod

FIELD = st.binary(max_size=255)
ANY_BYTES = st.binary(max_size=600)
PASSWORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)


@settings(max_examples=100, deadline=None)
@given(user=FIELD, password=FIELD)
def test_pap_request(user: bytes, password: bytes) -> None:
    assert pap.parse_request(pap.build_request(user, password)) == (user, password)


@settings(max_examples=100, deadline=None)
@given(data=ANY_BYTES)
def test_pap_request_of_any_bytes(data: bytes) -> None:
    fields = pap.parse_request(data)
    assert fields is None or data.startswith(pap.build_request(*fields))


@settings(max_examples=100, deadline=None)
@given(data=ANY_BYTES)
def test_pap_message_of_any_bytes(data: bytes) -> None:
    assert pap.parse_message(data) == data[1:][: data[0] if data else 0]


@settings(max_examples=100, deadline=None)
@given(value=st.binary(min_size=1, max_size=255), name=ANY_BYTES)
def test_chap_value(value: bytes, name: bytes) -> None:
    assert chap.parse_value(chap.build_value(value, name)) == (value, name)


@settings(max_examples=100, deadline=None)
@given(data=ANY_BYTES)
def test_chap_value_of_any_bytes(data: bytes) -> None:
    fields = chap.parse_value(data)
    assert fields is None or chap.build_value(*fields) == data


@settings(max_examples=100, deadline=None)
@given(data=ANY_BYTES)
def test_readable_text_of_any_bytes(data: bytes) -> None:
    text = readable(data)
    assert text.isprintable()
    assert len(text) <= 200


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from(AuthMethod), data=ANY_BYTES)
def test_failure_of_any_bytes(method: AuthMethod, data: bytes) -> None:
    text = describe_failure(method, data)
    assert text.isprintable()
    assert 0 < len(text) <= 200


@settings(max_examples=100, deadline=None)
@given(
    method=st.sampled_from([AuthMethod.MSCHAP1, AuthMethod.MSCHAP2]),
    code=st.sampled_from(sorted(MEANINGS)),
    text=st.text(),
)
def test_failure_both_ways(method: AuthMethod, code: int, text: str) -> None:
    message = failure_message(method, code, bytes, text)
    assert describe_failure(method, message).startswith(f"E={code}: {MEANINGS[code]}")


@settings(max_examples=100, deadline=None)
@given(password=PASSWORDS)
def test_passwords_are_not_changed(password: str) -> None:
    assert as_utf16(password).decode("utf-16-le") == as_utf8(password).decode("utf-8") == password


@settings(max_examples=100, deadline=None)
@given(key=st.binary(min_size=7, max_size=7))
def test_des_keys_have_odd_parity_and_carry_all_bits(key: bytes) -> None:
    expanded = mschap.expand_des_key(key)
    assert all(byte.bit_count() % 2 for byte in expanded)
    bits = "".join(f"{byte >> 1:07b}" for byte in expanded)
    assert int(bits, 2).to_bytes(7, "big") == key
