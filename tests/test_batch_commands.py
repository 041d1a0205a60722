import signal
from pathlib import Path

import anyio
import pytest

from orbit_core.batch import (
    OutputTooLarge,
    SchedulerFailed,
    SchedulerUnavailable,
    commands,
    run,
)
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


async def test_a_command_runs_without_a_shell_in_the_c_locale():
    done = await run("/bin/sh", "-c", 'echo "$LC_ALL $EXTRA $1"', "sh", "$(id);*",
                     environment={"EXTRA": "more"})  # fmt: skip

    assert (done.status, done.stdout) == (0, "C more $(id);*\n")


async def test_bytes_that_are_no_text_are_replaced():
    assert (await run("/bin/sh", "-c", r"printf '\377a'")).stdout == "\ufffda"


async def test_a_failed_command_is_told_in_its_own_words():
    done = await run("/bin/sh", "-c", "echo no such >&2; echo queue >&2; exit 3")

    with pytest.raises(SchedulerFailed, match="no such queue"):
        done.check()


async def test_a_silent_failure_tells_the_exit_status():
    with pytest.raises(SchedulerFailed, match="ended with exit status 1"):
        (await run("/bin/false")).check()


async def test_a_command_that_is_not_there_cannot_be_started():
    with pytest.raises(SchedulerUnavailable, match="squeue-not-here cannot be started"):
        await run("squeue-not-here")


def is_gone(path):
    """Tell whether the process whose id is in the file is dead; a zombie is."""
    if not path.exists() or not path.read_text().strip():
        return False
    try:
        return " Z " in Path("/proc", path.read_text().strip(), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_silent_command_is_ended_with_its_children(tmp_path):
    child = tmp_path / "child"
    with pytest.raises(SchedulerUnavailable, match=r"no answer within 0\.5 s"):
        await run("/bin/sh", "-c", f"sleep 40 & echo $! > {child}; wait", deadline=0.5)

    await until(lambda: is_gone(child))


async def test_a_cancelled_call_leaves_no_process(tmp_path):
    child = tmp_path / "child"
    async with anyio.create_task_group() as group:
        group.start_soon(run, "/bin/sh", "-c", f"echo $$ > {child}; exec sleep 40")
        await until(lambda: child.exists() and child.read_text())
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    assert is_gone(child)


async def test_a_command_that_cannot_be_killed_keeps_nobody(monkeypatch, caplog):
    started = []
    open_process = anyio.open_process

    async def open_and_keep(*command, **settings):
        started.append(await open_process(*command, **settings))
        return started[0]

    monkeypatch.setattr(commands, "KILL_PATIENCE", 0.1)
    monkeypatch.setattr(anyio, "open_process", open_and_keep)
    with monkeypatch.context() as kernel:
        kernel.setattr("os.killpg", lambda pid, signal: None)
        with anyio.fail_after(10), pytest.raises(SchedulerUnavailable, match="no answer within"):
            await run("/bin/sleep", "40", deadline=0.5)

    assert "/bin/sleep 40 cannot be killed: it is left behind" in caplog.text
    started[0].kill()
    with anyio.fail_after(10):
        await started[0].aclose()


async def test_an_endless_output_is_cut_off():
    with pytest.raises(OutputTooLarge, match="more than 1000 bytes"):
        await run("/bin/sh", "-c", "exec yes", limit=1000)


async def test_a_hundred_thousand_lines_arrive():
    done = await run("/bin/sh", "-c", "seq 100000")

    assert len(done.stdout.splitlines()) == 100_000


async def test_a_killed_command_has_a_negative_status():
    done = await run("/bin/sh", "-c", "kill -9 $$")

    assert done.status == -signal.SIGKILL
