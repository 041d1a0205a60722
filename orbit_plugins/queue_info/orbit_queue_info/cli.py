"""Add ``orbit queue_info``, and ``orbit queues`` and ``orbit jobs`` as short forms."""

from collections.abc import Callable
from typing import Any

import click

from orbit_core.command import json_option, open_plugin, show, table

_QUEUE = ["name", "state", "time_limit", "nodes_total", "nodes_available", "nodes_idle",
          "cpus_per_node", "gpus_per_node"]  # fmt: skip
_JOB = ["job_id", "job_name", "user", "partition", "state", "nodes", "time_used", "time_limit",
        "reason"]  # fmt: skip
_ALLOCATION = ["account", "user", "qos", "max_jobs", "max_submit", "max_wall",
               "remaining_node_hours"]  # fmt: skip


def _listing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ENDPOINT, ``--user``, ``--force``, ``--json`` and its context."""
    force = click.option("--force", is_flag=True, help="At most 10 s old, whatever the cache says.")
    user = click.option("--user", help="Whose; the endpoint's own user without, '*' is everybody.")
    return click.argument("endpoint")(user(force(json_option(click.pass_context(command)))))


@click.group("queue_info")
def commands() -> None:
    """Ask an endpoint's batch system for queues, jobs and allocations."""


@commands.command()
@_listing
def queues(
    context: click.Context, endpoint: str, user: str | None, force: bool, as_json: bool
) -> None:
    """List the queues at ENDPOINT; times are h:mm:ss."""
    with open_plugin(context, endpoint, "queue_info") as plugin:
        show(plugin.get_info(user, force), as_json, _queues_text)


@commands.command()
@click.option("--queue", help="Only in this queue.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--after", metavar="JOB", help="Only those that follow this one.")
@_listing
def jobs(context: click.Context, /, endpoint: str, as_json: bool, **options: Any) -> None:
    """List the jobs at ENDPOINT, by id; times are h:mm:ss."""
    page = {key: options[key] for key in ("user", "force", "limit", "after")}
    with open_plugin(context, endpoint, "queue_info") as plugin:
        queue = options["queue"]
        found = plugin.list_jobs(queue, **page) if queue else plugin.list_all_jobs(**page)
    show(found, as_json, _jobs_text)


@commands.command()
@_listing
def allocations(
    context: click.Context, endpoint: str, user: str | None, force: bool, as_json: bool
) -> None:
    """List the accounts that may be used at ENDPOINT."""
    with open_plugin(context, endpoint, "queue_info") as plugin:
        found = plugin.list_allocations(user, force)
    show(found, as_json, lambda answer: _text(answer["allocations"], _ALLOCATION, answer))


@commands.command()
@click.argument("endpoint")
@click.argument("job")
@json_option
@click.pass_context
def job(context: click.Context, endpoint: str, job: str, as_json: bool) -> None:
    """Tell how JOB at ENDPOINT is, also when it is over, and why it failed."""
    with open_plugin(context, endpoint, "queue_info") as plugin:
        show(plugin.job(job), as_json, _job_text)


def _job_text(found: dict[str, Any]) -> str:
    lines = [f"{found['job_id']} {found['state']} ({found['native_state']})"]
    lines += [found["why"]] if found["why"] else []
    return "\n".join(lines + ([f"nodes: {found['nodes']}"] if found["nodes"] else []))


@commands.command()
@click.argument("endpoint")
@click.argument("job")
@json_option
@click.pass_context
def cancel(context: click.Context, endpoint: str, job: str, as_json: bool) -> None:
    """Cancel JOB at ENDPOINT."""
    with open_plugin(context, endpoint, "queue_info") as plugin:
        show(plugin.cancel_job(job), as_json, lambda found: f"{job} {found['status']}")


@commands.command()
@click.argument("endpoint")
@json_option
@click.pass_context
def allocation(context: click.Context, endpoint: str, as_json: bool) -> None:
    """Describe the batch job that ENDPOINT runs in."""
    with open_plugin(context, endpoint, "queue_info") as plugin:
        found = {"allocation": plugin.job_allocation(), "nodelist": plugin.nodelist()}
    show(found, as_json, _allocation_text)


def _allocation_text(found: dict[str, Any]) -> str:
    if found["allocation"] is None:
        return "the endpoint runs in no batch job"
    lines = [f"{key}: {value}" for key, value in found["allocation"].items() if value is not None]
    return "\n".join([*lines, f"hosts: {' '.join(found['nodelist'])}"])


def _queues_text(answer: dict[str, Any]) -> str:
    return _text(list(answer["queues"].values()), _QUEUE, answer)


def _jobs_text(answer: dict[str, Any]) -> str:
    text = _text(answer["jobs"], _JOB, answer)
    return f"{text}\nmore: --after {answer['next']}" if answer["next"] else text


def _text(rows: list[dict[str, Any]], columns: list[str], answer: dict[str, Any]) -> str:
    shown = [row | {key: clock(row.get(key)) for key in _DURATIONS if key in row} for row in rows]
    return f"{table(shown, columns)}\n({answer['age']:.0f} s old)"


_DURATIONS = ("time_limit", "time_used", "max_wall")


def clock(seconds: int | None) -> str:
    """Return seconds as h:mm:ss; None is unlimited."""
    if seconds is None:
        return "unlimited"
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
