"""Be a plugin with sessions, made as the documentation says, that fails where its settings say."""

from typing import Any, ClassVar

import anyio
from starlette.requests import Request

from orbit_core import OrbitError, Plugin, PluginSession
from orbit_core.models import UIConfig
from orbit_core.web import json_body


class NotesSession(PluginSession):
    """Keep notes; ``fails`` names the method that raises, ``waits`` the one that hangs."""

    made: ClassVar[list["NotesSession"]] = []

    def __init__(self, sid: str, *, title: str = "", fails: str = "", waits: str = "") -> None:
        super().__init__(sid)
        self.title = title
        self.notes: list[str] = []
        self.calls: list[str] = []
        self.go = anyio.Event()
        self._fails = fails
        self._waits = waits
        self.made.append(self)

    async def start(self, *, restored: bool) -> None:
        await self._go_through("restore" if restored else "start")

    async def close(self) -> dict[str, Any]:
        await self._go_through("close")
        return await super().close()

    async def suspend(self) -> None:
        await self._go_through("suspend")

    async def add(self, text: str) -> int:
        self._check_active()
        self.notes.append(text)
        self.notify("note", {"text": text})
        return len(self.notes)

    async def _go_through(self, step: str) -> None:
        self.calls.append(step)
        if step == self._waits:
            await self.go.wait()
        if step == self._fails:
            raise ValueError(f"broken on purpose in {step}")
        if f"orbit {step}" == self._fails:
            raise OrbitError(f"refused on purpose in {step}")


class NotesPlugin(Plugin):
    """Offer notes."""

    plugin_name = "notes"
    session_class = NotesSession
    version = "3.2.1"
    ui_config = UIConfig(title="Notes", icon="pen")

    def __init__(self, context: Any, instance_name: str | None = None) -> None:
        super().__init__(context, instance_name)
        self.add_route_post("add/{sid}", self.add, idempotent=True)
        self.add_route_get("notes/{sid}", self.notes)

    async def add(self, request: Request) -> dict[str, Any]:
        """Add a note."""
        session = await self.session(request)
        return {"count": await session.add((await json_body(request))["text"])}

    async def notes(self, request: Request) -> dict[str, Any]:
        """Return the notes."""
        session = await self.session(request)
        return {"title": session.title, "notes": session.notes}
