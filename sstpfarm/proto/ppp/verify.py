"""The judgement of a proof against a password, and the messages of both outcomes: what the auth service calls.

For a user that does not exist, call `verify` all the same, with any password of usual length, and throw the answer
away: then the time tells nobody whether the user exists.
"""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import Final

from sstpfarm.errors import LocalError
from sstpfarm.proto.ppp import mschap
from sstpfarm.proto.ppp.chap import CHALLENGE_LENGTHS, RESPONSE_LENGTHS, md5_response
from sstpfarm.proto.ppp.exchange import decode_text
from sstpfarm.proto.ppp.failure import AUTHENTICATION_FAILURE, failure_message
from sstpfarm.proto.ppp.passwords import as_utf8, fits_utf16
from sstpfarm.proto.roles import AuthAccept, AuthMethod, ChapProof, PapProof, Proof

__all__ = ["AUTHENTICATION_FAILURE", "failure_message", "verify"]

_WELCOME: Final = b"Welcome"


def verify(method: AuthMethod, user: bytes, proof: Proof, password: str | bytes) -> AuthAccept | None:
    """Return the acceptance that this proof has earned, or None: wrong password, or a value of the wrong size.

    The keys and the message are computed before the decision is looked at: a wrong password costs what the right
    one costs.

    Args:
        user: the name as the peer sent it; MS-CHAPv2 hashes it without its domain or, if that does not match, whole.
        password: its text, or the 16 bytes of its NT hash: enough for PAP and both MS-CHAPs, never for CHAP.

    Raises:
        ConfigError: the password cannot be used (longer than 256 characters, not Unicode).
    """
    if method is AuthMethod.EAP:
        raise LocalError("EAP is a conversation: see eap_mschapv2.py")
    if method is AuthMethod.PAP:
        if not isinstance(proof, PapProof):
            raise LocalError("the proof is not one of PAP")
        return _verify_pap(proof, password)
    if not isinstance(proof, ChapProof):
        raise LocalError("the proof is not one of CHAP")
    if len(proof.challenge) != CHALLENGE_LENGTHS[method] or len(proof.value) != RESPONSE_LENGTHS[method]:
        return None
    match method:
        case AuthMethod.CHAP:
            return _verify_md5(proof, password) if isinstance(password, str) else None
        case AuthMethod.MSCHAP1:
            return _verify_v1(proof, password)
        case AuthMethod.MSCHAP2:
            return _verify_v2(user, proof, password)


def _verify_pap(proof: PapProof, password: str | bytes) -> AuthAccept | None:
    text = decode_text(proof.password)
    if isinstance(password, bytes):
        matches = fits_utf16(text) and compare_digest(mschap.nt_hash(text), password)
    else:  # digests, so that the time does not tell the length either
        presented, known = (hashlib.sha256(data).digest() for data in (text.encode("utf-8"), as_utf8(password)))
        matches = compare_digest(presented, known)
    return AuthAccept(mschap.ZERO_HLAK, _WELCOME) if matches else None


def _verify_md5(proof: ChapProof, password: str) -> AuthAccept | None:
    expected = md5_response(proof.identifier, as_utf8(password), proof.challenge)
    return AuthAccept(mschap.ZERO_HLAK, _WELCOME) if compare_digest(expected, proof.value) else None


def _verify_v1(proof: ChapProof, password: str | bytes) -> AuthAccept | None:
    password_hash = password if isinstance(password, bytes) else mschap.nt_hash(password)
    expected = mschap.challenge_response(proof.challenge, password_hash)
    accept = AuthAccept(mschap.hlak_v1(password_hash, proof.challenge), _WELCOME)
    matches = compare_digest(expected, proof.value[mschap.NT_RESPONSE])
    # flag 0: the peer wants the LM response to count, which gives the password away
    return accept if matches and proof.value[mschap.USE_NT_FLAG] == 1 else None


def _verify_v2(user: bytes, proof: ChapProof, password: str | bytes) -> AuthAccept | None:
    password_hash = password if isinstance(password, bytes) else mschap.nt_hash(password)
    presented = proof.value[mschap.NT_RESPONSE]
    # of a name without a domain both forms are the same one
    matched = False
    matched_hash = b""
    for name in dict.fromkeys((user, mschap.name_without_domain(user))):
        hashed = mschap.challenge_hash(proof.value[mschap.PEER_CHALLENGE], proof.challenge, name)
        if compare_digest(mschap.challenge_response(hashed, password_hash), presented):
            matched = True
            matched_hash = hashed
    hash_hash = mschap.nt_hash_hash(password_hash)  # for both: MD4 is what costs most here
    message = mschap.authenticator_response_from(hash_hash, presented, matched_hash) + b" M=" + _WELCOME
    accept = AuthAccept(mschap.hlak_v2_from(hash_hash, presented), message)
    return accept if matched else None
