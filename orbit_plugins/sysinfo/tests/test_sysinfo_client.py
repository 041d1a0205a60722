import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_sysinfo import SysInfoClient

from orbit_core.errors import Unavailable

pytestmark = pytest.mark.anyio

SAMPLES = [{"cpu": {"percent": 1.5}}, {"cpu": {"percent": 2.5}, "system": {"user": "zoë\n"}}]
WIRE = b"".join(
    [
        b": keep-alive\n\n",
        *(b"data: " + json.dumps(sample).encode() + b"\n\n" for sample in SAMPLES),
    ]
)


def answering(*parts: bytes) -> httpx.MockTransport:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return httpx.MockTransport(lambda request: httpx.Response(200, content=body()))


async def read(transport: httpx.AsyncBaseTransport) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as http:
        return [sample async for sample in SysInfoClient(http, "/node7/sysinfo").stream_metrics()]


@given(cuts=st.sets(st.integers(0, len(WIRE))))
async def test_a_stream_may_be_cut_anywhere(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    parts = [WIRE[start:end] for start, end in pairwise(edges)]
    assert await read(answering(*parts)) == SAMPLES


async def test_leaving_a_stream_early_closes_it() -> None:
    transport = answering(WIRE)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as http:
        stream = SysInfoClient(http, "/node7/sysinfo").stream_metrics()
        async with aclosing(cast(Any, stream)) as samples:
            assert await anext(samples) == SAMPLES[0]


async def test_a_refused_stream_raises_the_typed_error() -> None:
    document = {"error": True, "status_code": 503, "detail": "busy", "code": "unavailable"}
    refusing = httpx.MockTransport(lambda request: httpx.Response(503, json=document))
    with pytest.raises(Unavailable, match="busy"):
        await read(refusing)
