import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_sysinfo import gpus
from orbit_sysinfo.gpus import Gpus
from orbit_sysinfo.models import GpuLoad
from orbit_sysinfo.probe import Probe

pytestmark = pytest.mark.anyio

UUID = "GPU-5f6a1b1e-0c3d-4f0e-9f0a-0c2a6f6f0d3e"
NVIDIA_GPUS = f"0, NVIDIA A100-SXM4-40GB, 535.104.05, {UUID}\n1, NVIDIA A30, 535.104.05, GPU-1\n"
NVIDIA_LOADS = "0, 87, 41, 40960, 31229, 9731\n1, [N/A], [Not Supported], 24576, 4, 24572\n"
NVIDIA_LIST = f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {UUID})\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\n"
LOW_POWER = "WARNING: AMD GPU device(s) is/are in a low-power state. Check power control\n\n"
ROCM_GPUS = {
    "card0": {"Card Series": "AMD Instinct MI250X", "Unique ID": "0x9b8a", "Card SKU": "D65201"},
    "card1": {"Card model": "0x740c", "Unique ID": "0x77aa"},
    "system": {"Driver version": "6.2.4"},
}
ROCM_LOADS = {
    "card0": {
        "GPU use (%)": "12",
        "VRAM Total Memory (B)": "68702699520",
        "VRAM Total Used Memory (B)": "10960896",
    },
    "card1": {"GPU use (%)": "N/A"},
    "system": {},
}
NVIDIA_SCRIPT = f"""\
[ "$LC_ALL" = C ] || exit 3
case "$*" in
*utilization*) cat <<'END'
{NVIDIA_LOADS}END
;;
*) cat <<'END'
{NVIDIA_GPUS}END
;;
esac
"""
ROCM_SCRIPT = f"""\
case "$*" in
*--showuse*) echo '{json.dumps(ROCM_LOADS)}' ;;
*) echo '{LOW_POWER}{json.dumps(ROCM_GPUS)}' ;;
esac
"""


def fake(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make_gpus(tmp_path: Path, deadline: float = 20, **tools: str) -> Gpus:
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    return Gpus(Probe(), {"PATH": path, **tools}, tmp_path / "sys", deadline)


async def test_nvidia_gpus_are_found_with_their_load(tmp_path: Path) -> None:
    fake(tmp_path / "bin/nvidia-smi", NVIDIA_SCRIPT)
    found = make_gpus(tmp_path)
    await found.detect()
    first, second = await found.read()
    assert first == {
        **{"id": "nvidia0", "index": 0, "name": "NVIDIA A100-SXM4-40GB", "vendor": "NVIDIA"},
        **{"driver_version": "535.104.05", "uuid": UUID, "util_gpu": 87, "util_mem": 41},
        **{"mem_total": 40960, "mem_used": 31229, "mem_free": 9731},
    }
    assert "util_gpu" not in second
    assert second["mem_total"] == 24576


async def test_amd_gpus_are_found_with_their_load_behind_warnings(tmp_path: Path) -> None:
    fake(tmp_path / "bin/rocm-smi", ROCM_SCRIPT)
    found = make_gpus(tmp_path)
    await found.detect()
    first, second = await found.read()
    assert first == {
        **{"id": "amd0", "index": 0, "name": "AMD Instinct MI250X", "vendor": "AMD"},
        **{"driver_version": "6.2.4", "uuid": "0x9b8a", "util_gpu": 12, "util_mem": 0.0},
        **{"mem_total": 65520, "mem_used": 10.5, "mem_free": 65509.5},
    }
    assert second["name"] == "0x740c"
    assert not {"util_gpu", "mem_total"} & set(second)


async def test_intel_gpus_are_found_in_sysfs_without_load(tmp_path: Path) -> None:
    device = tmp_path / "sys/class/drm/card1/device"
    device.mkdir(parents=True)
    (tmp_path / "drivers/xe").mkdir(parents=True)
    (device / "driver").symlink_to(tmp_path / "drivers/xe")
    (device / "vendor").write_text("0x8086\n")
    (device / "device").write_text("0x0bd5\n")
    (device / "uevent").write_text("DRIVER=xe\nPCI_SLOT_NAME=0000:3a:00.0\n")
    (tmp_path / "sys/class/drm/card1-DP-1").mkdir()
    other = tmp_path / "sys/class/drm/card2/device"
    other.mkdir(parents=True)
    (other / "vendor").write_text("0x8086\n")
    (tmp_path / "sys/class/drm/card0").mkdir()
    found = make_gpus(tmp_path)
    await found.detect()
    first, second = await found.read()
    assert first == {
        **{"id": "intel1", "index": 1, "name": "Intel GPU 0x0bd5", "driver_version": "xe"},
        **{"uuid": "0000:3a:00.0", "vendor": "Intel"},
    }
    assert (second["id"], second["driver_version"], second["uuid"]) == ("intel2", "", "")


@pytest.mark.parametrize(
    ("variable", "script", "vendor"),
    [
        pytest.param("NVIDIA_SMI_PATH", NVIDIA_SCRIPT, "NVIDIA", id="nvidia"),
        pytest.param("ROCM_SMI_PATH", ROCM_SCRIPT, "AMD", id="amd"),
    ],
)
async def test_a_tool_that_the_environment_names_serves_detection_and_load(
    tmp_path: Path, variable: str, script: str, vendor: str
) -> None:
    tool = fake(tmp_path / "opt/tool", script)
    found = make_gpus(tmp_path, 20, **{variable: str(tool)})
    await found.detect()
    first = (await found.read())[0]
    assert first["vendor"] == vendor
    assert "util_gpu" in first


async def test_an_old_nvidia_tool_is_asked_for_its_list(tmp_path: Path) -> None:
    script = f"[ \"$1\" = -L ] || exit 2\ncat <<'END'\n{NVIDIA_LIST}END"
    fake(tmp_path / "bin/nvidia-smi", script)
    found = make_gpus(tmp_path)
    await found.detect()
    assert [(gpu["name"], gpu["uuid"]) for gpu in await found.read()] == [
        ("NVIDIA A100-SXM4-40GB", UUID)
    ]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo 'NVIDIA-SMI has failed' ; exit 9", id="fails"),
        pytest.param("echo '{{{ , , ,'; printf '\\377\\n'", id="garbage"),
        pytest.param("exec /bin/sleep 60", id="hangs"),
        pytest.param("kill -9 $$", id="dies"),
        pytest.param("echo '[1, 2]'", id="other JSON"),
    ],
)
async def test_a_broken_tool_finds_no_gpus(tmp_path: Path, script: str) -> None:
    for tool in ("nvidia-smi", "rocm-smi"):
        fake(tmp_path / "bin" / tool, script)
    found = make_gpus(tmp_path, deadline=0.5)
    with anyio.fail_after(20):
        await found.detect()
        assert await found.read() == []


async def test_a_tool_that_breaks_later_leaves_the_gpu_without_load(tmp_path: Path) -> None:
    tool = fake(tmp_path / "bin/nvidia-smi", NVIDIA_SCRIPT)
    found = make_gpus(tmp_path)
    await found.detect()
    tool.unlink()
    assert [set(gpu) for gpu in await found.read()] == [
        {"id", "index", "name", "driver_version", "uuid", "vendor"}
    ] * 2


async def test_a_tool_that_hangs_later_is_left_alone_for_a_while(tmp_path: Path) -> None:
    tool = fake(tmp_path / "bin/nvidia-smi", NVIDIA_SCRIPT)
    found = make_gpus(tmp_path)
    await found.detect()
    fake(tool, f"echo asked >> {tmp_path}/log; exec /bin/sleep 60")
    found.deadline = 2.0
    with anyio.fail_after(20):
        samples = [await found.read() for _ in range(3)]
    assert [len(gpus) for gpus in samples] == [2, 2, 2]
    assert (tmp_path / "log").read_text().count("asked") == 1


async def test_a_tool_whose_child_keeps_the_pipe_open_is_left_behind(tmp_path: Path) -> None:
    fake(tmp_path / "bin/nvidia-smi", "/bin/sleep 3 & exec /bin/sleep 3")
    found = make_gpus(tmp_path, deadline=0.1)
    with anyio.fail_after(20):
        await found.detect()
    assert found.found == []


async def test_a_tool_that_cannot_be_run_finds_no_gpus(tmp_path: Path) -> None:
    tool = fake(tmp_path / "bin/nvidia-smi", "")
    tool.write_text("#!/missing/interpreter\n")
    found = make_gpus(tmp_path)
    await found.detect()
    assert found.found == []


def test_half_a_surrogate_pair_becomes_text_that_can_be_sent() -> None:
    (found,) = gpus.parse_rocm_gpus('{"card0": {"Card Series": "MI\\ud800"}}')
    assert found.name.encode()


def test_a_load_that_is_not_a_finite_number_stays_unknown() -> None:
    assert gpus.parse_nvidia_loads("0, nan, inf, 1.5, x, 2\n1, 2\n") == {
        "nvidia0": GpuLoad(None, None, 1.5, None, 2)
    }


PARSERS = [
    *(gpus.parse_nvidia_gpus, gpus.parse_nvidia_list, gpus.parse_nvidia_loads),
    *(gpus.parse_rocm_gpus, gpus.parse_rocm_loads),
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text() | st.from_regex(r"(\d+(, [^,\n]*){3,6}\n){1,3}"))
def test_any_output_can_be_parsed(parse: Callable[[str], object], text: str) -> None:
    assert not parse(text) or text


CARDS = st.from_regex(r"card[0-9]{1,2}", fullmatch=True)
KEYS = st.sampled_from(["GPU use (%)", "VRAM Total Memory (B)", "VRAM Total Used Memory (B)"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(CARDS, st.dictionaries(KEYS, VALUES) | VALUES))
def test_any_rocm_document_gives_loads_that_json_can_carry(document: dict[str, object]) -> None:
    for load in gpus.parse_rocm_loads(json.dumps(document)).values():
        json.dumps(load.known(), allow_nan=False)
