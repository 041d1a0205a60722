"""Be plugins that fail, each in its own way, and some that do not."""

import sys
from collections.abc import Iterator
from importlib.metadata import version as version
from typing import Any, ClassVar

import anyio
import attrs
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from orbit_core import Plugin, hookimpl


async def pong(request: Any) -> JSONResponse:
    return JSONResponse("pong")


PING: list[BaseRoute] = [Route("/ping", pong)]


@hookimpl
def register_routes(context: Any) -> list[BaseRoute]:
    """Make this module itself a plugin."""
    return PING


class Bare:
    """Be the smallest class that is a plugin."""

    ui_config: ClassVar[Any] = None

    def __init__(self, context: Any, instance: str) -> None:
        self.context = context
        self.instance = instance

    @hookimpl
    def register_routes(self, context: Any) -> Any:
        return PING


class Async(Bare):
    @classmethod
    @hookimpl
    async def is_enabled(cls, host: Any) -> bool | None:
        await anyio.lowlevel.checkpoint()
        return None

    @hookimpl
    async def register_routes(self, context: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return PING


class Generating(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> Iterator[BaseRoute]:
        yield from PING


class Routeless(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> None:
        return None


class RoutelessAsync(Bare):
    @hookimpl
    async def register_routes(self, context: Any) -> None:
        return None


class Declines(Bare):
    @classmethod
    @hookimpl
    def is_enabled(cls, host: Any) -> bool:
        return False


class DeclinesAsync(Bare):
    @classmethod
    @hookimpl
    async def is_enabled(cls, host: Any) -> bool:
        return False


class RaisesWhenMade(Bare):
    def __init__(self, context: Any, instance: str) -> None:
        raise KeyError("made")


class RaisesInIsEnabled(Bare):
    @classmethod
    @hookimpl
    def is_enabled(cls, host: Any) -> bool:
        raise ValueError("asked")


class RaisesInIsEnabledAsync(Bare):
    @classmethod
    @hookimpl
    async def is_enabled(cls, host: Any) -> bool:
        raise ValueError("asked")


class RaisesInRoutes(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> Any:
        raise ValueError("routes")


class RaisesInRoutesAsync(Bare):
    @hookimpl
    async def register_routes(self, context: Any) -> Any:
        raise ValueError("routes")


class Exits(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> Any:
        sys.exit(3)


class Hangs(Bare):
    @hookimpl
    async def register_routes(self, context: Any) -> Any:
        await anyio.sleep_forever()


class HangsWhenAsked(Bare):
    @classmethod
    @hookimpl
    async def is_enabled(cls, host: Any) -> bool:
        await anyio.sleep_forever()
        return True


class GivesNumber(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> Any:
        return 42


class GivesText(Bare):
    @hookimpl
    def register_routes(self, context: Any) -> Any:
        return ["/ping"]


class Misspelt(Bare):
    @hookimpl
    def on_topologie_change(self, topology: Any) -> None:
        pass


class WrongArgument(Bare):
    @hookimpl
    def notify(self, message: Any) -> None:
        pass


class Newer(Bare):
    """Implement a hook that this version does not have, and say that it may be missing."""

    @hookimpl(optionalhook=True)
    def on_something_new(self, thing: Any) -> None:
        pass


class Hookless:
    def __init__(self, context: Any, instance: str) -> None:
        pass

    def register_routes(self, context: Any) -> Any:
        return PING


@attrs.define
class Unhashable:
    context: Any
    instance: str

    @hookimpl
    def register_routes(self, context: Any) -> Any:
        return PING


class BadPage(Bare):
    ui_config: ClassVar[Any] = {"title": {1, 2}}


class NoPage(Bare):
    ui_config: ClassVar[Any] = ["title"]


class Versioned(Bare):
    version = "7.8"


class Unmarked(Plugin):
    """Override a hook of the base class without marking it."""

    plugin_name = "unmarked"

    @classmethod
    def is_enabled(cls, host: Any) -> bool:
        return False


unhashable_object = attrs.make_class("Unhashable", [])()
