from contextlib import asynccontextmanager

import anyio
import pytest

from orbit_core import _inquiry
from orbit_core._codec import to_data
from orbit_core._frames import Kind, pack_value
from orbit_core._hello import Hello
from orbit_core._link import Link
from orbit_core.models import PluginInfo
from orbit_core.testing import ADMIN
from tests.asking import opened
from tests.joining import endpoint_token, handshake
from tests.waiting import until

pytestmark = pytest.mark.anyio

DOCUMENT = b'{"plugins": {"mute": {"type": "mute", "namespace": "", "ui_config": {"icon": %s}}}}'
DEEP = b"[" * 500 + b"]" * 500


@pytest.fixture
async def admin(deployment):
    async with opened(deployment, await deployment.token(ADMIN)) as client:
        yield client


@asynccontextmanager
async def joined(deployment, app):
    """Join as the endpoint ``other``, which has the plugin ``mute`` and answers with ``app``."""
    async with anyio.create_task_group() as group:
        link = Link(app, group, lambda kind, payload: None, first_id=1)
        plugin = PluginInfo("mute", "/other/mute", "1")
        link.send(Kind.HELLO, 0, pack_value(to_data(Hello("login", "0.1.0", {"mute": plugin}))))
        async with handshake(deployment, await endpoint_token(deployment)) as socket:
            group.start_soon(link.run, socket, 0)
            await until(lambda: "other" in deployment.bridge.registry.topology())
            yield
            group.cancel_scope.cancel()


class Answers:
    """Answer every request with some parts of a body, and count the requests."""

    def __init__(self, *parts, status=200, stalls=False):
        self.parts, self.status, self.stalls = parts, status, stalls
        self.asked = self.ended = 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            for part in self.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if self.stalls:
                await anyio.sleep_forever()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.ended += 1


async def listed(client):
    """Return how the plugins of both endpoints are listed."""
    with anyio.fail_after(10):
        document = (await client.post("/endpoint/list")).json()["data"]["endpoints"]
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/node/probe/echo" in paths
    assert "ui_config" in document["node"]["plugins"]["probe"]
    return document["other"]["plugins"]["mute"].get("ui_config")


async def test_what_an_endpoint_says_of_its_plugins_is_listed_and_asked_once(deployment, admin):
    app = Answers((DOCUMENT % b'"leaf"')[:20], (DOCUMENT % b'"leaf"')[20:])
    async with joined(deployment, app):
        assert await listed(admin) == {"icon": "leaf"}
    assert app.asked == 1


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        pytest.param(Answers(b"no ", b"description"), "Expecting value", id="no JSON"),
        pytest.param(Answers(b"[]"), "expected an object", id="no description"),
        pytest.param(Answers(DOCUMENT % b"NaN"), "NaN is no JSON value", id="NaN"),
        pytest.param(Answers(DOCUMENT % DEEP), "nested too deeply", id="nested"),
        pytest.param(Answers(b"{}", status=503), "it answers 503", id="refusal"),
        pytest.param(Answers(b" " * 2_000_000, b" " * 1_000_000), "more than", id="too large"),
        pytest.param(Answers(b"{", stalls=True), "longer than 0.2 s", id="stalls"),
    ],
)
async def test_an_endpoint_that_does_not_describe_its_plugins_harms_no_others(
    deployment, admin, monkeypatch, caplog, app, reason
):
    monkeypatch.setattr(_inquiry, "DESCRIBE_TIMEOUT", 0.2)
    monkeypatch.setattr(_inquiry, "DESCRIPTION_LIMIT", 2_500_000)
    async with joined(deployment, app):
        assert await listed(admin) is None
        await until(lambda: app.ended)
    assert app.asked == 1
    assert "endpoint other does not describe its plugins" in caplog.text
    assert reason in caplog.text


async def test_an_endpoint_is_asked_again_after_a_while(deployment, admin, monkeypatch):
    monkeypatch.setattr(_inquiry, "ASK_AGAIN", 0.0)
    app = Answers(b"{}", status=503)
    async with joined(deployment, app):
        assert await listed(admin) is None
        app.parts, app.status = [DOCUMENT % b"1"], 200
        assert await listed(admin) == {"icon": 1}


async def test_one_inquiry_answers_all_who_wait(deployment, admin):
    app = Answers(DOCUMENT % b"1")
    async with joined(deployment, app), anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(listed, admin)
    assert app.asked == 1
