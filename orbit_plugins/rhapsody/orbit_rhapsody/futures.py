"""Be the futures of remote calls, and settle them from results."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, Protocol

from orbit_core.errors import OrbitError

from .errors import TaskCancelled, TaskFailed, TaskGone, UnknownTask
from .values import Pickled, decode, unwrap


class RemoteTraceback(Exception):
    """Show where a function failed at its endpoint, as the cause of what it raised."""

    def __init__(self, text: str) -> None:
        """Keep the formatted traceback."""
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Return the traceback, set off from the local one."""
        return f'\n"""\n{self.text}"""'


class Settled(Protocol):
    """Take what became of a call."""

    uid: str

    def begin(self) -> None:
        """Note that the call runs."""
        ...

    def done(self) -> bool:
        """Tell whether it is settled."""
        ...

    def cancel(self) -> bool:
        """Cancel it, unless it runs or is settled."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Settle it with a value."""
        ...

    def set_exception(self, exception: Any, /) -> None:
        """Settle it with an exception."""
        ...


class OrbitFuture(concurrent.futures.Future[Any]):
    """Be the future of a remote call; ``uid`` is what `reload` takes after a crash."""

    def __init__(self, uid: str, on_cancel: Callable[[str], None]) -> None:
        """Call ``on_cancel`` with the uid when it is cancelled."""
        super().__init__()
        self.uid = uid
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Cancel the call, here and at the endpoint, unless it runs already or is over."""
        was_cancelled = self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and not was_cancelled:
            self.set_running_or_notify_cancel()  # who waits for it with others hears of it then
            self._on_cancel(self.uid)
        return is_cancelled

    def begin(self) -> None:
        """Note that the call runs."""
        if not self.running() and not self.done():
            self.set_running_or_notify_cancel()


class AsyncOrbitFuture(asyncio.Future[Any]):
    """Be the same for a coroutine to await; it may be cancelled until it is over."""

    def __init__(self, uid: str, on_cancel: Callable[[str], None]) -> None:
        """Call ``on_cancel`` with the uid when it is cancelled."""
        super().__init__()
        self.uid = uid
        self._on_cancel = on_cancel

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the call, here and at the endpoint."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self._on_cancel(self.uid)
        return is_cancelled

    def begin(self) -> None:
        """Do nothing: such a future knows no running."""


def settle(future: Settled, result: dict[str, Any]) -> None:
    """Settle a future with a result; one that is settled already stays as it is.

    Pickles are opened: they come from the endpoint that the executor was told to trust.
    """
    if future.done():
        return
    try:
        value = _value(result)
    except BaseException as error:  # noqa: BLE001  # the call's own exception, of any kind
        _settle(future, error=error)
    else:
        _settle(future, value=value)


def fail(future: Settled, error: BaseException) -> None:
    """Settle a future with an exception, unless it is settled."""
    if not future.done():
        _settle(future, error=error)


def _settle(future: Settled, value: Any = None, error: BaseException | None = None) -> None:
    try:
        if error is None:
            future.set_result(value)
        elif isinstance(error, TaskCancelled) and future.cancel():
            return
        else:
            future.set_exception(error)
    except (concurrent.futures.InvalidStateError, asyncio.InvalidStateError):
        return  # its user cancelled it at this very moment


def _value(result: dict[str, Any]) -> Any:
    match result["state"]:
        case "DONE":
            value = decode(result)
            return _open(value, "result") if isinstance(value, Pickled) else value
        case "UNKNOWN":
            raise UnknownTask(f"the endpoint has had no task {result['uid']}")
        case "GONE":
            raise TaskGone(f"the result of task {result['uid']} is not kept any longer")
        case "CANCELED":
            raise TaskCancelled(f"task {result['uid']}: {result.get('error')}")
        case _:
            raise _failure(result)


def _open(pickled: Pickled, what: str) -> Any:
    try:
        return pickled.open()
    except Exception as error:
        raise TaskFailed(
            f"the {what} cannot be unpickled here ({type(error).__name__}: {error}); "
            f"its beginning: {pickled.preview}"
        ) from error


def _failure(result: dict[str, Any]) -> BaseException:
    text = str(result.get("error") or result.get("exception"))
    failed: BaseException = TaskFailed(f"task {result['uid']} failed: {text}")
    if "_exception" in result:
        try:
            found = _open(Pickled(unwrap(result["_exception"]), text), "exception")
        except OrbitError:
            found = None
        failed = found if isinstance(found, BaseException) else failed
    if "traceback" in result:
        failed.__cause__ = RemoteTraceback(str(result["traceback"]))
    return failed
