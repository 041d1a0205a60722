import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs
import psutil
import pytest
from orbit_xgfabric import (
    FieldMap,
    GarbledSensor,
    InvalidReplay,
    SensorSource,
    SenspotFailed,
    SenspotMissing,
    SenspotTimeout,
    StaleSensor,
    Timeouts,
    WorkflowConfig,
)
from orbit_xgfabric.readings import Reading, to_csv
from orbit_xgfabric.sensors import AT_ONCE, acquire, look, made_up

pytestmark = pytest.mark.anyio

STAND_IN = Path(__file__).with_name("senspot-get")
WOOF = "woof://128.111.45.61/davisstations/daviscupsout"
NOW = 1_700_000_000


@attrs.frozen
class Station:
    """Be what `senspot-get` reads: a directory of logs, and the program itself."""

    directory: Path

    def write(self, *records: str, name: str = "daviscupsout", newest: float = NOW) -> None:
        """Write a log with a record every 300 s."""
        start = newest - 300 * (len(records) - 1)
        lines = [f"{start + 300 * place:.3f} {record}\n" for place, record in enumerate(records)]
        (self.directory / name).write_text("".join(lines))

    def script(self, text: str) -> None:
        """Put another program in the place of `senspot-get`."""
        program = self.directory / "senspot-get"
        program.unlink()
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    directory = tmp_path / "station"
    directory.mkdir()
    shutil.copy(STAND_IN, directory)
    monkeypatch.setenv("SENSPOT_PATH", str(directory))
    monkeypatch.setenv("SENSPOT_LOGS", str(directory))
    return Station(directory)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def test_the_newest_records_are_read_oldest_first(station: Station) -> None:
    station.write(*(f"{speed}:{speed + 1}:{10 * speed}:x" for speed in range(1, 21)))

    found = await acquire(WorkflowConfig(cspot_limit=12), Path())

    assert found.origin == "sensors"
    assert found.newest == {WOOF: 20}
    assert [one.winddir for one in found.readings] == [10 * speed for speed in range(9, 21)]
    assert found.readings[-1].dt == NOW
    assert found.readings[-1].windspeed == pytest.approx(20 * 0.44704)
    assert found.readings[-1].windavg == pytest.approx(21 * 0.44704)
    assert found.problems == []


async def test_a_log_that_is_shorter_than_the_limit_is_read_whole(station: Station) -> None:
    station.write("1:1:1", "2:2:2", "3:3:3")

    assert len((await acquire(WorkflowConfig(cspot_limit=100), Path())).readings) == 3


@pytest.mark.parametrize(
    ("unit", "speed"), [("m/s", 36.0), ("km/h", 10.0), ("kn", 18.52), ("mph", 16.09344)]
)
async def test_speeds_are_in_the_unit_of_their_source(
    station: Station, unit: str, speed: float
) -> None:
    station.write("36:36:90")
    source = SensorSource(WOOF, speed_unit=unit)  # type: ignore[arg-type]

    (found,) = (await acquire(WorkflowConfig(sources=[source]), Path())).readings

    assert found == Reading(NOW, pytest.approx(speed), pytest.approx(speed), 90)


async def test_values_are_taken_from_where_the_source_says(station: Station) -> None:
    station.write("0:0:0:0:5:0:0:270", name="unl")
    source = SensorSource(
        "woof://169.231.230.76/sharedfs/unl", FieldMap(windspeed=4, winddir=7), "m/s"
    )

    (found,) = (await acquire(WorkflowConfig(sources=[source]), Path())).readings

    assert found == Reading(NOW, 5, 5, 270)


async def test_a_record_counts_once_whichever_sources_name_it(station: Station) -> None:
    station.write("1:1:1", "2:2:2", "3:3:3")
    station.write("4:4:4", name="other")
    sources = [SensorSource(WOOF), SensorSource(WOOF), SensorSource("woof://h/other")]

    found = await acquire(WorkflowConfig(sources=sources), Path())

    assert sorted(one.winddir for one in found.readings) == [1, 2, 3, 4]
    assert found.newest == {WOOF: 3, "woof://h/other": 1}


async def test_what_can_be_read_is_kept_and_the_rest_is_told(station: Station) -> None:
    station.write("1:1:1", "unknown_senspot_type-x", "3:3:3", "5:5", "nan:1:1", "6:6:6")

    found = await acquire(WorkflowConfig(), Path())

    assert sorted(one.winddir for one in found.readings) == [1, 3, 6]
    assert len(found.problems) == 3
    assert any("'unknown_senspot_type-x': its value 0" in said for said in found.problems)
    assert any("record 4" in said and "no winddir" in said for said in found.problems)


async def test_many_problems_are_summed_up(station: Station) -> None:
    station.write(*["x"] * 20, "1:1:1")

    found = await acquire(WorkflowConfig(cspot_limit=30), Path())

    assert len(found.problems) == 6
    assert found.problems[-1] == "and 15 more records could not be read"


async def test_one_source_that_fails_does_not_harm_another(station: Station) -> None:
    station.write("1:1:1")
    sources = [SensorSource("woof://h/gone"), SensorSource(WOOF)]

    found = await acquire(WorkflowConfig(sources=sources), Path())

    assert len(found.readings) == 1
    assert ["could not get element size for woof://h/gone" in said for said in found.problems]


async def test_a_sensor_that_cannot_be_reached_fails_in_its_own_words(station: Station) -> None:
    with pytest.raises(SenspotFailed, match="senspot-get: could not get element size for woof"):
        await acquire(WorkflowConfig(), Path())


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "hello",
        "1:1:1 time: soon 1.2.3.4 seq_no: 5",
        "1:1:1 time: 5.0 1.2.3.4 seq_no: 5\\nmore",
        "\\0377\\0376",
    ],
)
async def test_garbage_is_refused(station: Station, printed: str) -> None:
    station.script(f"printf '{printed}'")

    with pytest.raises(GarbledSensor, match="senspot-get printed"):
        await acquire(WorkflowConfig(), Path())


async def test_another_record_than_was_asked_for_is_refused(station: Station) -> None:
    station.script("echo '1:1:1 time: 5.0 1.2.3.4 seq_no: 5'")

    found = await acquire(WorkflowConfig(cspot_limit=2), Path())

    assert len(found.readings) == 1
    assert "not the line of record 4" in found.problems[0]


async def test_endless_output_is_cut_off(station: Station) -> None:
    station.script("yes")

    with pytest.raises(GarbledSensor, match="printed without end"):
        await acquire(WorkflowConfig(), Path())


async def test_old_data_are_refused(station: Station) -> None:
    station.write("1:1:1", newest=time.time() - 7200)
    source = SensorSource(WOOF, max_age=3600)

    with pytest.raises(StaleSensor, match=r"number 1\) is 72\d\d s old"):
        await acquire(WorkflowConfig(sources=[source]), Path())


async def test_fresh_data_are_taken(station: Station) -> None:
    station.write("1:1:1", newest=time.time() - 60)
    source = SensorSource(WOOF, max_age=3600)

    assert (await acquire(WorkflowConfig(sources=[source]), Path())).problems == []


def is_running(directory: Path) -> bool:
    """Tell whether a process has a path in this directory on its command line."""
    return any(
        str(directory) in " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cmdline"])
    )


async def test_a_call_that_hangs_is_killed_with_its_children(
    station: Station, tmp_path: Path
) -> None:
    station.script('tail -f "$0" & wait')
    config = WorkflowConfig(timeouts=Timeouts(read=0.5))

    with pytest.raises(SenspotTimeout, match="50000 to 60000"):
        await acquire(config, Path())
    await until(lambda: not is_running(tmp_path))


async def test_all_of_it_has_a_deadline_and_what_was_read_is_kept(station: Station) -> None:
    station.write("1:1:1", "2:2:2")
    real = station.directory / "real"
    (station.directory / "senspot-get").rename(real)
    (station.directory / "senspot-get").write_text("")
    station.script(f'case "$*" in *-S*) sleep 1000 ;; esac; exec {real} "$@"')
    config = WorkflowConfig(timeouts=Timeouts(acquisition=4.0, read=1000))

    found = await acquire(config, Path())

    assert len(found.readings) == 1
    assert found.problems == ["not all records were read within 4 s: 1 were"]


async def test_without_anything_the_deadline_is_an_error(station: Station) -> None:
    station.script("sleep 1000")

    with pytest.raises(SenspotTimeout, match=r"timeouts\.acquisition"):
        await acquire(WorkflowConfig(timeouts=Timeouts(acquisition=0.5)), Path())


async def test_eight_records_are_read_at_a_time(station: Station, tmp_path: Path) -> None:
    station.write(*["1:1:1"] * 30)
    real, running, gate = (tmp_path / name for name in ("real", "running", "gate"))
    running.mkdir()
    (station.directory / "senspot-get").rename(real)
    (station.directory / "senspot-get").write_text("")
    station.script(
        f'case "$*" in *-S*) touch {running}/$$; until [ -e {gate} ]; do sleep 0.05; done ;; esac\n'
        f'exec {real} "$@"'
    )
    found = []

    async def read() -> None:
        found.append(await acquire(WorkflowConfig(cspot_limit=30), Path()))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await until(lambda: len(list(running.iterdir())) >= AT_ONCE)
        assert len(list(running.iterdir())) == AT_ONCE == 8
        gate.touch()
    assert len(found[0].readings) == 30


async def test_cancelling_leaves_no_process_behind(station: Station, tmp_path: Path) -> None:
    station.script('exec tail -f "$0"')

    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(acquire, WorkflowConfig(), Path())
            await until(lambda: is_running(tmp_path))
            group.cancel_scope.cancel()

    assert not scope.cancelled_caught
    await until(lambda: not is_running(tmp_path))


async def test_a_program_that_cannot_be_started_is_told(station: Station) -> None:
    program = station.directory / "senspot-get"
    program.write_text("#!/no/such/interpreter\n")

    with pytest.raises(SenspotFailed, match="cannot be started"):
        await acquire(WorkflowConfig(), Path())


@pytest.mark.parametrize("named", ["file", "directory"])
async def test_the_variable_may_name_the_program_or_its_directory(
    station: Station, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    station.write("1:1:1")
    if named == "file":
        monkeypatch.setenv("SENSPOT_PATH", str(station.directory / "senspot-get"))

    assert (await acquire(WorkflowConfig(), Path())).readings


@pytest.mark.parametrize("place", ["path", "bin", "common/cspot/build/bin"])
async def test_the_program_is_found_in_the_documented_places(
    station: Station, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    station.write("1:1:1")
    monkeypatch.delenv("SENSPOT_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    target = tmp_path / place
    target.mkdir(parents=True)
    shutil.move(station.directory / "senspot-get", target)
    if place == "path":
        monkeypatch.setenv("PATH", f"{target}:{os.environ['PATH']}")

    assert (await acquire(WorkflowConfig(), Path())).readings


@pytest.mark.parametrize("named", [None, "/nowhere", __file__])
async def test_a_missing_program_says_where_it_was_sought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SENSPOT_PATH", raising=False)
    if named:
        monkeypatch.setenv("SENSPOT_PATH", named)

    with pytest.raises(SenspotMissing, match=named or "neither on PATH nor in"):
        await acquire(WorkflowConfig(), Path())


async def test_looking_reads_the_newest_record_alone(station: Station) -> None:
    station.write("1:1:1", "2:2:2", "3:3:3")

    found = await look(WorkflowConfig(), Path())

    assert [one.winddir for one in found.readings] == [3]
    assert found.newest == {WOOF: 3}


async def test_made_up_data_have_a_row_for_each_simulation_and_eight_at_least() -> None:
    for count, rows in ((4, 8), (20, 20)):
        config = WorkflowConfig(mock_sensor_data=True, num_simulations=count)
        found = await acquire(config, Path())
        assert (found.origin, len(found.readings)) == ("mock", rows)
    assert len((await look(config, Path())).readings) == 1


def test_made_up_data_depend_on_the_time_alone() -> None:
    assert made_up(8, NOW) == made_up(9, NOW)[1:]
    assert all(0 < one.windspeed < 30 and 0 <= one.winddir <= 360 for one in made_up(500, NOW))


async def test_a_file_is_replayed_and_goes_before_all_else(tmp_path: Path) -> None:
    rows = [Reading(2, 3, 3, 30), Reading(1, 2, 2, 20)]
    (tmp_path / "old.csv").write_text(to_csv(rows))
    config = WorkflowConfig(replay="old.csv", mock_sensor_data=True)

    found = await acquire(config, tmp_path)

    assert found.origin == "replay"
    assert found.readings == rows[::-1]
    assert (await look(config, tmp_path)).readings == rows[:1]
    absolute = attrs.evolve(config, replay=str(tmp_path / "old.csv"))
    assert (await acquire(absolute, Path("/"))).readings == rows[::-1]


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def _nothing(path: Path) -> None:
    assert not path.exists()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_nothing, "cannot be read: "),
        (_directory, "cannot be read: "),
        (_pipe, "is no file"),
        (_binary, "is no text"),
        (_huge, "replay a part of it"),
    ],
)
async def test_what_cannot_be_replayed_says_why(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "old.csv")

    with pytest.raises(InvalidReplay, match=said):
        await acquire(WorkflowConfig(replay="old.csv"), tmp_path)


async def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidReplay, match="cannot be read"):
        await acquire(WorkflowConfig(replay="a\0b"), tmp_path)
