import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orbit_core._description import describe_route, schema_of
from orbit_core.models import RouteDescription
from orbit_core.values import to_data
from orbit_core.web import Reply, takes
from tests.test_codec import MODELS, values_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Leaf:
    colour: Colour
    weight: float | None = None


@attrs.frozen
class Tree:
    leaves: list[Leaf]
    above: "Tree | None" = None


LEAF = {
    "title": "Leaf",
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "weight": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["colour"],
}


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (bool, {"type": "boolean"}),
        (Optional[str], {"anyOf": [{"type": "string"}, {"type": "null"}]}),  # noqa: UP045
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Path, {"type": "string"}),
        (list, {"type": "array", "items": {}}),
        (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
        (dict, {"type": "object", "additionalProperties": {}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Any, {}),
        (object, {}),
        (Leaf, LEAF),
    ],
    ids=str,
)
def test_a_class_has_its_schema(kind, schema):
    assert schema_of(kind) == schema


def test_a_class_within_itself_is_not_described_for_ever():
    assert schema_of(Tree) == {
        "title": "Tree",
        "type": "object",
        "properties": {
            "leaves": {"type": "array", "items": LEAF},
            "above": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        },
        "required": ["leaves"],
    }


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_what_travels_fits_its_schema(kind, data):
    validator = Draft202012Validator(schema_of(kind))
    validator.check_schema(validator.schema)

    validator.validate(json.loads(json.dumps(to_data(data.draw(values_of(kind))))))


def answering(kind: Any) -> Route:
    async def handler(request: Request): ...

    handler.__annotations__["return"] = kind
    return Route("/x", handler)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (Leaf, LEAF),
        (dict[str, Any], {"type": "object", "additionalProperties": {}}),
        (Reply, {}),
        (JSONResponse, {}),
        (Response, None),
        (StreamingResponse, None),
        ("NobodyKnows", None),
        ("Any.nothing", None),
        ("no annotation", None),
    ],
    ids=str,
)
def test_an_answer_is_described_by_the_annotation(kind, answer):
    assert describe_route(answering(kind)).answer == answer


def test_a_handler_that_says_nothing_is_described_by_its_route_alone():
    async def handler(request): ...

    route = Route("/x", handler, methods=["PUT", "DELETE"])

    assert describe_route(route, "/p") == RouteDescription("/p/x", ["DELETE", "PUT"])


def test_a_handler_says_what_it_takes():
    @takes(Leaf)
    async def handler(request: Request) -> dict[str, int]:
        """Weigh a leaf.

        On a balance.
        """
        return {}

    assert describe_route(Route("/weigh", handler, methods=["POST"])) == RouteDescription(
        "/weigh", ["POST"], "Weigh a leaf.", LEAF, schema_of(dict[str, int])
    )


def test_a_handler_says_what_its_body_is_written_in():
    @takes(bytes, "text/csv")
    async def handler(request: Request) -> Response: ...

    found = describe_route(Route("/rows", handler, methods=["PUT"]))

    assert (found.body, found.media_type) == ({}, "text/csv")


class Application:
    async def __call__(self, scope, receive, send): ...


def test_an_application_is_described_by_its_route_alone():
    assert describe_route(Route("/x", Application())).answer is None
