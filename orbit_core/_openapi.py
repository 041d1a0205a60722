"""Describe the whole HTTP surface in OpenAPI 3.1: the bridge's routes and every plugin's."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from ._description import schema_of
from .models import HostDescription, RouteDescription

_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")

_ERROR = {
    "type": "object",
    "required": ["error", "status_code", "detail", "code"],
    "properties": {
        "error": {"const": True},
        "status_code": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}

_PLUGINS = RouteDescription(
    "/plugins", ["GET"], "Describe the plugins served here.", answer=schema_of(HostDescription)
)


def document(
    bridge: Iterable[RouteDescription], endpoints: Mapping[str, HostDescription]
) -> dict[str, Any]:
    """Return the document for the bridge's routes and those of the endpoints' plugins."""
    paths: dict[str, Any] = {}
    for route in bridge:
        _add(paths, "", route, "bridge")
    for endpoint, description in endpoints.items():
        _add(paths, f"/{endpoint}", _PLUGINS, endpoint)
        for instance, plugin in description.plugins.items():
            for route in plugin.routes:
                _add(paths, f"/{endpoint}/{instance}", route, f"{endpoint}/{instance}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "ORBIT", "version": version("orbit-core")},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _add(paths: dict[str, Any], prefix: str, route: RouteDescription, tag: str) -> None:
    path = prefix + route.path
    plain = _PARAMETER.sub(r"{\1}", path)
    for method in route.methods:
        if method != "HEAD":
            paths.setdefault(plain, {})[method.lower()] = _operation(path, method, route, tag)


def _operation(path: str, method: str, route: RouteDescription, tag: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer"}
    if route.answer is not None:
        answer["content"] = {"application/json": {"schema": route.answer}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "tags": [tag],
        "responses": {
            "200": answer,
            "default": {
                "description": "What went wrong",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    names = _PARAMETER.findall(path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if method in ("POST", "PUT", "PATCH"):
        schema = route.body or {"type": "object"}
        operation["requestBody"] = {
            "required": "required" in schema,
            "content": {"application/json": {"schema": schema}},
        }
    return operation
