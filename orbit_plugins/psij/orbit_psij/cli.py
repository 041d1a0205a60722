"""Offer ``orbit psij``: submit, watch and cancel jobs from a shell."""

from typing import Any

import click

from orbit_core.command import on_endpoint, open_plugin, show, table

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
@click.option("--duration", type=click.IntRange(min=1), metavar="SECONDS", help="Its walltime.")
@click.option("--queue", help="The queue or partition.")
@click.option("--account", help="Who pays.")
@click.option("--nodes", type=click.IntRange(min=1), help="How many nodes it gets.")
@click.option("--executor", default="local", show_default=True, help="What runs it.")
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
        found = client.submit_job(spec, options["executor"])
    show(found, as_json, lambda value: str(value["job_id"]))


def _spec_of(command: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "executable": command[0],
        "arguments": list(command[1:]),
        "name": options["name"],
        "directory": options["directory"],
        "environment": dict(_variable(entry) for entry in options["env"]),
        "attributes": {
            "duration": options["duration"],
            "queue_name": options["queue"],
            "account": options["account"],
        },
        "resources": {"node_count": options["nodes"]},
    }


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise click.BadParameter(f"{entry!r} is not KEY=VALUE", param_hint="--env")
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
def output(
    context: click.Context, /, endpoint: str, job: str, as_json: bool, **options: Any
) -> None:
    """Print what JOB on ENDPOINT has written, byte for byte."""
    with open_plugin(context, endpoint, "psij", sid=options["sid"]) as client:
        parts = client.follow_output(job, options["stream"], follow=options["follow"])
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
            found = client.wait_job(job, options["timeout"])
        except TimeoutError:
            raise click.ClickException(f"job {job} is not over yet") from None
    show(found, as_json, _status_text)
    if found["state"] != "COMPLETED":
        context.exit(1)


def _status_text(status: dict[str, Any]) -> str:
    lines = [f"{status['job_id']} {status['state']}"]
    if status["message"]:
        lines.append(status["message"])
    elif status["exit_code"] is not None:
        lines.append(f"exit code {status['exit_code']}")
    lines += [status[name].rstrip("\n") for name in ("stdout", "stderr") if status[name]]
    return "\n".join(lines)
