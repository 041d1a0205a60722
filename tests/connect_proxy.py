"""Be a site's HTTP proxy: CONNECT, with a name and a password if asked for."""

import base64
import ssl
from contextlib import asynccontextmanager

import anyio
import attrs
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener


@attrs.define(eq=False)
class ConnectProxy:
    """Remember which targets were asked for; ``answer`` is said instead of connecting."""

    secret: str | None = None
    tls: ssl.SSLContext | None = None
    answer: bytes | None = None
    port: int = 0
    targets: list[str] = attrs.field(factory=list)

    def url(self, secret: str | None = None) -> str:
        user = "" if secret is None else f"{secret}@"
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{user}127.0.0.1:{self.port}"

    async def serve(self, stream):
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            try:
                head = (await reader.receive_until(b"\r\n\r\n", 8192)).decode() + "\r\n"
                if self.answer is not None:
                    await stream.send(self.answer)
                elif self._expected() not in head:
                    await stream.send(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                else:
                    await self._connect(head.split()[1], stream, reader)
            except (anyio.BrokenResourceError, anyio.IncompleteRead):
                pass

    def _expected(self):
        if self.secret is None:
            return ""
        return f"Proxy-Authorization: Basic {base64.b64encode(self.secret.encode()).decode()}\r\n"

    async def _connect(self, target, stream, reader):
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as upstream:
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
            async with anyio.create_task_group() as group:
                group.start_soon(self._pump, group, reader, upstream)
                group.start_soon(self._pump, group, upstream, stream)

    async def _pump(self, group, source, sink):
        try:
            while True:
                await sink.send(await source.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            group.cancel_scope.cancel()


@asynccontextmanager
async def open_proxy(**settings):
    proxy = ConnectProxy(**settings)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        found = (
            listener
            if proxy.tls is None
            else TLSListener(listener, proxy.tls, standard_compatible=False)
        )
        group.start_soon(found.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()
