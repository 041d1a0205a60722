"""Open each way from a child's host."""

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread
import attrs

from orbit_core.errors import InvalidBody, NoRoute

from .address import first_open, free_port, host_and_port, joined, named_proxy, own_node_name
from .models import Plan, RelayAddress, ReverseAnswer, ReverseRequest, Route, Way
from .relaying import relay_key
from .rendezvous import Rendezvous
from .ssh import SSHSettings, open_forward

T = TypeVar("T")

ATTEMPT = 5.0
"""Seconds that a connection without ssh may take: such networks answer at once or never."""

FORWARD_PATIENCE = 12.0
REVERSE_PATIENCE = 15.0
"""Seconds that a tunnel may take; the parent looks for a request every second."""

LOOK_INTERVAL = 0.5
"""Seconds between looks for the parent's answer."""


@attrs.frozen(eq=False)
class ChildWays:
    """Know what each way needs: the child's name and token, the bridge, and the folder to meet in.

    ``via`` is the login host, if the parent was told it.
    """

    name: str
    url: str
    token: str | None
    rendezvous: Rendezvous
    via: str | None = None

    def open(self, way: Way) -> AbstractAsyncContextManager[Route]:
        """Keep a way open. Raises NoRoute."""
        opener: dict[Way, Callable[[], AbstractAsyncContextManager[Route]]] = {
            "direct": self._direct,
            "proxy": self._proxy,
            "relay": self._relay,
            "forward": self._forward,
            "reverse": self._reverse,
        }
        return opener[way]()

    @asynccontextmanager
    async def _direct(self) -> AsyncIterator[Route]:
        yield Route(proxy=None, timeout=ATTEMPT)

    @asynccontextmanager
    async def _proxy(self) -> AsyncIterator[Route]:
        proxy = named_proxy(self.url, always=True)
        if proxy is None:
            raise NoRoute("no proxy is named on the compute node: set HTTPS_PROXY for the job")
        yield Route(proxy=proxy, timeout=ATTEMPT)

    @asynccontextmanager
    async def _relay(self) -> AsyncIterator[Route]:
        address = await self._read("relay", RelayAddress)
        if address is None or self.token is None:
            raise NoRoute("the parent endpoint has no relay open: is it running?")
        host = await first_open(address.hosts, address.port, patience=ATTEMPT)
        if host is None:
            raise NoRoute(
                f"no TCP connection from {own_node_name()} to port {address.port} of the parent's "
                f"host ({', '.join(address.hosts)}): the site's firewall may forbid it"
            )
        scheme = "http" if address.cert is None else "https"
        place = joined(host, address.port)
        url = f"{scheme}://{self.name}:{relay_key(self.token)}@{place}"
        yield Route(proxy=url, proxy_cert=address.cert, timeout=ATTEMPT)

    @asynccontextmanager
    async def _forward(self) -> AsyncIterator[Route]:
        plan = await self._read("plan", Plan) or Plan("")
        host = self._login(plan)
        directory = self.rendezvous.directory
        settings = SSHSettings(
            plan.known_hosts or str(directory / "known_hosts"),
            plan.trust_new_hosts,
            plan.ssh_options,
        )
        port = await anyio.to_thread.run_sync(free_port)
        target = joined(*host_and_port(self.url))
        async with open_forward(settings, host, port, target, patience=FORWARD_PATIENCE) as tunnel:
            yield Route(None, host="127.0.0.1", port=port, pid=tunnel.pid, timeout=ATTEMPT)

    @asynccontextmanager
    async def _reverse(self) -> AsyncIterator[Route]:
        request = ReverseRequest(uuid.uuid4().hex, self.name, own_node_name())
        await self.rendezvous.write("request", request)
        try:
            port = await self._reverse_port(request)
            yield Route(None, host="127.0.0.1", port=port, timeout=ATTEMPT)
        finally:
            with anyio.CancelScope(shield=True):
                await self.rendezvous.remove("request")

    async def _reverse_port(self, request: ReverseRequest) -> int:
        with anyio.move_on_after(REVERSE_PATIENCE):
            while True:
                answer = await self._read("answer", ReverseAnswer)
                if answer is not None and answer.request == request.id:
                    if answer.port is None:
                        raise NoRoute(f"the parent opens no tunnel: {answer.reason}")
                    return answer.port
                await anyio.sleep(LOOK_INTERVAL)
        raise NoRoute(
            f"the parent opened no tunnel to {request.hostname} within {REVERSE_PATIENCE:g} s"
        )

    def _login(self, plan: Plan) -> str:
        candidates = (
            self.via,
            plan.login,
            *map(os.environ.get, ("PBS_O_HOST", "SLURM_SUBMIT_HOST")),
        )
        found = next((host for host in candidates if host), None)
        if found is None or found.startswith("-"):
            raise NoRoute("no login host is named: say --tunnel-via HOST")
        return found

    async def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return await self.rendezvous.read(name, kind)
        except InvalidBody as error:
            raise NoRoute(f"what the parent left is not to be used: {error.detail}") from None
