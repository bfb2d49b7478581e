"""The outer path of the unprivileged half: TCP to the server or to its HTTP proxy, and how TLS goes over it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sstpfarm.client.settings import ClientSettings
from sstpfarm.errors import PeerError
from sstpfarm.ipc.process import seal_memfd
from sstpfarm.proto.sstp.proxy import CredentialsWantedError, ProxyConnect
from sstpfarm.reasons import Reason
from sstpfarm.transport.tls_context import client_context, make_anonymous, present

CHUNK: Final = 4096  # bytes of a proxy's answer looked at together


@dataclass(frozen=True, slots=True)
class Reached:
    """A TCP connection over which TLS may begin; `address` is the other end, the server or its proxy."""

    sock: socket.socket
    address: str


class OuterPath:
    """Makes connections to one server. The TLS context is made with it, before the rights are dropped.

    Raises:
        ConfigError: the authorities or the client's certificate cannot be used.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.context = _tls_context(settings)

    @property
    def server_name(self) -> str:
        """The name for SNI and the name check, without a zone, which means nothing to others.

        Python sends no SNI for an address.
        """
        return self._settings.server_name or self._settings.host.split("%", 1)[0]

    async def reach(self, addresses: Sequence[str], port: int) -> Reached:
        """Connect to the first of these addresses that answers, and through the proxy if there is one.

        Raises:
            PeerError: NETWORK_UNREACHABLE with what each address said, or why the proxy refused.
        """
        try:
            return await self._attempt(addresses, port, authenticate=False)
        except CredentialsWantedError:  # on a connection of its own: the proxy may close the first one, or not
            return await self._attempt(addresses, port, authenticate=True)

    async def _attempt(self, addresses: Sequence[str], port: int, *, authenticate: bool) -> Reached:
        failures = []
        for address in addresses:
            try:
                sock = await self._connect(address, port)
            except OSError as error:  # TimeoutError is one, without a text
                failures.append(f"{address} port {port}: {error.strerror or 'no answer in time'}")
                continue
            try:
                await self._pass_proxy(sock, authenticate)
            except BaseException:
                sock.close()
                raise
            return Reached(sock, address)
        proxy = "proxy " if self._settings.proxy is not None else ""
        raise PeerError(proxy + "; ".join(failures), reason=Reason.NETWORK_UNREACHABLE)

    async def _connect(self, address: str, port: int) -> socket.socket:
        host, _, zone = address.partition("%")
        six = ":" in host
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # not the loop's sock_connect: uvloop's loses the zone
            status = sock.connect_ex((host, port, 0, int(zone or 0)) if six else (host, port))
            if status == errno.EINPROGRESS:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    await _writable(sock)
                status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if status:
                raise OSError(status, os.strerror(status))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _pass_proxy(self, sock: socket.socket, authenticate: bool) -> None:
        settings, proxy = self._settings, self._settings.proxy
        if proxy is None:
            return
        host = settings.host.split("%", 1)[0]
        connect = ProxyConnect(host, settings.port, proxy.user, proxy.password.text, authenticate=authenticate)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await loop.sock_sendall(sock, connect.request())
                while not await self._read_answer(sock, connect):
                    pass
        except TimeoutError:
            raise PeerError("it does not answer in time", reason=Reason.PROXY_REFUSED) from None
        except OSError as error:
            raise PeerError(f"the connection to it: {error.strerror}", reason=Reason.PROXY_REFUSED) from None

    async def _read_answer(self, sock: socket.socket, connect: ProxyConnect) -> bool:
        """Take bytes of the proxy's answer, and none behind it; return whether it was complete."""
        await _readable(sock)
        try:
            data = sock.recv(CHUNK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            raise PeerError("it closed the connection without an answer", reason=Reason.PROXY_REFUSED)
        end = connect.receive(data)
        sock.recv(len(data) if end is None else end)
        return end is not None


def _tls_context(settings: ClientSettings) -> ssl.SSLContext:
    trusting = settings.insecure or settings.insecure_anonymous or settings.pin is not None
    context = client_context(ca_pem=settings.ca_pem, verify=not trusting)
    if settings.insecure_anonymous:
        make_anonymous(context)
    if settings.certificate is not None:
        chain = seal_memfd("sstpfarm-chain", settings.certificate.chain_pem.encode())
        key = seal_memfd("sstpfarm-key", settings.certificate.key_pem.text.encode())
        try:
            present(context, f"/proc/self/fd/{chain}", f"/proc/self/fd/{key}")
        finally:
            os.close(chain)
            os.close(key)
    return context


async def _writable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
