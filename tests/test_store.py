import os
import sqlite3

import anyio
import pytest

from orbit_core._store import open_store
from orbit_core.errors import StateInUse, StateUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path / "state") as found:
        yield found


async def test_a_document_is_there_after_a_restart(tmp_path):
    value = {"a": [1, None, "ä\ud800", {"b": 1.5}]}
    async with open_store(tmp_path) as store:
        await store.space("s").put("k", value)
    async with open_store(tmp_path) as store:
        assert await store.space("s").get("k") == value


async def test_an_unknown_document_is_none(store):
    assert await store.space("s").get("k") is None
    assert await store.space("s").items() == {}


async def test_spaces_do_not_see_each_other(store):
    space = store.space("s")
    await space.put("k", 1)
    await space.part("inner").put("k", 2)
    await store.space("t").put("k", 3)

    assert await space.items() == {"k": 1}
    assert await store.space("s/inner").items() == {"k": 2}


async def test_documents_are_replaced_and_deleted(store):
    space = store.space("s")
    await space.put_all({"a": 1, "b": 2, "c": 3})
    await space.put("a", 4)
    await space.delete("b", "never there")
    await space.delete()

    assert await space.items() == {"a": 4, "c": 3}


async def test_values_that_are_not_json_are_refused_and_nothing_is_written(store):
    with pytest.raises(TypeError):
        await store.space("s").put_all({"a": 1, "b": object()})

    assert await store.space("s").items() == {}


async def test_a_key_that_is_no_text_harms_only_itself(store):
    space = store.space("s")
    failed = []

    async def put(key):
        try:
            await space.put(key, 1)
        except ValueError:
            failed.append(key)

    async with anyio.create_task_group() as group:
        for key in ("a", "\ud800", "b"):
            group.start_soon(put, key)

    assert (failed, await space.items()) == (["\ud800"], {"a": 1, "b": 1})


async def test_an_operation_that_fails_harms_only_itself(store):
    space = store.space("s")
    failed = []

    async def fail():
        try:
            await store.execute(lambda connection: connection.execute("SELECT * FROM absent"))
        except StateUnavailable as error:
            failed.append(error.detail)

    async with anyio.create_task_group() as group:
        group.start_soon(space.put, "a", 1)
        group.start_soon(fail)
        group.start_soon(space.put, "b", 2)

    assert await space.items() == {"a": 1, "b": 2}
    assert failed == [
        f"the state in {store.path} cannot be used (no such table: absent): "
        "free space or make it writable"
    ]


async def test_a_lone_operation_that_fails_is_undone(store):
    def half(connection):
        connection.execute("INSERT INTO documents VALUES ('s', 'k', '1')")
        raise ValueError("half done")

    with pytest.raises(ValueError, match=r"^half done$"):
        await store.execute(half)

    assert await store.space("s").items() == {}


async def test_a_hundred_writers_at_once_are_all_on_disk(tmp_path):
    async with open_store(tmp_path) as store, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(store.space("s").put, str(number), number)
    async with open_store(tmp_path) as store:
        assert len(await store.space("s").items()) == 100


async def test_a_closed_state_takes_nothing_more(tmp_path):
    async with open_store(tmp_path) as store:
        pass
    with pytest.raises(StateUnavailable) as told:
        await store.space("s").put("k", 1)

    assert (told.value.status, told.value.code) == (507, "state_unavailable")
    assert told.value.detail == f"the state in {store.path} is closed: its host has stopped"


async def test_what_stops_because_of_a_cancellation_still_writes(tmp_path):
    with anyio.CancelScope() as scope:
        async with open_store(tmp_path) as store:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await store.space("s").put("k", 1)
    async with open_store(tmp_path) as store:
        assert await store.space("s").get("k") == 1


async def test_only_the_owner_may_read_the_state(store):
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content", [b"this is no database" * 99, b"SQLite format 3\0" + bytes(200)]
)
async def test_a_corrupt_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "state.sqlite3"
    path.write_bytes(content)
    with pytest.raises(StateUnavailable) as told:
        async with open_store(tmp_path):
            pass

    assert told.value.detail.startswith(f"the state file {path} cannot be opened (")
    assert told.value.detail.endswith("): move it away, or name another directory with --state-dir")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["state.sqlite3"]


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "state.sqlite3").mkdir()
    with pytest.raises(StateUnavailable, match=r"unable to open database file"):
        async with open_store(tmp_path):
            pass


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailable) as told:
        async with open_store(tmp_path / "file" / "state"):
            pass

    assert told.value.detail.startswith(
        f"the state directory {tmp_path / 'file' / 'state'} cannot be used: "
    )


async def test_a_database_that_another_program_locks_is_unavailable(tmp_path):
    async with open_store(tmp_path) as store:
        await store.execute(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateUnavailable, match=r"database is locked"):
            await store.space("s").put("k", 1)
        other.close()
        await store.space("s").put("k", 2)
        assert await store.space("s").get("k") == 2


async def test_a_state_is_for_one_process_alone(tmp_path):
    async with open_store(tmp_path):
        with pytest.raises(StateInUse, match=rf"is in use by process {os.getpid()} on host "):
            async with open_store(tmp_path):
                pass
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


async def test_a_failure_of_the_body_comes_out_as_itself(tmp_path):
    with pytest.raises(ZeroDivisionError):
        async with open_store(tmp_path):
            raise ZeroDivisionError
    assert not (tmp_path / "lock").exists()
