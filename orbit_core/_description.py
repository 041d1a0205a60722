"""Describe routes: what they take and give, as JSON Schema made of the classes in the code."""

import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .models import JSON, RouteDescription
from .web import TAKES

Schema = dict[str, Any]

_PLAIN = {
    str: "string",
    Path: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def describe_route(route: Route, prefix: str = "") -> RouteDescription:
    """Return a route's description: what its handler's documentation, mark and annotation say."""
    handler = route.endpoint
    summary = (inspect.getdoc(handler) or "").partition("\n")[0]
    kind, media_type = getattr(handler, TAKES, (None, JSON))
    return RouteDescription(
        prefix + route.path,
        sorted(route.methods or ()),
        summary,
        body=None if kind is None else schema_of(kind),
        answer=_answer_of(handler),
        media_type=media_type,
    )


def _answer_of(handler: Any) -> Schema | None:
    """Return the schema of what a handler is annotated to return; None where it may be no JSON."""
    try:
        kind = get_type_hints(handler).get("return", Response)
    except (AttributeError, NameError, SyntaxError, TypeError):  # nobody can resolve it
        return None
    is_response = isinstance(kind, type) and issubclass(kind, Response)
    if is_response:
        return {} if issubclass(kind, JSONResponse) else None
    return schema_of(kind)


@cache
def schema_of(kind: Any) -> Schema:
    """Return the JSON Schema of a ``kind`` on the wire: what it is read from and written as.

    Classes are those that `orbit_core.values` reads; anything else may be any JSON.
    """
    return _schema(kind, ())


def _schema(kind: Any, within: tuple[type, ...]) -> Schema:
    arguments = get_args(kind)
    origin = get_origin(kind) or kind
    if origin in _PLAIN:
        return {"type": _PLAIN[origin]}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(member, within) for member in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, Sequence):
        return {"type": "array", "items": _schema(arguments[0], within) if arguments else {}}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = _schema(arguments[1], within) if arguments else {}
        return {"type": "object", "additionalProperties": values}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    if attrs.has(kind):
        return {"type": "object"} if kind in within else _object(kind, (*within, kind))
    return {}


def _object(kind: type[attrs.AttrsInstance], within: tuple[type, ...]) -> Schema:
    fields = attrs.fields(attrs.resolve_types(kind))
    found: Schema = {
        "title": kind.__name__,
        "type": "object",
        "properties": {field.name: _schema(field.type, within) for field in fields},
    }
    required = [field.name for field in fields if field.default is attrs.NOTHING]
    return {**found, "required": required} if required else found
