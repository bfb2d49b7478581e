"""What the auth service calls: the judgement of proofs, and the messages of refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sstpfarm.errors import ConfigError, LocalError
from sstpfarm.proto.ppp import failure, mschap
from sstpfarm.proto.ppp import verify as verify_module
from sstpfarm.proto.ppp.chap import md5_response
from sstpfarm.proto.ppp.failure import describe_failure
from sstpfarm.proto.ppp.verify import AUTHENTICATION_FAILURE, failure_message, verify
from sstpfarm.proto.roles import AuthAccept, AuthMethod, ChapProof, PapProof, Proof
from tests.vectors.loader import borrow

V2 = [borrow(f"mschapv2-{name}") for name in ("rfc2759", "domain-user", "domain-user-unstripped")]
CHALLENGE = bytes(range(16))


@pytest.mark.parametrize("vector", V2, ids=str)
def test_mschapv2_matches_either_form_of_the_name_and_answers_with_the_one_that_matched(vector: Any) -> None:
    proof = ChapProof(7, vector["authenticator_challenge"], vector["response_value_49"])
    accept = verify(AuthMethod.MSCHAP2, vector["user_name_on_wire"], proof, vector["password_utf8"].decode())
    assert accept == AuthAccept(vector["hlak"], vector.text("success_message_ascii_prefix").encode() + b" M=Welcome")


@pytest.mark.parametrize("offset", [0, 15, 24, 47])
def test_mschapv2_refuses_one_changed_byte_of_the_challenge_or_the_response(offset: int) -> None:
    value = bytearray(V2[0]["response_value_49"])
    value[offset] ^= 1
    proof = ChapProof(7, V2[0]["authenticator_challenge"], bytes(value))
    assert verify(AuthMethod.MSCHAP2, b"User", proof, "clientPass") is None


def test_mschapv2_ignores_the_flags() -> None:
    proof = ChapProof(7, V2[0]["authenticator_challenge"], V2[0]["response_value_49"][:48] + b"\x04")
    assert verify(AuthMethod.MSCHAP2, b"User", proof, "clientPass") is not None


def test_mschapv2_name_counts_with_its_case() -> None:
    proof = ChapProof(7, V2[0]["authenticator_challenge"], V2[0]["response_value_49"])
    assert verify(AuthMethod.MSCHAP2, b"user", proof, "clientPass") is None
    assert verify(AuthMethod.MSCHAP2, b"X\\User", proof, "clientPass") is not None


@pytest.mark.parametrize("identifier", ["mschapv1-rfc2433", "mschapv1-clientPass"])
def test_mschapv1(identifier: str) -> None:
    vector = borrow(identifier)
    password = vector["password_utf8"].decode()
    for value in (vector["response_value_nt_only"], vector["response_value_with_lm"]):
        proof = ChapProof(1, vector["challenge"], value)
        accept = verify(AuthMethod.MSCHAP1, b"any", proof, password)
        assert accept == AuthAccept(vector["hlak_accel_ppp_and_sstpc"], b"Welcome")
        assert verify(AuthMethod.MSCHAP1, b"any", proof, password + "x") is None
        for flag in (b"\0", b"\x02"):  # 0: the LM response is to count
            lm = ChapProof(1, vector["challenge"], value[:48] + flag)
            assert verify(AuthMethod.MSCHAP1, b"any", lm, password) is None


@pytest.mark.parametrize("identifier", ["chap-md5-1", "chap-md5-2"])
def test_chap_md5(identifier: str) -> None:
    vector = borrow(identifier)
    proof = ChapProof(vector["identifier"][0], vector["challenge"], vector["response"])
    secret = vector["secret"].decode()
    assert verify(AuthMethod.CHAP, b"any", proof, secret) == AuthAccept(bytes(32), b"Welcome")
    assert verify(AuthMethod.CHAP, b"any", proof, secret + "x") is None
    other = ChapProof(proof.identifier ^ 1, proof.challenge, proof.value)
    assert verify(AuthMethod.CHAP, b"any", other, secret) is None


@pytest.mark.parametrize(
    ("presented", "password", "matches"),
    [
        (b"clientPass", "clientPass", True),
        (b"clientPass", "clientpass", False),
        (b"clientPass\0", "clientPass", False),
        (b"", "", True),
        (b"", "x", False),
        ("pä€🔑".encode(), "pä€🔑", True),
        ("pä".encode("latin-1"), "pä", True),
    ],
)
def test_pap(presented: bytes, password: str, matches: bool) -> None:
    accept = verify(AuthMethod.PAP, b"any", PapProof(presented), password)
    assert accept == (AuthAccept(bytes(32), b"Welcome") if matches else None)


@pytest.mark.parametrize(
    ("method", "challenge", "value"),
    [
        (method, challenge, value)
        for method, right_challenge, right_value in [
            (AuthMethod.CHAP, 16, 16),
            (AuthMethod.MSCHAP1, 8, 49),
            (AuthMethod.MSCHAP2, 16, 49),
        ]
        for challenge, value in [
            (right_challenge - 1, right_value),
            (right_challenge + 1, right_value),
            (right_challenge, right_value - 1),
            (right_challenge, right_value + 1),
            (0, 0),
        ]
    ],
)
def test_values_of_the_wrong_size_are_refused(method: AuthMethod, challenge: int, value: int) -> None:
    assert verify(method, b"User", ChapProof(1, bytes(challenge), bytes(value)), "clientPass") is None


def test_a_short_md5_challenge_is_refused_even_with_the_right_response() -> None:
    short = ChapProof(1, b"x", md5_response(1, b"secret", b"x"))
    assert verify(AuthMethod.CHAP, b"User", short, "secret") is None


@pytest.mark.parametrize(
    ("method", "proof"),
    [(AuthMethod.PAP, ChapProof(1, b"", b"")), *((m, PapProof(b"")) for m in AuthMethod if m is not AuthMethod.PAP)],
)
def test_a_proof_of_another_method_is_our_own_mistake(method: AuthMethod, proof: Proof) -> None:
    with pytest.raises(LocalError):
        verify(method, b"User", proof, "")


def test_a_stored_password_that_cannot_be_used_is_the_operators_mistake() -> None:
    for method, size in [(AuthMethod.CHAP, 16), (AuthMethod.MSCHAP2, 49)]:
        with pytest.raises(ConfigError):
            verify(method, b"User", ChapProof(1, CHALLENGE, bytes(size)), "x" * 257)


class Counted:
    """Counts the calls of the expensive steps while it stands in for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for module in (mschap, verify_module):
            for name in ("md4", "des_encrypt", "_sha1", "md5_response", "compare_digest"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, self._counting(name, getattr(module, name)))

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            self.calls.append(name)
            return function(*args)

        return wrapper

    def taken(self) -> list[str]:
        calls, self.calls = self.calls, []
        return calls


@pytest.mark.parametrize(
    ("method", "user", "proof"),
    [
        (AuthMethod.PAP, b"User", PapProof(b"clientPass")),
        (AuthMethod.CHAP, b"User", ChapProof(1, CHALLENGE, md5_response(1, b"clientPass", CHALLENGE))),
        (
            AuthMethod.MSCHAP1,
            b"User",
            ChapProof(1, *(borrow("mschapv1-clientPass")[k] for k in ("challenge", "response_value_nt_only"))),
        ),
        *(
            (AuthMethod.MSCHAP2, user, ChapProof(1, V2[0]["authenticator_challenge"], V2[0]["response_value_49"]))
            for user in (b"User", b"CORP\\User")
        ),
    ],
    ids=["pap", "chap", "mschap1", "mschap2", "mschap2-domain"],
)
def test_a_wrong_password_costs_what_the_right_one_costs(
    method: AuthMethod, user: bytes, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    assert verify(method, user, proof, "clientPass") is not None
    right = counted.taken()
    assert verify(method, user, proof, "wrongPass!") is None
    assert counted.taken() == right != []


def test_failure_messages() -> None:
    def entropy(length: int) -> bytes:
        return b"\xab" * length

    assert AUTHENTICATION_FAILURE == 691
    assert failure_message(AuthMethod.MSCHAP2, 691, entropy, "no") == b"E=691 R=0 C=" + b"AB" * 16 + b" V=3 M=no"
    assert failure_message(AuthMethod.MSCHAP1, 647, entropy, "no") == b"E=647 R=0 C=" + b"AB" * 8 + b" V=2"
    assert failure_message(AuthMethod.CHAP, 691, entropy, "no") == b"no"
    assert failure_message(AuthMethod.PAP, 691, entropy, "n\u00f6") == b"n\xc3\xb6"
    for method in AuthMethod:
        assert len(failure_message(method, 691, entropy, "x" * 5000)) <= 255


@pytest.mark.parametrize("code", sorted(failure.MEANINGS))
@pytest.mark.parametrize("method", [AuthMethod.MSCHAP1, AuthMethod.MSCHAP2])
def test_a_client_reads_what_a_server_writes(method: AuthMethod, code: int) -> None:
    text = describe_failure(method, failure_message(method, code, bytes, ""))
    assert text == f"E={code}: {failure.MEANINGS[code]}"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            b"E=691 R=1 C=00112233445566778899AABBCCDDEEFF V=3 M=Try again",
            "E=691: wrong user name or password (the server says: Try again)",
        ),
        (b"E=0000000648 R=0", "E=648: the password has expired"),
        (b"E=12 R=0 M=", "E=12: unknown error"),
        (b"M=odd E=649", "E=649: the account may not dial in"),
        (b"R=0 E=691 M=a\x1b[2J\r\nb", "E=691: wrong user name or password (the server says: a?[2J??b)"),
        (b"E=", "E="),
        (b"FOE=691", "FOE=691"),
        (b"", "no reason was given"),
        (b"\x00\x07 \xe9", "?? \u00e9"),
    ],
)
def test_description_of_failures(message: bytes, text: str) -> None:
    assert describe_failure(AuthMethod.MSCHAP2, message) == text


@pytest.mark.parametrize("method", list(AuthMethod))
def test_descriptions_are_short_printable_and_without_the_challenge(method: AuthMethod) -> None:
    long = describe_failure(method, b"E=691 R=0 C=" + b"5B" * 16 + b" V=3 M=" + b"\x1b\xe2\x80\xae" * 2000)
    assert len(long) <= 200
    assert long.isprintable()
    if method in (AuthMethod.MSCHAP1, AuthMethod.MSCHAP2):
        assert "5B5B" not in long
