"""Turn attrs values into JSON data and back, with every fault reported at once.

Two converters: a lenient one ignores fields it does not know (an older peer reads a newer one's
values); a strict one forbids them (a misspelt setting is an error). Neither coerces: ``"false"``
does not become True, and ``"abc"`` is no list of three letters.
"""

import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import is_sequence, list_structure_factory

from .errors import ConfigError, InvalidBody, OrbitError
from .models import EndpointInfo, Topology

Hook = Callable[[Any, Any], Any]
T = TypeVar("T")

DEPTH = 100
"""How deeply JSON from outside may be nested: what handles it further may recurse."""

_PLAIN = (str, int, float, bool, dict, list)


def _exactly(value: Any, expected: Any) -> Any:
    if type(value) is not expected:
        raise ValueError(f"expected {expected.__name__}, got {type(value).__name__}")
    return value


def _plain(value: Any, kind: Any) -> Any:
    """Structure a plain type, or an enum derived from one, for which cattrs asks here too."""
    return _enum(value, kind) if _is_enum(kind) else _exactly(value, kind)


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, got {type(value).__name__}")
    if value != value or abs(value) > sys.float_info.max:
        raise ValueError(f"expected a finite number, got {reprlib.repr(value)}")
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
    return kind(_one_of([member.value for member in kind], value))


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _literal(value: Any, kind: Any) -> Any:
    return _one_of(get_args(kind), value)


def _one_of(choices: Iterable[Any], value: Any) -> Any:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(
            f"expected one of {', '.join(map(str, choices))}, got {reprlib.repr(value)}"
        )
    return value


def _plain_union_hook(annotation: Any, converter: cattrs.BaseConverter) -> Hook:
    members = {get_origin(member) or member: member for member in get_args(annotation)}

    def structure_member(value: Any, _: Any) -> Any:
        kind = type(value)
        if kind is int and int not in members:
            kind = float
        if kind not in members:
            raise ValueError(f"expected {annotation}, got {type(value).__name__}")
        return None if value is None else converter.structure(value, members[kind])

    return structure_member


def _object_hook(kind: Any, converter: cattrs.Converter) -> Hook:
    build = converter.gen_structure_attrs_fromdict(kind)

    def structure_object(value: Any, expected: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected an object, got {type(value).__name__}")
        return build(value, expected)

    return structure_object


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
        converter.register_structure_hook(plain, _plain)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, _path)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(is_sequence, _sequence_hook)
    converter.register_structure_hook_factory(_is_plain_union, _plain_union_hook)
    # A topology is a mapping on the wire too: cattrs would write it so, but read it as an object.
    converter.register_structure_hook(
        Topology, lambda data, _: Topology(converter.structure(data, dict[str, EndpointInfo]))
    )
    return converter


_LENIENT = _converter(forbid_extra_keys=False)
_STRICT = _converter(forbid_extra_keys=True)


def to_data(value: Any) -> Any:
    """Return ``value`` as JSON data: attrs objects become dicts, paths and enums strings."""
    return _LENIENT.unstructure(value)


def for_json(value: Any) -> Any:
    """Return what ``json.dumps`` may write for ``value``, for its ``default``. Raises TypeError."""
    data = to_data(value)
    if type(data) not in (dict, list, str):  # json.dumps would ask again and again
        raise TypeError(f"a {type(value).__name__} is no JSON value")
    return data


def from_wire(data: object, kind: type[T], what: str = "body", *, strict: bool = False) -> T:
    """Build a ``kind`` from a peer's data, ignoring unknown fields unless it is ``strict``.

    Raises InvalidBody, naming every fault with its path.
    """
    converter = _STRICT if strict else _LENIENT
    return _structure(converter, data, kind, partial(_fault, InvalidBody, what))


def from_config(data: object, kind: type[T], where: str) -> T:
    """Build a ``kind`` from configuration, refusing unknown settings.

    Raises ConfigError, naming ``where`` (file and section) and every fault with its path.
    """
    return _structure(_STRICT, data, kind, partial(_fault, ConfigError, where))


def _structure(
    converter: cattrs.Converter,
    data: object,
    kind: type[T],
    fault: Callable[[list[str]], OrbitError],
) -> T:
    try:
        return converter.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError, AttributeError) as error:
        raise fault(cattrs.transform_error(error, format_exception=_describe)) from None


def _fault(kind: type[OrbitError], where: str, faults: list[str]) -> OrbitError:
    placed = (re.sub(r" @ \$\.?", " at ", fault.removesuffix(" @ $")) for fault in faults)
    return kind(f"{where}: {'; '.join(placed)}")


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


def parse_json(text: str | bytes) -> Any:
    """Return JSON data from outside. Raises ValueError.

    Refused are NaN and the infinities, which JSON does not have (RFC 8259, section 6), and what
    is nested more than `DEPTH` deep.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _brackets(text) > DEPTH and _is_deep(data):
        raise ValueError("it is nested too deeply")
    return data


def encode_json(value: Any) -> str:
    """Return a line of JSON that `parse_json` reads back. Raises TypeError, ValueError."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=for_json)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _brackets(text) > DEPTH:
        parse_json(text)
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _brackets(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(DEPTH):
        level = [child for item in level for child in _children(item)]
    return any(isinstance(item, (dict, list)) for item in level)


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()
