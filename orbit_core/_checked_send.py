"""Hold a handler's answer to its form: what goes on to a link must not be the link's undoing."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Message, Send


class CheckedSend:
    """Pass on what a handler sends; what is no answer raises ValueError in the handler.

    ``started`` tells whether an answer has begun.
    """

    __slots__ = ("_is_over", "_send", "started")

    def __init__(self, send: Send) -> None:
        """Pass on to ``send``."""
        self._send = send
        self._is_over = False
        self.started = False

    async def __call__(self, message: Message) -> None:
        """Pass one ASGI message on."""
        match message["type"]:
            case "http.response.start" if not self.started:
                _check_head(message)
                self.started = True
            case "http.response.body" if self.started and not self._is_over:
                body = message.get("body", b"")
                if type(body) is not bytes:
                    message = {**message, "body": _bytes(body)}
                self._is_over = not message.get("more_body", False)
            case kind:
                raise ValueError(f"{kind!r} has no place here in an answer")
        await self._send(message)


def is_final(status: object) -> bool:
    """Tell whether HTTP has such a status for an answer (RFC 9110, section 15)."""
    return isinstance(status, int) and 200 <= status <= 599


def _check_head(message: Mapping[str, Any]) -> None:
    if not is_final(message["status"]):
        raise ValueError(f"{message['status']!r} is no status: an answer has one of 200 to 599")
    for name, value in message.get("headers", ()):
        if type(name) is not bytes or type(value) is not bytes:
            raise ValueError(f"the header {name!r}: {value!r} is no pair of byte strings")


def _bytes(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ValueError(f"a body is bytes, not a {type(body).__name__}")
