"""Read and check what a client asks to run."""

import hashlib
import re
from collections.abc import Collection
from typing import Any

import attrs

from orbit_core.errors import InvalidBody

from .backends import AI_BACKENDS
from .calls import Call
from .errors import PicklesRefused, PythonMismatch
from .task import Work
from .values import Pickled, python_version, unwrap

UID_LIMIT = 200

AI_FIELDS = frozenset({
    "prompt", "model", "inference_endpoint", "system_prompt", "temperature", "max_tokens", "top_p",
    "top_k", "stop_sequences",
})  # fmt: skip
FIELDS = frozenset({
    "uid", "executable", "function", "arguments", "args", "kwargs", "input_files", "output_files",
    "capture_stdio", "backend", "task_backend_specific_kwargs", "_pickled_fields", "calls",
}) | AI_FIELDS  # fmt: skip
"""What a task may have: RHAPSODY's ``ComputeTask`` and ``AITask``; ``calls`` is ours."""

_UID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{UID_LIMIT - 1}}}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PICKLED = ("function", "args", "kwargs", "calls")
_FAULTS_SHOWN = 20


@attrs.frozen
class Policy:
    """Say what a session may ask for.

    ``backends`` are its own, the first of which runs tasks that name none. ``allow_pickles`` says
    whether pickles are opened, ``digests`` which, by their SHA-256 in hex (None: all).
    """

    backends: tuple[str, ...]
    allow_pickles: bool = True
    digests: frozenset[str] | None = None


def expand(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of a body: ``tasks``, or ``template`` with ``uids`` or with ``tasks``.

    Raises InvalidBody.
    """
    template, uids, tasks = (body.get(key) for key in ("template", "uids", "tasks"))
    if uids is not None:
        if tasks is not None or template is None:
            raise InvalidBody("body: uids go with a template, and without tasks")
        if not isinstance(uids, list):
            raise InvalidBody("body: uids must be a list")
        tasks = [{"uid": uid} for uid in uids]
    if not isinstance(tasks, list) or not tasks:
        raise InvalidBody("body: tasks must be a list of at least one task")
    if not isinstance(template, dict | None):
        raise InvalidBody("body: template must be an object")
    if any(not isinstance(task, dict) for task in tasks):
        raise InvalidBody("body: each task must be an object")
    return [{**template, **task} for task in tasks] if template else tasks


def read_tasks(body: dict[str, Any], policy: Policy) -> list[Work]:
    """Return what a body of ``submit`` asks for.

    Raises InvalidBody with all faults, PicklesRefused, PythonMismatch.
    """
    tasks = expand(body)
    if any(task.get("_pickled_fields") for task in tasks):
        _check_pickles(body, policy)
    reader = _Reader(policy)
    works = [reader.work(number, task) for number, task in enumerate(tasks)]
    if reader.faults:
        shown = reader.faults[:_FAULTS_SHOWN]
        more = len(reader.faults) - len(shown)
        raise InvalidBody("; ".join(shown) + (f"; and {more} more" if more else ""))
    return [work for work in works if work is not None]


def _check_pickles(body: dict[str, Any], policy: Policy) -> None:
    if not policy.allow_pickles:
        raise PicklesRefused(
            "this session may not send pickled functions or arguments: name a function by its "
            "import path, and pass plain data"
        )
    python = body.get("python", python_version())
    if python != python_version():
        raise PythonMismatch(mismatch(str(python), python_version()))


def mismatch(client: str, endpoint: str) -> str:
    """Return the sentence that tells of two versions of Python."""
    return (
        f"functions cannot be sent from Python {client[:20]} to an endpoint with Python "
        f"{endpoint}: use the same minor version, or name functions by their import path"
    )


class _Reader:
    """Check tasks one by one, collecting faults."""

    def __init__(self, policy: Policy) -> None:
        self.faults: list[str] = []
        self._policy = policy
        self._uids: set[str] = set()
        self._digested: dict[bytes, bool] = {}

    def work(self, number: int, task: dict[str, Any]) -> Work | None:
        before = len(self.faults)
        where = f"task {number}"
        uid = task.get("uid")
        if not isinstance(uid, str) or not _UID.fullmatch(uid) or ".." in uid:
            self._add(where, f"uid must be 1 to {UID_LIMIT} of A-Z a-z 0-9 . _ : -")
        elif uid in self._uids:
            self._add(where, f"uid {uid} is used twice")
        else:
            self._uids.add(uid)
            where = f"task {uid}"
        unknown = task.keys() - FIELDS
        if unknown:
            self._add(where, f"unknown: {', '.join(sorted(map(str, unknown)))}")
        backend = task.get("backend") or self._policy.backends[0]
        if backend not in self._policy.backends:
            self._add(where, f"backend must be one of {', '.join(self._policy.backends)}")
        made = self._made(where, task, backend)
        if made is None or len(self.faults) > before:
            return None
        made.uid, made.backend = str(uid), backend
        return made

    def _add(self, where: str, fault: str) -> None:
        self.faults.append(f"{where}: {fault}")

    def _made(self, where: str, task: dict[str, Any], backend: str) -> Work | None:
        kinds = [key for key in ("executable", "function", "prompt") if task.get(key) is not None]
        match kinds:
            case ["function"]:
                return self._function(where, task)
            case ["executable"]:
                return self._executable(where, task)
            case ["prompt"]:
                return self._prompt(where, task, backend)
            case _:
                self._add(where, "one of executable, function and prompt is required")
                return None

    def _function(self, where: str, task: dict[str, Any]) -> Work:
        pickled = task.get("_pickled_fields") or ()
        if not isinstance(pickled, list | tuple) or any(key not in _PICKLED for key in pickled):
            self._add(where, f"_pickled_fields may name {', '.join(_PICKLED)}")
            pickled = ()
        found = {key: task.get(key) for key in _PICKLED}
        for key in pickled:
            found[key] = self._pickle(f"{where}.{key}", found[key])
        function, args, kwargs = found["function"], found["args"] or (), found["kwargs"] or {}
        if isinstance(function, Pickled):
            function = function.data
        elif not isinstance(function, str):
            self._add(where, "function must be package.module:name, or a pickle that is named so")
        if not isinstance(args, Pickled | list | tuple):
            self._add(where, "args must be a list")
        if not isinstance(kwargs, Pickled | dict):
            self._add(where, "kwargs must be an object")
        calls = found["calls"]
        if not isinstance(calls, Pickled | list | None):
            self._add(where, "calls must be a list of lists of arguments")
        call = Call(str(function) if function is None else function, args, kwargs, calls)
        return Work("", "", "function", call=call, timeout=self._timeout(where, task))

    def _pickle(self, where: str, value: object) -> Pickled:
        try:
            data = unwrap(value)
        except ValueError as error:
            self._add(where, str(error))
            return Pickled(b"")
        if self._policy.digests is not None:
            if data not in self._digested:
                digest = hashlib.sha256(data).hexdigest()
                self._digested[data] = digest in self._policy.digests
            if not self._digested[data]:
                raise PicklesRefused(
                    f"{where}: this endpoint opens listed pickles only, and this one is not among "
                    "them: have its SHA-256 listed, and pass plain arguments"
                )
        return Pickled(data)

    def _executable(self, where: str, task: dict[str, Any]) -> Work:
        executable, arguments = task["executable"], task.get("arguments") or []
        if not _is_text(executable) or not executable:
            self._add(where, "executable must be text")
        if not isinstance(arguments, list) or not all(map(_is_text, arguments)):
            self._add(where, "arguments must be a list of texts, without NUL")
        timeout = self._timeout(where, task)
        options = dict(self._options(where, task))
        options.pop("timeout", None)
        environment = options.pop("env", None) or {}
        if not isinstance(environment, dict) or not all(
            isinstance(key, str) and _VARIABLE.fullmatch(key) and _is_text(value)
            for key, value in environment.items()
        ):
            self._add(where, "env must map names of variables to texts")
        if not _is_text(options.get("cwd") or ""):
            self._add(where, "cwd must be text")
        fields = {
            "executable": executable,
            "arguments": arguments,
            "task_backend_specific_kwargs": options,
        }
        for key in ("input_files", "output_files"):
            if task.get(key) is not None:
                fields[key] = task[key]
        return Work("", "", "executable", fields=fields, environment=environment, timeout=timeout)

    def _prompt(self, where: str, task: dict[str, Any], backend: str) -> Work:
        if backend not in AI_BACKENDS:
            self._add(where, f"backend {backend} runs no AI tasks")
        fields = {key: task[key] for key in AI_FIELDS if task.get(key) is not None}
        return Work("", "", "ai", fields=fields, timeout=self._timeout(where, task))

    def _options(self, where: str, task: dict[str, Any]) -> dict[str, Any]:
        options = task.get("task_backend_specific_kwargs") or {}
        if not isinstance(options, dict):
            self._add(where, "task_backend_specific_kwargs must be an object")
            return {}
        return options

    def _timeout(self, where: str, task: dict[str, Any]) -> float | None:
        timeout = self._options(where, task).get("timeout")
        if timeout is None:
            return None
        if type(timeout) not in (int, float) or not 0 < timeout < float("inf"):
            self._add(where, "timeout must be a positive number of seconds")
            return None
        return float(timeout)


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.isprintable() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def digest_of(key: str, body: bytes) -> bytes:
    """Return what tells a request that is repeated from another one."""
    return hashlib.blake2b(key.encode() + b"\n" + body, digest_size=16).digest()


def named(backends: object, offered: Collection[str], default: str) -> tuple[str, ...]:
    """Return the backends that a session asks for; ``dragon`` is ``dragon_v3``.

    Raises InvalidBody.
    """
    if backends is None:
        return (default,)
    if (
        not isinstance(backends, list)
        or not backends
        or not all(isinstance(name, str) for name in backends)
    ):
        raise InvalidBody("backends must be a list of names, or left out")
    found = tuple(dict.fromkeys("dragon_v3" if name == "dragon" else name for name in backends))
    unknown = [name for name in found if name not in offered]
    if unknown:
        raise InvalidBody(
            f"unknown backends: {', '.join(unknown)[:200]}; there are {', '.join(offered)}"
        )
    return found
