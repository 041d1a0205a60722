import httpx
import pytest

from orbit_core.error_documents import document_error, error_of
from orbit_core.errors import BadRequest, OrbitError, SessionConflict


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (409, b'{"code": "session_conflict", "detail": "no"}', SessionConflict, "no"),
        (400, b"", BadRequest, "HTTP 400"),
        (502, b"<html>", OrbitError, "HTTP 502"),
        (502, b"\xff", OrbitError, "HTTP 502"),
        (502, b"[1]", OrbitError, "HTTP 502"),
        (502, b"[" * 100_000, OrbitError, "HTTP 502"),
        (502, b'{"detail": null, "code": 7}', OrbitError, "HTTP 502"),
    ],
    ids=["document", "empty", "page", "bytes", "list", "deep", "odd fields"],
)
def test_any_body_of_an_error_becomes_an_error(status, body, kind, detail):
    error = document_error(status, body)

    assert (type(error), error.status_code, error.detail) == (kind, status, detail)


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("soon", None), ("-1", None)])
def test_the_time_to_wait_is_read_from_the_header(header, seconds):
    error = error_of(httpx.Response(503, headers={"Retry-After": header}))

    assert (error.retry_after, error.detail) == (seconds, "HTTP 503")
