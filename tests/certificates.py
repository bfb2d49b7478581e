"""Self-signed certificates of the tests; tests/e2e/authority.py makes those that an authority signs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for a host name or an address, and its key."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    kind = "IP" if name.replace(".", "").isdigit() else "DNS"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}", "-keyout", str(key), "-out", str(chain),
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return chain, key
