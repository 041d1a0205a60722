import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from orbit_queue_info import QueueInfoClient
from orbit_queue_info.backends import make_queue_info
from orbit_queue_info.info import QueueInfoNone, own_name
from orbit_queue_info.models import Job
from orbit_queue_info.pages import page_of
from orbit_queue_info.pbs import QueueInfoPBSPro
from orbit_queue_info.pbs_values import may_use, megabytes, parse_sbank, seconds_since_epoch
from orbit_queue_info.slurm import QueueInfoSlurm
from orbit_queue_info.slurm_queues import gpus_of

from orbit_core.batch import (
    AllocationUnknown,
    AuroraPbs,
    InvalidJobId,
    JobForbidden,
    SchedulerFailed,
    SchedulerUnavailable,
    Slurm,
    UnknownBatchJob,
)  # fmt: skip
from orbit_core.models import HostInfo, HostRole
from orbit_core.testing import ALICE, BOB, PluginUnderTest, open_plugin

pytestmark = pytest.mark.anyio

TARGET = "orbit_queue_info.plugin:PluginQueueInfo"
SAMPLES = Path(__file__).parent / "samples"
ME = own_name()


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


@asynccontextmanager
async def open_client(
    directory: Path, scheduler: str, **settings: Any
) -> AsyncIterator[tuple[QueueInfoClient, PluginUnderTest]]:
    async with open_plugin(
        TARGET, directory, instance="queue_info", role=HostRole.LOGIN, scheduler=scheduler,
        settings=settings,
    ) as served:  # fmt: skip
        assert served.status.state == "served", served.status
        async with served.http() as http:
            client = QueueInfoClient(http, "/queue_info")
            await client.register_session()
            yield client, served


def play(scheduler: Any, *answers: tuple[str, str, str]) -> Any:
    """Have commands, if some option is given, answer with samples."""
    for command, option, name in answers:
        scheduler.answer(command, sample(name), to=option)
    return scheduler


@pytest.fixture
def slurm24(scheduler: Any) -> Any:
    return play(
        scheduler,
        ("sinfo", "", "slurm24_sinfo_--json"),
        ("squeue", "", "slurm24_squeue_--json"),
        ("sacctmgr", "", "slurm24_sacctmgr_show_assoc_--json"),
    )


@pytest.fixture
def slurm22(scheduler: Any) -> Any:
    play(
        scheduler,
        ("sinfo", "", "slurm22_sinfo_text"),
        ("sinfo", "--json", "slurm22_sinfo_--json"),
        ("squeue", "", "slurm22_squeue_--json"),
        ("sacctmgr", "", "slurm22_sacctmgr_show_assoc_-P_-n"),
    )
    scheduler.answer("sacctmgr", stderr="unrecognized option '--json'", status=1, to="--json")
    return scheduler


@pytest.fixture
def pbs(scheduler: Any) -> Any:
    return play(
        scheduler,
        ("qstat", "", "pbs_qstat_xf.json"),
        ("qstat", "-Q", "pbs_qstat_Qf.json"),
        ("pbsnodes", "", "pbs_pbsnodes_av.json"),
    )


async def test_queues_come_in_one_command_from_json(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        found = await client.get_info()
        assert await client.backend() == "slurm"
    assert list(found["queues"]) == ["batch", "debug", "gpu", "maint"]
    assert found["queues"]["gpu"]["time_limit"] is None
    assert found["queues"]["debug"]["time_limit"] == 1800
    assert 0 <= found["age"] < 10
    assert slurm24.calls("sinfo") == ["sinfo --json"]


async def test_what_is_not_told_in_json_is_asked_for_in_text(slurm22: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        queues = (await client.get_info(user="*"))["queues"]
        jobs = await client.list_all_jobs(user="*")
        allocations = await client.list_allocations(user="*")
    assert (queues["debug"]["nodes_total"], queues["debug"]["nodes_available"]) == (4, 3)
    assert queues["debug"]["default"] is True
    assert jobs["total"] == 9
    assert len(allocations["allocations"]) == 8
    assert [call.split()[1][:8] for call in slurm22.calls("sinfo")] == ["--json", "--all"]


async def test_jobs_are_filtered_by_user_and_queue(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        everybody = await client.list_all_jobs(user="*")
        nobody = await client.list_all_jobs(user="nobody")
        gpu = await client.list_jobs("gpu", user="*")
        own = await client.list_all_jobs()
    assert [job["job_id"] for job in everybody["jobs"]] == ["2", "3", "5", "6", "7", "9", "10"]
    assert nobody["jobs"] == []
    assert [job["job_id"] for job in gpu["jobs"]] == ["3"]
    assert {job["user"] for job in own["jobs"]} <= {ME}
    assert slurm24.calls("squeue") == ["squeue --json", f"squeue --json --user={ME}"]


async def test_jobs_come_in_pages(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        pages = []
        after = None
        while True:
            found = await client.list_all_jobs(user="*", limit=3, after=after)
            pages.append([job["job_id"] for job in found["jobs"]])
            if (after := found["next"]) is None:
                break
    assert pages == [["2", "3", "5"], ["6", "7", "9"], ["10"]]
    assert found["total"] == 7


async def test_allocations_are_of_one_user(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        found = (await client.list_allocations(user="labuser"))["allocations"]
    assert [(entry["account"], entry["max_submit"]) for entry in found] == [
        ("proj1", None), ("proj2", 8)
    ]  # fmt: skip


async def test_queues_outside_of_the_users_associations_are_left_out(
    slurm24: Any, tmp_path: Path
) -> None:
    document = {"associations": [{"account": "a", "user": "ann", "partition": "gpu"}]}
    slurm24.answer("sacctmgr", json.dumps(document))
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert list((await client.get_info(user="ann"))["queues"]) == ["gpu"]
        assert len((await client.get_info(user="*"))["queues"]) == 4


async def test_without_accounting_there_are_no_allocations(slurm24: Any, tmp_path: Path) -> None:
    slurm24.answer("sacctmgr", stderr="accounting storage is disabled", status=1)
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert (await client.list_allocations())["allocations"] == []
        assert len((await client.get_info())["queues"]) == 4


async def test_many_who_ask_cost_one_query_a_kind(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        for _ in range(20):
            await client.get_info(force=True)
            await client.list_all_jobs(force=True)
            await client.list_jobs("gpu")
            await client.list_allocations()
    assert sorted(call.split()[0] for call in slurm24.calls()) == ["sacctmgr", "sinfo", "squeue"]


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo out of luck >&2; exit 1", SchedulerFailed, "out of luck"),
        (
            "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
            SchedulerUnavailable, "squeue: slurm_load_jobs error",
        ),
    ],
)  # fmt: skip
async def test_a_failing_scheduler_is_told(
    slurm24: Any, tmp_path: Path, script: str, error: type[Exception], words: str
) -> None:
    slurm24.install("squeue", f"#!/bin/sh\n{script}\n")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        with pytest.raises(error, match=words):
            await client.list_all_jobs()


async def test_garbage_is_no_queue(slurm24: Any, tmp_path: Path) -> None:
    slurm24.install("sinfo", "#!/bin/sh\nhead -c 100000 /dev/urandom\n")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert (await client.get_info(user="*"))["queues"] == {}


async def test_another_configuration_is_used(slurm24: Any, tmp_path: Path) -> None:
    slurm24.install("sinfo", f'#!/bin/sh\necho "$SLURM_CONF" > {tmp_path}/conf\n')
    async with open_client(tmp_path / "state", "slurm", slurm_conf="/site/slurm.conf") as (
        client,
        _,
    ):
        await client.get_info(user="*")
    assert (tmp_path / "conf").read_text() == "/site/slurm.conf\n"


async def test_pbs_is_read_from_json(pbs: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "pbs") as (client, _):
        assert await client.backend() == "pbs"
        queues = (await client.get_info())["queues"]
        jobs = await client.list_jobs("batch", user="*", limit=1)
        assert (await client.list_allocations())["allocations"] == []
    assert list(queues) == ["batch", "debug", "gpu", "maint"]
    assert (queues["batch"]["time_limit"], queues["maint"]["state"]) == (86400, "DOWN")
    assert jobs["jobs"][0]["exit_code"] == 0
    assert pbs.calls("qstat") == ["qstat -Q -f -F json", "qstat -f -F json"]


async def test_pbs_whose_json_is_none_is_read_from_text(pbs: Any, tmp_path: Path) -> None:
    pbs.answer("qstat", sample("pbs_qstat_f.txt"))
    pbs.answer("qstat", "{'no': json", to="-F json")
    async with open_client(tmp_path / "state", "pbs") as (client, _):
        found = await client.list_all_jobs(user="*")
    assert [job["state"] for job in found["jobs"]][:2] == ["HELD", "HELD"]
    assert pbs.calls("qstat -f") == ["qstat -f -F json", "qstat -f"]


async def test_sbank_tells_the_allocations_of_a_pbs_site(
    pbs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/venv")
    pbs.install(
        "sbank-list-allocations", f'#!/bin/sh\necho "${{VIRTUAL_ENV}}" >&2\ncat {tmp_path}/table\n'
    )
    (tmp_path / "table").write_text(SBANK)
    async with open_client(tmp_path / "state", "pbs") as (client, _):
        found = (await client.list_allocations())["allocations"]
    assert [(entry["account"], entry["remaining_node_hours"]) for entry in found] == [
        ("climate", 900.5), ("physics", 0.0)
    ]  # fmt: skip


SBANK = """
 Allocation  Suballocation  Start       End         Resource  Project  Jobs   Charged  Available Balance
 ----------  -------------  ----------  ----------  --------  -------  -----  -------  -----------------
 1234        5678           2026-01-01  2027-01-01  polaris   climate  1,012  1,099.5              900.5
 1235        5679           2026-01-01  2027-01-01  polaris   physics  0      0.0                    0.0

Totals:
  Rows: 2
"""  # noqa: E501


def test_the_table_of_sbank_is_read_by_its_columns() -> None:
    first, second = parse_sbank(SBANK, "ann")
    assert (first.account, first.user, first.jobs, first.resource) == (
        "climate",
        "ann",
        1012,
        "polaris",
    )
    assert (first.allocation_id, first.suballocation_id) == ("1234", "5678")
    assert (first.start_date, first.end_date) == ("2026-01-01", "2027-01-01")
    assert (first.allocated_node_hours, first.used_node_hours) == (2000.0, 1099.5)
    assert second.allocated_node_hours == 0
    assert parse_sbank("no table", "ann") == []


@pytest.mark.parametrize(
    ("record", "is_allowed"),
    [
        ({}, True),
        ({"acl_user_enable": "True", "acl_users": "ann@host,bob"}, True),
        ({"acl_user_enable": "True", "acl_users": "-ann,+bob"}, False),
        ({"acl_user_enable": "True", "acl_users": "bob"}, False),
        ({"acl_user_enable": "True", "acl_users": "+*@*"}, True),
        ({"acl_user_enable": "False", "acl_users": "bob"}, True),
        ({"acl_group_enable": "True", "acl_groups": "staff"}, True),
        ({"acl_group_enable": "True", "acl_groups": "other"}, False),
        (
            {"acl_user_enable": "True", "acl_users": "ann", "acl_group_enable": "True",
             "acl_groups": "other"}, False,
        ),
    ],
)  # fmt: skip
def test_both_access_lists_must_let_a_user_in(record: dict[str, str], is_allowed: bool) -> None:
    assert may_use(record, "ann", ["users", "staff"]) is is_allowed


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:2", 2), ("gpu:a100:2(S:0-1)", 2), ("gpu:a100:2,gpu:v100:1(IDX:0)", 3), ("", 0),
        ("(null)", 0), ("shard:8,gpu:1", 1), ("mygpu:4", 0),
    ],
)  # fmt: skip
def test_gpus_are_added_up(gres: str, gpus: int) -> None:
    assert gpus_of(gres) == gpus


def test_sizes_and_times_of_pbs() -> None:
    assert [megabytes(text) for text in ("2048kb", "1gb", "512mb", "1tb", "x")] == [
        2, 1024, 512, 1048576, None
    ]  # fmt: skip
    assert seconds_since_epoch("Thu Jun 19 21:27:51 2025") == 1750368471
    assert [seconds_since_epoch(text) for text in ("1750368471", "", "soon")] == [1750368471, 0, 0]


def test_a_page_may_follow_a_job_that_is_gone() -> None:
    jobs = [Job("1"), Job("5"), Job("7")]
    assert page_of(jobs, 1, "3") == ([Job("5")], "5")
    assert page_of(jobs, 0, "7") == ([], None)


ACTIVE = "7|RUNNING|None|n1\n"


async def test_a_job_is_cancelled(slurm24: Any, tmp_path: Path) -> None:
    slurm24.answer("squeue", ACTIVE, to="--jobs=7")
    slurm24.answer("scancel")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert await client.cancel_job("7") == {"job_id": "7", "status": "canceled"}
    assert slurm24.calls("scancel") == ["scancel 7"]


async def test_a_job_that_is_over_tells_how_it_ended(slurm24: Any, tmp_path: Path) -> None:
    slurm24.answer("squeue", "7|COMPLETED|None|n1\n", to="--jobs=7")
    slurm24.answer("sacct", "7|COMPLETED|None|n1|0:0\n")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert (await client.cancel_job("7"))["status"] == "done"


async def test_why_a_job_failed_is_told_of_any_job(slurm24: Any, tmp_path: Path) -> None:
    slurm24.answer("squeue", "7|TIMEOUT|TimeLimit|n1\n", to="--jobs=7")
    slurm24.answer("squeue", ACTIVE.replace("7", "8"), to="--jobs=8")
    slurm24.answer("squeue", stderr="Invalid job id specified", status=1, to="--jobs=9")
    slurm24.answer("sacct", "7|TIMEOUT|None|n1|0:0\n", to="--jobs=7")
    for name in ("sacct", "scontrol"):
        slurm24.answer(name, to="9")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        found = [await client.job("7", force) for force in (False, True)]
        running = await client.job("8")
        with pytest.raises(UnknownBatchJob, match="slurm knows no job 9"):
            await client.job("9")
    assert [0 <= one.pop("age") < 10 for one in (*found, running)] == [True] * 3
    assert (
        found[0]
        == found[1]
        == {
            "job_id": "7",
            "state": "FAILED",
            "native_state": "TIMEOUT",
            "exit_code": None,
            "failure": {
                "cause": "walltime",
                "exit_code": None,
                "signal": None,
                "cancelled_by": None,
                "detail": "",
            },
            "why": "ran longer than its walltime",
            "nodes": "n1",
        }
    )
    assert (running["state"], running["why"]) == ("RUNNING", None)
    assert len([call for call in slurm24.calls("squeue") if "--jobs=7" in call]) == 1


@pytest.mark.parametrize("job_id", ["--me", "1;rm", "-1", "1%2F..", "9" * 300])
async def test_a_bad_job_id_never_reaches_a_command_line(
    slurm24: Any, tmp_path: Path, job_id: str
) -> None:
    async with (
        open_client(tmp_path / "state", "slurm") as (client, served),
        served.http() as http,
    ):
        for method, route in (("POST", "cancel"), ("GET", "job")):
            path = f"/queue_info/{route}/{client.sid}/{job_id}"
            assert (await http.request(method, path)).status_code in (400, 404)
    assert not [call for call in slurm24.calls() if "--jobs" in call or "scancel" in call]


async def test_errors_of_a_cancel_keep_their_types(slurm24: Any, tmp_path: Path) -> None:
    for name in ("sacct", "scontrol"):
        slurm24.answer(name)
    slurm24.answer("squeue", stderr="Invalid job id specified", status=1, to="--jobs=8")
    slurm24.answer("squeue", ACTIVE, to="--jobs=7")
    slurm24.answer("scancel", stderr="Access/permission denied", status=210)
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        with pytest.raises(UnknownBatchJob, match="slurm knows no job 8"):
            await client.cancel_job("8")
        with pytest.raises(JobForbidden, match="permission denied"):
            await client.cancel_job("7")
        with pytest.raises(InvalidJobId, match="is not a job id of slurm"):
            await client.cancel_job("me")


async def test_the_allocation_of_the_endpoint(
    slurm24: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm24.answer("squeue", "30:00\n", to="--job=7")
    slurm24.answer("scontrol", "n1\nn2\n")
    async with open_client(tmp_path / "state", "slurm") as (client, _):
        assert await client.job_allocation() is None
        assert await client.nodelist() == []
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with pytest.raises(AllocationUnknown, match="SLURM_NNODES"):
            await client.job_allocation()
        monkeypatch.setenv("SLURM_NNODES", "2")
        monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
        found = await client.job_allocation()
        assert await client.nodelist() == ["n1", "n2"]
    assert found is not None
    assert (found["job_id"], found["n_nodes"], found["runtime"]) == ("7", 2, 1800)


async def test_sessions_take_no_settings_and_belong_to_who_made_them(
    slurm24: Any, tmp_path: Path
) -> None:
    async with open_client(tmp_path / "state", "slurm") as (client, served):
        async with served.http(ALICE) as http:
            reply = await http.post("/queue_info/register_session", json={"colour": "red"})
            assert (reply.status_code, reply.json()["code"]) == (400, "invalid_body")
        async with served.http(BOB) as http:
            reply = await http.get(f"/queue_info/get_info/{client.sid}")
            assert reply.status_code == 403


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("force=maybe", "'force' must be true or false"),
        ("limit=-1", "'limit'"),
        ("limit=x", "'limit'"),
    ],
)
async def test_a_bad_parameter_is_refused(
    slurm24: Any, tmp_path: Path, query: str, words: str
) -> None:
    async with (
        open_client(tmp_path / "state", "slurm") as (client, served),
        served.http() as http,
    ):
        reply = await http.get(f"/queue_info/list_all_jobs/{client.sid}?{query}")
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert words in reply.json()["detail"]


@pytest.mark.parametrize(
    "host",
    [HostInfo(HostRole.STANDALONE), HostInfo(HostRole.BRIDGE, "slurm")],
    ids=["no-scheduler", "bridge"],
)
async def test_hosts_without_a_scheduler_and_bridges_are_declined(
    tmp_path: Path, host: HostInfo
) -> None:
    async with open_plugin(
        TARGET, tmp_path, instance="queue_info", role=host.role, scheduler=host.scheduler
    ) as served:
        assert served.status.state == "disabled"


async def test_an_unknown_setting_keeps_the_plugin_from_being_served(tmp_path: Path) -> None:
    async with open_plugin(
        TARGET, tmp_path, instance="queue_info", scheduler="slurm", settings={"ttl": 3}
    ) as served:
        assert served.status.state == "failed"
        assert "ttl" in served.status.reason


async def test_the_portal_page_has_a_table_of_queues(slurm24: Any, tmp_path: Path) -> None:
    async with open_client(tmp_path / "state", "slurm") as (_, served), served.http() as http:
        found = (await http.get("/queue_info/ui_config")).json()["ui"]
    assert (found["title"], found["icon"], found["refresh_button"]) == (
        "Queue Info",
        "clipboard",
        True,
    )
    monitor = found["monitors"][0]
    assert (monitor["id"], monitor["type"]) == ("partitions", "table")
    assert (monitor["css_class"], monitor["auto_load"]) == ("queueinfo-content", "get_info/{sid}")


async def test_the_family_chooses_the_backend() -> None:
    def ignore(function: Any, *args: Any) -> None:
        """Start nothing."""

    assert isinstance(make_queue_info(AuroraPbs(), background=ignore), QueueInfoPBSPro)
    made = make_queue_info(Slurm(), "/site/slurm.conf", background=ignore)
    assert isinstance(made, QueueInfoSlurm)
    assert isinstance(made.batch, Slurm)
    assert made.batch.environment["SLURM_CONF"] == "/site/slurm.conf"
    none = make_queue_info(background=ignore)
    assert isinstance(none, QueueInfoNone)
    assert none.backend_name == "none"
