import asyncio
from typing import Any

import pytest
from orbit_rhapsody.endings import Endings
from orbit_rhapsody.task import Task, Work

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [(None, "DONE", 0), (SystemExit(3), "FAILED", 3), (SystemExit(-9), "FAILED", -9)],
    ids=["0", "3", "signal"],
)
async def test_an_executable_has_an_exit_code_though_its_backend_tells_of_none(
    error: SystemExit | None, state: str, code: int
) -> None:
    told: list[dict[str, Any]] = []
    work = Work("a", "dragon_v3", "executable", fields={"executable": "x"})
    task = Task(1, "lab", work, lambda _, fields: told.append(fields))
    task.native = {"uid": "orbit.1", "exception": error}
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    if error is None:
        future.set_result(task.native)
    else:
        future.set_exception(error)
    Endings().note(task, future)
    assert (task.state, told[0]["exit_code"]) == (state, code)
    words = {0: None, 3: "it ended with exit code 3", -9: "it was ended by signal 9"}
    assert told[0].get("error") == words[code]
