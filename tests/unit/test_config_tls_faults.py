"""Faulty certificates, TLS versions and cipher suites of [server]: the whole of what the operator is told."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.unit.config_faults import REST, Fault, assert_told

FAULTS: Final[dict[str, Fault]] = {
    "certificate": Fault(
        '[server]\ncertificate = "none"' + REST,
        (
            '2: server.certificate: "none" is not allowed; '
            'allowed: "auto", { chain = "FILE", key = "FILE" } or "none-anonymous-tls"',
        ),
    ),
    "certificate names": Fault(
        '[server]\ncertificate-names = ["vpn.example.com", "vpn example"]' + REST,
        (
            '2: server.certificate-names[1]: "vpn example" is no name for a certificate; '
            'allowed: a DNS name such as "vpn.example.com", or an address',
        ),
    ),
    "certificate names without a certificate": Fault(
        '[server]\ncertificate = "none-anonymous-tls"\ncertificate-names = ["vpn.example.com"]' + REST,
        ('3: server.certificate-names: has no effect; allowed: only with certificate = "auto"',),
    ),
    "TLS version": Fault(
        '[server]\ntls-minimum = "1.1"' + REST,
        ('2: server.tls-minimum: "1.1" is not allowed; allowed: "1.2" or "1.3"',),
    ),
    "TLS version without a certificate": Fault(
        '[server]\ncertificate = "none-anonymous-tls"\ntls-minimum = "1.3"' + REST,
        ('3: server.tls-minimum: "1.3" has no suites without a certificate',),
    ),
    "cipher suites that do not exist": Fault(
        '[server]\ntls-ciphers = "ROT13"' + REST,
        (
            '2: server.tls-ciphers: "ROT13" has no cipher suite that OpenSSL knows; '
            'allowed: a list of cipher suites of TLS 1.2 as OpenSSL writes it, such as "ECDHE+AESGCM:AES256-SHA"',
        ),
    ),
    "cipher suites without a certificate": Fault(
        '[server]\ntls-ciphers = "ECDHE+AESGCM:AECDH-AES256-SHA:@SECLEVEL=0"' + REST,
        (
            "2: server.tls-ciphers: AECDH-AES256-SHA has no authentication or no encryption; "
            'allowed: suites with both (for no certificate at all: certificate = "none-anonymous-tls")',
        ),
    ),
    "client certificates with an own certificate": Fault(
        "[server]\nrequire-client-certificate = true" + REST,
        (
            "2: server.require-client-certificate: needs client-ca: "
            'the certificate of certificate = "auto" issues none for clients',
        ),
    ),
    "client certificates without any": Fault(
        '[server]\nrequire-client-certificate = true\ncertificate = "none-anonymous-tls"' + REST,
        ("2: server.require-client-certificate: cannot be asked for by a server that has no certificate itself",),
    ),
    "client CA alone": Fault(
        '[server]\nclient-ca = "farm.toml"' + REST,
        ("2: server.client-ca: has no effect; allowed: only with require-client-certificate = true",),
    ),
    "client CA that is not there": Fault(
        '[server]\nrequire-client-certificate = true\nclient-ca = "ca.pem"' + REST,
        ("3: server.client-ca: DIR/ca.pem cannot be read: No such file or directory",),
    ),
    "client certificate's user": Fault(
        '[server]\nclient-certificate-user = "yes"' + REST,
        ('2: server.client-certificate-user: "yes" is not allowed; allowed: "ignore" or "match"',),
    ),
    "client certificate's user alone": Fault(
        '[server]\nclient-certificate-user = "match"' + REST,
        ("2: server.client-certificate-user: has no effect; allowed: only with require-client-certificate = true",),
    ),
    "half a certificate": Fault(
        '[server]\ncertificate = { chain = "a.pem", kee = "b.pem" }' + REST,
        (
            "2: server.certificate.kee: unknown key; did you mean key?",
            "2: server.certificate.key: is missing; allowed: the path of a file",
        ),
    ),
    "certificate files that do not exist": Fault(
        '[server]\n[server.certificate]\nchain = "a.pem"\nkey = "/nowhere/b.pem"' + REST,
        (
            "3: server.certificate.chain: DIR/a.pem cannot be read: No such file or directory",
            "4: server.certificate.key: /nowhere/b.pem cannot be read: No such file or directory",
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path)
