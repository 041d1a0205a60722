"""Read and check what a client asks to run.

Every string is checked: PSI/J writes most of them into a batch script, in which a newline within a
queue name would be a line of its own.
"""

import re
from collections.abc import Iterator
from typing import Any

import attrs

from orbit_core.errors import InvalidBody
from orbit_core.values import as_model

from .batch_options import Dialect
from .models import LAUNCHERS, JobAttributes, JobResources, JobSpec, Submission
from .offer import LOCAL, Offer

STRING_LIMIT = 128 * 1024 - 1
"""Bytes of one argument or environment entry (MAX_ARG_STRLEN, execve(2))."""

TOTAL_LIMIT = 1024 * 1024
"""Bytes of all arguments and the environment together: half of what execve(2) takes by default."""

COUNT_LIMIT = 2**31 - 1
ARRAY_LIMIT = 1000
"""Elements of a job array: SLURM takes no more unless told (slurm.conf(5), MaxArraySize)."""

LOCAL_PROCESS_LIMIT = 10_000
"""Processes of one local job; PSI/J writes a node file with a line for each."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CUSTOM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def read_submission(body: dict[str, Any], offer: Offer) -> Submission:
    """Return what a body of ``submit`` asks for; ``offer`` has the executors there are.

    ``attributes.node_count`` counts as ``resources.node_count``, ``attributes.project`` as
    ``attributes.account``, and dotted keys of ``attributes``, and what is in its
    ``custom_attributes``, as custom attributes.

    Raises InvalidBody, naming every fault with its place.
    """
    faults: list[str] = []
    executor = body.get("executor", LOCAL)
    fault = offer.fault(executor)
    if fault is not None:
        faults.append(fault)
    spec = read_spec(body.get("job_spec"), faults)
    if spec is not None:
        is_local = executor == LOCAL
        faults += check_spec(spec, is_local=is_local)
        if is_local:
            faults += _local_faults(spec)
        elif fault is None:
            faults += _batch_faults(spec, offer.dialects[executor])
    if faults or spec is None:
        raise InvalidBody("body: " + "; ".join(faults))
    return Submission(spec, executor)


def read_spec(data: object, faults: list[str]) -> JobSpec | None:
    """Return a job specification; null stands for an absent option.

    Every fault of its form is added to ``faults``, and the result is None if it cannot be built.
    """
    if isinstance(data, dict):
        data = _normalised(data, faults)
    try:
        return as_model(data, JobSpec, "job_spec", strict=True)
    except InvalidBody as error:
        faults.append(error.detail)
        return None


def _normalised(data: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    spec = _without_null(data)
    attributes, resources, custom = (
        _copy(spec, key) for key in ("attributes", "resources", "custom_attributes")
    )
    if isinstance(attributes, dict):
        if isinstance(resources, dict):
            _move(attributes, "node_count", resources, "node_count", faults)
        for alias in ("project", "project_name"):
            _move(attributes, alias, attributes, "account", faults)
        if isinstance(custom, dict):
            _gather_custom(attributes, custom, faults)
        if "duration" in attributes:
            attributes["duration"] = _whole(attributes["duration"])
    environment = spec.get("environment")
    if isinstance(environment, dict):
        spec["environment"] = {
            name: str(value) if type(value) is int else value for name, value in environment.items()
        }
    return spec


def _gather_custom(attributes: dict[str, Any], custom: dict[str, Any], faults: list[str]) -> None:
    """Move PSI/J's ``attributes.custom_attributes`` and dotted keys to where they belong."""
    nested = attributes.get("custom_attributes")
    if isinstance(nested, dict):
        nested = dict(attributes.pop("custom_attributes"))
        for key in list(nested):
            _move(nested, key, custom, key, faults)
    for key in [key for key in attributes if "." in key]:
        _move(attributes, key, custom, key, faults)


def _copy(spec: dict[str, Any], key: str) -> Any:
    """Replace an object within ``spec`` by its copy, or by an empty one, and return that."""
    value = spec.get(key, {})
    spec[key] = _without_null(value) if isinstance(value, dict) else value
    return spec[key]


def _without_null(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _move(
    source: dict[str, Any], key: str, target: dict[str, Any], name: str, faults: list[str]
) -> None:
    value = source.pop(key, None)
    if value is not None and target.setdefault(name, value) != value:
        faults.append(f"job_spec.attributes.{key}: contradicts another value for {name!r}")


def _whole(value: Any) -> Any:
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    return int(value) if is_digits and len(value) < 20 else value


def check_spec(spec: JobSpec, *, is_local: bool) -> list[str]:
    """Return every fault of a specification; ``is_local`` allows more characters in arguments."""
    return [f"job_spec.{fault}" for fault in _faults(spec, is_local=is_local)]


def _faults(spec: JobSpec, *, is_local: bool) -> Iterator[str]:
    yield from _executable_faults(spec)
    for name in _PLAIN_TEXTS:
        yield from _text_faults(name, getattr(spec, name))
    for name in ("queue_name", "account", "reservation_id"):
        yield from _text_faults(f"attributes.{name}", getattr(spec.attributes, name))
    forbidden = _CONTROL_BUT_LINES if is_local else _CONTROL
    for index, argument in enumerate(spec.arguments):
        yield from _control_faults(f"arguments[{index}]", argument, forbidden)
    yield from _environment_faults(spec.environment, forbidden)
    yield from _custom_faults(spec)
    yield from _input_faults(spec)
    yield from _size_faults(spec)
    yield from _resource_faults(spec.resources, is_local=is_local)
    yield from _duration_faults(spec.attributes)


_PLAIN_TEXTS = (
    "directory", "name", "stdin_path", "stdout_path", "stderr_path", "pre_launch", "post_launch",
)  # fmt: skip


def _executable_faults(spec: JobSpec) -> Iterator[str]:
    yield from _text_faults("executable", spec.executable)
    if spec.executable.startswith("-"):
        yield "executable: must not begin with '-', as a shell would take it for an option"
    if spec.launcher is not None and spec.launcher not in LAUNCHERS:
        yield f"launcher: {spec.launcher!r} is unknown, use one of {', '.join(LAUNCHERS)}"


def _text_faults(path: str, value: str | None) -> Iterator[str]:
    if value == "":
        yield f"{path}: must not be empty"
    yield from _control_faults(path, value or "", _CONTROL)


def _control_faults(path: str, value: str, forbidden: re.Pattern[str]) -> Iterator[str]:
    found = forbidden.search(value)
    if found is not None:
        yield f"{path}: character U+{ord(found.group()):04X} is not allowed"


def _environment_faults(environment: dict[str, str], forbidden: re.Pattern[str]) -> Iterator[str]:
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            yield f"environment: {name!r} is not a variable name ([A-Za-z_][A-Za-z0-9_]*)"
        yield from _control_faults(f"environment.{name}", value, forbidden)


def _custom_faults(spec: JobSpec) -> Iterator[str]:
    for name, value in spec.custom_attributes.items():
        if not _CUSTOM_NAME.fullmatch(name):
            yield f"custom_attributes: {name!r} is not a name ([A-Za-z_][A-Za-z0-9_.-]*)"
        if isinstance(value, str):
            yield from _control_faults(f"custom_attributes.{name}", value, _CONTROL)


def _input_faults(spec: JobSpec) -> Iterator[str]:
    yield from _control_faults("stdin", spec.stdin or "", _SURROGATE)
    if spec.stdin is not None and spec.stdin_path is not None:
        yield "stdin: give either stdin or stdin_path"


def _size_faults(spec: JobSpec) -> Iterator[str]:
    entries = [f"{name}={value}" for name, value in spec.environment.items()]
    sizes = [
        len(text.encode(errors="replace")) for text in (spec.executable, *spec.arguments, *entries)
    ]
    if max(sizes) > STRING_LIMIT:
        yield f"an argument or environment entry has over {STRING_LIMIT} bytes: use stdin or a file"
    if sum(sizes) > TOTAL_LIMIT:
        yield f"arguments and environment have over {TOTAL_LIMIT} bytes: use stdin or a file"


def _resource_faults(resources: JobResources, *, is_local: bool) -> Iterator[str]:
    for field in attrs.fields(JobResources):
        value = getattr(resources, field.name)
        least = 0 if field.name in ("gpu_cores_per_process", "gpus_per_node") else 1
        if type(value) is int and not least <= value <= COUNT_LIMIT and field.name != "memory":
            yield f"resources.{field.name}: must be {least} to {COUNT_LIMIT}, not {value}"
    if resources.memory is not None and resources.memory < 1:
        yield f"resources.memory: must be at least 1 byte, not {resources.memory}"
    yield from _product_faults(resources)
    if is_local and _processes(resources) > LOCAL_PROCESS_LIMIT:
        yield f"resources: a local job has at most {LOCAL_PROCESS_LIMIT} processes"


def _product_faults(resources: JobResources) -> Iterator[str]:
    """Check what PSI/J demands: process_count is node_count times processes_per_node."""
    count, nodes, per_node = (
        resources.process_count, resources.node_count, resources.processes_per_node,
    )  # fmt: skip
    factor = (nodes or 1) * (per_node or 1)
    is_exact = nodes is not None and per_node is not None
    if count is None or factor < 1:
        return
    if count % factor or (is_exact and count != factor):
        yield "resources: process_count must be node_count times processes_per_node"


def _processes(resources: JobResources) -> int:
    return resources.process_count or (resources.node_count or 1) * (
        resources.processes_per_node or 1
    )


def _local_faults(spec: JobSpec) -> Iterator[str]:
    for name in ("count", "after_ok", "after_any"):
        if getattr(spec, name):
            yield f"job_spec.{name}: needs the executor of a scheduler, not local"


def _batch_faults(spec: JobSpec, dialect: Dialect) -> Iterator[str]:
    yield from (f"job_spec.{fault}" for fault in dialect.unsupported(spec))
    if spec.count is not None and not 1 <= spec.count <= ARRAY_LIMIT:
        yield f"job_spec.count: must be 1 to {ARRAY_LIMIT}, not {spec.count}"
    if spec.count is not None and (spec.launcher or spec.pre_launch or spec.post_launch):
        yield "job_spec.count: a job array cannot have a launcher, pre_launch or post_launch"
    for name in spec.custom_attributes:
        head, dot, bare = name.partition(".")
        if not dot:
            example = f"{dialect.prefix}.{name}"
            yield f"job_spec.custom_attributes: {name!r} names no scheduler, as {example}"
        elif head.lower() == dialect.prefix and (fault := dialect.faults(bare)):
            yield f"job_spec.custom_attributes: {name!r} {fault}"


def _duration_faults(attributes: JobAttributes) -> Iterator[str]:
    duration = attributes.duration
    if duration is not None and not 1 <= duration <= COUNT_LIMIT:
        yield f"attributes.duration: must be 1 to {COUNT_LIMIT} seconds, not {duration}"
