"""Offer ``orbit psij``: submit, watch and cancel jobs from a shell."""

from typing import Any

import click

from orbit_core.command import on_endpoint, open_plugin, show, table

from .allocation import allocation, allocation_options
from .models import LAUNCHERS, JobState

_COLUMNS = ["job_id", "state", "exit_code", "executor", "name", "executable"]


@click.group(name="psij")
def commands() -> None:
    """Submit, watch and cancel jobs on an endpoint."""


@commands.command(context_settings={"ignore_unknown_options": True})
@on_endpoint
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--name", help="What to call the job.")
@click.option("--dir", "directory", metavar="PATH", help="Where to run it.")
@click.option("--env", metavar="KEY=VALUE", multiple=True, help="A variable for it; repeatable.")
@allocation_options
@click.option("--processes-per-node", type=click.IntRange(min=1), help="Processes on each node.")
@click.option("--launcher", type=click.Choice(LAUNCHERS), help="What starts its processes.")
@click.option("--count", type=click.IntRange(min=1), help="Make it an array of so many.")
@click.option("--after-ok", metavar="JOB", multiple=True, help="Wait until it has completed.")
@click.option("--after-any", metavar="JOB", multiple=True, help="Wait until it is over.")
@click.option(
    "--set",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option for the scheduler, as slurm.qos=high; repeatable.",
)
@click.option(
    "--executor",
    help="What runs it: the scheduler, if you ask for anything of it, else the host itself.",
)
def submit(
    context: click.Context,
    /,
    endpoint: str,
    command: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Start COMMAND on ENDPOINT, and print the job's id: orbit psij submit node7 -- date -u."""
    spec = _spec_of(command, options)
    with open_plugin(context, endpoint, "psij", sid=options["sid"]) as client:
        found = client.submit_job(spec, options["executor"] or _executor_for(client, options))
    show(found, as_json, lambda value: str(value["job_id"]))


def _spec_of(command: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    asked = allocation(options)
    return {
        "executable": command[0],
        "arguments": list(command[1:]),
        "name": options["name"],
        "directory": options["directory"],
        "environment": dict(_pair(entry, "--env") for entry in options["env"]),
        "launcher": options["launcher"],
        "attributes": asked["attributes"],
        "resources": {
            **asked["resources"],
            "processes_per_node": options["processes_per_node"],
        },
        "custom_attributes": dict(_pair(entry, "--set") for entry in options["set"]),
        "count": options["count"],
        "after_ok": list(options["after_ok"]),
        "after_any": list(options["after_any"]),
    }


_FOR_A_SCHEDULER = (
    "queue", "account", "reservation", "nodes", "gpus_per_node", "count", "after_ok", "after_any",
    "set",
)  # fmt: skip


def _executor_for(client: Any, options: dict[str, Any]) -> str:
    """Return the scheduler's executor for a job that asks for anything that only that can give.

    Raises ClickException if there is no scheduler: the job would run on the login host instead.
    """
    asked = [name.replace("_", "-") for name in _FOR_A_SCHEDULER if options[name]]
    if not asked:
        return "local"
    executor = str(client.executors()[-1])
    if executor == "local":
        raise click.ClickException(
            f"no scheduler answered when this endpoint started, and --{asked[0]} needs one: "
            "leave it out, or say --executor local to run the job on the endpoint's host"
        )
    return executor


def _pair(entry: str, option: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise click.BadParameter(f"{entry!r} is not KEY=VALUE", param_hint=option)
    return name, value


@commands.command()
@on_endpoint
@click.argument("job")
def status(context: click.Context, endpoint: str, job: str, sid: str | None, as_json: bool) -> None:
    """Show how JOB on ENDPOINT is, and its output so far."""
    with open_plugin(context, endpoint, "psij", sid=sid) as client:
        show(client.get_job_status(job), as_json, _status_text)


@commands.command()
@on_endpoint
@click.argument("job")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), default="stdout")
@click.option("--follow", is_flag=True, help="Stay until the job is over.")
@click.option("--index", type=click.IntRange(min=0), help="Of this element of a job array.")
def output(
    context: click.Context, /, endpoint: str, job: str, as_json: bool, **options: Any
) -> None:
    """Print what JOB on ENDPOINT has written, byte for byte."""
    with open_plugin(context, endpoint, "psij", sid=options["sid"]) as client:
        wanted = {"follow": options["follow"], "index": options["index"]}
        parts = client.follow_output(job, options["stream"], **wanted)
        if as_json:
            text = b"".join(parts).decode("utf-8", "replace")
            show({"job_id": job, options["stream"]: text}, as_json, str)
            return
        for part in parts:
            click.echo(part, nl=False)


@commands.command()
@on_endpoint
@click.argument("job")
def cancel(context: click.Context, endpoint: str, job: str, sid: str | None, as_json: bool) -> None:
    """End JOB on ENDPOINT with all its processes."""
    with open_plugin(context, endpoint, "psij", sid=sid) as client:
        show(client.cancel_job(job), as_json, lambda value: f"{job} {value['status']}")


@commands.command(name="list")
@on_endpoint
def list_jobs(context: click.Context, endpoint: str, sid: str | None, as_json: bool) -> None:
    """List your jobs on ENDPOINT, oldest first."""
    with open_plugin(context, endpoint, "psij", sid=sid) as client:
        show(client.list_jobs(), as_json, lambda jobs: table(jobs, _COLUMNS))


@commands.command()
@on_endpoint
@click.argument("job")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long at most.")
def wait(context: click.Context, /, endpoint: str, job: str, as_json: bool, **options: Any) -> None:
    """Wait for the end of JOB on ENDPOINT; exit with 1 unless it completed."""
    with open_plugin(context, endpoint, "psij", sid=options["sid"]) as client:
        try:
            found = client.wait_job(job, options["timeout"], None if as_json else _show_change)
        except TimeoutError:
            raise click.ClickException(f"job {job} is not over yet") from None
    show(found, as_json, _status_text)
    if found["state"] != "COMPLETED":
        context.exit(1)


def _show_change(status: dict[str, Any]) -> None:
    """Print a line for each state on the way to the last one."""
    if not JobState(status["state"]).is_final:
        native_id = f" as {status['native_id']}" if status["native_id"] else ""
        line = f"{status['job_id']} {status['state']}: {status['executor']}{native_id}"
        click.echo(line, err=True)


def _status_text(status: dict[str, Any]) -> str:
    lines = [f"{status['job_id']} {status['state']}"]
    if status["message"]:
        lines.append(status["message"])
    elif status["exit_code"] is not None:
        lines.append(f"exit code {status['exit_code']}")
    lines += [_element_text(element) for element in status["elements"]]
    lines += [status[name].rstrip("\n") for name in ("stdout", "stderr") if status[name]]
    return "\n".join(lines)


def _element_text(element: dict[str, Any]) -> str:
    message = f": {element['message']}" if element["message"] else ""
    return f"[{element['index']}] {element['state']}{message}"
