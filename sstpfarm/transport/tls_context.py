"""The TLS contexts of both roles: which versions, suites and certificates there are."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final, Literal

from sstpfarm.errors import ConfigError
from sstpfarm.proto.sstp.binding import CertificateHash

CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # AEAD with forward secrecy; TLS 1.3 has nothing else
# Anonymous ECDH, RFC 4492 2.5. OpenSSL puts suites without authentication on its security level 0; TLS 1.3 has none.
CIPHERS_ANONYMOUS: Final = "AECDH-AES256-SHA:AECDH-AES128-SHA:@SECLEVEL=0"
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
NO_CERTIFICATE: Final = CertificateHash(bytes(20), bytes(32))
"""What stands in the crypto binding where the server has no certificate.

MS-SSTP knows no such server; zeros are our inference (they are what a peer has in a field that it does not fill). They
protect nothing, nor could anything else: without a certificate there is nothing to tie the login to.
"""


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What a server demands of a handshake.

    Attributes:
        minimum: the lowest version.
        ciphers: the suites of TLS 1.2, in OpenSSL's words.
        client_authorities: certificates in PEM, of which one must have issued the client's; "" asks for none.
    """

    minimum: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = CIPHERS_TLS12
    client_authorities: str = ""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A TLS server context with the hashes of the certificate that it presents."""

    context: ssl.SSLContext
    certificates: tuple[CertificateHash, ...]


DEFAULT_POLICY: Final = TlsPolicy()


def server_identity(
    chain_path: str, key_path: str, chain_pem: str, policy: TlsPolicy = DEFAULT_POLICY
) -> ServerIdentity:
    """Make the server's context: TLS 1.2 and 1.3, AEAD, no renegotiation, compression or tickets.

    Args:
        chain_path, key_path: where OpenSSL reads the pair; ``/proc/self/fd/N`` of a memory file will do.
        chain_pem: the text of the chain, leaf first.

    Raises:
        ConfigError: the pair, the suites or the authorities cannot be used.
    """
    context = _server_context()
    context.minimum_version = VERSIONS[policy.minimum]
    try:
        context.set_ciphers(policy.ciphers)
        context.load_cert_chain(chain_path, key_path)
        der = first_certificate(chain_pem)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(f"server.certificate: chain and key cannot be used: {error}") from None
    if policy.client_authorities:
        try:
            context.load_verify_locations(cadata=policy.client_authorities)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"server.client-ca: cannot be used: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        # an intermediate that issued the server's certificate is enough: its root need not be in the file
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return ServerIdentity(context, (CertificateHash.of(der),))


def anonymous_identity() -> ServerIdentity:
    """Make the context of a server that has no certificate: nobody can tell it from whoever is in between."""
    context = _server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_ANONYMOUS)
    return ServerIdentity(context, (NO_CERTIFICATE,))


def first_certificate(pem: str) -> bytes:
    """Return the DER form of the first certificate of a PEM text; ValueError when there is none."""
    start = pem.index(ssl.PEM_HEADER)
    end = pem.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)
    return ssl.PEM_cert_to_DER_cert(pem[start:end])


def client_context(*, ca_pem: str | None, verify: bool) -> ssl.SSLContext:
    """Make the client's context; name and chain are checked against `ca_pem`, or the system's store, when `verify`.

    Raises:
        ConfigError: `ca_pem` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"the CA file holds no usable certificate: {error}") from None
    return context


def present(context: ssl.SSLContext, chain_path: str, key_path: str) -> None:
    """Have a client present that certificate when the server asks for one.

    Raises:
        ConfigError: the pair cannot be used.
    """

    def refuse_to_ask() -> bytes:
        raise ValueError("the key has a passphrase")

    try:
        context.load_cert_chain(chain_path, key_path, password=refuse_to_ask)
    except ValueError as error:
        raise ConfigError(f"{error}: store it without one, readable by root only") from None
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"chain and key cannot be used: {error}") from None


def make_anonymous(context: ssl.SSLContext) -> None:
    """Have a client, whose context checks nothing, speak to a server that has no certificate, and to no other."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_ANONYMOUS)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    return context
