"""Turn JSON into the attrs values of `orbit_psij.models`, collecting every fault with its place.

Nothing is coerced, and an unknown key is a fault: a misspelt scheduler option that went unnoticed
would cost its user a job.
"""

from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import attrs

T = TypeVar("T")

_ABSENT = object()


def structure(kind: type[T], data: object, path: str, faults: list[str]) -> T | None:
    """Build a ``kind`` from a JSON object; what is wrong is added to ``faults`` and left out.

    None stands for an absent field. The result is None if nothing can be built.
    """
    if not isinstance(data, dict):
        faults.append(f"{path}: expected an object, got {_name_of(data)}")
        return None
    fields = attrs.fields_dict(kind)  # type: ignore[arg-type]  # kind is an attrs class
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            faults.append(f"{path}: unknown key {key!r}")
        elif value is not None:
            values[key] = _value(fields[key].type, value, f"{path}.{key}", faults)
    values = {key: value for key, value in values.items() if value is not _ABSENT}
    missing = [
        name for name, field in fields.items()
        if field.default is attrs.NOTHING and name not in values
    ]  # fmt: skip
    faults.extend(f"{path}.{name}: required" for name in missing if data.get(name) is None)
    return None if missing else kind(**values)


def _value(annotation: Any, value: Any, path: str, faults: list[str]) -> Any:
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = [option for option in options if option is not NoneType]
    origin, arguments = get_origin(kinds[0]), get_args(kinds[0])
    if origin is list:
        return _list(arguments[0], value, path, faults)
    if origin is dict:
        return _mapping(arguments[1], value, path, faults)
    if attrs.has(kinds[0]):
        found = structure(kinds[0], value, path, faults)
        return _ABSENT if found is None else found
    if issubclass(kinds[0], StrEnum) and value in tuple(kinds[0]):
        return kinds[0](value)
    if type(value) in kinds or (float in kinds and type(value) is int):
        return value
    faults.append(f"{path}: expected {' or '.join(map(_called, kinds))}, got {_name_of(value)}")
    return _ABSENT


def _list(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, list):
        faults.append(f"{path}: expected a list, got {_name_of(value)}")
        return _ABSENT
    found = [_value(kind, item, f"{path}[{index}]", faults) for index, item in enumerate(value)]
    return [item for item in found if item is not _ABSENT]


def _mapping(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{path}: expected an object, got {_name_of(value)}")
        return _ABSENT
    found = {key: _value(kind, item, f"{path}.{key}", faults) for key, item in value.items()}
    return {key: item for key, item in found.items() if item is not _ABSENT}


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _called(kind: type) -> str:
    return _NAMES.get(kind, kind.__name__)


def _name_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return _called(type(value))
