from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_psij.files import (
    READ_LIMIT,
    TAIL_LIMIT,
    Ending,
    JobFiles,
    Start,
    Tail,
    read_tail,
    read_text,
)
from orbit_psij.job import judge, news_of
from orbit_psij.models import JobRecord, JobSpec, JobState

RECORD = JobRecord("j", "s", "local", JobSpec("x"), 1.0, 1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "job.out"


@given(st.text(), st.data())
def test_text_read_in_pieces_is_the_whole_text(path: Path, text: str, data: st.DataObject) -> None:
    raw = text.encode()
    found, offset = "", 0
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    for cut in cuts:
        path.write_bytes(raw[:cut])
        part, offset = read_text(path, offset, is_final=False)
        found += part
        assert "\ufffd" not in part or "\ufffd" in text
    path.write_bytes(raw)
    part, offset = read_text(path, offset, is_final=True)
    assert found + part == text
    assert offset == len(raw)


def test_an_unfinished_character_is_held_back_until_the_end(path: Path) -> None:
    path.write_bytes(b"a\xc3")
    assert read_text(path, 0, is_final=False) == ("a", 1)
    assert read_text(path, 0, is_final=True) == ("a\ufffd", 2)


def test_an_offset_past_the_end_answers_with_the_end(path: Path) -> None:
    path.write_bytes(b"abc")
    assert read_text(path, 2**62, is_final=False) == ("", 3)


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_text(tmp_path / "none", 5, is_final=True) == ("", 0)
    assert read_tail(tmp_path / "none") == Tail("")


def test_one_read_is_bounded_and_goes_on_from_its_offset(path: Path) -> None:
    path.write_bytes("é".encode() * READ_LIMIT)
    text, offset = read_text(path, 1, is_final=True)
    assert text == "\ufffd" + "é" * (READ_LIMIT // 2 - 1)
    assert offset == READ_LIMIT
    assert read_text(path, offset, is_final=True) == ("é" * (READ_LIMIT // 2), 2 * READ_LIMIT)


def test_a_tail_begins_with_a_whole_character(path: Path) -> None:
    path.write_bytes("€".encode() * TAIL_LIMIT)
    tail = read_tail(path)
    assert tail.is_truncated
    assert set(tail.text) == {"€"}


@pytest.mark.parametrize("content", ["", "3", "x\n", "1000\n"], ids=repr)
def test_an_exit_file_counts_only_when_it_is_whole(tmp_path: Path, content: str) -> None:
    files = JobFiles(tmp_path / "job")
    files.path("exit").write_text(content)
    assert files.exit_code() is None


def test_a_start_names_process_and_host(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "job")
    assert files.start() is None
    files.path("start").write_text("42 node7\n")
    assert files.start() == Start(42, "node7")


@pytest.mark.parametrize(
    ("own", "theirs", "words", "verdict"),
    [
        (0, 7, "", (JobState.COMPLETED, 0, None)),
        (3, 0, "", (JobState.FAILED, 3, "exit code 3")),
        (None, -9, "", (JobState.FAILED, 137, "exit code 137, as after SIGKILL")),
        (
            143,
            None,
            "Terminated",
            (JobState.FAILED, 143, "exit code 143, as after SIGTERM: Terminated"),
        ),
        (None, 125, "", (JobState.FAILED, 125, "exit code 125: said")),
        (None, None, "", (JobState.FAILED, None, "said")),
    ],
)
def test_a_jobs_own_word_counts_before_its_executors(
    own: int | None,
    theirs: int | None,
    words: str,
    verdict: tuple[JobState, int | None, str | None],
) -> None:
    message = "said" if theirs in (125, None) and not words else None
    found = judge(RECORD, Ending(own, words, Tail(), Tail()), theirs, message)
    assert (found.state, found.exit_code, found.message) == verdict


def test_news_say_when_output_is_cut() -> None:
    ending = Ending(0, "", Tail("x", is_truncated=True), Tail("y", is_truncated=True))
    news = news_of(RECORD, ending)
    assert news["stdout_truncated"] is news["stderr_truncated"] is True
    assert "stdout_truncated" not in news_of(RECORD)
