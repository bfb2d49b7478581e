"""What a worker presents in TLS, from the memory files of the master: at the start, and after a renewal."""

from __future__ import annotations

import os

import msgspec

from sstpfarm.config.views import WorkerView
from sstpfarm.ipc.process import read_memfd
from sstpfarm.transport.tls_context import ServerIdentity, TlsPolicy, anonymous_identity, server_identity


def read_view(fd: int) -> WorkerView:
    """Read the configuration out of its memory file, which is closed then."""
    return msgspec.msgpack.decode(read_memfd(fd), type=WorkerView)


def read_identity(view: WorkerView, chain: int, key: int) -> ServerIdentity:
    """Make the identity of the memory files with chain and key, which are closed then.

    OpenSSL opens them once more by their names in /proc, which a process may do with its own descriptors whatever it
    has given up (proc(5)).

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        if view.server.anonymous:
            return anonymous_identity()
        policy = TlsPolicy(view.server.tls_minimum, view.server.tls_ciphers, view.client_authorities)
        text = os.pread(chain, os.fstat(chain).st_size, 0).decode("ascii", "replace")
        return server_identity(f"/proc/self/fd/{chain}", f"/proc/self/fd/{key}", text, policy)
    finally:
        os.close(chain)
        os.close(key)
