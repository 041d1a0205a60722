"""Offer ``orbit rhapsody``, ``orbit run`` and ``orbit map``: tasks from a shell."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import click

from orbit_core.command import json_option, open_plugin, show, table

from .packing import new_uid
from .values import Pickled

_COLUMNS = ["uid", "state"]

STEP = 200
"""Tasks of ``orbit map`` that are waited for, and printed, at a time."""

_session = click.option(
    "--session", "sid", metavar="SID", help="Work in this session instead of your own."
)

_PROGRAM = (
    click.argument("endpoint"),
    click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED),
    click.option("--dir", "directory", metavar="PATH", help="Where to run it."),
    click.option("--env", metavar="KEY=VALUE", multiple=True, help="A variable; repeatable."),
    click.option("--timeout", type=float, metavar="SECONDS", help="How long it may run."),
    _session,
    json_option,
    click.pass_context,
)


def _runs_a_program(function: Callable[..., None]) -> Callable[..., None]:
    """Have a command take ENDPOINT, COMMAND and how to run it."""
    return reduce(lambda made, decorate: decorate(made), reversed(_PROGRAM), function)


@click.group(name="rhapsody")
def commands() -> None:
    """Run, watch and cancel tasks on an endpoint."""


@commands.command(context_settings={"ignore_unknown_options": True})
@_runs_a_program
def submit(context: click.Context, /, endpoint: str, as_json: bool, **options: Any) -> None:
    """Start COMMAND on ENDPOINT, and print the task's uid."""
    with open_plugin(context, endpoint, "rhapsody", sid=options["sid"]) as client:
        (found,) = client.submit_tasks([_task_of(options)])
    show(found, as_json, lambda value: str(value["uid"]))


def _task_of(options: dict[str, Any]) -> dict[str, Any]:
    specific = {
        "cwd": options["directory"],
        "env": dict(_variable(entry) for entry in options["env"]),
        "timeout": options["timeout"],
    }
    return {
        "executable": options["command"][0],
        "arguments": list(options["command"][1:]),
        "task_backend_specific_kwargs": {key: value for key, value in specific.items() if value},
    }


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise click.BadParameter(f"{entry!r} is not KEY=VALUE", param_hint="--env")
    return name, value


@commands.command()
@click.argument("endpoint")
@click.argument("uid")
@_session
@json_option
@click.pass_context
def status(context: click.Context, endpoint: str, uid: str, sid: str | None, as_json: bool) -> None:
    """Show how the task UID on ENDPOINT is, with its result if it is over."""
    with open_plugin(context, endpoint, "rhapsody", sid=sid) as client:
        show(_shown(client.get_task(uid)), as_json, _text_of)


@commands.command(name="list")
@click.argument("endpoint")
@_session
@json_option
@click.pass_context
def list_tasks(context: click.Context, endpoint: str, sid: str | None, as_json: bool) -> None:
    """List your tasks on ENDPOINT, oldest first."""
    with open_plugin(context, endpoint, "rhapsody", sid=sid) as client:
        show(client.list_tasks(), as_json, lambda tasks: table(tasks, _COLUMNS))


@commands.command()
@click.argument("endpoint")
@click.argument("uid")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long at most.")
@_session
@json_option
@click.pass_context
def wait(context: click.Context, /, endpoint: str, uid: str, as_json: bool, **options: Any) -> None:
    """Wait for the end of the task UID on ENDPOINT; exit with 1 unless it is done."""
    with open_plugin(context, endpoint, "rhapsody", sid=options["sid"]) as client:
        (found,) = client.wait_tasks([uid], options["timeout"])
    show(_shown(found), as_json, _text_of)
    if found["state"] != "DONE":
        context.exit(1)


@commands.command()
@click.argument("endpoint")
@click.argument("uids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Cancel all that are not over.")
@_session
@json_option
@click.pass_context
def cancel(
    context: click.Context, /, endpoint: str, uids: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Cancel the tasks UIDS on ENDPOINT, or all of them."""
    if bool(uids) == options["everything"]:
        raise click.UsageError("name the tasks, or say --all")
    with open_plugin(context, endpoint, "rhapsody", sid=options["sid"]) as client:
        count = client.cancel_all_tasks(uids or None)
    show({"canceled": count}, as_json, lambda value: f"{value['canceled']} cancelled")


@commands.command()
@click.argument("endpoint")
@_session
@json_option
@click.pass_context
def statistics(context: click.Context, endpoint: str, sid: str | None, as_json: bool) -> None:
    """Count your tasks on ENDPOINT by state and backend."""
    with open_plugin(context, endpoint, "rhapsody", sid=sid) as client:
        show(client.statistics(), as_json, lambda found: json.dumps(found, indent=2))


@click.command(context_settings={"ignore_unknown_options": True})
@_runs_a_program
def run(context: click.Context, /, endpoint: str, as_json: bool, **options: Any) -> None:
    """Run COMMAND on ENDPOINT, print what it printed, and exit as it did.

    An interrupt cancels it.
    """
    with open_plugin(context, endpoint, "rhapsody", sid=options["sid"]) as client:
        task = {**_task_of(options), "uid": new_uid()}
        with _cancelled_at_interrupt(client, [task]):
            (found,) = client.wait_tasks(client.submit_tasks([task]))
    if as_json:
        show(_shown(found), as_json, _text_of)
    else:
        click.echo(found.get("stdout", ""), nl=False)
        click.echo(found.get("stderr", ""), nl=False, err=True)
        if "error" in found:
            click.echo(f"orbit: {found['error']}", err=True)
    code = found.get("exit_code")
    if found["state"] != "DONE":
        code = code or 1
    context.exit(128 - code if code < 0 else code)


@click.command(name="map")
@click.argument("endpoint")
@click.argument("function")
@click.option("--json-lines", is_flag=True, help="Each line is JSON: a list holds the arguments.")
@_session
@json_option
@click.pass_context
def map_lines(
    context: click.Context, /, endpoint: str, function: str, as_json: bool, **options: Any
) -> None:
    """Call FUNCTION (module:name) on ENDPOINT for each line of standard input.

    What it returns is printed in the order of the lines, one line each, with --json as JSON. An
    interrupt cancels the calls that are not over.
    """
    calls = [_arguments(line, as_data=options["json_lines"]) for line in sys.stdin]
    failed = 0
    with open_plugin(context, endpoint, "rhapsody", sid=options["sid"]) as client:
        tasks = [{"function": function, "args": args, "uid": new_uid()} for args in calls]
        with (
            _cancelled_at_interrupt(client, tasks),
            click.progressbar(length=len(tasks), file=sys.stderr) as bar,
        ):
            for found in _in_steps(client, client.submit_tasks(tasks)):
                failed += found["state"] != "DONE"
                show(_shown(found), as_json, _line_of, indent=None)
                bar.update(1)
    if failed:
        raise click.ClickException(f"{failed} of {len(tasks)} calls failed")


@contextmanager
def _cancelled_at_interrupt(client: Any, tasks: list[dict[str, Any]]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        client.cancel_all_tasks([task["uid"] for task in tasks])
        raise


def _arguments(line: str, *, as_data: bool) -> list[Any]:
    text = line.rstrip("\n")
    if not as_data:
        return [text]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"not JSON: {text[:80]!r}: {error}") from None
    return found if isinstance(found, list) else [found]


def _in_steps(client: Any, tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(tasks), STEP):
        yield from client.wait_tasks(tasks[start : start + STEP])


def _shown(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task as JSON data: what JSON lacks is shown by its beginning."""
    value = task.get("return_value")
    if isinstance(value, Pickled | bytes):
        return {**task, "return_value": repr(value)}
    return task


def _line_of(task: dict[str, Any]) -> str:
    if task["state"] != "DONE":
        return f"{task['state']}: {task.get('error') or task.get('exception')}"
    return json.dumps(task.get("return_value"))


def _text_of(task: dict[str, Any]) -> str:
    lines = [f"{task['uid']} {task['state']}"]
    lines += [str(task[key]) for key in ("error", "exception") if task.get(key)]
    if "return_value" in task:
        lines.append(json.dumps(task["return_value"]))
    lines += [task[key].rstrip("\n") for key in ("stdout", "stderr") if task.get(key)]
    return "\n".join(lines)
