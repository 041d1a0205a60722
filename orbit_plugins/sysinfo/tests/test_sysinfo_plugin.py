import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from orbit_sysinfo import SysInfoClient

from orbit_core.models import HostRole
from orbit_core.testing import ALICE, BOB, PluginUnderTest, open_plugin

pytestmark = pytest.mark.anyio

TARGET = "orbit_sysinfo.plugin:SysInfoPlugin"
GROUPS = {
    "system": {"hostname", "user", "uptime", "kernel", "arch"},
    "cpu": {
        *("model", "vendor", "cores_physical", "cores_logical", "percent", "load_avg"),
        "freq_mhz",
    },
    "memory": {"total", "available", "percent", "used"},
}


async def test_homedir_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        assert await SysInfoClient(http, "/sysinfo").homedir() == "/home/ada"


async def test_host_role_names_every_key_even_outside_a_job(tmp_path: Path) -> None:
    async with (
        open_plugin(TARGET, tmp_path, instance="sysinfo", role=HostRole.LOGIN) as served,
        served.http() as http,
    ):
        found = await SysInfoClient(http, "/sysinfo").host_role()
    assert found.pop("python_version").startswith("3.")
    assert found == {
        "role": "login",
        "scheduler": "none",
        "psij_executor": "local",
        "job_id": None,
    }


async def test_metrics_carry_every_documented_key(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        client = SysInfoClient(http, "/sysinfo")
        await client.register_session()
        found = await client.get_metrics()
    assert set(found) == {"system", "cpu", "memory", "disks", "network", "gpus"}
    assert {key: set(found[key]) for key in GROUPS} == GROUPS
    assert found["system"]["uptime"] > 0
    assert len(found["cpu"]["load_avg"]) == 3


async def test_metrics_carry_the_gpus_of_the_tool_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, NVIDIA A30, 535.104.05, GPU-1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("NVIDIA_SMI_PATH", str(tool))
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        client = SysInfoClient(http, "/sysinfo")
        await client.register_session()
        found = (await client.get_metrics())["gpus"]
    assert {"id": "nvidia0", "name": "NVIDIA A30"}.items() <= found[0].items()


async def test_get_metrics_needs_a_session(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        with pytest.raises(RuntimeError, match="register_session"):
            await SysInfoClient(http, "/sysinfo").get_metrics()


async def test_somebody_elses_session_is_refused(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served:
        async with served.http(ALICE) as http:
            sid = await SysInfoClient(http, "/sysinfo").register_session()
        async with served.http(BOB) as http:
            assert (await http.get(f"/sysinfo/metrics/{sid}")).status_code == 403


async def test_session_settings_are_refused(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        reply = await http.post("/sysinfo/register_session", json={"colour": "red"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_body")
    assert "colour" in reply.json()["detail"]


@pytest.mark.parametrize("name", ["provider", "self"])
async def test_no_setting_reaches_what_the_sessions_share(tmp_path: Path, name: str) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        reply = await http.post("/sysinfo/register_session", json={name: 1})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_body")


async def test_no_session_takes_the_place_of_the_stream(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        reply = await http.post("/sysinfo/register_session", json={"sid": "stream"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_name")


async def test_all_sessions_share_one_provider(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        samples = []
        for _ in range(2):
            client = SysInfoClient(http, "/sysinfo")
            await client.register_session()
            samples.append(await client.get_metrics())
    assert samples[0]["system"]["hostname"] == samples[1]["system"]["hostname"]


async def test_ui_config_describes_the_metrics_page(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served, served.http() as http:
        found = (await http.get("/sysinfo/ui_config")).json()
    assert found["version"] == "0.1.0"
    assert (found["ui"]["title"], found["ui"]["icon"]) == ("System Info", "monitor")
    assert found["ui"]["refresh_button"] is True
    monitor = found["ui"]["monitors"][0]
    assert (monitor["id"], monitor["type"]) == ("metrics", "metrics")
    assert (monitor["css_class"], monitor["auto_load"]) == ("sysinfo-content", "metrics/{sid}")


async def read_stream(served: PluginUnderTest, samples: int) -> tuple[dict[str, Any], list[bytes]]:
    """Ask the application itself, and leave after so many samples, as a client that hangs up."""
    start: dict[str, Any] = {}
    bodies: list[bytes] = []
    left = anyio.Event()

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message.get("body"):
            bodies.append(message["body"])
            if len(bodies) == samples:
                left.set()

    path = "/sysinfo/metrics/stream"
    scope: dict[str, Any] = {
        **{"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""},
        **{"root_path": "", "orbit.principal": ALICE, "asgi": {"spec_version": "2.3"}},
    }
    with anyio.fail_after(20):
        await served._site(scope, receive, send)
    return start, bodies


async def test_stream_sends_a_sample_a_second_until_the_client_leaves(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="sysinfo") as served:
        start, bodies = await read_stream(served, 2)
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
    assert len(bodies) == 2
    for body in bodies:
        assert body.startswith(b"data: ")
        assert body.endswith(b"\n\n")
    uptimes = [json.loads(body.removeprefix(b"data: "))["system"]["uptime"] for body in bodies]
    assert uptimes[0] < uptimes[1]
