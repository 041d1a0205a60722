"""Offer ``orbit xgfabric run|status|stop|runs|report``: workflows from a shell."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from orbit_core.command import show, table

from .which_endpoint import at_endpoint, open_workflows

WIDTH = 24
"""Characters of the bar that shows how far a run is."""

_RUNS = ["run_id", "config_name", "status", "start_time", "end_time", "error"]
_PHASES = ["phase", "site", "seconds", "tasks", "task_seconds"]


@click.command()
@at_endpoint
@click.argument("workflow", default="default")
@click.option("--resource", default="default", show_default=True, help="Where it runs.")
@click.option("--replay", metavar="FILE", help="Wind data to use: CSV, at the endpoint.")
@click.option("--detach", is_flag=True, help="Return at once instead of following it.")
def run(
    context: click.Context,
    /,
    endpoint: str | None,
    sid: str | None,
    workflow: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Run WORKFLOW and follow it: orbit xgfabric run test. An interrupt leaves it running."""
    with open_workflows(context, endpoint, sid) as client:
        wanted: Any = workflow
        if options["replay"] is not None:
            wanted = {**client.load_config(workflow), "replay": options["replay"]}
        started = client.start_workflow(wanted, options["resource"])
        if options["detach"]:
            show(started, as_json, lambda found: str(found["run_id"]))
            return
        with Progress(silent=as_json) as progress:
            state = client.wait_workflow(on_change=progress)
        report = client.get_report()
    show({"state": state, "report": report}, as_json, lambda found: _report_text(found["report"]))
    if state["status"] == "failed":
        raise click.ClickException(f"the run {state['message']}: {state['error']}")


@click.command()
@at_endpoint
def status(context: click.Context, endpoint: str | None, sid: str | None, as_json: bool) -> None:
    """Tell how your workflow is."""
    with open_workflows(context, endpoint, sid) as client:
        show(client.get_status(), as_json, _state_text)


@click.command()
@at_endpoint
def stop(context: click.Context, endpoint: str | None, sid: str | None, as_json: bool) -> None:
    """Stop your workflow, and return when it has stopped."""
    with open_workflows(context, endpoint, sid) as client:
        show(client.stop_workflow(), as_json, lambda found: str(found["status"]))


@click.command()
@at_endpoint
def runs(context: click.Context, endpoint: str | None, sid: str | None, as_json: bool) -> None:
    """List your runs, oldest first."""
    with open_workflows(context, endpoint, sid) as client:
        show(client.list_runs(), as_json, lambda found: table(found, _RUNS))


@click.command()
@at_endpoint
@click.argument("run_id", required=False)
@click.option("--csv", "form", flag_value="csv", help="Print every span of time as CSV.")
@click.option("--svg", "form", flag_value="svg", help="Draw a Gantt picture.")
@click.option("--output", type=click.Path(path_type=Path), help="Write there, not to the screen.")
def report(
    context: click.Context,
    /,
    endpoint: str | None,
    sid: str | None,
    run_id: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Report where the time of the run RUN_ID went, of the last one without."""
    with open_workflows(context, endpoint, sid) as client:
        if options["form"] is not None:
            text = client.get_report_text(options["form"], run_id)
        else:
            found = client.get_report(run_id)
            text = json.dumps(found, indent=2) if as_json else _report_text(found)
    if options["output"] is None:
        click.echo(text.rstrip("\n"))
    else:
        options["output"].write_text(text)


class Progress:
    """Show how a run goes on standard error: one line that changes, or one for each change."""

    def __init__(self, *, silent: bool) -> None:
        """Show nothing if ``silent``."""
        self._is_silent = silent
        self._is_live = sys.stderr.isatty()
        self._shown = ""

    def __enter__(self) -> "Progress":
        """Begin with nothing shown."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the line that changes."""
        if self._is_live and self._shown:
            click.echo(err=True)

    def __call__(self, state: dict[str, Any]) -> None:
        """Show a state, if it looks different."""
        line = f"{bar(state)}  {state.get('phase', '')}: {state.get('message', '')}"
        if self._is_silent or line == self._shown:
            return
        if self._is_live:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\x1b[K{line[: width - 1]}", nl=False, err=True)
        else:
            click.echo(line, err=True)
        self._shown = line


def bar(state: dict[str, Any]) -> str:
    """Return how far a run is, drawn, in per cent, and in simulations."""
    share = min(100.0, max(0.0, float(state.get("progress", 0.0))))
    full = round(WIDTH * share / 100.0)
    counts = f"{state.get('completed_simulations', 0)}/{state.get('total_simulations', 0)}"
    return f"[{'#' * full}{'.' * (WIDTH - full)}] {share:3.0f} % {counts:>7}"


def _state_text(state: dict[str, Any]) -> str:
    rows = [
        f"{key}: {state[key]}"
        for key in ("status", "phase", "message", "error", "run_id", "config_name")
        if state[key] is not None
    ]
    lines = [f"{one['time']} {one['level']}: {one['message']}" for one in reversed(state["log"])]
    return "\n".join([bar(state), *rows, *lines])


def _report_text(report: dict[str, Any]) -> str:
    phases = [
        {**phase, **{key: f"{phase[key]:.1f}" for key in ("seconds", "task_seconds")}}
        for phase in report["phases"]
    ]
    queued = "".join(
        f"\n{queue['seconds']:.1f} s in the queue of {queue['site']}" for queue in report["queues"]
    )
    skipped = "".join(
        f"\ncluster {name} was skipped, since it {reason}"
        for name, reason in report["skipped"].items()
    )
    whole = f"{report['run_id']} {report['status']}: {report['end_to_end_seconds']:.1f} s in all"
    return f"{table(phases, _PHASES)}{queued}{skipped}\n{whole}"


COMMANDS = (run, status, stop, runs, report)
