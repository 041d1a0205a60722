"""Call functions where a backend runs them, and bring back what became of them.

Functions and arguments stay closed until they reach their worker, which may be another process.
"""

import asyncio
import importlib
import inspect
import pickle
import re
import threading
import traceback
from collections.abc import Callable
from functools import reduce
from typing import Any

import attrs
import cloudpickle

from .errors import UnknownFunction
from .values import Pickled, encode

LOADED = 256
"""Functions that a worker keeps loaded."""

_loaded: dict[str | bytes, Callable[..., Any]] = {}

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load(function: str | bytes) -> Callable[..., Any]:
    """Import ``module:name``, or open a pickle. Raises UnknownFunction; it may block for long."""
    found = _loaded.get(function)
    if found is None:
        found = _load(function)
        while len(_loaded) >= LOADED:
            _loaded.pop(next(iter(_loaded)), None)
        _loaded[function] = found
    return found


def is_loaded(function: str | bytes) -> bool:
    """Tell whether `load` returns at once."""
    return function in _loaded


def _load(function: str | bytes) -> Callable[..., Any]:
    found = _imported(function) if isinstance(function, str) else _opened(function)
    if not callable(found):
        raise UnknownFunction(f"the function is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]  # callable() is all that there is to know


def _imported(reference: str) -> Any:
    if not _REFERENCE.fullmatch(reference):
        raise UnknownFunction(
            f"{reference[:100]!r} is no function: write it as package.module:name"
        )
    module, _, path = reference.partition(":")
    try:
        return reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:  # a module may fail in any way
        raise UnknownFunction(
            f"the function {reference} cannot be imported at the endpoint: "
            f"{type(error).__name__}: {error}"
        ) from error


def _opened(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # a pickle may fail in any way
        raise UnknownFunction(
            "the function cannot be unpickled at the endpoint, which may lack a module of it: "
            f"{type(error).__name__}: {error}"
        ) from error


@attrs.frozen
class Outcome:
    """Carry what became of a call, as fields of a result."""

    fields: dict[str, Any]
    succeeded: bool = True

    def __str__(self) -> str:
        """Say nothing: RHAPSODY takes this for the task's standard output."""
        return ""

    __repr__ = __str__


@attrs.define(eq=False)
class Call:
    """Be a call with its arguments, pickled where they are no plain data.

    With ``calls``, it is several calls of the function, each with arguments of its own. ``thread``
    is the identifier of the thread that runs it now.
    """

    function: str | bytes
    args: Any = ()
    kwargs: Any = attrs.field(factory=dict)
    calls: Any = None
    is_cancelled: bool = False
    thread: int | None = None

    def __call__(self) -> Outcome:
        """Make the call; whatever it raises is part of the outcome."""
        if self.is_cancelled:
            return Outcome({}, succeeded=False)
        self.thread = threading.get_ident()
        try:
            value = self._value(load(self.function))
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            return Outcome(encode(value))
        except BaseException as error:  # noqa: BLE001  # a function may even try to end its worker
            return Outcome(failure(error), succeeded=False)
        finally:
            self.thread = None

    def _value(self, function: Callable[..., Any]) -> Any:
        if self.calls is not None:
            return [function(*args) for args in _open(self.calls)]
        return function(*_open(self.args), **_open(self.kwargs))


def _open(value: Any) -> Any:
    return value.open() if isinstance(value, Pickled) else value


def failure(error: BaseException) -> dict[str, Any]:
    """Return the fields of a result that tell of an exception, without this module's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    fields: dict[str, Any] = {
        "exception": f"{type(error).__name__}: {_text(error)}",
        "traceback": "".join(lines).encode("utf-8", "backslashreplace").decode(),
    }
    try:
        fields["_exception"] = cloudpickle.dumps(error)
    except Exception:  # noqa: BLE001  # an exception may refuse in any way
        return fields
    return fields


def _text(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001  # an exception may refuse in any way
        return "(it cannot be shown)"
