"""The /metrics endpoint: prometheus_client's application behind a server of at most eight threads.

Who may reach it is the operator's choice; whoever does can keep at most these threads busy, each for a bounded time.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.registry import CollectorRegistry

from sstpfarm.errors import ConfigError, SystemRefusal

MOST_REQUESTS: Final = 8  # at once; a Prometheus needs one
REQUEST_DEADLINE: Final = 10.0  # seconds from connect to the last byte; a scrape takes milliseconds
BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the base class names it so
        """Log nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 2 * MOST_REQUESTS

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or refuse when all are busy."""
        if self._places.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except BaseException:
                self._places.release()
                raise
        else:
            request.setblocking(False)
            with suppress(OSError):
                request.send(BUSY)
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and cut the connection off when that takes too long."""
        cut = threading.Timer(REQUEST_DEADLINE, _cut, (request,))
        cut.daemon = True
        try:
            try:
                cut.start()
            except RuntimeError:  # the system has no thread left
                self.shutdown_request(request)
                return
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that broke is no event of the farm."""


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class MetricsServer:
    """A running /metrics endpoint; calling the object stops it and waits until its port is free.

    Attributes:
        port: the TCP port, also when port 0 was asked for.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """Use `serve`."""
        self._server = _Server(host, port, registry)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = int(self._server.server_port)

    def __call__(self) -> None:
        """Stop; idempotent."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve(address: str, registry: CollectorRegistry) -> MetricsServer:
    """Serve /metrics at `address` (``127.0.0.1:9443``, ``[::1]:9443``) in a daemon thread.

    Raises:
        ConfigError: not an address.
        SystemRefusal: the address cannot be used.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed or not (port.isascii() and port.isdigit()):
        raise ConfigError(f"metrics address {address!r}: want HOST:PORT or [IPV6]:PORT")
    if int(port) > 65535:
        raise ConfigError(f"metrics address {address!r}: port is 0 to 65535")
    try:
        return MetricsServer(host, int(port), registry)
    except OSError as error:
        raise SystemRefusal(f"metrics address {address!r}: {error}") from error
