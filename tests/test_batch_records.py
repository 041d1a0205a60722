import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core.batch import parse_pbs_json, parse_pbs_text, seconds_of

JOB = """Job Id: 7.srv
    Job_Name = hello
    Resource_List.ncpus = 4
    comment = Job run at Mon on (node01:ncpus=2)+(node02:ncpus
	=2) and finished
    Variable_List = PBS_O_HOME=/home/user,PBS_O_LANG=C,A=1,2,
	PBS_O_PATH=/usr/bin
    Submit_arguments =

Job Id: 8.srv
    Job_Name = other
    message = first
      second
"""


def test_broken_lines_are_joined():
    records = parse_pbs_text(JOB)

    assert records["7.srv"] == {
        "Job_Name": "hello",
        "Resource_List.ncpus": "4",
        "comment": "Job run at Mon on (node01:ncpus=2)+(node02:ncpus=2) and finished",
        "Variable_List.PBS_O_HOME": "/home/user",
        "Variable_List.PBS_O_LANG": "C",
        "Variable_List.A": "1,2",
        "Variable_List.PBS_O_PATH": "/usr/bin",
        "Submit_arguments": "",
    }
    assert records["8.srv"] == {"Job_Name": "other", "message": "firstsecond"}


def test_nodes_are_records_too():
    text = "n1\n     state = free\n     jobs = 7.srv/0, 8.srv/1\n\nn2\n     state = down\n"

    assert parse_pbs_text(text) == {
        "n1": {"state": "free", "jobs": "7.srv/0, 8.srv/1"}, "n2": {"state": "down"}
    }  # fmt: skip


def test_lines_without_a_record_are_left_out():
    assert parse_pbs_text("\tstray\nn1\n  words\n     state = free\n") == {"n1": {"state": "free"}}


def document(record):
    return f'motd\n{{\n "Jobs":{{\n  "7.srv":{{\n{record}\n  }}\n }}\n}}\ntrailer'


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('"a":1e5', "1e5"),
        ('"a":007', "007"),
        ('"a":"b\\,c"', "b\\,c"),
        ('"a":"held by "bob" on Mon"', 'held by "bob" on Mon'),
        ('"a":"it\\\'s"', "it's"),
        ('"a":["x","y"]', "x, y"),
        ('"a":true', "True"),
        ('"a":1,\n"a":2', "2"),
        ('"b":"good",\n"a":007,\n"b":1', "007"),
    ],
)
def test_json_that_is_none_is_repaired(line, value):
    assert parse_pbs_json(document(line), "Jobs")["7.srv"]["a"] == value


def test_nested_values_have_dotted_names():
    found = parse_pbs_json(document('"Resource_List":{\n"ncpus":4\n}'), "Jobs")

    assert found == {"7.srv": {"Resource_List.ncpus": "4"}}


def test_no_jobs_are_no_records():
    assert parse_pbs_json('{"timestamp":1}', "Jobs") == {}


@pytest.mark.parametrize(
    "text", ["", "{", "qstat: 'json' is not supported", '{"Jobs":[]}', "[1]", '{"Jobs":' * 100_000],
    ids=["empty", "cut", "words", "list", "array", "deep"],
)  # fmt: skip
def test_json_beyond_repair_is_a_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_pbs_json(text, "Jobs")


names = st.from_regex(r"[A-Za-z][A-Za-z_]{0,8}", fullmatch=True)
values = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200)


@given(st.dictionaries(names.map(str.lower), values))
def test_text_and_json_give_the_same_record(record):
    lines = [_fold(f"    {name} = {value}") for name, value in record.items()]
    text = "\n".join(["Job Id: 7.srv", *lines, ""])

    found = parse_pbs_json(json.dumps({"Jobs": {"7.srv": record}}, indent=1), "Jobs")

    assert parse_pbs_text(text) == found == {"7.srv": record}


def _fold(line):
    return "\n\t".join([line[:78], *(line[at : at + 70] for at in range(78, len(line), 70))])


@given(st.text())
def test_no_text_breaks_the_parsers(text):
    parse_pbs_text(text)
    with suppress(ValueError):
        parse_pbs_json(text, "Jobs")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-00:00:00", 86400), ("2-12", 216000), ("30:00", 1800), ("1:00:00", 3600), ("90", 90),
        ("100:00:00", 360000), (" 5:00\n", 300), ("UNLIMITED", None), ("", None), ("-1", None),
        ("1:2:3:4", None), ("٣", None), ("9" * 30, None),
    ],
)  # fmt: skip
def test_durations_are_seconds(text, seconds):
    assert seconds_of(text) == seconds


@given(st.text())
def test_no_text_breaks_a_duration(text):
    assert seconds_of(text) is None or seconds_of(text) >= 0
