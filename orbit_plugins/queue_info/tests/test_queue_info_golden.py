"""What real schedulers printed gives exactly these values."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbit_queue_info.pbs_values import NodePool, job_of, node_pool, queues_of
from orbit_queue_info.slurm_json import NotInJson, parse_associations, parse_sinfo, parse_squeue
from orbit_queue_info.slurm_text import (
    parse_associations_text,
    parse_sinfo_text,
    parse_squeue_text,
)

from orbit_core.batch import parse_pbs_json, parse_pbs_text

SAMPLES = Path(__file__).parent / "samples"
GOLDEN = Path(__file__).parent / "golden"
NOW = 1795464300.0


def read(name: str) -> str:
    return (SAMPLES / name).read_text()


def recorded(name: str) -> str:
    return str(json.loads(read(f"openpbs-23.06/ssh_{name}_command.json"))["stdout"])


def pbs_jobs(records: dict[str, dict[str, str]]) -> list[Any]:
    return [job_of(name, record, NOW) for name, record in records.items()]


def pool() -> NodePool:
    return node_pool(parse_pbs_json(read("pbs_pbsnodes_av.json"), "nodes"))


CASES: dict[str, Callable[[], Any]] = {
    "slurm24_queues": lambda: parse_sinfo(read("slurm24_sinfo_--json")),
    "slurm24_jobs": lambda: parse_squeue(read("slurm24_squeue_--json"), NOW),
    "slurm24_jobs_all_states": lambda: parse_squeue(read("slurm24_scontrol_show_jobs_--json"), NOW),
    "slurm24_allocations": lambda: parse_associations(read("slurm24_sacctmgr_show_assoc_--json")),
    "slurm22_queues": lambda: parse_sinfo_text(read("slurm22_sinfo_text")),
    "slurm22_jobs": lambda: parse_squeue(read("slurm22_squeue_--json"), NOW),
    "slurm22_jobs_text": lambda: parse_squeue_text(read("slurm22_squeue_text")),
    "slurm22_allocations": lambda: parse_associations_text(
        read("slurm22_sacctmgr_show_assoc_-P_-n")
    ),
    "pbs_queues": lambda: queues_of(parse_pbs_text(read("pbs_qstat_Qf.txt")), pool()),
    "pbs_jobs": lambda: pbs_jobs(parse_pbs_text(read("pbs_qstat_f.txt"))),
    "pbs_malformed": lambda: pbs_jobs(parse_pbs_json(read("pbs_malformed_qstat_f.json"), "Jobs")),
    "openpbs_jobs": lambda: pbs_jobs(parse_pbs_json(recorded("qstat_allusers"), "Jobs")),
    "openpbs_queues": lambda: queues_of(
        parse_pbs_json(recorded("qstat_partitions"), "Queue"),
        node_pool(parse_pbs_json(recorded("pbsnodes"), "nodes")),
    ),
}


def plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: attrs.asdict(value) for name, value in found.items()}
    return [attrs.asdict(value) for value in found]


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_output_gives_exactly_these_values(name: str) -> None:
    assert plain(CASES[name]()) == json.loads((GOLDEN / f"{name}.json").read_text())


def test_every_golden_file_is_compared() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_text_and_json_of_slurm_give_the_same_allocations() -> None:
    assert parse_associations(read("slurm24_sacctmgr_show_assoc_--json")) == (
        parse_associations_text(read("slurm24_sacctmgr_show_assoc_-P_-n"))
    )


@pytest.mark.parametrize(
    ("text", "document", "kind"),
    [
        ("pbs_qstat_xf.txt", "pbs_qstat_xf.json", "Jobs"),
        ("pbs_qstat_Qf.txt", "pbs_qstat_Qf.json", "Queue"),
    ],
)
def test_text_and_json_of_pbs_give_the_same_records(text: str, document: str, kind: str) -> None:
    assert parse_pbs_text(read(text)) == parse_pbs_json(read(document), kind)


def test_text_and_json_of_pbs_give_the_same_nodes() -> None:
    assert node_pool(parse_pbs_text(read("pbs_pbsnodes_av.txt"))) == pool()


def test_the_json_of_slurm_22_has_no_partitions() -> None:
    with pytest.raises(NotInJson, match="no list 'sinfo'"):
        parse_sinfo(read("slurm22_sinfo_--json"))


@pytest.mark.parametrize("version", ["sinfo_--json", "sinfo_--json=v0.0.40"])
def test_every_data_parser_gives_the_same_queues(version: str) -> None:
    found = parse_sinfo(read(f"slurm24_{version}"))
    assert [(queue.name, queue.time_limit, queue.gpus_per_node) for queue in found.values()] == [
        ("batch", 86400, 0), ("debug", 1800, 2), ("gpu", None, 2), ("maint", 3600, 0)
    ]  # fmt: skip


def parse_with_all(text: str) -> None:
    """Have every parser read a text: a refusal is a ValueError, and nothing else is raised."""
    for parse in (parse_sinfo, lambda text: parse_squeue(text, NOW), parse_associations):
        with suppress(NotInJson):
            parse(text)
    for parse_text in (parse_sinfo_text, parse_squeue_text, parse_associations_text):
        parse_text(text)
    records = [parse_pbs_text(text)]
    for kind in ("Jobs", "Queue", "nodes"):
        with suppress(ValueError):
            records.append(parse_pbs_json(text, kind))
    for found in records:
        pbs_jobs(found)
        queues_of(found, node_pool(found))


@pytest.mark.parametrize(
    "path",
    sorted(path for path in SAMPLES.rglob("*") if path.is_file()),
    ids=lambda path: path.name,
)
def test_no_output_breaks_any_parser(path: Path) -> None:
    parse_with_all(path.read_text())


@given(text=st.text())
def test_no_text_breaks_any_parser(text: str) -> None:
    parse_with_all(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["partition", "node", "state", "nodes", "total", "name", "job_id", "exit_code", "set",
             "number", "infinite", "job_state", "max", "jobs", "qos", "time_limit", "start_time"]
        ),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(record=json_values)
@settings(max_examples=300)
def test_no_json_breaks_any_parser(record: Any) -> None:
    for key in ("sinfo", "jobs", "associations", "Jobs", "Queue", "nodes"):
        parse_with_all(json.dumps({key: [record]}))
        parse_with_all(json.dumps({key: {"a": record}}))


def test_a_hundred_thousand_jobs_are_read() -> None:
    line = read("slurm22_squeue_text").splitlines()[0]
    assert len(parse_squeue_text(f"{line}\n" * 100_000)) == 100_000
