"""Read configuration data into attrs classes, reporting all faults at once.

Unknown fields are ignored and nothing is coerced but whole numbers in the fields that ask for it
(`whole`): old files have them as text.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from orbit_core.errors import InvalidName
from orbit_core.models import check_name

from .errors import InvalidConfig

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]

Name = Annotated[str, "can be part of a path"]
"""A text that `orbit_core.models.check_name` lets pass."""

DEPTH = 20
"""How deeply the free parts of a configuration may be nested."""

_LARGEST = 2**63
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*", re.ASCII)
_READ_AS_TEXT = "accepts text"


def whole(default: int, **options: Any) -> Any:
    """Return a field for a whole number that may also be given as text, such as ``"16"``."""
    return attrs.field(default=default, metadata={_READ_AS_TEXT: True}, **options)


def shown(value: object) -> str:
    """Return the beginning of a value as an error shows it."""
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a huge number"  # Python refuses to write what has thousands of digits
    return reprlib.repr(value) if isinstance(value, str | int | float) else type(value).__name__


def read(data: object, kind: type[T], where: str) -> T:
    """Return configuration data as a ``kind``.

    Raises InvalidConfig, naming ``where`` and every fault with its path.
    """
    try:
        return _CONVERTER.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError) as error:
        faults = cattrs.transform_error(error, format_exception=_describe)
    raise InvalidConfig.of(where, [_placed(fault) for fault in faults]) from None


def written(value: Any) -> Any:
    """Return an attrs object as JSON data, which `read` takes."""
    return _CONVERTER.unstructure(value)


def _placed(fault: str) -> str:
    text, _, path = fault.rpartition(" @ $")
    return f"{text} at {path.removeprefix('.')}" if path else text


def _describe(error: BaseException, _: Any) -> str:
    return "required field missing" if isinstance(error, KeyError) else str(error)


def _exactly(expected: type, value: Any, _: Any) -> Any:
    if type(value) is not expected:
        raise ValueError(f"expected {expected.__name__}, got {shown(value)}")
    return value


def name(value: Any, _: Any = None) -> str:
    """Return a `Name`. Raises ValueError."""
    try:
        return check_name(value, "the name")
    except InvalidName as error:
        raise ValueError(error.detail) from None


def _is_name(annotation: Any) -> bool:
    return annotation is Name


def _integer(value: Any, _: Any) -> int:
    if type(value) is not int or abs(value) >= _LARGEST:
        raise ValueError(f"expected a whole number, got {shown(value)}")
    return value


def _text_or_integer(value: Any, kind: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return _integer(value, kind)


def _number(value: Any, _: Any) -> float:
    if type(value) is int and abs(value) < _LARGEST:
        return float(value)
    if type(value) is not float or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {shown(value)}")
    return value


def _is_literal(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def _literal(value: Any, kind: Any) -> Any:
    if not isinstance(value, str) or value not in get_args(kind):
        raise ValueError(f"expected one of {', '.join(get_args(kind))}, got {shown(value)}")
    return value


def _is_free(annotation: Any) -> bool:
    return annotation is Any


def _free(value: Any, _: Any, depth: int = 0) -> Any:
    """Return JSON data of any shape."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return _integer(value, int)
        case float():
            return _number(value, float)
        case list() | dict() if depth == DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")
        case list():
            return [_free(member, None, depth + 1) for member in value]
        case dict():
            return {
                _exactly(str, key, None): _free(member, None, depth + 1)
                for key, member in value.items()
            }
        case _:
            raise ValueError(f"expected JSON data, got {shown(value)}")


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list


def _list_hook(annotation: Any, converter: cattrs.Converter) -> Hook:
    build = cattrs.cols.list_structure_factory(annotation, converter)

    def structure_list(value: Any, kind: Any) -> Any:
        return build(_exactly(list, value, kind), kind)

    return structure_list


def _is_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _dict_hook(annotation: Any, converter: cattrs.Converter) -> Hook:
    kinds = get_args(annotation)
    hooks = [converter.get_structure_hook(kind) for kind in kinds]

    def structure_dict(value: Any, _: Any) -> Any:
        made, faults = {}, []
        for key, member in _exactly(dict, value, None).items():
            place = key[:64] if isinstance(key, str) else shown(key)
            pair = []
            for hook, kind, part in zip(hooks, kinds, (key, member), strict=True):
                try:
                    pair.append(hook(part, kind))
                except (cattrs.BaseValidationError, ValueError) as error:
                    error.add_note(cattrs.IterableValidationNote("", place, kind))
                    faults.append(error)
            if len(pair) == len(kinds):
                made[pair[0]] = pair[1]
        if faults:
            raise cattrs.IterableValidationError("", faults, annotation)
        return made

    return structure_dict


def _object_hook(kind: Any, converter: cattrs.Converter) -> Hook:
    """Structure an attrs class, each field of which is checked, so that no fault hides another."""
    hooks: dict[str, Any] = {
        field.name: override(struct_hook=_field_hook(field, converter))
        for field in attrs.fields(kind)
    }
    build = make_dict_structure_fn(kind, converter, **hooks)

    def structure_object(value: Any, expected: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected an object, got {shown(value)}")
        return build(value, expected)

    return structure_object


def _field_hook(field: "attrs.Attribute[Any]", converter: cattrs.Converter) -> Hook:
    is_number_as_text = _READ_AS_TEXT in field.metadata
    build = _text_or_integer if is_number_as_text else converter.get_structure_hook(field.type)

    def structure_field(value: Any, kind: Any) -> Any:
        made = build(value, kind)
        try:
            if field.validator is not None:
                field.validator(None, field, made)
        except ValueError as error:  # its place is told beside, so its name need not be
            raise ValueError(str(error).removeprefix(f"{field.name} ")) from None
        return made

    return structure_field


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    for plain in (str, bool):
        converter.register_structure_hook(plain, partial(_exactly, plain))
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(_is_name, name)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_func(_is_free, _free)
    converter.register_structure_hook_factory(_is_list, _list_hook)
    converter.register_structure_hook_factory(_is_dict, _dict_hook)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    return converter


_CONVERTER = _converter()
