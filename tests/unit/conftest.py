"""What several unit tests share."""

from __future__ import annotations

import pytest

from sstpfarm.transport.tls_context import ServerIdentity

from .connection_bench import make_identity


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> ServerIdentity:
    """A TLS identity with a fresh certificate for vpn.example."""
    return make_identity(tmp_path_factory.mktemp("identity"))
