import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import psij
import pytest

from orbit_core.models import EndpointInfo, HostRole, Topology
from orbit_core.testing import BOB, open_plugin

pytestmark = pytest.mark.anyio

TARGET = "orbit_psij.plugin:PSIJPlugin"
SUMMARY_KEYS = {
    *("job_id", "native_id", "state", "exit_code", "name", "executable", "arguments", "executor"),
    *("queue_name", "account", "node_count", "time"),
}
STATUS_KEYS = SUMMARY_KEYS | {
    *("message", "directory", "duration", "stdout", "stderr", "stdout_offset", "stderr_offset"),
    *("failure", "elements", "error"),
}
Fault = Callable[[httpx.Response], tuple[int, str]]


async def test_a_job_runs_and_tells_everything(user: Any) -> None:
    spec = {"attributes": {"queue_name": "q", "account": "a", "duration": 60}}
    job_id = await user.submit("echo out; echo err >&2", name="n", **spec)
    found = await user.until_over(job_id)
    assert set(found) == STATUS_KEYS
    assert (found["state"], found["exit_code"], found["message"]) == ("COMPLETED", 0, None)
    assert (found["stdout"], found["stderr"]) == ("out\n", "err\n")
    assert (found["stdout_offset"], found["stderr_offset"]) == (4, 4)
    assert (found["queue_name"], found["account"], found["duration"]) == ("q", "a", 60)
    assert found["native_id"].isdecimal()


async def test_a_job_gets_what_its_spec_says(user: Any, tmp_path: Path) -> None:
    job_id = await user.submit(
        'pwd; echo "$A|$1|$(cat)"', directory=str(tmp_path), environment={"A": "x  y"}, stdin="in€"
    )
    assert (await user.until_over(job_id))["stdout"] == f"{tmp_path}\nx  y||in€\n"


async def test_words_reach_a_job_as_they_are(user: Any) -> None:
    words = ["$HOME", "a  b", "'", '"', "\\n", "*", "x\ny", "", "--", "é"]
    reply = await user.try_submit(executable="printf", arguments=["%s|", *words])
    found = await user.until_over(reply.json()["job_id"])
    assert found["stdout"] == "".join(f"{word}|" for word in words)


async def test_a_name_of_the_shell_is_no_program(user: Any) -> None:
    reply = await user.try_submit(executable="exit", arguments=["0"])
    found = await user.until_over(reply.json()["job_id"])
    assert (found["state"], found["exit_code"]) == ("FAILED", 127)
    assert "not found" in found["stderr"]


async def test_a_job_without_inherited_variables_has_only_its_own(user: Any) -> None:
    reply = await user.try_submit(
        executable="/usr/bin/env", inherit_environment=False, environment={"A": "1"}
    )
    found = await user.until_over(reply.json()["job_id"])
    assert "A=1\n" in found["stdout"]
    assert "HOME=" not in found["stdout"]


async def test_output_goes_where_the_user_wants_and_stays_there(user: Any, tmp_path: Path) -> None:
    job_id = await user.submit(
        "echo out; echo err >&2", directory=str(tmp_path), stdout_path="o", stderr_path="e"
    )
    assert (await user.until_over(job_id))["stdout"] == "out\n"
    await user.post(f"unregister_session/{user.sid}")
    assert ((tmp_path / "o").read_text(), (tmp_path / "e").read_text()) == ("out\n", "err\n")


async def test_input_comes_from_a_file(user: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from file")
    job_id = await user.submit("cat", stdin_path=str(tmp_path / "in"))
    assert (await user.until_over(job_id))["stdout"] == "from file"


async def test_a_missing_input_is_said_in_the_message(user: Any) -> None:
    found = await user.until_over(await user.submit("cat", stdin_path="/nowhere"))
    assert found["state"] == "FAILED"
    assert "/nowhere" in found["message"]


async def test_a_failed_job_says_how(user: Any) -> None:
    found = await user.until_over(await user.submit("exit 7"))
    assert (found["state"], found["exit_code"], found["message"]) == ("FAILED", 7, "exit code 7")
    found = await user.until_over(await user.submit("kill -9 $$"))
    assert (found["exit_code"], found["message"]) == (
        137,
        "exit code 137, as after SIGKILL: Killed",
    )


async def test_several_processes_start_with_another_launcher(user: Any) -> None:
    job_id = await user.submit("echo x", launcher="multiple", resources={"process_count": 3})
    found = await user.until_over(job_id)
    assert (found["state"], found["stdout"]) == ("COMPLETED", "x\nx\nx\n")


async def test_scripts_run_before_and_after(user: Any, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_text("export A=before\n")
    after.write_text(f"touch {tmp_path}/done\n")
    job_id = await user.submit("echo $A", pre_launch=str(before), post_launch=str(after))
    assert (await user.until_over(job_id))["stdout"] == "before\n"
    assert (tmp_path / "done").exists()


async def test_states_are_announced_once_and_in_order(user: Any) -> None:
    job_id = await user.submit("echo hello; exit 3")
    await user.until_over(job_id)
    heard = user.heard(job_id)
    assert [news["state"] for news in heard] == ["QUEUED", "ACTIVE", "FAILED"]
    assert heard[0] == {
        "job_id": job_id,
        "state": "QUEUED",
        "exit_code": None,
        "message": None,
        "failure": None,
        "stdout": "",
        "stderr": "",
    }
    assert (heard[-1]["exit_code"], heard[-1]["stdout"]) == (3, "hello\n")


async def test_the_last_notification_carries_the_end_of_long_output(user: Any) -> None:
    job_id = await user.submit("head -c 200000 /dev/zero | tr '\\0' x; echo end")
    await user.until_over(job_id)
    last = user.heard(job_id)[-1]
    assert last["stdout_truncated"] is True
    assert len(last["stdout"]) == 64 * 1024
    assert last["stdout"].endswith("xend\n")


async def test_notifications_belong_to_the_session_and_its_owner(user: Any) -> None:
    job_id = await user.submit("true")
    await user.until_over(job_id)
    notes = [note for note in user.notifications if note.data["job_id"] == job_id]
    assert {(note.session, note.owner) for note in notes} == {("lab", "alice")}


async def test_status_continues_from_an_offset(user: Any) -> None:
    job_id = await user.submit("printf a€b; printf xyz >&2")
    await user.until_over(job_id)
    found = await user.status(job_id, "?stdout_offset=4&stderr_offset=1")
    assert (found["stdout"], found["stdout_offset"]) == ("b", 5)
    assert (found["stderr"], found["stderr_offset"]) == ("yz", 3)


async def test_half_a_character_waits_for_its_other_half(user: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await user.submit(
        f"printf 'a\\303'; until [ -e {gate} ]; do sleep 0.02; done; printf '\\251'"
    )
    found = await user.until_prints(job_id, "a")
    assert (found["stdout"], found["stdout_offset"]) == ("a", 1)
    gate.touch()
    await user.until_over(job_id)
    assert (await user.status(job_id, "?stdout_offset=1"))["stdout"] == "é"


async def test_jobs_are_listed_oldest_first(user: Any) -> None:
    wanted = [await user.submit("true"), await user.submit("true", resources={"node_count": 1})]
    found = (await user.get(f"list_jobs/{user.sid}")).json()["jobs"]
    assert [job["job_id"] for job in found] == wanted
    assert set(found[0]) == SUMMARY_KEYS
    assert [job["node_count"] for job in found] == [None, 1]


async def test_executors_are_listed(user: Any) -> None:
    found = (await user.get("executors")).json()
    assert found["executors"] == [{"name": "local"}]
    assert "mpirun" in found["launchers"]


async def test_the_portal_page_has_the_documented_fields(user: Any) -> None:
    ui = (await user.get("ui_config")).json()["ui"]
    form = ui["forms"][0]
    assert (ui["title"], ui["icon"]) == ("PsiJ Jobs", "rocket")
    assert ui["forms"][0]["fields"][0]["default"] == "radical-orbit-endpoint-wrapper.sh"
    assert [field["css_class"] for field in form["fields"]] == [
        *("p-exec", "p-args", "p-executor", "p-queue", "p-account", "p-duration"),
        *("p-node-count", "p-custom-attr"),
    ]
    assert (form["id"], form["layout"], form["submit"]["style"]) == ("submit", "grid2", "success")
    assert ui["monitors"][0]["css_class"] == "psij-output"
    assert ui["notifications"] == {
        "topic": "job_status",
        "id_field": "job_id",
        "state_field": "state",
    }


@pytest.mark.parametrize("route", ["status", "output"])
async def test_an_unknown_job_is_not_found(user: Any, fault: Fault, route: str) -> None:
    assert fault(await user.get(f"{route}/{user.sid}/none")) == (404, "unknown_job")


async def test_an_unknown_job_cannot_be_cancelled(user: Any, fault: Fault) -> None:
    assert fault(await user.post(f"cancel/{user.sid}/none")) == (404, "unknown_job")


async def test_a_job_is_only_found_in_its_own_session(user: Any, fault: Fault) -> None:
    job_id = await user.submit("true")
    await user.post("register_session", {"sid": "other"})
    assert fault(await user.get(f"status/other/{job_id}")) == (404, "unknown_job")
    async with user.served.http(BOB) as http:
        reply = await http.get(f"/psij/status/{user.sid}/{job_id}")
    assert fault(reply) == (403, "forbidden")


@pytest.mark.parametrize(
    "query",
    ["status/lab/{}?stdout_offset=-1", "output/lab/{}?stream=both", "output/lab/{}?follow=maybe"],
)
async def test_a_bad_parameter_is_refused(user: Any, fault: Fault, query: str) -> None:
    job_id = await user.submit("true")
    assert fault(await user.get(query.format(job_id))) == (400, "bad_request")


@pytest.mark.parametrize(
    "body", [{}, {"job_spec": {}}, {"job_spec": {"executable": "x", "foo": 1}}]
)
async def test_a_bad_job_is_refused_and_leaves_nothing(user: Any, fault: Fault, body: Any) -> None:
    assert fault(await user.post(f"submit/{user.sid}", body)) == (400, "invalid_body")
    assert (await user.get(f"list_jobs/{user.sid}")).json() == {"jobs": []}


async def test_an_unknown_executor_is_refused_with_the_known_ones(user: Any) -> None:
    body = {"job_spec": {"executable": "/bin/true"}, "executor": "slurm"}
    reply = await user.post(f"submit/{user.sid}", body)
    assert reply.status_code == 400
    reason = "its scheduler did not answer when this endpoint started"
    assert f"executor 'slurm' is not offered here ({reason}): use local" in reply.json()["detail"]


async def test_a_job_that_cannot_start_is_an_error_with_the_reason(user: Any, fault: Fault) -> None:
    reply = await user.try_submit(executable="/bin/true", directory="/nowhere/at/all")
    assert fault(reply) == (500, "submit_failed")
    assert "/nowhere/at/all" in reply.json()["detail"]
    assert (await user.get(f"list_jobs/{user.sid}")).json() == {"jobs": []}


async def test_a_job_whose_files_cannot_be_made_is_an_error(
    user: Any, fault: Fault, tmp_path: Path
) -> None:
    (tmp_path / "plugins/psij/output").write_text("in the way")
    assert fault(await user.try_submit(executable="/bin/true")) == (500, "submit_failed")


async def test_without_setsid_no_job_starts(
    user: Any, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reply = await user.try_submit(executable="/bin/true")
    assert fault(reply) == (500, "submit_failed")
    assert "util-linux" in reply.json()["detail"]


async def test_output_that_cannot_be_written_fails_the_job(user: Any) -> None:
    found = await user.until_over(await user.submit("true", stdout_path="/nowhere/out"))
    assert found["state"] == "FAILED"
    assert "nowhere" in found["message"] or "cannot create" in found["message"]


async def test_a_repeated_submit_makes_one_job(user: Any, fault: Fault) -> None:
    spec = {"executable": "/bin/true"}
    first = await user.try_submit("k1", **spec)
    again = await user.try_submit("k1", **spec)
    assert again.json() == first.json()
    assert len((await user.get(f"list_jobs/{user.sid}")).json()["jobs"]) == 1
    assert fault(await user.try_submit("k1", executable="/bin/false")) == (
        422,
        "idempotency_mismatch",
    )


async def test_a_job_ends_on_a_kernel_that_cannot_tell_so(
    user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert (await user.until_over(await user.submit("exit 3")))["exit_code"] == 3
    monkeypatch.delattr(os, "pidfd_open")
    assert (await user.until_over(await user.submit("exit 4")))["exit_code"] == 4


async def test_the_bridge_is_declined(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, instance="psij", role=HostRole.BRIDGE) as served:
        assert served.status.state == "disabled"


WITHOUT_PSIJ = """
import sys, pathlib, anyio
sys.modules["psij"] = None
import orbit_psij, logging
from orbit_core.testing import open_plugin
logging.disable()

async def main():
    async with open_plugin("orbit_psij.plugin:PSIJPlugin", pathlib.Path(sys.argv[1])) as served:
        print(served.status.state, served.status.reason, orbit_psij.PSIJClient.__name__)

anyio.run(main)
"""


def test_without_psij_python_the_plugin_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PSIJ, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.startswith("failed")
    assert "pip install 'orbit-psij[endpoint]'" in found
    assert found.endswith("PSIJClient\n")


def test_the_plugin_is_imported_without_psij_which_takes_long() -> None:
    code = "import orbit_psij.plugin, sys; print('psij' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


async def test_psij_is_loaded_once_the_endpoint_is_linked(user: Any) -> None:
    loader = user.served.plugin.jobs.loader
    await user.served.plugin.on_topology_change(Topology({"other": EndpointInfo("compute")}))
    assert loader.means is None
    await user.served.plugin.on_topology_change(Topology({"test": EndpointInfo("compute")}))
    assert loader.means is not None


async def test_a_psij_that_does_not_load_says_so_until_it_does(
    user: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "orbit_psij.starting", None)
        await user.served.plugin.on_topology_change(Topology({"test": EndpointInfo("compute")}))
        assert "no jobs can run: PSI/J does not load here: ModuleNotFoundError" in caplog.text
        reply = await user.try_submit(executable="true")
        assert fault(reply) == (500, "submit_failed")
        assert "PSI/J does not load here: ModuleNotFoundError" in reply.json()["detail"]
    assert (await user.until_over(await user.submit("true")))["state"] == "COMPLETED"


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_other_processes_are_still_waited_for(tmp_path: Path, uvloop: bool) -> None:
    """PSI/J takes SIGCHLD over, which event loops may use to wait for their own children."""
    script = f"""
import anyio
async def main():
    await anyio.run_process(["true"])
    import orbit_psij.plugin
    with anyio.fail_after(10):
        print((await anyio.run_process(["echo", "alive"])).stdout.decode())
anyio.run(main, backend_options={{"use_uvloop": {uvloop}}})
"""
    command = [sys.executable, "-c", script]
    assert "alive" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def test_a_hundred_jobs_at_once_all_end_well(user: Any) -> None:
    job_ids: list[str] = []

    async def one() -> None:
        job_ids.append((await user.try_submit(executable="/bin/true")).json()["job_id"])

    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(one)
    ends = [await user.until_over(job_id) for job_id in job_ids]
    assert {found["state"] for found in ends} == {"COMPLETED"}
    assert len(set(job_ids)) == 100
    assert len({note.data["job_id"] for note in user.notifications}) == 100


def group_and_session(pid: int) -> tuple[int, int]:
    return os.getpgid(pid), os.getsid(pid)


async def test_a_job_has_a_process_group_and_a_session_of_its_own(user: Any) -> None:
    job_id = await user.submit("echo up; exec sleep 60")
    await user.until_prints(job_id, "up")
    pid = int((await user.status(job_id))["native_id"])
    assert group_and_session(pid) == (pid, pid)
    await user.post(f"cancel/{user.sid}/{job_id}")


async def test_psij_starts_only_what_this_plugin_gives_it() -> None:
    launcher = psij.Launcher.get_instance("orbit")
    with pytest.raises(psij.InvalidJobException):
        launcher.get_launch_command(psij.Job(psij.JobSpec("/bin/true")))
