"""Say what went wrong, in types: one tree, each class with a stable code and an HTTP status.

    OrbitError
    ├── BadRequest 400            InvalidBody · InvalidName
    ├── Unauthorized 401
    ├── Forbidden 403
    ├── NotFound 404              UnknownEndpoint · UnknownRoute · UnknownSession · UnknownToken
    ├── MethodNotAllowed 405
    ├── RequestTimeout 408
    ├── Conflict 409              NameInUse · SessionConflict · RequestInFlight
    ├── Gone 410                  SessionExpired
    ├── BodyTooLarge 413
    ├── Unprocessable 422         IdempotencyMismatch
    ├── TooManyRequests 429
    ├── InternalError 500         NoSessionClass
    ├── Unavailable 503           TooManyCalls · ConnectionLost (NoRoute)
    ├── GatewayTimeout 504        DeadlineExceeded · EndpointLost
    ├── StateUnavailable 507
    ├── ConfigError               a setting that cannot be used (never sent over HTTP)
    └── StateInUse                a second process wants the same state directory

A plugin derives its own errors from these; the client turns a reply's ``code`` back into the class
that was raised, if the distribution that defines it is installed.
"""

from typing import ClassVar


class OrbitError(RuntimeError):
    """Be the root of every error that ORBIT raises on purpose.

    ``detail`` is one sentence for people: what, which, and what to do.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    _by_code: ClassVar[dict[str, type["OrbitError"]]] = {}

    def __init_subclass__(cls) -> None:
        """Make the class findable by its code, for the client."""
        if "code" in cls.__dict__:
            OrbitError._by_code.setdefault(cls.code, cls)

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        """Keep the sentence and, if a later attempt may succeed, the seconds to wait."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.status_code = self.status

    @staticmethod
    def from_reply(status: int, code: str, detail: str) -> "OrbitError":
        """Rebuild the error that a peer speaks of.

        An unknown code becomes the class of its status, or of the nearest; status 0 means the
        status of the class.
        """
        nearest = BadRequest if 400 <= status < 500 else OrbitError
        found = OrbitError._by_code.get(code) or _BY_STATUS.get(status, nearest)
        error = found.__new__(found)
        OrbitError.__init__(error, detail)
        error.status_code = status or found.status
        return error


class BadRequest(OrbitError):
    """Refuse a request that is wrong in itself."""

    status = 400
    code = "bad_request"


class InvalidBody(BadRequest):
    """Refuse a body that is not the JSON, or not the fields, that the route takes."""

    code = "invalid_body"


class InvalidName(BadRequest):
    """Refuse a name that may not become a path segment (see `orbit_core.models.check_name`)."""

    code = "invalid_name"


class Unauthorized(OrbitError):
    """Refuse a caller without a valid token or cookie."""

    status = 401
    code = "unauthorized"


class Forbidden(OrbitError):
    """Refuse a known caller what its role or ownership does not allow."""

    status = 403
    code = "forbidden"


class NotFound(OrbitError):
    """Answer for something that does not exist."""

    status = 404
    code = "not_found"


class UnknownEndpoint(NotFound):
    """Answer for an endpoint that is not connected to the bridge."""

    code = "unknown_endpoint"


class UnknownRoute(NotFound):
    """Answer for a path that nothing serves."""

    code = "unknown_route"


class UnknownSession(NotFound):
    """Answer for a session id that never existed here, or was unregistered."""

    code = "unknown_session"


class UnknownToken(NotFound):
    """Answer for a token id that the bridge does not keep."""

    code = "unknown_token"


class MethodNotAllowed(OrbitError):
    """Refuse a method that the path does not have; the reply carries ``Allow``."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(OrbitError):
    """Give up on a client that stopped sending its body."""

    status = 408
    code = "request_timeout"


class Conflict(OrbitError):
    """Refuse what contradicts the present state."""

    status = 409
    code = "conflict"


class NameInUse(Conflict):
    """Refuse an endpoint name that another live endpoint holds."""

    code = "name_in_use"


class SessionConflict(Conflict):
    """Refuse a session policy that contradicts itself or the session's own."""

    code = "session_conflict"


class RequestInFlight(Conflict):
    """Refuse a repeated ``Idempotency-Key`` whose first request is still running."""

    code = "request_in_flight"


class Gone(OrbitError):
    """Answer for something that existed and is over."""

    status = 410
    code = "gone"


class SessionExpired(Gone):
    """Answer for a session that outlived its lifetime policy."""

    code = "session_expired"


class BodyTooLarge(OrbitError):
    """Refuse a body over the configured limit, before reading it where its length is announced."""

    status = 413
    code = "body_too_large"


class Unprocessable(OrbitError):
    """Refuse a well-formed request that cannot be carried out as it stands."""

    status = 422
    code = "unprocessable"


class IdempotencyMismatch(Unprocessable):
    """Refuse an ``Idempotency-Key`` that was used with another body."""

    code = "idempotency_mismatch"


class TooManyRequests(OrbitError):
    """Slow a caller down; ``retry_after`` says for how long."""

    status = 429
    code = "too_many_requests"


class InternalError(OrbitError):
    """Admit a bug: logged with its traceback, told without any of its text."""

    code = "internal_error"


class NoSessionClass(InternalError):
    """Admit that a plugin offers session routes but has no ``session_class``."""

    code = "no_session_class"


class Unavailable(OrbitError):
    """Refuse for now; the same request may succeed later."""

    status = 503
    code = "unavailable"


class TooManyCalls(Unavailable):
    """Refuse a call because the table of calls in flight is full."""

    code = "too_many_calls"


class ConnectionLost(Unavailable):
    """Report that the bridge cannot be reached, or went away during a call."""

    code = "connection_lost"


class NoRoute(ConnectionLost):
    """Report that a way to the bridge is not open here, and why."""

    code = "no_route"


class GatewayTimeout(OrbitError):
    """Report that an answer did not come in time."""

    status = 504
    code = "gateway_timeout"


class DeadlineExceeded(GatewayTimeout):
    """Report that a call's answer did not begin before its deadline."""

    code = "deadline_exceeded"


class EndpointLost(GatewayTimeout):
    """Report that the endpoint went away, or was restarted, during the call."""

    code = "endpoint_lost"


class StateUnavailable(OrbitError):
    """Refuse work that could not be written to disk (full, read-only, stale)."""

    status = 507
    code = "state_unavailable"


class ConfigError(OrbitError):
    """Refuse a configuration; the text names every fault with its place."""

    code = "config_error"


class StateInUse(OrbitError):
    """Refuse to start on a state directory that a living process holds."""

    code = "state_in_use"


def reason_of(error: BaseException) -> str:
    """Return what an exception says, or its class's name where it says nothing."""
    return str(error) or type(error).__name__


_BY_STATUS: dict[int, type[OrbitError]] = {
    found.status: found
    for found in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, RequestTimeout, Conflict,
        Gone, BodyTooLarge, Unprocessable, TooManyRequests, InternalError, Unavailable,
        GatewayTimeout, StateUnavailable,
    )
}  # fmt: skip
