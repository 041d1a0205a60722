"""Describe the whole HTTP surface in OpenAPI 3.1: the bridge's routes and every plugin's."""

import re
from collections.abc import Iterable, Mapping, Set
from importlib.metadata import version
from typing import Any

import attrs

from ._description import schema_of
from .models import HostDescription, RouteDescription

_NO_KEY = re.compile(r"[^A-Za-z0-9.-]+")
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


_ANYTHING: dict[str, Any] = {}
"""The body of a plugin's route that does not say what it takes."""


def document(
    bridge: Iterable[RouteDescription],
    endpoints: Mapping[str, HostDescription],
    open_paths: Set[str],
) -> dict[str, Any]:
    """Return the document for the bridge's routes and those of the endpoints' plugins.

    ``open_paths`` need no token.
    """
    paths: dict[str, Any] = {}
    for route in bridge:
        _add(paths, "", route, "bridge")
    for path in open_paths & paths.keys():
        for operation in paths[path].values():
            operation["security"] = []
    for endpoint, description in endpoints.items():
        _add(paths, f"/{endpoint}", _PLUGINS, endpoint)
        for instance, plugin in description.plugins.items():
            place = f"{endpoint}/{instance}"
            found: dict[str, Any] = {}
            for route in plugin.routes:
                _add(found, f"/{place}", attrs.evolve(route, body=route.body or _ANYTHING), place)
            _link(found)
            paths.update(found)
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
    if method in ("POST", "PUT", "PATCH") and route.body is not None:
        operation["requestBody"] = {
            "required": "required" in route.body,
            "content": {route.media_type: {"schema": route.body}},
        }
    return operation


def _link(paths: dict[str, Any]) -> None:
    """Say of every answer to a POST which operations it makes possible: it has what they name."""
    for path, item in paths.items():
        answer = item.get("post", _NO_POST)["responses"]["200"]
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        given = {name: f"$response.body#/{name}" for name in schema.get("properties", ())}
        known = {name: f"$request.path.{name}" for name in _PARAMETER.findall(path)} | given
        links = {
            _NO_KEY.sub("_", f"{method} {target}"): {
                "operationRef": f"#/paths/{target.replace('/', '~1')}/{method}",
                "parameters": {name: known[name] for name in names},
            }
            for target, operations in paths.items()
            if given.keys() & (names := _PARAMETER.findall(target)) and known.keys() >= set(names)
            for method in operations
        }
        if links:
            answer["links"] = links


_NO_POST: dict[str, Any] = {"responses": {"200": {}}}
