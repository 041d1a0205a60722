"""Make blocking classes of asynchronous ones, so that each client is written once."""

import atexit
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .client import AsyncBridgeClient, AsyncEndpointClient
from .plugin_client import PluginClient

BUFFER = 64
"""Items that a stream may be ahead of the loop that consumes it."""


class Blocking:
    """Stand for an asynchronous object; every public method blocks."""

    def __init__(self, target: Any, portal: BlockingPortal) -> None:
        """Run ``target``'s coroutines in ``portal``."""
        self._target = target
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        """Return the target's plain attributes."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._target, name)

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"


@functools.cache
def blocking_class(kind: type) -> type[Blocking]:
    """Return a class with the public methods of ``kind``, each blocking until it is done."""
    methods = {
        name: _blocking_method(name, member)
        for name, member in inspect.getmembers(kind, callable)
        if not name.startswith("_")
        and not isinstance(inspect.getattr_static(kind, name), classmethod)
    }
    return type(
        kind.__name__,
        (Blocking,),
        {"__doc__": kind.__doc__, "__module__": kind.__module__, **methods},
    )


def _blocking_method(name: str, member: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(member):

        @functools.wraps(member)
        def method(self: Blocking, *args: Any, **kwargs: Any) -> Any:
            return _iterate(
                self._portal, functools.partial(getattr(self._target, name), *args, **kwargs)
            )

    else:

        @functools.wraps(member)
        def method(self: Blocking, *args: Any, **kwargs: Any) -> Any:
            call = functools.partial(getattr(self._target, name), *args, **kwargs)
            return _wrapped(self._portal.call(call), self._portal)

    return method


def _wrapped(value: Any, portal: BlockingPortal) -> Any:
    if isinstance(value, (AsyncEndpointClient, PluginClient)):
        kind: type = type(value)
        return blocking_class(kind)(value, portal)
    return value


def _iterate(portal: BlockingPortal, start: Callable[[], Any]) -> Iterator[Any]:
    """Yield what an asynchronous generator yields; leaving early ends it."""
    send, receive = portal.call(_open_buffer)

    async def produce() -> None:
        async with send:
            generator = start()
            try:
                async for item in generator:
                    await send.send(item)
            finally:
                await generator.aclose()

    producer = portal.start_task_soon(produce)
    try:
        while True:
            try:
                yield portal.call(receive.receive)
            except anyio.EndOfStream:
                break
        producer.result()
    finally:
        producer.cancel()
        portal.call(receive.aclose)


async def _open_buffer() -> Any:
    return anyio.create_memory_object_stream[Any](BUFFER)


class BridgeClient(blocking_class(AsyncBridgeClient)):  # type: ignore[misc]
    """Reach a bridge; the methods of `AsyncBridgeClient`, each blocking until it is done.

    Callbacks run one after the other in a thread of their own and may call the client.
    """

    def __init__(
        self, url: str | None = None, cert: Any = None, token: str | None = None, **options: Any
    ) -> None:
        """Find the bridge: argument over environment over configuration over a bridge on this host.

        Raises ConfigError if there is none to be found.
        """
        client = AsyncBridgeClient(url, cert, token, **options)
        client.callbacks.are_in_threads = True
        with ExitStack() as stack:
            portal = stack.enter_context(
                start_blocking_portal(backend_options={"use_uvloop": True})
            )
            stack.enter_context(portal.wrap_async_context_manager(client))
            self._open = stack.pop_all()
        atexit.register(self._open.close)
        super().__init__(client, portal)

    def __enter__(self) -> Self:
        """Return the client, which is open already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End the event stream and close the connections; closing again does nothing.

        A client that is left open is closed when the interpreter exits.
        """
        atexit.unregister(self._open.close)
        self._open.close()
