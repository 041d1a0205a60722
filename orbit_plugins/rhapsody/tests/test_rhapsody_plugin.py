import base64
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import msgpack
import pytest

from orbit_core.models import HostRole
from orbit_core.testing import BOB, open_plugin

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
Reader = Any
SQRT = {"function": "math:sqrt", "args": [4.0]}
TARGET = "orbit_rhapsody.plugin:RhapsodyPlugin"


def double(value: int) -> int:
    return 2 * value


@pytest.mark.parametrize(
    ("role", "state"),
    [
        ("login", "disabled"),
        ("bridge", "disabled"),
        ("compute", "served"),
        ("standalone", "served"),
    ],
)
async def test_it_serves_where_work_may_run(tmp_path: Path, role: str, state: str) -> None:
    async with open_plugin(TARGET, tmp_path, instance="rhapsody", role=HostRole(role)) as served:
        assert served.status.state == state


async def test_a_session_becomes_ready_and_says_so(open_user: Reader, tmp_path: Path) -> None:
    async with open_user(tmp_path, backends=["concurrent", "noop"]) as user:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        assert await user.until_ready() == {
            "sid": "lab",
            "status": "ready",
            "backends": ["concurrent", "noop"],
            "python": version,
            "error": None,
        }
        assert user.heard("session_status") == [{"sid": "lab", "status": "ready"}]


async def test_a_session_that_names_no_backend_gets_the_one_there_is(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path) as user:
        assert (await user.until_ready())["backends"] == ["concurrent"]
        listed = (await user.get("backends")).json()["backends"]
        assert {"name": "dask"} in listed


async def test_nothing_is_taken_before_the_session_is_ready(
    open_user: Reader, tmp_path: Path, fault: Fault
) -> None:
    async with open_user(tmp_path, backends=["dask"], ready=False) as user:
        reply = await user.try_submit({"uid": "a", **SQRT})
        assert fault(reply) == (409, "session_initializing")


async def test_a_backend_that_fails_to_start_is_told(
    open_user: Reader, tmp_path: Path, fault: Fault
) -> None:
    async with open_user(tmp_path, backends=["dragon"], ready=False) as user:
        status = await user.until_ready()
        assert status["status"] == "failed"
        assert status["error"].startswith("backend dragon_v3 does not start: ")
        assert user.heard("session_status") == [
            {"sid": "lab", "status": "failed", "error": status["error"]}
        ]
        assert fault(await user.try_submit({"uid": "a", **SQRT})) == (500, "backend_failed")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backends": "concurrent"}, "backends must be a list"),
        ({"backends": []}, "backends must be a list"),
        ({"backends": ["slurm"]}, "unknown backends: slurm; there are concurrent"),
        ({"notify_batch_window": -1}, "notify_batch_window must be a number of at least 0"),
        ({"notify_batch_size": 0}, "notify_batch_size must be a number of at least 1"),
        ({"allow_pickled_tasks": "no"}, "allow_pickled_tasks must be true or false"),
        ({"colour": "red"}, "sessions do not take that"),
    ],
)
async def test_a_session_with_bad_settings_is_refused(
    user: Reader, fault: Fault, settings: dict[str, Any], words: str
) -> None:
    reply = await user.post("register_session", settings)
    assert fault(reply) == (400, "invalid_body")
    assert words in reply.json()["detail"]


async def test_a_template_gives_many_tasks(user: Reader) -> None:
    body = {"template": SQRT, "uids": ["a", "b"]}
    reply = await user.post(f"submit/{user.sid}", body)
    assert reply.json() == [{"uid": "a", "state": "PENDING"}, {"uid": "b", "state": "PENDING"}]
    assert [task["return_value"] for task in await user.wait("a", "b")] == [2.0, 2.0]


async def test_msgpack_is_taken_with_a_template_over_tasks(user: Reader) -> None:
    body = {
        "template": {"function": cloudpickle.dumps(double), "_pickled_fields": ["function"]},
        "tasks": [{"uid": "a", "args": [1]}, {"uid": "b", "args": [2]}],
    }
    reply = await user.pack_submit(body, Prefer="return=minimal")
    assert (reply.status_code, reply.json()) == (200, {"accepted": 2})
    assert [task["return_value"] for task in await user.wait("a", "b")] == [2, 4]


BAD_TASKS: list[tuple[dict[str, Any], str]] = [
    ({}, "tasks must be a list of at least one"),
    ({"tasks": "a"}, "tasks must be a list of at least one"),
    ({"tasks": ["a"]}, "each task must be an object"),
    ({"uids": ["a"]}, "uids go with a template"),
    ({"template": SQRT, "uids": "a"}, "uids must be a list"),
    ({"template": [1], "tasks": [{"uid": "a"}]}, "template must be an object"),
    ({"template": {"args": [1]}, "uids": ["a"]}, "task a: one of executable, function and prompt"),
    ({"tasks": [SQRT]}, "task 0: uid must be"),
    ({"tasks": [{"uid": "../a", **SQRT}]}, "task 0: uid must be"),
    ({"tasks": [{"uid": "a", **SQRT}, {"uid": "a", **SQRT}]}, "task 1: uid a is used twice"),
    ({"tasks": [{"uid": "a", "colour": 1, **SQRT}]}, "task a: unknown: colour"),
    ({"tasks": [{"uid": "a", "backend": "dask", **SQRT}]}, "backend must be one of concurrent"),
    ({"tasks": [{"uid": "a", "prompt": "hello"}]}, "backend concurrent runs no AI tasks"),
    ({"tasks": [{"uid": "a", "function": 3}]}, "function must be package.module:name"),
    ({"tasks": [{"uid": "a", **SQRT, "args": "4"}]}, "args must be a list"),
    ({"tasks": [{"uid": "a", **SQRT, "kwargs": [4]}]}, "kwargs must be an object"),
    ({"tasks": [{"uid": "a", **SQRT, "calls": 4}]}, "calls must be a list"),
    ({"tasks": [{"uid": "a", **SQRT, "_pickled_fields": ["uid"]}]}, "_pickled_fields may name"),
    ({"tasks": [{"uid": "a", **SQRT, "_pickled_fields": ["args"]}]}, "expected bytes, or text"),
    ({"tasks": [{"uid": "a", "executable": ""}]}, "executable must be text"),
    ({"tasks": [{"uid": "a", "executable": "x", "arguments": [1]}]}, "arguments must be a list"),
    ({"tasks": [{"uid": "a", "executable": "x", "arguments": ["\0"]}]}, "without NUL"),
    ({"tasks": [{"uid": "a", "executable": "x", "arguments": ["\ud800"]}]}, "arguments must be"),
]
BAD_OPTIONS: list[tuple[Any, str]] = [
    (7, "task_backend_specific_kwargs must be an object"),
    ({"env": {"a b": "c"}}, "env must map names of variables to texts"),
    ({"cwd": 7}, "cwd must be text"),
    ({"timeout": 0}, "timeout must be a positive number"),
    ({"timeout": "1"}, "timeout must be a positive number"),
]


@pytest.mark.parametrize(("body", "words"), BAD_TASKS, ids=[words for _, words in BAD_TASKS])
async def test_bad_tasks_are_refused(
    user: Reader, fault: Fault, body: dict[str, Any], words: str
) -> None:
    reply = await user.post(f"submit/{user.sid}", body)
    assert fault(reply) == (400, "invalid_body")
    assert words in reply.json()["detail"]
    assert (await user.get(f"list_tasks/{user.sid}")).json() == {"tasks": []}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
async def test_bad_options_are_refused(
    user: Reader, fault: Fault, options: Any, words: str
) -> None:
    task = {"uid": "a", "executable": "x", "task_backend_specific_kwargs": options}
    reply = await user.try_submit(task)
    assert fault(reply) == (400, "invalid_body")
    assert words in reply.json()["detail"]


async def test_faults_beyond_the_first_ones_are_counted(user: Reader) -> None:
    reply = await user.post(f"submit/{user.sid}", {"template": SQRT, "uids": [""] * 50})
    assert reply.json()["detail"].endswith("; and 30 more")


@pytest.mark.parametrize("content", [b"\xc1", msgpack.packb([1])], ids=["garbage", "a list"])
async def test_msgpack_that_is_no_object_is_refused(
    user: Reader, fault: Fault, content: bytes
) -> None:
    reply = await user.http.post(
        f"/rhapsody/submit/{user.sid}",
        content=content,
        headers={"Content-Type": "application/msgpack"},
    )
    assert fault(reply) == (400, "invalid_body")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("nothing.there:f", "cannot be imported at the endpoint: ModuleNotFoundError"),
        ("math:nothing", "cannot be imported at the endpoint: AttributeError"),
        ("math", "is no function: write it as package.module:name"),
        ("math:pi", "is a float, which cannot be called"),
    ],
)
async def test_a_function_that_is_not_there_is_refused(
    user: Reader, fault: Fault, function: str, words: str
) -> None:
    reply = await user.try_submit({"uid": "a", "function": function})
    assert fault(reply) == (400, "unknown_function")
    assert words in reply.json()["detail"]


async def test_a_function_that_does_not_unpickle_is_refused(user: Reader, fault: Fault) -> None:
    task = {"uid": "a", "function": b"no pickle", "_pickled_fields": ["function"]}
    reply = await user.pack_submit({"tasks": [task]})
    assert fault(reply) == (400, "unknown_function")
    assert "cannot be unpickled at the endpoint" in reply.json()["detail"]


async def test_arguments_that_do_not_unpickle_fail_their_task(user: Reader) -> None:
    task = {"uid": "a", "function": "math:sqrt", "args": b"no", "_pickled_fields": ["args"]}
    await user.pack_submit({"tasks": [task]})
    (found,) = await user.wait("a")
    assert (found["state"], found["exception"][:15]) == ("FAILED", "UnpicklingError")


def packed(uid: str = "a") -> dict[str, Any]:
    return {
        "uid": uid,
        "function": cloudpickle.dumps(double),
        "args": [3],
        "_pickled_fields": ["function"],
    }


@pytest.mark.parametrize(
    ("settings", "session"),
    [
        ({"allow_pickled_tasks": False}, {}),
        ({"pickles_from": ["bob"]}, {}),
        ({"pickled_functions": ["0" * 64]}, {}),
        ({}, {"allow_pickled_tasks": False}),
    ],
    ids=["forbidden here", "of others only", "not listed", "by the session"],
)
async def test_pickles_are_refused_where_they_are_not_allowed(
    open_user: Reader,
    tmp_path: Path,
    fault: Fault,
    settings: dict[str, Any],
    session: dict[str, Any],
) -> None:
    async with open_user(tmp_path, settings=settings, **session) as user:
        assert fault(await user.pack_submit({"tasks": [packed()]})) == (403, "pickles_refused")
        assert (await user.run(**SQRT))["return_value"] == 2.0


async def test_listed_functions_run_and_no_other_pickle_is_opened(
    open_user: Reader, tmp_path: Path, fault: Fault
) -> None:
    digest = hashlib.sha256(cloudpickle.dumps(double)).hexdigest()
    settings = {"pickled_functions": [digest.upper()], "pickles_from": ["alice"]}
    async with open_user(tmp_path, settings=settings) as user:
        assert (await user.pack_submit({"tasks": [packed("a"), packed("b")]})).status_code == 200
        assert [task["return_value"] for task in await user.wait("a", "b")] == [6, 6]
        args = {"args": cloudpickle.dumps((3,)), "_pickled_fields": ["function", "args"]}
        reply = await user.pack_submit({"tasks": [{**packed("c"), **args}]})
        assert fault(reply) == (403, "pickles_refused")


async def test_pickles_from_another_python_are_refused(user: Reader, fault: Fault) -> None:
    reply = await user.pack_submit({"tasks": [packed()], "python": "3.4"})
    assert fault(reply) == (409, "python_mismatch")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert reply.json()["detail"] == (
        f"functions cannot be sent from Python 3.4 to an endpoint with Python {version}: use the "
        "same minor version, or name functions by their import path"
    )


async def test_a_uid_serves_once(user: Reader, fault: Fault) -> None:
    await user.submit({"uid": "a", **SQRT})
    for tasks in ([{"uid": "a", **SQRT}], [{"uid": "b", **SQRT}, {"uid": "a", **SQRT}]):
        reply = await user.try_submit(*tasks, Idempotency_Key="new")
        assert fault(reply) == (409, "duplicate_task")
        assert "has had a task a:" in reply.json()["detail"]
    assert len((await user.get(f"list_tasks/{user.sid}")).json()["tasks"]) == 1


async def test_a_repeated_request_has_its_tasks_run_once(user: Reader, tmp_path: Path) -> None:
    task = {"uid": "a", "executable": "/bin/sh", "arguments": ["-c", f"echo x >> {tmp_path}/n"]}
    first = await user.try_submit(task, Idempotency_Key="k")
    await user.wait("a")
    again = await user.try_submit(task, Idempotency_Key="k")
    assert (first.json()[0]["state"], again.json()) == ("PENDING", [{"uid": "a", "state": "DONE"}])
    assert (tmp_path / "n").read_text() == "x\n"


async def test_too_many_tasks_are_refused_with_a_time_to_wait(
    open_user: Reader, tmp_path: Path, fault: Fault
) -> None:
    async with open_user(tmp_path, settings={"pending_limit": 1}) as user:
        reply = await user.try_submit({"uid": "a", **SQRT}, {"uid": "b", **SQRT})
        assert fault(reply) == (413, "body_too_large")
        await user.submit({"uid": "a", "executable": "/bin/sleep", "arguments": ["300"]})
        reply = await user.try_submit({"uid": "b", **SQRT})
        assert fault(reply) == (429, "too_many_tasks")
        assert reply.headers["Retry-After"] == "1"


async def test_a_body_over_the_limit_is_refused(
    open_user: Reader, tmp_path: Path, fault: Fault
) -> None:
    async with open_user(tmp_path, settings={"submit_limit": 1000}) as user:
        reply = await user.pack_submit({"tasks": [{"uid": "a" * 2000, **SQRT}]})
        assert fault(reply) == (413, "body_too_large")


async def test_what_is_asked_for_must_be_known(user: Reader, fault: Fault) -> None:
    for reply in (
        await user.get(f"task/{user.sid}/nobody"),
        await user.post(f"cancel/{user.sid}/nobody"),
        await user.post(f"wait/{user.sid}", {"uids": ["nobody"]}),
    ):
        assert fault(reply) == (404, "unknown_task")
    await user.submit({"uid": "a", **SQRT})
    await user.wait("a")
    found = await user.wait("a", "nobody")
    assert [task["state"] for task in found] == ["DONE", "UNKNOWN"]


@pytest.mark.parametrize("body", [{}, {"uids": [1]}, {"uids": [], "timeout": "1"}])
async def test_a_bad_wait_is_refused(user: Reader, fault: Fault, body: dict[str, Any]) -> None:
    assert fault(await user.post(f"wait/{user.sid}", body)) == (400, "invalid_body")


async def test_tasks_are_listed_oldest_first(user: Reader) -> None:
    await user.submit({"uid": "b", **SQRT}, {"uid": "a", "function": "time:sleep", "args": [1]})
    listed = (await user.get(f"list_tasks/{user.sid}")).json()["tasks"]
    assert [task["uid"] for task in listed] == ["b", "a"]
    assert listed[1]["state"] in ("PENDING", "RUNNING")
    await user.wait("a", "b")
    listed = (await user.get(f"list_tasks/{user.sid}")).json()["tasks"]
    assert listed == [{"uid": "b", "state": "DONE"}, {"uid": "a", "state": "DONE"}]


async def test_statistics_count_states_by_backend(open_user: Reader, tmp_path: Path) -> None:
    async with open_user(tmp_path, backends=["concurrent", "noop"]) as user:
        empty = (await user.get(f"statistics/{user.sid}")).json()
        assert (empty["states"], empty["rate"]) == ({}, 0.0)
        await user.run(**SQRT)
        await user.run(function="math:sqrt", args=[-1])
        await user.run(backend="noop", prompt="hello")
        found = (await user.get(f"statistics/{user.sid}")).json()
    assert found["states"] == {"DONE": 2, "FAILED": 1}
    assert found["backends"]["noop"]["states"] == {"DONE": 1}
    assert found["backends"]["concurrent"]["states"] == {"DONE": 1, "FAILED": 1}
    assert found["rate"] > 0
    assert found["mean_run_seconds"] > 0


async def test_each_end_is_notified_with_its_value(user: Reader) -> None:
    await user.run(**SQRT)
    await user.until(user.done)
    assert [(note["return_value"], note["exit_code"]) for note in user.done()] == [(2.0, 0)]
    uids = {f"n{n}" for n in range(500)}
    await user.submit(*({"uid": uid, **SQRT} for uid in uids))
    await user.until(lambda: uids <= {note["uid"] for note in user.done()})


async def test_a_notification_leaves_out_a_large_value_and_marks_bytes(user: Reader) -> None:
    await user.submit({"uid": "large", "function": "os:urandom", "args": [100_000]})
    await user.submit({"uid": "small", "function": "os:urandom", "args": [3]})
    await user.until(lambda: len(user.done()) == 2)
    told = {note["uid"]: note for note in user.done()}
    assert told["large"]["return_value"] is None
    assert told["large"]["_return_value_encoding"] == "omitted"
    assert len(base64.b64decode(told["small"]["return_value"])) == 3


async def test_notifications_come_in_batches_of_the_size_asked_for(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path, notify_batch_size=10, notify_batch_window=0) as user:
        await user.submit(*({"uid": f"n{n}", **SQRT} for n in range(200)))
        await user.wait(*(f"n{n}" for n in range(200)))
    assert max(len(note["tasks"]) for note in user.heard("task_status_batch")) <= 10


async def test_a_session_may_do_without_notifications(open_user: Reader, tmp_path: Path) -> None:
    async with open_user(tmp_path, notify_tasks=False) as user:
        await user.run(**SQRT)
    assert [note.topic for note in user.notifications] == ["session_status"]


async def test_nobody_else_sees_or_cancels_a_task(
    user: Reader, fault: Fault, tmp_path: Path
) -> None:
    await user.submit({"uid": "a", "executable": "/bin/sleep", "arguments": ["300"]})
    async with user.served.http(BOB) as bob:
        for reply in (
            await bob.get(f"/rhapsody/task/{user.sid}/a"),
            await bob.get(f"/rhapsody/results/{user.sid}"),
            await bob.post(f"/rhapsody/feed/{user.sid}", content=msgpack.packb(["k", b""])),
            await bob.get(f"/rhapsody/list_tasks/{user.sid}"),
            await bob.post(f"/rhapsody/wait/{user.sid}", json={"uids": ["a"]}),
            await bob.post(f"/rhapsody/cancel/{user.sid}/a"),
            await bob.post(f"/rhapsody/cancel_all/{user.sid}"),
        ):
            assert fault(reply) == (403, "forbidden")
        await bob.post("/rhapsody/register_session", json={"sid": "bobs"})
        await bob.get("/rhapsody/session_status/bobs?wait=10")
        reply = await bob.post("/rhapsody/submit/bobs", json={"tasks": [{"uid": "a", **SQRT}]})
        assert reply.status_code == 200
        reply = await bob.post("/rhapsody/wait/bobs", json={"uids": ["a"], "timeout": 20})
        assert reply.json()[0]["return_value"] == 2.0
    assert (await user.task("a"))["state"] == "RUNNING"
    assert {note.owner for note in user.notifications if note.session == "lab"} == {"alice"}
