from pathlib import Path
from tempfile import TemporaryDirectory

from anyio.from_thread import start_blocking_portal
from hypothesis.stateful import RuleBasedStateMachine

from orbit_core._store import open_store


class StoreMachine(RuleBasedStateMachine):
    """Be a state machine on a store, whose functions run in the thread of `portal`."""

    def open_store(self) -> None:
        """Open the store; the machine closes it at its end."""
        self.directory = TemporaryDirectory()
        self.portal_context = start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        opened = open_store(Path(self.directory.name))
        self.opened = self.portal.wrap_async_context_manager(opened)
        self.store = self.opened.__enter__()

    def teardown(self) -> None:
        self.opened.__exit__(None, None, None)
        self.portal_context.__exit__(None, None, None)
        self.directory.cleanup()
