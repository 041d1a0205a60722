"""Pack functions, arguments and tasks at the client."""

import pickle
import sys
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle

from .errors import NotPicklable
from .values import is_plain, pack, preview, python_version

Function = Callable[..., Any] | str | bytes
"""A function, its import path ``module:name``, or its pickle."""

_ATOMS = (type(None), bool, int, float, str, bytes)


def pack_function(function: Function) -> str | bytes:
    """Return what travels of a function. Raises NotPicklable."""
    if isinstance(function, str | bytes):
        return function
    try:
        return pickle.dumps(function) if is_importable(function) else cloudpickle.dumps(function)
    except Exception as error:  # an object may refuse in any way
        raise NotPicklable(
            f"the function {preview(function)} cannot be pickled: {type(error).__name__}: {error}"
        ) from error


def is_importable(function: object) -> bool:
    """Tell whether a pickle of the function is no more than its module and name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module in (None, "__main__") or "<" in name:
        return False
    found: Any = sys.modules.get(module)
    if found is None or module in cloudpickle.list_registry_pickle_by_value():
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def is_self_contained(function: object) -> bool:
    """Tell whether a pickle of the function stays true: it refers to nothing that may change."""
    if not isinstance(function, types.FunctionType) or function.__closure__:
        return False
    if not all(type(value) in _ATOMS for value in function.__defaults__ or ()):
        return False
    if function.__kwdefaults__ or function.__dict__:
        return False
    return all(
        isinstance(function.__globals__[name], types.ModuleType)
        for name in _names(function.__code__)
        if name in function.__globals__
    )


def _names(code: types.CodeType) -> set[str]:
    inner = (found for found in code.co_consts if isinstance(found, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def pack_calls(calls: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the fields of a task that carry the arguments of several calls of one function.

    Raises NotPicklable.
    """
    plain = [list(args) for args in calls]
    if is_plain(plain):
        return {"calls": plain}
    packed = _pickled(calls, dict(enumerate(calls)))
    return {"calls": packed, "_pickled_fields": ["calls"]}


def pack_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task that carry arguments. Raises NotPicklable, naming the one."""
    fields: dict[str, Any] = {}
    pickled = []
    if args:
        fields["args"] = list(args)
        if not is_plain(fields["args"]):
            fields["args"] = _pickled(args, dict(enumerate(args)))
            pickled.append("args")
    if kwargs:
        fields["kwargs"] = dict(kwargs)
        if not is_plain(fields["kwargs"]):
            fields["kwargs"] = _pickled(dict(kwargs), kwargs)
            pickled.append("kwargs")
    if pickled:
        fields["_pickled_fields"] = pickled
    return fields


def _pickled(value: Any, parts: Mapping[Any, Any]) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # an object may refuse in any way
        culprit = next((key for key, part in parts.items() if not _pickles(part)), None)
        where = "the arguments" if culprit is None else f"argument {culprit!r}"
        raise NotPicklable(f"{where} cannot be pickled: {type(error).__name__}: {error}") from error


def _pickles(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001  # an object may refuse in any way
        return False
    return True


def new_uid() -> str:
    """Return a uid that no other process makes."""
    return f"task.{uuid.uuid4().hex[:16]}"


def pack_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task as it travels: with a uid, and with its functions and arguments packed.

    Raises NotPicklable.
    """
    found = {
        key: value
        for key, value in task.items()
        if key not in ("future", "_future") and value is not None
    }
    found.setdefault("uid", new_uid())
    if "function" not in found:
        return found
    if found.get("_pickled_fields"):
        return found
    arguments = pack_arguments(tuple(found.pop("args", ())), found.pop("kwargs", {}))
    found["function"] = pack_function(found["function"])
    found |= arguments
    if isinstance(found["function"], bytes):
        found["_pickled_fields"] = [*arguments.get("_pickled_fields", ()), "function"]
    return found


def pack_batch(tasks: list[dict[str, Any]]) -> bytes:
    """Return tasks as they travel in one submit, what all have in common said once."""
    first = tasks[0]
    shared = {
        key: value
        for key, value in first.items()
        if key != "uid" and all(key in task and task[key] == value for task in tasks)
    }
    rest = [{key: task[key] for key in task if key not in shared} for task in tasks]
    return pack({"template": shared, "tasks": rest, "python": python_version()})


def sends_pickles(task: Mapping[str, Any]) -> bool:
    """Tell whether a packed task holds a pickle."""
    return bool(task.get("_pickled_fields"))
