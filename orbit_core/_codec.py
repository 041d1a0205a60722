"""Turn attrs values into JSON data and back, with every fault reported at once.

Two converters: the wire ignores fields it does not know (an older peer reads a newer one's
values); configuration forbids them (a misspelt setting is an error). Neither coerces: ``"false"``
does not become True, and ``"abc"`` is no list of three letters.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import is_sequence, list_structure_factory

from .errors import ConfigError, InvalidBody, OrbitError

Hook = Callable[[Any, Any], Any]
T = TypeVar("T")

_PLAIN = (str, int, float, bool, dict, list)


def _exactly(value: Any, expected: Any) -> Any:
    if type(value) is not expected:
        raise ValueError(f"expected {expected.__name__}, got {type(value).__name__}")
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float) or value != value:
        raise ValueError(f"expected a number, got {type(value).__name__}")
    return float(value)


def _path(value: Any, _: Any) -> Path:
    return Path(_exactly(value, str)).expanduser()


def _is_plain_union(annotation: Any) -> bool:
    """Tell whether ``annotation`` is a union of JSON types such as ``str | dict[str, str]``."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    concrete = [get_origin(member) or member for member in members if member is not type(None)]
    return len(concrete) > 1 and all(member in _PLAIN for member in concrete)


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _enum(value: Any, kind: Any) -> Any:
    members = {member.value: member for member in kind}
    if not isinstance(value, (str, int)) or value not in members:
        raise ValueError(f"expected one of {', '.join(map(str, members))}, got {value!r}")
    return members[value]


def _plain_union_hook(annotation: Any) -> Hook:
    concrete = tuple(get_origin(member) or member for member in get_args(annotation))

    def structure_member(value: Any, _: Any) -> Any:
        if type(value) not in concrete:
            raise ValueError(f"expected {annotation}, got {type(value).__name__}")
        return value

    return structure_member


def _sequence_hook(annotation: Any, converter: cattrs.BaseConverter) -> Hook:
    build = list_structure_factory(annotation, converter)

    def structure_list(value: Any, kind: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected a list, got {type(value).__name__}")
        return build(value, kind)

    return structure_list


def _converter(*, forbid_extra_keys: bool) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=forbid_extra_keys)
    for plain in (str, int, bool):
        converter.register_structure_hook(plain, _exactly)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, _path)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_factory(is_sequence, _sequence_hook)
    converter.register_structure_hook_factory(_is_plain_union, _plain_union_hook)
    return converter


_WIRE = _converter(forbid_extra_keys=False)
_CONFIG = _converter(forbid_extra_keys=True)


def to_data(value: Any) -> Any:
    """Return ``value`` as JSON data: attrs objects become dicts, paths and enums strings."""
    return _WIRE.unstructure(value)


def from_wire(data: object, kind: type[T], what: str = "body") -> T:
    """Build a ``kind`` from a peer's data, ignoring unknown fields.

    Raises InvalidBody, naming every fault with its path.
    """
    return _structure(_WIRE, data, kind, partial(_fault, InvalidBody, what))


def from_config(data: object, kind: type[T], where: str) -> T:
    """Build a ``kind`` from configuration, refusing unknown settings.

    Raises ConfigError, naming ``where`` (file and section) and every fault with its path.
    """
    return _structure(_CONFIG, data, kind, partial(_fault, ConfigError, where))


def _structure(
    converter: cattrs.Converter,
    data: object,
    kind: type[T],
    fault: Callable[[list[str]], OrbitError],
) -> T:
    if attrs.has(kind) and not isinstance(data, Mapping):
        raise fault([f"expected an object, got {type(data).__name__}"])
    try:
        return converter.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError, OrbitError) as error:
        raise fault(cattrs.transform_error(error, format_exception=_describe)) from None


def _fault(kind: type[OrbitError], where: str, faults: list[str]) -> OrbitError:
    return kind(
        f"{where}: "
        + "; ".join(fault.replace(" @ $.", " at ").removesuffix(" @ $") for fault in faults)
    )


def _describe(error: BaseException, kind: Any) -> str:
    match error:
        case KeyError():
            return "required field missing"
        case AttributeError():
            return "expected an object"
        case cattrs.ForbiddenExtraKeysError():
            return "unknown: " + ", ".join(sorted(map(str, error.extra_fields)))
        case _:
            return str(error)
