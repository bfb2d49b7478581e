"""What must hold between the keys of TLS: cipher suites exist, certificates and what clients must have fit together."""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import Final

from sstpfarm.config.fields import AUTO
from sstpfarm.config.report import Report, show
from sstpfarm.config.schema import CertificateFiles, Server

_DNS_NAME: Final = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*\Z")  # RFC 1035 2.3.1
_NO_AUTHENTICATION: Final = "auth-null"  # OpenSSL's name of the suites without a certificate


def check_tls(server: Server, report: Report) -> None:
    """Report every contradiction between the keys of TLS, and cipher suites that OpenSSL does not have."""
    for index, name in enumerate(server.certificate_names):
        if not _is_name(name):
            allowed = 'a DNS name such as "vpn.example.com", or an address'
            report.add_value(("server", "certificate-names", index), name, "is no name for a certificate", allowed)
    if server.certificate_names and server.certificate != AUTO:
        report.add(("server", "certificate-names"), 'has no effect; allowed: only with certificate = "auto"')
    try:
        suites = suites_of(server.tls_ciphers)
    except ValueError as error:
        allowed = 'a list of cipher suites of TLS 1.2 as OpenSSL writes it, such as "ECDHE+AESGCM:AES256-SHA"'
        report.add_value(("server", "tls-ciphers"), server.tls_ciphers, str(error), allowed)
    else:
        for suite in suites:
            if suite["auth"] == _NO_AUTHENTICATION or not suite["strength_bits"]:
                report.add(
                    ("server", "tls-ciphers"),
                    f"{suite['name']} has no authentication or no encryption; "
                    'allowed: suites with both (for no certificate at all: certificate = "none-anonymous-tls")',
                )
                break
    if server.anonymous and server.tls_minimum != "1.2":
        report.add(("server", "tls-minimum"), f"{show(server.tls_minimum)} has no suites without a certificate")
    if server.require_client_certificate:
        _check_client_certificates(server, report)
    elif server.client_ca is not None:
        report.add(("server", "client-ca"), "has no effect; allowed: only with require-client-certificate = true")
    elif server.client_certificate_user != "ignore":
        report.add(
            ("server", "client-certificate-user"), "has no effect; allowed: only with require-client-certificate = true"
        )


def tls_warnings(server: Server) -> list[str]:
    """Return what is allowed and yet worth a second look."""
    found = []
    if not server.enabled:
        found.append("server.enabled: false, so nothing listens and nobody can log in")
    if server.anonymous:
        found.append("server.certificate: TLS without a certificate: whoever is on the way can read and change all")
    weak = [
        str(suite["name"]) for suite in suites_of(server.tls_ciphers) if not suite["aead"] or suite["kea"] == "kx-rsa"
    ]
    if weak:
        found.append(f"server.tls-ciphers: no forward secrecy or no AEAD: {', '.join(weak[:5])}")
    return found


def suites_of(ciphers: str) -> list[dict[str, object]]:
    """Return the suites of TLS 1.2 in a list of OpenSSL, as `ssl.SSLContext.get_ciphers` describes them.

    Raises:
        ValueError: OpenSSL does not know any of them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(ciphers)
    except (ssl.SSLError, ValueError):
        raise ValueError("has no cipher suite that OpenSSL knows") from None
    found: list[dict[str, object]] = [dict(suite) for suite in context.get_ciphers()]
    usable = [suite for suite in found if suite["protocol"] != "TLSv1.3"]
    if not usable:
        raise ValueError("has no cipher suite of TLS 1.2")
    return usable


def _check_client_certificates(server: Server, report: Report) -> None:
    key = ("server", "require-client-certificate")
    if server.anonymous:
        report.add(key, "cannot be asked for by a server that has no certificate itself")
    elif not isinstance(server.certificate, CertificateFiles) and server.client_ca is None:
        report.add(key, 'needs client-ca: the certificate of certificate = "auto" issues none for clients')


def _is_name(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _DNS_NAME.match(text) is not None and not text.replace(".", "").isdigit()
    return True
