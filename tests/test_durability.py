import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orbit_core._store import open_store
from orbit_core.errors import StateInUse, StateUnavailable
from tests.test_sessions import pragma

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

WRITER = """
import sys
from pathlib import Path
import anyio
from orbit_core._store import open_store

async def write(space, writer):
    for number in range(100_000):
        await space.put(f"{writer}.{number}", {"number": number})
        print(f"{writer}.{number}", flush=True)

async def main():
    async with open_store(Path(sys.argv[1])) as store, anyio.create_task_group() as group:
        for writer in range(8):
            group.start_soon(write, store.space("s"), writer)

anyio.run(main)
"""


def start_writer(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, text=True
    )


def kill_after(writer: subprocess.Popen[str], acknowledged: int) -> list[str]:
    """Kill a writer once so much is acknowledged; return all that was."""
    assert writer.stdout is not None
    with writer:
        first = [writer.stdout.readline().strip() for _ in range(acknowledged)]
        os.kill(writer.pid, signal.SIGKILL)
        return [*first, *writer.stdout.read().split()]


@pytest.mark.parametrize("acknowledged", [1, 20, 77])
async def test_what_a_killed_process_acknowledged_is_there(tmp_path, acknowledged):
    writer = await anyio.to_thread.run_sync(start_writer, tmp_path)
    written = await anyio.to_thread.run_sync(kill_after, writer, acknowledged)

    async with open_store(tmp_path) as store:
        kept = await store.space("s").items()

    assert len(written) >= acknowledged
    assert kept.keys() >= set(written[:-1])
    assert all(value == {"number": int(key.partition(".")[2])} for key, value in kept.items())


async def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
    writer = await anyio.to_thread.run_sync(start_writer, tmp_path)
    assert writer.stdout is not None
    await anyio.to_thread.run_sync(writer.stdout.readline)

    with pytest.raises(StateInUse) as caught:
        async with open_store(tmp_path):
            pass

    await anyio.to_thread.run_sync(kill_after, writer, 0)
    assert f"{tmp_path} is in use by process {writer.pid} on host " in caught.value.detail


async def test_a_full_disk_refuses_writes_and_still_reads(tmp_path):
    async with open_store(tmp_path) as store:
        space = store.space("s")
        await space.put("small", 1)
        await pragma(store, "max_page_count = 1")

        with pytest.raises(StateUnavailable) as caught:
            await space.put("large", "x" * 100_000)

        assert await space.items() == {"small": 1}
    assert caught.value.status_code == 507
    assert caught.value.detail == (
        f"the state in {tmp_path / 'state.sqlite3'} cannot be used (database or disk is full): "
        "free space or make it writable"
    )


async def test_a_write_that_does_not_fit_fails_no_other(tmp_path):
    outcomes: dict[str, str] = {}

    async with open_store(tmp_path) as store:
        await pragma(store, "max_page_count = 3")

        async def put(key: str, size: int) -> None:
            try:
                await store.space("s").put(key, "x" * size)
                outcomes[key] = "kept"
            except StateUnavailable as error:
                outcomes[key] = error.code

        async with anyio.create_task_group() as group:
            for key, size in (("a", 10), ("large", 100_000), ("b", 10)):
                group.start_soon(put, key, size)

    assert outcomes == {"a": "kept", "large": "state_unavailable", "b": "kept"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(documents=st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=5))
def test_any_documents_come_back(documents, tmp_path_factory):
    async def there_and_back() -> object:
        async with open_store(tmp_path_factory.mktemp("state")) as store:
            await store.space("s").put_all(documents)
            return await store.space("s").items()

    assert anyio.run(there_and_back) == json.loads(json.dumps(documents))
