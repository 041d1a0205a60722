"""Turn the error document that a bridge or an endpoint answers back into the error it speaks of."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from .errors import OrbitError


class Response(Protocol):
    """Be an answer that has been read, such as httpx's."""

    @property
    def status_code(self) -> int:
        """Return its HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Return its headers."""
        ...

    @property
    def content(self) -> bytes:
        """Return its body."""
        ...


def error_of(response: Response, context: str = "") -> OrbitError:
    """Return the error that a reply of status 400 or more speaks of."""
    prefix = f"HTTP {response.status_code} {context}" if context else ""
    wait = response.headers.get("Retry-After", "")
    return document_error(response.status_code, response.content, prefix, wait)


def document_error(status: int, body: bytes, prefix: str = "", wait: str = "") -> OrbitError:
    """Return the error that an error document, or any other body of that status, speaks of.

    ``wait`` is the header ``Retry-After``.
    """
    document = _document(body)
    detail = str(document.get("detail") or f"HTTP {status}")
    text = f"{prefix}: {detail}" if prefix else detail
    error = OrbitError.from_reply(status, str(document.get("code", "")), text)
    error.retry_after = float(wait) if wait.isdecimal() else None
    return error


def is_error_document(body: bytes) -> bool:
    """Tell whether a body is an error document, which only a bridge or an endpoint writes."""
    document = _document(body)
    return document.get("error") is True and isinstance(document.get("code"), str)


def _document(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is, an empty one for any other body."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
