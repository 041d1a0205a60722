import pytest

from orbit_core import errors
from orbit_core.errors import (
    BadRequest,
    Conflict,
    InvalidBody,
    NotFound,
    OrbitError,
    SessionExpired,
    Unavailable,
)

ALL = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, OrbitError)
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_from_its_code_and_status(kind):
    error = OrbitError.from_reply(kind.status, kind.code, "it is so")

    assert error.code == kind.code
    assert error.status_code == kind.status
    assert (error.detail, str(error), error.retry_after) == ("it is so", "it is so", None)


def test_every_error_class_has_a_code_of_its_own_or_is_the_root():
    codes = [kind.code for kind in ALL if kind is not OrbitError]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(404, NotFound, id="known status"),
        pytest.param(418, BadRequest, id="other client error"),
        pytest.param(502, OrbitError, id="other server error"),
        pytest.param(503, Unavailable, id="unavailable"),
    ],
)
def test_an_unknown_code_becomes_the_class_of_its_status(status, expected):
    error = OrbitError.from_reply(status, "never_heard_of", "x")

    assert type(error) is expected
    assert error.status_code == status


def test_status_zero_means_the_status_of_the_class():
    assert OrbitError.from_reply(0, "session_expired", "x").status_code == 410


def test_a_status_that_differs_from_the_class_is_kept():
    assert OrbitError.from_reply(499, "invalid_body", "x").status_code == 499


def test_a_subclass_without_a_code_keeps_its_parents_place():
    class Special(SessionExpired):
        """Have no code."""

    assert Special("x").code == "session_expired"
    assert type(OrbitError.from_reply(410, "session_expired", "x")) is SessionExpired


def test_a_plugins_own_error_is_found_by_its_code():
    class Jammed(Conflict):
        """Have a code and a constructor that takes more than a sentence."""

        code = "test_jammed"

        def __init__(self, where: str, how: str) -> None:
            super().__init__(f"{where} {how}")

    error = OrbitError.from_reply(409, "test_jammed", "the door is stuck")

    assert isinstance(error, Jammed)
    assert error.detail == "the door is stuck"


def test_the_first_class_keeps_a_code_that_two_claim():
    class Impostor(BadRequest):
        """Claim a code that is taken."""

        code = "invalid_body"

    assert type(OrbitError.from_reply(400, "invalid_body", "x")) is InvalidBody
    assert Impostor("x").code == "invalid_body"


def test_an_error_carries_when_to_try_again():
    assert Unavailable("later", retry_after=2.5).retry_after == 2.5


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("refused"), "refused"), (TimeoutError(), "TimeoutError")],
    ids=["words", "none"],
)
def test_a_reason_is_never_empty(error, reason):
    assert errors.reason_of(error) == reason
