"""Find the GPUs and read their load from the vendors' tools, which may be broken in any way."""

import json
import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from .models import Gpu, GpuLoad
from .probe import Probe

logger = logging.getLogger(__name__)

DEADLINE = 5.0
"""Seconds that a tool has to answer."""

REST = 60.0
"""Seconds for which a tool that did not answer is not asked again: it would delay every sample."""

MIB = 1024 * 1024

_CSV = "--format=csv,noheader,nounits"
_NVIDIA_LOADS = "index,utilization.gpu,utilization.memory,memory.total,memory.used,memory.free"
_NVIDIA_LIST = re.compile(r"GPU (\d{1,4}): (.+) \(UUID: ([^)]+)\)", re.ASCII)
_INDEX = re.compile(r"\d{1,4}", re.ASCII)
_CARD = re.compile(r"card(\d{1,4})", re.ASCII)


def parse_nvidia_gpus(text: str) -> list[Gpu]:
    """Return the GPUs of ``nvidia-smi --query-gpu=index,name,driver_version,uuid``."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) >= 4 and _INDEX.fullmatch(fields[0]):
            index, name = int(fields[0]), ", ".join(fields[1:-2])
            found.append(Gpu(f"nvidia{index}", index, name, fields[-2], fields[-1], "NVIDIA"))
    return found


def parse_nvidia_list(text: str) -> list[Gpu]:
    """Return the GPUs of ``nvidia-smi -L``, which says nothing of the driver."""
    return [
        Gpu(f"nvidia{int(index)}", int(index), name, "", uuid, "NVIDIA")
        for index, name, uuid in _NVIDIA_LIST.findall(text)
    ]


def parse_nvidia_loads(text: str) -> dict[str, GpuLoad]:
    """Return the loads of ``nvidia-smi --query-gpu=index,utilization.gpu,...`` by GPU id.

    What the device does not support reads ``[N/A]`` or ``[Not Supported]`` and stays unknown.
    """
    found = {}
    for line in text.splitlines():
        index, *values = [field.strip() for field in line.split(",")]
        if _INDEX.fullmatch(index) and len(values) == 5:
            found[f"nvidia{int(index)}"] = GpuLoad(*map(_number, values))
    return found


def parse_rocm_gpus(text: str) -> list[Gpu]:
    """Return the GPUs of ``rocm-smi --showproductname --showdriverversion --showuniqueid``."""
    document = _rocm_document(text)
    driver = _text(document.get("system", {}).get("driver version"))
    found = []
    for card, fields in document.items():
        if match := _CARD.fullmatch(card):
            index = int(match[1])
            name = _text(fields.get("card series") or fields.get("card model") or "AMD GPU")
            uuid = _text(fields.get("unique id"))
            found.append(Gpu(f"amd{index}", index, name, driver, uuid, "AMD"))
    return found


def parse_rocm_loads(text: str) -> dict[str, GpuLoad]:
    """Return the loads of ``rocm-smi --showuse --showmeminfo vram --json`` by GPU id."""
    found = {}
    for card, fields in _rocm_document(text).items():
        if match := _CARD.fullmatch(card):
            found[f"amd{int(match[1])}"] = _rocm_load(fields)
    return found


def _rocm_load(fields: Mapping[str, Any]) -> GpuLoad:
    total = _mebibytes(fields.get("vram total memory (b)"))
    used = _mebibytes(fields.get("vram total used memory (b)"))
    free = share = None
    if total and used is not None:
        free, share = round(total - used, 1), round(100 * used / total, 1)
    return GpuLoad(_number(fields.get("gpu use (%)")), share, total, used, free)


def _rocm_document(text: str) -> dict[str, dict[str, Any]]:
    """Return the JSON that may follow warnings; the case of its keys differs between releases."""
    try:
        document = json.JSONDecoder().raw_decode(text[max(text.find("{"), 0) :])[0]
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {
        card: {key.lower(): value for key, value in fields.items()}
        for card, fields in document.items()
        if isinstance(fields, dict)
    }


def find_intel(sysfs: Path) -> list[Gpu]:
    """Return Intel's GPUs below ``sysfs``/class/drm; the kernel tells no load."""
    found = []
    for card in sorted(sysfs.glob("class/drm/card*")):
        match = _CARD.fullmatch(card.name)
        if match and _content(card / "device/vendor") == "0x8086":
            found.append(_intel_gpu(int(match[1]), card / "device"))
    return sorted(found, key=lambda gpu: gpu.index)


def _intel_gpu(index: int, device: Path) -> Gpu:
    name = f"Intel GPU {_content(device / 'device')}".strip()
    driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
    slot = re.search(r"^PCI_SLOT_NAME=(.+)$", _content(device / "uevent"), re.MULTILINE)
    return Gpu(f"intel{index}", index, name, driver, slot[1] if slot else "", "Intel")


@attrs.define(eq=False)
class Gpus:
    """Know this host's GPUs once `detect` ran, and read their load."""

    probe: Probe
    environment: Mapping[str, str] = os.environ
    sysfs: Path = Path("/sys")
    deadline: float = DEADLINE
    found: list[Gpu] = attrs.field(factory=list, init=False)
    _tools: dict[str, str] = attrs.field(factory=dict, init=False)
    _resting: dict[str, float] = attrs.field(factory=dict, init=False)

    async def detect(self) -> None:
        """Look for tools and devices, all vendors at once."""
        self._tools = await anyio.to_thread.run_sync(self._find_tools)
        per_vendor: dict[str, list[Gpu]] = {"NVIDIA": [], "AMD": [], "Intel": []}

        async def nvidia() -> None:
            query = "--query-gpu=index,name,driver_version,uuid"
            per_vendor["NVIDIA"] = parse_nvidia_gpus(await self._ask("nvidia-smi", query, _CSV))
            if not per_vendor["NVIDIA"]:
                per_vendor["NVIDIA"] = parse_nvidia_list(await self._ask("nvidia-smi", "-L"))

        async def amd() -> None:
            options = ("--showproductname", "--showdriverversion", "--showuniqueid", "--json")
            per_vendor["AMD"] = parse_rocm_gpus(await self._ask("rocm-smi", *options))

        async def intel() -> None:
            per_vendor["Intel"] = await anyio.to_thread.run_sync(find_intel, self.sysfs)

        async with anyio.create_task_group() as group:
            for search in (nvidia, amd, intel):
                group.start_soon(search)
        self.found = [gpu for gpus in per_vendor.values() for gpu in gpus]

    async def read(self) -> list[dict[str, Any]]:
        """Return every GPU with what its tool says of its load now, as JSON data."""
        loads: dict[str, GpuLoad] = {}

        async def add(parse: Callable[[str], dict[str, GpuLoad]], *command: str) -> None:
            loads.update(parse(await self._ask(*command)))

        vendors = {gpu.vendor for gpu in self.found}
        async with anyio.create_task_group() as group:
            if "NVIDIA" in vendors:
                query = f"--query-gpu={_NVIDIA_LOADS}"
                group.start_soon(add, parse_nvidia_loads, "nvidia-smi", query, _CSV)
            if "AMD" in vendors:
                options = ("--showuse", "--showmeminfo", "vram", "--json")
                group.start_soon(add, parse_rocm_loads, "rocm-smi", *options)
        return [{**attrs.asdict(gpu), **loads.get(gpu.id, GpuLoad()).known()} for gpu in self.found]

    def _find_tools(self) -> dict[str, str]:
        variables = {"nvidia-smi": "NVIDIA_SMI_PATH", "rocm-smi": "ROCM_SMI_PATH"}
        path = self.environment.get("PATH")
        found = {
            tool: shutil.which(self.environment.get(variable) or tool, path=path)
            for tool, variable in variables.items()
        }
        return {tool: where for tool, where in found.items() if where is not None}

    async def _ask(self, tool: str, *options: str) -> str:
        """Return what a tool prints; nothing if it is missing, fails, or did not answer lately."""
        if tool not in self._tools or anyio.current_time() < self._resting.get(tool, 0.0):
            return ""
        call = partial(self._output, [self._tools[tool], *options])
        # The tool is killed at its deadline; one that cannot be killed is left behind soon after,
        # which anyio.run_process would not do: it waits for the process's end, whatever comes.
        output = await self.probe.call(tool, call, self.deadline + 1)
        if output is None:
            logger.warning("%s does not answer: it is not asked again for %g s", tool, REST)
            self._resting[tool] = anyio.current_time() + REST
        return output or ""

    def _output(self, command: list[str]) -> str | None:
        """Return what a command prints, nothing if it fails, None if it has to be killed."""
        environment = {**self.environment, "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=self.deadline,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return None
        except (OSError, subprocess.SubprocessError) as error:
            logger.info("%s says nothing: %s", command[0], error)
            return ""
        return done.stdout.decode(errors="replace")


def _number(value: Any) -> float | None:
    """Return a finite number, whole if it can be."""
    try:
        number = float(str(value).strip())
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _text(value: Any) -> str:
    """Return text that UTF-8 can carry: JSON may hold halves of surrogate pairs."""
    return "" if value is None else str(value).encode(errors="replace").decode()


def _mebibytes(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else round(number / MIB, 1)


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
