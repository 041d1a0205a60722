"""Read and check what a client asks of ``submit_tunneled``."""

from typing import Any

import attrs

from orbit_core.errors import BadRequest, InvalidBody, Unprocessable
from orbit_core.models import RESERVED_NAMES, check_name
from orbit_core.ways.models import TUNNELS, Tunnel
from orbit_psij.models import Submission
from orbit_psij.offer import Offer
from orbit_psij.specs import read_submission

from .models import ChildSubmission

OURS = "orbit-serve"
"""What runs as a child unless the job names another executable."""

_SET_HERE = frozenset({
    "--role", "--url", "-u", "--cert", "-c", "--token", "-t", "--token-file", "--tunnel",
    "--tunnel-via", "--tunnel-dir", "--state-dir",
})  # fmt: skip


def read_child(body: dict[str, Any], offer: Offer, parent: str) -> ChildSubmission:
    """Return what a body asks for; the child is called ``PARENT.NAME``.

    Raises BadRequest for a tunnel that there is not, Unprocessable where the arguments name no
    endpoint, InvalidBody, InvalidName.
    """
    tunnel = read_tunnel(body.get("tunnel", "none"))
    spec = body.get("job_spec")
    if isinstance(spec, dict) and spec.get("executable") is None:
        spec = {**spec, "executable": OURS}
    submission = read_submission({**body, "job_spec": spec}, offer)
    name, arguments = _without_name(submission.job_spec.arguments)
    _check(submission, arguments)
    check_name(name, "endpoint name")
    full = name if name.startswith(f"{parent}.") else f"{parent}.{name}"
    check_name(full, "endpoint name", reserved=RESERVED_NAMES)
    job_spec = attrs.evolve(submission.job_spec, arguments=arguments)
    return ChildSubmission(attrs.evolve(submission, job_spec=job_spec), full, tunnel)


def read_tunnel(value: object) -> Tunnel:
    """Return a tunnel mode. Raises BadRequest for anything else, such as true or false."""
    for tunnel in TUNNELS:
        if type(value) is str and value == tunnel:
            return tunnel
    raise BadRequest(f"tunnel must be one of {', '.join(TUNNELS)}, not {value!r}")


def _without_name(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the name that ``-n`` or ``--name`` gives, and the other arguments."""
    rest, name = [], None
    waiting = iter(arguments)
    for argument in waiting:
        if argument in ("-n", "--name"):
            name = next(waiting, "")
        elif argument.startswith("--name="):
            name = argument.removeprefix("--name=")
        else:
            rest.append(argument)
    if not name:
        raise Unprocessable(
            "job_spec.arguments names no endpoint: add '-n', '<name>' (or --name) for the child"
        )
    return name, rest


def _check(submission: Submission, arguments: list[str]) -> None:
    """Refuse what would not make one endpoint, and options that are not the caller's to give."""
    spec = submission.job_spec
    faults = [
        f"arguments: {argument.partition('=')[0]} is set by the parent endpoint itself"
        for argument in arguments
        if argument.partition("=")[0] in _SET_HERE
    ]
    if spec.count is not None:
        faults.append("count: a child endpoint is one job, not an array")
    if spec.launcher not in (None, "single"):
        faults.append("launcher: a child endpoint is one process, which starts tasks itself")
    if faults:
        raise InvalidBody("body: " + "; ".join(f"job_spec.{fault}" for fault in faults))
