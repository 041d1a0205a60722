import base64
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

pytestmark = pytest.mark.anyio

Reader = Any


async def test_dask_runs_functions_and_executables_and_ends_them(
    open_user: Reader, tmp_path: Path
) -> None:
    def fail(text: str) -> None:
        raise LookupError(text)

    pickle = "cloudpickle::" + base64.b64encode(cloudpickle.dumps(fail)).decode()
    async with open_user(tmp_path, backends=["dask"], settings={"function_workers": 1}) as user:
        assert (await user.run(function="math:frexp", args=[3.0]))["return_value"] == [0.75, 2]
        found = await user.run(function=pickle, args=["words"], _pickled_fields=["function"])
        assert found["exception"] == "LookupError: words"
        assert "in fail" in found["traceback"]
        uids = await user.submit(
            *({"uid": f"d{n}", "function": "math:sqrt", "args": [float(n)]} for n in range(50))
        )
        assert [task["return_value"] for task in await user.wait(*uids)] == [
            n**0.5 for n in range(50)
        ]
        options = {"env": {"COLOUR": "red"}, "cwd": "/"}
        found = await user.run(
            executable="/bin/sh",
            arguments=["-c", "pwd; echo $COLOUR; echo err >&2; exit 3"],
            task_backend_specific_kwargs=options,
        )
        assert (found["state"], found["exit_code"]) == ("FAILED", 3)
        assert (found["stdout"], found["stderr"]) == ("/\nred\n", "err\n")
        await user.submit({"uid": "long", "executable": "/bin/sleep", "arguments": ["300"]})
        await user.until(
            lambda: any(
                note["uid"] == "long" and note["state"] == "RUNNING"
                for note in user.heard("task_status")
            )
        )
        reply = await user.post(f"cancel/{user.sid}/long")
        assert reply.json()["status"] == "canceled"
